"""What is known of finished trainings: settings, costs, versions, curves.

Facts come from a training's events and from the record of its run; the record wins.
Known facts are shown in a fixed order under plain names, all others after them, so
that nothing that was written down is lost on the way to the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_bridge.core.comparison import ModelCost
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.events import Curve, curve_of, read_events
from nnunet_bridge.formats.html import Setting
from nnunet_bridge.nnunet.names import Workspace
from nnunet_bridge.nnunet.runs import RunState, events_file, read_record

_COSTS = (
    *("seconds", "parameters", "peak_memory_bytes", "peak_gpu_memory_bytes"),
    *("prediction_s", "predicted_cases"),
)
"""Facts that are costs, not settings."""

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
    "cores": "cores",
    "gpus": "GPUs",
    "gpu_driver": "GPU driver",
    "threads": "threads",
}
"""Facts that are settings, in the order of the page."""

_HARDWARE = ("processor", "cores", "gpus", "gpu_driver")

_NOT_SHOWN = (
    *("event", "time", "fold", "epoch", "first_epoch", "run_id", "command", "folder"),
    *("state", "started", "ended", "dataset", "exit", "reason", "job", "attempts"),
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


def fold_run(workspace: Workspace, state: RunState) -> FoldRun:
    """Return what a training left on the disk."""
    return FoldRun(
        str(state.run.fold),
        workspace.fold_dir(state.run) / "validation",
        events_file(workspace, state.run),
        read_record(workspace, state.run),
    )


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
    versions, parts = facts.pop("versions", None), facts.pop("hardware", None)
    if isinstance(parts, Mapping):
        facts |= {key: parts[key] for key in _HARDWARE if parts.get(key)}
    if isinstance(versions, Mapping):
        facts |= {f"{name} version": version for name, version in versions.items()}
        facts.pop("torch", None)
    return facts


def _measured(events: Sequence[JsonObject]) -> dict[str, Any]:
    """Return the time of all epochs, the highest memory of any, and the validation's.

    A training that was resumed validates once; the last word counts.
    """
    epochs = [event for event in events if event.get("event") == "epoch"]
    measured: dict[str, Any] = {}
    for key in ("seconds", "peak_memory_bytes", "peak_gpu_memory_bytes"):
        known = [e[key] for e in epochs if isinstance(e.get(key), int | float)]
        if known:
            measured[key] = sum(known) if key == "seconds" else max(known)
    times = {str(event.get("event")): event.get("time") for event in events}
    began, ended = times.get("validation"), times.get("end")
    if isinstance(began, int | float) and isinstance(ended, int | float):
        measured["prediction_s"] = max(0.0, ended - began)
    return measured


def costs_of(runs: Sequence[ModelRun]) -> tuple[ModelCost, ...]:
    """Return time, memory and size of each model: seconds add up over folds."""
    return tuple(_cost_of(run) for run in runs)


def _cost_of(run: ModelRun) -> ModelCost:
    facts = [_facts(fold) for fold in run.folds]

    def known(key: str) -> list[float]:
        return [f[key] for f in facts if isinstance(f.get(key), int | float) and f[key]]

    predicted = [
        (f["prediction_s"], f["validation_cases"])
        for f in facts
        if f.get("prediction_s") and f.get("validation_cases")
    ]
    seconds, cases = (
        (sum(part) for part in zip(*predicted, strict=True))
        if (predicted)
        else (0.0, 0)
    )
    return ModelCost(
        model=run.name,
        trainings=len(run.folds),
        training_s=sum(known("seconds")) or None,
        prediction_s_per_case=seconds / cases if cases else None,
        peak_memory_bytes=max(known("peak_memory_bytes"), default=None),
        peak_gpu_memory_bytes=max(known("peak_gpu_memory_bytes"), default=None),
        parameters=max(known("parameters"), default=None),
    )


def cost_table(
    costs: Sequence[ModelCost], quality: Sequence[Setting] = ()
) -> tuple[Setting, ...]:
    """Return quality and costs side by side, one column a model."""
    rows = [
        *quality,
        Setting("training", tuple(_training(cost) for cost in costs)),
        Setting(
            "prediction of a case",
            tuple(_or_empty(cost.prediction_s_per_case, _short) for cost in costs),
        ),
        Setting(
            "peak memory",
            tuple(_or_empty(cost.peak_memory_bytes, _gibibytes) for cost in costs),
        ),
        Setting(
            "peak GPU memory",
            tuple(_or_empty(cost.peak_gpu_memory_bytes, _gibibytes) for cost in costs),
        ),
        Setting(
            "parameters", tuple(_or_empty(cost.parameters, _millions) for cost in costs)
        ),
    ]
    return _without_empty(rows)


def _training(cost: ModelCost) -> str:
    if cost.training_s is None:
        return ""
    total = _duration(cost.training_s)
    return total if cost.trainings == 1 else f"{total}, {cost.trainings} folds"


def _or_empty(value: float | None, words: Callable[[float], str]) -> str:
    return "" if value is None else words(value)


def _gibibytes(value: float) -> str:
    return f"{value / 2**30:.2f} GiB"


def _millions(value: float) -> str:
    return f"{value / 1e6:.1f} million"


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else _duration(seconds)  # noqa: PLR2004 - a digit is worth it


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
        between = ", " if isinstance(value[0], str) else " \u00d7 "
        return between.join(_words(part) for part in value)
    return ""


def _is_version(key: str) -> bool:
    return key.endswith(_VERSION_ENDINGS)


def _is_setting(key: str) -> bool:
    return not (key in _NOT_SHOWN or key in _COSTS or _is_version(key))


def _without_empty(rows: Sequence[Setting]) -> tuple[Setting, ...]:
    return tuple(row for row in rows if any(row.values))
