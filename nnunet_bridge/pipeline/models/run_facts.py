"""The facts of finished trainings: their validation, settings, costs and curves.

They come from the events of a training, or what nnU-Net's own files tell of it, and
from the record of its run; where both name a fact, the record wins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_bridge.core.comparison import ModelCost
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.events import Curve, curve_of, read_events
from nnunet_bridge.nnunet.runs import RunState, read_record
from nnunet_bridge.nnunet.training_logs import events_of

TRAINED_ON_ALL = (
    "fold “all” was trained on every case, so its validation scores are not valid."
)

_HARDWARE = ("processor", "cores", "gpus", "gpu_driver")


@dataclass(frozen=True, slots=True)
class FoldRun:
    """One finished training."""

    fold: str  # ``0``, ``1``, ... or ``all``
    validation_dir: Path
    """With ``<case>.nii.gz``, the predictions of the validation cases."""

    events_file: Path | None = None  # ``events.jsonl`` of the training
    run_facts: Mapping[str, Any] = field(default_factory=dict)
    """Settings, costs and versions, as the training wrote them."""

    repeat: int = 0  # training of the fold: 0 is the first, others have other seeds
    logged: Sequence[
        JsonObject
    ] = ()  # events by nnU-Net's logs, without a file of ours

    def events(self) -> Sequence[JsonObject]:
        """Read the events; empty if there are none."""
        file = self.events_file
        return self.logged if file is None or not file.is_file() else read_events(file)


@dataclass(frozen=True, slots=True)
class ModelRun:
    """One model: the trainings of one configuration."""

    name: str  # name in the report, such as ``2d``
    configuration: str
    folds: tuple[FoldRun, ...]

    @property
    def fold_names(self) -> tuple[str, ...]:
        """The folds, each once."""
        return tuple(dict.fromkeys(fold.fold for fold in self.folds))


def fold_run(state: RunState) -> FoldRun:
    """Return the files and the record of a training."""
    run = state.run
    return FoldRun(
        str(run.fold),
        run.validation_dir,
        run.events_file,
        {"budget": str(state.budget), **read_record(run).content},
        run.repeat,
        () if run.events_file.is_file() else events_of(run)[0],
    )


def curves_of(runs: Sequence[ModelRun]) -> tuple[Curve, ...]:
    """Return the curves of all trainings that wrote events."""
    return tuple(
        curve_of(run.name, fold.fold, events)
        for run in runs
        for fold in run.folds
        if (events := fold.events())
    )


def facts_of(fold: FoldRun) -> dict[str, Any]:
    """Return all that is known of a training: its events, then its own record."""
    facts: dict[str, Any] = {}
    events = fold.events()
    for event in events:
        if event.get("event") in ("start", "end"):
            facts |= event
    facts |= _measured(events) | dict(fold.run_facts)
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
    facts = [facts_of(fold) for fold in run.folds]

    def known(key: str) -> list[float]:
        return [f[key] for f in facts if isinstance(f.get(key), int | float) and f[key]]

    timed = [f for f in facts if f.get("prediction_s") and f.get("validation_cases")]
    seconds = sum(f["prediction_s"] for f in timed)
    cases = sum(f["validation_cases"] for f in timed)
    return ModelCost(
        model=run.name,
        trainings=len(run.folds),
        training_s=sum(known("seconds")) or None,
        prediction_s_per_case=seconds / cases if cases else None,
        peak_memory_bytes=max(known("peak_memory_bytes"), default=None),
        peak_gpu_memory_bytes=max(known("peak_gpu_memory_bytes"), default=None),
        parameters=max(known("parameters"), default=None),
    )
