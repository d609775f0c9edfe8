"""New images -> predictions -> clean labelmaps, volumes and meshes.

Every case ends in a folder of its own, on the grid of its input. A case counts as
finished when its ``prediction.json`` fits the input, the model and the labels beside
it; such a case is not predicted again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from nnunet_bridge.core.cases import findings_record
from nnunet_bridge.core.cleaning import UNCLEANED, CleaningRule
from nnunet_bridge.core.errors import (
    BridgeError,
    EnvironmentFault,
    GeometryError,
    InputError,
    UsageError,
)
from nnunet_bridge.core.findings import Finding, Outcome, Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.quality import Quality, TrainingStructures
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.version import __version__, software_versions
from nnunet_bridge.formats.dicom import SourceSlice
from nnunet_bridge.formats.dicom.segmentation import Algorithm
from nnunet_bridge.formats.files import clear_os_errors, write_if_changed, write_json
from nnunet_bridge.formats.folders import work_folder
from nnunet_bridge.formats.labels_file import CASE_LABELS
from nnunet_bridge.formats.manifest import recorded_region, region_in, region_record
from nnunet_bridge.formats.nifti import read_labelmap, read_volume, write_volume
from nnunet_bridge.formats.tables import write_volumes
from nnunet_bridge.nnunet.commands import (
    Resources,
    shared_among,
)
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.machine import chosen_device, this_machine
from nnunet_bridge.nnunet.names import FILE_ENDING, Workspace
from nnunet_bridge.nnunet.schemas import TrainingRange
from nnunet_bridge.ops.cleanup import clean_structures
from nnunet_bridge.ops.metrics import structure_volumes
from nnunet_bridge.ops.region import Region, cropped_volume
from nnunet_bridge.pipeline.ingest.inputs import (
    ImageReading,
    ImageSource,
    find_images,
    read_image,
)
from nnunet_bridge.pipeline.models.choose import Model, predicting_model
from nnunet_bridge.pipeline.models.training_range import (
    require_one_channel,
    training_range,
    unlike_contrast,
    unlike_place,
)
from nnunet_bridge.pipeline.models.training_structures import known_structures
from nnunet_bridge.pipeline.models.tune import tuned_rules
from nnunet_bridge.pipeline.prediction.finished_case import (
    RECORD,
    WholeLabelmaps,
    finished_record,
)
from nnunet_bridge.pipeline.prediction.first_pass import (
    FirstPass,
    first_pass_model,
)
from nnunet_bridge.pipeline.prediction.network import (
    IMAGES,
    PREDICTED,
    ImagesTooLarge,
    predict_folder,
)
from nnunet_bridge.pipeline.prediction.options import (
    PredictedCase,
    PredictionOptions,
    PredictSummary,
    refused_case,
)
from nnunet_bridge.pipeline.prediction.outputs import (
    PredictedImage,
    refuse_without_slices,
    write_outputs,
)
from nnunet_bridge.pipeline.prediction.quality import (
    case_quality,
    recorded_quality,
    write_quality,
)

T = TypeVar("T")
TUNED = "tuned"
_PARTS = _READING, _PREDICTING, _FINISHING = 1, 30, 2
"""About how long a case takes to be read, predicted and written, without a GPU."""

NOTHING_FOUND = Finding(
    "",
    Outcome.WARNED,
    "The first pass found no structure; the whole image was predicted. Name the "
    "region yourself: --slices or --from-mm.",
)


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
    UsageError
        If a DICOM SEG is asked for of what is no DICOM series.
    InputError
        If there is no image, no finished model, no tuned cleaning where it is asked
        for, or the model reads several channels (N08).
    EnvironmentFault
        If there is no GPU where one is asked for, or the disk refuses.
    SecurityError
        If the model holds what could do harm (FAULTS S01, S02, S07-S10), or a zip of
        images does (S04, S06, S08).
    NnUNetError
        If nnU-Net fails.
    """
    wishes = options or PredictionOptions()
    shown = progress or Silent()
    chosen_model = predicting_model(
        workspace, dataset, configurations, folds, budget, kind=model
    )
    model_dir = next(_model_dirs(workspace, chosen_model))
    description = model_dir / "dataset.json"
    described = RawDataset.open(model_dir)
    labels = described.labels
    require_one_channel(described.channels)
    rules = _rules(workspace, chosen_model, labels, wishes.clean)
    machine = this_machine()
    chosen = chosen_device(device, machine)
    seen = training_range(model_dir, workspace.dataset_dir(dataset))
    structures = known_structures(workspace, dataset, model_dir)
    learnt = _Learnt(labels, described.channels[0], seen, structures)
    with work_folder(out, "work") as work:
        sources = find_images(inputs, unpack_dir=work / "unpacked")
        if wishes.dicom_seg:
            _require_dicom(sources)
        shown.stage(f"predict {chosen_model.name}", sum(_PARTS) * len(sources))
        story = _Story(workspace, chosen_model, learnt, out, work, wishes, rules, shown)
        cases = story.predict(sources, shared_among(1, chosen, machine))
    with clear_os_errors(f"write {out}"):
        out.mkdir(parents=True, exist_ok=True)
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
    write_quality(out, labels)
    return PredictSummary(dataset, chosen_model.reason, cases, out)


@dataclass(frozen=True, slots=True)
class _Learnt:
    """What the model knows of images and structures."""

    labels: LabelTable
    channel: str
    seen: TrainingRange | None
    structures: TrainingStructures | None
    """What the training labels say of the structures, if anybody knows."""


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """What is known of an image that waits for its prediction."""

    grid: Grid
    facts: JsonObject
    findings: tuple[Finding, ...]

    region: Region | None
    """What the image was cropped from, if `convert` cropped it."""

    slices: tuple[SourceSlice, ...] = ()
    """Where the slices of a DICOM series lie on the disk."""

    cut: Region | None = None
    """The slices that the network sees, if they are not all."""


@dataclass(slots=True)
class _Story:
    """One call of `predict_images`."""

    workspace: Workspace
    model: Model
    learnt: _Learnt
    out: Path
    work: Path
    options: PredictionOptions
    rules: Mapping[str, CleaningRule]
    """How each structure is cleaned."""

    progress: Progress
    _cases: dict[str, PredictedCase] = field(default_factory=dict)
    _waiting: dict[str, _Read] = field(default_factory=dict)
    """Images that are read and not finished."""

    @property
    def labels(self) -> LabelTable:
        """The structures that the model knows."""
        return self.learnt.labels

    def predict(
        self, sources: Sequence[ImageSource], resources: Resources
    ) -> tuple[PredictedCase, ...]:
        """Read all images, predict those that need it, finish each when it is whole."""
        first_pass = self._first_pass()
        model_hash = self.model.sha256(self.workspace)
        for number, source in enumerate(sources, start=1):
            try:
                reading = read_image(source.path, self.options.scans)
                self._take(source, reading, model_hash, first_pass)
            except EnvironmentFault:
                raise
            except BridgeError as error:
                self._cases[source.case_id] = refused_case(source.case_id, error)
            self.progress.advance(_READING * number, source.case_id)
        if self._waiting and first_pass is not None:
            self._cut_to_what_is_found(first_pass, resources)
        if self._waiting:
            self._predict_waiting(len(sources), resources)
        return tuple(self._cases[source.case_id] for source in sources)

    def _first_pass(self) -> FirstPass | None:
        if not self.options.region.auto:
            return None
        model = first_pass_model(self.workspace, self.model)
        margin_mm = self.options.region.margin_mm
        work = self.work / "first_pass"
        return FirstPass(self.workspace, model, self.labels, work, margin_mm)

    def _take(
        self,
        source: ImageSource,
        reading: ImageReading,
        model_hash: str,
        first_pass: FirstPass | None,
    ) -> None:
        """Let an image wait for its prediction, unless it has one that holds."""
        case_id, volume = source.case_id, reading.volume
        if self.options.dicom_seg:
            refuse_without_slices(reading.slices)
        facts = {
            "input_sha256": reading.sha256(),
            "model_sha256": model_hash,
            "options": self._wishes(),
        }
        region = _region_of(source)
        if region is not None:
            facts["region"] = region_record(region)
        findings = reading.findings + unlike_contrast(
            volume, reading.series, self.learnt.seen, self.learnt.channel
        )
        read = _Read(volume.grid, facts, findings, region, reading.slices)
        finished = self._finished(case_id, read)
        if finished:
            self._cases[case_id] = finished
            return
        if first_pass is not None:
            first_pass.add(case_id, volume)
            write_volume(self._whole_image(case_id), volume)
            self._waiting[case_id] = read
            return
        wish = self.options.region
        cut = None if wish.is_everything else wish.resolve(volume.grid)
        self._waiting[case_id] = self._for_the_network(case_id, volume, read, cut)

    def _for_the_network(
        self, case_id: str, volume: Volume, read: _Read, cut: Region | None
    ) -> _Read:
        """Write what the network is to see of an image, and judge it."""
        shown = volume if cut is None else cropped_volume(volume, cut)
        write_volume(self.work / IMAGES / f"{case_id}_0000{FILE_ENDING}", shown)
        return replace(
            read,
            findings=read.findings + unlike_place(shown.grid, self.learnt.seen),
            cut=cut,
        )

    def _cut_to_what_is_found(
        self, first_pass: FirstPass, resources: Resources
    ) -> None:
        """Find where the structures of every waiting image are, and cut it there."""
        grids = {case_id: read.grid for case_id, read in self._waiting.items()}
        self.progress.stage(f"find the region with {first_pass.model.name}", 1)
        found = self._without_too_large(
            first_pass.work,
            lambda: first_pass.regions(
                {case_id: grids[case_id] for case_id in self._waiting},
                resources,
                self.progress.advance,
            ),
        )
        steps = sum(_PARTS) * len(self._cases | grids)
        self.progress.stage(f"predict {self.model.name}", steps)
        for case_id, cut in (found or {}).items():
            read, file = self._waiting[case_id], self._whole_image(case_id)
            if cut is None:
                read = replace(read, findings=(*read.findings, NOTHING_FOUND))
            volume = read_volume(file)
            file.unlink()
            self._waiting[case_id] = self._for_the_network(case_id, volume, read, cut)

    def _whole_image(self, case_id: str) -> Path:
        return self.work / "whole" / f"{case_id}{FILE_ENDING}"

    def _predict_waiting(self, sources: int, resources: Resources) -> None:
        """Predict what waits; a case is finished as soon as its labelmap is whole."""
        images = len(self._waiting)
        labelmaps = WholeLabelmaps(self.labels)

        def progress_to(share: float) -> None:
            done = images - len(self._waiting)
            self.progress.advance(
                _READING * sources + _PREDICTING * share * images + _FINISHING * done
            )

        def advanced(share: float) -> None:
            for case_id in list(self._waiting):
                predicted = labelmaps.take(
                    self.work / PREDICTED / f"{case_id}{FILE_ENDING}"
                )
                if predicted is not None:
                    self._finish_or_refuse(case_id, predicted)
            progress_to(share)

        folder = self._without_too_large(
            self.work,
            lambda: predict_folder(
                self.workspace, self.model, self.work, resources, advanced=advanced
            ),
        )
        if folder is None:
            return
        for case_id in list(self._waiting):
            file = folder / f"{case_id}{FILE_ENDING}"
            if not file.exists():
                raise InputError(f"nnU-Net wrote no prediction for {case_id}.")
            self._finish_or_refuse(case_id, read_labelmap(file, self.labels))
            progress_to(1.0)

    def _without_too_large(self, work: Path, call: Callable[[], T]) -> T | None:
        """Call the network; refuse images that do not fit (F10) and call it again."""
        while self._waiting:
            try:
                return call()
            except ImagesTooLarge as error:
                for case_id, refusal in error.cases.items():
                    del self._waiting[case_id]
                    self._cases[case_id] = refused_case(case_id, refusal)
                    (work / IMAGES / f"{case_id}_0000{FILE_ENDING}").unlink()
        return None

    def _finish_or_refuse(self, case_id: str, predicted: Labelmap) -> None:
        """Finish a case; one that cannot be given out does not stop the others."""
        known = self._waiting.pop(case_id)
        try:
            self._cases[case_id] = self._finish(case_id, known, predicted)
        except Refused as error:
            self._cases[case_id] = refused_case(case_id, error)

    def _wishes(self) -> JsonObject:
        """Return what decides whether a finished case still holds."""
        if self.options.clean != TUNED:
            return self.options.as_json()
        return {**self.options.as_json(), "rules": _as_json(self.rules)}

    def _finish(self, case_id: str, known: _Read, predicted: Labelmap) -> PredictedCase:
        """Clean, measure and write one case; its record comes last."""
        grid = known.grid if known.cut is None else known.cut.grid
        if not grid.matches(predicted.grid):
            raise GeometryError(
                f"{case_id}: nnU-Net's prediction lies "
                f"{grid.displacement_mm(predicted.grid):.3f} mm from its image."
            )
        on_image_grid = Labelmap(grid, predicted.voxels, self.labels)
        seen, account = _cleaned(on_image_grid, self.rules)
        case_dir = self.out / case_id
        record = case_dir / RECORD
        record.unlink(missing_ok=True)
        image = PredictedImage(
            case_id,
            seen,
            read_volume(self.work / IMAGES / f"{case_id}_0000{FILE_ENDING}"),
            known.cut,
            known.region,
            known.slices,
            Algorithm(self.model.reason, known.facts["model_sha256"]),
        )
        quality = case_quality(
            seen, self.work / PREDICTED, case_id, self.learnt.structures
        )
        written = write_outputs(case_dir, image, self.options.outputs())
        findings = (*known.findings, *written.findings)
        volumes_mm3 = seen.volumes_mm3()
        write_json(
            record,
            {
                **known.facts,
                "software": f"nnunet-bridge {__version__}",
                "versions": software_versions(),
                "model": self.model.reason,
                "budget": self.model.budget,
                "cut": None if known.cut is None else self._cut_record(known.cut),
                "cleaning": account,
                "volumes_mm3": volumes_mm3,
                "quality": quality.as_json(),
                "findings": findings_record(findings),
                **written.hashes,
                "outputs": written.outputs,
            },
        )
        return self._case(case_id, volumes_mm3, findings, quality)

    def _cut_record(self, cut: Region) -> JsonObject:
        """Return what the record says of the slices that the network saw."""
        first_pass = self._first_pass()
        found_by = {} if first_pass is None else {"found_by": first_pass.as_json()}
        return {
            "asked": self.options.region.describe(),
            **found_by,
            **region_record(cut),
        }

    def _finished(self, case_id: str, read: _Read) -> PredictedCase | None:
        """Return a case that needs no prediction, or None (FAULTS N03)."""
        if self.options.force:
            return None
        case_dir = self.out / case_id
        known = finished_record(case_dir, read.facts, self.labels, read.grid)
        if known is None:
            return None
        cut = region_in({"cut": known["cut"] or {}}, "cut")
        grid = read.grid if cut is None else cut.grid
        findings = read.findings + unlike_place(grid, self.learnt.seen)
        quality = recorded_quality(known)
        return self._case(case_id, known["volumes_mm3"], findings, quality)

    def _case(
        self,
        case_id: str,
        volumes_mm3: dict[str, float],
        findings: tuple[Finding, ...],
        quality: Quality | None,
    ) -> PredictedCase:
        files = sorted(
            str(file.relative_to(self.out))
            for file in (self.out / case_id).rglob("*")
            if file.is_file()
        )
        return PredictedCase(case_id, findings, volumes_mm3, tuple(files), quality)


def _require_dicom(sources: Sequence[ImageSource]) -> None:
    """Refuse a DICOM SEG of an image that has no DICOM to refer to."""
    others = [source.path for source in sources if not source.path.is_dir()]
    if others:
        raise UsageError(
            f"--dicom-seg refers to the DICOM series of an image, and {others[0]} is "
            "none: leave the option out, or name the folder with the DICOM files."
        )


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


def _model_dirs(workspace: Workspace, model: Model) -> Iterator[Path]:
    for states in model.members().values():
        yield workspace.model_dir(states[0].run)
