"""From the slices of one group to a stack: in order, placed, and free of doubt."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_bridge.core.findings import Finding, Outcome, Refused, worst
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.dicom.groups import (
    FEWEST_SLICES,
    Group,
    positions_held_twice,
)
from nnunet_bridge.formats.dicom.headers import SliceHeader
from nnunet_bridge.formats.dicom.options import SeriesOptions
from nnunet_bridge.formats.dicom.stations import Overlap, without_overlap
from nnunet_bridge.formats.files import pseudonym
from nnunet_bridge.ops.planes import (
    StackPlacement,
    common_orientation,
    place_stack,
)
from nnunet_bridge.ops.restack import Restack, plan_restack

MAX_VOXELS = 2**31
_DECLARED_OFF_BY = 0.10
_SPACING_BY_HAND = (
    f", or give the spacing that you know: {SeriesOptions.how_to('pixel_spacing_mm')}"
)


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Slices in stacking order: ascending along row x column."""

    headers: tuple[SliceHeader, ...]
    affine: FloatArray
    """(4, 4) index -> mm, LPS+, right-handed."""

    max_error_mm: float
    findings: tuple[Finding, ...]

    overlap: Overlap
    """The images of other stations at the same places."""

    restack: Restack | None = None
    """How the voxels come onto a regular grid, where a user allowed it."""


def arrange(group: Group, *, whole_series: bool, options: SeriesOptions) -> Stack:
    """Sort the slices of a group by position and fit an affine.

    Parameters
    ----------
    group : Group
        Slices of one series, contrast and orientation.
    whole_series : bool
        Whether the series holds nothing else, so that its numbering can be checked.
    options : SeriesOptions
        What may be done about overlaps, inverted grey, and uneven or sheared stacks.

    Raises
    ------
    Refused
        With everything that was found, if the slices make no volume.
    """
    headers = group.headers
    findings = [*_identity(headers), *_missing_geometry(headers)]
    findings += _appearance(headers, options)
    _stop_if_refused(findings)
    orientation, about_orientation = common_orientation(
        [header.plane.orientation or () for header in headers]
    )
    findings += about_orientation
    normal = np.cross(orientation[:3], orientation[3:])
    ordered = tuple(sorted(headers, key=lambda header: _height_key(header, normal)))
    ordered, overlap = without_overlap(ordered, normal, options)
    findings += _repeated(ordered)
    _stop_if_refused(findings)
    positions = np.array([header.plane.position_mm for header in ordered], np.float64)
    placement = place_stack(
        orientation, ordered[0].plane.pixel_spacing_mm or (np.nan, np.nan), positions
    )
    about_placement, restack = _restack(ordered, placement, positions, options)
    findings += about_placement
    _stop_if_refused(findings)
    if not overlap.others:
        findings += _numbering(ordered, whole_series=whole_series)
    affine = placement.affine if restack is None else restack.affine
    if restack is None:
        findings += _declared_spacing(ordered, affine)
    error_mm = placement.max_error_mm if restack is None else 0.0
    return Stack(ordered, affine, error_mm, tuple(findings), overlap, restack)


def _restack(
    ordered: Sequence[SliceHeader],
    placement: StackPlacement,
    positions: FloatArray,
    options: SeriesOptions,
) -> tuple[list[Finding], Restack | None]:
    """Turn what may be mended by interpolation into a warning, and plan it."""
    allowed = {"uneven": "G06", "sheared": "G07"}
    mended = {
        code
        for kind, code in allowed.items()
        if options.may_resample(kind)  # type: ignore[arg-type]
    }
    codes = {finding.code for finding in placement.findings}
    left = codes & {"G03", "G06", "G07", "D10", "G13", "G17"} - mended
    if left or not codes & mended:
        ways = {code: kind for kind, code in allowed.items() if code not in mended}
        return [_with_way_out(f, ways) for f in placement.findings], None
    plane = ordered[0].plane
    plan = plan_restack(
        placement.affine, positions, (plane.columns, plane.rows, len(ordered))
    )
    findings = [f for f in placement.findings if f.code not in mended]
    words = {code: kind for kind, code in allowed.items()}
    names = " and ".join(words[code] for code in sorted(codes & mended))
    count = len(plan.interpolated)
    findings += [
        Finding(
            code,
            Outcome.WARNED,
            f"The stack was {names} and was resampled, as asked for, from "
            f"{len(ordered)} slices onto {plan.shape[2]} that lie "
            f"{plan.new_heights_mm[1]:.3f} mm apart: {count} of them lie at no "
            "measured place and are interpolated.",
        )
        for code in sorted(codes & mended)
    ]
    return findings, plan


def _with_way_out(finding: Finding, ways: Mapping[str, str]) -> Finding:
    """Add how a refused stack can be resampled."""
    if finding.outcome is not Outcome.REFUSED or finding.code not in ways:
        return finding
    how = SeriesOptions.how_to("resample", ways[finding.code])
    return Finding(
        finding.code,
        finding.outcome,
        f"{finding.message} To have it interpolated: {how}.",
    )


def _stop_if_refused(findings: Sequence[Finding]) -> None:
    if worst(findings) is Outcome.REFUSED:
        raise Refused(findings)


def _height_key(header: SliceHeader, normal: FloatArray) -> tuple[float, ...]:
    """Sort by place alone; the position itself decides between equal heights."""
    position = np.asarray(header.plane.position_mm, dtype=np.float64)
    return (float(position @ normal), *map(float, position))


def _identity(headers: Sequence[SliceHeader]) -> list[Finding]:
    """Refuse slices of two patients, studies or frames of reference (D11)."""
    salt = secrets.token_bytes(16)
    asked: tuple[tuple[str, Callable[[SliceHeader], str]], ...] = (
        ("patients", lambda h: h.identity.patient),
        ("studies", lambda h: h.identity.study),
        ("frames of reference", lambda h: h.identity.frame_of_reference),
    )
    findings = []
    for what, value in asked:
        values = sorted({value(header) for header in headers})
        if len(values) > 1:
            names = ", ".join(pseudonym(text, salt)[:8] for text in values[:4])
            findings.append(
                Finding(
                    "D11",
                    Outcome.REFUSED,
                    f"The slices of one series belong to {len(values)} {what} (shown "
                    f"as hashes: {names}): separate them.",
                )
            )
    return findings


def _missing_geometry(headers: Sequence[SliceHeader]) -> list[Finding]:
    asked: tuple[tuple[str, str, Callable[[SliceHeader], object]], ...] = (
        ("G16", "Image Position (Patient)", lambda h: h.plane.position_mm),
        ("G16", "Image Orientation (Patient)", lambda h: h.plane.orientation),
        ("G12", "Pixel Spacing", lambda h: h.plane.pixel_spacing_mm),
    )
    findings = []
    for code, tag, value in asked:
        without = [header for header in headers if value(header) is None]
        way_out = _SPACING_BY_HAND if code == "G12" else ""
        if without:
            findings.append(
                Finding(
                    code,
                    Outcome.REFUSED,
                    f"{len(without)} of {len(headers)} slices have no {tag}, the first "
                    f"is {quoted(without[0].name)}: the size and place of the image "
                    f"are unknown. Export the series again from the scanner{way_out}.",
                )
            )
    if len(headers) < FEWEST_SLICES:
        findings.append(
            Finding(
                "D15",
                Outcome.REFUSED,
                f"A volume needs at least {FEWEST_SLICES} slices; the series has "
                f"{len(headers)}.",
            )
        )
    return findings


def _appearance(
    headers: Sequence[SliceHeader], options: SeriesOptions
) -> list[Finding]:
    """Judge what the headers say about the pixels as a whole."""
    first = headers[0]
    findings = _inverted(headers, options)
    scaled = sum(header.privately_scaled for header in headers)
    if scaled:
        findings.append(
            Finding(
                "P02",
                Outcome.ACCEPTED,
                f"{scaled} of {len(headers)} slices carry a private scale of Philips "
                "(2005,100E) beside the public one; only the public one is used.",
            )
        )
    if first.contrast.modality != "MR":
        findings.append(
            Finding(
                "D03",
                Outcome.WARNED,
                f"The images are no MR but {first.contrast.modality or 'unnamed'}; for "
                'CT, nnU-Net needs `channel = "CT"` in [dataset].',
            )
        )
    if any(header.burned_in for header in headers):
        findings.append(
            Finding(
                "F14",
                Outcome.REFUSED,
                "The images say that text is burned into them (Burned In Annotation "
                "YES), which may name the patient: export them without.",
            )
        )
    if first.contrast.image_type[:2] == ("DERIVED", "SECONDARY"):
        findings.append(
            Finding(
                "D03",
                Outcome.WARNED,
                "The images call themselves DERIVED\\SECONDARY: they are not what the "
                "scanner measured.",
            )
        )
    size = len(headers) * first.plane.rows * first.plane.columns
    if size > MAX_VOXELS:
        findings.append(
            Finding("S07", Outcome.REFUSED, f"The series announces {size} voxels.")
        )
    return findings


def _inverted(headers: Sequence[SliceHeader], options: SeriesOptions) -> list[Finding]:
    """Judge MONOCHROME1: mixed never, all of it if a user says so (P03)."""
    inverted = sum(header.encoding.inverted for header in headers)
    if not inverted:
        return []
    what = f"{inverted} of {len(headers)} slices are MONOCHROME1 (white is the smallest"
    if inverted < len(headers):
        return [
            Finding(
                "P03",
                Outcome.REFUSED,
                f"{what} value), the others are not: one series never mixes both. "
                "Export it again.",
            )
        ]
    if not options.invert_monochrome1:
        return [
            Finding(
                "P03",
                Outcome.REFUSED,
                f"{what} value), which MR never is: export the series again, or turn "
                f"it over: {SeriesOptions.how_to('invert_monochrome1')}.",
            )
        ]
    return [
        Finding(
            "P03",
            Outcome.WARNED,
            f"{what} value); their grey was turned over, as asked for.",
        )
    ]


def _repeated(ordered: Sequence[SliceHeader]) -> list[Finding]:
    """Refuse slices at one place: other images (D08) or overlapping stations (D09)."""
    twice = positions_held_twice(ordered)
    if not twice or len(twice[0]) == len(ordered):
        return []  # all in one place is G17, which says it better
    pair = min(twice, key=lambda group: sorted(header.name for header in group))
    place = ", ".join(f"{x:.2f}" for x in pair[0].plane.position_mm or ())
    names = " and ".join(quoted(name) for name in sorted(h.name for h in pair)[:2])
    if len(twice) == 1:
        return [
            Finding(
                "D08",
                Outcome.REFUSED,
                f"{names} lie at the same place ({place}) and are different images"
                f"{_differences(pair)}: remove the one that does not belong.",
            )
        ]
    return [
        Finding(
            "D09",
            Outcome.REFUSED,
            f"{len(twice)} places hold more than one image, the first ({place}) holds "
            f"{names}: stations that overlap, or a repeated scan. Export the composed "
            "series of the scanner, or one scan alone; stations are joined by "
            f"{SeriesOptions.how_to('overlap', 'first')}.",
        )
    ]


def _differences(headers: Sequence[SliceHeader]) -> str:
    """Name the attributes in which slices at one place differ."""
    first, *others = headers
    asked: dict[str, Callable[[SliceHeader], object]] = {
        "InstanceNumber": lambda h: h.instance_number,
        "AcquisitionNumber": lambda h: h.contrast.acquisition,
        "TemporalPositionIdentifier": lambda h: h.contrast.temporal_position,
        "TriggerTime": lambda h: h.contrast.trigger_time,
        "SOPInstanceUID": lambda h: h.identity.instance,
    }
    differing = [
        name
        for name, value in asked.items()
        if any(value(header) != value(first) for header in others)
    ]
    return f" (they differ in {', '.join(differing)})" if differing else ""


def _numbering(ordered: Sequence[SliceHeader], *, whole_series: bool) -> list[Finding]:
    """Compare the order and number of slices with what the headers declare."""
    numbers = [header.instance_number for header in ordered]
    findings = []
    known = [number for number in numbers if number is not None]
    steps = np.diff(known)
    single_frames = ordered[0].frames == 1
    in_order = bool(np.all(steps > 0) or np.all(steps < 0))
    if single_frames and len(known) == len(ordered) and not in_order:
        findings.append(
            Finding(
                "G01",
                Outcome.FIXED,
                "Instance numbers do not follow the slices; they were sorted by "
                "position.",
            )
        )
    if whole_series and single_frames and (hint := _end_missing(ordered, known)):
        findings.append(
            Finding(
                "G04",
                Outcome.WARNED,
                f"Slices at an end of the stack may be missing: {hint}.",
            )
        )
    return findings


def _end_missing(ordered: Sequence[SliceHeader], numbers: Sequence[int]) -> str:
    declared = {header.images_in_acquisition for header in ordered} - {None, 0}
    expected = max((count for count in declared if count is not None), default=0)
    if len(declared) == 1 and expected > len(ordered):
        return (
            f"the header announces {expected} images, the folder holds {len(ordered)}"
        )
    consecutive = len(numbers) == len(ordered) and bool(
        np.all(np.diff(numbers) == 1) or np.all(np.diff(numbers) == -1)
    )
    if consecutive and min(numbers) == 2:  # noqa: PLR2004 - the first number but one
        return "the instance numbers begin at 2"
    return ""


def _declared_spacing(
    ordered: Sequence[SliceHeader], affine: FloatArray
) -> list[Finding]:
    """Compare the distance of the slices with what their headers claim (G08)."""
    real = float(np.linalg.norm(affine[:3, 2]))
    spacing = ordered[0].declared_spacing_mm
    claimed = ordered[0].thickness_mm if spacing is None else spacing
    if not claimed or abs(claimed - real) <= _DECLARED_OFF_BY * real:
        return []
    tag = "Slice Thickness" if spacing is None else "Spacing Between Slices"
    return [
        Finding(
            "G08",
            Outcome.WARNED,
            f"{tag} is {claimed:g} mm, but the slices lie {real:.3f} mm apart; their "
            "positions count.",
        )
    ]
