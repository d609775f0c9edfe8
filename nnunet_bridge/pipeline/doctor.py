"""Check the machine and the installation."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from nnunet_bridge.core.errors import BridgeError, EnvironmentFault
from nnunet_bridge.core.findings import refusal
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.core.units import format_bytes
from nnunet_bridge.formats.files import free_bytes
from nnunet_bridge.nnunet.machine import Machine, this_machine
from nnunet_bridge.nnunet.names import Workspace

OLDEST_PYTHON = (3, 11)
TESTED_NNUNET = "2.8"
ENOUGH_MEMORY_BYTES = 6_000_000_000
ENOUGH_DISK_BYTES = 10_000_000_000


@dataclass(frozen=True, slots=True)
class Check:
    """One check."""

    name: str
    ok: bool
    detail: str

    needed: bool = True
    """Whether everything fails without it."""

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


def examine(root: Path, machine: Machine | None = None) -> DoctorSummary:
    """Check Python, nnU-Net, torch, GPU, cores, memory, disk, decoders and Slurm.

    `root` is the folder of the workspace.
    """
    machine, python = machine or this_machine(), platform.python_version()
    sbatch = shutil.which("sbatch")
    checks = [
        Check("Python", sys.version_info[:2] >= OLDEST_PYTHON, python),
        _path(os.environ.get("PYTHONPATH", "")),
        _package("nnU-Net", "nnunetv2", TESTED_NNUNET),
        _package("torch", "torch"),
        _gpu(machine),
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


def _gpu(machine: Machine) -> Check:
    none = "none: smoke runs work on the CPU, full training needs one"
    detail = f"{machine.gpus} NVIDIA" if machine.gpus else none
    return Check("GPU", bool(machine.gpus), detail, needed=False)


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
