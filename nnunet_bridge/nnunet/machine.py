"""What the machine offers, asked without importing torch."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.formats.memory import free_memory_bytes

MANY_CORES = 8
BYTES_PER_WORKER = 3 << 30
"""What one worker of nnU-Net may need for itself, if nothing is known: 3 GiB."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Cores, memory and GPUs that this process may use."""

    cores: int
    free_memory_bytes: int
    gpus: int

    gpu_memory_bytes: int | None = None
    """Of the first GPU, all of it; None where there is none or it does not say."""

    def workers_of(self, worker_bytes: int) -> int:
        """Return how many worker processes pay here; 1 on a small machine.

        Parameters
        ----------
        worker_bytes : int
            What one of them needs for itself.
        """
        if self.cores < MANY_CORES:
            return 1
        return max(1, min(self.cores // 2, self.free_memory_bytes // worker_bytes))


def this_machine() -> Machine:
    """Return what this machine offers now."""
    gpus = _cuda_devices()
    memory = _cuda_memory_bytes() if gpus else None
    return Machine(_cores(), free_memory_bytes(), gpus, memory)


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


def _cuda_driver() -> ctypes.CDLL | None:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _cuda_memory_bytes() -> int | None:
    """Ask the driver how much memory the first GPU has."""
    driver = _cuda_driver()
    device, total = ctypes.c_int(0), ctypes.c_size_t(0)
    if driver is None or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    if driver.cuDeviceTotalMem_v2(ctypes.byref(total), device) != 0:
        return None
    return total.value


def _cuda_devices() -> int:
    """Ask the driver; 0 where there is none or `CUDA_VISIBLE_DEVICES` hides them."""
    driver = _cuda_driver()
    if driver is None:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
