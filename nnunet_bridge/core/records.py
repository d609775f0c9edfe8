"""Values as JSON and back: the fields of a dataclass are the keys of its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.summary import JsonObject

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Value = TypeVar("Value")

_ADAPTERS: dict[type, Any] = {}


def to_record(value: Any) -> JsonObject:  # noqa: ANN401 - any dataclass
    """Return the fields of a dataclass as JSON, in their order."""
    record: JsonObject = _adapter(type(value)).dump_python(value, mode="json")
    return record


def from_record(kind: type[Value], content: Mapping[str, Any], what: str) -> Value:
    """Return the dataclass that `to_record` wrote; other keys are ignored.

    Raises InputError if a field is missing or has another type, or the value refuses
    it; `what` names the record, such as ``quality rating``.
    """
    from pydantic import ValidationError

    try:
        value: Value = _adapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the record"
        raise InputError(f"The {what} is damaged: {place}: {first['msg']}.") from error
    return value


def _adapter(kind: type[Value]) -> TypeAdapter[Value]:
    """Return pydantic's reader and writer of a dataclass, made once."""
    from pydantic import TypeAdapter

    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    adapter: TypeAdapter[Value] = _ADAPTERS[kind]
    return adapter
