"""What files hold, known without reading again those that nobody touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

from nnunet_bridge.formats.files import sha256_of


class Content(TypedDict):
    """One file: its SHA-256, and the size and time by which it is known again."""

    size: int
    mtime_ns: int
    sha256: str


def contents_of(
    files: Iterable[Path], root: Path, known: Mapping[str, Content]
) -> dict[str, Content]:
    """Return what every file holds, by its name below `root`.

    Parameters
    ----------
    files : iterable of Path
    root : Path
    known : mapping
        An earlier result; a file that has its size and time still is not read.
    """
    found: dict[str, Content] = {}
    for file in files:
        name, facts = file.relative_to(root).as_posix(), file.stat()
        before = known.get(name)
        if before is None or (before["size"], before["mtime_ns"]) != (
            facts.st_size,
            facts.st_mtime_ns,
        ):
            before = Content(
                size=facts.st_size,
                mtime_ns=facts.st_mtime_ns,
                sha256=sha256_of(file),
            )
        found[name] = before
    return found
