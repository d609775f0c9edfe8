"""Events of a training, one JSON object a line, for every trainer."""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_bridge.formats.files import open_to_write
from nnunet_bridge.formats.system import peak_memory_bytes
from nnunet_bridge.nnunet.inside.wrappers import plain_network
from nnunet_bridge.nnunet.training_options import SEED


class EventWriter:
    """A logger for nnU-Net's `MetaLogger` that writes one JSON object per epoch."""

    def __init__(self, file: Path) -> None:
        self.file = file
        _drop_half_a_line(file)
        self.epoch: dict[str, Any] = {}
        self.started_s = time.time()

    def listen_to(self, trainer: Any) -> None:  # noqa: ANN401 - nnU-Net's types
        """Record the start, every epoch and the end of a training."""
        begin, validate = trainer.on_train_start, trainer.perform_actual_validation

        def begin_and_record() -> None:
            begin()
            self.write("start", **_facts(trainer))

        def validate_and_record(*arguments: Any, **options: Any) -> None:  # noqa: ANN401 - nnU-Net's types
            self.write("validation")
            validate(*arguments, **options)
            self.write("end", seconds=time.time() - self.started_s)

        trainer.on_train_start = begin_and_record
        trainer.perform_actual_validation = validate_and_record
        trainer.logger.loggers.append(self)

    def update_config(self, config: dict[str, Any]) -> None:
        """Ignore: the facts are written at the start."""

    def log_summary(self, key: str, value: Any) -> None:  # noqa: ANN401 - nnU-Net's types
        """Record a figure of the final validation."""
        self.write("summary", key=key, value=value)

    def log(self, key: str, value: Any, step: int) -> None:  # noqa: ANN401 - nnU-Net's types
        """Collect the figures of an epoch; write them when it ends."""
        self.epoch[key] = value
        if key != "epoch_end_timestamps":
            return
        seen = self.epoch
        gpu = torch.cuda.is_available()
        prefix = "dice_per_class_or_region/"
        self.write(
            "epoch",
            epoch=step,
            train_loss=seen.get("train_losses"),
            val_loss=seen.get("val_losses"),
            learning_rate=seen.get("lrs"),
            pseudo_dice=[seen[key] for key in seen if key.startswith(prefix)],
            seconds=value - seen.get("epoch_start_timestamps", value),
            peak_memory_bytes=peak_memory_bytes(),
            peak_gpu_memory_bytes=torch.cuda.max_memory_reserved() if gpu else None,
        )
        self.epoch = {}

    def write(self, event: str, **content: Any) -> None:  # noqa: ANN401 - whatever JSON holds
        """Append one line."""
        line = json.dumps({"event": event, "time": time.time(), **_plain(content)})
        with open_to_write(self.file, "ab") as stream:
            stream.write(line.encode() + b"\n")


def _drop_half_a_line(file: Path) -> None:
    """Remove a line that a killed process left unfinished."""
    if file.exists():
        content = file.read_bytes()
        with open_to_write(file, "ab") as stream:
            stream.truncate(content.rfind(b"\n") + 1)


def _facts(trainer: Any) -> dict[str, Any]:  # noqa: ANN401 - nnU-Net's types
    """Return the settings of a training, for its record."""
    weights = list(trainer.network.parameters())
    planned = trainer.configuration_manager
    train_keys, validation_keys = trainer.do_split()
    return {
        "epochs": trainer.num_epochs,
        "iterations_per_epoch": trainer.num_iterations_per_epoch,
        "first_epoch": trainer.current_epoch,
        "architecture": type(plain_network(trainer.network)).__name__,
        "parameters": sum(p.numel() for p in weights),
        "learning_parameters": sum(p.numel() for p in weights if p.requires_grad),
        "loss": type(getattr(trainer.loss, "loss", trainer.loss)).__name__,
        "optimizer": type(trainer.optimizer).__name__,
        "initial_learning_rate": trainer.initial_lr,
        "batch_size": planned.batch_size,
        "patch_size": [int(n) for n in planned.patch_size],
        "spacing": [float(s) for s in planned.spacing],
        "augmentation": _augmentation(trainer),
        "training_cases": len(train_keys),
        "validation_cases": len(validation_keys),
        "device": str(trainer.device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seed": SEED,
    }


def _augmentation(trainer: Any) -> str:  # noqa: ANN401 - nnU-Net's types
    if hasattr(trainer, "augmentation_name"):
        return str(trainer.augmentation_name)
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
