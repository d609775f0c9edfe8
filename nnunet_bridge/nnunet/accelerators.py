"""GPUs, and whether the installed torch can use them.

`inside.gpu` asks torch in a process of its own; everything here is decided from the
facts alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """Return why torch cannot use a GPU, with the way out; empty if it can.

    Examples
    --------
    >>> fault_of(Accelerator("T4"), TorchBuild("2.9.0+cpu"))[:40]
    'torch 2.9.0+cpu is built for CPUs only: '
    """
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
