"""Trainings as jobs of a Slurm cluster.

A job runs our own `train` command for one configuration and fold, so it skips what is
done, resumes from the newest checkpoint and writes the same records. `batch_script`
writes the jobs as a file for ``sbatch``; `submit` hands that file over. The state of a
training is read from its files; the scheduler is only asked whether a job still waits.
"""

import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.formats.recipe import SlurmPart
from nnunet_bridge.formats.system import user
from nnunet_bridge.nnunet.commands import PYTHON, SAFE_PATH
from nnunet_bridge.nnunet.methods import Method
from nnunet_bridge.nnunet.names import Run
from nnunet_bridge.nnunet.training_options import TrainingOptions

GRACE_S = 120  # seconds before the time limit at which Slurm signals a job
MOST_TIMEOUTS = 100  # how often a job may go back to the queue because its time is up
_RUN = """\
set -u
{exports}
case "$SLURM_ARRAY_TASK_ID" in
{tasks}
esac
# A job that comes back from the queue resumes, even if it was submitted with --restart.
back="${{SLURM_RESTART_COUNT:-0}}"
if [ "$back" -gt 0 ]; then
    set -- "${{@/#--restart/--resume}}"
fi
# Slurm sends USR1 to this shell alone, {grace_s} s before the time is up. The training
# stops at INT and keeps its newest checkpoint; then the same job is queued again. The
# shell handles the signal at once because it waits for a background process.
back_to_the_queue() {{
    kill -INT "$training"
    wait "$training"
    [ "$back" -lt {most} ] || exit 1
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
    exit 0
}}
trap back_to_the_queue USR1
"$@" &
training=$!
wait "$training"
"""


def train_command_of(
    run: Run, *, method: Method, options: TrainingOptions, repeat: int = 1
) -> tuple[str, ...]:
    """Return our own command that trains one fold, so often, and only that."""
    workspace = run.dataset.workspace.runs_dir.parent
    return (
        *(*PYTHON, "-m", "nnunet_bridge", "train", run.dataset.name),
        *("-w", str(workspace), "-c", run.configuration, "-f", str(run.fold)),
        *("--model", method.model, "--budget", method.budget.name, "-q"),
        *(("--repeat", str(repeat)) if repeat > 1 else ()),
        "--yes",  # submitting a job is the consent
        *options.words(),
    )


def batch_script(
    commands: Sequence[Sequence[str]],
    settings: SlurmPart,
    name: str,
    log_dir: Path,
    environment: Mapping[str, str],
) -> str:
    """Return a file for ``sbatch``: an array of that name with one training a task.

    Every task sets the variables of `environment` and writes a log to `log_dir`.

    Raises `EnvironmentFault` if a line break in a name would end a line for Slurm.
    """
    at_once = f"%{settings.at_once}" if settings.at_once else ""
    options: dict[str, Any] = {
        "job-name": name,
        "array": f"0-{len(commands) - 1}{at_once}",
        "time": settings.time,
        "partition": settings.partition,
        "account": settings.account,
        "gres": f"gpu:{settings.gpus}" if settings.gpus else None,
        "cpus-per-task": settings.cpus,
        "mem": f"{settings.memory_gb}G",
        "output": log_dir / "%A_%a.log",
        "open-mode": "append",  # a job that comes back adds to its log
        "signal": f"B:USR1@{GRACE_S}",
    }
    given = [f"--{key}={value}" for key, value in options.items() if value is not None]
    header = [f"#SBATCH {one}" for one in [*given, "--requeue", *settings.options]]
    for line in header:
        if not line.isprintable():
            text = f"{line!r} has a character that no line for Slurm can have: rename"
            raise EnvironmentFault(f"{text} the folder of the workspace.", code="S10")
    variables = {**SAFE_PATH, **environment}.items()
    exports = [f"export {key}={shlex.quote(value)}" for key, value in variables]
    words = [shlex.join(command) for command in commands]
    tasks = [f"{number}) set -- {task} ;;" for number, task in enumerate(words)]
    body = _RUN.format(
        exports="\n".join(exports),
        tasks="\n".join(tasks),
        grace_s=GRACE_S,
        most=MOST_TIMEOUTS,
    )
    return "\n".join(["#!/bin/bash", *header, body])


def submit(script: Path, tasks: int) -> list[str]:
    """Hand a file of `batch_script` to Slurm; return the job id of every task.

    Raises `EnvironmentFault` if there is no Slurm here, or it refuses the jobs.
    """
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        raise EnvironmentFault(
            "--on slurm needs the command `sbatch`, which is not here: run it on a "
            "login node of the cluster, or use --on script."
        )
    done = _ask(sbatch, "--parsable", str(script))
    if done.returncode:
        reasons = done.stderr.strip().splitlines() or ["no reason given"]
        raise EnvironmentFault(f"Slurm refuses the jobs: {reasons[-1]}")
    array = done.stdout.strip().partition(";")[0]  # "id" or "id;cluster"
    return [f"{array}_{task}" for task in range(tasks)]


def still_known(jobs: Iterable[str]) -> set[str]:
    """Return the jobs that Slurm, if it is here, still holds, waiting or running."""
    wanted = set(jobs)
    squeue = shutil.which("squeue")
    if squeue is None or not wanted:
        return set()
    words = "--noheader", "--array", "--format=%i", f"--user={user()}"
    answer = _ask(squeue, *words)
    return wanted & set(answer.stdout.split())


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own argument list, no shell
