"""Map another tool's label names or values to our structures.

A map is written as TOML, JSON or CSV, or as words ``theirs=ours``. Several of their
labels may make up one of our structures; labels that the map does not name are left
out.
"""

from __future__ import annotations

import csv
import io
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.files import read_json, read_text

MAP_ENDINGS = (".toml", ".json", ".csv")
_COLUMNS = ("label", "structure")


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Another tool's labels, and our structures that they are part of."""

    structures: Mapping[str, str]  # their name, or their value as text -> our name
    values: Mapping[str, int] = field(default_factory=dict)
    """Their name -> value in their files."""

    def with_values(self, more: Mapping[str, int]) -> LabelMap:
        """Return the map with values for further names; existing values stay."""
        return LabelMap(self.structures, {**more, **self.values})

    def by_value(self, table: LabelTable) -> dict[int, int]:
        """Return our value for each of their values.

        Raises `InputError` with all problems: a structure that we do not have, a label
        without a known value, or one value with two structures.
        """
        ours = {label.name: label.value for label in table}
        known = f"only {', '.join(ours)}"
        problems = [
            f"{theirs}={name}: we have no structure {quoted(name)}, {known}"
            for theirs, name in self.structures.items()
            if name not in ours
        ]
        found: dict[int, int] = {}
        for theirs, name in self.structures.items():
            value = self._value(theirs)
            if value is None:
                problems.append(
                    f"{theirs}={name}: the value of {quoted(theirs)} is unknown; use "
                    "the value itself, add [names] to the map, or put a dataset.json "
                    "beside the files"
                )
            elif name in ours and found.setdefault(value, ours[name]) != ours[name]:
                problems.append(f"{theirs}={name}: value {value} is mapped twice")
        if problems:
            raise InputError("The label map cannot be used:\n" + "\n".join(problems))
        return found

    def name_of(self, value: int) -> str:
        """Return the other tool's name of a value, or the value itself."""
        named = (name for name, own in self.values.items() if own == value)
        return next(named, str(value))

    def _value(self, theirs: str) -> int | None:
        if theirs in self.values:
            return self.values[theirs]
        return int(theirs) if theirs.isdecimal() and int(theirs) > 0 else None


def parse_label_map(words: Sequence[str]) -> LabelMap:
    """Return the map in files, and in words ``theirs=ours`` with commas between.

    Raises `UsageError` if a word is neither a file nor a pair. Raises `InputError` if a
    file holds no map, or one label gets two structures.

    Examples
    --------
    >>> parse_label_map(["femur_left=femur,femur_right=femur", "75=tibia"]).structures
    {'femur_left': 'femur', 'femur_right': 'femur', '75': 'tibia'}
    """
    structures: dict[str, str] = {}
    values: dict[str, int] = {}
    for word in words:
        if word.lower().endswith(MAP_ENDINGS) and "=" not in word:
            found = read_label_map(Path(word))
            pairs, values = list(found.structures.items()), {**values, **found.values}
        else:
            pairs = _pairs(word)
        for theirs, ours in pairs:
            if structures.setdefault(theirs, ours) != ours:
                raise InputError(
                    f"Label {quoted(theirs)} is mapped to {structures[theirs]} and to "
                    f"{ours}: choose one."
                )
    return LabelMap(structures, values)


def read_label_map(file: Path) -> LabelMap:
    """Read a map from a file.

    TOML and JSON hold a table ``map`` (their label = our structure) and, where their
    files have none, a table ``names`` (their label = its value). CSV has the columns
    ``label`` and ``structure`` and, optionally, ``value``.

    Raises `InputError` if the file cannot be read or holds no map.
    """
    try:
        text = read_text(file, "utf-8-sig")
        if file.suffix.lower() == ".csv":
            return _from_csv(file, text)
        is_toml = file.suffix.lower() == ".toml"
        content = tomllib.loads(text) if is_toml else json.loads(text)
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"{file} is not valid ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("map"), dict):
        raise InputError(f"{file} has no table `map`: their_label = our_structure.")
    if odd := [key for key in content if key not in ("map", "names")]:
        tables = f"unknown table {', '.join(odd)}"
        raise InputError(f"{file}: {tables}; use `map` and `names` only.")
    structures = {str(key): str(ours) for key, ours in content["map"].items()}
    return _checked(file, structures, content.get("names", {}))


def read_names_beside(files: Iterable[Path]) -> dict[str, int]:
    """Return label names and values from a ``dataset.json`` beside the files.

    Gaps between values are allowed, and so is nnU-Net 1's ``{"1": "femur"}``.
    """
    for file in files:
        for folder in (file.absolute().parent, file.absolute().parent.parent):
            found = folder / "dataset.json"
            if found.is_file():
                return _names_in(found)
    return {}


def _names_in(file: Path) -> dict[str, int]:
    content = read_json(file)
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict):
        return {}
    pairs = [
        (name, int(key)) if isinstance(name, str) and key.isdecimal() else (key, name)
        for key, name in labels.items()
    ]
    return {name: value for name, value in pairs if type(value) is int and value > 0}


def _from_csv(file: Path, text: str) -> LabelMap:
    rows = list(csv.DictReader(io.StringIO(text)))
    missing = [c for c in _COLUMNS if not rows or not all(row.get(c) for row in rows)]
    if missing:
        needed, absent = " and ".join(_COLUMNS), " and ".join(missing)
        raise InputError(f"{file}: every line needs {needed}; {absent} is missing.")
    values = {row["label"]: row["value"] for row in rows if row.get("value")}
    structures: dict[str, str] = {}
    for row in rows:
        if structures.setdefault(row["label"], row["structure"]) != row["structure"]:
            raise InputError(f"{file}: label {quoted(row['label'])} is listed twice.")
    return _checked(file, structures, values)


def _checked(
    file: Path, structures: Mapping[str, str], values: Mapping[str, Any]
) -> LabelMap:
    odd = [n for n, v in values.items() if not str(v).isdecimal() or int(v) == 0]
    if odd:
        named = f"the value of {', '.join(odd)}"
        raise InputError(f"{file}: {named} must be a whole number from 1.")
    if not structures:
        raise InputError(f"{file} maps no label: write their_label = our_structure.")
    return LabelMap(structures, {name: int(value) for name, value in values.items()})


def _pairs(word: str) -> list[tuple[str, str]]:
    pairs = []
    for part in word.split(","):
        theirs, equals, ours = (piece.strip() for piece in part.partition("="))
        if not (equals and theirs and ours):
            raise UsageError(
                f"--map {word}: name a file ({', '.join(MAP_ENDINGS)}), or write "
                "their_label=our_structure."
            )
        pairs.append((theirs, ours))
    return pairs
