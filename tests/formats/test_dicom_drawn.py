"""DICOM SEG and RTSTRUCT as masks: every voxel, closed forms, other scans, damage."""

from dataclasses import replace

import numpy as np
import pydicom
import pytest
from dicom_base import base, enhanced, save
from drawn_dicom import completed, write_seg, write_structures

from nnunet_bridge.core.findings import Outcome, Refused
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.formats.dicom import read_series
from nnunet_bridge.formats.dicom.drawn import read_drawn, read_drawn_header
from nnunet_bridge.formats.dicom.segmentation import Algorithm, write_dicom_seg
from nnunet_bridge.formats.slicer import NamedValue
from nnunet_bridge.ops.regrid import placed_on

TILTED = (0.8, 0.6, 0, 0, 0, -1)
PLANES = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "tilted": TILTED,
    "feet first": (-1, 0, 0, 0, 1, 0),
}
NAMES = ("femur_left", "tibia_right")


def masks(file, reading, names=(), *, own_names=True, scan=None):
    """Return the masks of a file by name, on the grid of the scan."""
    grid = reading.volume.grid
    found = read_drawn(
        *(file, names), own_names=own_names, grid=grid, scan=scan or reading
    )
    return {
        mask.name: placed_on(grid, mask.grid, mask.voxels, name=mask.name).voxels
        for mask in found
    }


def boxes(shape):
    """Return two structures that no flip and no swap of axes leaves alone."""
    i, j, k = shape
    voxels = np.zeros(shape, np.uint8, order="F")
    voxels[i // 4 : i // 2, j // 4 : j // 2 + 3, 1 : k // 2] = 1
    voxels[i // 2 :, 1 : j // 3, k // 3 : -2] = 2
    voxels[:2, -1, k // 2] = 2
    return voxels


@pytest.fixture(params=PLANES)
def scan(request, tmp_path):
    slices = completed(base(size=24, iop=PLANES[request.param]))
    save(slices, tmp_path / "in")
    return slices, read_series(tmp_path / "in")


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_every_voxel_of_another_programs_seg_is_read(kind, scan, tmp_path):
    slices, reading = scan
    voxels = boxes(reading.volume.grid.shape)
    file = write_seg(tmp_path / "a.dcm", slices, voxels, NAMES, kind)

    found = masks(file, reading)

    assert tuple(found) == read_drawn_header(file).names == NAMES
    for value, name in enumerate(NAMES, start=1):
        np.testing.assert_array_equal(found[name], voxels == value)


@pytest.mark.parametrize("multi_frame", [False, True])
def test_our_own_seg_comes_back_voxel_by_voxel(multi_frame, tmp_path):
    slices = base(size=24, iop=TILTED)
    save([enhanced(slices)] if multi_frame else slices, tmp_path / "in")
    reading = read_series(tmp_path / "in")
    voxels = boxes(reading.volume.grid.shape)
    labelmap = Labelmap(reading.volume.grid, voxels, LabelTable.from_names([*NAMES]))
    model = Algorithm("2d, nnunet, full", "ab" * 32)
    write_dicom_seg(tmp_path / "seg.dcm", labelmap, reading.slices, model)

    found = masks(tmp_path / "seg.dcm", reading)

    for value, name in enumerate(NAMES, start=1):
        np.testing.assert_array_equal(found[name], voxels == value)


@pytest.fixture
def plain(tmp_path):
    slices = completed(base(size=24))
    save(slices, tmp_path / "in")
    return slices, read_series(tmp_path / "in")


def test_rows_name_segments_by_number_and_leave_others_out(plain, tmp_path):
    slices, reading = plain
    voxels = boxes(reading.volume.grid.shape)
    file = write_seg(tmp_path / "a.dcm", slices, voxels, NAMES)

    found = masks(file, reading, [NamedValue(1, ""), NamedValue(2, "fibula")])
    assert list(found) == ["fibula"]
    np.testing.assert_array_equal(found["fibula"], voxels == 2)

    with pytest.raises(Refused, match="segment 2, “tibia_right”"):
        masks(file, reading, [NamedValue(1, "femur")], own_names=False)
    with pytest.raises(Refused, match="names segment 3"):
        masks(file, reading, [NamedValue(3, "femur")])


def test_K07_fractions_of_a_seg_are_refused(plain, tmp_path):
    slices, reading = plain
    voxels = boxes(reading.volume.grid.shape)
    more = {"fractional_type": "PROBABILITY"}
    shares = voxels / 4
    file = write_seg(
        tmp_path / "a.dcm", slices, shares, NAMES[:1], "FRACTIONAL", **more
    )
    with pytest.raises(Refused) as caught:
        masks(file, reading)
    assert caught.value.code == "K07"
    (mask,) = read_drawn(
        file, (), own_names=True, grid=reading.volume.grid, scan=None, threshold=0.4
    )
    assert mask.voxels.sum() == (voxels == 2).sum()


# --- RTSTRUCT


ANGLES = np.linspace(0, 2 * np.pi, 120, endpoint=False)


def circle(grid, centre, radius, k):
    """Return a circle in slice k; centre and radius in voxels."""
    i = centre[0] + radius * np.cos(ANGLES)
    j = centre[1] + radius * np.sin(ANGLES)
    return grid.to_patient(np.stack([i, j, np.full_like(i, k)], axis=1))


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_contours_with_holes_and_several_in_a_slice_are_filled_even_odd(scan, tmp_path):
    slices, reading = scan
    grid = reading.volume.grid
    rings = {
        "femur": [
            ring
            for k in range(2, 9)
            for ring in (
                circle(grid, (8.3, 9.1), 6.4, k),
                circle(grid, (8.3, 9.1), 3.2, k)[::-1],
                circle(grid, (18.2, 17.6), 3.3, k),
            )
        ],
        "Tibia L": [circle(grid, (12, 12), 9.5, 4)],
        "empty": [],
    }
    file = write_structures(tmp_path / "rt.dcm", slices, rings)

    found = masks(file, reading)

    i, j, k = np.meshgrid(*map(np.arange, grid.shape), indexing="ij")
    away, other = np.hypot(i - 8.3, j - 9.1), np.hypot(i - 18.2, j - 17.6)
    drawn = ((away < 6.4) & (away > 3.2)) | (other < 3.3)
    assert dice(found["femur"], drawn & (k >= 2) & (k < 9)) >= 0.99
    whole = (np.hypot(i - 12, j - 12) < 9.5) & (k == 4)
    assert dice(found["Tibia L"], whole) >= 0.99
    assert not found["empty"].any()


def test_contours_across_the_slices_of_the_scan_are_filled_in_their_plane(
    plain, tmp_path
):
    slices, reading = plain
    grid = reading.volume.grid
    ring = np.stack([np.full(120, 7), 12 + 6 * np.cos(ANGLES), 6 + 3 * np.sin(ANGLES)])
    points = grid.to_patient(ring.T)
    file = write_structures(tmp_path / "rt.dcm", slices, {"femur": [points]})

    found = masks(file, reading)["femur"]

    assert np.unique(np.nonzero(found)[0]).tolist() == [7]
    assert 0.9 < found.sum() / (np.pi * 18) < 1.1


@pytest.mark.parametrize(
    ("k", "centre", "code", "words"),
    [
        (4.5, (12, 12), "K29", "1 of 2 contours between slices of the scan"),
        (4.2, (12, 12), "K29", "between slices"),
        (14, (12, 12), "K02", "outside the image"),
        (4, (22, 12), "K02", "outside the image"),
    ],
)
def test_K29_contours_that_miss_the_slices_are_refused(
    k, centre, code, words, plain, tmp_path
):
    slices, reading = plain
    grid = reading.volume.grid
    rings = [circle(grid, centre, 5, k), circle(grid, (12, 12), 5, 3)]
    file = write_structures(tmp_path / "rt.dcm", slices, {"femur": rings})

    with pytest.raises(Refused) as caught:
        masks(file, reading)

    assert (caught.value.code, words in str(caught.value)) == (code, True)


def test_K29_contours_in_a_plane_of_their_own_are_refused(plain, tmp_path):
    slices, reading = plain
    points = circle(reading.volume.grid, (12, 12), 6, 5)
    points[:, 2] += points[:, 0] * 0.6
    file = write_structures(tmp_path / "rt.dcm", slices, {"femur": [points]})

    with pytest.raises(Refused, match="do not lie in slices"):
        masks(file, reading)


def test_K28_the_drawing_of_another_scan_is_refused_and_of_another_series_named(
    plain, tmp_path
):
    slices, reading = plain
    rings = {"femur": [circle(reading.volume.grid, (12, 12), 5, 3)]}
    grid, file = reading.volume.grid, write_structures(tmp_path / "rt", slices, rings)
    header = read_drawn_header(file)
    own = frozenset({reading.series_uid}), reading.frame_of_reference_uid
    assert (header.series, header.frame_of_reference) == own

    other = replace(reading, series_uid="1.2.3")
    (mask,) = read_drawn(file, (), own_names=True, grid=grid, scan=other)
    assert [(f.code, f.outcome) for f in mask.findings] == [("K28", Outcome.WARNED)]
    with pytest.raises(Refused) as caught:
        masks(file, reading, scan=replace(other, frame_of_reference_uid="1.2.4"))
    assert caught.value.code == "K28"
    (mask,) = read_drawn(file, (), own_names=True, grid=grid, scan=None)
    assert mask.findings == ()


def test_S07_a_seg_whose_frames_span_the_world_is_refused_before_memory_is_taken(
    plain, tmp_path
):
    slices, reading = plain
    voxels = boxes(reading.volume.grid.shape)
    file = write_seg(tmp_path / "a.dcm", slices, voxels, NAMES)
    ds = pydicom.dcmread(file)
    last = ds.PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence[0]
    x, y, _ = last.ImagePositionPatient
    last.ImagePositionPatient = [x, y, 4e8]
    ds.save_as(file)

    with pytest.raises(Refused) as caught:
        masks(file, reading)

    assert caught.value.code == "S07"
