"""nnU-Net's own commands take a dataset of ours as it is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
        said = []
        for line in process.stdout:
            said.append(line)
            if "Current learning rate" in line:
                break
        os.killpg(process.pid, signal.SIGKILL)

    assert "Current learning rate: 0.01" in said[-1], "".join(said[-20:])
