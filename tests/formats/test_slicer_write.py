"""Segmentations written as by 3D Slicer, read back by this package and by others."""

import hashlib

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everybody knows it by
import slicerio

from nnunet_bridge.core.errors import GeometryError, InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.formats.slicer import read_segments
from nnunet_bridge.formats.slicer_write import (
    write_labelmap_segmentation,
    write_segmentation,
)

RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)
SHAPE = (9, 8, 7)


@pytest.fixture
def grid():
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.7, 0.9, 3.0]
    affine[:3, 3] = [-120.25, 1 / 3, -900.0]
    return Grid(SHAPE, affine)


def box(lows, highs):
    mask = np.zeros(SHAPE, bool)
    mask[tuple(map(slice, lows, highs))] = True
    return mask


APART = [
    ("left tibia", RED, box((1, 1, 1), (4, 5, 6))),
    ("right tibia", GREEN, box((5, 1, 1), (8, 5, 6))),
]
SHARING = [*APART, ("femur left", BLUE, box((2, 2, 2), (7, 4, 4)))]


@pytest.mark.parametrize("segments", [APART, SHARING], ids=["apart", "sharing"])
def test_segments_are_read_back_by_name_in_the_same_place(tmp_path, grid, segments):
    write_segmentation(tmp_path / "1_1B.seg.nrrd", grid, segments)

    found = list(read_segments(tmp_path / "1_1B.seg.nrrd"))

    assert [mask.name for mask in found] == [name for name, _, _ in segments]
    for mask, (_, _, expected) in zip(found, segments, strict=True):
        np.testing.assert_array_equal(mask.voxels, expected)
        assert mask.grid.matches(grid, tolerance_mm=1e-9)


def test_simpleitk_reads_the_same_labels_at_the_same_positions(tmp_path, grid):
    write_segmentation(tmp_path / "1_1B.seg.nrrd", grid, APART)

    image = sitk.ReadImage(str(tmp_path / "1_1B.seg.nrrd"))

    voxels = sitk.GetArrayFromImage(image).transpose()
    np.testing.assert_array_equal(voxels, APART[0][2] + 2 * APART[1][2])
    for corner in ((0, 0, 0), (8, 0, 0), (0, 7, 0), (0, 0, 6), (8, 7, 6)):
        np.testing.assert_allclose(
            image.TransformIndexToPhysicalPoint(corner),
            grid.to_patient(corner),
            atol=1e-6,
        )
    assert image.GetMetaData("Segment1_Name") == "right tibia"


def test_simpleitk_reads_shared_voxels_as_one_component_a_layer(tmp_path, grid):
    write_segmentation(tmp_path / "1_1B.seg.nrrd", grid, SHARING)

    image = sitk.ReadImage(str(tmp_path / "1_1B.seg.nrrd"))

    layers = sitk.GetArrayFromImage(image).transpose(3, 2, 1, 0)
    np.testing.assert_array_equal(layers[0], APART[0][2] + 2 * APART[1][2])
    np.testing.assert_array_equal(layers[1], SHARING[2][2])


def test_label_values_begin_again_in_every_layer(tmp_path, grid):
    write_segmentation(tmp_path / "1_1B.seg.nrrd", grid, SHARING)

    header = nrrd.read_header(str(tmp_path / "1_1B.seg.nrrd"))

    addresses = [
        (header[f"Segment{n}_Layer"], header[f"Segment{n}_LabelValue"])
        for n in range(3)
    ]
    assert addresses == [("0", "1"), ("0", "2"), ("1", "1")]


def test_the_header_holds_what_slicer_shows_of_a_segment(tmp_path, grid):
    write_segmentation(tmp_path / "1_1B.seg.nrrd", grid, APART)

    header = nrrd.read_header(str(tmp_path / "1_1B.seg.nrrd"))

    assert header["space"] == "left-posterior-superior"
    assert header["Segment0_Color"] == "1 0 0"
    assert header["Segment1_Color"] == "0 0.501961 0"
    assert header["Segment1_Extent"] == "5 7 1 4 1 5"
    assert header["Segment1_ID"] == "Segment_2"
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"


def test_a_segment_without_voxels_is_kept_and_empty(tmp_path, grid):
    nothing = ("fibula left", BLUE, np.zeros(SHAPE, bool))
    write_segmentation(tmp_path / "1_1B.seg.nrrd", grid, [*APART, nothing])

    *_, last = read_segments(tmp_path / "1_1B.seg.nrrd")
    header = nrrd.read_header(str(tmp_path / "1_1B.seg.nrrd"))

    assert last.name == "fibula left"
    assert not last.voxels.any()
    assert header["Segment2_Extent"] == "0 -1 0 -1 0 -1"


def test_names_of_other_alphabets_are_kept(tmp_path, grid):
    """Read as bytes: pynrrd decodes ASCII only, and drops what it does not know."""
    write_segmentation(
        tmp_path / "1_1B.seg.nrrd", grid, [("Hüfte 左", RED, APART[0][2])]
    )

    content = (tmp_path / "1_1B.seg.nrrd").read_bytes()

    assert "Segment0_Name:=Hüfte 左\n".encode() in content


def test_the_same_segments_give_the_same_bytes_under_another_name(tmp_path, grid):
    digests = set()
    for name in ("1_1B.seg.nrrd", "2_2C.seg.nrrd"):
        write_segmentation(tmp_path / name, grid, SHARING)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())

    assert len(digests) == 1


def test_a_mask_of_another_shape_is_refused_and_named(tmp_path, grid):
    with pytest.raises(GeometryError, match=r"tibia.*its grid"):
        write_segmentation(
            tmp_path / "1_1B.seg.nrrd", grid, [("tibia", RED, np.ones((2, 2, 2), bool))]
        )


@pytest.mark.parametrize("count", [0, 256])
def test_none_or_too_many_segments_are_refused(tmp_path, grid, count):
    with pytest.raises(InputError, match=f"not {count}"):
        write_segmentation(tmp_path / "1_1B.seg.nrrd", grid, APART[:1] * count)


def test_a_name_of_two_lines_is_refused_because_it_could_forge_a_header(tmp_path, grid):
    forged = ("tibia\nspace: right-anterior-superior", RED, APART[0][2])

    with pytest.raises(InputError, match="control characters"):
        write_segmentation(tmp_path / "1_1B.seg.nrrd", grid, [forged])

    assert not list(tmp_path.iterdir())


NAMES = LabelTable.from_names(["femur_left", "absent", "widget"])


@pytest.fixture
def labelmap(grid):
    voxels = np.zeros(grid.shape, np.uint8, order="F")
    voxels[1:4, 2:7, 1:3] = 1
    voxels[5:8, 0:3, 4:7] = 3
    return Labelmap(grid, voxels, NAMES)


@pytest.fixture
def written(tmp_path, labelmap):
    write_labelmap_segmentation(tmp_path / "labels.seg.nrrd", labelmap)
    return tmp_path / "labels.seg.nrrd"


def test_a_labelmap_keeps_its_values_and_its_place_for_pynrrd(written, labelmap):
    voxels, header = nrrd.read(str(written))

    np.testing.assert_array_equal(voxels, labelmap.voxels)
    affine = labelmap.grid.affine
    np.testing.assert_allclose(header["space directions"].T, affine[:3, :3])
    np.testing.assert_allclose(header["space origin"], affine[:3, 3])


def test_slicerio_reads_every_structure_its_colour_and_its_code(written, labelmap):
    read = slicerio.read_segmentation(str(written))

    np.testing.assert_array_equal(read["voxels"], labelmap.voxels)
    femur, absent, widget = read["segments"]
    assert [one["labelValue"] for one in (femur, absent, widget)] == [1, 2, 3]
    assert femur["name"] == "femur_left"
    assert femur["terminology"]["category"][1] == "123037004"
    assert femur["terminology"]["type"] == ["SCT", "71341001", "Femur"]
    assert femur["terminology"]["typeModifier"] == ["SCT", "7771000", "Left"]
    assert widget["terminology"]["type"] == ["SCT", "85756007", "Tissue"]
    expected = np.array(NAMES["femur_left"].colour) / 255
    np.testing.assert_allclose(femur["color"], expected, atol=1e-5)


def test_a_labelmap_and_its_masks_give_the_same_file(written, labelmap, tmp_path):
    segments = [
        (label.name, label.colour, labelmap.mask(label)) for label in labelmap.labels
    ]

    write_segmentation(tmp_path / "masks.seg.nrrd", labelmap.grid, segments)

    assert (tmp_path / "masks.seg.nrrd").read_bytes() == written.read_bytes()
