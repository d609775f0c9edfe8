"""Trainings as jobs of a Slurm cluster.

A job runs the very command that trains one configuration and fold here, so it knows
what is done, goes on from the newest checkpoint, and writes the same records. Where a
training stands is read from those; the scheduler is only asked whether a job still
waits. Two ways lead there: `submit` hands the jobs over through submitit, and
`batch_script` is the text of a file for ``sbatch`` that needs nothing of ours there.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.formats.recipe import SlurmPart
from nnunet_bridge.nnunet.methods import Method
from nnunet_bridge.nnunet.names import Run
from nnunet_bridge.nnunet.training_options import TrainingOptions

GRACE_S = 120
"""How long before its time is up a job is told, so that it can go back to the queue."""

_ANEW, _GO_ON = "--restart", "--resume"
MOST_TIMEOUTS = 100
"""How often a job may go back to the queue because its time was up."""


@dataclass(slots=True)
class ClusterTraining:
    """One training as a job: called on the cluster, by name, in an own process."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    """Variables beside those of the job."""

    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __call__(self) -> None:
        """Train; fail if the command does.

        A job that comes back from the queue goes on, even if it was to begin anew.
        """
        back = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
        self.process = subprocess.Popen(  # noqa: S603 - our own argument list, no shell
            [_GO_ON if back and word == _ANEW else word for word in self.command],
            env={**os.environ, **self.environment},
            preexec_fn=_ignore_the_warning,  # noqa: PLW1509 - no thread runs here
        )
        code = self.process.wait()
        if code:
            raise RuntimeError(f"the training ended with exit code {code}")

    def checkpoint(self) -> Any:  # noqa: ANN401 - submitit's type
        """Return what goes back to the queue when the time is up: the same again.

        Called in a signal handler, while `__call__` waits for the process and so keeps
        others from waiting for it; hence the kernel is asked.
        """
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            end = time.monotonic() + GRACE_S / 2
            while time.monotonic() < end and _lives(self.process.pid):
                time.sleep(0.2)
        return DelayedSubmission(ClusterTraining(self.command, self.environment))


def train_command_of(
    run: Run, *, method: Method, options: TrainingOptions
) -> tuple[str, ...]:
    """Return our own command that trains one run, and only that."""
    return (
        *(sys.executable, "-m", "nnunet_bridge", "train", run.dataset.name),
        *("-w", str(run.dataset.workspace.runs_dir.parent), "-c", run.configuration),
        *("-f", str(run.fold), "--model", method.model),
        *("--budget", method.budget.name, "-q", *options.words()),
    )


def submit(
    trainings: Sequence[ClusterTraining], settings: SlurmPart, folder: Path, name: str
) -> list[str]:
    """Hand the trainings to Slurm as one array; return the id of each job.

    Parameters
    ----------
    trainings : sequence of ClusterTraining
    settings : SlurmPart
    folder : Path
        For submitit's own files and the logs; on a disk that the nodes share.
    name : str
        Of the jobs.

    Raises
    ------
    EnvironmentFault
        If there is no Slurm here, or it refuses the jobs.
    """
    import submitit

    if shutil.which("sbatch") is None:
        raise EnvironmentFault(
            "--on slurm needs the command `sbatch`, which is not here: run it on a "
            "login node of the cluster, or use --on script."
        )
    executor = submitit.SlurmExecutor(folder, max_num_timeout=MOST_TIMEOUTS)
    executor.update_parameters(
        **_parameters(settings, name),
        signal_delay_s=GRACE_S,
        array_parallelism=settings.at_once or len(trainings),
    )
    try:
        with executor.batch():
            jobs = [executor.submit(training) for training in trainings]
    except submitit.core.utils.FailedJobError as error:
        said = str(error).strip().splitlines()
        raise EnvironmentFault(f"Slurm refuses the jobs: {said[-1]}") from error
    return [str(job.job_id) for job in jobs]


def still_known(jobs: Iterable[str]) -> set[str]:
    """Return those of the jobs that Slurm still holds, waiting or running.

    Empty where there is no Slurm.
    """
    asked = set(jobs)
    squeue = shutil.which("squeue")
    if squeue is None or not asked:
        return set()
    answer = subprocess.run(  # noqa: S603 - our own argument list, no shell
        [squeue, "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked & set(answer.stdout.split())


def batch_script(
    commands: Sequence[Sequence[str]],
    settings: SlurmPart,
    *,
    name: str,
    log_dir: Path,
    environment: Mapping[str, str],
) -> str:
    """Return a file for ``sbatch``: an array with one training a task.

    A task that is told that its time is nearly up stops its training and goes back to
    the queue, where it goes on from the newest checkpoint.

    Parameters
    ----------
    commands : sequence of argument lists
    settings : SlurmPart
    name : str
        Of the jobs.
    log_dir : Path
        Where every task writes a log.
    environment : mapping
        Variables that every task sets.
    """
    options: dict[str, Any] = {
        "job-name": name,
        "array": _array(len(commands), settings.at_once),
        "time": settings.time,
        "partition": settings.partition,
        "account": settings.account,
        "gres": f"gpu:{settings.gpus}" if settings.gpus else None,
        "cpus-per-task": settings.cpus,
        "mem": f"{settings.memory_gb}G",
        "output": log_dir / "%A_%a.log",
        "open-mode": "append",
        "signal": f"B:USR1@{GRACE_S}",
    }
    said = [f"--{key}={value}" for key, value in options.items() if value is not None]
    said += ["--requeue", *settings.options]
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {option}" for option in said),
            "set -u",
            *(
                f"export {key}={shlex.quote(value)}"
                for key, value in environment.items()
            ),
            'case "$SLURM_ARRAY_TASK_ID" in',
            *(
                f"{number}) set -- {shlex.join(command)} ;;"
                for number, command in enumerate(commands)
            ),
            "esac",
            'if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then',
            f'    set -- "${{@/#{_ANEW}/{_GO_ON}}}"  # back from the queue: go on',
            "fi",
            "back_to_the_queue() {",
            '    kill -INT "$training"; wait "$training"',
            '    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"',
            "    exit 0",
            "}",
            "trap back_to_the_queue USR1",
            '"$@" &',
            "training=$!",
            'wait "$training"',
            "",
        ]
    )


def _array(tasks: int, at_once: int | None) -> str:
    return f"0-{tasks - 1}" + (f"%{at_once}" if at_once else "")


def _parameters(settings: SlurmPart, name: str) -> dict[str, Any]:
    """Return the settings as submitit calls them."""
    extra = [option.removeprefix("--").partition("=") for option in settings.options]
    parameters: dict[str, Any] = {
        "job_name": name,
        "time": settings.minutes,
        "partition": settings.partition,
        "account": settings.account,
        "gres": f"gpu:{settings.gpus}" if settings.gpus else None,
        "cpus_per_task": settings.cpus,
        "mem": f"{settings.memory_gb}G",
        "stderr_to_stdout": True,
        "additional_parameters": {key: value or True for key, _, value in extra},
    }
    return {key: value for key, value in parameters.items() if value is not None}


def _lives(child: int) -> bool:
    """Whether a child of this process still runs."""
    try:
        return os.waitpid(child, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def _ignore_the_warning() -> None:
    """Leave it to the job to react when Slurm tells all its processes to end soon."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
