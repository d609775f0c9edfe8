"""The result of a pipeline, for the command that called it."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

JsonObject: TypeAlias = dict[str, Any]


class Summary(Protocol):
    """A result that can be printed for a person or for a program."""

    @property
    def exit_code(self) -> int:
        """0 if everything is done; see `docs/reference/commands.md`."""

    def as_json(self) -> JsonObject:
        """Return the one object that `--json` prints."""

    def as_text(self) -> str:
        """Return the text for a person."""
