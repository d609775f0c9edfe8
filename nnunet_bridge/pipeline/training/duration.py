"""The time that the budget ``full`` takes without a GPU, before it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nnunet_bridge.core.progress import Progress
from nnunet_bridge.core.units import counted, format_duration
from nnunet_bridge.core.words import BudgetName
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.estimates import full_training_seconds
from nnunet_bridge.nnunet.machine import Machine
from nnunet_bridge.nnunet.methods import Method
from nnunet_bridge.nnunet.names import Run
from nnunet_bridge.nnunet.plans import resolved
from nnunet_bridge.nnunet.runs import run_state

DAY_S = 86_400.0
FULL_EPOCHS = 1000

Consent = Callable[[str], None]
"""Takes the sentence on the time; raises an error if the user does not want it."""


def announce_cpu_time(
    runs: Sequence[Run],
    method: Method,
    machine: Machine,
    progress: Progress,
    consent: Consent | None,
) -> None:
    """Report how long trainings take on this CPU; above a day, ask for consent."""
    seconds = cpu_seconds(runs, method, machine)
    if seconds is None:
        return
    sentence = (
        f"Without a GPU, {counted(len(runs), 'training')} at the budget full will take "
        f"about {format_duration(seconds)} on {counted(machine.cores, 'core')}."
    )
    if seconds > DAY_S and consent is not None:
        consent(f"{sentence} Use a GPU, or --budget smoke for a trial.")
    else:
        progress.say(sentence)


def cpu_seconds(runs: Sequence[Run], method: Method, machine: Machine) -> float | None:
    """Return the time of all runs on all cores; None for another budget or network."""
    if method.budget.name != BudgetName.FULL or method.report_network is not None:
        return None
    total = 0.0
    for run in runs:
        planned = resolved(read_json(run.plans_file), run.configuration)
        channels = len(RawDataset.open(run.dataset.raw_dir).channels)
        seconds = full_training_seconds(planned, channels, machine.cores)
        if seconds is None:
            return None
        left = 1 - min(run_state(run).course.epochs_done / FULL_EPOCHS, 1)
        total += seconds * left
    return total
