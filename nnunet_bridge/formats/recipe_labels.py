"""Change the labels in the text of a recipe; comments and all other entries stay."""

import json
import re
import tomllib
from collections.abc import Collection, Iterable

from nnunet_bridge.core.errors import RecipeError

_HEADER = re.compile(r"\s*\[labels\]\s*(#.*)?")
_ENTRY = re.compile(r"(\s*[^#=\s][^=]*=\s*)(\d+)(.*)", re.DOTALL)


def toml_key(name: str) -> str:
    """Return a name as a key of TOML."""
    plain = re.fullmatch(r"[A-Za-z0-9_-]+", name)
    return name if plain else json.dumps(name, ensure_ascii=False)


def with_labels(
    text: str, *, add: Iterable[str] = (), remove: Collection[str] = ()
) -> str:
    """Return a recipe with other names in ``[labels]``; values stay 1, 2, ...

    New names get the next values; those after a removed name move up.

    Raises `RecipeError` if the labels are written in a form that is not understood.
    """
    old = _labels(text)
    names = [name for name in sorted(old, key=old.__getitem__) if name not in remove]
    names = list(dict.fromkeys([*names, *add]))
    values = {name: value for value, name in enumerate(names, start=1)}
    new = _changed(text.splitlines(keepends=True), values)
    if _labels(new) != values:
        what = ", ".join(toml_key(name) for name in names)
        raise RecipeError(f"Write [labels] of the recipe by hand, in the order {what}.")
    return new


def _labels(text: str) -> dict[str, int]:
    """Return names and values; those of another form are left out."""
    try:
        labels = tomllib.loads(text).get("labels", {})
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"The recipe is not valid TOML: {error}.") from error
    return {name: value for name, value in labels.items() if isinstance(value, int)}


def _changed(lines: list[str], values: dict[str, int]) -> str:
    """Return the lines with the entries of ``[labels]`` replaced."""
    left = dict(values)
    new: list[str] = []
    inside, end = False, len(lines)
    for line in lines:
        if line.lstrip().startswith("["):
            inside = bool(_HEADER.fullmatch(line.rstrip()))
        if inside and (entry := _ENTRY.fullmatch(line)):
            (name,) = _labels(f"[labels]\n{line}") or ("",)
            if name not in left:
                continue
            line = f"{entry[1]}{left.pop(name)}{entry[3]}"  # noqa: PLW2901 - its new text
        new.append(line if line.endswith("\n") else f"{line}\n")
        if inside and line.strip():
            end = len(new)
    added = [f"{toml_key(name)} = {value}\n" for name, value in left.items()]
    return "".join([*new[:end], *added, *new[end:]])
