"""Group the slices of a folder, and choose the group that makes one volume.

Slices of one series are split by the attributes that distinguish images at the same
place (image type, echo, repetition), and by those that no volume can mix (orientation,
spacing, matrix). Slices of two groups are never interleaved: where more than one group
fits, the user chooses (FAULTS D01-D06).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_bridge.core.findings import Outcome, Refused
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.units import counted
from nnunet_bridge.formats.dicom.folder import Scan
from nnunet_bridge.formats.dicom.headers import SliceHeader
from nnunet_bridge.formats.dicom.options import SeriesOptions
from nnunet_bridge.ops.planes import SIMILAR_ORIENTATION

FEWEST_SLICES = 3  # A volume needs so many
MAIN_SHARE = 0.8
"""A stack must hold this share of the images of its group; the rest is left out."""

_DIXON = frozenset(
    {"WATER", "FAT", "IN_PHASE", "OPP_PHASE", "OUT_PHASE", "W", "F", "IP", "OP", "FF"}
)
_CODES = {"series": "D01", "echo": "D05", "repetition": "D06"}
"""Fault of a choice that fits nothing."""


@dataclass(frozen=True, slots=True)
class Group:
    """Slices of one series and one contrast."""

    headers: tuple[SliceHeader, ...]
    repetition: str = ""
    """The attribute that separates repeated acquisitions; empty without any."""

    @property
    def first(self) -> SliceHeader:
        """The slice whose attributes stand for the group."""
        return self.headers[0]

    @property
    def kind(self) -> str:
        """Contrast and number of images; nothing that identifies a patient."""
        contrast = self.first.contrast
        parts = ["\\".join(contrast.image_type) or "no image type"]
        if contrast.echo_time_ms is not None:
            parts.append(f"TE {contrast.echo_time_ms:g} ms")
        if self.repetition:
            parts.append(self.repetition)
        parts.append(counted(len(self.headers), "image"))
        return ", ".join(parts)

    def __str__(self) -> str:
        """Return the group's line in a table."""
        number, name = self.first.series_number or "?", quoted(self.first.description)
        line = f"series {number} {name}: {self.kind}"
        spacing = self.first.plane.pixel_spacing_mm
        if spacing is None:
            return line
        return f"{line}, pixels of {spacing[0]:g} x {spacing[1]:g} mm"


def choose(scan: Scan, options: SeriesOptions) -> tuple[Group, tuple[Group, ...]]:
    """Return the group that the options select, and the rejected groups.

    Slices of `scan` that are not chosen become excluded, with a reason.

    Raises `Refused` if no group, or more than one, fits the options (D01-D06, D09,
    D15).
    """
    _prefer_mr(scan)
    groups = [
        Group(tuple(members), repetition)
        for one_contrast in _split(scan.headers, _contrast_key)
        for repetition, members in _repetitions(one_contrast)
    ]
    if not groups:
        raise Refused.because(
            "D15", "The folder holds no MR image: choose the folder of a DICOM series."
        )
    if all("MOSAIC" in group.first.contrast.image_type for group in groups):
        raise Refused.because(
            "D12",
            "Each image is a mosaic of many slices (Siemens MOSAIC) without a standard "
            "attribute for their places: export single slices.",
        )
    fitting = _named("series", options.series, groups, _series_names)
    fitting = _worth_a_volume(fitting, scan)
    fitting = _of_contrast(fitting, options.image_type, scan)
    echo = None if options.echo is None else str(options.echo)
    fitting = _named("echo", echo, fitting, lambda group: (group.first.contrast.echo,))
    fitting = _named("repetition", options.repetition, fitting, _repetition_names)
    used = set(map(id, fitting))
    if options.overlap != "refuse" and _are_stations(fitting):
        fitting = [Group(tuple(h for group in fitting for h in group.headers))]
    if len(fitting) > 1:
        raise _ambiguous(fitting)
    rejected = tuple(group for group in groups if id(group) not in used)
    for group in rejected:
        scan.exclude(list(group.headers), "belongs to another series or contrast")
    return _main_stack(fitting[0], scan), rejected


def find_shared_positions(headers: Iterable[SliceHeader]) -> list[list[SliceHeader]]:
    """Return the lists of slices that share one place, in the order of the places."""
    places: dict[tuple[float, ...], list[SliceHeader]] = defaultdict(list)
    for header in headers:
        if header.plane.position_mm is not None:
            places[_place(header)].append(header)
    return [places[place] for place in sorted(places) if len(places[place]) > 1]


def _place(header: SliceHeader) -> tuple[float, ...]:
    """Return position and cosines of a slice, rounded to 0.01 mm and to 0.1."""
    # Adding 0.0 turns -0.0 into 0.0, so that both are one key.
    position = tuple(round(x, 2) + 0.0 for x in header.plane.position_mm or ())
    turned = tuple(round(x, 1) + 0.0 for x in header.plane.orientation or ())
    return position + turned


def _prefer_mr(scan: Scan) -> None:
    """Leave out other images where the folder holds MR (D03)."""
    kinds = {header.contrast.modality for header in scan.headers}
    if "MR" in kinds and len(kinds) > 1:
        others = [h for h in scan.headers if h.contrast.modality != "MR"]
        scan.exclude(others, "not an MR image")
        first = f"the first is {quoted(others[0].name)}"
        left_out = (
            f"{counted(len(others), 'image')} left out (not an MR image), {first}."
        )
        scan.note("D03", Outcome.ACCEPTED, left_out)


def _split(
    headers: Iterable[SliceHeader], key: Callable[[SliceHeader], tuple[Hashable, ...]]
) -> list[list[SliceHeader]]:
    parts: dict[tuple[Hashable, ...], list[SliceHeader]] = defaultdict(list)
    for header in headers:
        parts[key(header)].append(header)
    return [parts[chosen] for chosen in sorted(parts)]


def _repetitions(headers: list[SliceHeader]) -> list[tuple[str, list[SliceHeader]]]:
    """Split images at the same places by the attribute that repeats them (D06)."""
    if not find_shared_positions(headers):
        return [("", headers)]
    repeats: dict[str, Callable[[SliceHeader], str]] = {
        "acquisition": lambda h: h.contrast.acquisition,
        "temporal position": lambda h: h.contrast.temporal_position,
        "trigger time": lambda h: h.contrast.trigger_time,
    }
    for name, value in repeats.items():
        parts = _split(headers, lambda h, value=value: (value(h),))  # type: ignore[misc]
        if len(parts) > 1 and not any(map(find_shared_positions, parts)):
            return [(f"{name} {value(part[0])}", part) for part in parts]
    return [("", headers)]


def _named(
    kind: str,
    word: str | None,
    groups: list[Group],
    names: Callable[[Group], tuple[str, ...]],
) -> list[Group]:
    """Return the groups of which `word` is a name, in capitals or not; all if None."""
    if word is None:
        return groups
    wanted = word.strip().casefold()
    found = [group for group in groups if wanted in map(str.casefold, names(group))]
    return _require(found, groups, _CODES[kind], f"There is no {kind} {quoted(word)}")


def _series_names(group: Group) -> tuple[str, ...]:
    first = group.first
    return first.identity.series, first.series_number, first.description


def _repetition_names(group: Group) -> tuple[str, ...]:
    """Return the repetition in full and its number alone."""
    return group.repetition, group.repetition.rpartition(" ")[2]


def _require(
    found: list[Group], groups: list[Group], code: str, otherwise: str
) -> list[Group]:
    if not found:
        raise Refused.because(code, f"{otherwise}. The folder holds: {_table(groups)}.")
    return found


def _worth_a_volume(groups: list[Group], scan: Scan) -> list[Group]:
    """Leave out scouts and images without a place where there is a stack (D02)."""
    placed = [g for g in groups if any(h.plane.position_mm for h in g.headers)]
    worthy = [g for g in placed if len(_parallel(g.headers)[0]) >= FEWEST_SLICES]
    if not worthy:
        large = [group for group in groups if len(group.headers) >= FEWEST_SLICES]
        too_few = f"A volume needs at least {FEWEST_SLICES} slices"
        return _require(large, groups, "D15", too_few)
    left_out = [group for group in groups if group not in worthy]
    for group in left_out:
        scan.exclude(list(group.headers), "too few images for a volume")
    if left_out:
        names = f"Left out, because they are not volumes: {_table(left_out)}."
        scan.note("D02", Outcome.WARNED, names)
    return worthy


def _of_contrast(
    groups: list[Group], image_type: str | None, scan: Scan
) -> list[Group]:
    if image_type is None:
        return groups
    wanted = image_type.strip().upper()
    typed = [g for g in groups if wanted in g.first.contrast.image_type]
    texts = [re.split(r"[^A-Z0-9]+", g.first.description.upper()) for g in groups]
    described = [g for g, words in zip(groups, texts, strict=True) if wanted in words]
    if typed or described:
        return typed or described
    first = groups[0].first
    if len(groups) > 1 or _DIXON & set(first.contrast.image_type):
        raise Refused.because(
            "D04",
            f"No images have the image type {wanted}. The folder holds: "
            f"{_table(groups)}. Set {SeriesOptions.how_to('image_type')}, to one of "
            "their words.",
        )
    lack = f"The images ({groups[0].kind}) do not have the image type {wanted}"
    message = f"{lack}; they are used because the folder holds no others."
    scan.note("D04", Outcome.WARNED, message)
    return groups


def _are_stations(groups: list[Group]) -> bool:
    """Whether groups are one contrast of one series at different places."""
    kinds = {_contrast_key(group.first) for group in groups}
    places = {frozenset(map(_place, group.headers)) for group in groups}
    return len(groups) > 1 and len(kinds) == 1 and len(places) == len(groups)


def _contrast_key(header: SliceHeader) -> tuple[Hashable, ...]:
    contrast, series = header.contrast, header.identity.series
    return series, contrast.image_type, contrast.echo_time_ms or 0.0, contrast.echo


def _ambiguous(groups: list[Group]) -> Refused:
    """Return the refusal that lists the groups and the option that chooses one."""
    if patients := _of_several_patients(groups):
        return patients
    first, *others = (group.first for group in groups)
    echo = (first.contrast.echo_time_ms, first.contrast.echo)
    if any(h.identity.series != first.identity.series for h in others):
        code, option = "D01", "series"
    elif any(h.contrast.image_type != first.contrast.image_type for h in others):
        code, option = "D04", "image_type"
    elif any((h.contrast.echo_time_ms, h.contrast.echo) != echo for h in others):
        code, option = "D05", "echo"
    elif len({frozenset(map(_place, group.headers)) for group in groups}) == 1:
        code, option = "D06", "repetition"
    else:
        code, option = "D09", ""
    how = f"Choose one with {SeriesOptions.how_to(option)}."
    if not option:
        join = SeriesOptions.how_to("overlap", "first")
        how = f"Export the composed series, or join the stations with {join}."
    sets = f"The folder holds {len(groups)} sets of images that fit:"
    table = _table(groups, between="\n")
    return Refused.because(code, f"{sets}\n{table}\n{how}")


def _of_several_patients(groups: Sequence[Group]) -> Refused | None:
    """Return the refusal of a folder of several patients (D11); None of one patient."""
    by_patient: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_patient[group.first.identity.patient].append(group)
    if len(by_patient) < 2:  # noqa: PLR2004 - one patient is as it should be
        return None
    lines = [
        f"patient {number}: {_table(own)}, the first file is "
        f"{quoted(min(header.name for one in own for header in one.headers))}"
        for number, own in enumerate(by_patient.values(), start=1)
    ]
    text = f"The folder holds images of {len(by_patient)} patients (by Patient ID):"
    how = "Give each a folder of its own, or a row of the case table with its `series`."
    return Refused.because("D11", "\n".join([text, *lines, how]))


def _table(groups: Iterable[Group], *, between: str = "; ") -> str:
    def number_first(group: Group) -> tuple[int, str]:
        number = group.first.series_number
        return (int(number) if number.isdecimal() else 0, str(group))

    return between.join(map(str, sorted(groups, key=number_first)))


def _main_stack(group: Group, scan: Scan) -> Group:
    """Return the part of a group that is one stack; leave out the rest (D02, G14)."""
    main, *rest = _parallel(group.headers)
    if not rest:
        return group
    others = [header for part in rest for header in part]
    turned = any(_orientations_differ(main[0], header) for header in others)
    code = "D02" if turned else "G14"
    why = "orientation" if turned else "pixel spacing or matrix"
    named = ", ".join(quoted(header.name) for header in others[:5])
    if len(main) < FEWEST_SLICES or len(main) < MAIN_SHARE * len(group.headers):
        raise Refused.because(
            code,
            f"The series mixes images of different {why}: {len(main)} agree, "
            f"{len(others)} differ ({named}). Export one stack alone.",
        )
    scan.exclude(others, f"differs in {why} from the other slices")
    differ = f"{len(others)} of {len(group.headers)} images differ in {why}"
    scan.note(code, Outcome.WARNED, f"{differ} and were left out: {named}.")
    return Group(tuple(main), group.repetition)


def _parallel(headers: Iterable[SliceHeader]) -> list[list[SliceHeader]]:
    """Split by orientation, pixel spacing and matrix; the largest part first."""
    keyed = [(_shape_key(header), header) for header in headers]
    parts: list[tuple[tuple[float, ...], list[SliceHeader]]] = []
    for (shape, _), header in sorted(keyed, key=lambda one: one[0]):
        for known, part in parts:
            if known == shape and not _orientations_differ(part[0], header):
                part.append(header)
                break
        else:
            parts.append((shape, [header]))
    return sorted((part for _, part in parts), key=len, reverse=True)


def _shape_key(header: SliceHeader) -> tuple[tuple[float, ...], tuple[float, ...]]:
    plane = header.plane
    sizes = (round(size, 4) for size in plane.pixel_spacing_mm or ())
    spacing = tuple(size for size in sizes if not math.isnan(size))
    return (plane.rows, plane.columns, *spacing), plane.orientation or ()


def _orientations_differ(one: SliceHeader, other: SliceHeader) -> bool:
    first, second = one.plane.orientation, other.plane.orientation
    if first is None or second is None or first == second:
        return False  # missing orientations are refused later (G16)
    return bool(np.abs(np.subtract(first, second)).max() > SIMILAR_ORIENTATION + 1e-9)
