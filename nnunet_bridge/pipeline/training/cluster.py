"""Training on a Slurm cluster: jobs handed over, or written into a file for ``sbatch``.

What is done already is not handed over, and what still waits there is not handed over
twice.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_bridge.formats.files import write_text
from nnunet_bridge.formats.recipe import SlurmPart
from nnunet_bridge.nnunet.names import Dataset, Run
from nnunet_bridge.nnunet.runs import run_state, write_record
from nnunet_bridge.nnunet.slurm import (
    ClusterTraining,
    batch_script,
    still_known,
    submit,
    train_command_of,
)
from nnunet_bridge.pipeline.training.request import TrainingRequest
from nnunet_bridge.pipeline.training.stages import require_previous_stages
from nnunet_bridge.pipeline.training.status import TrainSummary
from nnunet_bridge.pipeline.training.train import select_runs

SCRIPT = "train.sbatch"


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """How trainings are handed to a cluster."""

    settings: SlurmPart = field(default_factory=SlurmPart)
    """What each job asks for."""

    only_script: bool = False
    """Whether to write a file for ``sbatch`` instead of submitting."""


def train_on_cluster(
    dataset: Dataset, request: TrainingRequest, options: ClusterOptions
) -> TrainSummary:
    """Hand every run that is not done to Slurm, or write the file that does.

    Parameters
    ----------
    dataset : Dataset
        In a workspace on a disk that the nodes of the cluster share.
    request : TrainingRequest
        The device ``auto`` is a GPU if the job was given one.
    options : ClusterOptions

    Raises
    ------
    InputError
        If the dataset is not planned, or has changed since a run began.
    EnvironmentFault
        If there is no Slurm, or it refuses the jobs.
    """
    training = replace(request.options, gpus=options.settings.gpus)
    replace(request, options=training).check()
    selected = select_runs(dataset, request)
    todo = list(selected.todo)
    require_previous_stages(todo, now=True)
    if not training.restart:
        todo = _not_waiting(todo)
    method = request.method
    commands = [train_command_of(run, method=method, options=training) for run in todo]
    name = f"nnunet-bridge-{dataset.number:03d}"
    folder = dataset.record_dir / "slurm"
    note = "Everything asked for is done, or waits on the cluster."
    if todo and options.only_script:
        note = _written(dataset, commands, options.settings, name)
    elif todo:
        trainings = [
            ClusterTraining(command, dataset.workspace.environment())
            for command in commands
        ]
        jobs = submit(trainings, options.settings, folder, name)
        for run, job in zip(todo, jobs, strict=True):
            write_record(run, state="queued", job=job, reason="")
        note = (
            f"{len(jobs)} trainings handed to Slurm as {jobs[0].partition('_')[0]}; "
            f"`nnunet-bridge status {dataset.number}` tells where they stand, "
            f"{folder} holds the logs."
        )
    states = tuple(run_state(run) for run in selected.runs)
    return TrainSummary(
        dataset.name, states, caveat=method.budget.caveat, notes=(note,)
    )


def _not_waiting(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that are not running and wait in no queue."""
    states = {run: run_state(run) for run in runs}
    known = still_known(state.job for state in states.values() if state.job)
    return [
        run
        for run, state in states.items()
        if state.state != "running" and state.job not in known
    ]


def _written(
    dataset: Dataset,
    commands: Sequence[Sequence[str]],
    settings: SlurmPart,
    name: str,
) -> str:
    """Write the file for ``sbatch``; return what the user does with it."""
    folder = dataset.record_dir
    log_dir = folder / "slurm"
    log_dir.mkdir(parents=True, exist_ok=True)  # Slurm does not make it
    set_here = {
        name: value
        for name, value in dataset.workspace.environment().items()
        if os.environ.get(name)
    }
    script = batch_script(
        commands, settings, name=name, log_dir=log_dir, environment=set_here
    )
    file: Path = folder / SCRIPT
    write_text(file, script)
    return f"{file} trains {len(commands)} runs: send it with `sbatch {file}`."
