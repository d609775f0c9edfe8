"""The benchmarks run from end to end; how fast anything is, no test asserts."""

import subprocess
import sys
from pathlib import Path

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


def printed_by(script):
    """Return what a quick run prints; an answer that differs would have ended it."""
    command = [sys.executable, str(BENCHMARKS / script), "--quick"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_every_stage_races_and_every_answer_is_that_of_the_baseline():
    table, _, everybody = printed_by("run.py").partition("Everybody:")

    assert [row for row in ROWS if f"\n| {row}" not in table] == []
    assert everybody.count("the baseline |") == len(ROWS)
    assert everybody.count("| nnunet-bridge") == len(ROWS)


def test_growth_is_measured_for_every_stage_after_the_scan():
    table = printed_by("growth.py")

    for stage in ("convert", "clean", "score", "mesh"):
        assert f"\n| {stage} |" in table


def test_the_content_check_finds_what_is_planted_in_the_synthetic_limb():
    table = printed_by("content_check.py")

    assert "| synthetic limb | 1 | 1 | 0 | " + " | ".join(["100"] * 15) in table
    assert "False alarms: 0." in table
