"""The suspicion of masks, against independent figures."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, stats

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.ops.audit import (
    MeasuredMask,
    badly_predicted,
    measure_masks,
    rank_masks,
)

SPACING_MM = (1.0, 1.5, 4.0)
GRID = Grid((30, 24, 12), np.diag([*SPACING_MM, 1.0]))
TABLE = LabelTable.from_names(["tibia", "femur"])


def labelmap(*, seed=0, shift=0):
    """Return two blocks with ragged borders, holes and specks."""
    rng = np.random.default_rng(seed)
    voxels = np.zeros(GRID.shape, np.uint8)
    voxels[4 + shift : 12 + shift, 4:18, 1:11] = 1
    voxels[18:26, 4:18, 2:10] = 2
    voxels[rng.random(GRID.shape) < 0.02] = 0
    voxels[rng.random(GRID.shape) < 0.002] = 1
    return Labelmap(GRID, voxels, TABLE)


def test_the_figures_of_a_mask_are_those_of_scipy_and_surface_distance(by_the_package):
    drawn, predicted = labelmap(seed=1, shift=2), labelmap(seed=2)

    found = measure_masks(drawn, predicted)

    for label in TABLE:
        mask, own = drawn.mask(label), found[label.name]
        figures = {**own.figures, **own.by_prediction}
        others = predicted.voxels[mask]
        cross = np.zeros((3, 3, 3), bool)
        cross[:, 1, 1] = cross[1, :, 1] = True
        closed = ndimage.binary_fill_holes(np.pad(mask, 1), cross)[1:-1, 1:-1, 1:-1]
        skipped = np.zeros_like(mask)
        skipped[..., 1:-1] = mask[..., :-2] & mask[..., 2:] & ~mask[..., 1:-1]
        holes = np.count_nonzero(closed & ~mask) + np.count_nonzero(skipped)
        pieces, _ = ndimage.label(mask)
        area = mask.sum(axis=(0, 1))[np.flatnonzero(mask.any(axis=(0, 1)))[0] :]
        area = np.trim_zeros(area)
        expected = {
            "distance": by_the_package(predicted.mask(label), mask, SPACING_MM, 1.0)[2],
            "other": np.mean((others != 0) & (others != label.value)),
            "ratio": mask.sum() / predicted.mask(label).sum(),
            "volume": mask.sum() * math.prod(SPACING_MM),
            "share": mask.sum() / drawn.mask(TABLE.labels[2 - label.value]).sum(),
            "gaps": holes / mask.sum(),
            "specks": 1 - np.bincount(pieces.ravel())[1:].max() / mask.sum(),
            "area": max(abs(np.diff(area, 2)) / 2) / area.max(),
        }
        other = ndimage.center_of_mass(predicted.mask(TABLE.labels[2 - label.value]))
        away = (np.array(ndimage.center_of_mass(mask)) - other) * SPACING_MM
        expected |= dict(zip(("across", "depth", "height"), away, strict=True))

        assert {key: figures[key] for key in expected} == pytest.approx(expected)
        overlap = np.count_nonzero(mask & predicted.mask(label))
        sizes = mask.sum() + predicted.mask(label).sum()
        assert own.dice == pytest.approx(2 * overlap / sizes)


def measured(**figures):
    return {"tibia": MeasuredMask(1.0, "", figures)}


@pytest.mark.parametrize(("check", "of"), [("steps", np.array), ("volume", np.log)])
def test_the_suspicion_is_the_distance_from_the_others_in_robust_deviations(check, of):
    values = [0.3, 0.5, 0.9, 1.6, 2.0, 29.0]
    cases = {str(n): measured(**{check: value}) for n, value in enumerate(values)}

    first, *_ = rank_masks(cases)

    *others, own = of(values)
    spread = stats.median_abs_deviation(others, scale=1 / 1.4826)
    assert first.case == "5"
    assert first.suspicion == pytest.approx((own - np.median(others)) / spread)
    assert first.reasons == (first.worst,)


def test_the_worst_figure_is_given_in_words_with_its_usual_value():
    places = [-1.0, 0.0, 1.0, 2.0, -30.0]
    cases = {str(n): measured(across=place) for n, place in enumerate(places)}

    assert rank_masks(cases)[0].worst == (
        "30.0 mm right of the other structures (usually 0.5 mm left of them)"
    )


def test_a_small_volume_is_as_odd_as_a_large_one_but_few_steps_are_not():
    cases = {str(n): measured(steps=5.0 + n, volume=1.0) for n in range(6)}
    few = {**cases, "few": measured(steps=0.1, volume=1.0)}
    small = {**cases, "small": measured(steps=7.0, volume=0.5)}

    assert rank_masks(few)[0].case != "few"
    assert rank_masks(small)[0].case == "small"


@pytest.mark.parametrize("others", [2, 3])
def test_a_figure_is_compared_with_three_other_cases_at_least(others):
    cases = {str(n): measured(steps=1.0) for n in range(others)}
    found = rank_masks({**cases, "odd": measured(steps=9.0)})[0]

    assert bool(found.worst) == (others == 3)


def test_a_structure_that_is_not_drawn_is_no_mask_and_disturbs_no_other():
    whole = labelmap()
    voxels = np.where(whole.voxels == 2, 0, whole.voxels)
    without = measure_masks(whole.with_voxels(voxels), whole)

    assert set(without) == {"tibia"}
    assert without["tibia"].by_prediction["height"] == pytest.approx(
        measure_masks(whole, whole)["tibia"].figures["height"]
    )
    assert not {"height", "share"} & without["tibia"].figures.keys()


def test_a_prediction_without_the_structure_is_a_reason_where_others_have_it():
    whole = labelmap()
    nothing = whole.with_voxels(np.zeros_like(whole.voxels))
    cases = {str(n): measure_masks(labelmap(seed=n), whole) for n in range(4)}

    found = rank_masks({**cases, "missed": measure_masks(whole, nothing)})

    worst = [mask for mask in found if mask.case == "missed"]
    assert {mask.worst for mask in worst} == {"its prediction holds none of it"}
    assert found[:2] == (*worst,)


def test_predictions_of_a_structure_that_the_model_does_not_find_are_not_compared():
    """Its median Dice is below 0.8; the tibia is predicted well."""
    cases = {}
    for n in range(5):
        drawn = labelmap(seed=n)
        far = np.roll(np.where(drawn.voxels == 2, 2, 0), 3 if n else 6, axis=1)
        both = np.where(drawn.voxels == 1, 1, far).astype(np.uint8)
        cases[str(n)] = measure_masks(drawn, drawn.with_voxels(both))

    assert set(badly_predicted(cases)) == {"femur"}
    found = {mask.key: mask for mask in rank_masks(cases)}
    shapes = {c: {n: replace(m, by_prediction={}) for n, m in ms.items()}
              for c, ms in cases.items()}  # fmt: skip
    alone = {mask.key: mask for mask in rank_masks(shapes)}
    assert found["0", "femur"] == alone["0", "femur"]
    assert cases["0"]["femur"].by_prediction["distance"] > 2
