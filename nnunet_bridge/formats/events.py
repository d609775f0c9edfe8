"""The events of a training: one JSON object a line, written while it runs.

The writer may be in the middle of a line, or may have died there; and a resumed
training repeats the epochs since its last checkpoint. Both are read without a fuss.
"""

from __future__ import annotations

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
    """What one training did, epoch by epoch; None where nothing was written."""

    model: str
    fold: str
    epochs: tuple[int, ...]
    train_loss: tuple[float | None, ...]
    val_loss: tuple[float | None, ...]
    pseudo_dice: tuple[float | None, ...]
    """nnU-Net's Dice on validation patches, mean over the structures."""

    pseudo_iou: tuple[float | None, ...] = ()
    """The intersection over union that follows from it, D / (2 - D) of each structure,
    mean over the structures."""


def read_events(file: Path) -> tuple[JsonObject, ...]:
    """Return the events of a file, without a half-written last line.

    Raises
    ------
    InputError
        If the file cannot be read, or a line before the last is no JSON object.
    """
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from error
    events, damaged = _parsed(lines)
    if damaged:
        raise InputError(f"Line {damaged[0]} of {file} is no JSON: it is damaged.")
    return events


def readable_events(file: Path) -> tuple[tuple[JsonObject, ...], str]:
    """Return the events that can be read, and a sentence about those that cannot.

    For a reader that must say where a training stands, whatever a crash of the disk
    left; the sentence is empty where nothing is damaged.
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
    """Return the events, and the numbers of the lines before the last that are none."""
    events, damaged = [], []
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
        except ValueError:
            if number < len(lines):
                damaged.append(number)
            continue
        if isinstance(event, dict):
            events.append(event)
    return tuple(events), damaged


RECENT = 5
"""The pace of a training is that of so many epochs, the last ones."""


@dataclass(frozen=True, slots=True)
class Course:
    """How far a training is, by its events; None where it has not said so yet."""

    epochs_done: int = 0
    epochs: int | None = None
    """In all."""

    train_loss: float | None = None
    """Of the last epoch, as the next two."""

    val_loss: float | None = None
    dice: Mapping[str, float | None] = field(default_factory=dict)
    """Structure -> nnU-Net's Dice on validation patches."""

    seconds: float | None = None
    """Of all epochs."""

    seconds_per_epoch: float | None = None
    """Median of the `RECENT` last ones."""

    @property
    def seconds_left(self) -> float | None:
        """Of the epochs to come, at the present pace; the final validation is more."""
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
    """Return how far a training is.

    Parameters
    ----------
    events : iterable of mapping
        As `readable_events` gives them; whatever is not as expected is passed over.
    structures : sequence of str
        Names in the order of nnU-Net's Dice; numbers where their count differs.

    Examples
    --------
    >>> course_of([{"event": "start", "epochs": 20}, {"event": "epoch", "epoch": 3,
    ...     "seconds": 2.0, "pseudo_dice": [0.5]}], ["tibia"]).seconds_left
    32.0
    """
    told = list(events)
    epochs = [
        event
        for event in told
        if event.get("event") == "epoch" and isinstance(event.get("epoch"), int)
    ]
    planned = [
        event["epochs"]
        for event in told
        if event.get("event") == "start" and isinstance(event.get("epochs"), int)
    ]
    last = epochs[-1] if epochs else {}
    paces = [_number(event.get("seconds")) for event in epochs]
    seconds = [pace for pace in paces if pace is not None]
    return Course(
        epochs_done=1 + max((event["epoch"] for event in epochs), default=-1),
        epochs=planned[-1] if planned else None,
        train_loss=_number(last.get("train_loss")),
        val_loss=_number(last.get("val_loss")),
        dice=_named(last.get("pseudo_dice"), structures),
        seconds=sum(seconds) if seconds else None,
        seconds_per_epoch=median(seconds[-RECENT:]) if seconds else None,
    )


def _named(values: object, structures: Sequence[str]) -> dict[str, float | None]:
    """Return the values by structure; by number where the names do not fit."""
    if not isinstance(values, list):
        return {}
    names = list(structures)
    if len(names) != len(values):
        names = [str(number) for number in range(1, len(values) + 1)]
    return {name: _number(value) for name, value in zip(names, values, strict=True)}


def curve_of(model: str, fold: str, events: Iterable[Mapping[str, Any]]) -> Curve:
    """Return the epochs of a training in order; the last word on an epoch counts."""
    by_epoch = {
        int(event["epoch"]): event
        for event in events
        if event.get("event") == "epoch" and isinstance(event.get("epoch"), int)
    }
    epochs = sorted(by_epoch)
    return Curve(
        model=model,
        fold=fold,
        epochs=tuple(epochs),
        train_loss=tuple(_number(by_epoch[e].get("train_loss")) for e in epochs),
        val_loss=tuple(_number(by_epoch[e].get("val_loss")) for e in epochs),
        pseudo_dice=tuple(_mean(by_epoch[e].get("pseudo_dice")) for e in epochs),
        pseudo_iou=tuple(
            _mean(_iou_of(by_epoch[e].get("pseudo_dice"))) for e in epochs
        ),
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
    """Return the IoU of a Dice, or of a list of them: the same overlap, said anew."""
    if isinstance(dice, list):
        return [_iou_of(value) for value in dice]
    value = _number(dice)
    return None if value is None else value / (2 - value)
