"""The raw dataset is checked by us, and split by patient."""

import numpy as np
import pytest

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.files import read_json, write_json
from nnunet_bridge.formats.nifti import write_labelmap, write_volume
from nnunet_bridge.nnunet.dataset import RawDataset

TABLE = LabelTable.from_names(["tibia", "femur"])


def grid(origin_mm=0.0, size=6):
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[0, 3] = origin_mm
    return Grid((size, 6, 6), affine)


def write_case(folder, case, *, image_grid=None, label_grid=None):
    image_grid, label_grid = image_grid or grid(), label_grid or grid()
    voxels = np.arange(np.prod(image_grid.shape), dtype=np.int16)
    write_volume(
        folder / "imagesTr" / f"{case}_0000.nii.gz",
        Volume(image_grid, voxels.reshape(image_grid.shape)),
    )
    labels = np.zeros(label_grid.shape, np.uint8)
    labels[1:3, 1:3, 1:3] = 1
    write_labelmap(
        folder / "labelsTr" / f"{case}.nii.gz", Labelmap(label_grid, labels, TABLE)
    )


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "Dataset001_Tibia"
    write_case(folder, "msk_001")
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, "tibia": 1, "femur": 2},
            "numTraining": 1,
            "file_ending": ".nii.gz",
        },
    )
    return folder


def test_a_good_dataset_passes(folder):
    raw = RawDataset.open(folder)

    raw.check()

    assert raw.labels.names == ("tibia", "femur")
    assert raw.training_cases() == ["msk_001"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"origin_mm": 5.0}, r"image and label lie 5\.000 mm"),
        ({"size": 5}, r"its image has \(6, 6, 6\)"),
    ],
)
def test_N01_a_label_on_another_grid_than_its_image_is_refused(folder, other, words):
    write_case(folder, "msk_002", label_grid=grid(**other))

    with pytest.raises(InputError, match=f"msk_002: {words}"):
        RawDataset.open(folder).check()


def test_N01_every_fault_is_reported_at_once(folder):
    write_case(folder, "msk_002", label_grid=grid(origin_mm=5.0))
    write_case(folder, "msk_003")
    (folder / "imagesTr" / "msk_003_0000.nii.gz").unlink()
    write_case(folder, "msk_004")
    (folder / "labelsTr" / "msk_004.nii.gz").unlink()

    with pytest.raises(InputError) as caught:
        RawDataset.open(folder).check()

    assert "msk_002: image and label lie" in str(caught.value)
    assert "msk_003: its label has no image" in str(caught.value)
    assert "msk_004: its image has no label" in str(caught.value)


def test_K19_a_truncated_label_is_refused(folder):
    file = folder / "labelsTr" / "msk_001.nii.gz"
    file.write_bytes(file.read_bytes()[:-9])

    with pytest.raises(InputError, match=r"msk_001: \[K19\].*is damaged"):
        RawDataset.open(folder).check()


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ({"tibia": 1}, "0 must be 'background'"),
        ({"background": 0, "tibia": 1, "femur": 3}, "without gap"),
    ],
)
def test_N01_labels_that_nnunet_would_not_take_are_refused(folder, labels, complaint):
    write_json(
        folder / "dataset.json", {"channel_names": {"0": "MRI"}, "labels": labels}
    )

    with pytest.raises(InputError, match=complaint):
        RawDataset.open(folder)


def test_N01_files_elsewhere_that_nnunet_would_take_instead_are_refused(folder):
    """Their names become names of files that nnU-Net writes."""
    described = read_json(folder / "dataset.json")
    described["dataset"] = {"../../elsewhere": {"images": ["a"], "label": "b"}}
    write_json(folder / "dataset.json", described)

    with pytest.raises(InputError, match="names files itself"):
        RawDataset.open(folder).check()


def test_a_folder_without_dataset_json_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="run `convert` first"):
        RawDataset.open(tmp_path)
