"""The state of every run of a dataset, once or until all have ended."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nnunet_bridge.core.errors import NnUNetError
from nnunet_bridge.core.progress import Progress
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.core.words import RunStatus
from nnunet_bridge.nnunet.commands import POLL_S
from nnunet_bridge.nnunet.names import Dataset, Run
from nnunet_bridge.nnunet.runs import RunState, known_runs
from nnunet_bridge.pipeline.training.run_table import run_table

LOOKS_AT_REST = 4
"""Looks in a row that find no run at work before all count as ended: between two runs
of one command there is a moment when neither holds its lock."""


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """The state of every run that was asked for."""

    dataset: str
    runs: tuple[RunState, ...]
    failures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    caveat: str = ""
    notes: tuple[str, ...] = ()  # other results, such as jobs handed to a cluster

    @property
    def exit_code(self) -> int:
        """7 if nnU-Net failed in any run."""
        return NnUNetError.exit_code if self.failures else 0

    def as_json(self) -> JsonObject:
        """Return the object that `train --json` and `status --json` print."""
        return json_of(self, "caveat")

    def as_text(self) -> str:
        """Return a table of the runs, then warnings and failures."""
        if not self.runs:
            return f"{self.dataset}: no training yet; start one with `train`."
        columns = shutil.get_terminal_size((0, 0)).columns
        known = {"", *self.failures}
        ended = [state for state in self.runs if state.reason not in known]
        reasons = [f"{state.name}: {state.reason}" for state in ended]
        lines = [run_table(self.runs, columns or None), *self.warnings, *reasons]
        lines += [*self.failures, *filter(None, [self.caveat]), *self.notes]
        return "\n".join(lines)


def status_of(dataset: Dataset) -> TrainSummary:
    """Return the state of every run of a dataset, read from its files."""
    return TrainSummary(dataset.name, tuple(known_runs(dataset)))


def watched_status(
    dataset: Dataset,
    every_s: float,
    progress: Progress,
    sleep: Callable[[float], None] = time.sleep,
) -> TrainSummary:
    """Show the state of every run until none is running or queued; return the last.

    `progress` shows the table, and a line for every change of a state. Ctrl-C ends the
    watching, not the runs.
    """
    try:
        return _watched(dataset, every_s, progress, sleep)
    except KeyboardInterrupt:
        return status_of(dataset)


def _watched(
    dataset: Dataset,
    every_s: float,
    progress: Progress,
    sleep: Callable[[float], None],
) -> TrainSummary:
    before: dict[Run, RunStatus] = {}
    at_rest = 0
    while True:
        summary = status_of(dataset)
        now = {state.run: state.state for state in summary.runs}
        for state in summary.runs:
            if before and before.get(state.run) != state.state:
                progress.say(f"{state.name}: {state.state}")
        before = now
        progress.show(partial(run_table, summary.runs))
        working = {RunStatus.RUNNING, RunStatus.QUEUED} & set(now.values())
        at_rest = 0 if working else at_rest + 1
        if at_rest == LOOKS_AT_REST:
            return summary
        sleep(POLL_S if at_rest else every_s)
