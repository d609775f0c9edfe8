"""A region and back: voxels keep their millimetres, the rest is background."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_bridge.core.errors import GeometryError, UsageError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.ops.region import (
    Region,
    RegionRequest,
    cropped_labelmap,
    cropped_volume,
    put_back,
    slice_positions_mm,
)

TABLE = LabelTable.from_names(["tibia", "femur"])
TURN = 0.3
AFFINE = np.eye(4)
AFFINE[:3, :3] = np.array(
    [[np.cos(TURN), 0, np.sin(TURN)], [0, 1, 0], [-np.sin(TURN), 0, np.cos(TURN)]]
) * [0.75, 0.8, 4.0]
AFFINE[:3, 3] = [-12, 30, -100]
WHOLE = Grid((6, 5, 12), AFFINE)


@given(
    ends=st.lists(st.integers(0, 12), min_size=2, max_size=2, unique=True).map(sorted)
)
def test_every_voxel_comes_back_to_its_millimetres_and_the_rest_is_background(ends):
    region = Region(*ends, WHOLE)
    voxels = np.random.default_rng(sum(ends)).integers(0, 3, region.grid.shape)
    labelmap = Labelmap(region.grid, voxels.astype(np.uint8), TABLE)

    back = put_back(labelmap, region)

    assert back.grid.matches(WHOLE)
    for value in (1, 2):
        np.testing.assert_allclose(
            back.grid.to_patient(np.argwhere(back.voxels == value)),
            region.grid.to_patient(np.argwhere(voxels == value)),
            atol=1e-9,
        )
    assert back.counts()[1:].tolist() == labelmap.counts()[1:].tolist()
    cut = cropped_labelmap(back, region)
    np.testing.assert_array_equal(cut.voxels, voxels)
    assert cut.grid.matches(region.grid)


def test_the_image_of_a_region_is_that_of_its_slices():
    voxels = np.random.default_rng(0).random(WHOLE.shape)

    kept = cropped_volume(Volume(WHOLE, voxels), Region(3, 7, WHOLE))

    np.testing.assert_array_equal(kept.voxels, voxels[:, :, 3:7])
    np.testing.assert_allclose(
        kept.grid.to_patient([0, 0, 0]), WHOLE.to_patient([0, 0, 3])
    )


@pytest.mark.parametrize("ends", [(-1, 4), (4, 4), (5, 13)])
def test_slices_that_the_scan_lacks_are_no_region(ends):
    with pytest.raises(GeometryError, match="12 slices"):
        Region(*ends, WHOLE)


def test_a_labelmap_of_other_slices_is_not_put_back():
    region = Region(3, 7, WHOLE)
    beside = Region(4, 8, WHOLE).grid
    labelmap = Labelmap(beside, np.ones(beside.shape, np.uint8), TABLE)

    with pytest.raises(GeometryError, match="slices 3 to 7"):
        put_back(labelmap, region)


# --- requests ---------------------------------------------------------------------

GRID = Grid((12, 10, 60), np.diag([1.0, 1.0, 2.0, 1.0]))


def limits(region):
    return region.first, region.end


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ({"slices": "10:25"}, (10, 25)),
        ({"slices": "10:"}, (10, 60)),
        ({"slices": ":25"}, (0, 25)),
        ({"slices": ":"}, (0, 60)),
        ({"from_mm": 20.0, "to_mm": 40.0}, (10, 21)),
        ({"from_mm": 19.0}, (10, 60)),
        ({"to_mm": 39.9}, (0, 20)),
        ({"from_mm": -500.0, "to_mm": 5.0}, (0, 3)),
    ],
)
def test_slices_count_from_0_and_places_are_those_of_slice_centres(words, kept):
    assert limits(RegionRequest.from_words(**words).resolve(GRID)) == kept


@pytest.mark.parametrize(
    "words",
    [
        {"slices": "10"},
        {"slices": "a:b"},
        {"slices": "-5:9"},
        {"slices": "9:9"},
        {"slices": "1:2:3"},
        {"slices": ":0"},
        {"slices": "1:2", "auto": True},
        {"slices": "1:2", "from_mm": 3.0},
        {"auto": True, "to_mm": 3.0},
        {"from_mm": 5.0, "to_mm": 3.0},
        {"margin_mm": 3.0},
    ],
)
def test_words_that_mean_no_range_or_two_are_a_usage_error(words):
    with pytest.raises(UsageError):
        RegionRequest.from_words(**words)


@pytest.mark.parametrize(
    ("words", "valid"),
    [
        ({"slices": "60:"}, "slices 0 to 59, all of which are 0:60"),
        ({"slices": "10:61"}, "slices 0 to 59"),
        ({"from_mm": 119.0}, "from 0.0 to 118.0 mm"),
        ({"to_mm": -1.0}, "from 0.0 to 118.0 mm"),
        ({"from_mm": 10.5, "to_mm": 11.5}, "from 0.0 to 118.0 mm"),
    ],
)
def test_K20_a_region_outside_the_image_is_refused_with_the_valid_range(words, valid):
    with pytest.raises(Refused, match=valid) as caught:
        RegionRequest.from_words(**words).resolve(GRID)

    assert caught.value.code == "K20"


@pytest.mark.parametrize(
    ("columns", "axis"),
    [((0, 1, 2), 2), ((0, 2, 1), 1), ((1, 2, 0), 0)],
    ids=["axial", "coronal", "sagittal"],
)
def test_places_run_along_the_patient_axis_nearest_to_the_stack(columns, axis):
    affine = np.eye(4)
    affine[:3, :3] = np.diag([1.0, 2.0, 3.0])[:, columns]
    affine[:3, 3] = (-7, -8, -9)
    grid = Grid((5, 6, 7), affine)

    expected = [grid.to_patient([2, 2.5, k])[axis] for k in range(7)]
    np.testing.assert_allclose(slice_positions_mm(grid), expected)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"first": -1}, "counted from 0"),
        ({"end": 0}, "counted from 0"),
        ({"first": 3, "end": 3}, "holds no slice"),
        ({"end": 9, "auto": True}, "not several of them"),
        ({"from_mm": 3.0, "to_mm": 2.9}, "lies beyond"),
    ],
)
def test_a_request_that_means_no_slice_says_why(fields, words):
    with pytest.raises(UsageError, match=words):
        RegionRequest(**fields)


def test_one_slice_may_be_requested_by_number_or_place():
    assert limits(RegionRequest(end=1).resolve(GRID)) == (0, 1)
    assert limits(RegionRequest(first=59).resolve(GRID)) == (59, 60)
    assert limits(RegionRequest(from_mm=20.0, to_mm=20.0).resolve(GRID)) == (10, 11)


def test_a_region_of_the_whole_scan_changes_nothing():
    volume = Volume(WHOLE, np.zeros(WHOLE.shape))
    labels = Labelmap(WHOLE, np.zeros(WHOLE.shape, np.uint8), TABLE)
    whole = Region(0, 12, WHOLE)

    assert cropped_volume(volume, whole) is volume
    assert cropped_labelmap(labels, whole) is labels
    assert not Region(0, 11, WHOLE).is_everything
    assert not Region(1, 12, WHOLE).is_everything


def test_the_place_of_an_oblique_slice_is_that_of_its_centre():
    expected = [WHOLE.to_patient([2.5, 2, k])[2] for k in range(12)]

    np.testing.assert_allclose(slice_positions_mm(WHOLE), expected)
