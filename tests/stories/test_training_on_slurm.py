"""Trainings on a real Slurm: a whole study, a killed job, a failed one, lost time.

The study is tiny, so that ten trainings fit into minutes; what is tested is their way.
"""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import slurm_here
from small_study import CONTENT, GRID, MASKS, SCANS, draw, scan

pytestmark = [pytest.mark.training, pytest.mark.cluster]

DATASET = "Dataset001_Tibia"
SETTINGS = """
[slurm]
time = "{time}"
gpus = 1
cpus = 1
memory_gb = 4
"""
PATIENTS = 5
FOLDS = range(PATIENTS)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    reason = slurm_here.why_not()
    if reason:
        pytest.skip(reason)
    with slurm_here.slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def bridge(*words, environment=None, check=True):
    result = subprocess.run(
        [sys.executable, "-m", "nnunet_bridge", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env=environment or os.environ,
    )
    if check:
        assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A planned dataset of five tiny patients."""
    folder = tmp_path_factory.mktemp("lab") / "study"
    rng = np.random.default_rng(0)
    for index in range(1, PATIENTS + 1):
        scan(folder, index, f"{index}A")
        for name, low in (("tibia", 4), ("femur", 20)):
            mask = np.zeros(GRID.shape, np.uint8)
            begin = low + int(rng.integers(0, 3))
            mask[begin : begin + 8, 8:14, 3:9] = 1
            draw(folder, f"{index}_{name}_{index}A", mask)
    recipe = folder / "dataset.toml"
    recipe.write_text(
        f'[dataset]\nid = 1\nname = "{CONTENT["dataset"]["name"]}"\n'
        f'[scans]\nfolder = "{SCANS}"\n[masks]\nfolder = "{MASKS}"\n'
        "[labels]\ntibia = 1\nfemur = 2\n" + SETTINGS.format(time="02:00:00")
    )
    work = folder.parent / "work"
    work.mkdir()
    bridge("convert", folder, "-r", recipe, "-w", work)
    bridge("plan", "1", "-w", work)
    return work


def train(work, cluster, *words, check=True):
    return bridge(
        *("train", "1", "-w", work, "--budget", "smoke", "--on", "slurm", "--json"),
        *("-r", work.parent / "study" / "dataset.toml", *words),
        environment=cluster,
        check=check,
    )


def states(work):
    runs = json.loads(bridge("status", "1", "-w", work, "--json").stdout)["runs"]
    return {(run["configuration"], run["fold"]): run for run in runs}


def wait_for(work, happened, *, seconds=1500):
    """Wait until the runs are as wanted; return them."""
    end = time.monotonic() + seconds
    while True:
        runs = states(work)
        if happened(runs):
            return runs
        assert time.monotonic() < end, runs
        time.sleep(2)


def run_dir(work, configuration, fold):
    model = f"BridgeSmokeTrainer__nnUNetPlansSmoke__{configuration}"
    return work / "runs" / DATASET / model / f"fold_{fold}"


def test_five_folds_of_two_configurations_finish_and_a_killed_job_goes_on(
    work, cluster
):
    submitted = json.loads(
        train(work, cluster, "-c", "2d", "-c", "3d_fullres", "-f", "all5").stdout
    )
    assert {run["state"] for run in submitted["runs"]} <= {"queued", "running"}
    assert "10 trainings handed to Slurm" in submitted["notes"][0]

    again = json.loads(
        train(work, cluster, "-c", "2d", "-c", "3d_fullres", "-f", "all5").stdout
    )
    assert again["notes"] == ["Everything asked for is done, or waits on the cluster."]

    wait_for(work, lambda runs: runs[("2d", 0)]["epochs"] >= 2)
    job = states(work)[("2d", 0)]["job"]
    subprocess.run(["scancel", "--signal=KILL", job], env=cluster, check=True)
    wait_for(work, lambda runs: runs[("2d", 0)]["state"] == "stopped", seconds=60)

    others = {("2d", fold) for fold in FOLDS} | {("3d_fullres", f) for f in FOLDS}
    others.remove(("2d", 0))
    wait_for(work, lambda runs: all(runs[one]["state"] == "done" for one in others))
    train(work, cluster, "-c", "2d", "-f", "0")
    finished = wait_for(work, lambda runs: runs[("2d", 0)]["state"] == "done")

    assert len(finished) == 10
    assert all(run["mean_dice"] is not None for run in finished.values())
    events = (run_dir(work, "2d", 0) / "events.jsonl").read_text().splitlines()
    starts = [json.loads(line) for line in events if '"event": "start"' in line]
    assert [start["first_epoch"] > 0 for start in starts] == [False, True]
    for (configuration, fold), run in finished.items():
        file = run_dir(work, configuration, fold) / "run.json"
        record = json.loads(file.read_text())
        assert record["state"] == "done"
        assert record["job"] == run["job"] != ""


def test_a_job_that_fails_is_reported_with_the_line_that_matters(work, cluster):
    """A preprocessed case is damaged, as a full disk leaves it (FAULTS N04)."""
    folder = work / "nnUNet_preprocessed" / DATASET / "nnUNetPlans_2d"
    damaged = min(folder.glob("*[0-9].b2nd"))
    whole = damaged.read_bytes()
    train(work, cluster, "-c", "2d", "-f", "all")
    damaged.write_bytes(whole[:40])
    try:
        failed = wait_for(
            work, lambda runs: runs[("2d", "all")]["state"] == "failed", seconds=300
        )
    finally:
        damaged.write_bytes(whole)

    assert "missing or changed" in failed[("2d", "all")]["reason"]
    assert damaged.name in failed[("2d", "all")]["reason"]
    assert damaged.name in bridge("status", "1", "-w", work).stdout
    logs = sorted((work / "runs" / DATASET / "slurm").glob("*.log"))
    assert any(damaged.name in log.read_text() for log in logs)


def test_a_job_whose_time_is_up_goes_back_to_the_queue_and_goes_on(work, cluster):
    train(work, cluster, "-c", "2d", "-f", "2", "--restart")
    begun = wait_for(
        work,
        lambda runs: (
            runs[("2d", 2)]["state"] == "running" and 2 <= runs[("2d", 2)]["epochs"] < 9
        ),
        seconds=300,
    )
    job = begun[("2d", 2)]["job"]

    subprocess.run(
        ["scancel", "--batch", "--signal=USR1", job], env=cluster, check=True
    )

    done = wait_for(work, lambda runs: runs[("2d", 2)]["state"] == "done", seconds=600)
    assert done[("2d", 2)]["job"] == job
    events = (run_dir(work, "2d", 2) / "events.jsonl").read_text().splitlines()
    starts = [json.loads(line) for line in events if '"event": "start"' in line]
    assert [start["first_epoch"] > 0 for start in starts] == [False, True]


def test_the_file_for_sbatch_does_the_same(work, cluster):
    made = json.loads(
        bridge(
            *("train", "1", "-w", work, "--budget", "smoke", "--on", "script"),
            *("-c", "2d", "-f", "3", "--restart", "--json"),
            *("-r", work.parent / "study" / "dataset.toml"),
        ).stdout
    )
    script = work / "runs" / DATASET / "train.sbatch"
    assert f"send it with `sbatch {script}`" in made["notes"][0]
    checkpoint = (
        work / "nnUNet_results" / DATASET
        / "BridgeSmokeTrainer__nnUNetPlansSmoke__2d/fold_3/checkpoint_final.pth"
    )  # fmt: skip
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    subprocess.run(["sbatch", script], env=cluster, check=True, stdout=subprocess.PIPE)

    wait_for(
        work,
        lambda runs: (
            ("2d", 3) in runs
            and runs[("2d", 3)]["state"] == "done"
            and checkpoint.stat().st_mtime_ns > before
        ),
        seconds=300,
    )


def test_without_slurm_the_way_out_is_named(work, tmp_path):
    empty = {**os.environ, "PATH": str(tmp_path)}

    result = train(work, empty, "-c", "2d", "-f", "4", "--restart", check=False)

    assert result.returncode == 5
    assert "--on script" in result.stderr
