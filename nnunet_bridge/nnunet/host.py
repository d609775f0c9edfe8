"""The computer that nnU-Net runs on: its resources, its processes and its clock.

Pipelines take it as an argument, so that a test can run them on another machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_bridge.formats.files import free_bytes
from nnunet_bridge.formats.memory import free_memory_bytes
from nnunet_bridge.nnunet.commands import (
    POLL_S,
    NnUNetProcess,
    Resources,
    nnunet_environment,
)
from nnunet_bridge.nnunet.machine import (
    BYTES_PER_WORKER,
    Machine,
    chosen_device,
    this_machine,
)
from nnunet_bridge.nnunet.names import Workspace

ONE_THREAD = Resources("cpu", threads=1, workers=1, loaders=0)
"""Enough to read a file of weights."""


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

    def share(
        self, processes: int, device: str, worker_bytes: int = BYTES_PER_WORKER
    ) -> Resources:
        """Return the resources of each of `processes` that run side by side.

        On a CPU the network uses the cores, so nothing else should; beside a GPU the
        cores prepare the data. The free memory limits the workers, of `worker_bytes`
        each.
        """
        workers = self.machine.workers_of(worker_bytes)
        cores = self.machine.cores // processes
        if device == "cpu":
            return Resources(device, max(1, cores), workers, loaders=0)
        loaders = max(1, min(12, cores - 1))
        return Resources(device, 0, workers, loaders)

    def resources(self, device: str) -> Resources:
        """Return what a single call may use; `device` is a word of `--device`."""
        return self.share(1, chosen_device(device, self.machine))

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
