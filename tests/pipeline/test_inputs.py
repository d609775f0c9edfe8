"""Which images the words of a command mean."""

import numpy as np
import pytest

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.nifti import write_volume
from nnunet_bridge.pipeline.inputs import case_id_of, find_images, read_image


@pytest.fixture
def volume():
    voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    return Volume(Grid((4, 5, 6), np.diag([1.0, 1.0, 3.0, 1.0])), voxels)


def test_nifti_files_are_named_without_channel_and_ending(tmp_path, volume):
    write_volume(tmp_path / "msk_013_0000.nii.gz", volume)
    write_volume(tmp_path / "msk_014_0000.nii.gz", volume)

    assert [s.case_id for s in find_images([tmp_path])] == ["msk_013", "msk_014"]


def test_a_folder_of_folders_is_a_study(tmp_path):
    for name in ("6_WATER_9B", "7_WATER_3C"):
        (tmp_path / "Raw DICOM MRI Scans" / name).mkdir(parents=True)

    assert [s.case_id for s in find_images([tmp_path])] == ["6_WATER_9B", "7_WATER_3C"]


def test_a_folder_with_files_is_one_series(tmp_path):
    folder = tmp_path / "scan"
    folder.mkdir()
    (folder / "IM-0001").write_bytes(b"")

    assert [s.path for s in find_images([folder])] == [folder]


def test_F02_two_images_with_one_name_are_refused(tmp_path, volume):
    write_volume(tmp_path / "a" / "knee_0000.nii.gz", volume)
    write_volume(tmp_path / "b" / "Knee_0000.nii.gz", volume)

    with pytest.raises(InputError, match="would both be called") as caught:
        find_images([tmp_path / "a", tmp_path / "b"])

    assert caught.value.code == "F02"


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_path_without_an_image_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()

    with pytest.raises(InputError, match=name):
        find_images([tmp_path / name])


def test_a_file_that_is_no_nifti_is_refused(tmp_path):
    (tmp_path / "scan.png").write_bytes(b"")

    with pytest.raises(InputError, match="no NIfTI file"):
        find_images([tmp_path / "scan.png"])


@pytest.mark.parametrize(
    ("name", "case_id"),
    [
        ("../../etc", "etc"),
        ("knee_0000_0001.nii", "knee"),
        ("-rf", "rf"),
        ("jambe gauche é.nii.gz", "jambe-gauche"),
        ("\u202egpj", "gpj"),
    ],
)
def test_F02_a_hostile_name_becomes_a_harmless_id(tmp_path, name, case_id):
    assert case_id_of(tmp_path / name) == case_id


def test_the_hash_of_an_image_holds_its_voxels_and_its_place(tmp_path, volume):
    moved = Volume(Grid((4, 5, 6), np.diag([1.0, 1.0, 3.5, 1.0])), volume.voxels)
    other = volume.with_voxels(volume.voxels + np.int16(1))
    hashes = set()
    for number, image in enumerate((volume, moved, other, volume)):
        write_volume(tmp_path / f"{number}.nii.gz", image)
        hashes.add(read_image(tmp_path / f"{number}.nii.gz").sha256())

    assert len(hashes) == 3
