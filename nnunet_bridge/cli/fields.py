"""Declare the arguments and options of a command as the fields of a dataclass.

A command takes one value: the dataclass of what was asked for. Each field is declared
once, with its type, its flags, its help and the panel of the help page::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class _Mesh:
        labels: Path = argument(type=EXISTING)
        out: Path = option("-o", "--out", "Folder of the meshes.", type=FOLDER)
        faces: int | None = option("--faces", "Most faces of a mesh.", metavar="N")
        scans: ScanChoice = part(ScanChoice)


    @command(_Mesh)
    def mesh(session: Session, asked: _Mesh) -> Summary: ...

The type of a field decides what it can: ``bool`` is a flag, a tuple is an option that
may be repeated, and an option that is neither, has no default and may not be None, is
required. A field that several commands share is declared by a function in
`cli.options`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import Field, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Asked = TypeVar("Asked", bound="DataclassInstance")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_MAKE = "make"
_PART = "part"
_TYPES = {"int": int, "float": float}


class Group(StrEnum):
    """The panels of a help page, in their order."""

    USUAL = "Options"
    INPUT = "Input"
    SERIES = "Choice of series"
    MODEL = "Model"
    OUTPUT = "Output"
    MACHINE = "Machine"
    COMMON = "Common options"


def argument(**settings: Any) -> Any:
    """Declare a field as an argument; `settings` are those of `click.argument`."""
    return field(metadata={_MAKE: settings})


def option(*words: str, group: Group = Group.USUAL, **settings: Any) -> Any:
    """Declare a field as an option of a panel.

    Parameters
    ----------
    words : str
        The flags, then the help.
    group : Group
        The panel.
    settings
        Those of `click.option`; or `choices`, of which the first is the default unless
        the field may be None. A default is shown in the help.
    """
    return field(metadata={_MAKE: (words, settings), "group": group})


def part(options: type[Asked]) -> Any:
    """Declare a field whose value is another dataclass of options."""
    return field(metadata={_PART: options})


def decorators(options: type[DataclassInstance]) -> Iterator[tuple[Decorator, str]]:
    """Yield the click decorator and the panel ("" for an argument) of every field."""
    for each in fields(options):
        group = each.metadata.get("group", "")
        if _PART in each.metadata:
            yield from decorators(each.metadata[_PART])
        elif group:
            yield _option(each), group
        else:
            yield click.argument(each.name, **each.metadata[_MAKE]), ""


def _option(declared: Field[Any]) -> Decorator:
    """Return the click option of a field; its settings override its type."""
    (*flags, text), given_settings = declared.metadata[_MAKE]
    settings, kind = dict(given_settings), declared.type
    kind = kind.__name__ if type(kind) is type else str(kind)
    is_flag, optional = kind.startswith("bool"), "None" in kind
    multiple = kind.startswith("tuple") and "nargs" not in settings
    choices = settings.pop("choices", None)
    if choices:
        settings = {"type": click.Choice(choices), "is_flag": False, **settings}
    if optional:
        settings.setdefault("default", None)
    elif choices and not multiple:
        settings.setdefault("default", choices[0])
    inferred = {
        "type": _TYPES.get(kind.partition(" ")[0]),
        "is_flag": is_flag,
        "multiple": multiple,
        "required": not (is_flag or multiple or "default" in settings),
        "show_default": str(settings.get("default", "")) not in ("", "None", "False"),
        "metavar": _metavar(settings.get("type"), kind),
        "panel": declared.metadata["group"],
    }
    return click.option(*flags, declared.name, help=text, **{**inferred, **settings})


def _metavar(kind: object, annotation: str) -> str | None:
    if isinstance(kind, click.Path):
        return "FILE" if kind.file_okay else "DIR"
    return "N" if annotation.startswith("int") else None


def asked_for(options: type[Asked], words: dict[str, Any]) -> Asked:
    """Return the dataclass of the values that click has parsed."""

    def value(each: Field[Any]) -> object:
        inner = each.metadata.get(_PART)
        return words[each.name] if inner is None else asked_for(inner, words)

    return options(**{each.name: value(each) for each in fields(options)})


def given(options: DataclassInstance) -> dict[str, Any]:
    """Return the fields that the user gave, by name; all others are None."""
    values = {each.name: getattr(options, each.name) for each in fields(options)}
    return {name: value for name, value in values.items() if value is not None}
