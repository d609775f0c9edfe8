"""`predict --windows body`: windows in the air are not computed, the body's are."""

import warnings

import numpy as np
import pytest
from test_streaming import Setting, streamed, write_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch and nnU-Net warn while they are imported
    import torch

    from nnunet_bridge.nnunet.inside import sliding
    from nnunet_bridge.nnunet.inside.body import BLOCK, Body

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.nifti import write_volume

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and nnU-Net
HALF_A_PATCH = 8
SETTINGS = {
    "2d": Setting("2d", (96, 72, 6), (1, 1, 1), (1.0, 1.0)),
    "3d": Setting("3d_fullres", (96, 40, 72), (1, 1, 1), (1.0, 1.0, 1.0), folds=2),
}
LEG = (slice(40, 56), slice(16, 24), slice(None))
"""Columns and rows of the body in all slices; air around it."""


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_body_and_half_a_patch_around_it_have_the_same_labels(
    kind, tmp_path, monkeypatch
):
    setting = SETTINGS[kind]
    voxels = np.random.default_rng(5).normal(60, 20, setting.shape)
    voxels[LEG] += 900
    images, grid = tmp_path / "images", Grid(setting.shape, np.eye(4))
    write_volume(images / "case_0000.nii.gz", Volume(grid, voxels.astype(np.float32)))
    member, counts = (write_model(tmp_path / "model", setting), setting.folds), []
    planes = sliding.Sweep.planes
    counting = lambda sweep: [counts.append(sweep.windows), planes(sweep)][1]  # noqa: E731
    monkeypatch.setattr(sliding.Sweep, "planes", counting)

    every, _ = streamed(images, tmp_path / "all", member)
    near, _ = streamed(images, tmp_path / "near", member, body_only=True)

    around = np.zeros(setting.shape, dtype=bool)
    columns, rows, _ = LEG
    grown = [
        slice(max(part.start - HALF_A_PATCH, 0), part.stop + HALF_A_PATCH)
        for part in (columns, rows)
    ]
    around[grown[0], grown[1]] = True
    assert np.array_equal(near[around], every[around])
    assert counts[1] < 0.75 * counts[0]
    air = near[: columns.start - 28], near[columns.stop + 28 :]
    assert not any(part.any() for part in air)  # no window reaches so far
    assert every[: columns.start - 28].any()  # random weights see bones in the air


def test_padding_and_images_of_one_value_leave_no_window_out():
    flat = Body.of(torch.zeros(1, 2, 30, 40))

    assert flat.is_near((0, 0, 0), (16, 16, 16))
    assert flat.is_near((-7, 7, 31), (16, 16, 16))


@pytest.mark.parametrize("away", [0, 8, 11, 12, 16])
def test_a_window_is_near_up_to_half_a_patch_away(away):
    volume = torch.zeros(2, 8, 8, 120)
    volume[1, :, :, 60:64] = 5.0  # in the second channel only; a whole block
    body = Body.of(volume)
    reach = HALF_A_PATCH + BLOCK - 1  # blocks are counted whole

    left = body.is_near((0, 0, 60 - 16 - away), (8, 8, 16))
    right = body.is_near((0, 0, 64 + away), (8, 8, 16))

    if away <= HALF_A_PATCH - 1:
        assert left
        assert right
    if away > reach:
        assert not left
        assert not right
