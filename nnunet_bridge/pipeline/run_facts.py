"""What is known of finished trainings: settings, costs, versions, curves.

Facts come from a training's events and from the record of its run; the record wins.
Known facts are shown in a fixed order under plain names, all others after them, so
that nothing that was written down is lost on the way to the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.events import Curve, curve_of, read_events
from nnunet_bridge.formats.html import Setting

_COSTS = {
    "seconds": "training",
    "predict_seconds": "prediction",
    "parameters": "parameters",
    "peak_memory_bytes": "peak memory",
    "peak_gpu_memory_bytes": "peak GPU memory",
}
"""Facts that are costs, and what the page calls them."""

_SETTINGS = {
    "architecture": "architecture",
    "trainer": "trainer",
    "plans": "plans",
    "configuration": "configuration",
    "budget": "budget",
    "epochs": "epochs",
    "iterations_per_epoch": "iterations per epoch",
    "loss": "loss",
    "optimizer": "optimiser",
    "initial_learning_rate": "initial learning rate",
    "batch_size": "batch size",
    "patch_size": "patch size",
    "spacing": "spacing (mm)",
    "augmentation": "augmentation",
    "patients": "patients",
    "training_cases": "training cases",
    "validation_cases": "validation cases",
    "seed": "seed",
    "device": "device",
    "processor": "processor",
    "threads": "threads",
}
"""Facts that are settings, in the order of the page."""

_NOT_SHOWN = (
    *("event", "time", "fold", "epoch", "first_epoch", "run_id", "command", "folder"),
    *("state", "started", "ended", "dataset"),
)
_VERSION_ENDINGS = ("version", "sha256", "hash", "commit", "python", "dataset_state")


@dataclass(frozen=True, slots=True)
class FoldRun:
    """One finished training."""

    fold: str
    """``0``, ``1``, ... or ``all``."""

    validation_dir: Path
    """Holds ``<case>.nii.gz``: what the model predicted for the cases held out."""

    events_file: Path | None = None
    """``events.jsonl`` of the training."""

    run_facts: Mapping[str, Any] = field(default_factory=dict)
    """Settings, costs and versions, as the training wrote them."""


@dataclass(frozen=True, slots=True)
class ModelRun:
    """One model: the trainings of one configuration."""

    name: str
    """How the report calls it, such as ``2d``."""

    configuration: str
    folds: tuple[FoldRun, ...]


def curves_of(runs: Sequence[ModelRun]) -> tuple[Curve, ...]:
    """Return the curves of all trainings that wrote events."""
    return tuple(
        curve_of(run.name, fold.fold, read_events(fold.events_file))
        for run in runs
        for fold in run.folds
        if fold.events_file is not None and fold.events_file.is_file()
    )


def _facts(fold: FoldRun) -> dict[str, Any]:
    """Return all that is known of a training: its events, then its own record."""
    facts: dict[str, Any] = {}
    if fold.events_file is not None and fold.events_file.is_file():
        events = read_events(fold.events_file)
        for event in events:
            if event.get("event") in ("start", "end"):
                facts |= event
        facts |= _measured(events)
    facts |= dict(fold.run_facts)
    versions = facts.pop("versions", None)
    if isinstance(versions, Mapping):
        facts |= {f"{name} version": version for name, version in versions.items()}
        facts.pop("torch", None)
    return facts


def _measured(events: Sequence[JsonObject]) -> dict[str, Any]:
    """Return the time of all epochs and the highest memory of any."""
    epochs = [event for event in events if event.get("event") == "epoch"]
    measured: dict[str, Any] = {}
    for key in ("seconds", "peak_memory_bytes", "peak_gpu_memory_bytes"):
        known = [e[key] for e in epochs if isinstance(e.get(key), int | float)]
        if known:
            measured[key] = sum(known) if key == "seconds" else max(known)
    return measured


def costs_of(runs: Sequence[ModelRun]) -> tuple[Setting, ...]:
    """Return time and memory a model: seconds add up over folds, memory does not."""
    facts = [[_facts(fold) for fold in run.folds] for run in runs]
    rows = []
    for key, name in _COSTS.items():
        values = []
        for folds in facts:
            known = [f[key] for f in folds if isinstance(f.get(key), int | float)]
            values.append(_cost(key, known) if known else "")
        rows.append(Setting(name, tuple(values)))
    return _without_empty(rows)


def _cost(key: str, values: Sequence[float]) -> str:
    if key.endswith("seconds"):
        total = _duration(sum(values))
        return total if len(values) == 1 else f"{total}, {len(values)} folds"
    if key.endswith("bytes"):
        return f"{max(values) / 2**30:.2f} GiB" if max(values) else ""
    return f"{max(values) / 1e6:.1f} million"


def _duration(seconds: float) -> str:
    """Return a time as a person says it.

    Examples
    --------
    >>> _duration(42), _duration(3720), _duration(90)
    ('42 s', '1 h 2 min', '1 min 30 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def settings_of(runs: Sequence[ModelRun]) -> tuple[Setting, ...]:
    """Return the known settings in their order, then every other fact by its name."""
    facts = _facts_by_model(runs)
    keys = list(_SETTINGS)
    for found in facts:
        keys += [key for key in found if key not in keys and _is_setting(key)]
    return _without_empty(
        [
            _setting(_SETTINGS.get(key, key.replace("_", " ")), key, facts)
            for key in keys
        ]
    )


def versions_of(runs: Sequence[ModelRun]) -> tuple[Setting, ...]:
    """Return versions, hashes and commits."""
    facts = _facts_by_model(runs)
    keys = dict.fromkeys(key for found in facts for key in found if _is_version(key))
    return _without_empty([_setting(key.replace("_", " "), key, facts) for key in keys])


def _setting(
    name: str, key: str, facts: Sequence[Mapping[str, Sequence[str]]]
) -> Setting:
    return Setting(name, tuple(", ".join(found.get(key, ())) for found in facts))


def _facts_by_model(runs: Sequence[ModelRun]) -> list[dict[str, list[str]]]:
    """Return, for each model, every fact with its different values over the folds."""
    collected = []
    for run in runs:
        found: dict[str, list[str]] = {}
        for fold in run.folds:
            for key, value in _facts(fold).items():
                words = _words(value)
                if words and words not in found.setdefault(key, []):
                    found[key].append(words)
        collected.append(found)
    return collected


def _words(value: object) -> str:
    """Return a plain fact as text; empty for one that is no plain fact."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int | str):
        return str(value)
    if isinstance(value, list | tuple) and value:
        return " \u00d7 ".join(_words(part) for part in value)
    return ""


def _is_version(key: str) -> bool:
    return key.endswith(_VERSION_ENDINGS)


def _is_setting(key: str) -> bool:
    return not (key in _NOT_SHOWN or key in _COSTS or _is_version(key))


def _without_empty(rows: Sequence[Setting]) -> tuple[Setting, ...]:
    return tuple(row for row in rows if any(row.values))
