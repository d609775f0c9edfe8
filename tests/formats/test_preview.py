"""The preview of a case: three planes, colours where structures lie, a legend."""

import numpy as np
import pytest
from PIL import Image

from nnunet_bridge.core.errors import GeometryError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.preview import write_preview, write_small

GRID = Grid((40, 30, 20), np.diag([1.0, 1.0, 2.0, 1.0]))
GREY = np.arange(40 * 30 * 20, dtype=np.float32).reshape(GRID.shape)
TABLE = LabelTable.from_names(["tibia", "femur"])


def labels(grid=GRID, value=1):
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[5:15, 5:15, 5:15] = value
    return Labelmap(grid, voxels, TABLE)


def drawn(file, labelmap):
    write_preview(file, Volume(labelmap.grid, GREY), labelmap, title="msk_001")
    return np.asarray(Image.open(file)).astype(int)


def pixels_of(picture, colour):
    return int((np.abs(picture - colour).sum(axis=-1) < 40).sum())


@pytest.mark.parametrize("value", [1, 2])
def test_a_structure_is_edged_in_its_colour_in_all_three_planes(tmp_path, value):
    picture = drawn(tmp_path / "p.png", labels(value=value))
    own, other = (TABLE.labels[value - 1].colour, TABLE.labels[2 - value].colour)

    thirds = np.array_split(picture[:-40], 3, axis=1)

    assert all(pixels_of(third, own) > 100 for third in thirds)
    assert pixels_of(picture, other) == 0, "an absent structure is grey in the legend"


def test_a_picture_without_any_structure_is_drawn_too(tmp_path):
    empty = Labelmap(GRID, np.zeros(GRID.shape, np.uint8), TABLE)

    picture = drawn(tmp_path / "p.png", empty)

    assert picture[:-40].max() > 200
    assert all(pixels_of(picture, label.colour) == 0 for label in TABLE)


def test_many_structures_get_a_legend_of_several_lines(tmp_path):
    table = LabelTable.from_names([f"a_rather_long_name_{n}" for n in range(30)])
    few = drawn(tmp_path / "few.png", labels())

    many = drawn(tmp_path / "many.png", Labelmap(GRID, labels().voxels, table))

    assert many.shape[0] > few.shape[0] + 50
    assert many.shape[1] == few.shape[1]


def test_labels_that_lie_elsewhere_are_not_drawn(tmp_path):
    shifted = GRID.affine.copy()
    shifted[0, 3] += 5

    with pytest.raises(GeometryError):
        write_preview(
            tmp_path / "p.png", Volume(GRID, GREY), labels(Grid(GRID.shape, shifted))
        )
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize(
    ("drawn_box", "size_mm"),
    [
        ((slice(5, 30), slice(5, 30), slice(9, 10)), (40, 30)),
        ((slice(5, 30), slice(9, 10), slice(3, 20)), (40, 40)),
        ((slice(9, 10), slice(5, 30), slice(3, 20)), (30, 40)),
        ((), (40, 30)),
    ],
    ids=["axial", "coronal", "sagittal", "nothing drawn"],
)
def test_a_small_picture_shows_the_plane_with_the_largest_area(
    tmp_path, drawn_box, size_mm
):
    voxels = np.zeros(GRID.shape, np.uint8)
    if drawn_box:
        voxels[drawn_box] = 1
    write_small(tmp_path / "p.png", Volume(GRID, GREY), Labelmap(GRID, voxels, TABLE))

    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == tuple(160 * side // max(size_mm) for side in size_mm)
