"""nnU-Net as a process of its own: what to call, how to watch it, how to end it.

The first half is pure: values to argument lists and environments. The second half,
`NnUNetProcess`, starts one such call in a session of its own, keeps its output in a
log file, and leaves no worker behind however it ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from nnunet_bridge.core.dataset import TrainingRun
from nnunet_bridge.core.errors import NnUNetError
from nnunet_bridge.nnunet.machine import Machine
from nnunet_bridge.nnunet.names import Workspace, number_of

LAUNCH = ("-m", "nnunet_bridge.nnunet.launch")
GRACE_S = 5.0
"""How long a process may take to end after each signal."""

POLL_S = 0.5
_EXCEPTION = re.compile(r"^(\w+\.)*\w*(Error|Exception|Interrupt|Warning)\b.*")


@dataclass(frozen=True, slots=True)
class Resources:
    """What one process of nnU-Net may use."""

    device: str
    """``cuda``, ``cpu`` or ``mps``."""

    threads: int
    """Of torch in the main process; 0 leaves it to torch."""

    workers: int
    """Processes for preprocessing and export; 1 means a thread of the main one."""

    loaders: int
    """Processes that augment training data; 0 means the main process."""

    gpus: int = 1


def shared_among(processes: int, device: str, machine: Machine) -> Resources:
    """Return the resources of each of `processes` that run side by side.

    On a CPU the network itself uses the cores, so nothing else should; beside a GPU
    the cores prepare the data.
    """
    if device == "cpu":
        threads = max(1, machine.cores // processes)
        return Resources(device, threads, machine.workers, loaders=0)
    loaders = max(1, min(12, machine.cores // processes - 1))
    return Resources(device, 0, machine.workers, loaders)


def plan_command(
    dataset: str, configurations: Sequence[str], resources: Resources
) -> list[str]:
    """Return the call that verifies, plans and preprocesses a dataset."""
    command = _task("plan", resources)
    command += ["--number", str(number_of(dataset))]
    for configuration in configurations:
        command += ["--configuration", configuration]
    return command


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a training begins with beside its plans, and when it may end early."""

    encoder_weights: Path | None = None
    """Judged weights of an encoder; None for random ones."""

    pretrained: Path | None = None
    """Checkpoint of a trained model whose weights it takes over."""

    patience: int | None = None
    """It ends after so many epochs without a lower validation loss."""

    def words(self, *, resume: bool) -> list[str]:
        """Return the arguments; a training that goes on has its weights already."""
        words = [] if self.patience is None else ["--patience", str(self.patience)]
        if not resume and self.encoder_weights:
            words += ["--encoder-weights", str(self.encoder_weights)]
        if not resume and self.pretrained:
            words += ["--pretrained", str(self.pretrained)]
        return words


def train_command(
    run: TrainingRun,
    events_file: Path,
    resources: Resources,
    *,
    resume: bool,
    beginning: Beginning | None = None,
    probabilities: bool = False,
) -> list[str]:
    """Return the call that trains and validates one fold."""
    command = _task("train", resources)
    command += ["--dataset", run.dataset, "--configuration", run.configuration]
    command += ["--fold", str(run.fold), "--trainer", run.trainer]
    command += ["--plans", run.plans, "--device", resources.device]
    command += ["--gpus", str(resources.gpus), "--events", str(events_file)]
    command += (beginning or Beginning()).words(resume=resume)
    command += ["--probabilities"] if probabilities else []
    return [*command, "--resume"] if resume else command


def encoder_command(
    weights: Path | None, out: Path, answer: Path, resources: Resources
) -> list[str]:
    """Return the call that judges the weights of an encoder, or downloads them."""
    command = [*_task("encoder", resources), "--out", str(out), "--answer", str(answer)]
    return [*command, "--weights", str(weights)] if weights else command


def predict_command(
    members: Mapping[Path, Sequence[int | str]],
    images_dir: Path,
    out_dir: Path,
    resources: Resources,
    *,
    progress_file: Path,
    previous_dir: Path | None = None,
) -> list[str]:
    """Return the call that predicts every image of a folder.

    Parameters
    ----------
    members : mapping
        Model folders and their folds; the mean of several is taken.
    images_dir, out_dir : Path
    resources : Resources
        More than one worker: the next image is prepared while one is predicted.
    progress_file : Path
        Gets a line of JSON now and then.
    previous_dir : Path, optional
        Labelmaps of ``3d_lowres``, for members that correct them.
    """
    command = [*_task("predict", resources), "--device", resources.device]
    command += ["--images", str(images_dir), "--out", str(out_dir)]
    command += ["--progress", str(progress_file)]
    if previous_dir is not None:
        command += ["--previous", str(previous_dir)]
    for model_dir, folds in members.items():
        command += ["--member", str(model_dir), *(str(fold) for fold in folds)]
    return command


def second_opinion_command(
    runs: Sequence[TrainingRun],
    folds: Sequence[int],
    out_file: Path,
    resources: Resources,
    *,
    ensembles: bool,
) -> list[str]:
    """Return the call that lets nnU-Net choose among the configurations of `runs`."""
    command = [*_task("second-opinion", resources), "--dataset", runs[0].dataset]
    for run in runs:
        command += ["--trained", run.trainer, run.plans, run.configuration]
    for fold in folds:
        command += ["--fold", str(fold)]
    command += ["--out", str(out_file)]
    return [*command, "--ensembles"] if ensembles else command


def checkpoint_command(copies: Mapping[Path, Path], resources: Resources) -> list[str]:
    """Return the call that copies of each checkpoint what prediction needs."""
    command = _task("checkpoint", resources)
    for source, target in copies.items():
        command += ["--copy", str(source), str(target)]
    return command


def _task(name: str, resources: Resources) -> list[str]:
    return [
        *(sys.executable, *LAUNCH, name),
        *("--threads", str(resources.threads), "--workers", str(resources.workers)),
    ]


def nnunet_environment(
    workspace: Workspace, resources: Resources, inherited: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables of nnU-Net's process.

    Parameters
    ----------
    workspace : Workspace
    resources : Resources
    inherited : mapping
        The variables of this process; what is set here wins over them.
    """
    environment = {
        **inherited,
        **workspace.environment(),
        "nnUNet_def_n_proc": str(resources.workers),
        "nnUNet_n_proc_DA": str(resources.loaders),
        "nnUNet_extTrainer": str(trainers_dir()),
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "MPLBACKEND": "agg",
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    }
    if resources.threads:
        environment["OMP_NUM_THREADS"] = str(resources.threads)
    if resources.device == "cpu":
        environment.pop("nnUNet_compile", None)
    return environment


def trainers_dir() -> Path:
    """Return the folder in which nnU-Net finds our trainers."""
    return Path(__file__).parent / "trainers"


class NnUNetProcess:
    """One call of nnU-Net, alive or ended.

    Use it in a ``with`` block: whatever happens inside, its process group is gone
    when the block is left.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log_file: Path
    ) -> None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        self.log_file = log_file
        self._log_start = log_file.stat().st_size if log_file.exists() else 0
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own argument list, no shell
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        """Return the running process."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process and its workers, if they still live."""
        self.stop()

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def check(self, task: str) -> None:
        """Raise if the ended process failed.

        Raises
        ------
        NnUNetError
            With the line of its log that says why.
        """
        code = self._process.poll()
        if code:
            raise NnUNetError(
                f"nnU-Net failed ({task}): {self._reason(code)} The whole log: "
                f"{self.log_file}"
            )

    def output(self) -> str:
        """Return what this process has written so far."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode("utf-8", errors="replace")

    def stop(self) -> None:
        """Ask the process group to end, then make it."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.ended:
                break
            self._signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _reason(self, code: int) -> str:
        if code == -signal.SIGKILL:
            return "it was killed, most likely because memory ran out."
        lines = [line.strip() for line in self.output().splitlines()]
        named = [line for line in lines if _EXCEPTION.match(line)]
        said = named[-1] if named else next((li for li in lines[::-1] if li), "no word")
        return f"{said.rstrip('.')}."


def watch(processes: Sequence[NnUNetProcess]) -> Iterator[None]:
    """Give control back every half second until all of `processes` have ended."""
    while not all(process.ended for process in processes):
        yield
        time.sleep(POLL_S)


def run_to_end(
    command: Sequence[str],
    environment: Mapping[str, str],
    log_file: Path,
    task: str,
) -> Iterator[None]:
    """Run one call; give control back every half second; raise if it fails."""
    with NnUNetProcess(command, environment, log_file) as process:
        yield from watch([process])
        process.check(task)


__all__ = [
    "Beginning",
    "NnUNetProcess",
    "Resources",
    "checkpoint_command",
    "encoder_command",
    "nnunet_environment",
    "plan_command",
    "predict_command",
    "run_to_end",
    "second_opinion_command",
    "shared_among",
    "train_command",
    "trainers_dir",
    "watch",
]
