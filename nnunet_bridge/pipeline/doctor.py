"""Check the machine and the installation."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path

from nnunet_bridge.core.errors import BridgeError, EnvironmentFault
from nnunet_bridge.core.findings import refusal
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.core.units import format_bytes
from nnunet_bridge.formats.files import free_bytes
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.machine import (
    Machine,
    TorchBuild,
    compilation_fault,
    fault_of,
)
from nnunet_bridge.nnunet.names import Workspace

OLDEST_PYTHON = (3, 11)
TESTED_NNUNET = "2.8"
ENOUGH_MEMORY_BYTES = 6_000_000_000
ENOUGH_DISK_BYTES = 10_000_000_000
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only looked at
ENOUGH_SHARED_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Check:
    """One check."""

    name: str
    ok: bool
    detail: str
    needed: bool = True  # whether everything fails without it

    @property
    def mark(self) -> str:
        """Its result in a word."""
        return "ok" if self.ok else "MISSING" if self.needed else "-"


@dataclass(frozen=True, slots=True)
class DoctorSummary:
    """All checks."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """5 if something that is needed is missing."""
        broken = any(check.needed and not check.ok for check in self.checks)
        return EnvironmentFault.exit_code if broken else 0

    def as_json(self) -> JsonObject:
        """Return the object that `doctor --json` prints."""
        return {"checks": [json_of(check, "needed") for check in self.checks]}

    def as_text(self) -> str:
        """Return one line a check."""
        return "\n".join(
            f"{check.mark:>8}  {check.name:10} {check.detail}" for check in self.checks
        )


def examine(root: Path, host: Host | None = None) -> DoctorSummary:
    """Check Python, nnU-Net, torch, GPU, cores, memory, disk, decoders and Slurm.

    `root` is the folder of the workspace.
    """
    host, python = host or Host(), platform.python_version()
    machine, torch = host.machine, host.torch()
    sbatch = shutil.which("sbatch")
    checks = [
        Check("Python", sys.version_info[:2] >= OLDEST_PYTHON, python),
        _path(os.environ.get("PYTHONPATH", "")),
        _package("nnU-Net", "nnunetv2", TESTED_NNUNET),
        _torch(torch),
        *_gpus(machine, torch),
        _compiler(),
        *_shared_memory(),
        Check("cores", machine.cores >= 1, f"{machine.cores}"),
        _memory(machine),
        _workspace(root),
        _disk(root),
        _decoders(),
        Check("Slurm", sbatch is not None, sbatch or "not installed", needed=False),
    ]
    return DoctorSummary(tuple(checks))


def _path(variable: str) -> Check:
    """Judge `PYTHONPATH`: an empty entry stands for the current folder."""
    if variable and not all(map(os.path.isabs, variable.split(os.pathsep))):
        fault = refusal("S13", "PYTHONPATH holds an entry that is no absolute path")
        detail = f"{fault}, so Python files beside your data could run: remove it"
        return Check("PYTHONPATH", ok=False, detail=detail, needed=False)
    return Check("PYTHONPATH", ok=True, detail="no relative entry")


def _package(name: str, distribution: str, tested: str = "") -> Check:
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return Check(name, ok=False, detail="not installed: pip install nnunet-bridge")
    if version.startswith(tested):
        return Check(name, ok=True, detail=version)
    detail = f"{version}; only {tested} is tested"
    return Check(name, ok=False, detail=detail, needed=False)


def _torch(torch: TorchBuild) -> Check:
    package = _package("torch", "torch")
    if not torch.version:
        return replace(package, ok=False, detail=torch.error)
    cuda = f"CUDA {torch.cuda} for {', '.join(torch.architectures)}"
    built = f"{package.detail}, {cuda if torch.cuda else 'for CPUs'}"
    return replace(package, detail=f"{built}{', for MPS' if torch.mps else ''}")


def _gpus(machine: Machine, torch: TorchBuild) -> Iterator[Check]:
    """Yield a check for each GPU, or one that says that there is none."""
    for gpu in machine.accelerators:
        fault = fault_of(gpu, torch)
        sizes = [gpu.free_bytes, gpu.memory_bytes]
        free, whole = ("?" if s is None else format_bytes(s) for s in sizes)
        detail = (
            f"{gpu.name}: {free} free of {whole}, driver {gpu.driver or '?'}, compute "
            f"capability {gpu.capability or '?'}: "
            f"{f'cannot be used: {fault}' if fault else 'can be used'}"
        )
        yield Check("GPU", not fault, detail, needed=False)
    if not machine.gpus:
        none = "no NVIDIA GPU: smoke runs work on the CPU, full training needs one"
        detail = "Apple's, used by --device auto" if torch.mps else none
        yield Check("GPU", torch.mps, detail, needed=False)


def _compiler() -> Check:
    """Check for what speeds up training on a GPU."""
    fault = compilation_fault(os.environ)
    slower = f"{fault}; without it, training on a GPU is not compiled and is slower"
    return Check("compiler", not fault, slower if fault else "found", needed=False)


def _shared_memory() -> Iterator[Check]:
    """Check the place through which loaders hand over their data; Linux only."""
    if SHARED_MEMORY.is_dir():
        size = shutil.disk_usage(SHARED_MEMORY).total
        enough = size >= ENOUGH_SHARED_BYTES
        small = "; too small beside a GPU: start the container with --shm-size=8g"
        detail = f"{format_bytes(size)}{'' if enough else small}"
        yield Check(str(SHARED_MEMORY), enough, detail, needed=False)


def _memory(machine: Machine) -> Check:
    free = machine.free_memory_bytes
    enough = free >= ENOUGH_MEMORY_BYTES
    more = "" if enough else f"; {format_bytes(ENOUGH_MEMORY_BYTES)} are recommended"
    return Check("memory", enough, f"{format_bytes(free)} free{more}", needed=False)


def _workspace(root: Path) -> Check:
    try:
        workspace = Workspace.at(root)
    except BridgeError as error:
        return Check("workspace", ok=False, detail=str(error))
    if not os.access(root, os.W_OK):
        detail = f"{root.absolute()} is not writable: name another folder with -w"
        return Check("workspace", ok=False, detail=detail)
    return Check("workspace", ok=True, detail=f"data in {workspace.raw_dir}")


def _disk(root: Path) -> Check:
    if not root.is_dir():
        return Check("disk", ok=False, detail="unknown: there is no workspace")
    free = free_bytes(root)
    enough = free >= ENOUGH_DISK_BYTES
    detail = f"{format_bytes(free)} free in {root.absolute()}"
    return Check("disk", enough, detail, needed=False)


def _decoders() -> Check:
    packages = {"gdcm": "python-gdcm", "openjpeg": "pylibjpeg-openjpeg"}
    missing = [name for module, name in packages.items() if not util.find_spec(module)]
    detail = "JPEG, JPEG-LS, JPEG 2000, HTJ2K, RLE"
    if missing:
        detail = f"{' and '.join(missing)} missing: some compressions fail"
    return Check("decoders", not missing, detail, needed=False)
