"""What the machine offers, asked without importing torch."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.memory import free_memory_bytes

MANY_CORES = 8
BYTES_PER_WORKER = 3 << 30
"""What one worker of nnU-Net may need for itself: 3 GiB."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Cores, memory and GPUs that this process may use."""

    cores: int
    free_memory_bytes: int
    gpus: int

    @property
    def workers(self) -> int:
        """How many worker processes pay here; 1 on a small machine."""
        if self.cores < MANY_CORES:
            return 1
        return max(1, min(self.cores // 2, self.free_memory_bytes // BYTES_PER_WORKER))


def this_machine() -> Machine:
    """Return what this machine offers now."""
    return Machine(_cores(), free_memory_bytes(), _cuda_devices())


def chosen_device(asked: str, machine: Machine) -> str:
    """Return ``cuda``, ``cpu`` or ``mps`` for what the user asked.

    Raises
    ------
    EnvironmentFault
        If a GPU is asked for and there is none.
    """
    if asked == "cuda" and machine.gpus == 0:
        raise EnvironmentFault(
            "--device cuda was asked for, but this machine shows no NVIDIA GPU: check "
            "`nvidia-smi` and CUDA_VISIBLE_DEVICES, or use --device cpu."
        )
    if asked == "mps" and sys.platform != "darwin":
        raise EnvironmentFault(
            "--device mps was asked for, but only Apple computers have it: use "
            "--device auto."
        )
    if asked != "auto":
        return asked
    return "cuda" if machine.gpus else "cpu"


def _cores() -> int:
    granted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if granted.isdigit() and int(granted) > 0:
        return int(granted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hardware() -> JsonObject:
    """Return what a training ran on, for its record; nothing that names the host."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": _cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _gpu_names(),
        "gpu_driver": _gpu_driver(),
    }


def _processor() -> str:
    """Return the model of the processor, as the kernel calls it."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    named = re.search(r"^(?:model name|Hardware)\s*: (.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def _gpu_names() -> list[str]:
    """Ask the driver for the name of every GPU that this process may use."""
    driver, count = _cuda()
    names = []
    for index in range(count):
        device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, len(name), device)
        names.append(name.value.decode(errors="replace"))
    return names


def _gpu_driver() -> str:
    """Return the version of NVIDIA's driver; empty where there is none."""
    file = Path("/proc/driver/nvidia/version")
    text = file.read_text(errors="replace") if file.exists() else ""
    found = re.search(r"Kernel Module\D*?(?:\S+ )*?(\d+\.\d+(?:\.\d+)?)", text)
    return found[1] if found else ""


def _cuda_devices() -> int:
    """Return how many GPUs this process may use."""
    return _cuda()[1]


def _cuda() -> tuple[Any, int]:
    """Return the driver and its GPUs.

    0 where there is no driver, or `CUDA_VISIBLE_DEVICES` hides them.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return None, 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return None, 0
    return driver, count.value
