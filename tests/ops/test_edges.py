"""The strength of edges: laws, and averages of two patients, which are not green."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.core.quality import (
    MemberAgreement,
    QualityCheck,
    TrainingStructures,
)
from nnunet_bridge.ops import edges
from nnunet_bridge.ops.edges import edge_strength
from nnunet_bridge.ops.quality import judge, structure_figures, training_structures

TABLE = LabelTable.from_names(["tibia"])


def case(voxels, mask, spacing=(1.0, 1.0, 3.0)):
    grid = Grid(mask.shape, np.diag([*spacing, 1.0]))
    return Volume(grid, voxels), Labelmap(grid, mask.astype(np.uint8), TABLE)


def step(*, axis=0, high=100.0):
    """A bright half beside a dark one, and a structure at the border between them."""
    voxels = np.zeros((24, 20, 9), np.float32)
    np.moveaxis(voxels, axis, 0)[voxels.shape[axis] // 2 :] = high
    mask = np.zeros(voxels.shape, bool)
    mask[8:16, 6:14, 3:6] = True
    return voxels, mask


@given(scale=st.floats(0.01, 1e4), shift=st.floats(-1e3, 1e3))
def test_neither_unit_nor_offset_of_intensities_changes_it(scale, shift):
    voxels, mask = step()
    noisy = voxels + np.random.default_rng(1).normal(0, 5, voxels.shape)

    found = edge_strength(*case(scale * noisy + shift * scale, mask))

    assert found == pytest.approx(edge_strength(*case(noisy, mask)), rel=1e-3)


def test_a_step_has_the_slope_of_a_gaussian_in_the_middle():
    """It rises from 0 to 1 within the image, by the density of N(0.5, 0.7) at 0."""
    voxels, mask = step()
    kernel = np.zeros(41)
    kernel[20:] = 1
    slope = ndimage.gaussian_filter(kernel, edges.SMOOTHING_VOXELS, order=1).max()

    assert edge_strength(*case(voxels, mask)) == pytest.approx(slope, rel=1e-5)


def test_a_border_between_slices_is_no_edge():
    assert edge_strength(*case(*step(axis=2))) is None


@pytest.mark.parametrize("through", [0, 1, 2])
def test_the_order_of_the_axes_does_not_matter(through):
    voxels, mask = step()
    spacing = np.roll([1.0, 1.0, 3.0], through + 1)
    turned = [np.moveaxis(one, 2, through) for one in (voxels, mask)]

    assert edge_strength(*case(*turned, spacing)) == pytest.approx(
        edge_strength(*case(voxels, mask))
    )


def test_of_a_large_image_every_nth_slice_is_measured(monkeypatch):
    voxels, mask = step()
    whole = edge_strength(*case(voxels, mask))
    monkeypatch.setattr(edges, "MOST_VOXELS", voxels.size // 3)

    assert edge_strength(*case(voxels, mask)) == pytest.approx(whole)


def test_without_a_structure_or_an_edge_there_is_no_strength():
    voxels, mask = step()

    assert edge_strength(*case(voxels, np.zeros_like(mask))) is None
    assert edge_strength(*case(np.ones_like(voxels), mask)) is None


@pytest.mark.parametrize(
    ("strength", "level"),
    [(0.5, "green"), (0.35, "green"), (0.27, "amber"), (0.15, "red")],
)
def test_weak_edges_are_a_reason_and_strong_ones_are_none(strength, level):
    voxels, mask = step()
    _, labels = case(voxels, mask)
    known = [0.36, 0.37, 0.38, 0.39, 0.4, 0.41, 0.42, 0.43]
    training = training_structures([structure_figures(labels)] * 8, known)

    quality = judge(labels, MemberAgreement(), training, strength)

    (reason,) = [r for r in quality.reasons if r.kind is QualityCheck.EDGES]
    assert (reason.structure, str(reason.level)) == ("image", level)
    assert "(8 training images: 0.360 to 0.430)" in reason.message


def test_images_that_were_not_measured_are_listed_as_not_judged():
    _, labels = case(*step())
    training = training_structures([structure_figures(labels)] * 3)

    quality = judge(labels, MemberAgreement(), training, 0.3)

    assert training.edges is None
    assert "edges are not checked" in quality.not_judged[-1]
    assert TrainingStructures.from_json(training.as_json()) == training
