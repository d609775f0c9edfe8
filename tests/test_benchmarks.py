"""The benchmarks run from end to end; how fast anything is, no test asserts."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ROWS = (
    "read DICOM",
    "write MR .nii.gz",
    "write labels .nii.gz",
    "merge 4 masks",
    "denoise, 4 bones",
    "Dice and volumes",
    "HD95, ASSD, NSD",
    "the same, speckled prediction",
    "meshes, 4 bones",
    "PLY",
)


def printed_by(script, *words):
    """Return what a quick run prints; an answer that differs would have ended it."""
    command = [sys.executable, str(BENCHMARKS / script), *(words or ("--quick",))]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_every_stage_races_and_every_answer_is_that_of_the_baseline():
    table, _, everybody = printed_by("run.py").partition("Everybody:")

    assert [row for row in ROWS if f"\n| {row}" not in table] == []
    assert everybody.count("the baseline |") == len(ROWS)
    assert everybody.count("| nnunet-bridge") == len(ROWS)


@pytest.mark.long
def test_growth_is_measured_for_every_stage_after_the_scan():
    table = printed_by("growth.py")

    for stage in ("convert", "clean", "score", "mesh"):
        assert f"\n| {stage} |" in table


@pytest.mark.long
def test_the_export_of_predict_gives_every_voxel_the_label_of_nnunets():
    rows = printed_by("export.py").splitlines()[-2:]

    assert [row.split(" | ")[-1] for row in rows] == ["0 |", "0 |"]


def test_the_content_check_finds_what_is_planted_in_the_synthetic_limb():
    table = printed_by("content_check.py")

    assert "| synthetic limb | 1 | 1 | 0 | " + " | ".join(["100"] * 15) in table
    assert "False alarms: 0." in table


def test_averages_of_two_hippocampi_are_noticed_and_unseen_ones_are_not(test_data):
    """12 of 40 set the limit; blurred ones and three patients played no part in it."""
    table = printed_by("averaged_patients.py", str(test_data), "--quick")
    rows = [row.strip("|").split("|") for row in table.splitlines()[2:]]
    flagged = {kind.strip(): int(share) for kind, share in rows}

    assert max(flagged["as given"], flagged["three times as bright"]) <= 6
    assert min(flagged["average of two"], flagged["average of three"]) >= 80
    assert flagged["blurred by one voxel"] >= 80


def test_the_referee_finds_every_promise_kept():
    """The short form: 40 studies a row, within two standard errors of such a draw."""
    rows = printed_by("referee.py").splitlines()[2:]

    assert len(rows) >= 16
    assert [row for row in rows if "NO" in row.split("|")[-2]] == []


def test_damage_planted_into_synthetic_bones_is_found_by_the_audit():
    """The short form of three plantings; real studies and trainings take an hour."""
    table = printed_by("audit.py", "report", "--quick", "--plantings", "3")
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    found = {row[1]: float(row[3].split()[0]) for row in rows}

    assert found["with predictions"] >= 0.95
    assert found["shape alone"] >= 0.9


@pytest.mark.training
@pytest.mark.long
def test_the_check_of_a_gpu_runs_from_end_to_end_on_a_cpu(
    planned_lab, tmp_path, few_steps
):
    """What needs a GPU is marked as not checked."""
    shutil.copytree(planned_lab / "work", tmp_path / "work")
    few_steps.setenv("OMP_NUM_THREADS", "1")
    words = ["--tiny", "--device", "cpu", "--workspace", str(tmp_path / "work")]
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), *words]

    printed = subprocess.run(command, check=False, capture_output=True, text=True)

    rows = [line.split(" | ") for line in printed.stdout.splitlines()[2:-2]]
    verdicts = {row[0].strip("| "): row[-1].strip("| ") for row in rows}
    assert printed.returncode == 0, printed.stdout + printed.stderr
    assert verdicts == {
        "GPU": "ok",
        "compiler": verdicts["compiler"],
        "2d: interrupt and resume": "ok",
        "2d: epoch": "ok",
        "2d: GPU memory of the training": "-",
        "epoch without compilation": "-",
        "smoke run": "-",
        "another program fills the GPU": "-",
        "2d: prediction, 1 fold": "ok",
        "2d: prediction, 5 folds": "ok",
    }
    assert printed_by("gpu_check.py", "--list").startswith("Carry to the computer")
