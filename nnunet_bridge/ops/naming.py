r"""Parse the file names of a study: number, code, side and structure.

Typical names are ``6_AutoBindWATER_650_9B`` for a scan and ``6_L_tibia_9B`` for a mask.
The common parts of scan and mask are the number of the patient and the code; a single
L, R or M is the side; the rest is the structure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

SCAN_PATTERNS = (
    r"(?P<index>\d+)_.*_(?P<code>[^_]+)",
    r"(?P<index>\d+)_(?P<code>[^_]+)",
    r"(?P<index>\d+)",
    r"[A-Za-z]+[ _-]*(?P<index>\d+)",
    r"\D*(?P<index>\d+)\D.*",
)
"""Patterns of scan folders, from the strictest to the loosest."""

_SIDES = {"l", "r", "m", "left", "right", "middle"}
_SEPARATORS = re.compile(r"([ _.-]+)")


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Return a sort key that puts 2 before 10.

    Examples
    --------
    >>> sorted(["10_a", "2_b"], key=natural_key)
    ['2_b', '10_a']
    """
    parts = re.split(r"(\d+)", name.casefold())
    return tuple((0, int(p)) if p.isdecimal() else (1, p) for p in parts if p)


@dataclass(frozen=True, slots=True)
class MaskNaming:
    """The naming scheme of the masks of a study."""

    pattern: str
    """Pattern of stems with the groups ``index`` and ``structure``, or empty."""

    structures: Mapping[str, str]
    """Stem -> structure as written, for every stem that fits."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """The parts of one stem."""

    shape: tuple[str, ...]
    side: str
    side_first: bool
    structure: str


def scan_pattern(names: Sequence[str]) -> str:
    r"""Return the pattern that distinguishes most names of scan folders.

    Examples
    --------
    >>> scan_pattern(["6_AutoBindWATER_650_9B", "7_AutoBindWATER_650_3C"])
    '(?P<index>\\d+)_.*_(?P<code>[^_]+)'
    >>> scan_pattern(["patient 1", "patient 2"])
    '[A-Za-z]+[ _-]*(?P<index>\\d+)'
    """

    def distinguished(pattern: str) -> int:
        found = (re.fullmatch(pattern, name) for name in names)
        return len({int(match["index"]) for match in found if match})

    return max(SCAN_PATTERNS, key=distinguished)


def scan_groups(pattern: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """Return number and code (may be empty) of every name that fits."""
    found = [match for name in names if (match := re.fullmatch(pattern, name))]
    return [(match["index"], match.groupdict().get("code") or "") for match in found]


def mask_naming(stems: Sequence[str], scans: Sequence[tuple[str, str]]) -> MaskNaming:
    r"""Find the naming scheme of mask files from the parts they share with the scans.

    `stems` are file names without their endings; `scans` are numbers and codes.

    Examples
    --------
    >>> naming = mask_naming(["6_L_tibia_9B", "6_pelvis_9B"], [("6", "9B")])
    >>> naming.structures
    {'6_L_tibia_9B': 'tibia', '6_pelvis_9B': 'pelvis'}
    >>> naming.pattern
    '(?P<index>\\d+)_(?:(?P<side>[LRM])_)?(?P<structure>[^_]+)_(?P<code>[^_.]+)'
    """
    readings = {stem: _read(stem, scans) for stem in stems}
    known = {stem: one for stem, one in readings.items() if one and one.structure}
    if not known:
        return MaskNaming("", {})
    shapes = Counter(found.shape for found in known.values())
    shape = max(sorted(shapes), key=lambda one: shapes[one])
    fitting = {stem: found for stem, found in known.items() if found.shape == shape}
    pattern = _pattern(shape, list(fitting.values()))
    return MaskNaming(pattern, {stem: one.structure for stem, one in fitting.items()})


def segmentation_pattern(stems: Sequence[str], scans: Sequence[tuple[str, str]]) -> str:
    r"""Return the pattern of segmentations, whose names have no structure.

    Examples
    --------
    >>> segmentation_pattern(["7_3C"], [("7", "3C")])
    '(?P<index>\\d+)_(?P<code>[^_.]+)\\.seg\\.nrrd'
    """
    found = [one for stem in stems if (one := _read(stem, scans))]
    if not found:
        return ""
    shape = Counter(reading.shape for reading in found).most_common(1)[0][0]
    parts = [".*" if part == "<structure>" else _group(part) for part in shape]
    return "".join(parts) + r"\.seg\.nrrd"


def _read(stem: str, scans: Sequence[tuple[str, str]]) -> _Reading | None:
    """Split a stem by the number and code of its scan; None without a scan."""
    parts = _SEPARATORS.split(stem)
    for number, code in scans:
        words = list(enumerate(parts))[::2]
        index_at = next((n for n, word in words if _is_number(word, number)), None)
        wanted = code.casefold()
        code_at = next((n for n, word in words if word.casefold() == wanted), None)
        if index_at is None or (code and code_at is None):
            continue
        return _split_by(parts, index_at, code_at if code else None)
    return None


def _split_by(parts: list[str], index_at: int, code_at: int | None) -> _Reading:
    taken = {index_at: "<index>"} | ({code_at: "<code>"} if code_at is not None else {})
    free = [n for n in range(0, len(parts), 2) if n not in taken and parts[n]]
    side, side_first = "", False
    for place in (0, -1):
        if len(free) > 1 and parts[free[place]].casefold() in _SIDES and not side:
            side, side_first = parts[free[place]], place == 0
            free.pop(place)
    structure = "".join(parts[free[0] : free[-1] + 1]) if free else ""
    shape: list[str] = []
    for n, part in enumerate(parts):
        if free and free[0] < n <= free[-1]:
            continue
        if n in taken:
            shape.append(taken[n])
        elif n % 2 and shape and shape[-1] not in _SEPARATOR_ENDS:
            shape.append(part)
        elif n in free and "<structure>" not in shape:
            shape.append("<structure>")
    return _Reading(_joined(shape), side, side_first, structure)


_SEPARATOR_ENDS = ("_", "-", ".", " ")


def _joined(shape: Sequence[str]) -> tuple[str, ...]:
    """Return a shape without repeated or final separators."""
    kept: list[str] = []
    for part in shape:
        if part.startswith("<") or (kept and kept[-1].startswith("<")):
            kept.append(part)
    while kept and not kept[-1].startswith("<"):
        kept.pop()
    return tuple(kept)


def _pattern(shape: Sequence[str], readings: Sequence[_Reading]) -> str:
    """Return the regular expression of a shape, with the side if some have one."""
    sides = {reading.side for reading in readings if reading.side}
    first = any(reading.side and reading.side_first for reading in readings)
    words = "[LRM]" if sides <= set("LRM") else "|".join(sorted(sides))
    separator = next((part for part in shape if not part.startswith("<")), "_")
    between = re.escape(separator)
    plain = all("_" not in reading.structure for reading in readings)
    structure = "(?P<structure>[^_]+)" if plain else "(?P<structure>.+?)"
    if sides and first:
        structure = f"(?:(?P<side>{words}){between})?{structure}"
    elif sides:
        structure = f"{structure}(?:{between}(?P<side>{words}))?"
    groups = (structure if part == "<structure>" else _group(part) for part in shape)
    return "".join(groups)


def _group(part: str) -> str:
    groups = {"<index>": r"(?P<index>\d+)", "<code>": r"(?P<code>[^_.]+)"}
    return groups.get(part) or re.escape(part)


def _is_number(part: str, number: str) -> bool:
    return part.isdecimal() and number.isdecimal() and int(part) == int(number)
