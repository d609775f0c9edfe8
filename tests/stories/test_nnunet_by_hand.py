"""nnU-Net's own commands take a dataset of ours as it is."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import bridge
from file_states import file_states
from nnunetv2.utilities.crossval_split import generate_crossval_split

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def by_hand(planned_lab, tmp_path_factory):
    """The environment of somebody who uses nnU-Net's own commands on our dataset."""
    folder = tmp_path_factory.mktemp("by_hand")
    return {
        **os.environ,
        "nnUNet_raw": str(planned_lab / "work" / "nnUNet_raw"),
        "nnUNet_preprocessed": str(folder / "nnUNet_preprocessed"),
        "nnUNet_results": str(folder / "nnUNet_results"),
        "nnUNet_def_n_proc": "1",
        "nnUNet_n_proc_DA": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture(scope="module")
def planned_by_hand(by_hand):
    result = subprocess.run(
        [
            *(Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess", "-d", "1"),
            *("--verify_dataset_integrity", "-np", "1", "-npfp", "1", "-c", "2d"),
        ],
        env=by_hand,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_plain_planning_command_accepts_our_dataset(planned_by_hand):
    assert "verify_dataset_integrity Done." in planned_by_hand
    assert "mismatch" not in planned_by_hand


@pytest.mark.usefixtures("planned_by_hand")
def test_the_plain_training_command_starts_on_our_dataset(by_hand):
    with subprocess.Popen(
        [
            *(Path(sys.executable).parent / "nnUNetv2_train", "1", "2d", "0"),
            *("-device", "cpu"),
        ],
        env=by_hand,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        message = []
        for line in process.stdout:
            message.append(line)
            if "Current learning rate" in line:
                break
        os.killpg(process.pid, signal.SIGKILL)

    assert "Current learning rate: 0.01" in message[-1], "".join(message[-20:])


@pytest.fixture
def their_workspace(planned_by_hand, by_hand, planned_lab, tmp_path):  # noqa: ARG001 - planned_by_hand fills the folder
    """A workspace that only nnU-Net's own commands have written to."""
    shutil.copytree(planned_lab / "work" / "nnUNet_raw", tmp_path / "nnUNet_raw")
    place = tmp_path / "nnUNet_preprocessed"
    shutil.copytree(by_hand["nnUNet_preprocessed"], place)
    folder = place / "Dataset001_Tibia"
    cases = sorted(file.stem for file in (folder / "nnUNetPlans_2d").glob("*.pkl"))
    splits = generate_crossval_split(cases, seed=12345, n_splits=5)
    (folder / "splits_final.json").write_text(json.dumps(splits))
    return tmp_path


@pytest.mark.usefixtures("few_steps")
def test_N11_our_plan_train_and_status_touch_nothing_that_nnunet_made(their_workspace):
    before = file_states(their_workspace / "nnUNet_preprocessed")
    words = ("1", "-c", "2d", "-w", their_workspace)
    smoke = (*words, "--budget", "smoke", "--device", "cpu", "--json")
    answer = bridge("train", *smoke, check=False)
    assert answer.exit_code == 3
    assert "adopts plans, data and splits" in answer.stderr

    planned = json.loads(bridge("plan", *words, "--json").stdout)

    assert planned["folds"] == 5
    assert "nnUNetPlans_2d" in planned["warnings"][0]
    assert file_states(their_workspace / "nnUNet_preprocessed") == before
    bridge("train", *smoke)
    now = file_states(their_workspace / "nnUNet_preprocessed")
    assert before.items() <= now.items()
    states = json.loads(bridge("status", "1", *words[3:], "--json").stdout)["runs"]
    assert [state["state"] for state in states] == ["done"]
