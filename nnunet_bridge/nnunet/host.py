"""The computer that nnU-Net runs on: its resources, its processes and its clock.

Pipelines take it as an argument, so that a test can run them on another machine.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from nnunet_bridge.formats.files import free_bytes
from nnunet_bridge.formats.memory import free_memory_bytes
from nnunet_bridge.nnunet.commands import (
    POLL_S,
    NnUNetProcess,
    Resources,
    gpu_command,
    nnunet_environment,
)
from nnunet_bridge.nnunet.machine import (
    BYTES_PER_WORKER,
    Machine,
    TorchBuild,
    chosen_device,
    this_machine,
    usable,
)
from nnunet_bridge.nnunet.names import PARENT_VARIABLE, Workspace

ONE_THREAD = Resources("cpu", threads=1, workers=1, loaders=0)
"""Enough to read a file of weights."""

TORCH_S = 300  # torch is imported within seconds, from a slow disk within minutes


@lru_cache(maxsize=1)
def installed_torch() -> TorchBuild:
    """Ask the installed torch what it can compute on; it takes some seconds."""
    words = gpu_command(ONE_THREAD)
    try:
        answer = subprocess.run(  # noqa: S603 - our own argument list
            words,
            env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            capture_output=True,
            text=True,
            check=False,
            timeout=TORCH_S,
        )
    except subprocess.TimeoutExpired:
        return TorchBuild("", error=f"torch did not answer within {TORCH_S} s")
    lines = [line for line in answer.stdout.splitlines() if line.startswith("{")]
    if answer.returncode or not lines:
        reason = answer.stderr.strip().rpartition("\n")[2]
        return TorchBuild("", error=f"torch does not start ({reason})")
    facts = json.loads(lines[-1])
    return TorchBuild(**{**facts, "architectures": tuple(facts["architectures"])})


@dataclass(frozen=True, slots=True)
class Host:
    """Where calls of nnU-Net run; by default this computer, as it is now."""

    machine: Machine = field(default_factory=this_machine)
    start: Callable[[Sequence[str], Mapping[str, str], Path], NnUNetProcess] = (
        NnUNetProcess
    )
    """Start a call: its arguments, environment and log file."""

    sleep: Callable[[float], None] = time.sleep
    free_bytes: Callable[[Path], int] = free_bytes
    """Return the free space of the disk of an existing folder."""

    free_memory: Callable[[], int] = free_memory_bytes
    """Return the memory that is free now; `machine` holds it as it was."""

    torch: Callable[[], TorchBuild] = installed_torch
    """Return the facts of the installed torch."""

    def device(self, asked: str) -> tuple[str, str]:
        """Return device and warning for a word of `--device`; see `chosen_device`."""
        return chosen_device(asked, self.machine, self.torch)

    def visible(self, gpus: int) -> tuple[str, ...]:
        """Return ``CUDA_VISIBLE_DEVICES`` of each process that has so many GPUs.

        An empty word leaves it as it is.
        """
        groups = usable(self.machine, self.torch).visible(gpus)
        return ("",) if groups == self.machine.visible(self.machine.gpus) else groups

    def share(
        self, processes: int, device: str, worker_bytes: int = BYTES_PER_WORKER
    ) -> Resources:
        """Return the resources of each of `processes` that run side by side.

        On a CPU the network uses the cores, so nothing else should; beside a GPU the
        cores prepare the data. The free memory limits the workers, of `worker_bytes`
        each. With several GPUs, each of them counts as a process.
        """
        workers = self.machine.workers_of(worker_bytes)
        cores = self.machine.cores // processes
        if device == "cpu":
            return Resources(device, max(1, cores), workers, loaders=0)
        loaders = max(1, min(12, cores - 1))
        return Resources(device, 0, max(1, workers // processes), loaders)

    def resources(self, device: str) -> Resources:
        """Return what a single call may use; `device` is a word of `--device`."""
        return self.share(1, self.device(device)[0])

    def launch(
        self,
        workspace: Workspace,
        command: Sequence[str],
        resources: Resources,
        log_file: Path,
    ) -> NnUNetProcess:
        """Start a call of nnU-Net and return it running."""
        environment = nnunet_environment(workspace, resources, os.environ)
        return self.start(command, environment, log_file)

    def finish(
        self,
        process: NnUNetProcess,
        task: str,
        on_wait: Callable[[], object] | None = None,
    ) -> None:
        """Wait until a call has ended; call `on_wait` every half second.

        Raises `NnUNetError` if it fails; `task` names it in the message.
        """
        with process:
            while not process.ended:
                if on_wait:
                    on_wait()
                self.sleep(POLL_S)
            process.check(task)
