"""Predict new images: labelmaps, volumes, meshes and a quality rating for each.

Every case gets a folder of its own, on the grid of its input. A finished case
(`outputs.finished_case`) is not predicted again.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from nnunet_bridge.core import errors
from nnunet_bridge.core.cases import (
    findings_of_error,
    findings_record,
    memory_errors_refused,
)
from nnunet_bridge.core.findings import Finding, Outcome, Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, Volume
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.version import __version__, software_versions
from nnunet_bridge.formats.dicom import SourceSlice
from nnunet_bridge.formats.dicom.segmentation import Algorithm
from nnunet_bridge.formats.files import clear_os_errors, read_json, write_if_changed
from nnunet_bridge.formats.folders import work_folder
from nnunet_bridge.formats.manifest import RegionRecord, recorded_region
from nnunet_bridge.formats.nifti import read_labelmap, read_volume, write_volume
from nnunet_bridge.formats.tables import write_volumes
from nnunet_bridge.nnunet.commands import Resources
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.machine import chosen_engine
from nnunet_bridge.nnunet.names import ENGINE_FILE, FILE_ENDING, Dataset, image_name
from nnunet_bridge.ops.midline import only_side
from nnunet_bridge.ops.region import Region, cropped_volume
from nnunet_bridge.ops.turn import Turn, turn_towards
from nnunet_bridge.pipeline.ingest.channels import read_channels
from nnunet_bridge.pipeline.ingest.inputs import ImageReading, ImageSource
from nnunet_bridge.pipeline.ingest.known_cases import find_known_images
from nnunet_bridge.pipeline.models.choose import predicting_model
from nnunet_bridge.pipeline.models.fast import loss_sentence
from nnunet_bridge.pipeline.models.likeness import contrast_warnings, geometry_warnings
from nnunet_bridge.pipeline.prediction import outputs
from nnunet_bridge.pipeline.prediction import quality as rating
from nnunet_bridge.pipeline.prediction.first_pass import FirstPass, first_pass_model
from nnunet_bridge.pipeline.prediction.network import (
    IMAGES,
    PREDICTED,
    ImagesTooLarge,
    Inference,
    Network,
    predict_folder,
)
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.record import RECORD, CutRecord, PredictionRecord
from nnunet_bridge.pipeline.prediction.report import PredictedCase, PredictSummary
from nnunet_bridge.pipeline.prediction.trained_model import TUNED, TrainedModel

Result = TypeVar("Result")

_PARTS = _READING, _PREDICTING, _FINISHING = 1, 30, 2
"""About how long a case takes to be read, predicted and written, without a GPU."""

_ENOUGH_FAILURES = 3
"""After so many images that failed alone, the others of a failed call are refused."""

_ENOUGH = 4  # images to read for each GPU before it starts, and before it starts again
NOTHING_FOUND = Finding(
    "",
    Outcome.WARNED,
    "The first pass found no structure, so the whole image was predicted. Name the "
    "region yourself: --slices or --from-mm.",
)


def predict_images(
    dataset: Dataset,
    inputs: Sequence[Path],
    out: Path,
    options: PredictionOptions | None = None,
    *,
    progress: Progress | None = None,
    network: Network | None = None,
) -> PredictSummary:
    """Predict every image of `inputs` with a model of a dataset.

    Parameters
    ----------
    inputs : sequence of Path
        DICOM folders, studies of them, zips, NIfTI files or folders of these.
    out : Path
        Gets a folder for each case, and the tables of all of them.
    network : callable, optional
        Predicts the images of a folder; by default nnU-Net in a process of its own.

    Raises
    ------
    UsageError
        If DICOM SEG is asked for and an input is not a DICOM series.
    InputError
        If there is no image, no finished model, no tuned cleaning or no channel that is
        asked for.
    EnvironmentFault
        If a GPU is asked for and there is none, or a file cannot be written.
    SecurityError
        If the model (S01, S02, S07-S10) or a zip of images (S04, S06, S08) is harmful.
    NnUNetError
        If nnU-Net fails.
    """
    options = options or PredictionOptions()
    shown = progress or Silent()
    model = predicting_model(dataset, options.model)
    trained = TrainedModel.of(model, options.clean)
    trained = replace(trained, channels=trained.channels.chosen_by(options.channels))
    trained.channels.index(options.channel)  # an unknown name ends it here
    if options.fast:
        shown.say(loss_sentence(model))
    resources, engine = _resources(options, shown)
    if options.engine != "auto":
        options = replace(options, engine=engine)
    with work_folder(out, "work") as work:
        count = len(trained.channels.names)
        sources = find_known_images(
            inputs, dataset.raw_dir, unpack_dir=work / "unpacked", channels=count
        )
        if options.dicom_seg:
            _require_dicom(sources)
        shown.stage(f"predict {model.name}", sum(_PARTS) * len(sources))
        inference = Inference(engine, options.windows == "body", options.fast)
        network = network or partial(predict_folder, inference=inference)
        run = _PredictionRun(trained, out, work, options, shown, network)
        try:
            cases = run.predict(sources, resources)
        except errors.BridgeError as error:
            error.reports = run.reports
            raise
    _write_tables(out, trained, cases)
    return PredictSummary(dataset.name, model.reason, cases, out)


def _resources(options: PredictionOptions, shown: Progress) -> tuple[Resources, str]:
    """Return what one prediction may use, and its engine; report what it may not."""
    host = Host()
    device, warning = host.device(options.device)
    engine, another = chosen_engine(options.engine, device)
    for why in filter(None, (warning, another)):
        shown.say(why)
    gpus = len(host.visible(1)) if device == "cuda" else 1
    return replace(host.share(1, device), gpus=gpus), engine


@dataclass(frozen=True, slots=True, eq=False)
class _WaitingImage:
    """An image that was read and waits for its prediction."""

    grid: Grid
    facts: JsonObject
    findings: tuple[Finding, ...]
    region: Region | None
    """The slices that `convert` kept of the scan; None for all of them."""

    slices: tuple[SourceSlice, ...] = ()  # the files of the slices of a DICOM series
    cut: Region | None = None  # the slices that the network sees; None for all of them
    turn: Turn | None = None  # how it is turned for the network; None if it is not

    @property
    def cut_grid(self) -> Grid:
        """The grid of these slices."""
        return self.grid if self.cut is None else self.cut.grid


@dataclass(slots=True)
class _PredictionRun:
    """One call of `predict_images`."""

    trained: TrainedModel
    out: Path
    work: Path
    options: PredictionOptions
    progress: Progress
    network: Network
    _cases: dict[str, PredictedCase] = field(default_factory=dict)
    _waiting: dict[str, _WaitingImage] = field(default_factory=dict)
    """Images that were read and wait; in `_part` of the work folder."""

    _predicting: dict[str, _WaitingImage] = field(default_factory=dict)
    _unread: list[ImageSource] = field(default_factory=list)
    _part: int = 0
    _model_hash: str = ""
    _failure_shown: bool = False  # that OpenVINO cannot compute the model

    def predict(
        self, sources: Sequence[ImageSource], resources: Resources
    ) -> tuple[PredictedCase, ...]:
        """Read the images, predict those that need it, finish each when it is done.

        Beside a GPU the cores are free, so later images are read while it predicts the
        earlier ones.
        """
        self._model_hash = self.trained.model.sha256()
        groups, failures = [list(sources)], list[errors.NnUNetError]()
        while groups:
            group = groups.pop(0)
            try:
                self._predict_group(group, len(sources), resources)
            except errors.NnUNetError as error:
                left = [one for one in group if one.case_id not in self._cases]
                self._unread, self._waiting, self._predicting = [], {}, {}
                self._part += 1
                if len(group) > 1 and len(failures) < _ENOUGH_FAILURES:
                    groups[:0] = [left[:1], left[1:]]
                    continue
                failures.append(error)
                for source in left:
                    self._refuse(source.case_id, error)
            groups = list(filter(None, groups))
        if failures and all(case.refused for case in self._cases.values()):
            raise failures[-1]
        return tuple(self._cases[source.case_id] for source in sources)

    def _predict_group(
        self, sources: Sequence[ImageSource], count: int, resources: Resources
    ) -> None:
        """Predict some of `count` images; raise `NnUNetError` if nnU-Net fails."""
        first_pass = self._first_pass()
        self._unread = list(sources)
        beside = resources.device == "cuda" and first_pass is None
        while self._unread or self._waiting:
            enough = _ENOUGH * resources.gpus
            while self._unread and not (beside and len(self._waiting) >= enough):
                case_id = self._read_next(first_pass)
                self.progress.advance(_READING * (count - len(self._unread)), case_id)
            if self._waiting and first_pass is not None:
                self._find_regions(first_pass, resources)
            if self._waiting:
                self._predict_waiting(count, resources)

    @property
    def reports(self) -> tuple[PredictedCase, ...]:
        """The cases that are finished or refused so far."""
        return tuple(self._cases.values())

    def _read_next(self, first_pass: FirstPass | None = None) -> str:
        """Read one more image and return its case; a refusal stops no other."""
        source = self._unread.pop(0)
        try:
            with memory_errors_refused(source.case_id):
                self._read(source, first_pass)
        except errors.EnvironmentFault:
            raise
        except errors.BridgeError as error:
            self._refuse(source.case_id, error)
        return source.case_id

    @property
    def _part_work(self) -> Path:
        """The work folder of the images that wait."""
        return self.work / f"part{self._part}"

    def _first_pass(self) -> FirstPass | None:
        region, model = self.options.region, self.trained.model
        if not region.auto:
            return None
        place, labels = self.work / f"first_pass{self._part}", self.trained.labels
        coarse = first_pass_model(model)
        return FirstPass(coarse, labels, place, region.margin_mm, self.network)

    def _read(self, source: ImageSource, first_pass: FirstPass | None) -> None:
        """Read an image and queue it for prediction, unless its case is finished."""
        reading = read_channels(source, self.trained.channels, self.options.scans)
        case_id, volumes = source.case_id, reading.volumes
        image = self._waiting_image(source, reading)
        if self._is_finished(case_id, image):
            return
        if first_pass is not None:
            first_pass.add(case_id, volumes, image.turn)
            for file, volume in zip(self._whole(case_id), volumes, strict=True):
                write_volume(file, volume)
            self._waiting[case_id] = image
            return
        request = self.options.region
        cut = None if request.is_everything else request.resolve(image.grid)
        self._queue(case_id, volumes, image, cut)

    def _waiting_image(
        self, source: ImageSource, reading: ImageReading
    ) -> _WaitingImage:
        if self.options.dicom_seg:
            outputs.require_source_slices(reading.slices)
        facts: JsonObject = {
            "input_sha256": reading.sha256(),
            "model_sha256": self._model_hash,
            "options": self.options.as_json(),
        }
        if self.options.engine != "auto":
            facts["engine"] = self.options.engine
        if self.options.clean == TUNED:
            facts["options"]["rules"] = self.trained.rules_record()
        seen, grid = self.trained.seen, reading.volume.grid
        turn = turn_towards(grid, seen.orientations) if seen else None
        if turn is not None:
            facts["turned"] = {"axes": list(turn.axes), "flips": list(turn.flips)}
        region = None if source.path.is_dir() else recorded_region(source.path)
        if region is not None:
            facts["region"] = RegionRecord.of(region).as_json()
        findings = reading.findings + contrast_warnings(
            reading.volume, reading.series, seen, self.trained.channels.names[0]
        )
        files = reading.slices
        return _WaitingImage(grid, facts, findings, region, files, turn=turn)

    def _queue(
        self,
        case_id: str,
        volumes: Iterable[Volume],
        image: _WaitingImage,
        cut: Region | None,
    ) -> None:
        """Write the slices that the network is to see, and compare their geometry."""
        unusual = geometry_warnings(cut.grid if cut else image.grid, self.trained.seen)
        for finding in unusual:  # before a prediction that may take days
            self.progress.say(f"{case_id}: {finding}")
        findings = image.findings + unusual
        files = self._network_images(self._part_work, case_id)
        for file, volume in zip(files, volumes, strict=True):
            shown = volume if cut is None else cropped_volume(volume, cut)
            write_volume(file, image.turn.volume(shown) if image.turn else shown)
        self._waiting[case_id] = replace(image, findings=findings, cut=cut)

    def _find_regions(self, first_pass: FirstPass, resources: Resources) -> None:
        """Find the region of the structures in every waiting image, and cut it out."""
        waiting = len(self._waiting)
        self.progress.stage(f"find the region with {first_pass.model.name}", 1)

        def regions() -> dict[str, Region | None]:
            grids = {case_id: image.grid for case_id, image in self._waiting.items()}
            return first_pass.regions(grids, resources, self.progress.advance)

        found = self._without_too_large(first_pass.work, self._waiting, regions)
        steps = sum(_PARTS) * (len(self._cases) + waiting)
        self.progress.stage(f"predict {self.trained.model.name}", steps)
        for case_id, cut in (found or {}).items():
            image, files = self._waiting[case_id], self._whole(case_id)
            if cut is None:
                image = replace(image, findings=(*image.findings, NOTHING_FOUND))
            self._queue(case_id, map(read_volume, files), image, cut)
            for file in files:
                file.unlink()

    def _whole(self, case_id: str) -> list[Path]:
        """Return the files of all channels of an image that waits for its region."""
        return self._files_of(self.work / "whole", case_id)

    def _network_images(self, work: Path, case_id: str) -> list[Path]:
        """Return the files of all channels that the network sees."""
        return self._files_of(work / IMAGES, case_id)

    def _files_of(self, folder: Path, case_id: str) -> list[Path]:
        channels = range(len(self.trained.channels.names))
        return [folder / image_name(case_id, channel) for channel in channels]

    def _predict_waiting(self, sources: int, resources: Resources) -> None:
        """Predict the waiting images; finish each when its labelmap is complete.

        Meanwhile, read those that are still unread.
        """
        work, closed = self._part_work, len(self._cases)
        self._predicting, self._waiting, self._part = self._waiting, {}, self._part + 1
        images = len(self._predicting)
        labelmaps = outputs.CompletedLabelmaps(self.trained.labels)

        def show(share: float) -> None:
            read = _READING * (sources - len(self._unread))
            finished = _FINISHING * (images - len(self._predicting))
            earlier = (_PREDICTING + _FINISHING) * closed if self._part > 1 else 0
            self.progress.advance(
                read + earlier + _PREDICTING * share * images + finished
            )

        def advanced(share: float) -> None:
            for case_id in list(self._predicting):
                file = work / PREDICTED / f"{case_id}{FILE_ENDING}"
                predicted = labelmaps.poll(file)
                if predicted is not None:
                    self._finish_or_refuse(work, case_id, predicted, file=file)
            if self._unread:
                self._read_next()
            show(share)

        model = self.trained.model
        folder = self._without_too_large(
            work,
            self._predicting,
            lambda: self.network(model, work, resources, advanced=advanced),
        )
        for case_id in list(self._predicting):
            file = (folder or work) / f"{case_id}{FILE_ENDING}"
            self._finish_or_refuse(work, case_id, file=file)
            show(1.0)

    def _without_too_large(
        self,
        work: Path,
        images: dict[str, _WaitingImage],
        call: Callable[[], Result],
    ) -> Result | None:
        """Call the network; refuse images that do not fit (F10) and call it again."""
        while images:
            try:
                return call()
            except ImagesTooLarge as error:
                for case_id, refusal in error.cases.items():
                    del images[case_id]
                    self._refuse(case_id, refusal)
                    for file in self._network_images(work, case_id):
                        file.unlink()
        return None

    def _refuse(self, case_id: str, error: errors.BridgeError) -> None:
        self._cases[case_id] = PredictedCase(case_id, findings_of_error(error))

    def _finish_or_refuse(
        self, work: Path, case_id: str, predicted: Labelmap | None = None, *, file: Path
    ) -> None:
        """Finish a case; a refusal does not stop the others."""
        image = self._predicting.pop(case_id)
        try:
            with memory_errors_refused(case_id):
                predicted = predicted or read_labelmap(file, self.trained.labels)
                self._cases[case_id] = self._finish(work, case_id, image, predicted)
        except (Refused, errors.InputError, errors.GeometryError) as error:
            self._refuse(case_id, error)

    def _finish(
        self, work: Path, case_id: str, image: _WaitingImage, predicted: Labelmap
    ) -> PredictedCase:
        """Clean, measure and write one case; its record comes last."""
        on_image_grid = self._on_image_grid(case_id, image, predicted)
        seen, account = self.trained.clean(on_image_grid)
        case_dir = self.out / case_id
        (case_dir / RECORD).unlink(missing_ok=True)
        structures = self.trained.structures
        first, *others = self._network_images(work, case_id)
        judged = self._as_read(first, image)
        if self.options.side:
            seen = only_side(seen, judged, self.options.side)
        place = work / PREDICTED, case_id
        quality = rating.case_quality(seen, judged, *place, structures)
        channel = self.trained.channels.index(self.options.channel)
        shown = self._as_read(others[channel - 1], image) if channel else judged
        predicted_image = outputs.PredictedImage(
            case_id,
            seen,
            shown,
            image.cut,
            image.region,
            image.slices,
            Algorithm(self.trained.model.reason, image.facts["model_sha256"]),
        )
        written = outputs.write_outputs(case_dir, predicted_image, self.options)
        findings = (*image.findings, *written.findings)
        record = PredictionRecord(
            **{**image.facts, "engine": self._engine(work)},
            **self._provenance(image),
            cleaning=account,
            volumes_mm3={v.structure: v.volume_mm3 for v in written.volumes},
            quality=quality,
            findings=findings_record(findings),
            **written.as_json(),
        )
        record.write(case_dir)
        files = self._files(case_id)
        return PredictedCase(case_id, findings, written.volumes, files, quality)

    def _engine(self, work: Path) -> str:
        """Return what computed the networks; report OpenVINO's failure once."""
        file = work / PREDICTED / ENGINE_FILE
        if not file.is_file():
            return "torch"
        facts = read_json(file)
        if "reason" in facts and not self._failure_shown:
            self._failure_shown = True
            self.progress.say(
                f"OpenVINO cannot compute this model: torch does. {facts['reason']}."
            )
        return str(facts["engine"])

    @staticmethod
    def _as_read(file: Path, image: _WaitingImage) -> Volume:
        """Return a channel that the network saw, with the axes of the input."""
        shown = read_volume(file)
        if image.turn is None:
            return shown
        return Volume(image.cut_grid, image.turn.voxels_back(shown.voxels))

    def _on_image_grid(
        self, case_id: str, image: _WaitingImage, predicted: Labelmap
    ) -> Labelmap:
        """Return the prediction on the exact grid of the image that was predicted."""
        own, turn = image.cut_grid, image.turn
        grid = turn.grid(own) if turn else own
        if not grid.matches(predicted.grid):
            raise errors.GeometryError(
                f"{case_id}: nnU-Net's prediction lies "
                f"{grid.displacement_mm(predicted.grid):.3f} mm from its image."
            )
        voxels = turn.voxels_back(predicted.voxels) if turn else predicted.voxels
        return Labelmap(own, voxels, self.trained.labels)

    def _provenance(self, image: _WaitingImage) -> JsonObject:
        """Return the entries of a record about software, model and region."""
        cut = None
        if image.cut is not None:
            first_pass = self._first_pass()
            more = {"found_by": first_pass.as_json()} if first_pass else {}
            asked = self.options.region.describe()
            cut = CutRecord.of(image.cut, asked=asked, **more)
        return {
            "software": f"nnunet-bridge {__version__}",
            "versions": software_versions(),
            "model": self.trained.model.reason,
            "budget": self.trained.model.budget,
            "cut": cut,
        }

    def _is_finished(self, case_id: str, image: _WaitingImage) -> bool:
        """Report a case that needs no prediction (N03); return whether it is one."""
        if self.options.force:
            return False
        labels = self.trained.labels
        found = outputs.finished_case(
            self.out / case_id, image.facts, labels, image.grid
        )
        if found is None:
            return False
        record, volumes = found
        cut = record.cut.region() if record.cut else None
        grid = image.grid if cut is None else cut.grid
        findings = image.findings + geometry_warnings(grid, self.trained.seen)
        files = self._files(case_id)
        case = PredictedCase(case_id, findings, volumes, files, record.quality)
        self._cases[case_id] = case
        return True

    def _files(self, case_id: str) -> tuple[str, ...]:
        files = [file for file in (self.out / case_id).rglob("*") if file.is_file()]
        return tuple(sorted(str(file.relative_to(self.out)) for file in files))


def _write_tables(
    out: Path, trained: TrainedModel, cases: Sequence[PredictedCase]
) -> None:
    """Write the tables of all cases beside their folders."""
    with clear_os_errors(f"write {out}"):
        out.mkdir(parents=True, exist_ok=True)
    write_if_changed(out / "dataset.json", trained.description)
    volumes = [volume for case in cases for volume in case.volumes]
    write_volumes(out / outputs.CASE_VOLUMES, volumes)
    rating.write_quality(out, trained.labels)


def _require_dicom(sources: Sequence[ImageSource]) -> None:
    """Refuse DICOM SEG for an image that is not a DICOM series."""
    others = [source.path for source in sources if not source.path.is_dir()]
    if others:
        raise errors.UsageError(
            f"--dicom-seg needs a DICOM series, and {others[0]} is not one: leave the "
            "option out, or name the folder with the DICOM files."
        )
