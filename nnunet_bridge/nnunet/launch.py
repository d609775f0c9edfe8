"""What runs inside nnU-Net's process: `python -m nnunet_bridge.nnunet.launch TASK ...`.

Each task calls nnU-Net's own entry points after the same preparation:

- a foreign pickle cannot run: checkpoints load by an allow-list (FAULTS S01);
- the process ends with its parent, and takes its workers along;
- where one worker is asked for, it is a thread of this process: nnU-Net would start
  an interpreter that imports torch again (10 s) for every stage;
- checkpoints are written whole, and every trainer writes ``events.jsonl``.

Nothing here is imported by the rest of the package.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import multiprocessing.pool
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_bridge.nnunet.names import CHECKPOINT_LATEST, CHECKPOINT_PREVIOUS

SEED = 20230601
AT_MOST_LOST_S = 270.0
"""Of training, where an epoch takes less; half a minute is left to write it."""

_PARENT_CHECK_S = 1.0
_COPIES_IN_MEMORY = 3
_SPARE_BYTES = 1 << 30
"""What a checkpoint may take beyond three times its size: 1 GiB."""

_LONGEST_NAME = 300


def main(arguments: list[str] | None = None) -> None:
    """Run one task; the arguments are those that `nnunet.commands` builds."""
    asked = _parser().parse_args(arguments)
    _end_with_parent()
    _load_only_what_is_allowed()
    _one_worker_is_a_thread()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    tasks: dict[str, Callable[[argparse.Namespace], None]] = {
        "plan": _plan,
        "train": _train,
        "predict": _predict,
        "ensemble": _ensemble,
        "checkpoint": _checkpoint,
    }
    tasks[asked.task](asked)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nnunet_bridge.nnunet.launch")
    tasks = parser.add_subparsers(dest="task", required=True)

    def task(name: str) -> argparse.ArgumentParser:
        added = tasks.add_parser(name)
        added.add_argument("--threads", type=int, default=0)
        added.add_argument("--workers", type=int, default=1)
        return added

    plan = task("plan")
    plan.add_argument("--number", type=int, required=True)
    plan.add_argument("--configuration", action="append", required=True)

    _add_training(task("train"))

    predict = task("predict")
    predict.add_argument("--model", type=Path, required=True)
    predict.add_argument("--fold", action="append", required=True)
    predict.add_argument("--images", type=Path, required=True)
    predict.add_argument("--out", type=Path, required=True)
    predict.add_argument("--device", required=True)
    predict.add_argument("--probabilities", action="store_true")

    ensemble = task("ensemble")
    ensemble.add_argument("--member", action="append", required=True)
    ensemble.add_argument("--out", type=Path, required=True)

    checkpoint = task("checkpoint")
    checkpoint.add_argument(
        "--copy", nargs=2, type=Path, action="append", required=True
    )
    return parser


def _add_training(train: argparse.ArgumentParser) -> None:
    train.add_argument("--dataset", required=True)
    train.add_argument("--configuration", required=True)
    train.add_argument("--fold", required=True)
    train.add_argument("--trainer", required=True)
    train.add_argument("--plans", required=True)
    train.add_argument("--device", required=True)
    train.add_argument("--gpus", type=int, default=1)
    train.add_argument("--events", type=Path, required=True)
    train.add_argument("--resume", action="store_true")
    train.add_argument("--probabilities", action="store_true")


def _plan(asked: argparse.Namespace) -> None:
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    number = [asked.number]
    api.extract_fingerprints(
        number, num_processes=asked.workers, check_dataset_integrity=True
    )
    api.plan_experiments(number)
    api.preprocess(
        number, configurations=asked.configuration, num_processes=[asked.workers]
    )


def _train(asked: argparse.Namespace) -> None:
    from nnunetv2.run import run_training as nnunet
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    _seed()
    _write_checkpoints_whole(nnUNetTrainer)
    _write_checkpoints_often(nnUNetTrainer)
    build = nnunet.get_trainer_from_args

    def build_and_listen(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - nnU-Net's types
        trainer = build(*arguments, **options)
        _EventWriter(asked.events).listen_to(trainer)
        return trainer

    nnunet.get_trainer_from_args = build_and_listen
    nnunet.run_training(
        asked.dataset,
        asked.configuration,
        asked.fold,
        asked.trainer,
        asked.plans,
        num_gpus=asked.gpus,
        export_validation_probabilities=asked.probabilities,
        continue_training=asked.resume,
        device=torch.device(asked.device),
    )


def _predict(asked: argparse.Namespace) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    on_gpu = asked.device == "cuda"
    predictor = nnUNetPredictor(
        perform_everything_on_device=on_gpu, device=torch.device(asked.device)
    )
    folds = tuple(fold if fold == "all" else int(fold) for fold in asked.fold)
    predictor.initialize_from_trained_model_folder(str(asked.model), folds)
    asked.out.mkdir(parents=True, exist_ok=True)
    options = {"save_probabilities": asked.probabilities, "overwrite": True}
    if asked.workers > 1:
        predictor.predict_from_files(
            str(asked.images),
            str(asked.out),
            num_processes_preprocessing=asked.workers,
            num_processes_segmentation_export=asked.workers,
            **options,
        )
    else:
        predictor.predict_from_files_sequential(
            str(asked.images), str(asked.out), **options
        )


def _ensemble(asked: argparse.Namespace) -> None:
    from nnunetv2.ensembling.ensemble import ensemble_folders

    ensemble_folders(asked.member, str(asked.out), num_processes=asked.workers)


def _checkpoint(asked: argparse.Namespace) -> None:
    """Copy what prediction needs of each checkpoint, and say what it is.

    The optimiser, the logs and the arguments of the training stay behind, and with them
    every path and name. Beside the copy lies a JSON file of its facts.
    """
    for source, target in asked.copy:
        _limit_memory(_COPIES_IN_MEMORY * source.stat().st_size + _SPARE_BYTES)
        found = torch.load(source, map_location="cpu", weights_only=True)
        kept = _for_prediction(found)
        torch.save(kept, target)
        facts = {
            "trainer": kept["trainer_name"],
            "configuration": kept["init_args"]["configuration"],
            "parameters": sum(t.numel() for t in kept["network_weights"].values()),
        }
        target.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")


def _for_prediction(found: Any) -> dict[str, Any]:  # noqa: ANN401 - judged here
    """Return the few things of a checkpoint that prediction reads, each as it must be.

    Raises
    ------
    TypeError
        If one of them is of another kind.
    """
    axes = found.get("inference_allowed_mirroring_axes")
    if axes is not None:
        axes = tuple(int(axis) for axis in axes)
    epoch = found.get("current_epoch", 0)
    return {
        "network_weights": _plain_tensors(found["network_weights"]),
        "trainer_name": _text(found["trainer_name"]),
        "inference_allowed_mirroring_axes": axes,
        "current_epoch": int(epoch),
        "init_args": {"configuration": _text(found["init_args"]["configuration"])},
    }


def _plain_tensors(weights: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 - judged here
    """Return copies that hold their own numbers only; what was shared stays shared."""
    copies: dict[Any, torch.Tensor] = {}
    plain = {}
    for name, tensor in weights.items():
        ordinary = isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided
        if not ordinary or tensor.is_quantized or tensor.is_complex():
            raise TypeError(f"{_text(name)} is no ordinary tensor")
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in copies:
            copies[place] = tensor.detach().clone(memory_format=torch.contiguous_format)
        plain[_text(name)] = copies[place]
    return plain


def _text(value: Any) -> str:  # noqa: ANN401 - judged here
    """Return a short name; refuse anything else."""
    if type(value) is not str or not value.isprintable() or len(value) > _LONGEST_NAME:
        raise TypeError("a name in the checkpoint is no short text")
    return value


def _limit_memory(more_bytes: int) -> None:
    """Let this process take that much more memory, and end it if it asks for more."""
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    used = pages * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes, hard))


class _EventWriter:
    """A logger for nnU-Net's `MetaLogger` that writes one JSON object per epoch."""

    def __init__(self, file: Path) -> None:
        self.file = file
        _drop_half_a_line(file)
        self.epoch: dict[str, Any] = {}
        self.started_s = time.time()

    def listen_to(self, trainer: Any) -> None:  # noqa: ANN401 - nnU-Net's types
        """Note the start, every epoch and the end of a training."""
        begin, validate = trainer.on_train_start, trainer.perform_actual_validation

        def begin_and_note() -> None:
            begin()
            self.write("start", **_facts(trainer))

        def validate_and_note(*arguments: Any, **options: Any) -> None:  # noqa: ANN401 - nnU-Net's types
            self.write("validation")
            validate(*arguments, **options)
            self.write("end", seconds=time.time() - self.started_s)

        trainer.on_train_start = begin_and_note
        trainer.perform_actual_validation = validate_and_note
        trainer.logger.loggers.append(self)

    def update_config(self, config: dict[str, Any]) -> None:
        """Ignore: the facts are written at the start."""

    def log_summary(self, key: str, value: Any) -> None:  # noqa: ANN401 - nnU-Net's types
        """Note a figure of the final validation."""
        self.write("summary", key=key, value=value)

    def log(self, key: str, value: Any, step: int) -> None:  # noqa: ANN401 - nnU-Net's types
        """Gather the figures of an epoch; write them when it ends."""
        self.epoch[key] = value
        if key != "epoch_end_timestamps":
            return
        seen = self.epoch
        prefix = "dice_per_class_or_region/"
        self.write(
            "epoch",
            epoch=step,
            train_loss=seen.get("train_losses"),
            val_loss=seen.get("val_losses"),
            learning_rate=seen.get("lrs"),
            pseudo_dice=[seen[key] for key in seen if key.startswith(prefix)],
            seconds=value - seen.get("epoch_start_timestamps", value),
            peak_memory_bytes=_peak_memory_bytes(),
            peak_gpu_memory_bytes=_peak_gpu_memory_bytes(),
        )
        self.epoch = {}

    def write(self, event: str, **content: Any) -> None:  # noqa: ANN401 - whatever JSON holds
        """Append one line."""
        line = json.dumps({"event": event, "time": time.time(), **_plain(content)})
        with self.file.open("ab") as stream:
            stream.write(line.encode() + b"\n")


def _drop_half_a_line(file: Path) -> None:
    """Cut off what a killed process left unfinished, so that we write on a new line."""
    if file.exists():
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            file.write_bytes(whole)


def _facts(trainer: Any) -> dict[str, Any]:  # noqa: ANN401 - nnU-Net's types
    """Return what a reader of the training's record wants to know."""
    network = trainer.network
    train_keys, validation_keys = trainer.do_split()
    return {
        "epochs": trainer.num_epochs,
        "iterations_per_epoch": trainer.num_iterations_per_epoch,
        "first_epoch": trainer.current_epoch,
        "architecture": type(network).__name__,
        "parameters": sum(p.numel() for p in network.parameters()),
        "loss": type(getattr(trainer.loss, "loss", trainer.loss)).__name__,
        "optimizer": type(trainer.optimizer).__name__,
        "initial_learning_rate": trainer.initial_lr,
        "batch_size": trainer.configuration_manager.batch_size,
        "patch_size": [int(n) for n in trainer.configuration_manager.patch_size],
        "spacing": [float(s) for s in trainer.configuration_manager.spacing],
        "augmentation": _augmentation(trainer),
        "training_cases": len(train_keys),
        "validation_cases": len(validation_keys),
        "device": str(trainer.device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seed": SEED,
    }


def _augmentation(trainer: Any) -> str:  # noqa: ANN401 - nnU-Net's types
    axes = trainer.inference_allowed_mirroring_axes
    return "nnU-Net's" + (", mirrored" if axes else ", without mirroring")


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return `value` as standard JSON: NumPy numbers as numbers, NaN as null."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _peak_gpu_memory_bytes() -> int | None:
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())


def _seed() -> None:
    """Make a CPU training with one thread and no workers repeatable."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - nnU-Net draws from the global generator
    torch.manual_seed(SEED)


def _write_checkpoints_whole(trainer_class: Any) -> None:  # noqa: ANN401 - nnU-Net's types
    """Let a checkpoint get its name only when all of it is on the disk.

    The latest but one is kept until the training ends (FAULTS N05).
    """
    save, finish = trainer_class.save_checkpoint, trainer_class.on_train_end

    def save_whole(trainer: Any, filename: str) -> None:  # noqa: ANN401 - nnU-Net's types
        final, temporary = Path(filename), Path(f"{filename}.partial")
        save(trainer, str(temporary))
        if not temporary.exists():
            return
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        if final.name == CHECKPOINT_LATEST and final.exists():
            final.replace(final.with_name(CHECKPOINT_PREVIOUS))
        temporary.replace(final)

    def finish_and_tidy(trainer: Any) -> None:  # noqa: ANN401 - nnU-Net's types
        finish(trainer)
        if trainer.local_rank == 0:
            Path(trainer.output_folder, CHECKPOINT_PREVIOUS).unlink(missing_ok=True)

    trainer_class.save_checkpoint = save_whole
    trainer_class.on_train_end = finish_and_tidy


def _write_checkpoints_often(trainer_class: Any) -> None:  # noqa: ANN401 - nnU-Net's types
    """Write the latest checkpoint so often that little is lost, whatever the trainer.

    nnU-Net's own writes one every 50 epochs. Here the end of an epoch is one also if
    the next epoch would end more than `AT_MOST_LOST_S` after the last checkpoint.
    """
    end_epoch, begin = trainer_class.on_epoch_end, trainer_class.on_train_start
    moments = {"saved": time.monotonic(), "epoch": time.monotonic()}

    def begin_and_note(trainer: Any) -> None:  # noqa: ANN401 - nnU-Net's types
        begin(trainer)
        moments["saved"] = moments["epoch"] = time.monotonic()

    def end_epoch_and_save(trainer: Any) -> None:  # noqa: ANN401 - nnU-Net's types
        now = time.monotonic()
        epoch_s, moments["epoch"] = now - moments["epoch"], now
        rare = trainer.save_every
        if now - moments["saved"] + epoch_s > AT_MOST_LOST_S:
            trainer.save_every = 1
        saves = (trainer.current_epoch + 1) % trainer.save_every == 0
        end_epoch(trainer)
        trainer.save_every = rare
        if saves:
            moments["saved"] = now

    trainer_class.on_train_start = begin_and_note
    trainer_class.on_epoch_end = end_epoch_and_save


def _load_only_what_is_allowed() -> None:
    """Register the few types that a checkpoint of nnU-Net 2.8 needs beside tensors.

    `TORCH_FORCE_WEIGHTS_ONLY_LOAD` is set in our environment, so that nnU-Net's own
    ``weights_only=False`` has no effect.
    """
    kinds = ("bool", "float16", "float32", "float64", "int16", "int32", "int64")
    scalar = import_module("numpy._core.multiarray").scalar
    allowed = [np.dtype, scalar, torch.device, *{type(np.dtype(k)) for k in kinds}]
    torch.serialization.add_safe_globals(allowed)
    if hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):  # torch 2.6
        of_numpy_1 = (scalar, "numpy.core.multiarray.scalar")
        torch.serialization.add_safe_globals([of_numpy_1])


def _one_worker_is_a_thread() -> None:
    """Replace `spawn` pools of one worker by a thread of this process."""
    context: Any = multiprocessing.get_context("spawn")
    start_processes = context.Pool

    def pool(processes: int | None = None, *options: Any, **named: Any) -> Any:  # noqa: ANN401 - as the original
        if processes == 1 and not options and not named:
            return multiprocessing.pool.ThreadPool(1)
        return start_processes(processes, *options, **named)

    context.Pool = pool


def _end_with_parent() -> None:
    """End this process and its workers when the process that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_S)
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.getpgrp() == os.getpid():
        threading.Thread(target=watch, daemon=True, name="parent-watch").start()


if __name__ == "__main__":
    main()
