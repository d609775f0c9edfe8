"""The state of runs, read from their files and from nothing else.

A run is ``running`` while a living process holds its lock, ``queued`` when its record
says that a cluster has its job and it has not started, ``done`` when its last
checkpoint and its validation are on the disk, ``failed`` when its record says so,
``stopped`` when there is something to resume, and ``planned`` before all that. A fold
that `unpack` brought from elsewhere is ``unpacked``: it predicts, but its validation
stayed where it was trained.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.records import from_record
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import BudgetName, RunStatus, fold_named
from nnunet_bridge.formats.events import Course, course_of
from nnunet_bridge.formats.files import is_locked, readable_object, write_json
from nnunet_bridge.nnunet.methods import DEFAULT_MODEL, method_of_run
from nnunet_bridge.nnunet.names import BETWEEN, SEED_PART, Dataset, Run
from nnunet_bridge.nnunet.plans import budget_of
from nnunet_bridge.nnunet.resumption import NEWEST_FIRST
from nnunet_bridge.nnunet.training_logs import (
    epochs_in_checkpoint,
    events_of,
    steps_per_epoch,
)

_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]*")

ORIGIN_FILE = "unpacked.json"
"""In the folder of a fold: it was unpacked, and with which Dice."""


@dataclass(frozen=True, slots=True)
class RunState:
    """The state of one run."""

    run: Run
    state: RunStatus
    folder: Path
    course: Course = field(default_factory=Course)  # its progress
    mean_dice: float | None = None
    """Mean over the structures of nnU-Net's own validation; None before it."""

    reason: str = ""  # why it failed, or which of its files is damaged; else empty
    job: str = ""  # id of its job on a cluster, if there is one
    page: Path | None = None  # the page of the run; None before there is one
    steps: int | None = None
    """Steps that it took, or that it is planned to take; None if no file tells."""

    @property
    def seconds_left(self) -> float | None:
        """Time of the remaining epochs while it runs, else None."""
        return self.course.seconds_left if self.state == RunStatus.RUNNING else None

    @property
    def model(self) -> str:
        """The word of `--model`; ``TRAINER__PLANS`` for one that is not ours.

        Neither is one with our trainer and plans that took too few steps for its
        budget.
        """
        method = method_of_run(self.run)
        ours = method is not None and method.budget.name == self.budget
        return method.model if method and ours else self.run.trainer_and_plans

    @property
    def budget(self) -> str:
        """The word of `--budget`, by the steps; see `plans.budget_of`.

        One of ours never counts as longer than its trainer and plans intend.
        """
        method = method_of_run(self.run)
        intended = method.budget.name if method else BudgetName.SMOKE
        if self.steps is None:
            return intended
        taken = budget_of(self.steps)
        longest_first = list(BudgetName)
        return max(taken, intended, key=longest_first.index) if method else taken

    def is_called(self, word: str) -> bool:
        """Whether a word of `--model` means it."""
        return word in (self.model, self.run.trainer_and_plans)

    @property
    def name(self) -> str:
        """Such as ``2d fold 0``; with the model where it is not nnU-Net's own."""
        name = self.run.title
        return name if self.model == DEFAULT_MODEL else f"{self.model} {name}"

    @property
    def done(self) -> bool:
        """Whether it is trained and validated."""
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
            "repeat": self.run.repeat,
            **{name: getattr(self, name) for name in ("model", "budget", "state")},
            **self.course.as_json(),
            "seconds_left": self.seconds_left,
            "mean_dice": self.mean_dice,
            "folder": str(self.folder),
            "reason": self.reason,
            "job": self.job,
            "page": self.page and str(self.page),
        }


def structures_of(dataset: Dataset) -> tuple[str, ...]:
    """Return the structures in the order of nnU-Net's Dice; empty if unknown."""
    for folder in (dataset.raw_dir, dataset.planned_dir):
        labels = readable_object(folder / "dataset.json")[0].get("labels")
        if isinstance(labels, dict):
            names = [name for name in labels if name not in ("background", "ignore")]
            if all(isinstance(value, int) for value in labels.values()):
                names.sort(key=labels.__getitem__)
            return tuple(names)
    return ()


class RunRecord(BaseModel):
    """``run.json``; facts that only a reader of the file needs are kept as they are."""

    model_config = ConfigDict(extra="allow")

    schema_version: Literal[1] = Field(default=1, alias="schema")
    state: str = ""
    reason: str = ""
    job: str = ""
    own_arguments: tuple[str, ...] = ()
    attempts: tuple[dict[str, Any], ...] = ()

    @property
    def content(self) -> JsonObject:
        """All facts on record, without the version of the file."""
        version = {"schema_version"}
        return self.model_dump(mode="json", exclude_unset=True, exclude=version)


def readable_record(run: Run) -> tuple[RunRecord, str]:
    """Return the record of a run, and a message if its file is damaged."""
    content, damage = readable_object(run.record_file)
    way_out = "train again with --restart"
    try:
        return from_record(RunRecord, content, run.record_file.name, way_out), damage
    except InputError as error:
        return RunRecord(), str(error)


def read_record(run: Run) -> RunRecord:
    """Return the record of a run; an empty one if it is missing or damaged."""
    return readable_record(run)[0]


def write_record(run: Run, **content: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Update the record of a run; a damaged one is replaced."""
    write_json(run.record_file, {"schema": 1, **read_record(run).content, **content})


def run_state(run: Run) -> RunState:
    """Return the state of a run, from its files.

    `reason` names a file that a crash left half-written. It counts as missing, so that
    `train` writes it again.
    """
    origin = run.fold_dir / ORIGIN_FILE
    record, fault_of_record = readable_record(run)
    events, fault_of_events = events_of(run)
    summary, fault_of_summary = readable_object(run.validation_dir / "summary.json")
    faults = [fault_of_record, fault_of_events, fault_of_summary]
    trained = run.checkpoint_file.exists()
    unpacked = trained and not summary and origin.exists()
    first_that_holds = {
        RunStatus.RUNNING: is_locked(run.lock_file),
        RunStatus.QUEUED: record.state == RunStatus.QUEUED,
        RunStatus.DONE: trained and bool(summary),
        RunStatus.UNPACKED: unpacked,
        RunStatus.FAILED: record.state == RunStatus.FAILED,
        RunStatus.STOPPED: can_resume(run),
    }
    otherwise = RunStatus.FAILED if any(faults) else RunStatus.PLANNED
    state = next((word for word, holds in first_that_holds.items() if holds), otherwise)
    reason = record.reason if state == RunStatus.FAILED else ""
    return RunState(
        run,
        state,
        run.fold_dir,
        course=course_of(events, structures_of(run.dataset)),
        mean_dice=_dice_on_record(origin) if unpacked else _mean_dice(summary),
        reason=" ".join(part for part in (reason, *faults) if part),
        job=record.job,
        page=run.page_file if run.page_file.is_file() else None,
        steps=None if unpacked and _is_packed_as_named(run) else _steps(run, events),
    )


def _is_packed_as_named(run: Run) -> bool:
    """Whether the description of a packed model names the budget of its trainer."""
    card, method = readable_object(run.fold_dir / ORIGIN_FILE)[0], method_of_run(run)
    return method is not None and card.get("budget") == method.budget.name


def _steps(run: Run, events: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the steps of a training; those that it planned until it has ended.

    One that ended early because it learnt no more counts as whole.
    """
    course = course_of(events)
    epochs, early = course.epochs, {event.get("event") for event in events}
    if run.checkpoint_file.exists() and "stopped_early" not in early:
        taken = epochs_in_checkpoint(run)
        epochs = course.epochs_done or taken if taken is None else taken
    return epochs and epochs * steps_per_epoch(run, events)


def can_resume(run: Run) -> bool:
    """Whether there is a checkpoint to resume from."""
    return any((run.fold_dir / name).exists() for name in NEWEST_FIRST)


@dataclass(frozen=True, slots=True)
class RunReader:
    """`run_state` that reads the files of a run again only if one has changed."""

    read: Callable[[Run], RunState] = run_state
    _known: dict[Run, tuple[object, RunState]] = field(default_factory=dict)

    def __call__(self, run: Run) -> RunState:
        """Return the state of a run."""
        now = _files_as_they_are(run)
        if run not in self._known or self._known[run][0] != now:
            self._known[run] = (now, self.read(run))
        return self._known[run][1]


def _files_as_they_are(run: Run) -> tuple[object, ...]:
    """Return size and time of every file that tells of a run, and if it is at work."""
    files: list[Path] = []
    for folder in (run.run_dir, run.fold_dir):
        with suppress(FileNotFoundError):
            files += sorted(folder.iterdir())
    described = (run.dataset.raw_dir, run.dataset.planned_dir)
    files += [folder / "dataset.json" for folder in described]
    files += [run.validation_dir / "summary.json", run.model_dir / "plans.json"]
    return (is_locked(run.lock_file), *((str(file), _facts(file)) for file in files))


def _facts(file: Path) -> tuple[int, ...]:
    with suppress(OSError):
        facts = file.stat()
        return facts.st_size, facts.st_mtime_ns, facts.st_ino
    return ()


def known_runs(
    dataset: Dataset, state_of: Callable[[Run], RunState] = run_state
) -> list[RunState]:
    """Return every run of a dataset that has a folder."""
    states = {}
    for parent in (dataset.results_dir, dataset.record_dir):
        for folder in sorted(parent.glob(f"[!.]*{BETWEEN}*{BETWEEN}*/fold_*")):
            names = folder.parent.name.split(BETWEEN)
            if not all(map(_NAME.fullmatch, names)):  # a name could hold anything
                continue
            word, _, seed = folder.name.removeprefix("fold_").partition(SEED_PART)
            try:
                trainer, plans, configuration = names
                fold, repeat = fold_named(word), int(seed or 0)
                run = Run(dataset, configuration, fold, trainer, plans, repeat)
            except (ValueError, InputError):  # no fold of a model, such as a copy
                continue
            state = state_of(run)
            key = (state.model, state.budget, configuration, str(fold), repeat)
            states[key] = state
    return [states[key] for key in sorted(states)]


def _dice_on_record(origin: Path) -> float | None:
    """Return the Dice that an unpacked model came with, if any."""
    dice = readable_object(origin)[0].get("mean_dice")
    return dice if isinstance(dice, float) else None


def _mean_dice(summary: JsonObject) -> float | None:
    """Return the mean over the structures that occur."""
    means = summary.get("mean")
    entries = means.values() if isinstance(means, dict) else ()
    dice = [entry.get("Dice") for entry in entries if isinstance(entry, dict)]
    present = [d for d in dice if isinstance(d, int | float) and math.isfinite(d)]
    return sum(present) / len(present) if present else None
