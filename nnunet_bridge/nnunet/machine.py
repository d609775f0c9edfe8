"""Cores, memory and GPUs of the machine, without importing torch."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.memory import free_memory_bytes

MANY_CORES = 8
BYTES_PER_WORKER = 3 << 30
"""Memory of a worker of nnU-Net where nothing better is known: 3 GiB."""

NVIDIA_SMI_S = 20
"""``nvidia-smi`` answers within seconds, or the driver hangs."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Cores, memory and GPUs that this process may use."""

    cores: int
    free_memory_bytes: int
    gpus: int

    gpu_memory_bytes: int | None = None
    """All memory of the first GPU; None if there is none, or it is unknown."""

    def workers_of(self, worker_bytes: int) -> int:
        """Return how many workers of that size to start; at least 1."""
        if self.cores < MANY_CORES:
            return 1
        return max(1, min(self.cores // 2, self.free_memory_bytes // worker_bytes))


def this_machine() -> Machine:
    """Return the cores, memory and GPUs that are there now."""
    gpus = _gpus()
    memory = gpus[0].memory_bytes if gpus else None
    return Machine(_cores(), free_memory_bytes(), len(gpus), memory)


def chosen_device(asked: str, machine: Machine) -> str:
    """Return ``cuda``, ``cpu`` or ``mps`` for a word of `--device`.

    Raises `EnvironmentFault` if a GPU is asked for and there is none.
    """
    if asked == "cuda" and machine.gpus == 0:
        raise EnvironmentFault(
            "--device cuda was given, but this machine shows no NVIDIA GPU: check "
            "`nvidia-smi` and CUDA_VISIBLE_DEVICES, or use --device cpu."
        )
    if asked == "mps" and sys.platform != "darwin":
        message = "--device mps needs an Apple computer: use --device auto."
        raise EnvironmentFault(message)
    return asked if asked != "auto" else "cuda" if machine.gpus else "cpu"


def _cores() -> int:
    granted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if granted.isdigit() and int(granted) > 0:
        return int(granted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hardware() -> JsonObject:
    """Describe the machine for the record of a training, without its name."""
    gpus = _gpus()
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


@dataclass(frozen=True, slots=True)
class _Gpu:
    """A GPU that this process may use."""

    name: str
    memory_bytes: int | None = None
    driver: str = ""


_QUERY = "--query-gpu=index,uuid,name,memory.total,driver_version"


def _gpus() -> list[_Gpu]:
    """Ask ``nvidia-smi`` for the GPUs that this process may use.

    ``nvidia-smi`` lists all GPUs of the machine; CUDA shows a process only those that
    `CUDA_VISIBLE_DEVICES` names, by index or UUID, up to the first that is not there.
    A part of a GPU (MIG) has a UUID that the list lacks: its memory is unknown.
    """
    listed: dict[str, _Gpu] = {}
    for line in _asked_nvidia_smi().splitlines():
        index, uuid, name, mebibytes, driver = map(str.strip, line.split(", "))
        memory = int(mebibytes) << 20 if mebibytes.isdigit() else None
        listed[index] = listed[uuid] = _Gpu(name, memory, driver)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not listed:
        return [gpu for key, gpu in listed.items() if key.isdigit()]
    usable = []
    for word in map(str.strip, visible.split(",")):
        if word not in listed and not word.startswith("MIG-"):
            break
        usable.append(listed.get(word, _Gpu("MIG")))
    return usable


def _asked_nvidia_smi() -> str:
    """Return a line for every GPU; nothing where there is no driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    words = [command, _QUERY, "--format=csv,noheader,nounits"]
    try:
        return subprocess.check_output(  # noqa: S603 - our own argument list, no shell
            words, stderr=subprocess.DEVNULL, text=True, timeout=NVIDIA_SMI_S
        )
    except (OSError, subprocess.SubprocessError):
        return ""
