"""Slices come out the right way up, in mm, whatever the order of the voxels."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nnunet_bridge.core.errors import GeometryError, UsageError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.pictures import (
    PLANES,
    most_labelled_slice,
    view_of,
    windowed,
)
from nnunet_bridge.formats.preview import write_contact_sheet, write_panels
from nnunet_bridge.formats.sprites import (
    MODEL_COLOURS,
    SEVERAL_COLOUR,
    disagreement,
    labelled_box,
    slice_picture,
    slice_stack,
)

TABLE = LabelTable.from_names(["tibia", "femur"])
OUTWARDS = {"R": [-1, 0, 0], "L": [1, 0, 0], "A": [0, -1, 0], "P": [0, 1, 0],
            "H": [0, 0, 1], "F": [0, 0, -1]}  # fmt: skip
"""Direction in LPS+ of each letter."""


def turned(axes, signs, tilt_degrees=0.0):
    """Return the affine whose array axes lie along patient axes, signed, tilted."""
    angle = np.radians(tilt_degrees)
    tilt = np.array([[1, 0, 0],
                     [0, np.cos(angle), -np.sin(angle)],
                     [0, np.sin(angle), np.cos(angle)]])  # fmt: skip
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.eye(3)[:, list(axes)] * signs * [1.0, 1.5, 3.0]
    return affine


@given(
    axes=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    tilt=st.floats(-30, 30),
    plane=st.sampled_from(PLANES),
)
def test_the_letter_at_each_edge_is_where_the_patients_side_is(
    axes, signs, tilt, plane
):
    grid = Grid((5, 6, 7), turned(axes, signs, tilt))
    view = view_of(grid, plane)
    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    positions = grid.to_patient(indices)
    x, y, z = (view.picture(positions[..., n], 2) for n in range(3))
    shown = np.stack([x, y, z], axis=-1)
    steps = {0: shown[0, 0] - shown[0, -1], 1: shown[0, -1] - shown[0, 0],
             2: shown[0, 0] - shown[-1, 0], 3: shown[-1, 0] - shown[0, 0]}  # fmt: skip

    for edge, letter in enumerate(view.letters):
        direction = steps[edge] / np.linalg.norm(steps[edge])
        assert direction @ OUTWARDS[letter] > np.cos(np.radians(31))


def test_a_picture_has_the_spacing_of_its_axes():
    view = view_of(Grid((5, 6, 7), np.diag([0.5, 0.7, 3.0, 1.0])), "sagittal")

    assert view.pixel_mm == (0.7, 3.0)
    assert view.picture(np.zeros((5, 6, 7)), 0).shape == (7, 6)


def test_an_unknown_plane_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="choose one of axial, coronal, sagittal"):
        view_of(Grid((5, 6, 7), np.eye(4)), "oblique")


def test_the_slice_with_most_labels_is_shown_or_the_middle_one():
    labelmap = labelled()
    view = view_of(labelmap.grid, "axial")
    empty = labelmap.with_voxels(np.zeros_like(labelmap.voxels))

    assert most_labelled_slice(view, labelmap.grid, labelmap) == 4
    assert most_labelled_slice(view, labelmap.grid, empty) == 5
    assert most_labelled_slice(view, labelmap.grid, None) == 5


def test_the_window_is_black_below_and_white_above():
    assert windowed(np.array([[-5, 0, 10, 99]]), (0, 10)).tolist() == [[0, 0, 255, 255]]


def labelled():
    grid = Grid((12, 16, 10), np.diag([1.0, 1.0, 2.0, 1.0]))
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[3:6, 3:6, 2:8] = 1
    voxels[3:9, 3:9, 4] = 2
    return Labelmap(grid, voxels, TABLE)


def image_of(labelmap):
    return Volume(labelmap.grid, labelmap.voxels.astype(np.int16) * 100)


@pytest.mark.parametrize("plane", PLANES)
def test_three_panels_are_written(tmp_path, plane):
    labelmap = labelled()
    file = tmp_path / "view.png"

    drawn = write_panels(file, image_of(labelmap), labelmap, plane=plane)

    picture = Image.open(io.BytesIO(file.read_bytes()))
    width, height = picture.size
    assert drawn in range(16)
    assert width > 1.2 * height
    colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert TABLE["femur"].colour in colours


def test_without_labels_there_is_one_panel(tmp_path):
    file = tmp_path / "view.png"

    drawn = write_panels(file, image_of(labelled()), None, slice_index=0)

    assert drawn == 0
    assert Image.open(io.BytesIO(file.read_bytes())).size[0] < 700


def test_a_slice_that_is_not_there_is_refused(tmp_path):
    labelmap = labelled()

    with pytest.raises(UsageError, match="no axial slice 10: choose one from 0 to 9"):
        write_panels(tmp_path / "view.png", image_of(labelmap), None, slice_index=10)
    assert list(tmp_path.iterdir()) == []


def test_labels_of_another_place_are_refused(tmp_path):
    labelmap = labelled()
    moved = np.array(labelmap.grid.affine)
    moved[0, 3] += 5
    elsewhere = Labelmap(Grid(labelmap.grid.shape, moved), labelmap.voxels, TABLE)
    smaller = Labelmap(
        Grid((12, 16, 9), labelmap.grid.affine), labelmap.voxels[..., :9], TABLE
    )

    with pytest.raises(GeometryError, match=r"5\.00 mm apart"):
        write_panels(tmp_path / "view.png", image_of(labelmap), elsewhere)
    with pytest.raises(GeometryError, match="put the labels on the grid"):
        write_panels(tmp_path / "view.png", image_of(labelmap), smaller)


def opened(address):
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_sprites_have_a_frame_for_every_slice_shown():
    labelmap = labelled()

    stack = slice_stack(
        image_of(labelmap), labelmap, {"2d": labelmap}, plane="axial", frames=4
    )

    rows = -(-len(stack.indices) // stack.columns)
    assert len(stack.indices) == 4
    assert opened(stack.image).size == (
        stack.width * stack.columns,
        stack.height * rows,
    )
    for layer in stack.layers:
        assert opened(layer.sprite).size == (
            2 * stack.width * stack.columns,
            2 * stack.height * rows,
        )
    assert [(layer.name, layer.kind) for layer in stack.layers] == [
        ("reference", "filled"),
        ("disagreement", "disagreement"),
        ("2d", "outline"),
    ]


def test_axial_sprites_go_from_head_to_feet():
    labelmap = labelled()

    stack = slice_stack(image_of(labelmap), labelmap, {}, plane="axial")

    assert stack.indices == tuple(range(9, -1, -1))
    assert stack.indices[stack.start] == 4


def test_the_reference_is_coloured_and_clear_outside():
    labelmap = labelled()
    stack = slice_stack(image_of(labelmap), labelmap, {}, plane="axial")

    shown = np.asarray(opened(stack.layers[0].sprite).convert("RGBA"))

    colours = {tuple(pixel) for pixel in shown[shown[..., 3] > 0][:, :3].tolist()}
    assert colours == {label.colour for label in TABLE}
    assert (shown[..., 3] == 0).any()


def test_frames_are_square_in_millimetres():
    labelmap = labelled()

    stack = slice_stack(
        image_of(labelmap), labelmap, {}, plane="coronal", longest_side=200
    )

    assert (stack.width, stack.height) == (120, 200)


def test_without_labels_the_whole_grid_is_shown():
    labelmap = labelled()
    empty = labelmap.with_voxels(np.zeros_like(labelmap.voxels))

    assert labelled_box([empty]) == ((0, 12), (0, 16), (0, 10))


def test_an_image_larger_than_a_frame_is_averaged():
    grid = Grid((80, 80, 4), np.eye(4))
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[20:60, 20:60] = 1
    labelmap = Labelmap(grid, voxels, TABLE)

    stack = slice_stack(
        image_of(labelmap), labelmap, {}, plane="axial", longest_side=32
    )

    assert (stack.width, stack.height) == (32, 32)


# ------------------------------------------------------------------- disagreement


def test_disagreement_names_the_one_model_that_differs_or_says_that_several_do():
    reference = labelled()
    empty = reference.with_voxels(np.zeros_like(reference.voxels))
    only_ones = reference.with_voxels(
        np.where(reference.voxels == 1, 1, 0).astype(np.uint8)
    )

    which = disagreement(reference, [only_ones, empty])

    assert set(which[reference.voxels == 1]) == {2}
    assert set(which[reference.voxels == 2]) == {3}
    assert set(which[reference.voxels == 0]) == {0}


def test_a_wrong_label_is_a_disagreement_even_where_both_hold_bone():
    reference = labelled()
    swapped = np.where(reference.voxels > 0, 3 - reference.voxels, 0).astype(np.uint8)

    which = disagreement(reference, [reference.with_voxels(swapped)])

    np.testing.assert_array_equal(which > 0, reference.voxels > 0)


def test_the_disagreement_layer_has_the_colours_of_the_models_and_one_for_several():
    reference = labelled()
    empty = reference.with_voxels(np.zeros_like(reference.voxels))
    more = np.array(reference.voxels)
    more[9:11, 9:11, 3:6] = 1
    predictions = {"2d": empty, "3d": reference.with_voxels(more)}

    stack = slice_stack(image_of(reference), reference, predictions, plane="axial")
    layer = next(layer for layer in stack.layers if layer.name == "disagreement")
    shown = np.asarray(opened(layer.sprite).convert("RGBA"))

    colours = {tuple(pixel) for pixel in shown[shown[..., 3] > 0][:, :3].tolist()}
    assert colours == set(MODEL_COLOURS[:2])
    assert SEVERAL_COLOUR not in colours


def test_the_picture_of_a_slice_has_image_reference_prediction_and_difference():
    reference = labelled()
    empty = reference.with_voxels(np.zeros_like(reference.voxels))

    picture = slice_picture(
        image_of(reference), reference, empty, plane="axial", index=4
    )

    names = [name for name, _ in picture.panels]
    assert names == ["image", "reference", "prediction", "disagreement"]
    assert opened(picture.image).size == (picture.width, picture.height)
    filled, nothing, wrong = (
        np.asarray(opened(sprite).convert("RGBA"))[..., 3] > 0
        for _, sprite in picture.panels[1:]
    )
    np.testing.assert_array_equal(filled, wrong)
    assert not nothing.any()


# ------------------------------------------------------------------- contact sheet


@pytest.mark.parametrize(("every", "count"), [(1, 10), (3, 4), (10, 1), (99, 1)])
def test_a_sheet_shows_every_nth_slice_from_the_head_down(tmp_path, every, count):
    labelmap = labelled()
    file = tmp_path / "sheet.png"

    drawn = write_contact_sheet(
        file, image_of(labelmap), labelmap, plane="axial", every=every
    )

    assert drawn == tuple(sorted(range(0, 10, every), reverse=True))
    assert len(drawn) == count
    assert Image.open(io.BytesIO(file.read_bytes())).format == "PNG"


def test_frames_of_a_sheet_have_the_shape_of_the_patient(tmp_path):
    """A block of 10 x 20 x 40 mm of thick slices: its sagittal frame is 20 x 40."""
    grid = Grid((10, 20, 8), np.diag([1.0, 1.0, 5.0, 1.0]))
    voxels = np.zeros(grid.shape, np.int16)
    voxels[4] = 1000
    file = tmp_path / "sheet.png"

    write_contact_sheet(file, Volume(grid, voxels), None, plane="sagittal", every=10)

    width, height = Image.open(io.BytesIO(file.read_bytes())).size
    assert (width - 8) / (height - 8) == pytest.approx(20 / 40, rel=0.01)


def test_the_labels_of_a_sheet_are_seen_and_named(tmp_path):
    labelmap = labelled()
    with_labels, without = tmp_path / "with.png", tmp_path / "without.png"

    for file, shown in ((with_labels, labelmap), (without, None)):
        write_contact_sheet(file, image_of(labelmap), shown, plane="axial", every=2)

    pictures = [Image.open(file).convert("RGB") for file in (with_labels, without)]
    assert pictures[0].size[1] > pictures[1].size[1]
    colours = {colour for _, colour in pictures[0].getcolors(1 << 24)}
    assert TABLE["femur"].colour in colours


def test_a_sheet_too_large_to_read_is_refused_with_the_step_to_take(tmp_path):
    volume = Volume(Grid((2, 2, 1000), np.eye(4)), np.zeros((2, 2, 1000), np.int16))

    with pytest.raises(UsageError, match=r"1000 slices do not fit .* every 3-th"):
        write_contact_sheet(tmp_path / "s.png", volume, None, plane="axial", every=1)
    with pytest.raises(UsageError, match="from 1"):
        write_contact_sheet(tmp_path / "s.png", volume, None, plane="axial", every=0)
    assert list(tmp_path.iterdir()) == []
