"""`predict`, `clean`, `score`, `mesh` and `view`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click
from click import get_current_context
from click.core import ParameterSource

from nnunet_bridge.cli.options import (
    CONFIGURATIONS,
    EXISTING,
    FILE,
    FOLDER,
    dataset_argument,
    device_option,
    finished_budget_option,
    finished_model_option,
    folds_option,
    force_option,
    label_map_option,
    labels_option,
    predicting_configurations_option,
    region_options,
    scan_options,
    scans_recipe_option,
)
from nnunet_bridge.cli.session import Session, bridge_command
from nnunet_bridge.core.cleaning import DEFAULT_MIN_VOLUME_MM3, CleaningRule
from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.summary import Summary


@click.command()
@dataset_argument
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=EXISTING)
@click.option("-o", "--out", type=FOLDER, required=True, help="One folder a case.")
@predicting_configurations_option
@folds_option
@finished_model_option
@finished_budget_option
@device_option
@click.option(
    "--clean",
    type=click.Choice(["none", "slice", "volume", "tuned"]),
    default="none",
    show_default=True,
    help="How to clean the prediction; what changed is recorded. tuned: as "
    "`clean --tune` chose for this model.",
)
@click.option("--mesh", "meshes", is_flag=True, help="Also write PLY meshes.")
@click.option(
    "--seg-nrrd", is_flag=True, help="Also write a segmentation for 3D Slicer."
)
@click.option(
    "--dicom-seg", is_flag=True, help="Also write DICOM SEG; it names the patient."
)
@region_options
@scans_recipe_option
@scan_options
@force_option
@bridge_command
def predict(
    session: Session,
    dataset: str,
    inputs: tuple[Path, ...],
    out: Path,
    configurations: tuple[str, ...],
    folds: tuple[str, ...],
    model: str | None,
    budget: str | None,
    device: str,
    clean: str,
    recipe_name: str | None,
    scans: dict[str, Any],
    region: dict[str, Any],
    *,
    meshes: bool,
    seg_nrrd: bool,
    dicom_seg: bool,
    force: bool,
) -> Summary:
    """Predict DICOM folders, studies of them, zips, or NIfTI files.

    Several configurations give their mean.

    Example:  nnunet-bridge predict 1 new_patient/ -o out -c 3d_fullres --mesh
    """
    from nnunet_bridge.nnunet.names import Workspace, find_dataset
    from nnunet_bridge.pipeline.ingest.cases import series_choices
    from nnunet_bridge.pipeline.prediction.first_pass import RegionWish
    from nnunet_bridge.pipeline.prediction.options import PredictionOptions
    from nnunet_bridge.pipeline.prediction.predict import predict_images

    workspace = Workspace.at(session.root)
    options = PredictionOptions(
        clean=clean,
        meshes=meshes,
        scans=series_choices(recipe_name, scans),
        region=RegionWish.from_words(**region),
        force=force,
        seg_nrrd=seg_nrrd,
        dicom_seg=dicom_seg,
    )
    with session.progress() as progress:
        return predict_images(
            workspace,
            find_dataset(workspace, dataset),
            inputs,
            out,
            configurations=configurations,
            folds=folds,
            budget=budget,
            model=model,
            device=device,
            options=options,
            progress=progress,
        )


@click.command()
@click.argument("labels", type=EXISTING, required=False)
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option(
    "--rule",
    type=click.Choice(["slice", "volume"]),
    default="slice",
    show_default=True,
    help="slice: the source report's rule. volume: in three dimensions.",
)
@click.option("--ratio", type=click.FloatRange(0, 1), default=0.01, show_default=True)
@click.option(
    "--min-volume-mm3",
    type=click.FloatRange(0),
    default=None,
    help="volume: remove smaller pieces. [default: 500]",
)
@click.option(
    "--keep",
    type=click.IntRange(1),
    default=None,
    metavar="N",
    help="volume: of each label keep the N largest pieces at most.",
)
@click.option(
    "--each-side",
    is_flag=True,
    help="With --keep: N left and N right, where a label holds both sides.",
)
@labels_option
@click.option(
    "--tune",
    metavar="DATASET",
    default=None,
    help="Choose the rule of each structure on a model's own validation instead.",
)
@click.option(
    "-c",
    "--configuration",
    "configurations",
    multiple=True,
    type=click.Choice(CONFIGURATIONS),
    help="With --tune, once for each. [default: the one that predict takes]",
)
@finished_model_option
@finished_budget_option
@force_option
@bridge_command
def clean(
    session: Session,
    labels: Path | None,
    out: Path | None,
    rule: str,
    ratio: float,
    min_volume_mm3: float | None,
    keep: int | None,
    labels_file: Path | None,
    tune: str | None,
    configurations: tuple[str, ...],
    model: str | None,
    budget: str | None,
    *,
    each_side: bool,
    force: bool,
) -> Summary:
    """Fill holes and remove specks in a labelmap, or in a folder of them.

    With --tune, no labels are cleaned: the rule of each structure is chosen on the
    predictions that the model made in its cross-validation, and stored with the model
    for `predict --clean tuned`.

    Example:  nnunet-bridge clean predictions cleaned --rule volume --min-volume-mm3 500

    Example:  nnunet-bridge clean --tune 1 -c 2d
    """
    if tune is not None:
        _refuse_words("labels", "out", *_RULE_WORDS, because="--tune chooses the rules")
        from nnunet_bridge.nnunet.names import Workspace, find_dataset
        from nnunet_bridge.pipeline.models.tune import tune_cleaning

        workspace = Workspace.at(session.root)
        with session.progress() as progress:
            return tune_cleaning(
                workspace,
                find_dataset(workspace, tune),
                configurations=configurations,
                budget=budget,
                kind=model,
                force=force,
                progress=progress,
            )
    _refuse_words(
        "configurations", "model", "budget", because="only --tune reads a model"
    )
    if labels is None or out is None:
        raise UsageError("Name LABELS to clean and OUT for the result, or --tune.")
    from nnunet_bridge.pipeline.labels.clean import clean_labels

    cleaning = _cleaning_rule(
        rule, ratio, min_volume_mm3, keep_largest=keep, each_side=each_side
    )

    with session.progress() as progress:
        return clean_labels(
            labels,
            out,
            rule=cleaning,
            labels_file=labels_file,
            force=force,
            progress=progress,
        )


_RULE_WORDS = ("rule", "ratio", "min_volume_mm3", "keep", "each_side", "labels_file")


def _cleaning_rule(
    name: str,
    ratio: float,
    min_volume_mm3: float | None,
    *,
    keep_largest: int | None,
    each_side: bool,
) -> CleaningRule:
    """Return the rule that the words of the command mean."""
    if name == "slice" and keep_largest is not None:
        raise UsageError(
            "How many pieces stay is a matter of the rule volume: add --rule volume."
        )
    if each_side and keep_largest is None:
        raise UsageError("How many pieces may stay on each side? Add --keep N.")
    smallest = DEFAULT_MIN_VOLUME_MM3 if min_volume_mm3 is None else min_volume_mm3
    return CleaningRule(name, ratio, smallest, keep_largest, each_side=each_side)


def _refuse_words(*names: str, because: str) -> None:
    """Refuse words of the command line that the other words leave without meaning."""
    context = get_current_context()
    said = [
        parameter.get_error_hint(context)
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if said:
        raise UsageError(f"Leave out {', '.join(said)}: {because}.")


@click.command()
@click.argument("predictions", type=EXISTING)
@click.argument("references", type=EXISTING)
@click.option("-o", "--out", type=FOLDER, required=True, help="For scores.csv, .json.")
@labels_option
@click.option(
    "--tolerance-mm",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Distance within which two surfaces agree (NSD).",
)
@label_map_option
@bridge_command
def score(
    session: Session,
    predictions: Path,
    references: Path,
    out: Path,
    labels_file: Path | None,
    tolerance_mm: float,
    map_words: tuple[str, ...],
) -> Summary:
    """Measure predictions against references: Dice, IoU, HD95, ASSD, NSD, volume.

    Example:  nnunet-bridge score out/ labelsTs/ -o scores

    Example:  nnunet-bridge score theirs/ labelsTs/ -o scores --map femur_left=femur
    """
    from nnunet_bridge.pipeline.labels.score import score_folders

    with session.progress() as progress:
        return score_folders(
            predictions,
            references,
            out,
            labels=labels_file,
            tolerance_mm=tolerance_mm,
            map_words=map_words,
            progress=progress,
        )


@click.command()
@click.argument("labels", type=EXISTING)
@click.option("-o", "--out", type=FOLDER, required=True, help="For the mesh files.")
@labels_option
@click.option(
    "--frame", type=click.Choice(["LPS", "RAS"]), default="LPS", show_default=True
)
@click.option("--smooth", type=click.IntRange(0), default=0, help="Taubin iterations.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["ply", "stl", "obj"]),
    default="ply",
    show_default=True,
)
@click.option(
    "--names",
    type=click.Choice(["labels", "opensim"]),
    default="labels",
    show_default=True,
    help="How files are called. opensim: femur_l for femur_left.",
)
@click.option(
    "--faces", type=click.IntRange(4), default=None, help="At most so many each."
)
@click.option(
    "--force", is_flag=True, help="Keep a mesh whose volume changed by over 3 %."
)
@bridge_command
def mesh(
    session: Session,
    labels: Path,
    out: Path,
    labels_file: Path | None,
    frame: str,
    smooth: int,
    file_format: str,
    names: str,
    faces: int | None,
    *,
    force: bool,
) -> Summary:
    """Write the surface of every structure, in patient millimetres.

    Example:  nnunet-bridge mesh out/msk_013/labels.nii.gz -o meshes
    """
    from nnunet_bridge.pipeline.labels.mesh import mesh_labels

    with session.progress() as progress:
        return mesh_labels(
            labels,
            out,
            labels_file=labels_file,
            frame=frame,
            smooth=smooth,
            file_format=file_format,
            names=names,
            faces=faces,
            force=force,
            progress=progress,
        )


@click.command()
@click.argument("image", type=EXISTING)
@click.argument("labels", type=EXISTING, required=False)
@click.option("-o", "--out", type=FILE, required=True, metavar="PNG")
@click.option(
    "--plane",
    type=click.Choice(["axial", "coronal", "sagittal"]),
    default="axial",
    show_default=True,
)
@click.option(
    "--slice",
    "slice_number",
    type=int,
    default=None,
    help="[default: the one with most labelled voxels]",
)
@click.option(
    "--every",
    type=click.IntRange(1),
    default=None,
    metavar="N",
    help="Every N-th slice on one sheet instead, labels over the image.",
)
@labels_option
@scans_recipe_option
@scan_options
@bridge_command
def view(
    session: Session,  # noqa: ARG001 - every command gets it
    image: Path,
    labels: Path | None,
    out: Path,
    plane: str,
    slice_number: int | None,
    every: int | None,
    labels_file: Path | None,
    recipe_name: str | None,
    scans: dict[str, Any],
) -> Summary:
    """Picture one slice three ways: image, labels, overlay.

    Example:  nnunet-bridge view scan_folder labels.nii.gz -o slice.png --plane coronal

    Example:  nnunet-bridge view scan_folder labels.nii.gz -o sheet.png --every 10
    """
    from nnunet_bridge.pipeline.ingest.cases import series_choices
    from nnunet_bridge.pipeline.ingest.inputs import read_one_image
    from nnunet_bridge.pipeline.labels.view import write_view

    choices = series_choices(recipe_name, scans)
    return write_view(
        image,
        labels,
        out,
        plane=plane,
        slice_number=slice_number,
        every=every,
        read_image=lambda path: read_one_image(path, choices).volume,
        labels_file=labels_file,
    )
