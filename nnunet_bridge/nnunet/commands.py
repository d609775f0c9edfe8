"""Run nnU-Net as a process of its own.

The first half is pure: values to argument lists and environments. The second half,
`NnUNetProcess`, starts such a call in a session of its own, keeps its output in a log
file, and leaves no worker behind however it ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_bridge.core.errors import NnUNetError, WorkerKilled
from nnunet_bridge.core.words import Fold
from nnunet_bridge.formats import system
from nnunet_bridge.formats.files import open_to_write
from nnunet_bridge.formats.system import Ending
from nnunet_bridge.nnunet.failures import reason_of
from nnunet_bridge.nnunet.machine import compilation_fault
from nnunet_bridge.nnunet.models import TRAINERS
from nnunet_bridge.nnunet.names import (
    EXT_TRAINERS,
    PARENT_VARIABLE,
    TRUSTED_VARIABLE,
    Dataset,
    Run,
    Workspace,
)
from nnunet_bridge.nnunet.plans import Planner

PYTHON = (sys.executable, "-P")
"""A Python that loads no module from the folder in which it starts."""

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""The same for every Python that such a process starts, whatever its arguments."""

LAUNCH = ("-m", "nnunet_bridge.nnunet.launch")
GRACE_S = 5.0  # seconds that a process may take to end after each signal
POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources of a process of nnU-Net."""

    device: str  # ``cuda``, ``cpu`` or ``mps``
    threads: int  # threads of torch in the main process; 0 leaves it to torch
    workers: int
    """Processes for preprocessing and export; 1 means a thread of the main one."""

    loaders: int  # processes that augment training data; 0 means the main process
    gpus: int = 1  # GPUs of the process
    visible: str = ""  # ``CUDA_VISIBLE_DEVICES``; empty leaves it as it is

    @property
    def can_halve(self) -> bool:
        """Whether it has more than one worker process."""
        return self.workers > 1 or self.loaders > 0

    def halved(self) -> Resources:
        """Return the same with half the worker processes (FAULTS F11)."""
        fewer = max(1, self.workers // 2)
        return replace(self, workers=fewer, loaders=self.loaders // 2)


@dataclass(frozen=True, slots=True)
class PlanTask:
    """The work of one call of nnU-Net's planning."""

    dataset: Dataset
    fingerprint: bool  # whether to verify the dataset and compute its fingerprint first
    planners: tuple[Planner, ...]  # planners to run; the plans of others exist
    preprocess: tuple[tuple[str, str], ...]  # pairs of plans and configuration
    have: tuple[str, ...] = ()
    """Preprocessed data to keep, by nnU-Net's ``data_identifier``."""

    own_arguments: tuple[str, ...] = ()  # nnU-Net's own arguments, for all planners


def plan_command(task: PlanTask, resources: Resources) -> list[str]:
    """Return the call that verifies, plans and preprocesses a dataset."""
    options = _options(
        dataset=task.dataset,
        number=task.dataset.number,
        fingerprint=task.fingerprint,
        planner=[planner.class_name for planner in task.planners],
        preprocess=list(task.preprocess),
        have=list(task.have),
    )
    return [*_task("plan", resources), *task.own_arguments, *options]


@dataclass(frozen=True, slots=True)
class TrainingStart:
    """Initial weights of a training, and its early stopping."""

    encoder_weights: Path | None = None
    """Checked weights of an encoder; None for random ones."""

    pretrained: Path | None = None  # checkpoint of the trained model to start from
    patience: int | None = None
    """Epochs without a lower validation loss after which it stops."""

    def words(self, *, resume: bool) -> list[str]:
        """Return the arguments; a resumed training has its weights already."""
        words = _options(patience=self.patience)
        if not resume:
            words += _options(
                encoder_weights=self.encoder_weights, pretrained=self.pretrained
            )
        return words


def train_command(
    run: Run,
    resources: Resources,
    *,
    resume: bool,
    start: TrainingStart | None = None,
    own_arguments: Sequence[str] = (),
) -> list[str]:
    """Return the call that trains and validates one fold.

    `own_arguments` are nnU-Net's own: ``--npz``, ``--val_best``; in older records also
    ``-pretrained_weights FILE``.
    """
    options = _options(
        dataset=run.dataset,
        configuration=run.configuration,
        fold=run.fold,
        trainer=run.trainer,
        plans=run.plans,
        device=resources.device,
        gpus=resources.gpus,
        events=run.events_file,
    )
    options += trusting("" if run.trainer in TRAINERS else run.trainer)
    options += [*(start or TrainingStart()).words(resume=resume)]
    options += _options(resume=resume)
    return [*_task("train", resources), *own_arguments, *options]


def trusting(trainer: str) -> list[str]:
    """Return the words by which a call may run code of a trainer of others; or none."""
    return _options(trusted_trainer=trainer or None)


def encoder_command(
    weights: Path | None, out: Path, answer: Path, resources: Resources
) -> list[str]:
    """Return the call that checks the weights of an encoder, or downloads them."""
    options = _options(out=out, answer=answer, weights=weights)
    return [*_task("encoder", resources), *options]


def predict_command(
    members: Mapping[Path, Sequence[Fold]],
    images_dir: Path,
    out_dir: Path,
    resources: Resources,
    *,
    progress_file: Path,
    previous_dir: Path | None = None,
) -> list[str]:
    """Return the call that predicts every image of a folder.

    `members` maps model folders to folds; the mean of several is predicted. With more
    than one worker, the next image is prepared meanwhile. `previous_dir` has the
    labelmaps of ``3d_lowres`` for the cascade.
    """
    options = _options(
        device=resources.device,
        images=images_dir,
        out=out_dir,
        progress=progress_file,
        previous=previous_dir,
        member=[(model_dir, *folds) for model_dir, folds in members.items()],
    )
    return [*_task("predict", resources), *options]


def second_opinion_command(
    runs: Sequence[Run],
    folds: Sequence[int],
    out_file: Path,
    resources: Resources,
    *,
    ensembles: bool,
) -> list[str]:
    """Return the call that lets nnU-Net choose among the configurations of `runs`."""
    options = _options(
        dataset=runs[0].dataset,
        trained=[(run.trainer, run.plans, run.configuration) for run in runs],
        fold=list(folds),
        out=out_file,
        ensembles=ensembles,
    )
    return [*_task("second-opinion", resources), *options]


def checkpoint_command(
    copies: Mapping[Path, Path],
    resources: Resources,
    fits: tuple[Path, str, str] | None = None,
) -> list[str]:
    """Return the call that copies from each checkpoint what prediction needs.

    `fits` are a folder with plans and description, the trainer and the configuration
    that the weights must fit.
    """
    options = _options(copy=list(copies.items()), fits=fits)
    return [*_task("checkpoint", resources), *options]


def gpu_command(resources: Resources) -> list[str]:
    """Return the call that prints what torch can compute on."""
    return _task("gpu", resources)


def _task(name: str, resources: Resources) -> list[str]:
    options = _options(threads=resources.threads, workers=resources.workers)
    return [*PYTHON, *LAUNCH, name, *options]


def _options(**values: object) -> list[str]:
    """Return options; True is a flag, a list repeats its option, None leaves it out."""
    words: list[str] = []
    for name, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one is not False:
                parts = one if isinstance(one, tuple) else () if one is True else (one,)
                words += [f"--{name.replace('_', '-')}", *map(str, parts)]
    return words


def nnunet_environment(
    workspace: Workspace, resources: Resources, inherited: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables of nnU-Net's process; ours win over the `inherited` ones."""
    environment = {
        **inherited,
        **workspace.environment(),
        "nnUNet_def_n_proc": str(resources.workers),
        "nnUNet_n_proc_DA": str(resources.loaders),
        EXT_TRAINERS: str(trainers_dir()),
        TRUSTED_VARIABLE: inherited.get(EXT_TRAINERS, ""),
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "MPLBACKEND": "agg",
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
        **SAFE_PATH,
    }
    if path := inherited.get("PYTHONPATH"):
        # An empty entry would be the folder in which it starts.
        given = filter(None, path.split(os.pathsep))
        environment["PYTHONPATH"] = os.pathsep.join(given)
    if resources.threads:
        environment["OMP_NUM_THREADS"] = str(resources.threads)
    if resources.visible:
        environment["CUDA_VISIBLE_DEVICES"] = resources.visible
    if resources.device == "cpu":
        environment.pop("nnUNet_compile", None)
    elif "nnUNet_compile" not in environment and compilation_fault(environment):
        environment["nnUNet_compile"] = "false"
    return environment


def trainers_dir() -> Path:
    """Return the folder in which nnU-Net finds our trainers."""
    return Path(__file__).parent / "trainers"


class NnUNetProcess(contextlib.AbstractContextManager["NnUNetProcess"]):
    """One call of nnU-Net, running or ended.

    Use it in a ``with`` block: its process group has ended when the block is left.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log_file: Path
    ) -> None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        self.log_file = log_file
        self._log_start = log_file.stat().st_size if log_file.exists() else 0
        with open_to_write(log_file, "ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own argument list, no shell
                command,
                env={**environment, PARENT_VARIABLE: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **system.new_group(),
            )

    def __exit__(self, *error: object) -> None:
        """End the process and its workers, if they still run."""
        self.stop()

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def check(self, task: str) -> None:
        """Raise if the ended process failed.

        Raises
        ------
        WorkerKilled
            If it, or one of its workers, was killed (FAULTS F11).
        NnUNetError
            With the line of its log that has the reason.
        """
        code = self._process.poll()
        reason = reason_of(self.output()) if code else None
        killed = system.ended_by(code, "SIGKILL")
        if killed or (code and reason is None):
            who = "it" if killed else "a worker process of it"
            reason = f"{who} was killed, most likely because memory ran out."
            raise WorkerKilled(self._failure(task, reason))
        if reason is not None:
            raise NnUNetError(self._failure(task, reason))

    def _failure(self, task: str, reason: str) -> str:
        return f"nnU-Net failed ({task}): {reason} The whole log: {self.log_file}"

    def output(self) -> str:
        """Return the output so far."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode("utf-8", errors="replace")

    def stop(self) -> None:
        """Ask the process group to end, then kill it."""
        for how in Ending:
            if self.ended:
                break
            system.end_group(self._process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)
        system.end_group(self._process.pid, Ending.KILL)
