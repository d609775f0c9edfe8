"""Arrays that never travel without their place, and tables without gaps."""

import numpy as np
import pytest

from nnunet_bridge.core.dataset import Case, DatasetSpec, checked_case_id
from nnunet_bridge.core.errors import GeometryError, InputError
from nnunet_bridge.core.findings import Finding, Outcome, Refused, worst
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Label, Labelmap, LabelTable, Volume, default_colour
from nnunet_bridge.core.mesh import Mesh

GRID = Grid((2, 3, 4), np.diag([1.0, 2.0, 3.0, 1.0]))
TABLE = LabelTable.from_names(["tibia_left", "femur"])
IGNORING = LabelTable.from_names(["tibia", "femur"], has_ignore=True)


def labelmap(values, table=TABLE):
    voxels = np.zeros(GRID.shape, np.uint8)
    voxels.flat[: len(values)] = values
    return Labelmap(GRID, voxels, table)


def test_voxels_cannot_be_written():
    volume = Volume(GRID, np.zeros(GRID.shape, np.int16))

    with pytest.raises(ValueError, match="read-only"):
        volume.voxels[0, 0, 0] = 1


def test_an_array_of_another_shape_has_no_place_on_the_grid():
    with pytest.raises(GeometryError, match=r"\(2, 3, 5\) voxels .* \(2, 3, 4\)"):
        Volume(GRID, np.zeros((2, 3, 5)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_P11_an_image_with_a_value_that_is_no_number_is_refused(bad):
    with pytest.raises(InputError, match="NaN or infinite") as caught:
        Volume(GRID, np.full(GRID.shape, bad))

    assert caught.value.code == "P11"


def test_an_image_of_words_or_complex_numbers_is_refused():
    with pytest.raises(InputError, match="real numbers"):
        Volume(GRID, np.zeros(GRID.shape, complex))


def test_other_voxels_keep_the_grid():
    volume = Volume(GRID, np.zeros(GRID.shape, np.int16))

    assert volume.with_voxels(volume.voxels + 1).grid is GRID


def test_a_value_beyond_the_table_is_refused():
    with pytest.raises(InputError, match="value 3, but the table ends at 2"):
        labelmap([1, 3])


def test_a_labelmap_holds_small_whole_numbers():
    with pytest.raises(InputError, match="uint8 or uint16, not float64"):
        Labelmap(GRID, np.zeros(GRID.shape), TABLE)


def test_volumes_count_voxels_of_every_label():
    found = labelmap([1, 1, 2])

    assert found.counts().tolist() == [21, 2, 1]
    assert found.volumes_mm3() == {"tibia_left": 12.0, "femur": 6.0}
    assert found.mask(TABLE["femur"]).sum() == 1


def test_ignored_voxels_are_no_structure_but_a_value_of_their_own():
    found = labelmap([1, 2, 3, 3], IGNORING)

    assert IGNORING.ignore_value == 3
    assert [label.name for label in IGNORING] == ["tibia", "femur"]
    assert found.counts().tolist() == [20, 1, 1, 2]
    assert set(found.volumes_mm3()) == {"tibia", "femur"}
    assert found.without_ignored().counts().tolist() == [22, 1, 1, 0]


def test_without_an_ignore_label_nothing_is_left_out():
    found = labelmap([1, 2])

    assert TABLE.ignore_value is None
    assert found.without_ignored() is found


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ([(1, "a"), (3, "b")], "without gap"),
        ([(1, "a"), (2, "a")], "must differ"),
    ],
)
def test_a_table_with_gaps_or_repeated_names_is_refused(labels, complaint):
    with pytest.raises(InputError, match=complaint):
        LabelTable(tuple(Label(value, name, (0, 0, 0)) for value, name in labels))


def test_a_label_needs_a_value_and_a_known_side():
    with pytest.raises(InputError, match="from 1, not 0"):
        Label(0, "background", (0, 0, 0))
    with pytest.raises(InputError, match="Unknown side 'up'"):
        Label(1, "tibia", (0, 0, 0), "up")


def test_a_table_is_asked_by_name():
    assert TABLE["femur"].value == len(TABLE) == 2
    assert TABLE["tibia_left"].side == "left"
    with pytest.raises(KeyError):
        _ = TABLE["fibula"]


def test_colours_repeat_after_the_palette():
    assert default_colour(1) == default_colour(11) != default_colour(2)


def test_the_parts_of_a_case_lie_on_one_grid():
    image = Volume(GRID, np.zeros(GRID.shape))
    moved = Grid((2, 3, 4), np.diag([1.0, 2.0, 3.1, 1.0]))

    assert Case("msk_001", (image,), labelmap([1])).case_id == "msk_001"
    with pytest.raises(GeometryError, match="different grids"):
        Case("msk_001", (image, Volume(moved, np.zeros(GRID.shape))))
    with pytest.raises(InputError, match="no image"):
        Case("msk_001", ())


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../up", "F02"),
        ("", "F02"),
        ("a" * 64, "F02"),
        ("-rf", "F02"),
        ("k_0001", "F03"),
    ],
)
def test_a_name_that_could_not_be_a_file_everywhere_is_refused(name, code):
    with pytest.raises(InputError) as caught:
        checked_case_id(name)

    assert caught.value.code == code


@pytest.mark.parametrize(
    ("number", "name", "channels"),
    [(0, "A", ("MRI",)), (1000, "A", ("MRI",)), (1, "A B", ("MRI",)), (1, "A", ())],
)
def test_a_dataset_that_nnunet_could_not_find_is_refused(number, name, channels):
    with pytest.raises(InputError):
        DatasetSpec(number, name, channels, TABLE)


def test_a_case_is_as_good_as_its_worst_finding():
    fixed = Finding("K02", Outcome.FIXED, "cropped")
    warned = Finding("K22", Outcome.WARNED, "specks")

    assert worst([]) is Outcome.ACCEPTED
    assert worst([fixed, warned]) is Outcome.WARNED
    assert str(worst([fixed])) == "fixed"


def test_a_refusal_has_its_reasons_and_keeps_the_other_findings():
    fixed = Finding("K02", Outcome.FIXED, "cropped")
    refused = Finding("K05", Outcome.REFUSED, "elsewhere")

    error = Refused([fixed, refused])

    assert str(error) == "[K05] elsewhere"
    assert error.code == "K05"
    assert error.findings == (fixed, refused)


def test_a_mesh_names_only_vertices_that_exist():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)

    mesh = Mesh(corners, faces, TABLE["femur"], watertight=True, touches_border=False)

    assert mesh.volume_mm3 == pytest.approx(1 / 6)
    with pytest.raises(InputError, match="missing vertices"):
        Mesh(corners, faces + 1, TABLE["femur"], watertight=True, touches_border=False)


def test_the_colours_of_labels_stay_as_pages_and_packed_models_show_them():
    """The first four follow the source report: red, green, blue, yellow."""
    labels = LabelTable.from_names([f"bone {n}" for n in range(10)])

    assert [label.hex_colour for label in labels] == [
        "#e65546", "#50b469", "#4b82e6", "#f0c841", "#aa64d2",
        "#3cbec8", "#f08c32", "#e178aa", "#96785a", "#8ca53c",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "side"),
    [("tibia_left", "left"), ("left", ""), ("tibia left", ""), ("a_b_right", "right")],
)
def test_a_side_is_the_last_word_after_an_underscore(name, side):
    assert LabelTable.from_names([name])[name].side == side


def test_numbers_of_datasets_run_from_1_to_999():
    for number in (1, 999):
        assert DatasetSpec(number, "A", ("MRI",), TABLE).number == number
