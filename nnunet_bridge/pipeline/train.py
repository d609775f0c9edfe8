"""Plan, preprocess, and train one run for every configuration and fold.

Every step looks at its files first and does only what is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from nnunet_bridge.core.dataset import TrainingRun
from nnunet_bridge.core.errors import (
    InputError,
    Interrupted,
    NnUNetError,
    UsageError,
)
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.files import (
    clear_os_errors,
    only_writer,
    read_json,
    sha256_of,
    write_json,
)
from nnunet_bridge.formats.manifest import read_patient_groups
from nnunet_bridge.nnunet.commands import (
    POLL_S,
    NnUNetProcess,
    Resources,
    nnunet_environment,
    plan_command,
    run_to_end,
    shared_among,
    train_command,
)
from nnunet_bridge.nnunet.dataset import RawDataset, Splits, patient_splits
from nnunet_bridge.nnunet.machine import chosen_device, this_machine
from nnunet_bridge.nnunet.names import Workspace
from nnunet_bridge.nnunet.plans import STOCK_PLANS, Budget, plans_for
from nnunet_bridge.nnunet.runs import (
    RunState,
    can_resume,
    events_file,
    events_of,
    lock_file,
    planned_runs,
    run_state,
    write_record,
)

ALL_FIVE = "all5"
FULL_EPOCHS = 1000
"""Epochs of nnU-Net's own trainer."""


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What was planned."""

    dataset: str
    plans: str
    configurations: dict[str, JsonObject]
    folds: int
    already_done: bool
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return the object that `plan --json` prints."""
        return {
            "dataset": self.dataset,
            "plans": self.plans,
            "configurations": self.configurations,
            "folds": self.folds,
        }

    def as_text(self) -> str:
        """Return one line a configuration."""
        done = " (nothing had changed)" if self.already_done else ""
        lines = [f"{self.dataset}: planned for {self.folds} folds{done}."]
        for name, facts in self.configurations.items():
            patch = " x ".join(str(edge) for edge in facts["patch_size"])
            lines.append(
                f"  {name:12} patch {patch}, batch {facts['batch_size']}, "
                f"{facts['stages']} stages up to {facts['features']} features"
            )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """Where every run asked for stands."""

    dataset: str
    runs: tuple[RunState, ...]
    failures: tuple[str, ...] = ()
    caveat: str = ""

    @property
    def exit_code(self) -> int:
        """7 if nnU-Net failed in any run."""
        return NnUNetError.exit_code if self.failures else 0

    def as_json(self) -> JsonObject:
        """Return the object that `train --json` and `status --json` print."""
        return {
            "dataset": self.dataset,
            "runs": [state.as_json() for state in self.runs],
            "failures": list(self.failures),
        }

    def as_text(self) -> str:
        """Return one line a run."""
        if not self.runs:
            return f"{self.dataset}: no training yet; start one with `train`."
        lines = [
            f"{'configuration':14}{'fold':>5}  {'budget':8}{'state':9}epochs   Dice"
        ]
        for state in self.runs:
            dice = "" if state.mean_dice is None else f"{state.mean_dice:.3f}"
            epochs = f"{state.epochs_done}/{state.epochs or '?'}"
            lines.append(
                f"{state.run.configuration:14}{state.run.fold!s:>5}  {state.budget:8}"
                f"{state.state:9}{epochs:8} {dice}"
            )
        return "\n".join(
            [*lines, *self.failures, *([self.caveat] if self.caveat else [])]
        )


def plan_dataset(
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str],
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> PlanSummary:
    """Verify, plan and preprocess a dataset, and split it by patient.

    Raises
    ------
    InputError
        If our check, or nnU-Net's, finds the dataset wrong.
    NnUNetError
        If nnU-Net fails.
    EnvironmentFault
        If another process works on the dataset, or the disk refuses.
    """
    shown = progress or Silent()
    raw = RawDataset.open(workspace.dataset_dir(dataset))
    state = _dataset_state(raw)
    if not force and _is_planned(workspace, dataset, configurations, state):
        return _plan_summary(workspace, dataset, configurations, already_done=True)
    cases = raw.training_cases()
    shown.stage("plan", 1 + len(cases) * len(configurations))
    raw.check()
    splits = patient_splits(_patients(raw))
    planned_dir = workspace.planned_dir(dataset)
    with only_writer(workspace.record_dir(dataset) / "lock", f"Dataset {dataset}"):
        _forget_plan(workspace, dataset)
        with clear_os_errors(f"write {planned_dir}"):
            planned_dir.mkdir(parents=True, exist_ok=True)
        write_json(workspace.splits_file(dataset), splits)
        shown.advance(1)
        _plan_and_preprocess(workspace, dataset, configurations, shown)
        write_json(
            _marker(workspace, dataset),
            {"dataset_state": state, "configurations": list(configurations)},
        )
    return _plan_summary(workspace, dataset, configurations, already_done=False)


def _plan_and_preprocess(
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str],
    progress: Progress,
) -> None:
    resources = shared_among(1, "cpu", this_machine())
    log_file = workspace.record_dir(dataset) / "plan.log"
    log_file.unlink(missing_ok=True)
    planned_dir = workspace.planned_dir(dataset)
    for _ in run_to_end(
        plan_command(dataset, configurations, resources),
        nnunet_environment(workspace, resources, os.environ),
        log_file,
        f"plan {dataset}",
    ):
        progress.advance(1 + len(list(planned_dir.glob("*/*.pkl"))))
    log = log_file.read_text(encoding="utf-8", errors="replace")
    for warning in ("Origin mismatch", "Direction mismatch"):
        if warning in log:
            raise InputError(
                f"nnU-Net reports '{warning}' for {dataset}: an image and its label "
                f"do not lie in the same place. See {log_file}.",
                code="N01",
            )


def train_dataset(  # noqa: PLR0913 - each is an option of the command
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str],
    folds: Sequence[str],
    *,
    budget: Budget,
    device: str = "auto",
    gpus: int = 1,
    restart: bool = False,
    progress: Progress | None = None,
) -> TrainSummary:
    """Train and validate every configuration and fold that is not done yet.

    Raises
    ------
    InputError
        If the dataset is not planned, or changed after it was.
    EnvironmentFault
        If there is no GPU where one is asked for, or a run is in use.
    Interrupted
        If the user stops it; what is written stays, and the next call resumes.
    """
    machine = this_machine()
    chosen = chosen_device(device, machine)
    _require_plan(workspace, dataset, configurations)
    _write_plans(workspace, dataset, budget)
    splits: Splits = read_json(workspace.splits_file(dataset))
    runs = planned_runs(dataset, configurations, chosen_folds(folds, splits), budget)
    todo = (
        runs
        if restart
        else [r for r in runs if not run_state(workspace, r, budget.name).done]
    )
    failures: list[str] = []
    if todo:
        side_by_side = min(len(todo), machine.cores) if chosen == "cpu" else 1
        resources = shared_among(side_by_side, chosen, machine)
        if gpus > 1:
            resources = Resources(chosen, 0, resources.workers, resources.loaders, gpus)
        batch = _Batch(workspace, budget, resources, restart=restart)
        failures = batch.train(todo, side_by_side, progress or Silent())
    states = tuple(run_state(workspace, run, budget.name) for run in runs)
    return TrainSummary(dataset, states, tuple(failures), budget.caveat)


def chosen_folds(asked: Iterable[str], splits: Splits) -> list[int | str]:
    """Return the folds that the words of `-f` mean.

    Examples
    --------
    >>> chosen_folds(["all5"], [{}, {}, {}])
    [0, 1, 2]
    >>> chosen_folds(["1", "all"], [{}, {}])
    [1, 'all']
    """
    folds: list[int | str] = []
    for word in asked:
        if word == ALL_FIVE:
            folds += list(range(len(splits)))
        elif word == "all":
            folds.append("all")
        elif word.isdigit() and int(word) < len(splits):
            folds.append(int(word))
        else:
            raise UsageError(
                f"There is no fold {word}: the dataset has the folds 0 to "
                f"{len(splits) - 1}, `{ALL_FIVE}` means each of them, and `all` trains "
                "on every case."
            )
    return list(dict.fromkeys(folds))


@dataclass(slots=True)
class _Batch:
    """Trainings that share the machine, some of them side by side."""

    workspace: Workspace
    budget: Budget
    resources: Resources
    restart: bool
    running: dict[TrainingRun, NnUNetProcess] = field(default_factory=dict)

    def train(
        self, todo: Sequence[TrainingRun], side_by_side: int, progress: Progress
    ) -> list[str]:
        """Train all of `todo`; return one sentence for every run that failed."""
        waiting, failures = list(todo), []
        total = sum(self._epochs_planned(run) for run in todo)
        progress.stage("train", total)
        with contextlib.ExitStack() as at_the_end:
            locks = {
                run: at_the_end.enter_context(contextlib.ExitStack()) for run in todo
            }
            try:
                while waiting or self.running:
                    while waiting and len(self.running) < side_by_side:
                        self._start(waiting.pop(0), locks)
                    time.sleep(POLL_S)
                    failures += self._collect(locks)
                    progress.advance(*self._reached(todo))
            except KeyboardInterrupt:
                for run in self.running:
                    write_record(self.workspace, run, state="stopped")
                raise Interrupted(
                    "Interrupted. What was trained is kept: run the same command again "
                    "to go on from there."
                ) from None
        return failures

    def _start(
        self, run: TrainingRun, locks: dict[TrainingRun, contextlib.ExitStack]
    ) -> None:
        name = f"{run.dataset} {run.configuration} fold {run.fold}"
        locks[run].enter_context(only_writer(lock_file(self.workspace, run), name))
        if self.restart:
            shutil.rmtree(self.workspace.fold_dir(run), ignore_errors=True)
        resume = can_resume(self.workspace, run)
        if not resume:
            events_file(self.workspace, run).unlink(missing_ok=True)
        command = train_command(
            run, events_file(self.workspace, run), self.resources, resume=resume
        )
        write_record(
            self.workspace,
            run,
            state="running",
            started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **_facts_of_a_run(self.workspace, run, self.budget, command),
        )
        process = NnUNetProcess(
            command,
            nnunet_environment(self.workspace, self.resources, os.environ),
            self.workspace.run_dir(run) / "train.log",
        )
        self.running[run] = locks[run].enter_context(process)

    def _collect(self, locks: dict[TrainingRun, contextlib.ExitStack]) -> list[str]:
        """Close the runs that have ended; return a sentence for each that failed."""
        failures = []
        for run, process in list(self.running.items()):
            if not process.ended:
                continue
            task = f"train {run.configuration} fold {run.fold}"
            try:
                process.check(task)
                state = "done"
            except NnUNetError as error:
                failures.append(str(error))
                state = "failed"
            ended = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            write_record(self.workspace, run, state=state, ended=ended)
            del self.running[run]
            locks[run].close()
        return failures

    def _epochs_planned(self, run: TrainingRun) -> int:
        steps = read_json(self.workspace.plans_file(run.dataset, run.plans)).get(
            "nnunet_bridge", {}
        )
        return int(steps.get(run.configuration, {}).get("epochs", FULL_EPOCHS)) + 1

    def _reached(self, todo: Sequence[TrainingRun]) -> tuple[float, str]:
        """Return the epochs done (validation counts as one more) and a short note."""
        done, notes = 0.0, []
        for run in todo:
            events = events_of(self.workspace, run)
            epochs = [event for event in events if event["event"] == "epoch"]
            done += len({event["epoch"] for event in epochs})
            done += any(event["event"] == "end" for event in events)
            if run in self.running and epochs:
                dice = [d for d in epochs[-1]["pseudo_dice"] if d is not None]
                mean = sum(dice) / len(dice) if dice else 0.0
                notes.append(
                    f"{run.configuration} fold {run.fold}: epoch "
                    f"{epochs[-1]['epoch'] + 1}, pseudo-Dice {mean:.2f}"
                )
        return done, "; ".join(notes)


def _facts_of_a_run(
    workspace: Workspace, run: TrainingRun, budget: Budget, command: Sequence[str]
) -> JsonObject:
    """Return what a reader needs to repeat the training."""
    return {
        "dataset": run.dataset,
        "configuration": run.configuration,
        "fold": run.fold,
        "trainer": run.trainer,
        "plans": run.plans,
        "budget": budget.name,
        "task": list(command[3:4]),
        "dataset_state": read_json(_marker(workspace, run.dataset))["dataset_state"],
        "plans_sha256": sha256_of(workspace.plans_file(run.dataset, run.plans)),
        "splits_sha256": sha256_of(workspace.splits_file(run.dataset)),
        "versions": {
            name: metadata.version(name)
            for name in ("nnunet-bridge", "nnunetv2", "torch", "numpy")
        },
        "python": platform.python_version(),
        "processor": platform.machine(),
    }


def _require_plan(
    workspace: Workspace, dataset: str, configurations: Sequence[str]
) -> None:
    raw = RawDataset.open(workspace.dataset_dir(dataset))
    marker = _marker(workspace, dataset)
    if not marker.exists():
        raise InputError(
            f"{dataset} is not planned: run `nnunet-bridge plan {dataset}` first."
        )
    if not _is_planned(workspace, dataset, configurations, _dataset_state(raw)):
        raise InputError(
            f"{dataset} has changed since it was planned, or lacks one of "
            f"{', '.join(configurations)}: run `nnunet-bridge plan {dataset}` again.",
            code="N06",
        )


def _write_plans(workspace: Workspace, dataset: str, budget: Budget) -> None:
    """Write the plans of a budget beside nnU-Net's, if they are not there."""
    if budget.plans == STOCK_PLANS:
        return
    stock = read_json(workspace.plans_file(dataset, STOCK_PLANS))
    plans = plans_for(budget, stock)
    file = workspace.plans_file(dataset, budget.plans)
    if not file.exists() or read_json(file) != plans:
        write_json(file, plans)


def _is_planned(
    workspace: Workspace, dataset: str, configurations: Sequence[str], state: str
) -> bool:
    marker = _marker(workspace, dataset)
    plans_file = workspace.plans_file(dataset, STOCK_PLANS)
    if not (marker.exists() and plans_file.exists()):
        return False
    known = read_json(marker)
    return (
        known["dataset_state"] == state
        and set(configurations) <= set(known["configurations"])
        and workspace.splits_file(dataset).exists()
    )


def _forget_plan(workspace: Workspace, dataset: str) -> None:
    """Remove what nnU-Net would take over from an older version of the dataset."""
    _marker(workspace, dataset).unlink(missing_ok=True)
    planned_dir = workspace.planned_dir(dataset)
    for stale in ("dataset_fingerprint.json", f"{STOCK_PLANS}.json", "dataset.json"):
        (planned_dir / stale).unlink(missing_ok=True)
    for folder in (
        "gt_segmentations",
        *(f.name for f in planned_dir.glob("nnUNetPlans_*")),
    ):
        shutil.rmtree(planned_dir / folder, ignore_errors=True)


def _plan_summary(
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str],
    *,
    already_done: bool,
) -> PlanSummary:
    plans = read_json(workspace.plans_file(dataset, STOCK_PLANS))
    facts: dict[str, JsonObject] = {}
    for name in configurations:
        if name not in plans["configurations"]:
            raise UsageError(
                f"nnU-Net plans no {name} for {dataset}; it plans "
                f"{', '.join(plans['configurations'])}."
            )
        planned = plans["configurations"][name]
        architecture = planned["architecture"]["arch_kwargs"]
        facts[name] = {
            "patch_size": planned["patch_size"],
            "batch_size": planned["batch_size"],
            "spacing_mm": planned["spacing"],
            "stages": architecture["n_stages"],
            "features": architecture["features_per_stage"][-1],
        }
    splits: Splits = read_json(workspace.splits_file(dataset))
    return PlanSummary(dataset, STOCK_PLANS, facts, len(splits), already_done)


def _patients(raw: RawDataset) -> dict[str, str]:
    """Return the patient of every training case; by default a case is its own."""
    known = read_patient_groups(raw.folder)
    return {case: known.get(case, case) for case in raw.training_cases()}


def _dataset_state(raw: RawDataset) -> str:
    """Return a hash that changes when the dataset does (FAULTS F09, N06).

    The manifest holds the hash of every file that `convert` wrote; for a dataset made
    by hand, names, sizes and times must do.
    """
    digest = hashlib.sha256()
    for folder in ("imagesTr", "labelsTr"):
        for file in sorted((raw.folder / folder).glob("*")):
            facts = file.stat()
            digest.update(f"{folder}/{file.name} {facts.st_size}".encode())
            digest.update(f" {facts.st_mtime_ns}\n".encode())
    content = read_json(raw.folder / "dataset.json")
    digest.update(json.dumps(content, sort_keys=True).encode())
    return digest.hexdigest()


def _marker(workspace: Workspace, dataset: str) -> Path:
    return workspace.record_dir(dataset) / "planned.json"
