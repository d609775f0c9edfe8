"""A result on the disk that holds while its inputs are the same (guarantee R12).

A second run of a command does only what is missing. Whatever a command keeps, it keeps
with the facts that it was made from: hashes of inputs, options, versions. The result
holds while the facts are the same; a missing, damaged or older file holds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.files import readable_object, sha256_of, write_json


@dataclass(frozen=True, slots=True)
class Kept:
    """A JSON file whose content holds for exactly these facts.

    Parameters
    ----------
    file : Path
        Where it is kept.
    facts : mapping
        What it was made from; JSON values. Stored as fields of the file.
    """

    file: Path
    facts: Mapping[str, object]

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
    return (
        bool(content)
        and content.keys() >= facts.keys()
        and not differences(content, facts)
    )


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
