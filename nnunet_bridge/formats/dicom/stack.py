"""Sort the slices of one group, place them, and check that they make a volume."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nnunet_bridge.core.findings import Finding, Outcome, Refused, refusal, warning
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.dicom.contrasts import find_shared_positions
from nnunet_bridge.formats.dicom.groups import FEWEST_SLICES, Group
from nnunet_bridge.formats.dicom.headers import SliceHeader
from nnunet_bridge.formats.dicom.options import SeriesOptions
from nnunet_bridge.formats.dicom.stations import Overlap, split_overlap
from nnunet_bridge.formats.files import pseudonym
from nnunet_bridge.ops.planes import StackPlacement, common_orientation, place_stack
from nnunet_bridge.ops.restack import Restack, plan_restack

MAX_VOXELS = 2**31
_DECLARED_OFF_BY = 0.10
_SPACING_BY_HAND = (
    f", or set the spacing that you know: {SeriesOptions.how_to('pixel_spacing_mm')}"
)
_MIXED = "a series never mixes both kinds. Export it again."
_INVERTED = (
    "unusual for MR. Export the series again, or invert it: "
    f"{SeriesOptions.how_to('invert_monochrome1')}."
)

_ANONYMISED = "looks anonymised (empty, or equal or different in all files): ignored"
_FIXED, _WARNED = Outcome.FIXED, Outcome.WARNED
MENDED = {
    "syntax": ("P13", _FIXED, "have another form of VR than their Transfer Syntax UID"),
    "comma": ("P14", _WARNED, "have decimal commas, which were read as points"),
    "class": ("D03", _WARNED, "are Secondary Capture, or of a private class"),
    "turned": ("G20", _FIXED, "are stored with reversed rows or columns; turned back"),
}
"""Key of `SliceHeader.mended` -> code, outcome and what the slices are or have."""


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Slices in stacking order: ascending along row x column."""

    headers: tuple[SliceHeader, ...]
    affine: FloatArray  # (4, 4) index -> mm, LPS+, right-handed
    max_error_mm: float
    findings: tuple[Finding, ...]

    overlap: Overlap  # the images of other stations at the same places
    restack: Restack | None = None
    """The interpolation onto a regular grid, where a user allowed it."""


def arrange(group: Group, *, whole_series: bool, options: SeriesOptions) -> Stack:
    """Sort the slices of a group by position and fit an affine.

    `whole_series` says whether the series holds nothing else, so that its numbering can
    be checked.

    Raises `Refused` with all findings, if the slices make no volume.
    """
    headers = group.headers
    # First the checks that need no order: one patient, a place for every slice.
    findings = [*_identity(headers), *_missing_geometry(headers)]
    findings += [*_inverted(headers, options), *_appearance(headers)]
    _stop_if_refused(findings)
    # Sort along the normal of the slices. The positions alone decide: instance numbers
    # and file names may be wrong, and a scanner may number in either direction.
    orientation, about_orientation = common_orientation(
        [header.plane.orientation or () for header in headers]
    )
    findings += about_orientation
    normal = np.cross(orientation[:3], orientation[3:])
    ordered = tuple(sorted(headers, key=lambda header: _height_key(header, normal)))
    # One image for every place. Images of further stations are set aside if a user
    # allowed it; any other second image is refused.
    refuse, overlap = options.overlap == "refuse", Overlap()
    joined = ordered
    if not refuse or find_shared_positions(ordered):
        joined, overlap = split_overlap(ordered, normal, options)
    findings += _repeated(ordered if refuse else joined, stations=bool(overlap.others))
    ordered, overlap = (ordered, Overlap()) if refuse else (joined, overlap)
    _stop_if_refused(findings)
    # Fit the affine; the placement holds a finding for every gap and shear.
    positions = np.array([header.plane.position_mm for header in ordered], np.float64)
    spacings = [header.plane.pixel_spacing_mm or (np.nan, np.nan) for header in ordered]
    placement = place_stack(orientation, np.median(spacings, axis=0), positions)
    about_placement, restack = _restack(ordered, placement, positions, options)
    findings += about_placement
    _stop_if_refused(findings)
    # Compare the result with the headers: numbering, declared spacing.
    if not overlap.others:
        findings += _numbering(ordered, whole_series=whole_series)
    if restack is not None:
        return Stack(ordered, restack.affine, 0.0, tuple(findings), overlap, restack)
    findings += _declared_spacing(ordered, placement.affine)
    return Stack(
        ordered, placement.affine, placement.max_error_mm, tuple(findings), overlap
    )


def _restack(
    ordered: Sequence[SliceHeader],
    placement: StackPlacement,
    positions: FloatArray,
    options: SeriesOptions,
) -> tuple[list[Finding], Restack | None]:
    """Plan the interpolation that the options allow; None if it cannot mend the stack.

    A fault that interpolation mends becomes a warning; one that it could mend gets the
    option in its message.
    """
    faults: dict[str, Literal["uneven", "sheared"]]
    faults = {"G06": "uneven", "G07": "sheared"}
    allowed = {code for code, kind in faults.items() if options.may_resample(kind)}
    codes = {finding.code for finding in placement.findings}
    mended = codes & allowed
    left = codes & {"G03", "G06", "G07", "D10", "G13", "G17"} - allowed
    if left or not mended:
        ways = {code: kind for code, kind in faults.items() if code not in allowed}
        return [_with_way_out(f, ways) for f in placement.findings], None
    plane = ordered[0].plane
    shape = (plane.columns, plane.rows, len(ordered))
    plan = plan_restack(placement.affine, positions, shape)
    names = " and ".join(faults[code] for code in sorted(mended))
    message = (
        f"The stack was {names} and was resampled, as requested, from {len(ordered)} "
        f"slices onto {plan.shape[2]} at a distance of {plan.new_heights_mm[1]:.3f} "
        f"mm: {len(plan.interpolated)} of them lie between measured places and are "
        "interpolated."
    )
    findings = [f for f in placement.findings if f.code not in mended]
    findings += [warning(code, message) for code in sorted(mended)]
    return findings, plan


def _with_way_out(finding: Finding, ways: Mapping[str, str]) -> Finding:
    """Add to a refusal the option that allows interpolation."""
    if finding.outcome is not Outcome.REFUSED or finding.code not in ways:
        return finding
    how = SeriesOptions.how_to("resample", ways[finding.code])
    return refusal(finding.code, f"{finding.message} To interpolate it, set {how}.")


def _stop_if_refused(findings: Sequence[Finding]) -> None:
    if any(finding.outcome is Outcome.REFUSED for finding in findings):
        raise Refused(findings)


def _height_key(header: SliceHeader, normal: FloatArray) -> tuple[float, ...]:
    """Return height, then position: the order between equal heights is fixed, too."""
    position = np.asarray(header.plane.position_mm, dtype=np.float64)
    return (float(position @ normal), *map(float, position))


def _identity(headers: Sequence[SliceHeader]) -> Iterator[Finding]:
    """Refuse slices of two patients, studies or frames of reference (D11)."""
    salt = secrets.token_bytes(16)
    identifiers: dict[str, Callable[[SliceHeader], str]] = {
        "patients": lambda h: h.identity.patient,
        "studies": lambda h: h.identity.study,
        "frames of reference": lambda h: h.identity.frame_of_reference,
    }
    for name, value in identifiers.items():
        values = sorted({value(header) for header in headers} - {""})
        if len(values) > 1:
            hashes = ", ".join(pseudonym(text, salt)[:8] for text in values[:4])
            yield refusal(
                "D11",
                f"The slices of one series belong to {len(values)} {name} (shown as "
                f"hashes: {hashes}): separate them.",
            )


def _missing_geometry(headers: Sequence[SliceHeader]) -> Iterator[Finding]:
    needed: tuple[tuple[str, str, Callable[[SliceHeader], object]], ...] = (
        ("G16", "Image Position (Patient)", lambda h: h.plane.position_mm),
        ("G16", "Image Orientation (Patient)", lambda h: h.plane.orientation),
        ("G12", "Pixel Spacing", lambda h: h.plane.pixel_spacing_mm),
    )
    for code, attribute, value in needed:
        without = [header for header in headers if value(header) is None]
        if without:
            yield refusal(
                code,
                f"{len(without)} of {len(headers)} slices have no {attribute}, the "
                f"first is {quoted(without[0].name)}: size and place of the image are "
                "unknown. Export the series again from the scanner"
                f"{_SPACING_BY_HAND if code == 'G12' else ''}.",
            )
    if len(headers) < FEWEST_SLICES:
        needs = f"A volume needs at least {FEWEST_SLICES} slices"
        yield refusal("D15", f"{needs}; the series has {len(headers)}.")


def _appearance(headers: Sequence[SliceHeader]) -> Iterator[Finding]:
    """Judge the attributes that concern the pixels as a whole."""
    first = headers[0]
    for key in dict.fromkeys(key for header in headers for key in header.mended):
        many = sum(key in header.mended for header in headers)
        anonymised = ("D16", _WARNED, f"have a {key} that {_ANONYMISED}")
        code, outcome, what = MENDED.get(key, anonymised)
        yield Finding(code, outcome, f"{many} of {len(headers)} slices {what}.")
    if scaled := sum(header.privately_scaled for header in headers):
        yield Finding(
            "P02",
            Outcome.ACCEPTED,
            f"{scaled} of {len(headers)} slices carry a private scale of Philips "
            "(2005,100E) beside the public one; only the public one is used.",
        )
    if first.contrast.modality != "MR":
        modality = f"The modality is {first.contrast.modality or 'missing'}, not MR"
        for_ct = 'for CT, nnU-Net needs `channel = "CT"` in [dataset]'
        yield warning("D03", f"{modality}; {for_ct}.")
    if any(header.burned_in for header in headers):
        yield refusal(
            "F14",
            "Text is burned into the images (Burned In Annotation YES), which may name "
            "the patient: export them without it.",
        )
    if first.contrast.image_type[:2] == ("DERIVED", "SECONDARY"):
        measured = "the images are computed, not measured"
        yield warning("D03", f"The image type is DERIVED\\SECONDARY: {measured}.")
    size = len(headers) * first.plane.rows * first.plane.columns
    if size > MAX_VOXELS:
        yield refusal("S07", f"The series announces {size} voxels.")


def _inverted(
    headers: Sequence[SliceHeader], options: SeriesOptions
) -> Iterator[Finding]:
    """Judge MONOCHROME1: never mixed, all of it if a user allowed it (P03)."""
    inverted = sum(header.encoding.inverted for header in headers)
    if not inverted:
        return
    if inverted < len(headers):
        outcome, rest = Outcome.REFUSED, _MIXED
    elif not options.invert_monochrome1:
        outcome, rest = Outcome.REFUSED, _INVERTED
    else:
        outcome, rest = Outcome.WARNED, "they were inverted, as requested."
    count = f"{inverted} of {len(headers)} slices are MONOCHROME1"
    yield Finding("P03", outcome, f"{count} (white is the smallest value): {rest}")


def _repeated(ordered: Sequence[SliceHeader], *, stations: bool) -> Iterator[Finding]:
    """Refuse slices at one place: other images (D08) or overlapping stations (D09)."""
    twice = find_shared_positions(ordered)
    if not twice or len(twice[0]) == len(ordered):
        return  # all slices at one place are fault G17, whose message is clearer
    pair = min(twice, key=lambda group: sorted(header.name for header in group))
    place = ", ".join(f"{x:.2f}" for x in pair[0].plane.position_mm or ())
    names = " and ".join(quoted(name) for name in sorted(h.name for h in pair)[:2])
    if len(twice) == 1:
        yield refusal(
            "D08",
            f"{names} lie at the same place ({place}) and are different images"
            f"{_differences(pair)}: remove the one that does not belong.",
        )
        return
    what = "several images of one place, not stations of one scan"
    how = f"Export each in a series of its own{_differences(pair)}."
    if stations:
        join = SeriesOptions.how_to("overlap", "first")
        what = "stations that overlap, or a repeated scan"
        how = (
            "Export the composed series of the scanner, or one scan alone; to join "
            f"stations, set {join}."
        )
    found = f"{len(twice)} places hold more than one image, the first ({place}) holds"
    yield refusal("D09", f"{found} {names}: {what}. {how}")


def _differences(headers: Sequence[SliceHeader]) -> str:
    """Name the attributes in which slices at one place differ."""
    attributes: dict[str, Callable[[SliceHeader], object]] = {
        "InstanceNumber": lambda h: h.instance_number,
        "AcquisitionNumber": lambda h: h.contrast.acquisition,
        "TemporalPositionIdentifier": lambda h: h.contrast.temporal_position,
        "TriggerTime": lambda h: h.contrast.trigger_time,
        "SOPInstanceUID": lambda h: h.identity.instance,
    }
    names = [n for n, value in attributes.items() if len(set(map(value, headers))) > 1]
    return f" (they differ in {', '.join(names)})" if names else ""


def _numbering(
    ordered: Sequence[SliceHeader], *, whole_series: bool
) -> Iterator[Finding]:
    """Compare order and number of the slices with their headers (G01, G04)."""
    if ordered[0].frames > 1:
        return
    numbers = [h.instance_number for h in ordered if h.instance_number is not None]
    steps = np.diff(numbers)
    in_order = bool(np.all(steps > 0) or np.all(steps < 0))
    if len(numbers) == len(ordered) and not in_order:
        unsorted = "Instance numbers do not follow the slices"
        text = f"{unsorted}; they were sorted by position."
        yield Finding("G01", Outcome.FIXED, text)
    if whole_series and (hint := _end_missing(ordered, numbers)):
        yield warning("G04", f"Slices at an end of the stack may be missing: {hint}.")


def _end_missing(ordered: Sequence[SliceHeader], numbers: Sequence[int]) -> str:
    """Return the sign that slices at an end are missing; empty without any."""
    declared = {h.images_in_acquisition for h in ordered if h.images_in_acquisition}
    if len(declared) == 1 and max(declared) > len(ordered):
        (announced,) = declared
        found = f"the folder holds {len(ordered)}"
        return f"the header announces {announced} images, {found}"
    steps = np.diff(numbers)
    consecutive = bool(np.all(steps == 1) or np.all(steps == -1))
    if len(numbers) == len(ordered) and consecutive and min(numbers) == 2:  # noqa: PLR2004 - the first number but one
        return "the instance numbers begin at 2"
    return ""


def _declared_spacing(
    ordered: Sequence[SliceHeader], affine: FloatArray
) -> Iterator[Finding]:
    """Compare the distance of the slices with their headers (G08)."""
    real = float(np.linalg.norm(affine[:3, 2]))
    spacing = ordered[0].declared_spacing_mm
    claimed = ordered[0].thickness_mm if spacing is None else spacing
    if not claimed or abs(claimed - real) <= _DECLARED_OFF_BY * real:
        return
    attribute = "Slice Thickness" if spacing is None else "Spacing Between Slices"
    found = f"but the slices lie {real:.3f} mm apart; their positions are used"
    yield warning("G08", f"{attribute} is {claimed:g} mm, {found}.")
