"""Several GPUs: what is ours holds in every process that nnU-Net starts.

There is no GPU here. The processes are really spawned, by torch as nnU-Net does it;
only what nnU-Net's `run_ddp` itself would do on a GPU is played by a stand-in.
"""

import argparse
import json
import pickle
import random
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from nnunet_bridge.nnunet.inside import training
from nnunet_bridge.nnunet.inside.training import OnEachGpu, TrainerHooks

PROCESSES = 2


class Trainer:
    """As much of a trainer as tells of an epoch."""

    num_epochs, num_iterations_per_epoch, current_epoch, initial_lr = 1, 1, 0, 0.01
    inference_allowed_mirroring_axes = None
    device = torch.device("cpu")
    dataset_json: ClassVar = {"labels": {"background": 0, "tibia": 1}}
    output_folder = "results/Dataset001_Tibia/Trainer__Plans__2d/fold_0"

    def __init__(self, *_arguments):
        self.logger = SimpleNamespace(loggers=[], plot_progress_png=print)
        self.plans_manager = SimpleNamespace(plans_name="nnUNetPlans")
        self.network = torch.nn.Linear(2, 2)
        self.loss = torch.nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01)
        self.configuration_manager = SimpleNamespace(
            batch_size=1, patch_size=[8, 8], spacing=[1.0, 1.0]
        )

    def do_split(self):
        return ["a"], ["b"]

    def on_train_start(self):
        self.get_dataloaders()

    def get_dataloaders(self):
        pass

    def on_train_epoch_end(self, outputs):
        pass

    def perform_actual_validation(self, _npz):
        pass


def as_nnunet_would(rank, out):
    """In place of `run_ddp`: build a trainer, begin, and say what holds here."""
    from nnunetv2.run import run_training as nnunet
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    run = "Dataset001_Tibia", "2d", 0, "nnUNetTrainer", "nnUNetPlans"
    trainer = nnunet.get_trainer_from_args(*run)
    trainer.on_train_start()
    for writer in trainer.logger.loggers:
        writer.log("train_losses", 0.5 + rank, 0)
        writer.log("epoch_end_timestamps", 1.0, 0)
    trainer.perform_actual_validation(False)
    found = {
        "drawn": random.random(),  # noqa: S311 - to see where the generator stands
        "whole": nnUNetTrainer.save_checkpoint.__module__,
        "often": nnUNetTrainer.on_epoch_end.__module__,
        "loads_by_list": np.dtype in torch.serialization.get_safe_globals(),
        "writers": len(trainer.logger.loggers),
    }
    (out / f"{rank}.json").write_text(json.dumps(found))


def in_a_fresh_process(rank, on_each_gpu, out):
    from nnunetv2.run import run_training as nnunet

    assert np.dtype not in torch.serialization.get_safe_globals()
    nnunet.run_ddp = as_nnunet_would
    nnunet.get_trainer_from_args = Trainer
    on_each_gpu(rank, out)


@pytest.fixture(scope="module")
def spawned(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks")
    each = OnEachGpu(TrainerHooks(out / "events.jsonl"))
    torch.multiprocessing.spawn(in_a_fresh_process, (each, out), nprocs=PROCESSES)
    found = [json.loads((out / f"{n}.json").read_text()) for n in range(PROCESSES)]
    lines = (out / "events.jsonl").read_text().splitlines()
    return found, [json.loads(line) for line in lines]


def test_checkpoints_are_whole_and_frequent_and_loads_are_safe_in_every_process(
    spawned,
):
    for found in spawned[0]:
        assert found["whole"] == training.__name__
        assert found["often"] == training.__name__
        assert found["loads_by_list"]


def test_the_first_process_alone_writes_events(spawned):
    found, events = spawned

    assert [one["writers"] for one in found] == [1, 0]
    assert [event["event"] for event in events] == [
        *("start", "epoch", "validation", "end")
    ]
    assert events[1]["train_loss"] == 0.5


def test_no_two_processes_draw_the_same_patches(spawned):
    first, second = spawned[0]

    assert first["drawn"] != second["drawn"]


def test_nnunet_is_given_ours_to_start_and_can_pickle_it(monkeypatch, tmp_path):
    from nnunetv2.run import run_training as nnunet
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    for owner, name in (
        (nnunet, "run_ddp"),
        (nnunet, "get_trainer_from_args"),
        (nnUNetTrainer, "save_checkpoint"),
        (nnUNetTrainer, "on_train_end"),
        (nnUNetTrainer, "on_train_start"),
        (nnUNetTrainer, "on_epoch_end"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    started = []
    monkeypatch.setattr(
        nnunet.mp, "spawn", lambda call, **how: started.append((call, how))
    )
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    words = argparse.ArgumentParser()
    words.add_argument("--device")
    training.add_arguments(words)

    training.train(
        words.parse_args(
            [
                *("--dataset", "Dataset001_Tibia", "--configuration", "2d"),
                *("--fold", "0", "--trainer", "nnUNetTrainer"),
                *("--plans", "nnUNetPlans", "--device", "cuda", "--gpus", "2"),
                *("--events", str(tmp_path / "events.jsonl")),
            ]
        )
    )

    ((call, how),) = started
    assert how["nprocs"] == 2
    again = pickle.loads(pickle.dumps(call))  # noqa: S301 - our own
    assert again == OnEachGpu(TrainerHooks(tmp_path / "events.jsonl", gpus=2))
