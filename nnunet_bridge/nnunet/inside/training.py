"""Train one fold by nnU-Net's own entry point, with checkpoints that are whole."""

import argparse
import gc
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run import run_training as nnunet
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_bridge.core.errors import SecurityError
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.words import BudgetName
from nnunet_bridge.nnunet.inside.events import EventWriter
from nnunet_bridge.nnunet.inside.kept_cases import keep_small_cases
from nnunet_bridge.nnunet.inside.partly_drawn import learn_from_partly_drawn
from nnunet_bridge.nnunet.inside.random_numbers import seed_by_run
from nnunet_bridge.nnunet.inside.safety import json_read_by, prepare
from nnunet_bridge.nnunet.inside.sides import keep_sides_in_training
from nnunet_bridge.nnunet.inside.stopping import stop_early, stop_without_loss
from nnunet_bridge.nnunet.inside.wrappers import compile_where_it_works
from nnunet_bridge.nnunet.models import ModelFolder, judged
from nnunet_bridge.nnunet.names import CHECKPOINT_LATEST, CHECKPOINT_PREVIOUS
from nnunet_bridge.nnunet.plans import BUDGETS

PLOT_EVERY_S = 60.0
"""Least seconds between two drawings of nnU-Net's ``progress.png``; each takes one."""

AT_MOST_LOST_S = 270.0
"""Most seconds of training that an interruption may cost, if an epoch is shorter.

Five minutes, less half a minute to write the checkpoint."""


def add_arguments(train: argparse.ArgumentParser) -> None:
    """Declare the arguments of the task."""
    for name in ("dataset", "configuration", "fold", "trainer", "plans"):
        train.add_argument(f"--{name}", required=True)
    train.add_argument("--gpus", type=int, default=1)
    train.add_argument("--events", type=Path, required=True)
    for name in ("resume", "npz", "val_best"):
        train.add_argument(f"--{name}", action="store_true")
    train.add_argument("--encoder-weights", type=Path)
    train.add_argument("--pretrained", "-pretrained_weights")
    train.add_argument("--patience", type=int)


def train(asked: argparse.Namespace) -> None:
    """Train and validate one fold."""
    start = asked.encoder_weights, asked.patience
    hooks = TrainerHooks(asked.events, *start, asked.gpus)
    prepare_training(hooks)
    nnunet.run_ddp = OnEachGpu(hooks)
    nnunet.run_training(
        asked.dataset,
        asked.configuration,
        asked.fold,
        asked.trainer,
        asked.plans,
        pretrained_weights=None if asked.resume else asked.pretrained,
        num_gpus=asked.gpus,
        export_validation_probabilities=asked.npz,
        continue_training=asked.resume,
        val_with_best=asked.val_best,
        device=torch.device(asked.device),
    )


@dataclass(frozen=True, slots=True)
class TrainerHooks:
    """Additions to a training, whatever its trainer."""

    events: Path  # written by the first process only
    encoder_weights: Path | None = None
    patience: int | None = None
    gpus: int = 1

    def attach(self, trainer: Any, rank: int) -> None:  # noqa: ANN401 - nnU-Net's types
        """Add them to a trainer, nnU-Net's own or ours, in the process `rank`."""
        if self.encoder_weights is not None:
            trainer.encoder_weights = self.encoder_weights
        compile_where_it_works(trainer, self.gpus)
        seed_by_run(trainer, rank)
        keep_small_cases(trainer)
        keep_sides_in_training(trainer)
        learn_from_partly_drawn(trainer)
        _refuse_paths_as_cases(trainer)
        plot_progress_rarely(trainer)
        stop_without_loss(trainer)
        events = EventWriter(self.events) if rank == 0 else None
        if events is not None:
            events.listen_to(trainer)
        if self.patience is not None:
            stop_early(trainer, self.patience, events)


@dataclass(frozen=True, slots=True)
class OnEachGpu:
    """Replaces nnU-Net's `run_ddp`, which trains on several GPUs.

    nnU-Net starts a new interpreter for each GPU, without our changes: each is prepared
    as the first process was and then calls nnU-Net's function.
    """

    hooks: TrainerHooks

    def __call__(self, rank: int, *arguments: Any) -> None:  # noqa: ANN401 - nnU-Net's
        """Train in this process."""
        prepare()
        prepare_training(self.hooks, rank)
        nnunet.run_ddp(rank, *arguments)


def prepare_training(hooks: TrainerHooks, rank: int = 0) -> None:
    """Make this process write events, and checkpoints that are whole and frequent.

    Each rank draws random numbers of its own, so that each sees other patches.
    """
    _load_without_gpu()
    _write_checkpoints_whole(nnUNetTrainer)
    _write_checkpoints_often(nnUNetTrainer)
    build = nnunet.get_trainer_from_args

    def build_with_hooks(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - nnU-Net's types
        dataset, configuration, _, trainer_name, plans, *_ = arguments
        name = ModelFolder(dataset, trainer_name, plans, configuration)
        with json_read_by(nnunet, lambda file: judged(file, name)):
            trainer = build(*arguments, **options)
        hooks.attach(trainer, rank)
        return trainer

    nnunet.get_trainer_from_args = build_with_hooks


def plot_progress_rarely(
    trainer: Any,  # noqa: ANN401 - nnU-Net's types
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Draw ``progress.png`` once a minute and at the end, not after every epoch.

    A smoke test draws none: the page of the run shows its curves, and the libraries of
    the drawing take longer to load than an epoch lasts.
    """
    plot, smoke = trainer.logger.plot_progress_png, BUDGETS[BudgetName.SMOKE].suffix
    if trainer.plans_manager.plans_name.endswith(smoke):
        trainer.logger.plot_progress_png = lambda _folder: None
        return
    import matplotlib as mpl

    last = -math.inf

    def plot_if_due(folder: str) -> None:
        nonlocal last
        at_end = trainer.current_epoch + 1 == trainer.num_epochs
        if at_end or clock() - last >= PLOT_EVERY_S:
            mpl.rcdefaults()  # no matplotlibrc of the current folder
            plot(folder)
            gc.collect()  # a closed figure keeps its 65 MB of pixels in cycles
            last = clock()

    trainer.logger.plot_progress_png = plot_if_due


def _refuse_paths_as_cases(trainer: Any) -> None:  # noqa: ANN401 - nnU-Net's types
    """Refuse splits whose cases are paths: validation writes files of their names."""
    split = trainer.do_split

    def checked_split() -> tuple[list[str], list[str]]:
        sides: tuple[list[str], list[str]] = split()
        if paths := [case for side in sides for case in side if os.sep in case]:
            named = quoted(paths[0])
            raise SecurityError(f"splits_final.json names {named}, a path.", code="S10")
        return sides

    trainer.do_split = checked_split


def _load_without_gpu() -> None:
    """Let torch load tensors of a GPU that is not here into the memory of the host."""

    def on_host(storage: Any, location: str) -> Any:  # noqa: ANN401 - torch's types
        kind, _, number = location.partition(":")
        absent = int(number or 0) >= torch.cuda.device_count()
        return storage if kind == "cuda" and absent else None

    torch.serialization.register_package(5, lambda _storage: None, on_host)


def _write_checkpoints_whole(trainer_class: Any) -> None:  # noqa: ANN401 - nnU-Net's types
    """Give a checkpoint its name only when all of it is on the disk.

    The one before the latest is kept until the training ends (FAULTS N05).
    """
    save, finish = trainer_class.save_checkpoint, trainer_class.on_train_end

    def save_whole(trainer: Any, filename: str) -> None:  # noqa: ANN401 - nnU-Net's types
        final, temporary = Path(filename), Path(f"{filename}.partial")
        if trainer.local_rank == 0:  # a link is removed, not followed
            temporary.unlink(missing_ok=True)
        save(trainer, str(temporary))
        if not temporary.exists():  # only the first of several processes writes
            return
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        if final.name == CHECKPOINT_LATEST and final.exists():
            final.replace(final.with_name(CHECKPOINT_PREVIOUS))
        temporary.replace(final)

    def finish_and_remove_previous(trainer: Any) -> None:  # noqa: ANN401 - nnU-Net's types
        finish(trainer)
        if trainer.local_rank == 0:
            Path(trainer.output_folder, CHECKPOINT_PREVIOUS).unlink(missing_ok=True)

    trainer_class.save_checkpoint = save_whole
    trainer_class.on_train_end = finish_and_remove_previous


def _write_checkpoints_often(trainer_class: Any) -> None:  # noqa: ANN401 - nnU-Net's types
    """Write a checkpoint also by time, so that an interruption costs little.

    nnU-Net's trainer writes one every 50 epochs. Here an epoch ends with one also if
    the next would end more than `AT_MOST_LOST_S` after the last checkpoint.
    """
    end_epoch, begin = trainer_class.on_epoch_end, trainer_class.on_train_start
    moments = {"saved": time.monotonic(), "epoch": time.monotonic()}

    def begin_and_time(trainer: Any) -> None:  # noqa: ANN401 - nnU-Net's types
        begin(trainer)
        moments["saved"] = moments["epoch"] = time.monotonic()

    def end_epoch_and_save(trainer: Any) -> None:  # noqa: ANN401 - nnU-Net's types
        now = time.monotonic()
        epoch_s, moments["epoch"] = now - moments["epoch"], now
        # nnU-Net decides inside `on_epoch_end`, by `save_every`: lower it for once.
        rare = trainer.save_every
        if now - moments["saved"] + epoch_s > AT_MOST_LOST_S:
            trainer.save_every = 1
        saves = (trainer.current_epoch + 1) % trainer.save_every == 0
        end_epoch(trainer)
        trainer.save_every = rare
        if saves:
            moments["saved"] = now

    trainer_class.on_train_start = begin_and_time
    trainer_class.on_epoch_end = end_epoch_and_save
