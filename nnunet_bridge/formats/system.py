"""What POSIX systems and Windows do differently, each with a fallback.

Every other module uses only what Python has on Linux, macOS and Windows; a test looks
the names up in typeshed. What is here asks for a function, not for the name of the
system, so that a test can take the function away.
"""

import contextlib
import ctypes
import errno
import getpass
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any


def _optional(name: str) -> Any:  # noqa: ANN401 - a module that one system has
    with contextlib.suppress(ImportError):
        return import_module(name)
    return None


fcntl, resource, msvcrt = map(_optional, ("fcntl", "resource", "msvcrt"))
kernel32: Any = getattr(getattr(ctypes, "windll", None), "kernel32", None)

# Files.

BINARY = getattr(os, "O_BINARY", 0)
"""Flag of `os.open`: without it Windows changes the line ends."""


def open_not_through_link(
    path: str | os.PathLike[str], flags: int, mode: int = 0o666
) -> int:
    """Open a file as `os.open` does, but follow no link and wait for no pipe.

    Windows has no such flag, so the link is looked for before: one that is put there
    in between is followed.

    Raises `OSError` with ``errno.ELOOP`` or ``errno.EMLINK`` for a link.
    """
    no_link = getattr(os, "O_NOFOLLOW", 0)
    if not no_link and os.path.islink(path):  # noqa: PTH114 - does not raise for a long path
        raise OSError(errno.ELOOP, "a link", os.fspath(path))
    no_wait = getattr(os, "O_NONBLOCK", 0)
    return os.open(path, flags | no_link | no_wait | BINARY, mode)


def seek_and_read(descriptor: int, count: int, at: int) -> bytes:
    """Return up to `count` bytes from place `at` of a file."""
    os.lseek(descriptor, at, os.SEEK_SET)
    return os.read(descriptor, count)


read_at: Callable[[int, int, int], bytes] = getattr(os, "pread", seek_and_read)
"""`os.pread`; elsewhere the same with two calls, for a file of one thread."""


def read_into(descriptor: int, place: memoryview, at: int) -> int:
    """Fill `place` with the bytes from `at`; return how many were read."""
    if hasattr(os, "preadv"):
        return int(os.preadv(descriptor, [place], at))
    found = read_at(descriptor, place.nbytes, at)
    place.cast("B")[: len(found)] = found
    return len(found)


def sync_to_disk(path: Path) -> None:
    """Wait until a file, or the listing of a folder, is on the disk.

    Windows does so for files that are open for writing, and for no folder.
    """
    posix = hasattr(os, "O_DIRECTORY")
    if not posix and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if posix else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(link: Path, target: Path) -> None:
    """Make a link to a file or a folder; copy it where links need an administrator."""
    try:
        link.symlink_to(target)
    except OSError as error:
        if getattr(error, "winerror", None) is None:
            raise
        if target.is_dir():
            shutil.copytree(target, link)
        else:
            shutil.copyfile(target, link)


# Locks.


def locks_are_advisory() -> bool:
    """Whether others can read and write a locked file; Windows forbids it."""
    return fcntl is not None


def is_locked(descriptor: int) -> bool:
    """Whether another process holds the lock of `filelock.FileLock` on an open file."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        else:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    except OSError:
        return True
    return False


# Processes.


class Ending(StrEnum):
    """How a process is asked to end, from polite to final."""

    INTERRUPT = "SIGINT"
    TERMINATE = "SIGTERM"
    KILL = "SIGKILL"


def new_group() -> dict[str, Any]:
    """Return the options of `subprocess.Popen` for a process group of its own."""
    if hasattr(os, "killpg"):
        return {"start_new_session": True}
    return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200)}


def end_group(leader: int, how: Ending) -> None:
    """End a process of `new_group` and all that it started; not an error if it has.

    Windows asks by Ctrl-Break, then ends the tree of processes by ``taskkill``.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(leader, getattr(signal, how))
        elif how is Ending.INTERRUPT:
            os.kill(leader, getattr(signal, "CTRL_BREAK_EVENT", 1))
        else:
            words = ["taskkill", "/T", "/F", "/PID", str(leader)]
            subprocess.run(words, capture_output=True, check=False)  # noqa: S603 - our own argument list


def end_this_process(*, with_group: bool) -> None:
    """End this process at once, and its group."""
    if with_group:
        end_group(os.getpid(), Ending.KILL)
    if hasattr(signal, "SIGKILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(1)


def leads_its_group() -> bool:
    """Whether this process was started with `new_group`."""
    return not hasattr(os, "getpgrp") or os.getpgrp() == os.getpid()


def ended_by(exit_code: int | None, name: str) -> bool:
    """Whether a process ended by a signal, such as ``SIGKILL``; never on Windows."""
    number = getattr(signal, name, None)
    return number is not None and exit_code == -number


def is_child_of(parent: int) -> bool:
    """Whether the process that started this one still runs."""
    if kernel32 is not None:  # Windows keeps the number of a parent that has ended
        return process_exists(parent)
    return os.getppid() == parent


def process_exists(number: int) -> bool:
    """Whether a process of this computer runs; True if in doubt."""
    if kernel32 is not None:  # `os.kill(number, 0)` would be Ctrl-C there
        synchronize, still_runs = 0x00100000, 0x102
        handle = kernel32.OpenProcess(synchronize, 0, number)
        if not handle:
            denied = 5
            return bool(kernel32.GetLastError() == denied)
        try:
            return bool(kernel32.WaitForSingleObject(handle, 0) == still_runs)
        finally:
            kernel32.CloseHandle(handle)
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def processor_time_limit(
    seconds: float, stop: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Call `stop`, which raises, when the block has taken so much processor time.

    For the main thread only. Windows has no such timer: there is no limit.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return
    posix: Any = signal  # for Windows, typeshed has none of these names
    before = signal.signal(posix.SIGVTALRM, stop)
    posix.setitimer(posix.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        posix.setitimer(posix.ITIMER_VIRTUAL, 0)
        signal.signal(posix.SIGVTALRM, before)


def user() -> str:
    """Return the number of the user, or the name where there are no numbers."""
    return str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()


def others_can_write(folder: Path) -> bool:
    """Whether a folder belongs to another user, or others can write to it.

    Windows keeps that elsewhere: False, as folders of a user are closed to others.
    """
    facts = folder.lstat()
    if not hasattr(os, "getuid"):
        return False
    return facts.st_uid != os.getuid() or bool(facts.st_mode & 0o022)


# Limits of the machine.


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_memory_bytes() -> int:
    """Return the memory of the machine."""
    if hasattr(os, "sysconf"):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return _memory_of_windows()[0]


def available_memory_bytes() -> int:
    """Return the available memory where no ``/proc/meminfo`` has it.

    On macOS that is all the memory of the machine.
    """
    return (
        physical_memory_bytes() if hasattr(os, "sysconf") else _memory_of_windows()[1]
    )


def _memory_of_windows() -> tuple[int, int]:
    """Return total and available bytes (``GlobalMemoryStatusEx``)."""
    names = (
        "total",
        "free",
        "page_total",
        "page_free",
        "own_total",
        "own_free",
        "more",
    )

    class Status(ctypes.Structure):
        _fields_ = (
            *(("length", ctypes.c_uint32), ("load", ctypes.c_uint32)),
            *((name, ctypes.c_uint64) for name in names),
        )

    status = Status(length=ctypes.sizeof(Status))
    kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return status.total, status.free


def address_space_limit() -> int | None:
    """Return the limit of this process in bytes; None if it has none."""
    if resource is None:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else int(limit)


def limit_memory(more_bytes: int) -> None:
    """Let this process take so much more memory; only Linux can."""
    statm = Path("/proc/self/statm")
    if resource is None or not statm.exists():
        return
    pages = int(statm.read_text(encoding="ascii").split()[0])
    used = pages * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes, hard))


def peak_memory_bytes() -> int | None:
    """Return the most memory that this process has had; None if unknown."""
    if resource is None:
        return None
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024
