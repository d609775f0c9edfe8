"""The folders that the page may show; every path from a browser passes through here."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.errors import InputError, SecurityError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.files import clear_os_errors


@dataclass(frozen=True, slots=True)
class Roots:
    """Folders, with everything below them; links that lead out of them do not count."""

    folders: tuple[Path, ...]  # resolved, the workspace first

    @classmethod
    def of(cls, folders: Iterable[Path]) -> "Roots":
        """Return the roots, each once."""
        return cls(tuple(dict.fromkeys(folder.resolve() for folder in folders)))

    def path(self, text: str) -> Path:
        """Return an absolute path, resolved, which need not exist.

        Raises `SecurityError` if it, or what its links lead to, lies outside.
        """
        asked = Path(text)
        if not asked.is_absolute() or "\0" in text:
            raise SecurityError(f"{text!r} is not an absolute path.")
        with clear_os_errors(f"read {asked}"):
            resolved = asked.resolve()
        if not any(resolved.is_relative_to(root) for root in self.folders):
            places = ", ".join(map(str, self.folders))
            raise SecurityError(
                f"{asked} is outside the folders of this page ({places}). Start "
                "`nnunet-bridge gui` with --root to add one."
            )
        return resolved

    def listing(self, text: str) -> JsonObject:
        """Return the folders in a folder, without hidden ones."""
        folder = self.path(text)
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder.")
        with clear_os_errors(f"list {folder}"), os.scandir(folder) as entries:
            names = (each.name for each in entries if each.is_dir())
            shown = [name for name in names if not name.startswith(".")]
        inside = any(folder.parent.is_relative_to(root) for root in self.folders)
        return {
            "path": str(folder),
            "parent": str(folder.parent) if inside else None,
            "folders": sorted(shown, key=str.lower),
        }
