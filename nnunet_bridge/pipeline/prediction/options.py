"""What a prediction is asked for, and what became of every image."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nnunet_bridge.core.errors import BridgeError
from nnunet_bridge.core.findings import Finding, Outcome, Refused, worst
from nnunet_bridge.core.quality import Quality, count_levels
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.dicom import SeriesOptions
from nnunet_bridge.ops.region import RegionRequest
from nnunet_bridge.pipeline.prediction.outputs import WantedOutputs
from nnunet_bridge.pipeline.prediction.quality import QUALITY_PAGE


@dataclass(frozen=True, slots=True)
class PredictionOptions:
    """How a prediction is finished."""

    clean: str = "none"
    """``none``, ``slice`` (the source report's rule) or ``volume``; ``tuned``: for each
    structure the rule that was chosen for this model."""

    meshes: bool = False
    scans: SeriesOptions = field(default_factory=SeriesOptions)
    """Which images of a DICOM folder, and what may be done to them."""

    region: RegionRequest = field(default_factory=RegionRequest)
    """Which slices are predicted; all of them unless something is said."""

    force: bool = False
    """Predict again what is already there."""

    seg_nrrd: bool = False
    """Also write 3D Slicer's segmentation."""

    dicom_seg: bool = False
    """Also write DICOM SEG; every image must be a DICOM series."""

    def as_json(self) -> JsonObject:
        """Return what decides whether a finished case still holds."""
        wishes: JsonObject = {
            "clean": self.clean,
            "meshes": self.meshes,
            "seg_nrrd": self.seg_nrrd,
            "dicom_seg": self.dicom_seg,
        }
        if not self.region.is_everything:
            wishes["region"] = self.region.describe()
        return wishes

    def outputs(self) -> WantedOutputs:
        """Return which files a case gets."""
        return WantedOutputs(self.meshes, self.seg_nrrd, self.dicom_seg)


@dataclass(frozen=True, slots=True)
class PredictedCase:
    """What became of one image."""

    case_id: str
    findings: tuple[Finding, ...]
    volumes_mm3: dict[str, float]
    files: tuple[str, ...]
    quality: Quality | None = None
    """Its light; None if it was refused, or predicted before there were lights."""

    @property
    def outcome(self) -> Outcome:
        """The gravest finding."""
        return worst(self.findings)

    def as_json(self) -> JsonObject:
        """Return the entry of `cases`."""
        return {
            "case": self.case_id,
            "outcome": str(self.outcome),
            "codes": [finding.code for finding in self.findings],
            "messages": [finding.message for finding in self.findings],
            "volumes_mm3": self.volumes_mm3,
            "files": list(self.files),
            "quality": self.quality.as_json() if self.quality else None,
        }


@dataclass(frozen=True, slots=True)
class PredictSummary:
    """What became of all images."""

    dataset: str
    model: str
    cases: tuple[PredictedCase, ...]
    out: Path

    @property
    def exit_code(self) -> int:
        """0; 4 if some cases were refused; 3 if all were."""
        refused = sum(case.outcome is Outcome.REFUSED for case in self.cases)
        if not refused:
            return 0
        return 3 if refused == len(self.cases) else 4

    def as_json(self) -> JsonObject:
        """Return the object that `predict --json` prints."""
        return {
            "dataset": self.dataset,
            "model": self.model,
            "cases": [case.as_json() for case in self.cases],
            "out": str(self.out),
        }

    def as_text(self) -> str:
        """Return the volumes of every case."""
        lines = [f"Predicted with {self.model}; results in {self.out}"]
        for case in self.cases:
            volumes = ", ".join(
                f"{name} {volume / 1000:.1f}"
                for name, volume in case.volumes_mm3.items()
            )
            said = f"{volumes} cm3" if volumes else "not predicted"
            lines.append(f"  {case.case_id:16} {case.outcome!s:9} {said}")
            lines += [f"    {finding}" for finding in case.findings]
            if case.quality:
                lines += [f"    {reason}" for reason in case.quality.concerns]
        lit = [case.quality for case in self.cases if case.quality]
        if lit:
            lines.append(
                f"Lights: {count_levels(lit)}; the worst first in "
                f"{self.out / QUALITY_PAGE}"
            )
        return "\n".join(lines)


def refused_case(case_id: str, error: BridgeError) -> PredictedCase:
    """Return the entry of an image that could not be read, or not be given out."""
    if isinstance(error, Refused):
        return PredictedCase(case_id, error.findings, {}, ())
    finding = Finding(error.code, Outcome.REFUSED, str(error))
    return PredictedCase(case_id, (finding,), {}, ())
