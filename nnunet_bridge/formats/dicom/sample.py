"""Describe the DICOM images of a folder from the headers of a few of its files.

All headers are read only where the few show several patients, series or contrasts.
"""

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_bridge.formats.dicom.drawn import may_be_drawn
from nnunet_bridge.formats.dicom.headers import (
    Damaged,
    HeaderReader,
    NotUsed,
    SliceHeader,
)
from nnunet_bridge.formats.dicom.identifiers import believable, series_key
from nnunet_bridge.ops.pairing import Place

SAMPLE = 9  # files of a folder that are read first


@dataclass(frozen=True, slots=True, eq=False)
class FoundSeries:
    """The images of one series in a folder."""

    files: tuple[str, ...]  # names of those that were read
    slices: int  # different places; 0 if unknown
    place: Place | None
    modality: str
    kinds: frozenset[tuple[str, ...]]  # *Image Type* of its images
    number: str
    patient: str = field(repr=False)
    study: str = field(repr=False)
    uid: str = field(repr=False)
    description: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FoundDicom:
    """What a folder holds as DICOM."""

    series: tuple[FoundSeries, ...] = ()
    drawn: tuple[str, ...] = ()  # names of files with segmentations or contours


def sample_folder(folder: Path, names: Sequence[str]) -> FoundDicom:
    """Return the images and drawings of files that may be DICOM, by their headers."""
    drawn = tuple(name for name in sorted(names) if may_be_drawn(folder / name))
    order = sorted(set(names).difference(drawn))
    if not order:
        return FoundDicom(drawn=drawn)
    step = max(1, (len(order) - 1) / (SAMPLE - 1))
    picked = [order[round(n * step)] for n in range(min(SAMPLE, len(order)))]
    with warnings.catch_warnings(action="ignore"):  # the scan's reader checks them
        headers, others = _read(folder, picked)
        alike = len({_key(h) for h in headers}) == 1
        kinds = {(h.contrast.image_type, h.contrast.echo_time_ms) for h in headers}
        if headers and len(order) > len(picked):
            if others or not alike or len(kinds) > 1:
                headers, others = _read(folder, order)
            else:
                return FoundDicom((_found(headers, len(order)),), drawn)
    groups: dict[tuple[str, ...], list[SliceHeader]] = defaultdict(list)
    for header in believable(headers):
        groups[_key(header)].append(header)
    series = (_found(own, 0) for own in groups.values())
    return FoundDicom(tuple(series), drawn)


def _read(folder: Path, names: Iterable[str]) -> tuple[list[SliceHeader], int]:
    """Return the headers of images, and the number of other files."""
    reader = HeaderReader()
    headers: list[SliceHeader] = []
    others = 0
    for name in names:
        try:
            headers += reader.read(folder / name, name)
        except (NotUsed, Damaged, OSError):
            others += 1
    return headers, others


def _key(header: SliceHeader) -> tuple[str, ...]:
    return header.identity.patient, *series_key(header)


def _found(headers: Sequence[SliceHeader], count: int) -> FoundSeries:
    """Describe the largest stack of a series; `count` files, or as many as read."""
    stacks: dict[object, list[SliceHeader]] = defaultdict(list)
    for header in headers:
        plane = header.plane
        turned = tuple(round(x, 2) + 0.0 for x in plane.orientation or ())
        stacks[plane.rows, plane.columns, turned].append(header)
    main = max(stacks.values(), key=len)
    first = main[0]
    positions = {h.plane.position_mm: h for h in main if h.plane.position_mm}
    single = Counter(h.name for h in main).most_common(1)[0][1] == 1
    slices = count if count and single else len(positions)
    return FoundSeries(
        files=tuple(sorted({header.name for header in headers})),
        slices=slices,
        place=_place(list(positions.values()), slices),
        modality=first.contrast.modality,
        kinds=frozenset(header.contrast.image_type for header in main),
        number=first.series_number,
        patient=first.identity.patient,
        study=first.identity.study,
        uid=first.identity.series,
        description=first.description,
    )


def _place(headers: Sequence[SliceHeader], slices: int) -> Place | None:
    """Return where some slices lie; None if their headers do not say."""
    step = max(1, len(headers) // SAMPLE)
    corners = []
    for header in headers[::step]:
        plane = header.plane
        if plane.orientation and plane.pixel_spacing_mm and plane.position_mm:
            start = np.array(plane.position_mm)
            along_row, down_column = np.array(plane.orientation).reshape(2, 3)
            between_rows, between_columns = plane.pixel_spacing_mm
            end = (
                start
                + along_row * between_columns * (plane.columns - 1)
                + down_column * between_rows * (plane.rows - 1)
            )
            corners.append([start, end])
    if not corners or not np.isfinite(corners).all():
        return None
    plane = headers[0].plane
    return Place((plane.columns, plane.rows), slices, np.array(corners))
