"""The events of a training: one JSON object a line, written while it runs.

The writer may be in the middle of a line, or may have died there; and a resumed
training repeats the epochs since its last checkpoint. Both are read without a fuss.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
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
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise InputError(f"Line {number} of {file} is no JSON: {error}.") from error
        if isinstance(event, dict):
            events.append(event)
    return tuple(events)


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
