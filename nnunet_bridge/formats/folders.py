"""Folders that are whole or absent: made aside, then given their name in one step.

The folder in the making lies beside its final place, on the same file system, and its
name begins with a dot, so that nothing takes it for a finished one (FAULTS F06, S05).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from nnunet_bridge.formats.files import clear_os_errors, process_lives

_HERE = -100
_EXCHANGE = 2


@contextlib.contextmanager
def work_folder(beside: Path, purpose: str) -> Iterator[Path]:
    """Give an empty folder in `beside`, by its whole path; it goes when the block ends.

    `beside` is made if need be, and is gone again if nothing was put into it. What dead
    processes left there for the same purpose is removed.

    Raises
    ------
    EnvironmentFault
        If the folder cannot be written.
    """
    with clear_os_errors(f"write {beside}"):
        made = [place for place in (beside, *beside.parents) if not place.exists()]
        beside.mkdir(parents=True, exist_ok=True)
        _remove_leavings(beside, purpose)
        work = beside.absolute() / f".{purpose}-{os.getpid()}-{secrets.token_hex(4)}"
        work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):
            for place in made:
                place.rmdir()


def put_in_place(new: Path, final: Path) -> None:
    """Give the finished folder `new` its final name; the one that bore it is removed.

    Where the system can exchange two names in one step, there is no moment without a
    folder of that name; elsewhere the old one comes back if the new one cannot take its
    place.

    Raises
    ------
    EnvironmentFault
        If the disk refuses; then `final` is as it was.
    """
    with clear_os_errors(f"write {final}"):
        _to_disk(new)
        final.parent.mkdir(parents=True, exist_ok=True)
        if not final.exists():
            new.rename(final)
        elif not _exchanged(new, final):
            _moved_aside(new, final)
        _to_disk(final.parent, content=False)
    shutil.rmtree(new, ignore_errors=True)


def _remove_leavings(beside: Path, purpose: str) -> None:
    for leaving in beside.glob(f".{purpose}-*-*"):
        process = leaving.name.removeprefix(f".{purpose}-").split("-")[0]
        if not process_lives(process):
            shutil.rmtree(leaving, ignore_errors=True)


def _moved_aside(new: Path, final: Path) -> None:
    """Let `new` take the place of `final` in two steps, or leave `final` as it was."""
    aside = final.with_name(f".{final.name}.replaced-{secrets.token_hex(4)}")
    final.rename(aside)
    try:
        new.rename(final)
    except OSError:
        aside.rename(final)
        raise
    aside.rename(new)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; False where that is not known."""
    if sys.platform != "linux":
        return False
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    if exchange is None:
        return False
    return bool(
        exchange(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0
    )


def _to_disk(folder: Path, *, content: bool = True) -> None:
    """Wait until a folder, and all that lies in it, is on the disk."""
    for place in (*(folder.rglob("*") if content else ()), folder):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
