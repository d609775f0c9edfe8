"""Scoring of folders: complete, named, repeatable."""

import csv
import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.spatial.transform import Rotation
from some_labelmaps import AFFINE, labelmap, mtimes

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.progress import Silent
from nnunet_bridge.formats.nifti import write_labelmap
from nnunet_bridge.formats.tables import score_row
from nnunet_bridge.ops.metrics import bone_scores
from nnunet_bridge.pipeline.labels.score import ScoreOptions, score_folders


class Listener(Silent):
    """Records its calls."""

    def __init__(self):
        self.calls = []

    def stage(self, name, steps):
        self.calls.append((name, steps))

    def advance(self, done, note=""):
        self.calls.append((done, note))


def csv_rows(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_pair_is_scored_and_written(folders):
    summary = score_folders(*folders, ScoreOptions(configuration="2d"))
    table = summary.scores

    assert summary.exit_code == 0
    content = json.loads((folders[2] / "scores.json").read_text())
    rows = [row for case in content["cases"] for row in case["structures"]]
    assert rows == [score_row(score) for score in table]
    assert len(csv_rows(folders[2] / "scores.csv")) == len(table)
    assert [score.case_id for score in table[::2]] == ["msk_000", "msk_001", "msk_002"]
    assert {score.structure for score in table} == {"tibia", "femur"}
    expected = bone_scores(
        labelmap(1).with_voxels(np.roll(labelmap(1).voxels, 1, axis=0)),
        labelmap(1),
        case_id="msk_001",
        configuration="2d",
    )
    np.testing.assert_allclose(
        [score.assd_mm for score in table[2:4]], [score.assd_mm for score in expected]
    )


def test_means_go_over_the_cases_and_say_how_many(folders):
    summary = score_folders(*folders)
    content = json.loads((folders[2] / "scores.json").read_text())

    dice = [s.dice for s in summary.scores if s.structure == "tibia"]
    assert content == summary.as_json()
    assert content["mean"]["tibia"]["n"] == 3
    assert content["mean"]["tibia"]["dice"] == pytest.approx(np.mean(dice))
    for measure in ("iou", "hd_mm", "volume_error_abs_mm3", "volume_error_abs_percent"):
        values = [getattr(s, measure) for s in summary.scores if s.structure == "tibia"]
        assert content["mean"]["tibia"][measure] == pytest.approx(np.mean(values))
    assert content["tolerance_mm"] == 1.0
    assert "surface-distance" in content["definition"]


def test_N09_absent_structures_are_counted_and_not_averaged(folders):
    predictions, references, out = folders
    empty = labelmap().with_voxels(np.zeros((40, 36, 12), np.uint8))
    only_tibia = empty.with_voxels((labelmap().voxels == 1).astype(np.uint8))
    write_labelmap(predictions / "msk_000.nii.gz", empty)
    write_labelmap(references / "msk_000.nii.gz", only_tibia)

    mean = score_folders(predictions, references, out).as_json()["mean"]

    assert (mean["tibia"]["missed"], mean["tibia"]["n"]) == (1, 3)
    assert mean["tibia"]["n_surface"] == 2
    assert (mean["femur"]["both_empty"], mean["femur"]["n"]) == (1, 2)


def test_cases_without_a_partner_are_named(folders):
    predictions, references, out = folders
    (predictions / "msk_000.nii.gz").unlink()
    (references / "msk_002.nii.gz").unlink()

    summary = score_folders(predictions, references, out)

    assert summary.as_json()["without_prediction"] == ["msk_000"]
    assert summary.as_json()["without_reference"] == ["msk_002"]
    assert "No prediction for: msk_000." in summary.as_text()
    assert "No reference for: msk_002." in summary.as_text()
    assert summary.exit_code == 4


def test_a_prediction_without_a_reference_is_no_fault(folders):
    (folders[1] / "msk_002.nii.gz").unlink()

    assert score_folders(*folders).exit_code == 0


@examples(20)
@given(
    axes=st.permutations(range(3)),
    flips=st.sets(st.integers(0, 2)),
    turn=st.tuples(*[st.floats(-3, 3)] * 3),
    seed=st.integers(0, 9),
)
def test_a_prediction_in_another_axis_order_is_scored_by_its_place(
    tmp_path_factory, axes, flips, turn, seed
):
    """The order of axes is turned by nibabel and SimpleITK, not by our code."""
    folder = tmp_path_factory.mktemp("score")
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(turn).as_matrix() * [0.8, 0.9, 3]
    affine[:3, 3] = [30, -20, 400]
    reference = labelmap(seed, affine=affine)
    predicted = reference.with_voxels(np.roll(reference.voxels, 1, axis=0))
    write_labelmap(folder / "r" / "a.nii.gz", reference)
    write_labelmap(folder / "p" / "a.nii.gz", predicted)
    plain = score_folders(folder / "p", folder / "r", folder / "o").scores
    image = sitk.ReadImage(str(folder / "p" / "a.nii.gz"))
    image = sitk.PermuteAxes(image, list(axes))
    image = sitk.Flip(image, [axis in flips for axis in range(3)])
    sitk.WriteImage(image, str(folder / "p" / "a.nii.gz"))

    summary = score_folders(folder / "p", folder / "r", folder / "o")

    assert summary.exit_code == 0
    for found, expected in zip(summary.scores, plain, strict=True):
        assert found.dice == expected.dice
        np.testing.assert_allclose(found.assd_mm, expected.assd_mm, rtol=1e-6)


@pytest.mark.parametrize(("away", "code"), [(9e-4, 0), (-9e-4, 0), (2e-3, 4)])
@pytest.mark.parametrize("named", [True, False])
def test_K07_labels_of_nearly_whole_numbers_are_scored(folders, away, code, named):
    if not named:
        (folders[1].parent / "dataset.json").unlink()
    file = folders[0] / "msk_001.nii.gz"
    image = nibabel.load(file)
    voxels = np.asarray(image.dataobj).astype(np.float32)
    expected = score_folders(*folders).scores[2:4]
    voxels[voxels > 0] += np.float32(away)
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), file)

    summary = score_folders(*folders)

    assert summary.exit_code == code
    case = summary.cases[1]
    assert case.codes == ("K07",)
    if not code:
        assert str(case.outcome) == "fixed"
        assert [score.dice for score in case.scores] == [s.dice for s in expected]


def test_no_pair_at_all_is_an_error_that_names_both_sides(folders):
    predictions, references, out = folders
    for file in predictions.iterdir():
        file.rename(file.with_name(f"other_{file.name}"))

    with pytest.raises(InputError, match=r"other_msk_000.*msk_000"):
        score_folders(predictions, references, out)


def test_a_damaged_file_refuses_its_case_only(folders):
    damaged = folders[0] / "msk_001.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-40])

    summary = score_folders(*folders)

    assert summary.exit_code == 4
    case = summary.as_json()["cases"][1]
    assert (case["outcome"], case["codes"], case["structures"]) == (
        "refused",
        ["K19"],
        [],
    )
    assert "msk_001: refused. [K19]" in summary.as_text()
    assert len(csv_rows(folders[2] / "scores.csv")) == 4


def test_M02_a_prediction_on_another_grid_refuses_its_case(folders):
    moved = AFFINE.copy()
    moved[2, 3] = 50.0
    for seed in range(3):
        write_labelmap(folders[0] / f"msk_{seed:03d}.nii.gz", labelmap(affine=moved))

    summary = score_folders(*folders)

    assert summary.exit_code == 3
    assert {code for c in summary.as_json()["cases"] for code in c["codes"]} == {"M02"}
    assert "50.000 mm" in summary.as_text()


def test_folders_as_predict_writes_them_are_understood(folders):
    predictions, references, out = folders
    for file in list(predictions.iterdir()):
        folder = predictions / file.name.removesuffix(".nii.gz")
        folder.mkdir()
        file.rename(folder / "labels.nii.gz")

    assert len(score_folders(predictions, references, out).cases) == 3


def test_without_a_table_the_labels_are_numbered(folders):
    (folders[1].parent / "dataset.json").unlink()

    summary = score_folders(*folders)

    assert set(summary.as_json()["mean"]) == {"label_1", "label_2"}


@pytest.mark.parametrize("value", [3000, np.nan, -1])
def test_a_file_that_holds_no_labels_does_not_end_a_batch_without_a_table(
    folders, value
):
    (folders[1].parent / "dataset.json").unlink()
    file = folders[0] / "msk_001.nii.gz"
    image = nibabel.load(file)
    voxels = np.asarray(image.dataobj).astype(np.float32)
    voxels[0, 0, 0] = value
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), file)

    summary = score_folders(*folders)

    outcomes = [str(case.outcome) for case in summary.cases]
    assert outcomes == ["accepted", "refused", "accepted"]
    assert set(summary.as_json()["mean"]) == {"label_1", "label_2"}


def test_a_value_beyond_the_table_refuses_the_case(folders):
    labels = folders[1].parent / "one.json"
    labels.write_text(json.dumps({"labels": {"background": 0, "tibia": 1}}))

    assert score_folders(*folders, ScoreOptions(labels)).exit_code == 3


def test_the_text_is_a_table_with_a_line_per_structure(folders):
    header, tibia, femur, remark = (
        score_folders(*folders, ScoreOptions(tolerance_mm=2)).as_text().splitlines()
    )

    assert header.split()[:3] == ["structure", "n", "dice"]
    assert "nsd (2 mm)" in header
    assert "(2 mm) is below the largest voxel edge (3 mm)" in remark
    assert tibia.split()[:2] == ["tibia", "3"]
    assert femur.startswith("femur")


def test_scoring_again_leaves_the_files_alone(folders):
    score_folders(*folders)
    before = mtimes(folders[2])

    score_folders(*folders)

    assert mtimes(folders[2]) == before


def test_progress_is_reported_case_by_case(folders):
    listener = Listener()

    score_folders(*folders, progress=listener)

    assert listener.calls[0] == ("score", 3)
    assert listener.calls[-1] == (3, "msk_002")


def test_labels_are_unknown_where_no_file_can_be_read(folders):
    (folders[1].parent / "dataset.json").unlink()
    for file in [*folders[0].iterdir(), *folders[1].iterdir()]:
        file.write_bytes(b"damaged")

    with pytest.raises(InputError, match="No label file can be read"):
        score_folders(*folders)


def test_two_files_of_one_case_are_refused(folders):
    write_labelmap(folders[0] / "msk_000.nii", labelmap())

    with pytest.raises(InputError, match="both of case msk_000"):
        score_folders(*folders)


@pytest.mark.parametrize("name", ["nothing", "dataset.json", "empty"])
def test_a_path_without_label_files_is_refused(folders, name):
    (folders[1].parent / "empty").mkdir()

    with pytest.raises(InputError):
        score_folders(folders[1].parent / name, folders[1], folders[2])


def test_real_labels_against_themselves_are_perfect(test_data, tmp_path):
    references = test_data / "train/spine_vb_2mm/labelsTs"

    summary = score_folders(references, references, tmp_path)

    assert summary.exit_code == 0
    assert {mean.dice for mean in summary.mean} == {1.0}
    assert {mean.hd95_mm for mean in summary.mean} == {0.0}
