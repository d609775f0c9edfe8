"""Folders that are whole or absent: made aside, then renamed to their final name.

The new folder lies beside its final place, on the same file system, and its name begins
with a dot, so that no reader mistakes it for a finished one (FAULTS F06, S05).
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from nnunet_bridge.formats.files import (
    clear_os_errors,
    is_there,
    process_lives,
)
from nnunet_bridge.formats.system import sync_to_disk
from nnunet_bridge.ops.naming import composed


def named_below(folder: Path, name: str) -> Path:
    """Return the path of a name below a folder, however its accents are stored."""
    path = folder / name
    if is_there(path):
        return path
    for part in Path(name).parts:
        there = folder / part
        if not is_there(there) and folder.is_dir():
            alike = (p for p in folder.iterdir() if composed(p.name) == composed(part))
            there = next(alike, there)
        folder = there
    return folder


@contextlib.contextmanager
def work_folder(beside: Path, purpose: str) -> Iterator[Path]:
    """Yield the absolute path of an empty folder in `beside`; remove it afterwards.

    `beside` is created if need be, and removed again if the block put nothing into it.
    Leftovers of ended processes with the same purpose are removed.

    Raises `EnvironmentFault` if the folder cannot be written.
    """
    with clear_os_errors(f"write {beside}"):
        made = [place for place in (beside, *beside.parents) if not place.exists()]
        beside.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(beside, purpose)
        work = beside.absolute() / f".{purpose}-{os.getpid()}-{secrets.token_hex(4)}"
        work.mkdir(0o700)  # what was judged there is what is used
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):
            for place in made:
                place.rmdir()


def put_in_place(new: Path, final: Path) -> None:
    """Rename the finished folder `new` to `final`; an old folder there is replaced.

    The old folder moves aside first and comes back if the new one cannot take its
    place. A crash between the two renames leaves the old folder beside `final`, under
    the name ``.<name>.replaced-...``, until the next call for `final` succeeds.

    Raises `EnvironmentFault` if the disk refuses; `final` is then as it was.
    """
    with clear_os_errors(f"write {final}"):
        for place in (*new.rglob("*"), new):
            sync_to_disk(place)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            _replace(new, final)
        else:
            new.rename(final)
        sync_to_disk(final.parent)
    for leftover in (new, *final.parent.glob(f".{final.name}.replaced-*")):
        shutil.rmtree(leftover, ignore_errors=True)


def _replace(new: Path, final: Path) -> None:
    """Swap two folders in two steps, or leave `final` as it was."""
    aside = final.with_name(f".{final.name}.replaced-{secrets.token_hex(4)}")
    final.rename(aside)
    try:
        new.rename(final)
    except OSError:
        aside.rename(final)
        raise
    aside.rename(new)


def _remove_leftovers(beside: Path, purpose: str) -> None:
    for leftover in beside.glob(f".{purpose}-*-*"):
        process = leftover.name.removeprefix(f".{purpose}-").split("-")[0]
        if not process_lives(process):
            shutil.rmtree(leftover, ignore_errors=True)
