"""New images -> predictions -> clean labelmaps, volumes and meshes.

Every case ends in a folder of its own, on the grid of its input. A case counts as
finished when its ``prediction.json`` fits the input, the model and the labels beside
it; such a case is not predicted again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.cleaning import UNCLEANED, CleaningRule
from nnunet_bridge.core.errors import BridgeError, GeometryError, InputError
from nnunet_bridge.core.findings import Finding, Outcome, Refused, worst
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.version import __version__
from nnunet_bridge.formats.files import (
    clear_os_errors,
    process_lives,
    read_json,
    sha256_of,
    write_json,
)
from nnunet_bridge.formats.labels_file import CASE_LABELS, WHOLE_SCAN_LABELS
from nnunet_bridge.formats.manifest import recorded_region, region_record
from nnunet_bridge.formats.nifti import read_labelmap, write_volume
from nnunet_bridge.formats.same import write_if_changed
from nnunet_bridge.formats.tables import write_volumes
from nnunet_bridge.nnunet.commands import (
    Resources,
    shared_among,
)
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.machine import chosen_device, this_machine
from nnunet_bridge.nnunet.names import FILE_ENDING, Workspace
from nnunet_bridge.ops.cleanup import clean_structures
from nnunet_bridge.ops.metrics import structure_volumes
from nnunet_bridge.ops.region import Region
from nnunet_bridge.pipeline.case_outputs import WantedOutputs, write_outputs
from nnunet_bridge.pipeline.inputs import ImageSource, find_images, read_image
from nnunet_bridge.pipeline.models import Model, predicting_model
from nnunet_bridge.pipeline.network_prediction import predict_folder
from nnunet_bridge.pipeline.tune import tuned_rules

TUNED = "tuned"
_PARTS = _READING, _PREDICTING, _FINISHING = 1, 30, 2
"""About how long a case takes to be read, predicted and written, without a GPU."""


@dataclass(frozen=True, slots=True)
class PredictionOptions:
    """How a prediction is finished."""

    clean: str = "none"
    """``none``, ``slice`` (the source report's rule) or ``volume``; ``tuned``: for each
    structure the rule that was chosen for this model."""

    meshes: bool = False
    image_type: str | None = None
    """Which contrast of a mixed DICOM series; None where there is one."""

    force: bool = False
    """Predict again what is already there."""

    def as_json(self) -> JsonObject:
        """Return what decides whether a finished case still holds."""
        return {"clean": self.clean, "meshes": self.meshes}


@dataclass(frozen=True, slots=True)
class PredictedCase:
    """What became of one image."""

    case_id: str
    findings: tuple[Finding, ...]
    volumes_mm3: dict[str, float]
    files: tuple[str, ...]

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
        return "\n".join(lines)


def predict_images(  # noqa: PLR0913 - each is a word of the command
    workspace: Workspace,
    dataset: str,
    inputs: Sequence[Path],
    out: Path,
    *,
    configurations: Sequence[str] = (),
    folds: Sequence[str] = (),
    budget: str | None = None,
    model: str | None = None,
    device: str = "auto",
    options: PredictionOptions | None = None,
    progress: Progress | None = None,
) -> PredictSummary:
    """Predict every image that `inputs` name; several configurations are averaged.

    Raises
    ------
    InputError
        If there is no image, no finished model, or no tuned cleaning where it is
        asked for.
    EnvironmentFault
        If there is no GPU where one is asked for, or the disk refuses.
    SecurityError
        If the model holds what could do harm (FAULTS S01, S02, S07-S10).
    NnUNetError
        If nnU-Net fails.
    """
    wishes = options or PredictionOptions()
    shown = progress or Silent()
    chosen_model = predicting_model(
        workspace, dataset, configurations, folds, budget, kind=model
    )
    description = next(_model_dirs(workspace, chosen_model)) / "dataset.json"
    labels = RawDataset.open(description.parent).labels
    rules = _rules(workspace, chosen_model, labels, wishes.clean)
    machine = this_machine()
    chosen = chosen_device(device, machine)
    sources = find_images(inputs)
    with clear_os_errors(f"write {out}"):
        out.mkdir(parents=True, exist_ok=True)
    shown.stage(f"predict {chosen_model.name}", sum(_PARTS) * len(sources))
    with _work_folder(out) as work:
        story = _Story(workspace, chosen_model, labels, out, work, wishes, rules, shown)
        cases = story.predict(sources, shared_among(1, chosen, machine))
    write_if_changed(out / "dataset.json", description.read_bytes())
    write_volumes(
        out / "volumes.csv",
        [
            volume
            for case in cases
            if case.files
            for volume in structure_volumes(
                read_labelmap(out / case.case_id / CASE_LABELS, labels),
                case_id=case.case_id,
            )
        ],
    )
    return PredictSummary(dataset, chosen_model.reason, cases, out)


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """What is known of an image that waits for its prediction."""

    grid: Grid
    facts: JsonObject
    findings: tuple[Finding, ...]

    region: Region | None
    """What the image was cropped from, if `convert` cropped it."""


@dataclass(slots=True)
class _Story:
    """One call of `predict_images`."""

    workspace: Workspace
    model: Model
    labels: LabelTable
    out: Path
    work: Path
    options: PredictionOptions
    rules: Mapping[str, CleaningRule]
    """How each structure is cleaned."""

    progress: Progress

    def predict(
        self, sources: Sequence[ImageSource], resources: Resources
    ) -> tuple[PredictedCase, ...]:
        """Read all images, predict those that need it, finish them one by one."""
        model_hash = self.model.sha256(self.workspace)
        read: dict[str, _Read] = {}
        cases: dict[str, PredictedCase] = {}
        for number, source in enumerate(sources, start=1):
            try:
                reading = read_image(source.path, image_type=self.options.image_type)
            except BridgeError as error:
                cases[source.case_id] = _refused(source.case_id, error)
            else:
                facts = {
                    "input_sha256": reading.sha256(),
                    "model_sha256": model_hash,
                    "options": self._wishes(),
                }
                region = _region_of(source)
                if region is not None:
                    facts["region"] = region_record(region)
                finished = self._finished(source.case_id, facts, reading.findings)
                if finished:
                    cases[source.case_id] = finished
                else:
                    name = f"{source.case_id}_0000{FILE_ENDING}"
                    write_volume(self.work / "images" / name, reading.volume)
                    grid = reading.volume.grid
                    read[source.case_id] = _Read(grid, facts, reading.findings, region)
            self.progress.advance(_READING * number, source.case_id)
        if read:
            predicted_dir = predict_folder(
                self.workspace,
                self.model,
                self.work,
                resources,
                advanced=lambda share: self.progress.advance(
                    _READING * len(sources) + _PREDICTING * share * len(read)
                ),
            )
            for number, (case_id, known) in enumerate(read.items()):
                cases[case_id] = self._finish(case_id, predicted_dir, known)
                before = (_READING + _PREDICTING) * len(sources)
                self.progress.advance(before + _FINISHING * (number + 1), case_id)
        return tuple(cases[source.case_id] for source in sources)

    def _wishes(self) -> JsonObject:
        """Return what decides whether a finished case still holds."""
        if self.options.clean != TUNED:
            return self.options.as_json()
        return {**self.options.as_json(), "rules": _as_json(self.rules)}

    def _finish(self, case_id: str, predicted_dir: Path, known: _Read) -> PredictedCase:
        """Clean, measure and write one case; its record comes last."""
        file = predicted_dir / f"{case_id}{FILE_ENDING}"
        if not file.exists():
            raise InputError(f"nnU-Net wrote no prediction for {case_id}.")
        predicted = read_labelmap(file, self.labels)
        grid = known.grid
        if not grid.matches(predicted.grid):
            raise GeometryError(
                f"{case_id}: nnU-Net's prediction lies "
                f"{grid.displacement_mm(predicted.grid):.3f} mm from its image."
            )
        on_input_grid = Labelmap(grid, predicted.voxels, self.labels)
        labelmap, account = _cleaned(on_input_grid, self.rules)
        case_dir = self.out / case_id
        record = case_dir / "prediction.json"
        record.unlink(missing_ok=True)
        wanted = WantedOutputs(meshes=self.options.meshes)
        hashes = write_outputs(case_dir, labelmap, known.region, wanted)
        write_json(
            record,
            {
                **known.facts,
                "software": f"nnunet-bridge {__version__}",
                "model": self.model.reason,
                "budget": self.model.budget,
                "cleaning": account,
                "volumes_mm3": labelmap.volumes_mm3(),
                **hashes,
            },
        )
        return self._case(case_id, labelmap.volumes_mm3(), known.findings)

    def _finished(
        self, case_id: str, facts: JsonObject, findings: tuple[Finding, ...]
    ) -> PredictedCase | None:
        """Return a case that needs no prediction, or None (FAULTS N03)."""
        record = self.out / case_id / "prediction.json"
        labels_file = self.out / case_id / CASE_LABELS
        whole_file = self.out / case_id / WHOLE_SCAN_LABELS
        if self.options.force or not (record.exists() and labels_file.exists()):
            return None
        known = read_json(record)
        same = all(known.get(key) == value for key, value in facts.items())
        if not same or known.get("labels_sha256") != sha256_of(labels_file):
            return None
        if "region" in facts and not (
            whole_file.exists()
            and known.get("whole_scan_sha256") == sha256_of(whole_file)
        ):
            return None
        return self._case(case_id, known["volumes_mm3"], findings)

    def _case(
        self,
        case_id: str,
        volumes_mm3: dict[str, float],
        findings: tuple[Finding, ...],
    ) -> PredictedCase:
        files = sorted(
            str(file.relative_to(self.out))
            for file in (self.out / case_id).rglob("*")
            if file.is_file()
        )
        return PredictedCase(case_id, findings, volumes_mm3, tuple(files))


def _region_of(source: ImageSource) -> Region | None:
    """Return what an image of a converted dataset was cropped from."""
    return None if source.path.is_dir() else recorded_region(source.path)


def _rules(
    workspace: Workspace, model: Model, labels: LabelTable, cleaning: str
) -> Mapping[str, CleaningRule]:
    """Return the rule of every structure that a word of the command means."""
    if cleaning == TUNED:
        return tuned_rules(workspace, model)
    return dict.fromkeys(labels.names, CleaningRule(cleaning))


def _cleaned(
    labelmap: Labelmap, rules: Mapping[str, CleaningRule]
) -> tuple[Labelmap, JsonObject]:
    """Return the labelmap after the rules, and the account of what they did."""
    if all(rule == UNCLEANED for rule in rules.values()):
        return labelmap, {"rule": "none", "rules": _as_json(rules)}
    cleaned = clean_structures(labelmap, rules)
    return cleaned.labelmap, {
        "rule": cleaned.rule,
        "rules": _as_json(rules),
        "removed_mm3": dict(cleaned.removed_mm3),
        "filled_mm3": dict(cleaned.filled_mm3),
        "contested_voxels": cleaned.contested_voxels,
    }


def _as_json(rules: Mapping[str, CleaningRule]) -> JsonObject:
    return {name: rule.as_json() for name, rule in rules.items()}


def _refused(case_id: str, error: BridgeError) -> PredictedCase:
    if isinstance(error, Refused):
        return PredictedCase(case_id, error.findings, {}, ())
    finding = Finding(error.code, Outcome.REFUSED, str(error))
    return PredictedCase(case_id, (finding,), {}, ())


def _model_dirs(workspace: Workspace, model: Model) -> Iterator[Path]:
    for states in model.members().values():
        yield workspace.model_dir(states[0].run)


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Give a folder for what nobody keeps; remove it, and those of dead processes."""
    for stale in out.glob(".work-*"):
        owner = stale.name.removeprefix(".work-")
        if not process_lives(owner):
            shutil.rmtree(stale, ignore_errors=True)
    work = out.absolute() / f".work-{os.getpid()}"
    with clear_os_errors(f"write {out}"):
        (work / "images").mkdir(parents=True, exist_ok=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
