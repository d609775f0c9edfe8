"""`predict`, `clean`, `score`, `mesh` and `view`."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from nnunet_bridge.cli.options import (
    EXISTING,
    FILE,
    FOLDER,
    dataset_argument,
    device_option,
    finished_budget_option,
    folds_option,
    force_option,
    labels_option,
    model_option,
    predicting_configurations_option,
)
from nnunet_bridge.cli.session import Session, bridge_command
from nnunet_bridge.core.summary import Summary


@click.command()
@dataset_argument
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=EXISTING)
@click.option("-o", "--out", type=FOLDER, required=True, help="One folder a case.")
@predicting_configurations_option
@folds_option
@model_option
@finished_budget_option
@device_option
@click.option(
    "--clean",
    type=click.Choice(["none", "slice", "volume"]),
    default="none",
    show_default=True,
    help="How to clean the prediction; what changed is recorded.",
)
@click.option("--mesh", "meshes", is_flag=True, help="Also write PLY meshes.")
@click.option("--image-type", help="Which contrast of a mixed series, e.g. WATER.")
@force_option
@bridge_command
def predict(
    session: Session,
    dataset: str,
    inputs: tuple[Path, ...],
    out: Path,
    configurations: tuple[str, ...],
    folds: tuple[str, ...],
    model: str,  # noqa: ARG001 - there is one so far
    budget: str | None,
    device: str,
    clean: str,
    image_type: str | None,
    *,
    meshes: bool,
    force: bool,
) -> Summary:
    """Predict DICOM folders, studies of them, or NIfTI files.

    Several configurations give their mean.

    Example:  nnunet-bridge predict 1 new_patient/ -o out -c 3d_fullres --mesh
    """
    from nnunet_bridge.nnunet.names import Workspace, find_dataset
    from nnunet_bridge.pipeline.predict import PredictionOptions, predict_images

    workspace = Workspace.at(session.root)
    options = PredictionOptions(clean, meshes, image_type, force)
    with session.progress() as progress:
        return predict_images(
            workspace,
            find_dataset(workspace, dataset),
            inputs,
            out,
            configurations=configurations,
            folds=folds,
            budget=budget,
            device=device,
            options=options,
            progress=progress,
        )


@click.command()
@click.argument("labels", type=EXISTING)
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--rule",
    type=click.Choice(["slice", "volume"]),
    default="slice",
    show_default=True,
    help="slice: the source report's rule. volume: in three dimensions.",
)
@click.option("--ratio", type=click.FloatRange(0, 1), default=0.01, show_default=True)
@click.option("--min-volume-mm3", type=click.FloatRange(0), default=None)
@labels_option
@force_option
@bridge_command
def clean(
    session: Session,
    labels: Path,
    out: Path,
    rule: str,
    ratio: float,
    min_volume_mm3: float | None,
    labels_file: Path | None,
    *,
    force: bool,
) -> Summary:
    """Fill holes and remove specks in a labelmap, or in a folder of them.

    Example:  nnunet-bridge clean predictions cleaned --rule volume --min-volume-mm3 500
    """
    from nnunet_bridge.pipeline.evaluate import clean_labels

    with session.progress() as progress:
        return clean_labels(
            labels,
            out,
            rule=rule,
            ratio=ratio,
            min_volume_mm3=min_volume_mm3,
            labels_file=labels_file,
            force=force,
            progress=progress,
        )


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
@bridge_command
def score(
    session: Session,
    predictions: Path,
    references: Path,
    out: Path,
    labels_file: Path | None,
    tolerance_mm: float,
) -> Summary:
    """Measure predictions against references: Dice, HD95, ASSD, NSD, volume.

    Example:  nnunet-bridge score out/ labelsTs/ -o scores
    """
    from nnunet_bridge.pipeline.evaluate import score_folders

    with session.progress() as progress:
        return score_folders(
            predictions,
            references,
            out,
            labels=labels_file,
            tolerance_mm=tolerance_mm,
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
    "--force", is_flag=True, help="Keep a smoothing that changes a volume by over 3 %."
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
    *,
    force: bool,
) -> Summary:
    """Write the surface of every structure, in patient millimetres.

    Example:  nnunet-bridge mesh out/msk_013/labels.nii.gz -o meshes
    """
    from nnunet_bridge.pipeline.evaluate import mesh_labels

    with session.progress() as progress:
        return mesh_labels(
            labels,
            out,
            labels_file=labels_file,
            frame=frame,
            smooth=smooth,
            file_format=file_format,
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
@labels_option
@bridge_command
def view(
    session: Session,  # noqa: ARG001 - every command gets it
    image: Path,
    labels: Path | None,
    out: Path,
    plane: str,
    slice_number: int | None,
    labels_file: Path | None,
) -> Summary:
    """Picture one slice three ways: image, labels, overlay.

    Example:  nnunet-bridge view scan_folder labels.nii.gz -o slice.png --plane coronal
    """
    from nnunet_bridge.pipeline.inputs import read_image
    from nnunet_bridge.pipeline.report import write_view

    return write_view(
        image,
        labels,
        out,
        plane=plane,
        slice_number=slice_number,
        read_image=lambda path: read_image(path).volume,
        labels_file=labels_file,
    )
