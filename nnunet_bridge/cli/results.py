"""`predict`, `clean`, `score`, `mesh`, `view` and `results`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from click import get_current_context
from click.core import ParameterSource

from nnunet_bridge.cli import options as shared
from nnunet_bridge.cli.fields import Group, argument, given, option, part
from nnunet_bridge.cli.session import Session, command
from nnunet_bridge.core.cleaning import DEFAULT_MIN_VOLUME_MM3, CleaningRule
from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.summary import Summary
from nnunet_bridge.core.words import Rule, Side

if TYPE_CHECKING:
    from nnunet_bridge.formats.dicom import SeriesOptions
    from nnunet_bridge.pipeline.prediction.options import PredictionOptions


def _series_options(recipe: str | None, scans: shared.ScanChoice) -> SeriesOptions:
    """Return the options about series: those given, else those of the recipe."""
    from nnunet_bridge.formats.dicom import SeriesOptions

    if recipe is None:
        return SeriesOptions(**given(scans))
    from nnunet_bridge.formats.recipe import read_recipe
    from nnunet_bridge.pipeline.ingest.cases import series_options

    return series_options(read_recipe(recipe).with_scans(**given(scans)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Predict:
    dataset: str = shared.dataset_field()
    inputs: tuple[Path, ...] = argument(
        nargs=-1, required=True, metavar="INPUT...", type=shared.EXISTING
    )
    out: Path = option(
        "-o",
        "--out",
        "Folder of the results; each case gets a folder of its own in it.",
        type=shared.FOLDER,
    )
    configurations: tuple[str, ...] = shared.configurations_field(
        "Repeat to average several. [default: the choice of `select`, else the one "
        "with the higher validation Dice]"
    )
    folds: tuple[str, ...] = shared.folds_field(
        "Repeat to average several. [default: all finished folds]"
    )
    region: shared.RegionChoice = part(shared.RegionChoice)
    scans: shared.ScanChoice = part(shared.ScanChoice)
    recipe: str | None = shared.scans_recipe_field()
    model: str | None = shared.finished_model_field()
    budget: str | None = shared.finished_budget_field()
    seed: int = shared.seed_field()
    side: str | None = shared.output_option(
        "--side",
        "Keep one side of the body only; its midline comes from the image.",
        choices=("left", "right"),
    )
    clean: str = shared.output_option(
        "--clean",
        "Cleaning rule. slice, volume: see `clean`. tuned: the rules that "
        "`clean --tune DATASET` chose for its model.",
        choices=("none", "slice", "volume", "tuned"),
    )
    mesh: bool = shared.output_option("--mesh", "Also write PLY meshes.")
    smooth: int = shared.output_option(
        "--smooth",
        "With --mesh: iterations of Taubin smoothing.",
        type=click.IntRange(0),
        default=0,
    )
    seg_nrrd: bool = shared.output_option(
        "--seg-nrrd", "Also write a segmentation for 3D Slicer."
    )
    dicom_seg: bool = shared.output_option(
        "--dicom-seg", "Also write DICOM SEG, which contains the patient's name."
    )
    channel: str | None = shared.channel_field()
    force: bool = shared.force_field("Predict finished cases again.")
    device: str = shared.device_field()
    engine: str = shared.machine_option(
        "--engine",
        "Library that computes the networks on a CPU. auto: OpenVINO where it is "
        "installed.",
        choices=("auto", "torch", "openvino"),
    )
    windows: str = shared.machine_option(
        "--windows",
        "Windows to compute. body: not those more than half a patch away from the "
        "body.",
        choices=("all", "body"),
    )
    fast: bool = shared.machine_option(
        "--fast",
        "Fewer windows, none of them mirrored: several times faster, and the Dice may "
        "be lower. `select --fast` measures by how much.",
    )

    def options(self) -> PredictionOptions:
        from nnunet_bridge.formats.recipe import read_recipe
        from nnunet_bridge.ops.region import RegionRequest
        from nnunet_bridge.pipeline.models.choose import ModelRequest
        from nnunet_bridge.pipeline.prediction.options import PredictionOptions

        words = self.folds, self.budget, self.model, self.seed
        return PredictionOptions(
            ModelRequest(self.configurations, *words),
            self.device,
            self.engine,
            self.windows,
            self.fast,
            scans=_series_options(self.recipe, self.scans),
            channels=read_recipe(self.recipe).image_channels if self.recipe else None,
            region=RegionRequest.from_words(**given(self.region)),
            clean=self.clean,
            side=Side(self.side or ""),
            meshes=self.mesh,
            smooth=self.smooth,
            seg_nrrd=self.seg_nrrd,
            dicom_seg=self.dicom_seg,
            channel=self.channel,
            force=self.force,
        )


@command(_Predict)
def predict(session: Session, asked: _Predict) -> Summary:
    """Predict DICOM folders, studies, zips or NIfTI files.

    Several configurations are averaged.

    Example:  nnunet-bridge predict 1 new_patient/ -o out -c 3d_fullres --mesh
    """
    from nnunet_bridge.pipeline.prediction.predict import predict_images

    dataset = session.dataset(asked.dataset)
    with session.progress() as progress:
        return predict_images(
            dataset, asked.inputs, asked.out, asked.options(), progress=progress
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clean:
    labels: Path | None = argument(type=shared.EXISTING, required=False)
    out: Path | None = argument(type=click.Path(path_type=Path), required=False)
    rule: str = option(
        "--rule",
        "slice: the source report's rule, slice by slice. volume: in three dimensions.",
        choices=("slice", "volume"),
    )
    ratio: float = option(
        "--ratio",
        "slice: remove pieces and fill holes below this share of the structure's "
        "area in the slice.",
        type=click.FloatRange(0, 1),
        default=0.01,
        metavar="SHARE",
    )
    min_volume_mm3: float | None = option(
        "--min-volume-mm3",
        "volume: remove smaller pieces. [default: 500]",
        type=shared.NOT_NEGATIVE,
        metavar="MM3",
    )
    keep: int | None = option(
        "--keep",
        "volume: keep at most the N largest pieces of each label.",
        type=shared.COUNT,
    )
    each_side: bool = option(
        "--each-side",
        "With --keep: N pieces left and N right, for labels that hold both sides.",
    )
    labels_file: Path | None = shared.labels_file_field()
    tune: str | None = shared.model_option(
        "--tune",
        "Clean nothing; choose the rule of each structure on the validation of a "
        "model.",
        metavar="DATASET",
    )
    configurations: tuple[str, ...] = shared.configurations_field(
        "With --tune; repeat for several. [default: the one that `predict` uses]",
        group=Group.MODEL,
    )
    model: str | None = shared.finished_model_field()
    budget: str | None = shared.finished_budget_field()
    force: bool = shared.force_field("Redo finished work.")

    def cleaning_rule(self) -> CleaningRule:
        if self.rule == "slice" and self.keep is not None:
            raise UsageError("--keep needs --rule volume.")
        if self.each_side and self.keep is None:
            raise UsageError("--each-side needs --keep N.")
        smallest = self.min_volume_mm3
        return CleaningRule(
            Rule(self.rule),
            self.ratio,
            DEFAULT_MIN_VOLUME_MM3 if smallest is None else smallest,
            self.keep,
            each_side=self.each_side,
        )


@command(_Clean)
def clean(session: Session, asked: _Clean) -> Summary:
    """Fill holes and remove specks in a labelmap, or in a folder of labelmaps.

    With --tune, no labels are cleaned: the rule of each structure is chosen on the
    cross-validation predictions of the model and stored with the model for
    `predict --clean tuned`.

    Example:  nnunet-bridge clean predictions cleaned --rule volume --min-volume-mm3 500

    Example:  nnunet-bridge clean --tune 1 -c 2d
    """
    if asked.tune is not None:
        _refuse_given(_RULE_FIELDS, because="--tune chooses the rules")
        return _tune(session, asked.tune, asked)
    _refuse_given(
        ("configurations", "model", "budget"), because="only --tune reads a model"
    )
    if asked.labels is None or asked.out is None:
        raise UsageError("Name LABELS to clean and OUT for the result, or --tune.")
    from nnunet_bridge.pipeline.labels.clean import clean_labels

    with session.progress() as progress:
        return clean_labels(
            asked.labels,
            asked.out,
            rule=asked.cleaning_rule(),
            labels_file=asked.labels_file,
            force=asked.force,
            progress=progress,
        )


def _tune(session: Session, dataset_asked: str, asked: _Clean) -> Summary:
    from nnunet_bridge.pipeline.models.choose import ModelRequest
    from nnunet_bridge.pipeline.models.tune import tune_cleaning

    dataset = session.dataset(dataset_asked)
    request = ModelRequest(asked.configurations, budget=asked.budget, kind=asked.model)
    with session.progress() as progress:
        return tune_cleaning(dataset, request, force=asked.force, progress=progress)


_RULE_FIELDS = (
    *("labels", "out", "rule", "ratio"),
    *("min_volume_mm3", "keep", "each_side", "labels_file"),
)


def _refuse_given(names: Sequence[str], *, because: str) -> None:
    """Refuse options of the command line that have no effect beside the others."""
    context = get_current_context()
    found = [
        parameter.get_error_hint(context)
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if found:
        raise UsageError(f"Leave out {', '.join(found)}: {because}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Score:
    predictions: Path = argument(type=shared.EXISTING)
    references: Path = argument(type=shared.EXISTING)
    out: Path = option(
        "-o", "--out", "Folder of scores.csv and scores.json.", type=shared.FOLDER
    )
    tolerance_mm: float = shared.tolerance_field(
        "Distance within which two surfaces agree (NSD)."
    )
    labels_file: Path | None = shared.labels_file_field()
    label_map: tuple[str, ...] = shared.label_map_field()


@command(_Score)
def score(session: Session, asked: _Score) -> Summary:
    """Measure predictions against references: Dice, IoU, HD95, ASSD, NSD, volume.

    Example:  nnunet-bridge score out/ labelsTs/ -o scores

    Example:  nnunet-bridge score theirs/ labelsTs/ -o scores --map femur_left=femur
    """
    from nnunet_bridge.formats.label_map import parse_label_map
    from nnunet_bridge.pipeline.labels.score import ScoreOptions, score_folders

    options = ScoreOptions(
        asked.labels_file,
        parse_label_map(asked.label_map) if asked.label_map else None,
        tolerance_mm=asked.tolerance_mm,
    )
    with session.progress() as progress:
        return score_folders(
            asked.predictions, asked.references, asked.out, options, progress=progress
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mesh:
    labels: Path = argument(type=shared.EXISTING)
    out: Path = option("-o", "--out", "Folder of the mesh files.", type=shared.FOLDER)
    file_format: str = option("--format", "File format.", choices=("ply", "stl", "obj"))
    frame: str = option(
        "--frame",
        "Coordinate system: LPS (DICOM, ITK) or RAS (3D Slicer).",
        choices=("LPS", "RAS"),
    )
    smooth: int = option(
        "--smooth", "Iterations of Taubin smoothing.", type=click.IntRange(0), default=0
    )
    faces: int | None = option(
        "--faces", "Simplify each mesh to at most N faces.", type=click.IntRange(4)
    )
    names: str = option(
        "--names",
        "File names. opensim: femur_l for femur_left.",
        choices=("labels", "opensim"),
    )
    labels_file: Path | None = shared.labels_file_field()
    force: bool = shared.force_field(
        "Keep a mesh whose volume changed by more than 3 %."
    )


@command(_Mesh)
def mesh(session: Session, asked: _Mesh) -> Summary:
    """Write the surface of every structure, in patient millimetres.

    Example:  nnunet-bridge mesh out/msk_013/labels.nii.gz -o meshes
    """
    from nnunet_bridge.pipeline.labels.mesh import MeshOptions, mesh_labels

    options = MeshOptions(
        asked.frame,
        asked.file_format,
        asked.names,
        asked.smooth,
        asked.faces,
        asked.force,
        asked.labels_file,
    )
    with session.progress() as progress:
        return mesh_labels(asked.labels, asked.out, options, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    image: Path = argument(type=shared.EXISTING)
    labels: Path | None = argument(type=shared.EXISTING, required=False)
    out: Path = option(
        "-o", "--out", "Picture to write.", type=shared.FILE, metavar="PNG"
    )
    plane: str = option(
        "--plane", "Plane of the slice.", choices=("axial", "coronal", "sagittal")
    )
    slice_number: int | None = option(
        "--slice", "Slice number. [default: the slice with most labelled voxels]"
    )
    every: int | None = option(
        "--every",
        "Show every N-th slice on one sheet instead, labels over the image.",
        type=shared.COUNT,
    )
    labels_file: Path | None = shared.labels_file_field()
    scans: shared.ScanChoice = part(shared.ScanChoice)
    recipe: str | None = shared.scans_recipe_field()


@command(_View)
def view(session: Session, asked: _View) -> Summary:  # noqa: ARG001 - every command gets a session
    """Draw one slice in three panels: image, labels, overlay.

    Example:  nnunet-bridge view scan_folder labels.nii.gz -o slice.png --plane coronal

    Example:  nnunet-bridge view scan_folder labels.nii.gz -o sheet.png --every 10
    """
    from nnunet_bridge.pipeline.ingest.inputs import read_one_image
    from nnunet_bridge.pipeline.labels.view import ViewOptions, write_view

    options = _series_options(asked.recipe, asked.scans)
    return write_view(
        asked.image,
        asked.labels,
        asked.out,
        ViewOptions(asked.plane, asked.slice_number, asked.every, asked.labels_file),
        read_image=lambda path: read_one_image(path, options).volume,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Results:
    folders: tuple[Path, ...] = argument(
        nargs=-1, required=True, metavar="FOLDER...", type=shared.EXISTING
    )
    out: Path = option(
        "-o", "--out", "Folder of results.csv and codebook.csv.", type=shared.FOLDER
    )
    cases: Path | None = option(
        "--cases",
        "Case table, for the columns patient and visit. The result is then private.",
        type=shared.FILE,
    )


@command(_Results)
def results(_session: Session, asked: _Results) -> Summary:
    """Gather volumes, scores and ratings of a study in one table with a codebook.

    FOLDER: what `predict`, `score` or `run` wrote, with all folders in it. A row is a
    structure of a case, for R, SPSS and Excel.

    Example:  nnunet-bridge results work/results -o tables --cases study/cases.csv
    """
    from nnunet_bridge.pipeline.prediction.results import gather_results

    return gather_results(asked.folders, asked.out, asked.cases)
