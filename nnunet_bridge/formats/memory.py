"""Memory that is free, and the refusal of what does not fit into it (F10).

The rule of fault F10 stands here once. One case or file that is too large is refused,
and the other cases go on (`Refused`, exit code 3 or 4). Where nothing can start, the
machine is at fault (`EnvironmentFault`, exit code 5).
"""

from collections.abc import Iterator
from pathlib import Path

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.units import format_bytes
from nnunet_bridge.formats import system

LARGER_MACHINE = "close other programs, or use a machine with more memory"
"""The way out that always exists."""

_NOT_CHECKED_BYTES = 64 * 2**20
"""Requests up to this size pass without a look at the machine."""

_GROUP = Path("/sys/fs/cgroup")
"""Where the kernel shows the limit and the use of a container's memory."""


def free_memory_bytes(group: Path = _GROUP) -> int:
    """Return how much more memory this process may take.

    The smallest of: memory that the machine has left, memory that its container may
    still take (cached files do not count, the kernel gives them back), and the limit of
    the process itself.
    """
    return max(0, min(_limits(group)))


def ask_for_memory(needed_bytes: int, what: str) -> None:
    """Refuse one case or file that does not fit into the free memory (F10)."""
    if needed_bytes > _NOT_CHECKED_BYTES:
        require_memory(needed_bytes, free_memory_bytes(), what)


def require_memory(
    needed_bytes: int,
    free_bytes: int,
    what: str,
    *,
    kind: str = "memory",
    way_out: str = LARGER_MACHINE,
    of_one_case: bool = True,
) -> None:
    """Refuse what needs more memory than is free.

    `what` begins the message, `way_out` (an imperative) ends it. `of_one_case` says
    whether other cases can go on; False where nothing can start.

    Raises `Refused` with code F10 and both figures for one case, `EnvironmentFault`
    with the same where nothing can start.
    """
    if needed_bytes <= free_bytes:
        return
    message = (
        f"{what} needs {format_bytes(needed_bytes)} of {kind}, but "
        f"{format_bytes(free_bytes)} is available: {way_out}."
    )
    if of_one_case:
        raise Refused.because("F10", message)
    raise EnvironmentFault(message, code="F10")


def _limits(group: Path) -> Iterator[int]:
    """Yield what the machine, the container and the process still allow."""
    available = dict(_fields("/proc/meminfo")).get("MemAvailable")
    yield system.available_memory_bytes() if available is None else available
    yield from _of_the_container(group)
    limit = system.address_space_limit()
    used = dict(_fields("/proc/self/status")).get("VmSize")
    if limit is not None and used is not None:
        yield limit - used


def _of_the_container(group: Path) -> Iterator[int]:
    try:
        limit, used, details = (
            (group / f"memory.{name}").read_text(encoding="ascii")
            for name in ("max", "current", "stat")
        )
    except OSError:
        return
    if limit.strip().isdigit():
        kinds = dict(line.split() for line in details.splitlines())
        given_back = int(kinds.get("file", 0)) - int(kinds.get("shmem", 0))
        yield int(limit) - int(used) + given_back


def _fields(file: str) -> Iterator[tuple[str, int]]:
    """Yield the fields of a kernel file that are given in kibibytes, in bytes."""
    path = Path(file)
    if not path.exists():
        return
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            yield name, int(value.split()[0]) * 1024
