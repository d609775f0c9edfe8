"""The state of trainings, read from their files and from nothing else.

A run is ``running`` while a living process holds its lock, ``queued`` when its record
says that it was handed to a cluster and has not begun, ``done`` when its last
checkpoint and its validation are on the disk, ``failed`` when its record says so,
``stopped`` when there is something to resume, and ``planned`` before all that. A fold
that `unpack` brought from elsewhere is ``unpacked``: it predicts, but its validation
stayed where it was trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_bridge.core.dataset import TrainingRun
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.events import read_events
from nnunet_bridge.formats.files import is_locked, read_json, write_json
from nnunet_bridge.nnunet.methods import (
    DEFAULT_MODEL,
    METHODS,
    Method,
    method_of_run,
)
from nnunet_bridge.nnunet.names import CHECKPOINT_FINAL, Workspace
from nnunet_bridge.nnunet.resumption import NEWEST_FIRST

UNPACKED = "unpacked"
FOREIGN = "foreign"
"""What `--model` calls one from elsewhere that no trainer and plans of ours made."""

ORIGIN_FILE = "unpacked.json"
"""In the folder of a fold: it came from elsewhere, and with which Dice."""


@dataclass(frozen=True, slots=True)
class RunState:
    """Where one training stands."""

    run: TrainingRun
    state: str
    epochs_done: int
    epochs: int | None
    mean_dice: float | None
    """Mean over the structures of nnU-Net's own validation; None before it."""

    seconds: float | None
    folder: Path
    reason: str = ""
    """Why it failed; empty if it did not."""

    job: str = ""
    """Id of the cluster's job that trains it, if one was asked to."""

    page: Path | None = None
    """The record of the training as a page; None where there is none."""

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
        name = f"{self.run.configuration} fold {self.run.fold}"
        return name if self.model == DEFAULT_MODEL else f"{self.model} {name}"

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state == "done"

    @property
    def can_predict(self) -> bool:
        """Whether there is a finished model, trained here or elsewhere."""
        return self.state in ("done", UNPACKED)

    def as_json(self) -> JsonObject:
        """Return the entry of `runs` that `status` and `train` print."""
        return {
            "configuration": self.run.configuration,
            "fold": self.run.fold,
            "model": self.model,
            "budget": self.budget,
            "state": self.state,
            "epochs": self.epochs_done,
            "epochs_planned": self.epochs,
            "mean_dice": self.mean_dice,
            "seconds": self.seconds,
            "folder": str(self.folder),
            "reason": self.reason,
            "job": self.job,
            "page": None if self.page is None else str(self.page),
        }


def events_file(workspace: Workspace, run: TrainingRun) -> Path:
    """Return the file to which the training writes one line an epoch."""
    return workspace.run_dir(run) / "events.jsonl"


def events_of(workspace: Workspace, run: TrainingRun) -> tuple[JsonObject, ...]:
    """Return what the training has written so far; nothing before it began."""
    file = events_file(workspace, run)
    return read_events(file) if file.exists() else ()


def record_file(workspace: Workspace, run: TrainingRun) -> Path:
    """Return the file that says how the training was started and how it ended."""
    return workspace.run_dir(run) / "run.json"


def record_page(workspace: Workspace, run: TrainingRun) -> Path:
    """Return the page that shows a finished training: its curves, scores, slices."""
    return workspace.run_dir(run) / "index.html"


def lock_file(workspace: Workspace, run: TrainingRun) -> Path:
    """Return the file whose lock the training process's parent holds."""
    return workspace.run_dir(run) / "lock"


def write_record(workspace: Workspace, run: TrainingRun, **content: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Update the record of a training."""
    file = record_file(workspace, run)
    known = read_json(file) if file.exists() else {}
    write_json(file, {**known, **content})


def run_state(workspace: Workspace, run: TrainingRun) -> RunState:
    """Return where a training stands, from its files."""
    fold_dir = workspace.fold_dir(run)
    events = events_of(workspace, run)
    epochs = [event for event in events if event.get("event") == "epoch"]
    starts = [event for event in events if event.get("event") == "start"]
    summary = fold_dir / "validation" / "summary.json"
    trained = (fold_dir / CHECKPOINT_FINAL).exists()
    finished = trained and summary.exists()
    origin = fold_dir / ORIGIN_FILE
    unpacked = trained and not finished and origin.exists()
    file, page = record_file(workspace, run), record_page(workspace, run)
    record = read_json(file) if file.exists() else {}
    dice = _mean_dice(summary) if finished else None
    if unpacked:
        dice = _told_dice(origin)
    if is_locked(lock_file(workspace, run)):
        state = "running"
    elif record.get("state") == "queued":
        state = "queued"
    elif finished:
        state = "done"
    elif unpacked:
        state = UNPACKED
    elif record.get("state") == "failed":
        state = "failed"
    elif can_resume(workspace, run):
        state = "stopped"
    else:
        state = "planned"
    return RunState(
        run,
        state,
        epochs_done=1 + max((int(e["epoch"]) for e in epochs), default=-1),
        epochs=starts[-1]["epochs"] if starts else None,
        mean_dice=dice,
        seconds=sum(float(e.get("seconds") or 0) for e in epochs) if epochs else None,
        folder=fold_dir,
        reason=record.get("reason", "") if state == "failed" else "",
        job=record.get("job", ""),
        page=page if page.is_file() else None,
    )


def can_resume(workspace: Workspace, run: TrainingRun) -> bool:
    """Whether there is a checkpoint to go on from."""
    fold_dir = workspace.fold_dir(run)
    return any((fold_dir / name).exists() for name in NEWEST_FIRST)


def planned_runs(
    dataset: str,
    configurations: Iterable[str],
    folds: Iterable[int | str],
    method: Method,
) -> list[TrainingRun]:
    """Return one run for every configuration and fold."""
    return [
        method.run(dataset, configuration, fold)
        for configuration in configurations
        for fold in folds
    ]


def known_runs(workspace: Workspace, dataset: str) -> list[RunState]:
    """Return every training of a dataset that has left a folder."""
    states = []
    for prefix in _families(workspace, dataset):
        trainer, plans, _ = prefix.split("__")
        for parent in (workspace.results_dir / dataset, workspace.record_dir(dataset)):
            for folder in sorted(parent.glob(f"{prefix}*/fold_*")):
                configuration = folder.parent.name.removeprefix(prefix)
                fold = folder.name.removeprefix("fold_")
                run = TrainingRun(
                    dataset,
                    configuration,
                    int(fold) if fold.isdigit() else fold,
                    trainer,
                    plans,
                )
                states.append(run_state(workspace, run))
    unique = {
        (s.model, s.budget, s.run.configuration, str(s.run.fold)): s for s in states
    }
    return [unique[key] for key in sorted(unique)]


def _families(workspace: Workspace, dataset: str) -> list[str]:
    """Return the beginnings of the model folders, ours and those from elsewhere."""
    families = [method.family for method in METHODS.values()]
    for origin in sorted(
        (workspace.results_dir / dataset).glob(f"*__*__*/fold_*/{ORIGIN_FILE}")
    ):
        family = origin.parts[-3].rpartition("__")[0]
        if f"{family}__" not in families:
            families.append(f"{family}__")
    return families


def _told_dice(origin: Path) -> float | None:
    """Return the Dice that a model from elsewhere came with; None if it told none."""
    try:
        dice = read_json(origin)["mean_dice"]
    except (ValueError, KeyError, TypeError):
        return None
    return dice if isinstance(dice, float) else None


def _mean_dice(summary: Path) -> float | None:
    """Return the mean over the structures that any case holds."""
    means = read_json(summary).get("mean", {})
    dice = [entry["Dice"] for entry in means.values()]
    present = [value for value in dice if value is not None and value == value]  # noqa: PLR0124 - NaN differs from itself
    return sum(present) / len(present) if present else None
