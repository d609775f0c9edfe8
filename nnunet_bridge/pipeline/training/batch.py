"""Trainings that share the machine: started, watched, retried and recorded."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from nnunet_bridge.core.errors import InputError, Interrupted, NnUNetError, WorkerKilled
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import RunStatus
from nnunet_bridge.formats.events import readable_events
from nnunet_bridge.formats.files import only_writer, read_json
from nnunet_bridge.nnunet.commands import (
    POLL_S,
    NnUNetProcess,
    Resources,
    train_command,
)
from nnunet_bridge.nnunet.estimates import FULL_EPOCHS
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.names import Dataset, Run
from nnunet_bridge.nnunet.resumption import pick_checkpoint
from nnunet_bridge.nnunet.runs import RunState, read_record, run_state, write_record
from nnunet_bridge.pipeline.comparison.run_page import write_run_pages
from nnunet_bridge.pipeline.training.record import origin_of, record_end, record_start
from nnunet_bridge.pipeline.training.request import (
    TrainingRequest,
    in_stages,
    require_previous_stages,
)
from nnunet_bridge.pipeline.training.status import run_table
from nnunet_bridge.pipeline.training.weights import InitialWeights


@dataclass(slots=True)
class Batch:
    """Trainings that share the machine, some of them side by side."""

    dataset: Dataset
    request: TrainingRequest
    dataset_state: str
    weights: InitialWeights
    resources: Resources  # resources of each process
    side_by_side: int
    shown: Sequence[Run]
    """The rows of the table: the runs of the batch, and those that are done already."""

    host: Host
    progress: Progress = field(default_factory=Silent)
    warnings: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """One sentence for each run that failed."""

    _running: dict[Run, NnUNetProcess] = field(default_factory=dict)
    _held: dict[Run, ExitStack] = field(default_factory=dict)
    """Lock and process of every run at work."""

    _gpus: dict[Run, str] = field(default_factory=dict)
    """``CUDA_VISIBLE_DEVICES`` of every run at work."""

    _halved: set[Run] = field(default_factory=set)
    """Runs that are tried once more, with half the workers (FAULTS F11)."""

    _seen: dict[Run, tuple[object, RunState]] = field(default_factory=dict)
    """The state of each run, and what its files looked like when it was read."""

    def train_in_stages(self, todo: Sequence[Run]) -> None:
        """Train all of `todo`, the cascade once its first stage is done."""
        first, cascade = in_stages(todo)
        if first:
            self.train(first)
        ready = []
        for run in cascade:
            try:
                require_previous_stages([run], now=True)
            except InputError as error:
                self.failures.append(str(error))
                write_record(run, state=RunStatus.FAILED, reason=str(error))
            else:
                ready.append(run)
        if ready:
            self.train(ready)

    def train(self, todo: Sequence[Run]) -> None:
        """Train all of `todo`, some of them side by side."""
        waiting = list(todo)
        self.progress.stage("train", sum(map(self._epochs_planned, todo)))
        with self._interruptible():
            while waiting or self._running:
                while waiting and len(self._running) < self.side_by_side:
                    self._start(waiting.pop(0))
                self.host.sleep(POLL_S)
                waiting += self._collect()
                self._show(todo)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """End what still runs when the block is left; record that it was stopped."""
        try:
            yield
        except KeyboardInterrupt:
            for run in self._running:
                record_end(run, RunStatus.STOPPED, "")
            raise Interrupted(
                "Interrupted. Everything trained so far is kept: run the same command "
                "again to resume."
            ) from None
        finally:
            for held in self._held.values():
                held.close()

    def _start(self, run: Run) -> None:
        """Take the lock of a run, record its start and start its process."""
        name = f"{run.dataset} {run.title}"
        self._held[run] = ExitStack()
        self._held[run].enter_context(only_writer(run.lock_file, name))
        restart = self.request.options.restart and run not in self._halved
        if restart:
            shutil.rmtree(run.fold_dir, ignore_errors=True)
        own_arguments = self._own_arguments(run, restart=restart)
        resources = self.resources.halved() if run in self._halved else self.resources
        resources = replace(resources, visible=self._free_gpus())
        self._gpus[run] = resources.visible
        resumption = pick_checkpoint(run.fold_dir)
        self._warn(*(f"{name}: {finding.message}" for finding in resumption.findings))
        resume = resumption.checkpoint is not None
        if not resume:
            run.events_file.unlink(missing_ok=True)
        requested = self.weights.start.patience  # goes before that of the plans
        patience = self._steps(run).get("patience") if requested is None else requested
        command = train_command(
            run,
            resources,
            resume=resume,
            start=replace(self.weights.start, patience=patience),
            own_arguments=(*own_arguments, *self.request.options.for_nnunet()),
        )
        record_start(
            run,
            self.request,
            damaged_checkpoints=list(resumption.damaged),
            own_arguments=list(own_arguments),
            workers=resources.workers,
            loaders=resources.loaders,
            patience=patience,
            **self.weights.origin,
            **origin_of(run, self.dataset_state),
        )
        workspace, log_file = run.workspace, run.run_dir / "train.log"
        process = self.host.launch(workspace, command, resources, log_file)
        self._running[run] = self._held[run].enter_context(process)

    def _free_gpus(self) -> str:
        """Return the GPUs that no run uses, as ``CUDA_VISIBLE_DEVICES``."""
        if self.resources.device != "cuda":
            return ""
        groups, taken = self.host.visible(self.resources.gpus), self._gpus.values()
        return next((group for group in groups if group not in taken), "")

    def _own_arguments(self, run: Run, *, restart: bool) -> tuple[str, ...]:
        """Return nnU-Net's own arguments: as requested, else those of its start."""
        requested = self.request.options.own_arguments
        if requested is None and not restart:
            return read_record(run).own_arguments
        return requested or ()

    def _collect(self) -> list[Run]:
        """Close the runs that have ended; return those to try once more."""
        again = []
        for run, process in list(self._running.items()):
            if not process.ended:
                continue
            if self._record_end(run, process):
                again.append(run)
            del self._running[run], self._gpus[run]
            self._held.pop(run).close()
            self._warn(*write_run_pages([run_state(run)]))
        return again

    def _record_end(self, run: Run, process: NnUNetProcess) -> bool:
        """Record how a run has ended; return whether to try it once more.

        A run of which a process was killed is tried again, once.
        """
        retry, failure = False, ""
        try:
            process.check(f"train {run.title}")
        except WorkerKilled as error:
            failure = f"{error} {_last_words(process)}".strip()
            retry = run not in self._halved and self.resources.can_halve
        except NnUNetError as error:
            failure = str(error)
        if retry:
            self._halved.add(run)
            self._warn(f"[F11] {failure} Retrying with half the workers.")
        elif failure:
            self.failures.append(failure)
        status = RunStatus.FAILED if failure else RunStatus.DONE
        record_end(run, status, failure)
        events, _ = readable_events(run.events_file)
        early = [e["epoch"] for e in events if e["event"] == "stopped_early"]
        write_record(run, stopped_early_after_epoch=early[-1] if early else None)
        return retry

    def _warn(self, *warnings: str) -> None:
        for warning in warnings:
            self.warnings.append(warning)
            self.progress.say(warning)

    def _steps(self, run: Run) -> JsonObject:
        """Return the steps that the plans set for our own trainers."""
        plans = read_json(run.plans_file)
        steps: JsonObject = plans.get("nnunet_bridge", {}).get(run.configuration, {})
        return steps

    def _epochs_planned(self, run: Run) -> int:
        """Return the epochs of a run; its validation counts as one."""
        return int(self._steps(run).get("epochs", FULL_EPOCHS)) + 1

    def _show(self, todo: Sequence[Run]) -> None:
        """Show the table, the epochs done and a note on each run at work."""
        states = {run: self._state(run) for run in self.shown}
        done = sum(
            self._epochs_planned(run)  # even where it ended early
            if states[run].done
            else states[run].course.epochs_done
            for run in todo
        )
        self.progress.show(partial(run_table, list(states.values())))
        notes = "; ".join(_note(states[run]) for run in self._running)
        self.progress.advance(done, notes)

    def _state(self, run: Run) -> RunState:
        """Return the state of a run; read its files again only if they have grown."""
        events = run.events_file
        size = events.stat().st_size if events.exists() else 0
        now = (run in self._running, size)
        if run not in self._seen or self._seen[run][0] != now:
            self._seen[run] = (now, run_state(run))
        return self._seen[run][1]


def _last_words(process: NnUNetProcess) -> str:
    """Return which case a training was predicting when it was killed, if any."""
    cases = re.findall(r"predicting (\S+)", process.output())
    return f"It was predicting {cases[-1]} for its validation." if cases else ""


def _note(state: RunState) -> str:
    dice = [value for value in state.course.dice.values() if value is not None]
    if not dice:
        return state.name
    mean = sum(dice) / len(dice)
    return f"{state.name}: epoch {state.course.epochs_done}, pseudo-Dice {mean:.2f}"
