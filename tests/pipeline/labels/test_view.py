"""One slice three ways or every n-th on a sheet, from DICOM as from NIfTI."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from small_study import GRID, TIBIA, draw, scan

from nnunet_bridge.cli import main
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.nifti import write_volume
from nnunet_bridge.pipeline.ingest.inputs import read_image
from nnunet_bridge.pipeline.labels.view import ViewOptions, write_view


def pixels(file):
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("choice", [{"slice_number": 5}, {"every": 3}])
def test_a_dicom_folder_and_its_nifti_file_make_the_same_picture(
    tmp_path, plane, choice
):
    folder = scan(tmp_path, 1, "ABC")
    write_volume(tmp_path / "scan.nii.gz", read_image(folder).volume)

    for name, source in (("dicom", folder), ("nifti", tmp_path / "scan.nii.gz")):
        write_view(
            source,
            None,
            tmp_path / f"{name}.png",
            ViewOptions(plane, **choice),
            read_image=lambda path: read_image(path).volume,
        )

    assert (tmp_path / "dicom.png").read_bytes() == (
        tmp_path / "nifti.png"
    ).read_bytes()


@pytest.mark.parametrize(
    ("plane", "axis", "end", "side"),
    [("axial", 0, -1, "right"), ("axial", 1, -1, "bottom"), ("coronal", 2, -1, "top"),
     ("coronal", 0, 0, "left"), ("sagittal", 1, 0, "left"),
     ("sagittal", 2, 0, "bottom")],
)  # fmt: skip
def test_what_lies_at_an_end_of_the_patient_is_drawn_at_its_letter(
    tmp_path, plane, axis, end, side
):
    """Axes of the array run to the left, to the back and to the head."""
    grid = Grid((20, 20, 20), np.eye(4))
    voxels = np.zeros(grid.shape, np.int16)
    np.moveaxis(voxels, axis, 0)[slice(0, 6) if end == 0 else slice(-6, None)] = 1000
    write_volume(tmp_path / "image.nii.gz", Volume(grid, voxels))

    options = ViewOptions(plane, every=30)
    write_view(tmp_path / "image.nii.gz", None, tmp_path / "v.png", options)

    frame = pixels(tmp_path / "v.png").max(axis=2)[4:-4, 4:-4]
    height, width = frame.shape
    share = {
        "left": frame[height // 4, : width // 5],
        "right": frame[height // 4, -width // 5 :],
        "top": frame[: height // 5, width // 4],
        "bottom": frame[-height // 5 :, width // 4],
    }
    bright = {name: float(np.median(part)) for name, part in share.items()}
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
    assert bright[side] > 200
    assert bright[opposite[side]] < 50


def test_the_command_draws_a_sheet_of_a_dicom_folder_with_its_masks(tmp_path):
    folder = scan(tmp_path, 1, "ABC")
    draw(tmp_path, "mask", TIBIA, folder=".", grid=GRID)
    labels = {"labels": {"background": 0, "tibia": 1}, "channel_names": {"0": "MRI"}}
    (tmp_path / "dataset.json").write_text(json.dumps(labels))
    out = tmp_path / "sheet.png"

    result = CliRunner().invoke(
        main,
        [*("view", str(folder), str(tmp_path / "mask.nii.gz"), "-o", str(out)),
         *("--every", "4", "--plane", "coronal", "--json", "-w", str(tmp_path)),
         *("--labels", str(tmp_path / "dataset.json"))],
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["slices"] == list(range(0, 32, 4))
    assert (shown["plane"], shown["slice"]) == ("coronal", None)
    assert out.read_bytes().startswith(b"\x89PNG")
