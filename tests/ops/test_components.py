"""Components of a mask against scipy's, which labels voxels instead of runs."""

import numpy as np
import pytest
from scipy import ndimage

from nnunet_bridge.ops.components import connected

PLANAR = ndimage.generate_binary_structure(3, 1)
PLANAR[[0, 2]] = False
"""Neighbours within a plane only."""


SHAPES = [(5, 6, 7), (1, 6, 7), (4, 1, 5), (3, 4, 1), (2, 2, 2)]


@pytest.mark.parametrize("across_planes", [True, False])
@pytest.mark.parametrize("density", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_components_are_those_of_scipy(shape, density, across_planes):
    mask = np.random.default_rng(5).random(shape) < density
    structure = None if across_planes else PLANAR
    labels, count = ndimage.label(mask, structure)

    found = connected(mask, across_planes=across_planes)

    assert found.count == count
    seen, centres = set(), found.centres()
    for number in range(count):
        places = found.places(np.arange(count) == number)
        (label,) = set(labels.reshape(-1)[places].tolist())
        own = labels == label
        seen.add(label)
        assert sorted(places) == np.flatnonzero(own).tolist()
        assert found.sizes()[number] == own.sum()
        np.testing.assert_allclose(centres[number], ndimage.center_of_mass(own))
        inner = own[1:-1, 1:-1, 1:-1]
        assert found.at_border()[number] == (inner.sum() < own.sum())
        if not across_planes:
            assert own[found.plane_of_each()[number]].sum() == own.sum()
    assert 0 not in seen


def test_the_size_of_a_component_may_be_weighed_by_the_runs():
    mask = np.array([[[1, 1, 0, 1], [1, 0, 0, 0]]], bool)

    found = connected(mask, across_planes=True)

    assert sorted(found.sizes(np.array([10, 3, 5]))) == [3, 15]
