"""The state of every run of a dataset, as a table: once, or until all have ended.

Only files are read, so a training may run in another process, here or on a cluster.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from nnunet_bridge.core.errors import NnUNetError
from nnunet_bridge.core.progress import Progress
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.core.units import aligned, format_clock, number
from nnunet_bridge.core.words import RunStatus
from nnunet_bridge.nnunet.commands import POLL_S
from nnunet_bridge.nnunet.methods import DEFAULT_MODEL
from nnunet_bridge.nnunet.names import Dataset, Run
from nnunet_bridge.nnunet.runs import RunState, known_runs, run_state

LOOKS_AT_REST = 4
"""Looks in a row that find no run at work before all count as ended: between two runs
of one command there is a moment when neither holds its lock."""

_GIVEN_UP = ("s/epoch", "train loss", "val loss", "budget")
"""Columns that a narrow terminal omits, in this order."""

_PSEUDO = "pseudo-Dice"


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


def status_of(
    dataset: Dataset, state_of: Callable[[Run], RunState] = run_state
) -> TrainSummary:
    """Return the state of every run of a dataset, read from its files."""
    return TrainSummary(dataset.name, tuple(known_runs(dataset, state_of)))


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


def run_table(states: Sequence[RunState], width: int | None = None) -> str:
    """Return one line a run, under a header.

    `width` is that of the terminal. Where the table does not fit, it shows the mean
    pseudo-Dice instead of one per structure, then omits columns.
    """
    if not states:
        return ""
    table = _aligned(_columns(states))
    if width is None or _width(table) <= width:
        names = max((tuple(state.course.dice) for state in states), key=len)
        legend = f"\n{_PSEUDO} of {', '.join(names)}"  # of several structures
        return table + (legend if len(names) > 1 else "")
    columns = _columns(states, mean=True)
    for name in ("", *_GIVEN_UP):
        columns.pop(name, None)
        table = _aligned(columns)
        if _width(table) <= width:
            break
    return table


def _columns(states: Sequence[RunState], *, mean: bool = False) -> dict[str, list[str]]:
    """Return the cells of each column by its heading."""
    columns = {
        "model": [state.model for state in states],
        "configuration": [state.run.configuration for state in states],
        "fold": [str(state.run.fold) for state in states],
        "budget": [state.budget for state in states],
        "state": [str(state.state) for state in states],
        "epoch": [f"{s.course.epochs_done}/{s.course.epochs or '?'}" for s in states],
        "train loss": [number(state.course.train_loss, 3) for state in states],
        "val loss": [number(state.course.val_loss, 3) for state in states],
        _PSEUDO: [_pseudo_dice(state, mean=mean) for state in states],
        "s/epoch": [number(state.course.seconds_per_epoch, 1) for state in states],
        "left": [format_clock(state.seconds_left) or "-" for state in states],
        "Dice": [number(state.mean_dice, 3) for state in states],
    }
    if set(columns["model"]) == {DEFAULT_MODEL}:
        del columns["model"]
    return columns


def _aligned(columns: dict[str, list[str]]) -> str:
    rows = list(zip(*columns.values(), strict=True))
    return aligned(list(columns), rows)


def _width(table: str) -> int:
    return max(map(len, table.splitlines()))


def _pseudo_dice(state: RunState, *, mean: bool) -> str:
    """Return the values in the order of the legend, or their mean."""
    values = list(state.course.dice.values())
    if not mean:
        return " ".join(number(value, 2) for value in values) or "-"
    known = [value for value in values if value is not None]
    return number(sum(known) / len(known) if known else None, 2)
