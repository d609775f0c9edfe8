"""Cores, memory and GPUs of the machine, without importing torch."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.memory import free_memory_bytes
from nnunet_bridge.nnunet.accelerators import (
    Accelerator,
    TorchBuild,
    fault_of,
    visible_gpus,
)

MANY_CORES = 8
BYTES_PER_WORKER = 3 << 30
"""Memory of a worker of nnU-Net where nothing better is known: 3 GiB."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Cores, memory and GPUs that this process may use."""

    cores: int
    free_memory_bytes: int
    gpus: int

    accelerators: tuple[Accelerator, ...] = ()
    """The facts of each GPU; none if they are unknown."""

    def workers_of(self, worker_bytes: int) -> int:
        """Return how many workers of that size to start; at least 1."""
        if self.cores < MANY_CORES:
            return 1
        return max(1, min(self.cores // 2, self.free_memory_bytes // worker_bytes))

    def visible(self, gpus: int) -> tuple[str, ...]:
        """Return ``CUDA_VISIBLE_DEVICES`` of each process that has so many GPUs.

        Empty words if the names of the GPUs are unknown.

        Examples
        --------
        >>> three = tuple(Accelerator("T4", word=word) for word in "abc")
        >>> Machine(8, 0, 3, three).visible(1), Machine(8, 0, 3, three).visible(2)
        (('a', 'b', 'c'), ('a,b',))
        """
        words = [gpu.word for gpu in self.accelerators] or [""] * self.gpus
        groups = [words[n : n + gpus] for n in range(0, len(words), gpus)]
        return tuple(",".join(g).strip(",") for g in groups if len(g) == gpus)


def this_machine() -> Machine:
    """Return the cores, memory and GPUs that are there now."""
    gpus = visible_gpus()
    return Machine(_cores(), free_memory_bytes(), len(gpus), gpus)


def usable(machine: Machine, torch: Callable[[], TorchBuild]) -> Machine:
    """Return the machine with those GPUs only that the installed torch can use.

    `torch` returns the facts of the installed torch, which takes seconds.
    """
    gpus = machine.accelerators
    if not gpus:
        return machine
    good = tuple(gpu for gpu in gpus if not fault_of(gpu, torch()))
    return replace(machine, gpus=len(good), accelerators=good)


def chosen_device(
    asked: str, machine: Machine, torch: Callable[[], TorchBuild]
) -> tuple[str, str]:
    """Return ``cuda``, ``cpu`` or ``mps`` for a word of `--device`, and a warning.

    `torch` as in `usable`. The warning says why ``auto`` does not take a GPU that is
    there; else it is empty.

    Raises `EnvironmentFault` if a GPU is asked for and there is none that can be used.
    """
    if asked == "cuda" and machine.gpus == 0:
        raise EnvironmentFault(
            "--device cuda was given, but this machine shows no NVIDIA GPU: check "
            "`nvidia-smi` and CUDA_VISIBLE_DEVICES, or use --device cpu."
        )
    if asked == "mps" and sys.platform != "darwin":
        message = "--device mps needs an Apple computer: use --device auto."
        raise EnvironmentFault(message)
    if asked in ("cpu", "mps"):
        return asked, ""
    fault = ""
    if machine.gpus and not usable(machine, torch).gpus:
        first = machine.accelerators[0]
        fault = f"{first.name}: {fault_of(first, torch())}"
    if fault and asked == "cuda":
        raise EnvironmentFault(f"--device cuda cannot be used. {fault}.")
    if machine.gpus:
        note = f"The GPU is not used, the CPU is. {fault}." if fault else ""
        return ("cpu" if fault else "cuda"), note
    return ("mps" if sys.platform == "darwin" and torch().mps else "cpu"), ""


def _cores() -> int:
    granted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if granted.isdigit() and int(granted) > 0:
        return int(granted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hardware() -> JsonObject:
    """Describe the machine for the record of a training, without its name."""
    gpus = visible_gpus()
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": _cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [gpu.name for gpu in gpus],
        "gpu_driver": gpus[0].driver if gpus else "",
    }


def _processor() -> str:
    """Return the model of the processor, as the kernel calls it."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    named = re.search(r"^(?:model name|Hardware)\s*: (.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()
