"""Read the events of a training: one JSON object a line, written while it runs.

The last line may be half-written, and a resumed training repeats the epochs since its
last checkpoint. Both are normal and not an error.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.summary import JsonObject


@dataclass(frozen=True, slots=True)
class Curve:
    """The losses and scores of one training by epoch; None where an event lacks one."""

    model: str
    fold: str
    epochs: tuple[int, ...]
    train_loss: tuple[float | None, ...]
    val_loss: tuple[float | None, ...]
    pseudo_dice: tuple[float | None, ...]
    """nnU-Net's Dice on validation patches, mean over the structures."""

    pseudo_iou: tuple[float | None, ...] = ()
    """Intersection over union, D / (2 - D) of each structure's Dice D; the mean."""


def read_events(file: Path) -> tuple[JsonObject, ...]:
    """Return the events of a file, without a half-written last line.

    Raises `InputError` if the file cannot be read, or a line before the last is
    damaged.
    """
    if not file.exists():
        raise InputError(f"Cannot read {file}: it does not exist.")
    events, damage = readable_events(file)
    if damage:
        raise InputError(f"{file.parent}: {damage}")
    return events


def readable_events(file: Path) -> tuple[tuple[JsonObject, ...], str]:
    """Return the events that can be read, and a message if the file is damaged.

    Never raises: a crash may leave a damaged file. A missing file has no events.
    """
    if not file.exists():
        return (), ""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        return (), f"{file.name} cannot be read: {error.strerror}."
    events, damaged = _parsed(lines)
    if not damaged:
        return events, ""
    lost = f"line {damaged[0]}" if len(damaged) == 1 else f"{len(damaged)} lines"
    return events, f"{file.name} is damaged: {lost} cannot be read."


def _parsed(lines: Sequence[bytes]) -> tuple[tuple[JsonObject, ...], list[int]]:
    """Return the events, and the numbers of damaged lines before the last."""
    events, damaged = [], []
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            if number < len(lines):
                damaged.append(number)
            continue
        if isinstance(event, dict):
            events.append(event)
    return tuple(events), damaged


RECENT = 5  # number of last epochs whose median is the pace of a training


@dataclass(frozen=True, slots=True)
class Course:
    """Progress of a training by its events; None where no event has it."""

    epochs_done: int = 0
    epochs: int | None = None  # number of planned epochs

    # Of the last epoch: losses and Dice.
    train_loss: float | None = None
    val_loss: float | None = None
    dice: Mapping[str, float | None] = field(default_factory=dict)
    """Structure -> nnU-Net's Dice on validation patches."""

    device: str = ""  # as torch names it, such as ``cuda:0``
    threads: int | None = None  # of torch

    seconds: float | None = None  # duration of all epochs so far
    seconds_per_epoch: float | None = None  # median of the `RECENT` last epochs

    @property
    def seconds_left(self) -> float | None:
        """Time for the remaining epochs at the present pace (not the validation)."""
        if self.epochs is None or self.seconds_per_epoch is None:
            return None
        return max(0, self.epochs - self.epochs_done) * self.seconds_per_epoch

    def as_json(self) -> JsonObject:
        """Return the fields that `status` and `train` print."""
        return {
            "epochs": self.epochs_done,
            "epochs_planned": self.epochs,
            "train_loss": self.train_loss,
            "val_loss": self.val_loss,
            "dice_per_structure": dict(self.dice),
            "seconds": self.seconds,
            "seconds_per_epoch": self.seconds_per_epoch,
        }


def course_of(
    events: Iterable[Mapping[str, Any]], structures: Sequence[str] = ()
) -> Course:
    """Return the progress of a training by the events from `readable_events`.

    `structures` are the names in the order of nnU-Net's Dice; where their number
    differs, the values get numbers. Events of other forms are ignored.

    Examples
    --------
    >>> course_of([{"event": "start", "epochs": 20}, {"event": "epoch", "epoch": 3,
    ...     "seconds": 2.0, "pseudo_dice": [0.5]}], ["tibia"]).seconds_left
    32.0
    """
    epochs, planned = [], None
    start: Mapping[str, Any] = {}
    for event in events:
        if event.get("event") == "epoch" and isinstance(event.get("epoch"), int):
            epochs.append(event)
        elif event.get("event") == "start" and isinstance(event.get("epochs"), int):
            planned, start = event["epochs"], event
    last = epochs[-1] if epochs else {}
    paces = [_number(event.get("seconds")) for event in epochs]
    seconds = [pace for pace in paces if pace is not None]
    return Course(
        epochs_done=1 + max((event["epoch"] for event in epochs), default=-1),
        epochs=planned,
        train_loss=_number(last.get("train_loss")),
        val_loss=_number(last.get("val_loss")),
        dice=_named(last.get("pseudo_dice"), structures),
        device=str(start.get("device") or ""),
        threads=start["threads"] if isinstance(start.get("threads"), int) else None,
        seconds=sum(seconds) if seconds else None,
        seconds_per_epoch=median(seconds[-RECENT:]) if seconds else None,
    )


def _named(values: object, structures: Sequence[str]) -> dict[str, float | None]:
    """Return the values by structure, or by number if their count differs."""
    if not isinstance(values, list):
        return {}
    names = list(structures)
    if len(names) != len(values):
        names = [str(number) for number in range(1, len(values) + 1)]
    return {name: _number(value) for name, value in zip(names, values, strict=True)}


def curve_of(model: str, fold: str, events: Iterable[Mapping[str, Any]]) -> Curve:
    """Return the epochs of a training in order; of a repeated epoch, the last event."""
    by_epoch = {
        int(event["epoch"]): event
        for event in events
        if event.get("event") == "epoch" and isinstance(event.get("epoch"), int)
    }
    epochs = sorted(by_epoch)
    dice = [by_epoch[epoch].get("pseudo_dice") for epoch in epochs]
    return Curve(
        model=model,
        fold=fold,
        epochs=tuple(epochs),
        train_loss=tuple(_number(by_epoch[e].get("train_loss")) for e in epochs),
        val_loss=tuple(_number(by_epoch[e].get("val_loss")) for e in epochs),
        pseudo_dice=tuple(map(_mean, dice)),
        pseudo_iou=tuple(_mean(_iou_of(value)) for value in dice),
    )


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and value == value:  # noqa: PLR0124 - not NaN
        return float(value)
    return None


def _mean(values: object) -> float | None:
    if not isinstance(values, list):
        return _number(values)
    known = [number for number in map(_number, values) if number is not None]
    return sum(known) / len(known) if known else None


def _iou_of(dice: object) -> object:
    """Return the IoU of a Dice, or of each Dice in a list."""
    if isinstance(dice, list):
        return [_iou_of(value) for value in dice]
    value = _number(dice)
    return None if value is None else value / (2 - value)
