"""A region and back: voxels keep their millimetres, the rest is background."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_bridge.core.errors import GeometryError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.ops.region import (
    Region,
    cropped_labelmap,
    cropped_volume,
    put_back,
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
