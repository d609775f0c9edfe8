"""Group the slices of a folder, and choose the group that makes one volume.

Slices of one series are split by the attributes that distinguish images at the same
place (image type, echo, repetition), and by those that no volume can mix (orientation,
spacing, matrix). Slices of two groups are never interleaved: where more than one group
fits, the user chooses (FAULTS D01-D06). Stations of one scan may be several series.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np

from nnunet_bridge.core.findings import Outcome, Refused
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.units import counted
from nnunet_bridge.formats.dicom.contrasts import (
    ONE_ECHO,
    place_of,
    places_of,
    repetitions,
    split,
    split_echoes,
)
from nnunet_bridge.formats.dicom.folder import Scan
from nnunet_bridge.formats.dicom.headers import SliceHeader, describe
from nnunet_bridge.formats.dicom.identifiers import series_key
from nnunet_bridge.formats.dicom.options import SeriesOptions
from nnunet_bridge.ops.planes import POSITION_TOLERANCE_MM, SIMILAR_ORIENTATION

FEWEST_SLICES = 3  # A volume needs so many
MAIN_SHARE = 0.8
"""A stack must hold this share of the images of its group; the rest is left out."""

_MAPS = re.compile(r"FAT(?! ?(SAT|SUP))|FRAC|[RT][12] ?(\*|STAR|MAP)|\b(FF|PDFF|ADC)\b")
_CONTRASTS = re.compile(
    r"WATER|PHASE|\b(W|F|P|R|I|IP|OP|OOP|FA|B0|REAL|IMAGINARY|FIELD ?MAP)\b"
)
"""Words of images that are not the contrast asked for: of Image Type and description,
and of Image Type only."""

_SUPPRESSED = re.compile(r"(?<= )FAT ?(SAT|SUP)\w*(?= )")

_OF_A_SCAN = attrgetter(
    *("identity.patient", "identity.study", "identity.frame_of_reference"),
    "contrast.image_type",
)
"""What the stations of one scan have in common."""

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
    kinds = list(map(_turn_back, split(scan.headers, _kind)))
    scan.headers = [header for kind in kinds for header in kind]
    groups = [
        Group(tuple(members), repetition)
        for kind in kinds
        for one_echo in split_echoes(kind)
        for repetition, members in repetitions(one_echo)
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
    fitting = _of_contrast(fitting, options, scan)
    fitting = _of_echo(fitting, options)
    fitting = _named("repetition", options.repetition, fitting, _repetition_names)
    used = set(map(id, fitting))
    if options.overlap != "refuse" and _are_stations(fitting):
        fitting = [_joined(fitting, scan)]
    if len(fitting) > 1:
        raise _ambiguous(fitting, options)
    rejected = tuple(group for group in groups if id(group) not in used)
    for group in rejected:
        scan.exclude(list(group.headers), "belongs to another series or contrast")
    _note_echo_times(fitting[0], scan)
    return _main_stack(fitting[0], scan), rejected


def _prefer_mr(scan: Scan) -> None:
    """Leave out other images, and other classes, where the folder holds MR (D03)."""
    rest = [
        h for h in scan.headers if h.contrast.modality != "MR" or "class" in h.mended
    ]
    mr = [h for h in scan.headers if h.contrast.modality == "MR"]
    others = rest if len(rest) < len(scan.headers) else []
    others = others or [h for h in rest if mr and h.contrast.modality != "MR"]
    if others:
        scan.exclude(others, "not an MR image")
        first = f"the first is {quoted(others[0].name)}"
        left_out = (
            f"{counted(len(others), 'image')} left out (not an MR image), {first}."
        )
        scan.note("D03", Outcome.ACCEPTED, left_out)


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


def _of_echo(groups: list[Group], options: SeriesOptions) -> list[Group]:
    """Return the groups of an echo, by its number or its time (D05)."""
    numbers = _echo_numbers(groups)
    echo = None if options.echo is None else str(options.echo)
    groups = _named("echo", echo, groups, lambda group: (numbers[id(group)],))
    wanted = options.echo_time_ms
    if wanted is None:
        return groups
    away = {id(g): abs(_echo(g.first)[0] - wanted) for g in groups}
    nearest = min(away.values())
    found = [g for g in groups if away[id(g)] == nearest <= (ONE_ECHO - 1) * wanted]
    return _require(found, groups, "D05", f"There is no echo time of {wanted:g} ms")


def _echo_numbers(groups: Sequence[Group]) -> dict[int, str]:
    """Return the echo number of each group; by rising time where numbers lack."""
    numbers = {}
    for group in groups:
        own = [g for g in groups if _kind(g.first) == _kind(group.first)]
        echoes = sorted({_echo(g.first) for g in own})
        sound = len({number for _, number in echoes if number}) == len(echoes)
        rank = str(1 + echoes.index(_echo(group.first)))
        numbers[id(group)] = group.first.contrast.echo if sound else rank
    return numbers


def _echo(header: SliceHeader) -> tuple[float, str]:
    return header.contrast.echo_time_ms or 0.0, header.contrast.echo


def _kind(header: SliceHeader) -> tuple[tuple[str, ...], ...]:
    return series_key(header), header.contrast.image_type


def _note_echo_times(group: Group, scan: Scan) -> None:
    """Note that slices of one echo state other echo times, or none (D05)."""
    times = sorted({_echo(header)[0] for header in group.headers})
    if len(times) > 1:
        known = " to ".join(f"{time:g}" for time in (times[times[0] == 0], times[-1]))
        lack = ", or is missing" if times[0] == 0 else ""
        message = f"The echo time is {known} ms{lack}: the slices are one echo."
        scan.note("D05", Outcome.FIXED, message)


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
    groups: list[Group], options: SeriesOptions, scan: Scan
) -> list[Group]:
    if options.image_type is None:
        return groups
    several = options.image_type
    several = (several,) if isinstance(several, str) else several
    words = [word.strip().upper() for word in several]
    wanted = " or ".join(words)
    typed = [g for g in groups if not {*words}.isdisjoint(g.first.contrast.image_type)]
    plain = [group for group in groups if not _shows_another(group.first, words)]
    described = [g for g in plain if _is_described(g.first, words)]
    if typed or described:
        return typed or described
    if len(groups) > 1 or not plain:
        raise Refused.because(
            "D04",
            f"No images have the image type {wanted}. The folder holds: "
            f"{_table(groups)}. Set {options.way_to_choose('image_type')}, to one of "
            "their words.",
        )
    lack = f"The images ({groups[0].kind}) do not have the image type {wanted}"
    message = f"{lack}; they are used because the folder holds no others."
    scan.note("D04", Outcome.WARNED, message)
    return groups


def _words(*texts: str) -> str:
    return re.sub(r"[^A-Z0-9*]+", " ", " ".join(texts).upper()).strip()


def _is_described(header: SliceHeader, wanted: Sequence[str]) -> bool:
    """Whether the description of an image has a wanted word; ``FAT SAT`` is no fat."""
    described = _SUPPRESSED.sub("", f" {_words(header.description)} ")
    return any(f" {_words(word)} " in described for word in wanted)


def _shows_another(header: SliceHeader, wanted: Sequence[str]) -> bool:
    """Whether the words of an image name another contrast than the wanted one."""
    names = "|".join(re.escape(_words(word)) for word in wanted)
    mine = re.compile(rf"\b(?:{names})\b(?! FRAC)")
    typed = mine.sub("", _words(*header.contrast.image_type[2:]))
    every = f"{typed} {mine.sub('', _words(header.description))}"
    return bool(_CONTRASTS.search(typed) or _MAPS.search(every))


def _joined(groups: Sequence[Group], scan: Scan) -> Group:
    """Return the stations of one scan as one group (D09)."""
    if len({series_key(group.first) for group in groups}) > 1:
        numbers = ", ".join(sorted(group.first.series_number for group in groups))
        message = f"The series {numbers} are joined, as stations of one scan."
        scan.note("D09", Outcome.FIXED, message)
    return Group(tuple(header for group in groups for header in group.headers))


def _are_stations(groups: Sequence[Group]) -> bool:
    """Whether groups are one contrast at places that make one stack without a gap."""
    firsts = [group.first for group in groups]
    times = sorted(_echo(header)[0] for header in firsts)
    alike = len(set(map(_OF_A_SCAN, firsts))) == 1 and times[-1] <= ONE_ECHO * times[0]
    places = [places_of(group.headers) for group in groups]
    nested = any(a <= b for a in places for b in places if a is not b)
    if len(groups) == 1 or nested or not alike or len(_parallel(firsts)) > 1:
        return False
    along_row, down_column = np.reshape(firsts[0].plane.orientation or [0] * 6, (2, 3))
    positions = [h.plane.position_mm or (0, 0, 0) for g in groups for h in g.headers]
    heights = np.unique(np.round(positions @ np.cross(along_row, down_column), 1))
    gaps = np.diff(heights)
    return len(gaps) > 0 and bool(gaps.max() < 1.5 * np.median(gaps))


def _ambiguous(groups: list[Group], options: SeriesOptions) -> Refused:
    """Return the refusal that lists the groups and the options that choose one."""
    if patients := _of_several_patients(groups):
        return patients
    numbers = _echo_numbers(groups)
    differing: dict[tuple[str, str], list[Hashable]] = {
        ("D01", "series"): [series_key(g.first) for g in groups],
        ("D04", "image_type"): [g.first.contrast.image_type for g in groups],
        ("D05", "echo"): [numbers[id(g)] for g in groups],
        ("D06", "repetition"): [g.repetition for g in groups],
    }
    needed = [key for key, values in differing.items() if len(set(values)) > 1]
    needed = needed or [("D06", "repetition")]
    alone = [key for key in needed if len(set(differing[key])) == len(groups)]
    ways = [options.way_to_choose(option) for _, option in alone[:1] or needed]
    code, how = needed[0][0], f"Choose one with {' and '.join(ways)}."
    if _are_stations(groups):
        code = "D09" if code == "D06" else code
        join = SeriesOptions.how_to("overlap", "first")
        how += f" If they are stations of one scan, join them with {join}."
    sets = f"The folder holds {len(groups)} sets of images that fit:"
    return Refused.because(code, "\n".join([sets, *_told_apart(groups), how]))


def _told_apart(groups: Sequence[Group]) -> list[str]:
    """Return the line of each group, with more where lines would say the same."""
    groups = sorted(groups, key=_number_first)
    same = Counter(map(str, groups))
    firsts = [min(group.headers, key=place_of) for group in groups]
    found = [describe(h.file, UID=h.identity.series) for h in firsts]
    lines = []
    for group, own in zip(groups, found, strict=True):
        parts = [f"{k} {own[k]}" for k in own if any(own[k] != o[k] for o in found)]
        names = {header.name for header in group.headers}
        parts.append(
            f"{counted(len(names), 'file')}, the first is {quoted(min(names))}"
        )
        more = same[str(group)] > 1 or group.repetition.startswith("set")
        lines.append(", ".join([str(group), *(parts if more else ())]))
    return lines


def _of_several_patients(groups: Sequence[Group]) -> Refused | None:
    """Return the refusal of a folder of several patients (D11); None of one patient."""
    by_patient: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        if group.first.identity.patient:
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


def _number_first(group: Group) -> tuple[int, str]:
    number = group.first.series_number
    return (int(number) if number.isdecimal() else 0, str(group))


def _table(groups: Iterable[Group]) -> str:
    return "; ".join(map(str, sorted(groups, key=_number_first)))


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


def _turn_back(headers: list[SliceHeader]) -> list[SliceHeader]:
    """Describe slices that are stored turned or mirrored as the others are (G20)."""
    main = _parallel(headers)[0][0].plane.orientation
    if main is None:
        return headers
    return [
        h if h.plane.orientation == main else _as_stored_along(h, main) for h in headers
    ]


def _as_stored_along(header: SliceHeader, wanted: tuple[float, ...]) -> SliceHeader:
    """Return a slice with rows and columns as wanted, if they are only reversed."""
    plane = header.plane
    if not (plane.orientation and plane.position_mm and plane.pixel_spacing_mm):
        return header
    axes = np.reshape(plane.orientation, (2, 3))
    aligned = np.sum(axes * np.reshape(wanted, (2, 3)), axis=1)
    against = aligned < 0
    if (np.abs(aligned) < 1 - SIMILAR_ORIENTATION).any() or not against.any():
        return header
    # The first voxel is now the last one of each axis that runs against the others.
    last = np.array([plane.columns - 1, plane.rows - 1])
    ends = against * last * plane.pixel_spacing_mm[::-1] @ axes
    plane = replace(
        plane,
        position_mm=tuple((plane.position_mm + ends).tolist()),
        orientation=tuple(np.where(against[:, None], -axes, axes).ravel().tolist()),
    )
    reversed_axes = (bool(against[1]), bool(against[0]))
    mended = (*header.mended, "turned")
    return replace(header, plane=plane, reversed_axes=reversed_axes, mended=mended)


def _parallel(headers: Iterable[SliceHeader]) -> list[list[SliceHeader]]:
    """Split by orientation, pixel spacing and matrix; the largest part first."""
    parts: list[list[SliceHeader]] = []
    for header in sorted(headers, key=_shape):
        for part in parts:
            first = part[0]
            if _shapes_agree(first, header) and not _orientations_differ(first, header):
                part.append(header)
                break
        else:
            parts.append([header])
    return sorted(parts, key=len, reverse=True)


def _shape(header: SliceHeader) -> tuple[tuple[float, ...], ...]:
    plane = header.plane
    matrix = (plane.rows, plane.columns)
    return matrix, plane.pixel_spacing_mm or (), plane.orientation or ()


def _shapes_agree(one: SliceHeader, other: SliceHeader) -> bool:
    """Whether matrix and pixel spacing are the same, but for rounding (G14)."""
    (matrix, spacing, _), (others, another, _) = _shape(one), _shape(other)
    if spacing == another or len(spacing) != len(another) or matrix != others:
        return (matrix, spacing) == (others, another)
    off_mm = np.abs(np.subtract(spacing, another)) * max(matrix)
    return not (off_mm > POSITION_TOLERANCE_MM).any()


def _orientations_differ(one: SliceHeader, other: SliceHeader) -> bool:
    first, second = one.plane.orientation, other.plane.orientation
    if first is None or second is None or first == second:
        return False  # missing orientations are refused later (G16)
    return bool(np.abs(np.subtract(first, second)).max() > SIMILAR_ORIENTATION + 1e-9)
