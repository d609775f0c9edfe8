"""Declare the arguments and options of a command as the fields of a dataclass.

A command takes one value: the dataclass of what was asked for. Each field is declared
once, with its type, its click option and the panel of the help that shows it::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class _Mesh:
        labels: Path = argument(type=EXISTING)
        out: Path = option("-o", "--out", type=FOLDER, required=True, help="...")
        faces: int | None = option("--faces", type=int, group=Group.OUTPUT, help="...")
        scans: ScanChoice = part(ScanChoice)


    @command(_Mesh)
    def mesh(session: Session, asked: _Mesh) -> Summary: ...

A field that several commands share is declared by a function in `cli.options`, which
returns a new field on every call.
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
    return field(metadata={_MAKE: lambda name: click.argument(name, **settings)})


def option(*flags: str, group: Group = Group.USUAL, **settings: Any) -> Any:
    """Declare a field as an option in a panel; `settings` are those of `click.option`.

    A default that is a value is shown in the help; ``show_default=False`` hides it.
    """
    shown = settings.get("default") not in (None, "") and not settings.get("is_flag")
    settings.setdefault("show_default", shown)

    def make(name: str) -> Decorator:
        return click.option(*flags, name, panel=group, **settings)

    return field(metadata={_MAKE: make, "group": group})


def part(options: type[Asked]) -> Any:
    """Declare a field whose value is another dataclass of options."""
    return field(metadata={_PART: options})


def decorators(options: type[DataclassInstance]) -> Iterator[tuple[Decorator, str]]:
    """Yield the click decorator and the panel ("" for an argument) of every field."""
    for each in fields(options):
        inner = each.metadata.get(_PART)
        if inner is None:
            yield each.metadata[_MAKE](each.name), each.metadata.get("group", "")
        else:
            yield from decorators(inner)


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
