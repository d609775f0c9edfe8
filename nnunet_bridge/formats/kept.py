"""Results on the disk that hold while their inputs are the same (guarantee R12).

A second run of a command does only what is missing. So a result is kept with the facts
that it was made from: hashes of inputs, options, versions. It holds while the facts are
the same; a missing, damaged or older file does not hold.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict  # pydantic reads it, on Python 3.11 too

from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.files import readable_object, sha256_of, write_json


@dataclass(frozen=True, slots=True)
class Kept:
    """A JSON file whose content holds for exactly these facts."""

    file: Path
    facts: Mapping[str, object]
    """The inputs of the result as JSON values; stored as fields of the file."""

    def load(self) -> JsonObject | None:
        """Return the content if it still holds, else None."""
        content, damage = readable_object(self.file)
        return None if damage or not holds(content, self.facts) else content

    def save(self, result: Mapping[str, object]) -> JsonObject:
        """Write facts and result, whole or not at all, and return both."""
        content = {**self.facts, **result}
        write_json(self.file, content)
        return content


def holds(content: Mapping[str, object], facts: Mapping[str, object]) -> bool:
    """Whether a kept content was made from these facts."""
    complete = bool(content) and content.keys() >= facts.keys()
    return complete and not differences(content, facts)


def differences(
    content: Mapping[str, object], facts: Mapping[str, object]
) -> list[str]:
    """Return the facts of which the content records another value.

    A fact that it does not record, such as one of a later version, is no difference.
    """
    return [key for key in facts if key in content and content[key] != facts[key]]


def files_unchanged(folder: Path, hashes: Mapping[str, str]) -> bool:
    """Whether every named file of a folder has the SHA-256 that is on record."""
    return all(
        (folder / name).is_file() and sha256_of(folder / name) == sha256
        for name, sha256 in hashes.items()
    )


class Content(TypedDict):
    """One file: its SHA-256, and the size and time that show whether it changed."""

    size: int
    mtime_ns: int
    sha256: str


def contents_of(
    files: Iterable[Path], root: Path, known: Mapping[str, Content]
) -> dict[str, Content]:
    """Hash files by their name below `root`; read only those that changed.

    A file whose size and time are those in `known`, an earlier result, is not read.
    """
    found: dict[str, Content] = {}
    for file in files:
        name, facts = file.relative_to(root).as_posix(), file.stat()
        size, mtime_ns = facts.st_size, facts.st_mtime_ns
        before = known.get(name)
        if before and (before["size"], before["mtime_ns"]) == (size, mtime_ns):
            found[name] = before
        else:
            found[name] = Content(size=size, mtime_ns=mtime_ns, sha256=sha256_of(file))
    return found
