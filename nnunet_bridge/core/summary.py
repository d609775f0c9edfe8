"""The result of a pipeline, for the command that called it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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


def json_of(result: DataclassInstance, *omitted: str) -> JsonObject:
    """Return the fields of a dataclass, but the omitted ones, as JSON values.

    A part with a method `as_json` is what that returns; a path is a string, and a
    dataclass without one has its fields.
    """
    names = [field.name for field in fields(result) if field.name not in omitted]
    return {name: _json_value(getattr(result, name)) for name in names}


def _json_value(value: Any) -> Any:  # noqa: ANN401 - any field of a result
    if hasattr(value, "as_json"):
        return value.as_json()
    if is_dataclass(value) and not isinstance(value, type):
        return json_of(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _json_value(each) for key, each in value.items()}
    return list(map(_json_value, value)) if isinstance(value, list | tuple) else value
