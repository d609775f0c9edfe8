"""The cascade: the runs that it builds upon, and the order of training.

``3d_cascade_fullres`` learns from what ``3d_lowres`` predicted for every case. Each
fold predicts the cases that it was not trained on, so all folds are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.words import ALL_CASES, Fold
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.nnunet.names import ALL_NUMBERED, Run
from nnunet_bridge.nnunet.plans import CASCADE, LOWRES
from nnunet_bridge.nnunet.runs import run_state
from nnunet_bridge.nnunet.splits import Splits


def in_stages(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return the runs that need no other, and those of the cascade."""
    cascade = [run for run in runs if run.configuration == CASCADE]
    return [run for run in runs if run not in cascade], cascade


def require_previous_stages(todo: Sequence[Run], *, now: bool = False) -> None:
    """Refuse runs of the cascade whose first stage is not trained; name the folds.

    A first stage among `todo` is trained in time, unless it must be done `now`.
    """
    in_time = set() if now else set(todo)
    faults = []
    for run in todo:
        missing = [
            str(first.fold)
            for first in _first_stages(run)
            if first not in in_time and not run_state(first).done
        ]
        if missing:
            folds = ALL_CASES if run.fold == ALL_CASES else ALL_NUMBERED
            faults.append(
                f"{CASCADE} fold {run.fold} needs {LOWRES} of every fold; not trained: "
                f"fold {', '.join(missing)}. Train `-c {LOWRES} -f {folds}` first"
                f"{'' if now else ', or both at once'}."
            )
    if faults:
        raise InputError("\n".join(faults))


def _first_stages(run: Run) -> list[Run]:
    """Return the runs whose predictions a run of the cascade learns from."""
    if run.configuration != CASCADE:
        return []
    splits: Splits = read_json(run.dataset.splits_file)
    folds: Sequence[Fold] = range(len(splits))
    if run.fold == ALL_CASES:
        folds = [ALL_CASES]
    return [replace(run, configuration=LOWRES, fold=fold) for fold in folds]
