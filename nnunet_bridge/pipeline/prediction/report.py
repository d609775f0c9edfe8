"""Report every predicted image, as text and as JSON."""

from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.cases import CaseReport, exit_code_of
from nnunet_bridge.core.quality import Quality, count_levels
from nnunet_bridge.core.scores import StructureVolume
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.pipeline.prediction.quality import QUALITY_PAGE


@dataclass(frozen=True, slots=True)
class PredictedCase(CaseReport):
    """The outcome of one image; a refused one has no volumes and no files."""

    volumes: tuple[StructureVolume, ...] = ()
    files: tuple[str, ...] = ()
    quality: Quality | None = None
    """None if it was refused, or predicted before there were quality ratings."""

    @property
    def volumes_mm3(self) -> dict[str, float]:
        """The volume of every structure."""
        return {volume.structure: volume.volume_mm3 for volume in self.volumes}

    def details(self) -> JsonObject:
        """Return the entries of a predicted case beside the common ones."""
        return {
            "volumes_mm3": self.volumes_mm3,
            "files": list(self.files),
            "quality": self.quality.as_json() if self.quality else None,
        }

    def as_text(self) -> str:
        """Return the volumes, the findings and the concerns about the quality."""
        volumes = ", ".join(
            f"{name} {volume / 1000:.1f}" for name, volume in self.volumes_mm3.items()
        )
        result = f"{volumes} cm3" if volumes else "not predicted"
        concerns = self.quality.concerns if self.quality else ()
        lines = [f"  {self.case_id:16} {self.outcome!s:9} {result}"]
        lines += [f"    {line}" for line in (*self.messages, *map(str, concerns))]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class PredictSummary:
    """The outcome of all images."""

    dataset: str
    model: str  # which model predicted, and why
    cases: tuple[PredictedCase, ...]
    out: Path

    @property
    def exit_code(self) -> int:
        """0; 4 if some cases were refused; 3 if all were."""
        return exit_code_of(self.cases)

    def as_json(self) -> JsonObject:
        """Return the object that ``predict --json`` prints."""
        return json_of(self)

    def as_text(self) -> str:
        """Return the lines of every case, then the quality levels."""
        lines = [f"Predicted with {self.model}; results in {self.out}"]
        lines += [case.as_text() for case in self.cases]
        rated = [case.quality for case in self.cases if case.quality]
        if rated:
            page = self.out / QUALITY_PAGE
            lines.append(f"Quality: {count_levels(rated)}; worst first in {page}")
        return "\n".join(lines)
