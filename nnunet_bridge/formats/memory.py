"""Memory: asked for before it is taken, so that a refusal can name the figure (F10)."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from nnunet_bridge.core.findings import Refused
from nnunet_bridge.formats.files import megabytes

_ALWAYS_THERE = 64 * 2**20
"""What is never asked for: 64 MiB."""

_GROUP = Path("/sys/fs/cgroup")
"""Where the kernel tells what a container may take and takes."""


def free_memory_bytes() -> int:
    """Return how much more memory this process may take.

    The smallest of what the machine has left, what its container may still take
    (cached files do not count: they are given back) and its own limit.
    """
    limits = [_of_the_machine(), *_of_the_container(), *_of_the_process()]
    return max(0, min(limits))


def ask_for_memory(needed_bytes: int, what: str) -> None:
    """Refuse what would not fit into the memory that is left.

    Parameters
    ----------
    needed_bytes : int
        What will be taken.
    what : str
        For whom, as the message begins.

    Raises
    ------
    Refused
        With code F10 and both figures.
    """
    if needed_bytes <= _ALWAYS_THERE:
        return
    free = free_memory_bytes()
    if needed_bytes > free:
        raise Refused.because(
            "F10",
            f"{what} needs {megabytes(needed_bytes)} of memory, but {megabytes(free)} "
            "are free: close other programs, or use a machine with more.",
        )


def _of_the_machine() -> int:
    for name, value in _fields("/proc/meminfo"):
        if name == "MemAvailable":
            return value
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_the_container() -> Iterator[int]:
    try:
        limit, used, details = (
            (_GROUP / f"memory.{name}").read_text(encoding="ascii")
            for name in ("max", "current", "stat")
        )
    except OSError:
        return
    if limit.strip().isdigit():
        kinds = dict(line.split() for line in details.splitlines())
        given_back = int(kinds.get("file", 0)) - int(kinds.get("shmem", 0))
        yield int(limit) - int(used) + given_back


def _of_the_process() -> Iterator[int]:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    for name, value in _fields("/proc/self/status"):
        if name == "VmSize":
            yield limit - value


def _fields(file: str) -> Iterator[tuple[str, int]]:
    """Go through the lines of a file of the kernel that hold kibibytes."""
    path = Path(file)
    if not path.exists():
        return
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            yield name, int(value.split()[0]) * 1024
