"""Trainings on a real Slurm: a whole study, a killed job, a failed one, lost time.

The study is tiny and an epoch has two steps; what is tested is their way. The long form
trains five folds of two configurations.
"""

import json
import os
import subprocess
import time

import pytest
import slurm_here
from command import bridge
from small_study import LAB as DATASET

from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.pipeline.training.status import status_of

pytestmark = [pytest.mark.training, pytest.mark.cluster]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, few_steps):
    reason = slurm_here.why_not()
    if reason:
        pytest.skip(reason)
    few_steps.setenv("FEW_EPOCHS", "12")
    few_steps.setenv("EPOCH_S", "0.5")
    with slurm_here.slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture(scope="module")
def work(lab):
    return lab / "work"


def train(work, cluster, *words, check=True):
    return bridge(
        *("train", "1", "-w", work, "--budget", "smoke", "--on", "slurm", "--json"),
        *("-r", work.parent / "study" / "dataset.toml", *words),
        environment=cluster,
        check=check,
    )


def states(work):
    dataset = Dataset(Workspace.at(work, environment={}), DATASET)
    runs = status_of(dataset).as_json()["runs"]
    return {(run["configuration"], run["fold"]): run for run in runs}


def wait_for(work, happened, *, seconds=900):
    """Wait until the runs are as wanted; return them."""
    end = time.monotonic() + seconds
    while True:
        runs = states(work)
        if happened(runs):
            return runs
        assert time.monotonic() < end, runs
        time.sleep(0.5)


def run_dir(work, configuration, fold):
    model = f"BridgeSmokeTrainer__nnUNetPlansSmoke__{configuration}"
    return work / "runs" / DATASET / model / f"fold_{fold}"


@pytest.mark.parametrize(
    ("configurations", "folds"),
    [
        pytest.param(["2d"], [0, 1], id="short"),
        pytest.param(
            ["2d", "3d_fullres"], range(5), id="whole study", marks=pytest.mark.long
        ),
    ],
)
def test_folds_of_configurations_finish_and_a_killed_job_goes_on(
    work, cluster, configurations, folds
):
    runs = {(name, fold) for name in configurations for fold in folds}
    words = [word for name in configurations for word in ("-c", name)]
    words += [word for fold in folds for word in ("-f", fold)]
    submitted = json.loads(train(work, cluster, *words, "--restart").stdout)
    assert {run["state"] for run in submitted["runs"]} <= {"queued", "running"}
    assert f"{len(runs)} trainings handed to Slurm" in submitted["notes"][0]

    again = json.loads(train(work, cluster, *words).stdout)
    assert again["notes"] == ["Everything requested is done, or waits on the cluster."]

    wait_for(work, lambda runs: runs[("2d", 0)]["epochs"] >= 2)
    job = states(work)[("2d", 0)]["job"]
    subprocess.run(["scancel", "--signal=KILL", job], env=cluster, check=True)
    wait_for(work, lambda runs: runs[("2d", 0)]["state"] == "stopped", seconds=60)

    train(work, cluster, "-c", "2d", "-f", "0")
    finished = wait_for(
        work, lambda found: all(found[run]["state"] == "done" for run in runs)
    )

    assert finished.keys() == runs
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


@pytest.mark.long
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

    assert result.exit_code == 5
    assert "--on script" in result.stderr
