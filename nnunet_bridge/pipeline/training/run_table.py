"""The table of runs, shown by `train` and by `status`.

Both read the same files, so the training may run in another process, here or on a
cluster.
"""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_bridge.core.aligned import aligned, number
from nnunet_bridge.core.units import format_clock
from nnunet_bridge.nnunet.methods import DEFAULT_MODEL
from nnunet_bridge.nnunet.runs import RunState

_GIVEN_UP = ("s/epoch", "train loss", "val loss", "budget")
"""Columns that a narrow terminal omits, in this order."""

_PSEUDO = "pseudo-Dice"


def run_table(states: Sequence[RunState], width: int | None = None) -> str:
    """Return one line a run, under a header.

    `width` is that of the terminal. Where the table does not fit, it shows the mean
    pseudo-Dice instead of one per structure, then omits columns.

    Examples
    --------
    >>> run_table([])
    ''
    """
    if not states:
        return ""
    table = _aligned(_columns(states))
    if width is None or _width(table) <= width:
        return "\n".join([table, *_legend(states)])
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


def _legend(states: Sequence[RunState]) -> list[str]:
    """Name the structures of the pseudo-Dice, if there are several."""
    names = max((tuple(state.course.dice) for state in states), key=len)
    return [f"{_PSEUDO} of {', '.join(names)}"] if len(names) > 1 else []
