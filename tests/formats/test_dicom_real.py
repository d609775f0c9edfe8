"""Real series: each is converted as its reference says, or refused for its fault."""

import nibabel
import numpy as np
import pytest

from nnunet_bridge.core.findings import Outcome, worst
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.formats.dicom import SeriesOptions, SeriesRefused, read_series
from nnunet_bridge.formats.slicer import read_mask, read_segments
from nnunet_bridge.ops.regrid import placed_on

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def in_order_of(volume, reference):
    """Return reference voxels and grid, axes swapped and flipped to the volume's."""
    to_volume = np.linalg.inv(volume.grid.affine) @ LPS @ reference.affine
    turn = np.rint(to_volume[:3, :3] / np.abs(to_volume[:3, :3]).max(axis=0))
    order = [int(np.abs(row).argmax()) for row in turn]
    voxels = np.asarray(reference.dataobj)
    voxels = voxels.reshape(voxels.shape[:3]).transpose(order)
    affine = (LPS @ reference.affine)[:, [*order, 3]]
    for axis, source in enumerate(order):
        if turn[axis, source] < 0:
            voxels = np.flip(voxels, axis)
            affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
            affine[:3, axis] *= -1
    return voxels, Grid(voxels.shape, affine)


@pytest.mark.parametrize(
    ("folder", "reference", "options"),
    [
        ("ico_ge_sag", "001_ground_truth.nii.gz", {}),
        ("ico_generic_sag", "001_ground_truth.nii.gz", {}),
        ("ico_generic_sag_j2k", "001_ground_truth.nii.gz", {}),
        ("ico_generic_sag_rle", "001_ground_truth.nii.gz", {}),
        ("ico_philips_enhanced", "001_ground_truth.nii.gz", {}),
        ("siemens_axial_obl_T1post", "ref_dcm2niix_local/dcm_11_e1.nii.gz", {}),
        ("siemens_gre_2echo", "Ref/me_FieldMap_GRE_2_e1.nii", {"echo": 1}),
        ("siemens_gre_2echo", "Ref/me_FieldMap_GRE_2_e2.nii", {"echo": 2}),
    ],
)
def test_a_real_series_equals_its_reference(test_data, folder, reference, options):
    home = test_data / "dicom" / folder
    volume = read_series(home / "dcm", SeriesOptions(**options)).volume

    voxels, grid = in_order_of(volume, nibabel.load(home / reference))

    assert volume.grid.displacement_mm(grid) <= 0.01
    np.testing.assert_allclose(volume.voxels, voxels, rtol=1e-5)


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("ico_fail_missing_slice", "G03"),
        ("ico_fail_orientation", "D15"),
        ("siemens_gre_2echo", "D05"),
        ("siemens_mosaic_ts", "D12"),
    ],
)
def test_a_real_fault_is_refused_by_its_name(test_data, folder, code):
    with pytest.raises(SeriesRefused) as caught:
        read_series(test_data / "dicom" / folder / "dcm")

    assert caught.value.code == code


def test_headers_that_a_script_wrote_are_read_with_a_warning(test_data):
    reading = read_series(test_data / "dicom" / "headerless_HCropVolume" / "dcm")

    assert reading.volume.grid.shape == (34, 50, 40)
    assert worst(reading.findings) is Outcome.WARNED


def test_a_real_label_lies_on_its_real_series(test_data):
    home = test_data / "dicom_seg" / "totalseg_ct_j2k"
    grid = read_series(home / "dcm").volume.grid
    labels = nibabel.load(home / "seg_multiclass.nii.gz")
    voxels = np.asarray(labels.dataobj) > 0

    placed = placed_on(grid, Grid(voxels.shape, LPS @ labels.affine), voxels, name="m")

    assert placed.method == "pasted"
    assert placed.voxels_before == placed.voxels_after == int(voxels.sum())


def test_real_nrrd_masks_lie_on_their_series(test_data):
    home = test_data / "dicom_seg" / "dcmqi_ct3"
    grid = read_series(home / "dcm").volume.grid

    for name in ("liver_seg", "heart_seg", "spine_seg", "spine_seg_label5"):
        mask = read_mask(home / f"{name}.nrrd", name=name)
        placed = placed_on(grid, mask.grid, mask.voxels, name=name)
        assert placed.method == "same grid"
        assert placed.voxels_after > 0


def test_real_slicer_segmentations_are_read(test_data):
    home = test_data / "seg" / "slicerio"

    one_layer = list(read_segments(home / "Segmentation.seg.nrrd"))
    two_layers = list(read_segments(home / "SegmentationOverlapping.seg.nrrd"))

    assert [s.name for s in one_layer][:2] == ["ribs", "cervical vertebral column"]
    assert len(one_layer) == 7
    assert len(two_layers) == 8
    assert two_layers[-1].name == "overlapping sphere"
    others = np.any([segment.voxels for segment in two_layers[:-1]], axis=0)
    assert (two_layers[-1].voxels & others).any()
    assert all(segment.voxels.any() for segment in two_layers)
