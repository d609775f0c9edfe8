"""Cores, memory and GPUs of the machine, and whether the installed torch can use them.

torch is not imported: `inside.gpu` reports its facts from a process of its own, and
everything here is decided from these.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats import system
from nnunet_bridge.formats.memory import free_memory_bytes

MANY_CORES = 8
BYTES_PER_WORKER = 3 << 30
"""Memory of a worker of nnU-Net where nothing better is known: 3 GiB."""

NVIDIA_SMI_S = 20  # ``nvidia-smi`` answers within seconds, or the driver hangs
OLDEST_DRIVERS = {13: 580, 12: 525, 11: 450}
"""Major version of CUDA -> oldest driver (NVIDIA, CUDA Compatibility, table 1)."""

FOR_OLDER = "pip install torch --index-url https://download.pytorch.org/whl/cu126"
"""Installs the torch for CUDA 12.6: for older drivers, and GPUs from Maxwell on."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """An NVIDIA GPU that this process may use."""

    name: str
    memory_bytes: int | None = None  # all of its memory; None if it is unknown
    free_bytes: int | None = None
    driver: str = ""
    capability: str = ""  # compute capability, such as ``8.9``; empty if it is unknown
    word: str = ""  # its name in ``CUDA_VISIBLE_DEVICES``


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """The installed torch."""

    version: str
    cuda: str = ""  # version of CUDA that it is built for; empty for none
    architectures: tuple[str, ...] = ()  # GPUs that it has code for, such as ``sm_75``
    mps: bool = False  # whether it can use the GPU of an Apple computer
    error: str = ""  # error of a computation on the first GPU; empty if it worked


def fault_of(gpu: Accelerator, torch: TorchBuild) -> str:
    """Return why torch cannot use a GPU, with the way out; empty if it can."""
    who = f"torch {torch.version}"
    if not torch.version:
        return torch.error
    if not torch.cuda:
        return f"{who} is built for CPUs only: install it with CUDA (pip install torch)"
    needed = OLDEST_DRIVERS.get(int(torch.cuda.partition(".")[0]), 0)
    found = int(re.sub(r"\D.*", "", gpu.driver) or needed)
    if found < needed:
        others = found >= OLDEST_DRIVERS[12]
        return (
            f"its driver {gpu.driver} is older than {needed}, which {who} needs: "
            f"update the driver{f', or {FOR_OLDER}' if others else ''}"
        )
    if gpu.capability and torch.architectures and not _has_code(gpu, torch):
        older = _number(gpu.capability) < min(map(_number, torch.architectures))
        return (
            f"{who} has no code for its compute capability {gpu.capability}, only for "
            f"{', '.join(torch.architectures)}: "
            + (FOR_OLDER if older else "install a newer torch")
        )
    return torch.error


def _has_code(gpu: Accelerator, torch: TorchBuild) -> bool:
    """Whether torch has code that runs on a GPU.

    Machine code (sm) runs on GPUs of the same major version from its minor version on,
    intermediate code (compute) on all later ones.
    """
    here = _number(gpu.capability)
    for word in torch.architectures:
        code = _number(word)
        same = code // 10 == here // 10 or word.startswith("compute")
        if same and code <= here:
            return True
    return False


def _number(version: str) -> int:
    """Return 86 for ``8.6``, ``sm_86`` and ``compute_86``."""
    return int(re.sub(r"\D", "", version) or 0)


def compilation_fault(
    environment: Mapping[str, str], include: Path | None = None
) -> str:
    """Return what torch.compile lacks; empty if nothing.

    It builds a small library for Python; `include` is the folder of Python's headers.
    """
    path = environment.get("PATH")
    compilers = (shutil.which(name, path=path) for name in ("gcc", "clang"))
    if not environment.get("CC") and not any(compilers):
        return "no C compiler: install gcc"
    headers = include or Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").is_file():
        return f"no headers of Python in {headers}: install python3-dev"
    return ""


_FIELDS = ("index", "uuid", "name", "memory.total", "driver_version", "memory.free")
_CAPABILITY = "compute_cap"
"""Drivers before 510 do not have this field, and then answer nothing."""


def visible_gpus(
    environment: Mapping[str, str] = os.environ,
) -> tuple[Accelerator, ...]:
    """Ask ``nvidia-smi`` for the GPUs that this process may use.

    ``nvidia-smi`` lists all GPUs of the machine; CUDA shows a process only those that
    `CUDA_VISIBLE_DEVICES` names, by index or UUID, up to the first that is not there.
    A part of a GPU (MIG) has a UUID that the list lacks: its memory is unknown.
    """
    lines = _nvidia_smi([*_FIELDS, _CAPABILITY]) or _nvidia_smi(_FIELDS)
    listed = {key: gpu for line in lines for key, gpu in _read(line)}
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not listed:
        return tuple(gpu for key, gpu in listed.items() if key.isdigit())
    usable = []
    for word in map(str.strip, visible.split(",")):
        if word not in listed and not word.startswith("MIG-"):
            break
        usable.append(listed.get(word, Accelerator("MIG", word=word)))
    return tuple(usable)


def _read(line: str) -> Iterator[tuple[str, Accelerator]]:
    """Yield the GPU of a line, once by its index and once by its UUID."""
    words = [*map(str.strip, line.split(", ")), "", ""]
    index, uuid, name, memory, driver, free, capability = words[:7]
    whole, rest = (int(n) << 20 if n.isdigit() else None for n in (memory, free))
    gpu = Accelerator(name, whole, rest, driver, capability, uuid)
    yield from ((index, gpu), (uuid, gpu))


def _nvidia_smi(fields: Sequence[str]) -> list[str]:
    """Return a line for every GPU; nothing where there is no driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = f"--query-gpu={','.join(fields)}"
    words = [command, query, "--format=csv,noheader,nounits"]
    try:
        return subprocess.check_output(  # noqa: S603 - our own argument list, no shell
            words, stderr=subprocess.DEVNULL, text=True, timeout=NVIDIA_SMI_S
        ).splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


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


def chosen_engine(asked: str, device: str) -> tuple[str, str]:
    """Return ``torch`` or ``openvino`` for a word of `--engine`, and a warning.

    The warning says why ``openvino`` was asked for and is not taken; else it is empty.
    """
    installed = importlib.util.find_spec("openvino") is not None
    if asked == "torch" or (installed and device == "cpu"):
        return ("torch" if asked == "torch" else "openvino"), ""
    if asked == "auto":
        return "torch", ""
    why = (
        f"OpenVINO computes on a CPU, not on {device}"
        if installed
        else "OpenVINO is not installed (pip install 'nnunet-bridge[cpu]')"
    )
    return "torch", f"{why}: torch predicts."


def _cores() -> int:
    granted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if granted.isdigit() and int(granted) > 0:
        return int(granted)
    return system.usable_cores()


def hardware() -> JsonObject:
    """Describe the machine for the record of a training, without its name."""
    gpus = visible_gpus()
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": _cores(),
        "memory_bytes": system.physical_memory_bytes(),
        "gpus": [gpu.name for gpu in gpus],
        "gpu_driver": gpus[0].driver if gpus else "",
    }


def _processor() -> str:
    """Return the model of the processor, as the kernel calls it."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    named = re.search(r"^(?:model name|Hardware)\s*: (.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()
