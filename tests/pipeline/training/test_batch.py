"""A batch of trainings: what it shows, writes and retries; a stand-in for nnU-Net."""

import json
import os
from dataclasses import replace

import pytest
from spheres import DATASET, TABLE, write_spheres
from tiny_model import tiny_plans

from nnunet_bridge.core.errors import WorkerKilled
from nnunet_bridge.core.progress import Silent
from nnunet_bridge.formats.files import write_json
from nnunet_bridge.formats.nifti import read_labelmap, write_labelmap
from nnunet_bridge.nnunet.commands import Resources
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.machine import Accelerator, Machine, TorchBuild
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.runs import run_state
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.training.batch import Batch
from nnunet_bridge.pipeline.training.request import TrainingRequest
from nnunet_bridge.pipeline.training.train import _shares
from nnunet_bridge.pipeline.training.weights import InitialWeights

SMOKE = method_of("nnunet", "smoke")
TORCH = TorchBuild("2.15.0", "13.2")
MACHINE = Machine(cores=2, free_memory_bytes=8 << 30, gpus=0)


class Listener(Silent):
    def __init__(self):
        self.tables, self.done, self.lines = [], [], []

    def advance(self, done, _note=""):
        self.done.append(done)

    def show(self, draw):
        self.tables.append(draw(120))

    def say(self, line):
        self.lines.append(line)


class StandIn:
    """Runs that end one after another, each after a step of the clock."""

    def __init__(self, dataset, fails=()):
        self.dataset, self.fails = dataset, list(fails)
        self.clock, self.started, self.pages_seen, self.gpus = 0, [], [], []

    def start(self, command, environment, _log_file):
        fold = int(command[command.index("--fold") + 1])
        self.gpus.append((fold, environment.get("CUDA_VISIBLE_DEVICES")))
        self.started.append((fold, command[command.index("--workers") + 1]))
        return Process(self, SMOKE.run(self.dataset, "2d", fold), len(self.started))

    def sleep(self, _seconds):
        self.clock += 1
        self.pages_seen.append(
            [p.parent.name for p in self.dataset.record_dir.glob("*/*/index.html")]
        )


class Process:
    def __init__(self, owner, run, end):
        self.owner, self.run, self.end = owner, run, end

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    @property
    def ended(self):
        return self.owner.clock >= self.end

    def output(self):
        return "predicting ball_001"

    def check(self, task):
        if self.run.fold in self.owner.fails:
            self.owner.fails.remove(self.run.fold)
            raise WorkerKilled(f"nnU-Net failed ({task}): it was killed.")
        case = f"ball_00{self.run.fold}"
        truth = self.owner.dataset.raw_dir / f"labelsTr/{case}.nii.gz"
        write_labelmap(
            self.run.validation_dir / f"{case}.nii.gz", read_labelmap(truth, TABLE)
        )
        write_json(
            self.run.validation_dir / "summary.json", {"mean": {"1": {"Dice": 0.9}}}
        )
        self.run.checkpoint_file.write_bytes(b"weights")


@pytest.fixture
def dataset(tmp_path):
    write_spheres(tmp_path, size=12)
    found = Dataset(Workspace.at(tmp_path, environment={}), DATASET)
    found.planned_dir.mkdir(parents=True)
    write_json(found.plans_file(SMOKE.plans), {})
    cases = ["ball_000", "ball_001"]
    write_json(found.splits_file, [{"train": cases[::-1], "val": cases}] * 2)
    return found


def batch_of(dataset, shown, listener=None, **host):
    return Batch(
        dataset,
        TrainingRequest(SMOKE, ("2d",), ("all5",), TrainingOptions("cpu")),
        "state",
        InitialWeights(),
        Resources("cpu", threads=1, workers=2, loaders=0),
        2,
        shown,
        Host(MACHINE, **host),
        listener or Silent(),
    )


def runs_of(dataset, *folds):
    return [SMOKE.run(dataset, "2d", fold) for fold in folds]


def test_a_run_has_its_page_when_it_ends_while_others_still_train(dataset):
    runs, nnunet = runs_of(dataset, 0, 1), StandIn(dataset)
    batch = batch_of(dataset, runs, start=nnunet.start, sleep=nnunet.sleep)

    batch.train(runs)

    assert nnunet.pages_seen == [[], ["fold_0"]]
    assert all(run.page_file.is_file() for run in runs)
    assert (batch.failures, batch.warnings) == ([], [])


def test_two_gpus_train_two_runs_side_by_side_one_each(dataset):
    """As soon as a run ends, the next one takes its GPU."""
    folds = [{"train": ["ball_000"], "val": ["ball_001"]}] * 3
    write_json(dataset.splits_file, folds)
    runs, nnunet = runs_of(dataset, 0, 1, 2), StandIn(dataset)
    gpus = tuple(Accelerator("T4", word=word) for word in ("GPU-a", "GPU-b"))
    machine = replace(MACHINE, gpus=2, accelerators=gpus)
    host = Host(machine, nnunet.start, nnunet.sleep, torch=lambda: TORCH)
    request = TrainingRequest(SMOKE, ("2d",), ("all5",), TrainingOptions("cuda"))
    with (dataset.plans_file(SMOKE.plans)).open("w") as plans:
        json.dump(tiny_plans(), plans)
    shares = _shares(request, runs, host, "cuda", [])
    batch = Batch(dataset, request, "state", InitialWeights(), *shares, runs, host)

    batch.train(runs)

    assert shares[1] == 2
    assert nnunet.gpus == [(0, "GPU-a"), (1, "GPU-b"), (2, "GPU-a")]


def test_F11_a_killed_run_is_tried_once_more_with_half_the_workers(dataset):
    runs, nnunet, listener = runs_of(dataset, 0), StandIn(dataset, [0]), Listener()
    batch = batch_of(dataset, runs, listener, start=nnunet.start, sleep=nnunet.sleep)

    batch.train(runs)

    assert nnunet.started == [(0, "2"), (0, "1")]
    assert batch.failures == []
    assert batch.warnings == listener.lines
    (warning,) = batch.warnings
    assert warning.startswith("[F11] nnU-Net failed (train 2d fold 0)")
    assert "It was predicting ball_001" in warning
    assert warning.endswith("Retrying with half the workers.")
    assert run_state(runs[0]).done


def test_F11_a_run_that_is_killed_twice_has_failed(dataset):
    runs, nnunet = runs_of(dataset, 0), StandIn(dataset, [0, 0])
    batch = batch_of(dataset, runs, start=nnunet.start, sleep=nnunet.sleep)

    batch.train(runs)

    assert len(nnunet.started) == 2
    (failure,) = batch.failures
    assert run_state(runs[0]).state == "failed"
    assert run_state(runs[0]).reason == failure


def test_the_table_holds_all_runs_and_a_file_is_read_again_only_if_it_grew(dataset):
    (run,), listener = runs_of(dataset, 0), Listener()
    done = SMOKE.run(dataset, "3d_fullres", 0)
    batch = batch_of(dataset, [run, done], listener)
    report(run, event="start", epochs=4)

    batch._show([run])
    first = batch._state(run)
    batch._show([run])
    assert batch._state(run) is first
    report(run, event="epoch", epoch=0, train_loss=-0.25)
    batch._show([run])

    assert batch._state(run) is not first
    assert listener.done == [0, 0, 1]
    assert "-0.250" in listener.tables[-1]
    assert "3d_fullres" in listener.tables[-1]


def report(run, **event):
    os.makedirs(run.run_dir, exist_ok=True)  # noqa: PTH103 - one line
    with run.events_file.open("a") as stream:
        stream.write(json.dumps(event) + "\n")
