"""The synthetic lower limb: one patient a seed, with bones where bones belong."""

import json
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, label

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.ops.phantom import (
    GENERATION,
    STRUCTURES,
    _drawn,
    lower_limb,
    places,
)

SEEDS = (0, 14)
SMALL = {"shape": (48, 24, 32), "spacing_mm": (8, 8, 24)}
GOLDEN = Path(__file__).parents[1] / "golden" / "phantom.json"
FEWEST_VOXELS = {"tibia": 500, "femur": 800, "fibula": 150, "pelvis": 600}


@pytest.fixture(scope="module", params=SEEDS)
def patient(request):
    start_s = time.process_time()
    patient = lower_limb(request.param)
    assert time.process_time() - start_s < 5  # a demo waits for ten of them
    return patient


def centroid_mm(patient, place):
    indices = np.argwhere(patient.masks[place])
    return patient.volume.grid.to_patient(indices).mean(axis=0)


def mean_signal(patient, mask):
    return patient.volume.voxels[mask].mean()


def test_the_same_seed_gives_the_same_patient():
    first, second = lower_limb(3, **SMALL), lower_limb(3, **SMALL)

    assert first.volume.voxels.tobytes() == second.volume.voxels.tobytes()
    assert first.volume.grid.displacement_mm(second.volume.grid) == 0
    for place in places():
        np.testing.assert_array_equal(first.masks[place], second.masks[place])


def described(patient):
    """Return figures that change with any part of a patient."""
    voxels, grid = patient.volume.voxels.astype(float), patient.volume.grid
    bones = {
        f"{structure} {side}": [
            mask.sum() * grid.voxel_volume_mm3,
            *grid.to_patient(np.argwhere(mask)).mean(axis=0),
            voxels[mask].mean(),
        ]
        for (structure, side), mask in patient.masks.items()
    }
    along = [
        np.sqrt((voxels**2).mean(axis=axes)).tolist()
        for axes in ((1, 2), (0, 2), (0, 1))
    ]
    return {"affine": grid.affine.tolist(), "bones": bones, "signal": along}


def test_a_seed_gives_the_patient_of_its_generation():
    """If this fails on purpose, raise GENERATION and write the golden file again."""
    golden = json.loads(GOLDEN.read_text())

    found = described(lower_limb(golden["seed"], **SMALL))

    assert golden["generation"] == GENERATION
    np.testing.assert_allclose(found["affine"], golden["affine"], atol=1e-6)
    for place, figures in golden["bones"].items():
        np.testing.assert_allclose(
            found["bones"][place], figures, atol=1e-3, rtol=1e-4, err_msg=place
        )
    for ours, theirs in zip(found["signal"], golden["signal"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4)


def test_another_seed_gives_another_patient():
    first, second = lower_limb(3, **SMALL), lower_limb(4, **SMALL)

    assert not first.volume.grid.matches(second.volume.grid, tolerance_mm=1)
    assert not np.array_equal(
        first.masks["femur", "left"], second.masks["femur", "left"]
    )


def test_every_bone_of_both_sides_has_a_mask(patient):
    assert list(patient.masks) == places()
    assert len(places()) == 2 * len(STRUCTURES)


def test_no_two_masks_share_a_voxel(patient):
    for one, other in combinations(patient.masks.values(), 2):
        assert not (one & other).any()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_left_bone_lies_towards_positive_x(patient, structure):
    left = centroid_mm(patient, (structure, "left"))
    right = centroid_mm(patient, (structure, "right"))

    assert left[0] - right[0] > 50


@pytest.mark.parametrize("place", places())
def test_a_bone_is_one_piece_of_a_fair_size_away_from_the_border(patient, place):
    mask = patient.masks[place]

    assert label(mask)[1] == 1
    assert mask.sum() >= FEWEST_VOXELS[place[0]]
    assert mask[1:-1, 1:-1, 1:-1].sum() == mask.sum()


@pytest.mark.parametrize("side", ["left", "right"])
def test_bones_follow_each_other_from_hip_to_ankle(patient, side):
    heights = [
        centroid_mm(patient, (structure, side))[2]
        for structure in ("pelvis", "femur", "tibia")
    ]

    assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_fibula_is_smaller_than_the_tibia_beside_and_behind_it(patient, side):
    tibia, fibula = patient.masks["tibia", side], patient.masks["fibula", side]
    outwards = 1 if side == "left" else -1
    x, y, _ = centroid_mm(patient, ("fibula", side)) - centroid_mm(
        patient, ("tibia", side)
    )

    assert fibula.sum() < tibia.sum() / 2
    assert x * outwards > 15
    assert y > 5


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_fibula_is_at_least_three_voxels_thick_along_its_shaft(patient, side):
    fibula = patient.masks["fibula", side]
    slices = np.flatnonzero(fibula.any(axis=(0, 1)))[2:-2]

    for k in slices:
        assert np.ptp(np.argwhere(fibula[:, :, k]), axis=0).min() >= 2


def test_the_left_leg_is_no_mirror_image_of_the_right(patient):
    volumes = [int(patient.masks["femur", side].sum()) for side in ("left", "right")]

    assert volumes[0] != volumes[1]
    assert min(volumes) > 0.85 * max(volumes)


def test_fat_and_cortex_are_dark_and_muscle_is_bright_as_in_a_water_image():
    patient = lower_limb(1, shape=(192, 96, 32), spacing_mm=(2, 2, 24))
    femur = patient.masks["femur", "left"].copy()
    femur[:, :, np.flatnonzero(femur.any(axis=(0, 1)))[6:]] = False
    marrow = binary_erosion(femur, iterations=4, structure=np.ones((3, 3, 1)))
    rim = femur & ~binary_erosion(femur, structure=np.ones((3, 3, 1)))
    bright = np.percentile(patient.volume.voxels, 95)

    assert mean_signal(patient, rim) < mean_signal(patient, marrow)
    assert mean_signal(patient, marrow) < 0.75 * bright


def test_air_holds_noise_and_no_negative_signal(patient):
    corner = patient.volume.voxels[:4, :4, :]

    assert patient.volume.voxels.dtype == np.int16
    assert patient.volume.voxels.min() >= 0
    assert 0 < corner.std() < 40
    assert corner.mean() < 50


def test_the_grid_has_the_spacing_asked_for_and_is_at_most_slightly_oblique(patient):
    grid = patient.volume.grid
    cosines = np.diag(grid.affine[:3, :3]) / grid.spacing_mm

    np.testing.assert_allclose(grid.spacing_mm, [4, 4, 12], atol=1e-4)
    assert cosines.min() > np.cos(np.radians(5))


def test_some_patients_are_oblique_and_some_are_not():
    small = {"shape": (24, 12, 16), "spacing_mm": (16, 16, 48)}
    grids = [lower_limb(seed, **small).volume.grid for seed in range(8)]
    plain = [np.count_nonzero(grid.affine[:3, :3]) == 3 for grid in grids]

    assert any(plain)
    assert not all(plain)


def test_a_limb_on_another_grid_has_the_same_volume_in_mm3():
    volumes = []
    for shape, spacing_mm in (
        ((96, 48, 64), (4, 4, 12)),
        ((96, 48, 128), (4, 4, 6)),
    ):
        patient = lower_limb(2, shape=shape, spacing_mm=spacing_mm)
        voxel_mm3 = patient.volume.grid.voxel_volume_mm3
        volumes.append([mask.sum() * voxel_mm3 for mask in patient.masks.values()])

    # A slice of 12 mm takes the flat top of a tibia in, or leaves it out, as a whole.
    np.testing.assert_allclose(volumes[0], volumes[1], rtol=0.1)


def test_a_mask_is_read_only(patient):
    with pytest.raises(ValueError, match="read-only"):
        patient.masks["tibia", "left"][0, 0, 0] = True


@pytest.mark.parametrize("sizes", [(3, 2), (2, 3), (0, 1), (0, 0)])
def test_of_a_bone_in_pieces_the_largest_is_drawn(sizes):
    first, second = sizes
    body = np.zeros((9, 4, 4), bool)
    body[1:, 1:, 1:] = True
    whole = np.zeros_like(body)
    whole[1 : 1 + first, 2, 2] = whole[8, 1 : 1 + second, 3] = True

    found = _drawn(body.ravel(), whole[body], Grid(body.shape, np.eye(4)))

    kept = whole.copy()
    kept[8 if first > second else slice(1, 8)] = False
    np.testing.assert_array_equal(found, kept)
