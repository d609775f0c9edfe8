"""Values as JSON and back: the fields of a class are the keys of its record.

A record that a file holds may have a version: its key is ``schema``, and the class
allows the versions that it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.summary import JsonObject

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Value = TypeVar("Value")

_ADAPTERS: dict[type, Any] = {}


class NewerVersionError(InputError):
    """A record was written by a newer version of this package."""


def to_record(value: Any) -> JsonObject:  # noqa: ANN401 - any dataclass
    """Return the fields of a dataclass as JSON, in their order."""
    record: JsonObject = _adapter(type(value)).dump_python(value, mode="json")
    return record


def from_record(
    kind: type[Value], content: Mapping[str, Any], what: str, way_out: str = ""
) -> Value:
    """Return the dataclass or pydantic model that a record holds.

    Other keys are ignored. Raises InputError if a field is missing or has another type,
    or the value refuses it; `NewerVersionError` if the record has another ``schema``.
    `what` names the record, such as ``quality rating``; `way_out` says what to do.
    """
    from pydantic import ValidationError

    try:
        value: Value = _adapter(kind).validate_python(content)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        wrong = {fault["loc"] for fault in faults}
        schema = content.get("schema") if ("schema",) in wrong else None
        if type(schema) is int:
            ways = " or ".join(filter(None, ["update nnunet-bridge", way_out]))
            text = f"This version cannot read schema {schema} of the {what}: {ways}."
            raise NewerVersionError(text) from error
        place = ".".join(map(str, faults[0]["loc"])) or "the record"
        why = f"{place}: {faults[0]['msg'].removeprefix('Value error, ')}"
        raise damaged(what, why, way_out) from error
    return value


def json_schema(kind: type) -> JsonObject:
    """Return the JSON schema of the records of a dataclass or pydantic model."""
    return _adapter(kind).json_schema()


def damaged(what: str, why: str, way_out: str = "") -> InputError:
    """Return the refusal of a record."""
    rest = f"; {way_out}." if way_out else "."
    return InputError(f"The {what} is damaged: {why}{rest}")


def _adapter(kind: type[Value]) -> TypeAdapter[Value]:
    """Return pydantic's reader and writer of a dataclass, made once."""
    from pydantic import TypeAdapter

    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    adapter: TypeAdapter[Value] = _ADAPTERS[kind]
    return adapter
