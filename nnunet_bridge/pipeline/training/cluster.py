"""Train on a Slurm cluster: submit the runs, or write a file for ``sbatch``.

Runs that are done, or still wait there, are not submitted.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from nnunet_bridge.core.words import RunStatus
from nnunet_bridge.formats.files import refuse_links, write_text
from nnunet_bridge.formats.recipe import SlurmPart
from nnunet_bridge.nnunet import slurm
from nnunet_bridge.nnunet.names import Dataset, Run
from nnunet_bridge.nnunet.runs import run_state, write_record
from nnunet_bridge.pipeline.training.request import (
    TrainingRequest,
    require_previous_stages,
)
from nnunet_bridge.pipeline.training.status import TrainSummary
from nnunet_bridge.pipeline.training.train import select_runs

SCRIPT = "train.sbatch"
LOGS = "slurm"


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Options of a training on a cluster."""

    settings: SlurmPart = field(default_factory=SlurmPart)  # resources of each job
    only_script: bool = False
    """Whether to write a file for ``sbatch`` instead of submitting."""


def train_on_cluster(
    dataset: Dataset, request: TrainingRequest, options: ClusterOptions
) -> TrainSummary:
    """Hand every run that is not done to Slurm, or write the file that does.

    The nodes of the cluster share the disk of the workspace. There the device ``auto``
    is a GPU if the job was given one.

    Raises `InputError` if the dataset is not planned, or has changed since a run began;
    `EnvironmentFault` if there is no Slurm, or it refuses the jobs.
    """
    training = replace(request.options, gpus=options.settings.gpus)
    replace(request, options=training).check()
    selected = select_runs(dataset, request)
    todo = list(selected.todo)
    require_previous_stages(todo, now=True)
    if not training.restart:
        todo = _not_waiting(todo)
    method = request.method
    # One job trains a fold as often as requested: two would train the first at once.
    first = {run: replace(run, repeat=0) for run in todo}
    tasks = list(dict.fromkeys(first.values()))
    command_of = partial(
        slurm.train_command_of, method=method, options=training, repeat=request.repeat
    )
    commands = [command_of(run) for run in tasks]
    note = "Everything requested is done, or waits on the cluster."
    if todo:
        script = _write_script(dataset, commands, options.settings)
        note = f"{script} trains {len(todo)} runs: send it with `sbatch {script}`."
    if todo and not options.only_script:
        jobs = slurm.submit(script, len(tasks))
        for run in todo:
            job = jobs[tasks.index(first[run])]
            write_record(run, state=RunStatus.QUEUED, job=job, reason="")
        note = (
            f"{len(todo)} trainings handed to Slurm as {jobs[0].partition('_')[0]}; "
            f"`nnunet-bridge status {dataset.number}` shows their state, "
            f"{script.parent / LOGS} holds the logs."
        )
    states = tuple(run_state(run) for run in selected.runs)
    caveat = method.budget.caveat
    return TrainSummary(dataset.name, states, caveat=caveat, notes=(note,))


def _not_waiting(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that are not running and wait in no queue."""
    states = [run_state(run) for run in runs]
    known = slurm.still_known(state.job for state in states if state.job)
    idle = (state for state in states if state.state != RunStatus.RUNNING)
    return [state.run for state in idle if state.job not in known]


def _write_script(
    dataset: Dataset, commands: Sequence[Sequence[str]], settings: SlurmPart
) -> Path:
    """Write the file for ``sbatch``."""
    file: Path = dataset.record_dir / SCRIPT
    log_dir = dataset.record_dir / LOGS
    log_dir.mkdir(parents=True, exist_ok=True)  # Slurm does not create it
    refuse_links(log_dir)
    # nnU-Net's variables only where they are set here: the command names the workspace.
    variables = dataset.workspace.environment().items()
    environment = {key: value for key, value in variables if os.environ.get(key)}
    name = f"nnunet-bridge-{dataset.number:03d}"
    write_text(file, slurm.batch_script(commands, settings, name, log_dir, environment))
    return file
