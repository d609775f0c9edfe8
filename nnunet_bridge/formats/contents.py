"""Hash files, but read only those that changed since the last time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

from nnunet_bridge.formats.files import sha256_of


class Content(TypedDict):
    """One file: its SHA-256, and the size and time that show whether it changed."""

    size: int
    mtime_ns: int
    sha256: str


def contents_of(
    files: Iterable[Path], root: Path, known: Mapping[str, Content]
) -> dict[str, Content]:
    """Return the content of every file by its name below `root`.

    A file whose size and time are those in `known`, an earlier result, is not read.
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
