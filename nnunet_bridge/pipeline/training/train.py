"""Train one run for every configuration and fold; only what is missing."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from nnunet_bridge.core.errors import (
    BridgeError,
    EnvironmentFault,
    InputError,
    Interrupted,
    NnUNetError,
    UsageError,
    WorkerKilled,
)
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import ALL_CASES, Fold, RunStatus
from nnunet_bridge.formats.events import readable_events
from nnunet_bridge.formats.files import (
    only_writer,
    read_json,
    readable_object,
    write_json,
)
from nnunet_bridge.nnunet.checkpoints import check_checkpoint
from nnunet_bridge.nnunet.commands import (
    POLL_S,
    NnUNetProcess,
    Resources,
    nnunet_environment,
    shared_among,
    train_command,
)
from nnunet_bridge.nnunet.machine import Machine, chosen_device, this_machine
from nnunet_bridge.nnunet.methods import Method
from nnunet_bridge.nnunet.names import (
    ALL_NUMBERED,
    ON_ALL_CASES,
    Dataset,
    Run,
    Workspace,
    number_of,
)
from nnunet_bridge.nnunet.own_arguments import TRAINING
from nnunet_bridge.nnunet.plans import CASCADE, LOWRES
from nnunet_bridge.nnunet.resumption import prepare_resumption
from nnunet_bridge.nnunet.runs import (
    ORIGIN_FILE,
    RunState,
    can_resume,
    known_runs,
    planned_runs,
    run_state,
    write_record,
)
from nnunet_bridge.nnunet.splits import Splits
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.comparison.run_page import write_run_records
from nnunet_bridge.pipeline.training.memory import require_memory_for_training
from nnunet_bridge.pipeline.training.plan import require_plan
from nnunet_bridge.pipeline.training.record import note_end, note_start, origin_of
from nnunet_bridge.pipeline.training.run_table import run_table
from nnunet_bridge.pipeline.training.weights import Begun, begun_with, check_options

FULL_EPOCHS = 1000
"""Epochs of nnU-Net's own trainer."""


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """Where every run asked for stands."""

    dataset: str
    runs: tuple[RunState, ...]
    failures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    caveat: str = ""
    notes: tuple[str, ...] = ()
    """What was done beside training, such as handing jobs to a cluster."""

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
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }

    def as_text(self) -> str:
        """Return one line a run."""
        if not self.runs:
            return f"{self.dataset}: no training yet; start one with `train`."
        columns = shutil.get_terminal_size((0, 0)).columns
        lines = [run_table(self.runs, columns or None)]
        reasons = [
            f"{state.name}: {state.reason}"
            for state in self.runs
            if state.reason and state.reason not in self.failures
        ]
        caveats = [self.caveat] if self.caveat else []
        return "\n".join(
            [*lines, *self.warnings, *reasons, *self.failures, *caveats, *self.notes]
        )


def train_dataset(  # noqa: PLR0913 - what is trained, and how
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str],
    folds: Sequence[str],
    *,
    method: Method,
    options: TrainingOptions | None = None,
    progress: Progress | None = None,
) -> TrainSummary:
    """Train and validate every configuration and fold that is not done yet.

    Every finished run gets its record, a page; a record that cannot be written is a
    note of the summary, not a failure.

    Raises
    ------
    InputError
        If the dataset is not planned, or changed after it was; if a run that is to be
        kept was trained on another state of it; or if folds from elsewhere lie where
        this training would write.
    EnvironmentFault
        If there is no GPU where one is asked for, or a run is in use.
    Interrupted
        If the user stops it; what is written stays, and the next call resumes.
    """
    wishes = options or TrainingOptions()
    check_options(method, wishes)
    machine = this_machine()
    chosen = chosen_device(wishes.device, machine)
    _require_gpus(wishes.gpus, chosen, machine)
    try:
        runs, todo, state = selected_runs(
            workspace,
            dataset,
            configurations,
            folds,
            method=method,
            options=wishes,
        )
        require_previous_stages(todo)
    except BridgeError as error:
        _note_in_queued(workspace, dataset, configurations, folds, str(error))
        raise
    begun = begun_with(workspace, method, wishes, todo)
    if not wishes.restart:
        _require_same_origin(dict.fromkeys(runs, begun.origin))
    failures: list[str] = []
    warnings: list[str] = []
    if todo:
        side_by_side, resources = _shares(workspace, todo, method, machine, chosen)
        if wishes.gpus > 1:
            resources = replace(resources, threads=0, gpus=wishes.gpus)
        batch = _Batch(workspace, method, resources, state, wishes, begun, runs)
        failures = batch.train_in_order(todo, side_by_side, progress or Silent())
        warnings = batch.warnings
    states = [run_state(run) for run in runs]
    warnings += write_run_records(workspace, dataset, states, progress or Silent())
    states = [run_state(run) for run in runs]
    return TrainSummary(
        dataset, tuple(states), tuple(failures), tuple(warnings), method.budget.caveat
    )


def _shares(
    workspace: Workspace,
    todo: Sequence[Run],
    method: Method,
    machine: Machine,
    device: str,
) -> tuple[int, Resources]:
    """Return how many trainings run side by side, and what each may use.

    Raises
    ------
    EnvironmentFault
        If one alone cannot fit into memory (F10).
    """
    loaders = shared_among(1, device, machine).loaders
    needed = max(
        require_memory_for_training(
            workspace, run, method, machine, device, loaders=loaders
        )
        for run in {run.configuration: run for run in todo}.values()
    )
    side_by_side = min(len(todo), machine.cores) if device == "cpu" else 1
    if needed:
        side_by_side = max(1, min(side_by_side, machine.free_memory_bytes // needed))
    return side_by_side, shared_among(side_by_side, device, machine)


def _note_in_queued(
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str],
    folds: Sequence[str],
    reason: str,
) -> None:
    """Let those who wait for a job of the cluster know why it could not begin."""
    for state in known_runs(Dataset(workspace, dataset)):
        asked = state.run.configuration in configurations
        if asked and str(state.run.fold) in folds and state.state == "queued":
            write_record(state.run, state="failed", reason=reason)


def selected_runs(
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str],
    folds: Sequence[str],
    *,
    method: Method,
    options: TrainingOptions,
) -> tuple[list[Run], list[Run], str]:
    """Return the runs asked for, those that are to be trained, and the data's state.

    The plans of the method are written, if they are not there. Runs that others build
    upon come first.

    Raises
    ------
    InputError
        As `train_dataset`.
    """
    state = require_plan(
        workspace, dataset, configurations, stock_plans=method.stock_plans
    )
    _write_plans(workspace, dataset, method)
    splits: Splits = read_json(workspace.splits_file(dataset))
    runs = planned_runs(
        Dataset(workspace, dataset), configurations, chosen_folds(folds, splits), method
    )
    runs.sort(key=lambda run: run.configuration == CASCADE)
    todo = runs
    if options.own_arguments is not None:
        _require_harmless(options.own_arguments)
    if not options.restart:
        _require_same_origin(_origins(runs, state, options))
        states = {run: run_state(run) for run in runs}
        todo = [run for run, known in states.items() if not known.can_predict]
    _require_own_folders(todo)
    return runs, todo, state


def _origins(
    runs: Iterable[Run],
    dataset_state: str,
    options: TrainingOptions,
) -> dict[Run, dict[str, object]]:
    """Return what every run would be made from now."""
    said: dict[str, object] = {}
    if options.own_arguments is not None:
        said["own_arguments"] = list(options.own_arguments)
    return {run: {**origin_of(run, dataset_state), **said} for run in runs}


def _require_harmless(own_arguments: Sequence[str]) -> None:
    """Refuse weights to begin with that would run code of their own (FAULTS S01)."""
    pretrained = TRAINING.value_of(own_arguments, "-pretrained_weights")
    if pretrained:
        check_checkpoint(Path(*pretrained))


def _require_same_origin(origins: Mapping[Run, Mapping[str, object]]) -> None:
    """Refuse to keep, or go on with, what was trained on something else (FAULTS N06).

    Raises
    ------
    InputError
        With every such run, and what has changed since.
    """
    faults = []
    for run, now in origins.items():
        record = run.record_file
        if not record.exists() or not can_resume(run):
            continue
        then, damage = readable_object(record)
        if damage:
            faults.append(
                f"{run.configuration} fold {run.fold}: {record} is damaged, so nobody "
                "knows what it was trained on."
            )
        if "own_arguments" in now:
            then.setdefault("own_arguments", [])
        changed = [_ORIGINS[key] for key in now if then.get(key, now[key]) != now[key]]
        if changed:
            faults.append(
                f"{run.configuration} fold {run.fold}: changed since it began: "
                f"{', '.join(changed)}."
            )
    if faults:
        raise InputError(
            "\n".join(faults) + "\nTrain anew with --restart, or put back what it was "
            "trained on.",
            code="N06",
        )


_ORIGINS = {
    "dataset_state": "the dataset",
    "plans_sha256": "the plans",
    "splits_sha256": "the splits",
    "own_arguments": "nnU-Net's own arguments",
    "encoder_weights": "the weights that its encoder began with",
    "pretrained": "the model that it began with",
}


def chosen_folds(asked: Iterable[str], splits: Splits) -> list[Fold]:
    """Return the folds that the words of `-f` mean.

    Examples
    --------
    >>> chosen_folds(["all5"], [{}, {}, {}])
    [0, 1, 2]
    >>> chosen_folds(["1", "all"], [{}, {}])
    [1, 'all']
    """
    folds: list[Fold] = []
    for word in asked:
        if word == ALL_NUMBERED:
            folds += list(range(len(splits)))
        elif word == ALL_CASES:
            folds.append(ALL_CASES)
        elif word.isdigit() and int(word) < len(splits):
            folds.append(int(word))
        else:
            raise UsageError(
                f"There is no fold {word}: the dataset has the folds 0 to "
                f"{len(splits) - 1}, `{ALL_NUMBERED}` means each of them, and "
                f"`{ON_ALL_CASES}` trains on every case."
            )
    return list(dict.fromkeys(folds))


def require_previous_stages(
    todo: Sequence[Run],
    *,
    now: bool = False,
) -> None:
    """Refuse runs of the cascade whose first stage is neither done nor about to be.

    The cascade learns from what ``3d_lowres`` predicted for every case: each fold
    predicts the cases that it did not learn from, so all folds are needed.

    Parameters
    ----------
    todo : sequence of Run
        What is about to be trained.
    now : bool
        Whether the first stage must be done already.

    Raises
    ------
    InputError
        Naming the folds that are missing, and what to do.
    """
    about_to_be = set() if now else set(todo)
    faults = []
    for run in todo:
        missing = [
            str(first.fold)
            for first in _first_stages(run)
            if first not in about_to_be and not run_state(first).done
        ]
        if missing:
            faults.append(
                f"{CASCADE} fold {run.fold} needs {LOWRES} of every fold; not trained: "
                f"fold {', '.join(missing)}. Train `-c {LOWRES} -f "
                f"{ON_ALL_CASES if run.fold == ON_ALL_CASES else ALL_NUMBERED}` first"
                + ("." if now else ", or both at once.")
            )
    if faults:
        raise InputError("\n".join(faults))


def _first_stages(run: Run) -> list[Run]:
    """Return the runs whose predictions a run of the cascade learns from."""
    if run.configuration != CASCADE:
        return []
    splits: Splits = read_json(run.dataset.splits_file)
    folds: Sequence[Fold] = range(len(splits))
    if run.fold == ON_ALL_CASES:
        folds = [ON_ALL_CASES]
    return [replace(run, configuration=LOWRES, fold=fold) for fold in folds]


@dataclass(slots=True)
class _Batch:
    """Trainings that share the machine, some of them side by side."""

    workspace: Workspace
    method: Method
    resources: Resources
    dataset_state: str
    options: TrainingOptions
    begun: Begun
    shown: Sequence[Run]
    """In the table: those that are trained, and those that are done already."""

    running: dict[Run, NnUNetProcess] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    halved: set[Run] = field(default_factory=set)
    """Runs that are tried once more, with half the workers (FAULTS F11)."""
    looked: dict[Run, tuple[object, RunState]] = field(default_factory=dict)
    """When a run was looked at last, and where it stood then."""

    def train_in_order(
        self, todo: Sequence[Run], side_by_side: int, progress: Progress
    ) -> list[str]:
        """Train `todo`, the cascade when its first stage is done; return failures."""
        first = [run for run in todo if run.configuration != CASCADE]
        failures = self.train(first, side_by_side, progress) if first else []
        second = []
        for run in todo:
            if run in first:
                continue
            try:
                require_previous_stages([run], now=True)
            except InputError as error:
                failures.append(str(error))
                write_record(run, state="failed", reason=str(error))
            else:
                second.append(run)
        if second:
            failures += self.train(second, side_by_side, progress)
        return failures

    def train(
        self, todo: Sequence[Run], side_by_side: int, progress: Progress
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
                said = len(self.warnings)
                while waiting or self.running:
                    while waiting and len(self.running) < side_by_side:
                        self._start(waiting.pop(0), locks)
                    for warning in self.warnings[said:]:
                        progress.say(warning)
                    said = len(self.warnings)
                    time.sleep(POLL_S)
                    failures += self._collect(locks, waiting)
                    self._tell(todo, progress)
            except KeyboardInterrupt:
                for run in self.running:
                    note_end(run, "stopped", "")
                raise Interrupted(
                    "Interrupted. What was trained is kept: run the same command again "
                    "to go on from there."
                ) from None
        return failures

    def _start(self, run: Run, locks: dict[Run, contextlib.ExitStack]) -> None:
        name = f"{run.dataset} {run.configuration} fold {run.fold}"
        locks[run].enter_context(only_writer(run.lock_file, name))
        restart = self.options.restart and run not in self.halved
        if restart:
            shutil.rmtree(run.fold_dir, ignore_errors=True)
        own_arguments = self._own_arguments(run, restart=restart)
        resources = self.resources.halved() if run in self.halved else self.resources
        resumption = prepare_resumption(run.fold_dir)
        self.warnings += [f"{name}: {one.message}" for one in resumption.findings]
        resume = resumption.checkpoint is not None
        if not resume:
            run.events_file.unlink(missing_ok=True)
        patience = self._patience(run)
        command = train_command(
            run,
            resources,
            resume=resume,
            beginning=replace(self.begun.beginning, patience=patience),
            own_arguments=(*own_arguments, *self.options.for_nnunet()),
        )
        note_start(
            run,
            self.method,
            self.options,
            damaged_checkpoints=list(resumption.damaged),
            own_arguments=list(own_arguments),
            workers=resources.workers,
            loaders=resources.loaders,
            patience=patience,
            **self.begun.origin,
            **origin_of(run, self.dataset_state),
        )
        process = NnUNetProcess(
            command,
            nnunet_environment(self.workspace, resources, os.environ),
            run.run_dir / "train.log",
        )
        self.running[run] = locks[run].enter_context(process)

    def _own_arguments(self, run: Run, *, restart: bool) -> tuple[str, ...]:
        """Return nnU-Net's own arguments: those asked for, or those it began with."""
        asked, record = self.options.own_arguments, run.record_file
        if asked is not None or restart or not record.exists():
            return asked or ()
        return tuple(read_json(record).get("own_arguments", ()))

    def _collect(
        self,
        locks: dict[Run, contextlib.ExitStack],
        waiting: list[Run],
    ) -> list[str]:
        """Close the runs that have ended; return a sentence for each that failed.

        A run of which a process was killed goes back to those that wait, once.
        """
        failures = []
        for run, process in list(self.running.items()):
            if not process.ended:
                continue
            task = f"train {run.configuration} fold {run.fold}"
            state, reason = "done", ""
            try:
                process.check(task)
            except WorkerKilled as error:
                state, reason = "failed", f"{error} {_last_words(process)}".strip()
                if run in self.halved or not self.resources.can_halve:
                    failures.append(reason)
                else:
                    self.halved.add(run)
                    waiting.append(run)
                    self.warnings.append(
                        f"[F11] {reason} Tried again with half the workers."
                    )
            except NnUNetError as error:
                state, reason = "failed", str(error)
                failures.append(reason)
            note_end(run, state, reason)
            early = [
                event["epoch"]
                for event in self._events(run)
                if event["event"] == "stopped_early"
            ]
            write_record(
                run,
                stopped_early_after_epoch=early[-1] if early else None,
            )
            del self.running[run]
            locks[run].close()
        return failures

    def _events(self, run: Run) -> tuple[JsonObject, ...]:
        """Return what a training has told; nothing if it never began."""
        file = run.events_file
        return readable_events(file)[0] if file.exists() else ()

    def _steps(self, run: Run) -> JsonObject:
        """Return what the plans say to our own trainers."""
        plans = read_json(run.plans_file)
        steps: JsonObject = plans.get("nnunet_bridge", {}).get(run.configuration, {})
        return steps

    def _patience(self, run: Run) -> int | None:
        """Return the patience asked for, else that of the plans, else None."""
        if self.begun.beginning.patience is not None:
            return self.begun.beginning.patience
        patience: int | None = self._steps(run).get("patience")
        return patience

    def _epochs_planned(self, run: Run) -> int:
        return int(self._steps(run).get("epochs", FULL_EPOCHS)) + 1

    def _tell(self, todo: Sequence[Run], progress: Progress) -> None:
        """Show the table, the epochs done (validation counts as one) and a note."""
        states = {run: self._state(run) for run in self.shown}
        done = sum(
            self._epochs_planned(run)  # even where it ended early
            if states[run].done
            else states[run].course.epochs_done
            for run in todo
        )
        progress.show(partial(run_table, list(states.values())))
        progress.advance(done, "; ".join(_note(states[run]) for run in self.running))

    def _state(self, run: Run) -> RunState:
        """Return where a run stands; its files are read again only if it goes on."""
        events = run.events_file
        size = events.stat().st_size if events.exists() else 0
        now = (run in self.running, size)
        before = self.looked.get(run)
        if before is None or before[0] != now:
            self.looked[run] = (now, run_state(run))
        return self.looked[run][1]


def _last_words(process: NnUNetProcess) -> str:
    """Return which case a training was predicting when it was killed, if it was."""
    cases = re.findall(r"predicting (\S+)", process.output())
    return f"It was predicting {cases[-1]} for its validation." if cases else ""


def _note(state: RunState) -> str:
    """Return how far a run is, in a few words."""
    dice = [value for value in state.course.dice.values() if value is not None]
    if not dice:
        return state.name
    mean = sum(dice) / len(dice)
    return f"{state.name}: epoch {state.course.epochs_done}, pseudo-Dice {mean:.2f}"


def _require_gpus(gpus: int, device: str, machine: Machine) -> None:
    """Refuse more GPUs than there are."""
    if gpus > 1 and device != "cuda":
        raise UsageError(f"--gpus {gpus} needs --device cuda, not {device}.")
    if gpus > 1 and gpus > machine.gpus:
        raise EnvironmentFault(
            f"--gpus {gpus} was asked for, but this machine shows {machine.gpus}."
        )


def _require_own_folders(todo: Iterable[Run]) -> None:
    """Refuse to train beside folds from elsewhere: nnU-Net would change their plans."""
    for model_dir in {run.model_dir for run in todo}:
        if any(model_dir.glob(f"fold_*/{ORIGIN_FILE}")):
            raise InputError(
                f"{model_dir} holds a model that was unpacked: train in another "
                "workspace, or remove that folder first."
            )


def _write_plans(workspace: Workspace, dataset: str, method: Method) -> None:
    """Write the plans of a method beside nnU-Net's, if they are not there.

    Raises
    ------
    InputError
        If nnU-Net's planner has not made those that they begin with.
    """
    if not workspace.plans_file(dataset, method.stock_plans).is_file():
        raise InputError(
            f"{dataset} has no {method.stock_plans}: run `nnunet-bridge plan "
            f"{number_of(dataset)} --planner {method.planner}` first."
        )
    if not method.needs_own_plans:
        return
    plans = method.plans_from(
        read_json(workspace.plans_file(dataset, method.stock_plans))
    )
    file = workspace.plans_file(dataset, method.plans)
    if not file.exists() or read_json(file) != plans:
        write_json(file, plans)


def status_of(workspace: Workspace, dataset: str) -> TrainSummary:
    """Return where every training of a dataset stands, from its files."""
    return TrainSummary(dataset, tuple(known_runs(Dataset(workspace, dataset))))


def watched_status(
    workspace: Workspace, dataset: str, every_s: float, progress: Progress
) -> TrainSummary:
    """Show where every training stands until none runs or waits; return the last look.

    Parameters
    ----------
    workspace : Workspace
    dataset : str
        Full name.
    every_s : float
        Seconds between two looks.
    progress : Progress
        Shown the table; told every change of a state.
    """
    before: dict[Run, RunStatus] = {}
    at_rest = 0
    while True:
        summary = status_of(workspace, dataset)
        now = {state.run: state.state for state in summary.runs}
        for state in summary.runs:
            if before and before.get(state.run) != state.state:
                progress.say(f"{state.name}: {state.state}")
        before = now
        progress.show(partial(run_table, summary.runs))
        at_rest = 0 if {"running", "queued"} & set(now.values()) else at_rest + 1
        if at_rest == LOOKS_AT_REST:
            return summary
        time.sleep(every_s if at_rest == 0 else POLL_S)


LOOKS_AT_REST = 4
"""So many looks find nothing at work before all counts as ended: between two runs of
one command there is a moment when neither holds its lock."""
