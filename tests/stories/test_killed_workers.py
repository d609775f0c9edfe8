"""F11: a worker of nnU-Net's is killed, as the system does when memory runs out."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_study import LAB
from spheres import DATASET, write_spheres

from nnunet_bridge.core.errors import WorkerKilled
from nnunet_bridge.nnunet.commands import NnUNetProcess, Resources
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.machine import Machine
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.planned import Planned
from nnunet_bridge.nnunet.runs import run_state
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.training.memory import preprocessing_bytes
from nnunet_bridge.pipeline.training.plan import PlanningOptions, plan_dataset
from nnunet_bridge.pipeline.training.request import TrainingRequest
from nnunet_bridge.pipeline.training.train import train_dataset

SMALL = ("-gpu_memory_target", "0.5")
"""Arguments of nnU-Net's planner."""


def children_of(parent):
    """Return the living processes that a process started, and theirs."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            facts = (entry / "stat").read_text().rsplit(")")[-1].split()
        except (OSError, IndexError):
            continue
        if entry.name.isdigit() and int(facts[1]) == parent and facts[0] != "Z":
            found += [int(entry.name), *children_of(int(entry.name))]
    return found


def words_of(process):
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode()
    except OSError:
        return ""


class Killer:
    """Kills a worker of nnU-Net's as soon as `ready` says so, `times` times."""

    def __init__(self, is_worker, ready, times=1):
        self.is_worker, self.ready, self.left = is_worker, ready, times
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self):
        end, done = time.monotonic() + 900, set()
        while self.left and time.monotonic() < end:
            time.sleep(0.05)
            workers = {p for p in children_of(os.getpid()) if self.is_worker(p)}
            if workers - done and self.ready():
                done |= workers
                os.kill(min(workers), signal.SIGKILL)
                self.left -= 1
                time.sleep(2)


def is_pool_worker(process):
    return "multiprocessing.spawn" in words_of(process) and "fork" in words_of(process)


@pytest.fixture
def work(tmp_path):
    write_spheres(tmp_path, cases=6, size=32)
    return Workspace.at(tmp_path, environment={})


@pytest.fixture
def preprocessing(work):
    """Whether nnU-Net preprocesses now."""
    folder = Dataset(work, DATASET).planned_dir / "nnUNetPlans_3d_fullres"
    return lambda: any(folder.glob("*.b2nd"))


def plan(work, configuration, host=None):
    options = PlanningOptions((configuration,), own_arguments=SMALL)
    return plan_dataset(Dataset(work, DATASET), options, host=host)


@pytest.mark.training
def test_F11_preprocessing_is_tried_once_more_with_half_the_workers(
    work, preprocessing
):
    worker = preprocessing_bytes(RawDataset.open(Dataset(work, DATASET).raw_dir))
    two_fit = Machine(cores=8, free_memory_bytes=2 * worker + 1, gpus=0)
    killer = Killer(is_pool_worker, preprocessing)

    summary = plan(work, "3d_fullres", Host(two_fit))

    assert killer.left == 0
    (warning,) = [text for text in summary.warnings if "F11" in text]
    assert warning.startswith("[F11] nnU-Net failed (plan Dataset007_Spheres)")
    assert "while preprocessing ball_00" in warning
    assert "most likely because memory ran out" in warning
    assert "Retrying with 1 of 2 workers." in warning
    assert Planned.read(Dataset(work, DATASET)).failure == ""
    done = Dataset(work, DATASET).planned_dir / "nnUNetPlans_3d_fullres"
    assert len(list(done.glob("*.pkl"))) == 6


@pytest.mark.training
def test_F11_a_planning_that_fails_again_is_marked_failed_and_leaves_nothing_half(
    work, preprocessing
):
    """With one worker there is nothing to halve: the process itself is killed."""
    one = Machine(cores=1, free_memory_bytes=7 << 30, gpus=0)
    Killer(lambda p: "nnunet.launch" in words_of(p), preprocessing)

    with pytest.raises(WorkerKilled, match="while preprocessing ball_00") as caught:
        plan(work, "3d_fullres", Host(one))

    assert (caught.value.code, caught.value.exit_code) == ("F11", 7)
    planned = Planned.read(Dataset(work, DATASET))
    assert "was killed" in planned.failure
    assert planned.planners == {}
    assert not (Dataset(work, DATASET).planned_dir / "nnUNetPlans_3d_fullres").exists()


class WithLoader(Host):
    """Loaders as beside a GPU, on a CPU."""

    def share(self, *_asked):
        return Resources("cpu", threads=2, workers=1, loaders=1)


@pytest.mark.training
def test_F11_a_training_whose_loader_is_killed_goes_on_with_half_the_workers(
    lab, few_steps
):
    """The first epoch is done when a loader is killed."""
    few_steps.setenv("FEW_EPOCHS", "16")  # more than a loader has prepared
    few_steps.setenv("EPOCH_S", "0.2")
    work = Workspace.at(lab / "work", environment={})
    method = method_of("nnunet", "smoke")
    run = method.run(Dataset(work, LAB), "2d", 0)
    events = run.run_dir / "events.jsonl"

    def is_loader(process):
        try:
            parent = Path(f"/proc/{process}/stat").read_text().rsplit(")")[-1].split()
        except OSError:
            return False
        return "nnunet.launch" in words_of(process) and int(parent[1]) != os.getpid()

    def an_epoch_is_done():
        return events.exists() and '"event": "epoch"' in events.read_text()

    killer = Killer(is_loader, an_epoch_is_done)

    request = TrainingRequest(method, ("2d",), options=TrainingOptions("cpu"))
    summary = train_dataset(run.dataset, request, host=WithLoader())

    assert killer.left == 0
    assert not summary.failures
    assert run_state(run).done
    assert "[F11]" in summary.warnings[0]
    assert "Retrying with half the workers." in summary.warnings[0]
    record = json.loads(run.record_file.read_text())
    assert (record["state"], record["loaders"]) == ("done", 0)


LOST = (
    "Some background worker is 6 feet under. Yuck.",
    "One or more background workers are no longer alive. Exiting.",
    "Some background workers are no longer alive",
    "Segmentation export worker died. It was likely killed by your OS",
    "Background workers died. Look for the error message further up!",
)


def wait_for(process):
    while not process.ended:
        time.sleep(0.1)


@pytest.mark.parametrize("sentence", LOST)
def test_F11_each_of_nnunets_sentences_about_a_lost_worker_is_known(tmp_path, sentence):
    program = f"raise RuntimeError({sentence!r})"
    command = [sys.executable, "-c", program]

    with NnUNetProcess(command, os.environ, tmp_path / "log") as process:
        wait_for(process)
        with pytest.raises(WorkerKilled, match="a worker process of it was killed"):
            process.check("train")


def test_F11_a_worker_that_failed_by_itself_was_not_killed(tmp_path):
    """A damaged file ends a loader too; then its own words matter."""
    program = (
        "print('Exception in background worker 1:');"
        "print('RuntimeError: Error while getting the buffer');"
        "raise RuntimeError('One or more background workers are no longer alive.')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False
    )
    assert result.returncode == 1

    with NnUNetProcess(
        [sys.executable, "-c", program], os.environ, tmp_path / "log"
    ) as process:
        wait_for(process)
        with pytest.raises(Exception, match="Error while getting the buffer") as caught:
            process.check("train")
    assert not isinstance(caught.value, WorkerKilled)
