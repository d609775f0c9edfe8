"""The state of trainings, read from their files and from nothing else.

A run is ``running`` while a living process holds its lock, ``queued`` when its record
says that it was handed to a cluster and has not begun, ``done`` when its last
checkpoint and its validation are on the disk, ``failed`` when its record says so,
``stopped`` when there is something to resume, and ``planned`` before all that. A fold
that `unpack` brought from elsewhere is ``unpacked``: it predicts, but its validation
stayed where it was trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import FOREIGN, Fold, RunStatus, fold_named
from nnunet_bridge.formats.events import Course, course_of, readable_events
from nnunet_bridge.formats.files import is_locked, readable_object, write_json
from nnunet_bridge.nnunet.methods import (
    DEFAULT_MODEL,
    METHODS,
    Method,
    method_of_run,
)
from nnunet_bridge.nnunet.names import Dataset, Run
from nnunet_bridge.nnunet.resumption import NEWEST_FIRST

ORIGIN_FILE = "unpacked.json"
"""In the folder of a fold: it came from elsewhere, and with which Dice."""


@dataclass(frozen=True, slots=True)
class RunState:
    """Where one training stands."""

    run: Run
    state: RunStatus
    folder: Path
    course: Course = field(default_factory=Course)
    """How far it is."""

    mean_dice: float | None = None
    """Mean over the structures of nnU-Net's own validation; None before it."""

    reason: str = ""
    """Why it failed, or what of its files is damaged; empty otherwise."""

    job: str = ""
    """Id of the cluster's job that trains it, if one was asked to."""

    page: Path | None = None
    """The record of the training as a page; None where there is none."""

    @property
    def seconds_left(self) -> float | None:
        """Of its epochs, while it runs; None otherwise."""
        return self.course.seconds_left if self.state == RunStatus.RUNNING else None

    @property
    def model(self) -> str:
        """As `--model` calls it; `FOREIGN` if no trainer and plans of ours made it."""
        method = method_of_run(self.run)
        return FOREIGN if method is None else method.model

    @property
    def budget(self) -> str:
        """``full``, ``quick``, ``smoke``; of a foreign model, its trainer and plans."""
        method = method_of_run(self.run)
        own = f"{self.run.trainer}__{self.run.plans}"
        return own if method is None else method.budget.name

    @property
    def name(self) -> str:
        """Such as ``2d fold 0``; with the model where it is not nnU-Net's own."""
        name = self.run.title
        return name if self.model == DEFAULT_MODEL else f"{self.model} {name}"

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state == RunStatus.DONE

    @property
    def can_predict(self) -> bool:
        """Whether there is a finished model, trained here or elsewhere."""
        return self.state in (RunStatus.DONE, RunStatus.UNPACKED)

    def as_json(self) -> JsonObject:
        """Return the entry of `runs` that `status` and `train` print."""
        return {
            "configuration": self.run.configuration,
            "fold": self.run.fold,
            "model": self.model,
            "budget": self.budget,
            "state": self.state,
            **self.course.as_json(),
            "seconds_left": self.seconds_left,
            "mean_dice": self.mean_dice,
            "folder": str(self.folder),
            "reason": self.reason,
            "job": self.job,
            "page": None if self.page is None else str(self.page),
        }


def course_of_run(run: Run) -> Course:
    """Return how far a training is, whatever of its events can be read."""
    events, _ = readable_events(run.events_file)
    return course_of(events, structures_of(run.dataset))


def structures_of(dataset: Dataset) -> tuple[str, ...]:
    """Return the names in the order of nnU-Net's Dice; nothing if nobody tells them."""
    for folder in (dataset.raw_dir, dataset.planned_dir):
        labels = readable_object(folder / "dataset.json")[0].get("labels")
        if isinstance(labels, dict):
            names = [name for name in labels if name not in ("background", "ignore")]
            if all(isinstance(value, int) for value in labels.values()):
                names.sort(key=labels.__getitem__)
            return tuple(names)
    return ()


def read_record(run: Run) -> JsonObject:
    """Return the record of a training; nothing where there is none or a damaged one."""
    return readable_object(run.record_file)[0]


def write_record(run: Run, **content: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Update the record of a training; a damaged one is written anew."""
    known = read_record(run)
    write_json(run.record_file, {**known, **content})


def run_state(run: Run) -> RunState:
    """Return where a training stands, from its files.

    A file that a crash left half-written is told in `reason`; what it would have said
    counts as not there, so that `train` makes it again.
    """
    fold_dir = run.fold_dir
    origin = fold_dir / ORIGIN_FILE
    record, fault_of_record = readable_object(run.record_file)
    events, fault_of_events = readable_events(run.events_file)
    summary, fault_of_summary = readable_object(run.validation_dir / "summary.json")
    trained = run.checkpoint_file.exists()
    finished = trained and bool(summary)
    unpacked = trained and not finished and origin.exists()
    faults = [fault_of_record, fault_of_events, fault_of_summary]
    state = _state(
        record,
        running=is_locked(run.lock_file),
        ended=RunStatus.DONE if finished else RunStatus.UNPACKED if unpacked else None,
        resumable=can_resume(run),
        damaged=any(faults),
    )
    told = str(record.get("reason") or "") if state == RunStatus.FAILED else ""
    page = run.page_file
    return RunState(
        run,
        state,
        fold_dir,
        course=course_of(events, structures_of(run.dataset)),
        mean_dice=_told_dice(origin) if unpacked else _mean_dice(summary),
        reason=" ".join(part for part in (told, *faults) if part),
        job=str(record.get("job") or ""),
        page=page if page.is_file() else None,
    )


def _state(
    record: JsonObject,
    *,
    running: bool,
    ended: RunStatus | None,
    resumable: bool,
    damaged: bool,
) -> RunStatus:
    """Return the word for where a training stands."""
    if running:
        return RunStatus.RUNNING
    if record.get("state") == RunStatus.QUEUED:
        return RunStatus.QUEUED
    if ended:
        return ended
    if record.get("state") == RunStatus.FAILED:
        return RunStatus.FAILED
    if resumable:
        return RunStatus.STOPPED
    return RunStatus.FAILED if damaged else RunStatus.PLANNED


def can_resume(run: Run) -> bool:
    """Whether there is a checkpoint to go on from."""
    fold_dir = run.fold_dir
    return any((fold_dir / name).exists() for name in NEWEST_FIRST)


def planned_runs(
    dataset: Dataset,
    configurations: Iterable[str],
    folds: Iterable[Fold],
    method: Method,
) -> list[Run]:
    """Return one run for every configuration and fold."""
    return [
        method.run(dataset, configuration, fold)
        for configuration in configurations
        for fold in folds
    ]


def known_runs(dataset: Dataset) -> list[RunState]:
    """Return every training of a dataset that has left a folder."""
    states = []
    for prefix in _families(dataset):
        trainer, plans, _ = prefix.split("__")
        for parent in (dataset.results_dir, dataset.record_dir):
            for folder in sorted(parent.glob(f"{prefix}*/fold_*")):
                configuration = folder.parent.name.removeprefix(prefix)
                try:
                    fold = fold_named(folder.name.removeprefix("fold_"))
                except ValueError:  # a copy that somebody put aside
                    continue
                run = Run(dataset, configuration, fold, trainer, plans)
                states.append(run_state(run))
    unique = {
        (s.model, s.budget, s.run.configuration, str(s.run.fold)): s for s in states
    }
    return [unique[key] for key in sorted(unique)]


def _families(dataset: Dataset) -> list[str]:
    """Return the beginnings of the model folders, ours and those from elsewhere."""
    families = [method.family for method in METHODS.values()]
    for origin in sorted(dataset.results_dir.glob(f"*__*__*/fold_*/{ORIGIN_FILE}")):
        family = origin.parts[-3].rpartition("__")[0]
        if f"{family}__" not in families:
            families.append(f"{family}__")
    return families


def _told_dice(origin: Path) -> float | None:
    """Return the Dice that a model from elsewhere came with; None if it told none."""
    dice = readable_object(origin)[0].get("mean_dice")
    return dice if isinstance(dice, float) else None


def _mean_dice(summary: JsonObject) -> float | None:
    """Return the mean over the structures that any case holds."""
    means = summary.get("mean")
    entries = means.values() if isinstance(means, dict) else ()
    dice = [entry.get("Dice") for entry in entries if isinstance(entry, dict)]
    present = [d for d in dice if isinstance(d, int | float) and math.isfinite(d)]
    return sum(present) / len(present) if present else None
