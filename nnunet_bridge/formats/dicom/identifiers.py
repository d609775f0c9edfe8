"""Judge the identifiers of slices, which an anonymiser may have damaged (FAULTS D16).

An identifier is ignored where it is empty, different in every file, or, where it
should not be, the same in all files; the geometry then decides. An identifier that
splits the files into blocks is used.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from nnunet_bridge.formats.dicom.headers import SliceHeader

_FEWEST_FILES = 3  # in fewer files, identifiers show no pattern
NAMES = {
    "series": "Series Instance UID",
    "study": "Study Instance UID",
    "frame_of_reference": "Frame of Reference UID",
    "patient": "Patient ID",
    "instance": "SOP Instance UID",
}
"""Field of `Identity` -> name of the attribute."""


def series_key(header: SliceHeader) -> tuple[str, ...]:
    """Return what the slices of one series share: UID, or number and description."""
    series = header.identity.series
    return (series,) if series else ("", header.series_number, header.description)


def believable(headers: Sequence[SliceHeader]) -> list[SliceHeader]:
    """Return the slices, in their order, without identifiers that are ignored."""
    files = Counter((h.identity.series, h.series_number) for h in headers)
    numbers = Counter(uid for (uid, _), n in files.items() if n >= _FEWEST_FILES)
    found = [
        _with(h, "series", "") if numbers[h.identity.series] > 1 else h for h in headers
    ]
    found = _judged(found, lambda h: (h.series_number, h.description), ("series",))
    return _judged(found, series_key, [name for name in NAMES if name != "series"])


def _judged(
    headers: list[SliceHeader],
    key: Callable[[SliceHeader], Hashable],
    names: Sequence[str],
) -> list[SliceHeader]:
    """Correct identifiers among the slices that have the same key."""
    found = list(headers)
    parts: dict[Hashable, list[int]] = defaultdict(list)
    for place, header in enumerate(headers):
        parts[key(header)].append(place)
    for places in parts.values():
        for name in names:
            value = _believed([headers[place] for place in places], name)
            for place in places if value is not None else ():
                found[place] = _with(found[place], name, value or "")
    return found


def _believed(headers: Sequence[SliceHeader], name: str) -> str | None:
    """Return the value that all shall have, empty for none; None if they are sound."""
    values = Counter(getattr(header.identity, name) for header in headers)
    stated: list[str] = [value for value in values if value]
    many = len(headers) >= _FEWEST_FILES and {h.frames for h in headers} == {1}
    if name == "instance":
        places = {header.plane.position_mm for header in headers}
        return "" if len(stated) == 1 and many and len(places) > 1 else None
    if len(stated) == 1 and "" in values:
        return stated[0]
    different = len(stated) == len(headers)
    return "" if name != "patient" and many and different else None


def _with(header: SliceHeader, name: str, value: str) -> SliceHeader:
    """Return a slice with another identifier, and a note if it differs."""
    if getattr(header.identity, name) == value:
        return header
    identity = replace(header.identity, **{name: value})
    mended = (*header.mended, NAMES[name])
    return replace(header, identity=identity, mended=mended)
