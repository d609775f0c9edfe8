"""Read which value of a labelmap means which structure, from a file beside it.

Understood are nnU-Net's ``dataset.json``, ITK-SNAP's label descriptions, colour tables
of 3D Slicer and FreeSurfer, BIDS' ``dseg.tsv``, and plain text with a value and a name
in each line.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ENDINGS = (".json", ".txt", ".label", ".ctbl", ".lut", ".tsv", ".csv")
_MOST_BYTES = 1 << 20
_BACKGROUND = (
    "background",
    "clear label",
    "clear",
    "unlabelled",
    "hintergrund",
    "fond",
)
_SNAP = re.compile(r'\s*(\d+)(?:\s+[\d.]+){6}\s+"([^"]*)"\s*')
_VALUE_FIRST = re.compile(r"\s*(\d+)\s*[:=,;\t ]\s*(\S.*?)\s*")
_NAME_FIRST = re.compile(r"\s*([^\d\W].*?)\s*[:=,;\t ]\s*(\d+)\s*")
_COLOUR = re.compile(r"(?:[\s,;]+[\d.]+){3,4}\s*$")
_VALUE_COLUMNS = ("labelvalue", "value", "index", "label", "intensity")
_NAME_COLUMNS = ("name", "structure", "labelname", "description", "label")
_MOST_VALUES = 1000
_LONGEST_LINE = 500


def read_value_names(file: Path) -> dict[int, str]:
    """Return the names by value; nothing if the file does not name values."""
    try:
        if not file.is_file() or file.stat().st_size > _MOST_BYTES:
            return {}
        text = file.read_text(encoding="utf-8-sig", errors="replace")
        if file.suffix.lower() == ".json":
            pairs = list(_of_json(json.loads(text)))
        else:
            pairs = _of_columns(text) or _of_lines(text)
    except (OSError, ValueError, RecursionError, csv.Error):
        return {}
    found = {
        value: name.strip()
        for value, name in pairs
        if value > 0 and name.strip() and name.strip().casefold() not in _BACKGROUND
    }
    return found if len(found) <= _MOST_VALUES else {}


def _of_json(content: object) -> Iterator[tuple[int, str]]:
    """Yield the pairs of ``{"labels": {...}}`` or of a table, either way round."""
    labels = content.get("labels") if isinstance(content, Mapping) else None
    named = isinstance(labels, Mapping)
    labels = labels if named else content
    if not isinstance(labels, Mapping):
        return
    by_value = [
        str(key).isdecimal() and isinstance(v, str) for key, v in labels.items()
    ]
    by_name = [type(value) is int for value in labels.values()]
    # A file about something else may have a whole number in it, too.
    if not named and not (all(by_value) or all(by_name)):
        return
    for (key, value), first, second in zip(
        labels.items(), by_value, by_name, strict=True
    ):
        if first:
            yield int(key), value
        elif second:
            yield value, str(key)


def _of_columns(text: str) -> list[tuple[int, str]]:
    """Return the pairs of a table whose first line names its columns."""
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    rows = list(csv.reader(text.splitlines(), delimiter=delimiter))
    header = [re.sub(r"\W|_", "", cell).casefold() for cell in rows[0]] if rows else []
    values = [header.index(name) for name in _VALUE_COLUMNS if name in header]
    names = [header.index(name) for name in _NAME_COLUMNS if name in header]
    for at in values:
        of = next((n for n in names if n != at), None)
        cells = [row for row in rows[1:] if of is not None and len(row) > max(at, of)]
        if (
            of is not None
            and cells
            and all(row[at].strip().isdecimal() for row in cells)
        ):
            return [(int(row[at]), row[of]) for row in cells]
    return []


def _of_lines(text: str) -> list[tuple[int, str]]:
    """Return the pairs of lines; nothing if a line is something else."""
    pairs = []
    for line in text.splitlines():
        if len(line) > _LONGEST_LINE:
            return []
        if not line.strip() or line.lstrip().startswith(("#", "//", "%")):
            continue
        if match := _SNAP.fullmatch(line):
            pairs.append((int(match[1]), match[2]))
        elif match := _VALUE_FIRST.fullmatch(_COLOUR.sub("", line) or line):
            pairs.append((int(match[1]), match[2].strip("\"' ")))
        elif match := _NAME_FIRST.fullmatch(line):
            pairs.append((int(match[2]), match[1].strip("\"' ")))
        else:
            return []
    return pairs
