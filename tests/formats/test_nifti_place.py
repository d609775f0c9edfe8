"""The place of a NIfTI file on thousands of grids, held against two other readers."""

import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from scipy.spatial.transform import Rotation

from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.nifti import read_volume, write_volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
GRIDS = pytest.mark.parametrize(
    "count", [300, pytest.param(10_000, marks=pytest.mark.long)]
)
SHAPES = [(600, 2, 2), (2, 600, 2), (2, 2, 300), (40, 1, 1), (9, 8, 7)]
SFORM_CODE, QUATERN_B, PIXDIM, QOFFSET_X = 254, 256, 76, 268
"""Offsets in a NIfTI-1 header."""


def grids(count):
    """Yield grids as scanners and programs make them: tilted, turned, mirrored."""
    random = np.random.default_rng(16)
    for number in range(count):
        tilt = [5, 5, 45, 180, 10 ** random.uniform(-5, 1)][number % 5]
        angles = random.uniform(-tilt, tilt, 3) * random.permutation([1, 1, 0])
        axes = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
        axes = axes[:, random.permutation(3)] * random.choice([-1, 1], 3)
        if number % 7 == 0:
            axes[:, 2] += axes[:, :2] @ random.uniform(-4e-5, 4e-5, 2)
        elif number % 7 == 1:  # six digits, as many scanners store cosines
            axes = np.round(axes, 6)
            axes[:, 2] = np.cross(axes[:, 0], axes[:, 1]) * np.linalg.det(axes)
        affine = np.eye(4)
        affine[:3, :3] = axes * random.uniform(0.3, 6, 3)
        affine[:3, 3] = random.uniform(-900, 900, 3)
        yield Grid(SHAPES[random.integers(len(SHAPES))], affine)


def zeros(grid):
    return np.zeros(grid.shape, np.uint8)


def sheared_mm(grid):
    """Return how far ITK may move a voxel: it keeps directions perpendicular."""
    directions = grid.affine[:3, :3] / grid.spacing_mm
    shear = np.abs(directions.T @ directions - np.eye(3)).max()
    return 2 * shear * float(np.linalg.norm(grid.shape * grid.spacing_mm))


def by_itk(file, shape):
    """Return the grid that SimpleITK, and with it nnU-Net's reader, sees."""
    image = sitk.ReadImage(str(file))
    affine = np.eye(4)
    axes = np.reshape(image.GetDirection(), (3, 3))
    affine[:3, :3], affine[:3, 3] = axes * image.GetSpacing(), image.GetOrigin()
    return Grid(shape, affine)


def without_sform(file):
    """Let a reader see the qform alone."""
    content = bytearray(file.read_bytes())
    content[SFORM_CODE : SFORM_CODE + 2] = struct.pack("<h", 0)
    file.write_bytes(content)


@GRIDS
def test_K11_every_reader_finds_our_files_where_the_grid_lies(tmp_path, count):
    file, without_qform = tmp_path / "a.nii", 0
    for grid in grids(count):
        write_volume(file, Volume(grid, zeros(grid)))

        assert read_volume(file).grid.displacement_mm(grid) < 1e-3
        image = nibabel.load(file)
        assert Grid(grid.shape, LPS @ image.affine).displacement_mm(grid) < 1e-3
        assert by_itk(file, grid.shape).displacement_mm(grid) < 2e-3 + sheared_mm(grid)
        bound_mm = 0.011 * grid.spacing_mm.min()
        qform, code = image.get_qform(coded=True)
        without_qform += code == 0
        if code:
            assert Grid(grid.shape, LPS @ qform).displacement_mm(grid) < bound_mm
            without_sform(file)
            assert by_itk(file, grid.shape).displacement_mm(grid) < bound_mm

    assert 0 < without_qform < 0.9 * count


@GRIDS
def test_K11_files_of_simpleitk_and_nibabel_are_read_where_their_sform_is(
    tmp_path, count
):
    """Both store the nearest float32 quaternion, however far it turns the image."""
    file, turned = tmp_path / "a.nii", 0
    for grid in grids(count):
        image = sitk.GetImageFromArray(zeros(grid).transpose())
        image.SetSpacing(grid.spacing_mm)
        image.SetDirection((grid.affine[:3, :3] / grid.spacing_mm).ravel())
        image.SetOrigin(grid.affine[:3, 3])
        sitk.WriteImage(image, str(file))

        assert read_volume(file).grid.displacement_mm(grid) < 2e-3 + sheared_mm(grid)

        affine = LPS @ grid.affine
        nibabel.save(with_forms(grid, affine, affine), file)

        assert read_volume(file).grid.displacement_mm(grid) < 1e-3
        qform = Grid(grid.shape, LPS @ nibabel.load(file).get_qform())
        turned += qform.displacement_mm(grid) > 0.01 * grid.spacing_mm.min()

    assert turned > count / 20, "the grids hold none that float32 turns"


def with_forms(grid, sform, qform):
    image = nibabel.Nifti1Image(zeros(grid), None)
    image.set_sform(sform, 1)
    image.set_qform(qform, 1)
    return image


@GRIDS
def test_K11_mirrored_moved_or_stretched_qforms_are_always_refused(tmp_path, count):
    random, file = np.random.default_rng(2), tmp_path / "a.nii"
    for number, grid in enumerate(grids(count)):
        affine = LPS @ grid.affine
        nibabel.save(with_forms(grid, affine, affine), file)
        content = bytearray(file.read_bytes())
        if number % 3 == 0:
            (handedness,) = struct.unpack_from("<f", content, PIXDIM)
            struct.pack_into("<f", content, PIXDIM, -handedness)
        elif number % 3 == 1:
            away = random.normal(size=3)
            far_mm = random.choice([0.012, 0.05, 0.5, 90]) * grid.spacing_mm.min()
            away *= far_mm / np.linalg.norm(away)
            origin = np.array(struct.unpack_from("<3f", content, QOFFSET_X)) + away
            struct.pack_into("<3f", content, QOFFSET_X, *origin)
        else:
            axis = int(np.argmax(grid.shape))
            at = PIXDIM + 4 * (1 + axis)
            (size,) = struct.unpack_from("<f", content, at)
            more = 0.012 * grid.spacing_mm.min() / (grid.shape[axis] - 1)
            struct.pack_into("<f", content, at, size + more)
        file.write_bytes(content)

        with pytest.raises(Refused, match="sform and qform") as caught:
            read_volume(file)

        assert caught.value.code == "K11"


@pytest.mark.parametrize("degrees", [0.2, 1, 90])
def test_K11_a_turned_qform_is_refused_near_half_a_turn_too(tmp_path, degrees):
    file = tmp_path / "a.nii"
    grid = Grid((600, 2, 2), np.diag([0.7, 0.7, 3.0, 1.0]))
    affine = LPS @ grid.affine  # by half a turn about z
    for axis in "xyz":
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
        nibabel.save(with_forms(grid, affine, affine @ turn), file)
        if axis == "x" and degrees < 1:
            continue  # moves no voxel of so thin an image

        with pytest.raises(Refused, match="sform and qform"):
            read_volume(file)


def test_K11_a_grid_too_sheared_for_a_sform_alone_keeps_its_qform_for_itk(tmp_path):
    axes = Rotation.align_vectors([[1, 0, 0]], [[1, 1, 1]])[0].as_matrix()
    shear = np.array([[1, 9e-5, 9e-5], [0, 1, 9e-5], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = axes @ shear * [0.5, 0.5, 3]
    grid, file = Grid((9, 8, 7), affine), tmp_path / "a.nii"
    alone = with_forms(grid, LPS @ affine, LPS @ affine)
    alone.header["qform_code"] = 0
    nibabel.save(alone, file)
    with pytest.raises(RuntimeError, match="orthonormal"):
        by_itk(file, grid.shape)

    write_volume(file, Volume(grid, zeros(grid)))

    assert by_itk(file, grid.shape).displacement_mm(grid) < 0.005
    assert read_volume(file).grid.displacement_mm(grid) < 1e-3
