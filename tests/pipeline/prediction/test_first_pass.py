"""Only the slices that matter are predicted, and the labels lie on all of them."""

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from stand_in import (
    DATASET,
    GRID,
    TABLE,
    StandIn,
    finished_workspace,
    image_with_bone,
)

from nnunet_bridge.cli import main
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.formats.nifti import read_labelmap
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.ops.region import RegionRequest
from nnunet_bridge.pipeline.prediction.first_pass import (
    COARSE_MM,
    found_region,
    thinned,
)
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images

BONE = (20, 34)


def limits(region):
    return region.first, region.end


# --- the first pass -------------------------------------------------------------------


def test_a_thinned_image_holds_every_nth_slice_at_its_place():
    volume = Volume(GRID, np.arange(GRID.shape[2]) * np.ones(GRID.shape, np.int16))

    thin = thinned(volume)

    step = round(COARSE_MM / 2.0)
    assert thin.voxels[0, 0].tolist() == list(range(0, 60, step))
    k = thin.voxels.shape[2] - 1
    np.testing.assert_allclose(
        thin.grid.to_patient([1, 2, k]), GRID.to_patient([1, 2, k * step])
    )


@given(
    first=st.integers(0, 59),
    length=st.integers(1, 60),
    spacing=st.floats(0.5, 12),
    margin=st.floats(0, 60),
)
def test_whatever_the_first_pass_saw_a_slice_of_lies_wholly_inside(
    first, length, spacing, margin
):
    end = min(first + length, 60)
    grid = Grid((4, 4, 60), np.diag([1, 1, spacing, 1.0]))
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[1:3, 1:3, first:end] = 1

    region = found_region(thinned(Volume(grid, voxels)).voxels > 0, grid, margin)

    if region is None:  # it lay between two slices of the first pass
        assert (end - first) * spacing < 2 * COARSE_MM
        return
    assert region.first <= first
    assert region.end >= end
    widest = margin + COARSE_MM * 1.5 + 2 * spacing
    assert (first - region.first) * spacing <= widest
    assert (region.end - end) * spacing <= widest


def test_a_speck_far_away_does_not_widen_the_region():
    structures = np.zeros((20, 20, 30), bool)
    structures[5:15, 5:15, 10:16] = True
    structures[0, 0, 28] = True
    grid = Grid((20, 20, 60), np.diag([1, 1, 2.5, 1.0]))

    assert limits(found_region(structures, grid, 0.0)) == (19, 32)
    assert found_region(np.zeros_like(structures), grid) is None


# --- predict --------------------------------------------------------------------------


@pytest.fixture
def predicted(tmp_path):
    workspace = finished_workspace(tmp_path)
    network = StandIn()
    images = [image_with_bone(tmp_path / "leg.nii.gz", *BONE)]

    def call(*more, **words):
        summary = predict_images(
            Dataset(workspace, DATASET),
            [*images, *more],
            tmp_path / "out",
            PredictionOptions(device="cpu", region=RegionRequest.from_words(**words)),
            network=network,
        )
        return summary, network.calls

    return call


def labels_of(tmp_path, case="leg"):
    return read_labelmap(tmp_path / "out" / case / "labels.nii.gz", TABLE)


@pytest.mark.parametrize(
    ("words", "kept"),
    [({"slices": "25:30"}, (25, 30)), ({"from_mm": 50.0, "to_mm": 58.0}, (25, 30))],
)
def test_only_the_region_is_predicted_and_put_back_on_the_grid_of_the_input(
    predicted, tmp_path, words, kept
):
    _, calls = predicted(**words)

    assert calls == [{"leg": (12, 10, 5)}]
    labelmap = labels_of(tmp_path)
    assert labelmap.grid.matches(GRID)
    held = np.flatnonzero(labelmap.voxels.any(axis=(0, 1)))
    assert (held[0], held[-1] + 1) == kept
    record = read_json(tmp_path / "out" / "leg" / "prediction.json")
    assert (record["cut"]["first_slice"], record["cut"]["end_slice"]) == kept
    assert record["cut"]["slices_before"] == 60
    assert record["cut"]["asked"] == record["options"]["region"]


def test_auto_finds_the_structures_and_predicts_no_more_than_they_need(
    predicted, tmp_path
):
    predicted()
    whole = labels_of(tmp_path).voxels

    summary, calls = predicted(auto=True, margin_mm=6.0)

    np.testing.assert_array_equal(labels_of(tmp_path).voxels, whole)
    _, first_pass, cut = (call["leg"][2] for call in calls)
    assert first_pass == 30
    assert BONE[1] - BONE[0] + 2 * 3 <= cut <= BONE[1] - BONE[0] + 2 * 3 + 4
    record = read_json(tmp_path / "out" / "leg" / "prediction.json")
    assert record["cut"]["found_by"] == {"model": "2d fold 0", "slice_every_mm": 5.0}
    assert summary.exit_code == 0


def test_auto_that_finds_nothing_predicts_everything_and_says_so(predicted, tmp_path):
    empty = image_with_bone(tmp_path / "empty.nii.gz", 0, 0)

    summary, calls = predicted(empty, auto=True)

    by_id = {case.case_id: case for case in summary.cases}
    assert calls[-1]["empty"] == GRID.shape
    assert "found no structure" in by_id["empty"].findings[0].message
    assert by_id["leg"].findings == ()
    record = read_json(tmp_path / "out" / "empty" / "prediction.json")
    assert record["cut"] is None


def test_N03_another_region_predicts_anew_and_the_same_does_not(predicted):
    assert len(predicted(slices="20:40")[1]) == 1
    assert len(predicted(slices="20:40")[1]) == 1
    assert len(predicted(slices="20:41")[1]) == 2
    assert len(predicted(auto=True)[1]) == 4
    assert len(predicted(auto=True)[1]) == 4


def test_K20_an_image_without_these_slices_is_refused_and_the_others_go_on(
    predicted, tmp_path
):
    short = image_with_bone(
        tmp_path / "short.nii.gz", 1, 3, grid=Grid((12, 10, 9), GRID.affine)
    )

    summary, calls = predicted(short, slices="20:40")

    assert [str(case.outcome) for case in summary.cases] == ["accepted", "refused"]
    assert [f.code for f in summary.cases[1].findings] == ["K20"]
    assert calls == [{"leg": (12, 10, 20)}]
    assert summary.exit_code == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--slices", "5"], "is not a range"),
        (["--slices", "1:5", "--region", "auto"], "not several of them"),
        (["--margin-mm", "5"], "needs --region auto"),
    ],
)
def test_the_command_refuses_words_that_do_not_go_together(tmp_path, words, message):
    workspace = finished_workspace(tmp_path)
    image = image_with_bone(tmp_path / "leg.nii.gz", *BONE)

    result = CliRunner().invoke(
        main,
        list(
            map(
                str,
                [
                    *("predict", DATASET, image, "-o", tmp_path / "out", *words),
                    *("-w", workspace.raw_dir.parent),
                ],
            )
        ),
    )

    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
