"""A training is stopped, killed, spoilt on the disk; the same command goes on (N05)."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
from small_study import LAB, patient, recipe

from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.pipeline.ingest.convert import convert_study
from nnunet_bridge.pipeline.training.plan import PlanningOptions, plan_dataset
from nnunet_bridge.pipeline.training.status import status_of

pytestmark = pytest.mark.training

MODEL = "BridgeSmokeTrainer__nnUNetPlansSmoke__2d"


@pytest.fixture(scope="module", autouse=True)
def _long_enough_to_be_stopped(few_steps):
    few_steps.setenv("FEW_EPOCHS", "100")
    few_steps.setenv("EPOCH_S", "0.1")


@pytest.fixture(scope="module")
def work(lab):
    return lab / "work"


def train_until(work, event, *, fold=1, with_signal=signal.SIGINT, seconds=300):
    """Train a fold until its events match; send a signal; return how it ended."""
    events = work / "runs" / LAB / MODEL / f"fold_{fold}" / "events.jsonl"
    words = ("train", "1", "-w", str(work), "--budget", "smoke", "-c", "2d")
    with subprocess.Popen(
        [sys.executable, "-m", "nnunet_bridge", *words, "-f", str(fold)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        end = time.monotonic() + seconds
        while command.poll() is None and time.monotonic() < end:
            if events.exists() and re.search(event, events.read_text()):
                break
            time.sleep(0.1)
        command.send_signal(with_signal)
        _, message = command.communicate(timeout=60)
    return command.returncode, message, events.read_text()


def works_in(work):
    """Return the command lines of the processes that work in a folder."""
    processes = subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    )
    return [line for line in processes.stdout.splitlines() if str(work) in line]


def assert_no_process_works_in(work):
    assert works_in(work) == []


def test_N05_an_interrupted_training_goes_on_also_if_its_checkpoint_is_truncated(work):
    code, message, _ = train_until(work, '"epoch": 2')

    assert code == 130
    assert "run the same command again" in message
    (stopped,) = status_of(Dataset(Workspace.at(work, environment={}), LAB)).runs
    assert (stopped.run.fold, stopped.state) == (1, "stopped")

    _, message, events = train_until(work, '"epoch": 5,')

    assert first_epochs(events)[-1] >= 1, message
    assert_no_process_works_in(work)

    latest = work / "nnUNet_results" / LAB / MODEL / "fold_1" / "checkpoint_latest.pth"
    latest.write_bytes(latest.read_bytes()[:5000])
    code, message, events = train_until(work, '(?s)("start".*){3}')

    assert code == 130, message
    assert first_epochs(events)[-1] >= 1
    assert latest.with_name(f"{latest.name}.damaged").exists()
    record = work / "runs" / LAB / MODEL / "fold_1" / "run.json"
    assert json.loads(record.read_text())["damaged_checkpoints"] == [latest.name]


def first_epochs(events):
    starts = [json.loads(line) for line in events.splitlines() if '"start"' in line]
    return [start["first_epoch"] for start in starts]


def test_three_patients_are_enough_and_a_killed_command_leaves_no_worker(tmp_path):
    """nnU-Net by itself needs five patients: its own split refuses fewer."""
    for index in (1, 2, 3):
        patient(tmp_path / "study", index, f"{index}A")
    (tmp_path / "work").mkdir()
    work = Workspace.at(tmp_path / "work", environment={})
    convert_study(tmp_path / "study", recipe(), work.raw_dir)
    plan_dataset(Dataset(work, LAB), PlanningOptions(("2d",)))

    code, message, events = train_until(
        tmp_path / "work", '"epoch": 0', fold=0, with_signal=signal.SIGKILL
    )

    assert code == -signal.SIGKILL, message
    assert '"training_cases": 2, "validation_cases": 1' in events
    end = time.monotonic() + 60
    while works_in(tmp_path / "work") and time.monotonic() < end:
        time.sleep(0.5)
    assert_no_process_works_in(tmp_path / "work")
