"""The whole way on the synthetic lower limb, with real nnU-Net trainings.

One demo is run for all tests of this file (some minutes on two cores). Its networks
learn in fewer epochs to find the large bones; the long form has the epochs of the
budget, and finds all.
"""

import csv
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from command import bridge
from file_states import file_states
from literal_rule import literal_slices, merged

from nnunet_bridge.core.cleaning import CleaningRule
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.formats.nifti import read_labelmap, read_volume, write_labelmap
from nnunet_bridge.ops.cleanup import clean_alike
from nnunet_bridge.ops.metrics import bone_scores

pytestmark = pytest.mark.training

BONES = ("tibia", "femur", "fibula", "pelvis")
LARGE = BONES[:2]
TABLE = LabelTable.from_names(list(BONES))
DATASET = "Dataset001_LowerLimb"


def states_without_tables(folder):
    """Return the states of all files but tables, which are written anew every time."""
    states = file_states(folder).items()
    return {file: state for file, state in states if not file.endswith(".csv")}


@pytest.fixture(
    scope="module",
    params=["fewer epochs", pytest.param("as it is", marks=pytest.mark.long)],
)
def form(request):
    return request.param


@pytest.fixture(scope="module")
def demo(form, request, tmp_path_factory):
    if form == "fewer epochs":
        request.getfixturevalue("few_steps").setenv("FEWER_EPOCHS", "1")
    folder = tmp_path_factory.mktemp("demo")
    result = bridge("demo", folder, "--json")
    return folder, json.loads(result.stdout), result.stderr


@pytest.fixture(scope="module")
def learned(form):
    """Return the bones that the networks must find, and the least mean Dice."""
    return (LARGE, 0.50) if form == "fewer epochs" else (BONES, 0.80)


@pytest.fixture(scope="module")
def work(demo):
    return demo[0] / "work"


def test_both_configurations_find_the_bones_of_unseen_patients(demo, learned):
    _, summary, _ = demo
    bones, least = learned

    for configuration in ("2d", "3d_fullres"):
        means = summary["scores"][configuration]["mean"]
        dice = [means[bone]["dice"] for bone in bones]
        assert np.mean(dice) > least, (configuration, means)


def test_every_patient_was_converted_and_none_refused(demo):
    _, summary, _ = demo

    cases = summary["conversion"]["cases"]
    assert len(cases) == 10
    assert {case["outcome"] for case in cases} <= {"accepted", "fixed"}


def test_the_progress_named_each_stage_and_the_time_left(demo):
    _, _, message = demo

    for stage in ("convert", "plan", "train", "predict 2d", "predict 3d_fullres"):
        assert f"] {stage}" in message
    assert " left" in message


def test_predictions_lie_on_the_grid_of_their_image(demo, work):
    _, summary, _ = demo
    for configuration, prediction in summary["predictions"].items():
        assert [case["case"] for case in prediction["cases"]] == ["msk_009", "msk_010"]
        for case in prediction["cases"]:
            labels = Path(prediction["out"]) / case["case"] / "labels.nii.gz"
            image = (
                work
                / "nnUNet_raw"
                / DATASET
                / "imagesTs"
                / f"{case['case']}_0000.nii.gz"
            )
            predicted = read_labelmap(labels, TABLE)
            assert predicted.grid.matches(read_volume(image).grid), configuration
            volumes = predicted.volumes_mm3()
            assert case["volumes_mm3"] == pytest.approx(volumes)


def test_every_bone_has_a_closed_mesh_around_its_own_voxels(demo, learned):
    # Where voxels touch only diagonally, an edge may have four faces.
    import trimesh

    _, summary, _ = demo
    out = Path(summary["predictions"]["2d"]["out"]) / "msk_009"
    labelmap = read_labelmap(out / "labels.nii.gz", TABLE)
    bones, _ = learned
    for label in filter(lambda label: label.name in bones, TABLE):
        mesh = trimesh.load(out / "meshes" / f"{label.name}.ply")
        where = labelmap.grid.to_patient(np.argwhere(labelmap.mask(label)))
        _, faces = np.unique(mesh.edges_sorted, axis=0, return_counts=True)
        assert not np.any(faces % 2)
        assert np.all(mesh.bounds[0] <= where.min(axis=0))
        assert np.all(mesh.bounds[1] >= where.max(axis=0))
    assert (out / "meshes" / "all.ply").exists()


def test_what_the_networks_predict_is_cleaned_as_by_the_literal_rule(predicted):
    for prediction, _ in predicted:
        results = [literal_slices(prediction.mask(label), 0.01) for label in TABLE]

        cleaned = clean_alike(prediction, CleaningRule(ratio=0.01))

        expected, _ = merged(prediction, results)
        np.testing.assert_array_equal(cleaned.labelmap.voxels, expected)


@pytest.fixture(scope="module")
def predicted(work):
    """Every prediction of the cross-validation, with its reference."""
    files = sorted((work / "nnUNet_results" / DATASET).glob("*/fold_*/validation/*.gz"))
    assert len(files) >= 4
    references = work / "nnUNet_raw" / DATASET / "labelsTr"
    return [
        (read_labelmap(file, TABLE), read_labelmap(references / file.name, TABLE))
        for file in files
    ]


def test_the_scores_are_a_table_with_the_columns_of_the_contract(demo):
    _, summary, _ = demo
    with (Path(summary["results"]) / "scores/2d/scores.csv").open() as file:
        rows = list(csv.DictReader(file))

    assert len(rows) == 2 * len(BONES)
    assert list(rows[0]) == [
        *("case", "structure", "state", "dice", "hd95_mm", "assd_mm", "nsd"),
        *("volume_reference_mm3", "volume_prediction_mm3"),
        *("volume_error_cm3", "volume_error_percent"),
        *("iou", "hd_mm", "volume_error_mm3"),
        *("volume_error_abs_mm3", "volume_error_abs_percent"),
    ]


def validation_pairs(work):
    """Go through what nnU-Net predicted in its validation, and what it made of it."""
    references = work / "nnUNet_raw" / DATASET / "labelsTr"
    summaries = sorted(
        (work / "nnUNet_results" / DATASET).glob("*/fold_0/validation/summary.json")
    )
    assert len(summaries) == 2
    for summary in summaries:
        for entry in json.loads(summary.read_text())["metric_per_case"]:
            name = Path(entry["prediction_file"]).name
            prediction = read_labelmap(summary.parent / name, TABLE)
            reference = read_labelmap(references / name, TABLE)
            yield prediction, reference, entry["metrics"]


def test_dice_and_iou_are_those_of_nnunet_itself(work):
    compared = 0
    for prediction, reference, measures in validation_pairs(work):
        for label, score in zip(
            TABLE, bone_scores(prediction, reference, case_id="c"), strict=True
        ):
            theirs = measures[str(label.value)]
            assert score.dice == pytest.approx(theirs["Dice"], abs=1e-9)
            assert score.iou == pytest.approx(theirs["IoU"], abs=1e-9)
            compared += 1

    assert compared >= 2 * 2 * len(BONES)


def test_surfaces_of_real_predictions_score_as_in_surface_distance(
    work, learned, by_the_package
):
    bones, _ = learned
    for prediction, reference, _ in validation_pairs(work):
        for label, score in zip(
            TABLE, bone_scores(prediction, reference, case_id="c"), strict=True
        ):
            masks = prediction.mask(label), reference.mask(label)
            if not masks[0].any():
                assert label.name not in bones
                continue
            expected = by_the_package(*masks, reference.grid.spacing_mm, 1.0)
            ours = score.hd95_mm, score.hd_mm, score.assd_mm, score.nsd
            np.testing.assert_allclose(ours, expected, atol=1e-9, rtol=0)


def test_cleaning_is_tuned_on_the_validation(work, tmp_path):
    image = work / "nnUNet_raw" / DATASET / "imagesTs" / "msk_009_0000.nii.gz"
    words = ("predict", "1", image, "-o", tmp_path, "-w", work, "-c", "2d")
    refused = bridge(*words, "--clean", "tuned", check=False)
    assert refused.exit_code == 3
    assert "clean --tune" in refused.stderr

    tuned = json.loads(
        bridge("clean", "--tune", "1", "-c", "2d", "-w", work, "--json").stdout
    )

    (model,) = tuned["models"]
    for row in model["structures"].values():
        assert row["dice_after"] >= row["dice_before"] - 1e-9
        assert row["hd95_after_mm"] <= row["hd95_before_mm"] + 1e-9
    Path(model["file"]).unlink()


def test_the_comparison_is_a_page_and_a_table_of_the_same_cases(demo):
    _, summary, _ = demo
    folder = Path(summary["results"]) / "comparison"

    assert (folder / "index.html").stat().st_size < 15_000_000
    assert "smoke test" in (folder / "index.html").read_text(encoding="utf-8")
    assert (folder / "comparison.csv").exists()
    assert json.loads((folder / "comparison.json").read_text())


def test_the_study_is_described_with_its_figures_and_gathered_in_one_table(
    demo, work, tmp_path
):
    _, summary, _ = demo
    results = Path(summary["results"])
    comparison = json.loads((results / "comparison" / "comparison.json").read_text())
    record = json.loads(next((work / "runs").glob("*/*/fold_0/run.json")).read_text())

    words = ("1", "-w", work, "--comparison", results / "comparison", "--json")
    text = " ".join(json.loads(bridge("describe", *words).stdout)["sentences"])
    table = bridge("results", results, "-o", tmp_path, "--json")

    assert "The dataset holds 10 cases of" in text
    assert "This training is a smoke test" in text
    assert all(f"{name} {v}" in text for name, v in record["versions"].items())
    assert all(sentence in text for sentence in comparison["verdict"]["sentences"])
    assert comparison["methods"]["p"] in text
    models, cases = 2, 2
    assert json.loads(table.stdout)["rows"] == models * cases * len(BONES)


def test_R12_a_second_run_writes_nothing_again_and_says_where_things_are(demo, work):
    folder, _, _ = demo
    results = work / "runs" / DATASET / "results/smoke/predictions"
    folders = (work / "nnUNet_raw", work / "nnUNet_results", results)
    before = [states_without_tables(folder) for folder in folders]

    started = time.monotonic()
    text = bridge("demo", folder).stdout

    assert time.monotonic() - started < 120
    assert [states_without_tables(folder) for folder in folders] == before
    last = "\n".join(text.splitlines()[-8:])
    for word in ("index.html", "scores.csv", "meshes", "smoke test"):
        assert word in last


def test_status_reads_the_same_from_the_files(work, learned):
    runs = json.loads(bridge("status", "1", "-w", work, "--json").stdout)["runs"]

    done = [run for run in runs if run["fold"] == 0]
    assert [(run["configuration"], run["state"]) for run in done] == [
        ("2d", "done"),
        ("3d_fullres", "done"),
    ]
    bones, least = learned
    share = len(bones) / len(BONES)
    assert all(run["mean_dice"] > (least - 0.05) * share for run in done)


def test_every_training_left_its_record_as_a_page(work):
    runs = json.loads(bridge("status", "1", "-w", work, "--json").stdout)["runs"]
    done = [run for run in runs if run["state"] == "done" and run["fold"] == 0]

    pages = [Path(run["page"]).read_text(encoding="utf-8") for run in done]

    assert len(pages) == 2
    for page in pages:
        for words in ("This smoke test checks", "Worst slice", "Random slice",
                      "derived IoU", "patients", "prediction of a case"):  # fmt: skip
            assert words in page


def test_no_patient_is_on_both_sides_of_a_split(work):
    splits = json.loads(
        (work / "nnUNet_preprocessed" / DATASET / "splits_final.json").read_text()
    )

    for fold in splits:
        assert not set(fold["train"]) & set(fold["val"])


def test_two_configurations_predict_their_mean_straight_from_dicom(
    demo, work, learned, tmp_path
):
    folder, _, _ = demo
    scan = next((folder / "study" / "Raw DICOM MRI Scans").glob("9_*"))

    result = bridge(
        *("predict", "1", scan, "-o", tmp_path, "-w", work, "--json"),
        *("-c", "2d", "-c", "3d_fullres"),
    )

    (case,) = json.loads(result.stdout)["cases"]
    reference = work / "nnUNet_raw" / DATASET / "labelsTs" / "msk_009.nii.gz"
    mean = read_labelmap(tmp_path / case["case"] / "labels.nii.gz", TABLE)
    expected = read_labelmap(reference, TABLE)
    assert mean.grid.matches(expected.grid)
    overlap = (mean.voxels == expected.voxels) & (expected.voxels > 0)
    sizes = (mean.voxels > 0).sum() + (expected.voxels > 0).sum()
    assert 2 * overlap.sum() / sizes > learned[1]
    assert list(tmp_path.glob(".work-*")) == []


def test_N06_a_dataset_that_changed_after_planning_is_not_trained(work):
    label = work / "nnUNet_raw" / DATASET / "labelsTr" / "msk_001.nii.gz"
    content = label.read_bytes()
    drawn = read_labelmap(label, TABLE)
    write_labelmap(
        label, drawn.with_voxels(np.where(drawn.voxels == 3, 0, drawn.voxels))
    )
    try:
        result = bridge("train", "1", "-w", work, "--budget", "smoke", check=False)
    finally:
        label.write_bytes(content)

    assert result.exit_code == 3
    assert "has changed since it was planned" in result.stderr


def test_N06_a_run_of_other_splits_is_neither_kept_nor_gone_on_with(work):
    bridge("plan", "1", "-w", work, "--leave-one-out")
    try:
        result = bridge("train", "1", "-w", work, "--budget", "smoke", check=False)
    finally:
        bridge("plan", "1", "-w", work, "--folds", "5")

    assert result.exit_code == 3
    assert "2d fold 0: changed since its start: the splits." in result.stderr
    assert "--restart" in result.stderr
    splits = json.loads(
        (work / "nnUNet_preprocessed" / DATASET / "splits_final.json").read_text()
    )
    assert len(splits) == 5


def test_a_file_that_was_only_touched_has_not_changed(work):
    label = work / "nnUNet_raw" / DATASET / "labelsTr" / "msk_001.nii.gz"
    label.touch()

    result = bridge("train", "1", "-w", work, "--budget", "smoke", "--json")

    assert {run["state"] for run in json.loads(result.stdout)["runs"]} == {"done"}


def test_nothing_that_identifies_the_study_is_in_the_dataset(demo, work):
    """The manifest holds salted hashes, not the names of the patients' folders."""
    folder, _, _ = demo
    manifest = (work / "nnUNet_raw" / DATASET / "manifest.json").read_text()

    for scan in (folder / "study" / "Raw DICOM MRI Scans").iterdir():
        assert scan.name not in manifest
        digest = hashlib.sha256(scan.name.encode()).hexdigest()
        assert digest not in manifest
    assert str(folder) not in manifest


def test_the_mean_of_both_is_weighed_too_and_predict_follows_the_choice(work, tmp_path):
    answer = json.loads(
        bridge("select", "1", "-w", work, "--ensembles", "--json").stdout
    )

    candidates = {one["name"]: one for one in answer["candidates"]}
    assert set(candidates) == {"2d", "3d_fullres", "2d+3d_fullres"}
    dice = {name: one["dice"] for name, one in candidates.items()}
    assert dice["2d+3d_fullres"] > min(dice["2d"], dice["3d_fullres"]) - 0.01
    ours = {name: candidates[name]["mean"] for name in ("2d", "3d_fullres")}
    assert answer["second_opinion"]["best"] == max(ours, key=ours.get)
    assert not list((work / "runs" / DATASET).glob(".select-*"))

    image = min((work / "nnUNet_raw" / DATASET / "imagesTs").glob("*.nii.gz"))
    words = ("predict", "1", image, "-w", work, "-o", tmp_path / "out", "--json")
    predicted = json.loads(bridge(*words).stdout)

    assert f"the choice of `select`: {answer['reason']}" in predicted["model"]
