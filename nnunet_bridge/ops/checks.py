"""Plausibility checks of masks on their image: sides, specks, air and the border.

Each check returns findings and changes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nnunet_bridge.core.findings import Finding, Outcome, Refused, refusal, warning
from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import BoolArray, Labelmap, Volume, VoxelArray
from nnunet_bridge.core.units import counted
from nnunet_bridge.ops.planes import PIXEL_SPACING_RANGE_MM, SLICE_SPACING_RANGE_MM

AIR_SHARE = 0.05  # voxels below this share of the 99th percentile of the image are air
AIR_LIMIT = 0.20  # a structure with a larger share in air is refused

VOID_LIMIT = 0.01
"""A structure with a larger share outside the non-zero image is refused."""

WHOLE_SHARE = 0.99  # share of a bone that its largest component should hold

TWIN_SHARE = 0.25
"""A piece of at least this share of the largest may be the bone of the other side."""

LONGEST_M = 10.0  # a whole body takes 2 m
_SAMPLES = 2_000_000


@dataclass(frozen=True, slots=True, eq=False)
class DrawnStructure:
    """Structure, side and position of one mask."""

    structure: str
    side: str
    centroid_mm: FloatArray  # (3,) LPS+: x grows towards the patient's left


def require_possible_length(grid: Grid) -> None:
    """Refuse an image that is longer than a person (G13).

    It would take days to predict. Raises `Refused`.
    """
    length_m = float((grid.spacing_mm * grid.shape).max()) / 1000
    if length_m > LONGEST_M:
        text = (
            f"The image is {length_m:.1f} m long, {LONGEST_M:g} m are possible: is its"
        )
        raise Refused.because("G13", f"{text} unit of length right? Export it again.")


def image_findings(volume: Volume) -> Iterator[Finding]:
    """Check an image from a file as a DICOM series: voxel size (G13), values (P11)."""
    spacing_mm = volume.grid.spacing_mm
    ranges = (*[PIXEL_SPACING_RANGE_MM] * 2, SLICE_SPACING_RANGE_MM)
    sizes = zip(sorted(spacing_mm.tolist()), ranges, strict=True)
    if not all(low <= size <= high for size, (low, high) in sizes):
        shown = " x ".join(f"{size:.4g}" for size in spacing_mm)
        (least, _), (_, most) = ranges[0], ranges[-1]
        yield refusal(
            "G13",
            f"The image has voxels of {shown} mm, outside the possible {least:g} to "
            f"{most:g} mm: is its unit of length right? Export it again.",
        )
    axis = 2 - int(spacing_mm[::-1].argmax())  # slices are the thickest, or the last
    across = tuple(n for n in range(3) if n != axis)
    low, high = volume.voxels.min(axis=across), volume.voxels.max(axis=across)
    if low.min() == high.max():
        text = f"Every voxel of the image is {low.min():g}: export it again."
        yield refusal("P11", text)
    varied = np.flatnonzero(low != high)
    inside = np.arange(varied[0], varied[-1] + 1) if varied.size else varied
    constant = np.setdiff1d(inside, varied)
    if constant.size:
        named = ", ".join(map(str, constant[:5]))
        flat = counted(constant.size, "slice", ("holds", "hold"))
        yield warning("P11", f"{flat} one value only, inside the stack: {named}.")


def centroid_mm(grid: Grid, mask: BoolArray) -> FloatArray:
    """Return the (3,) centre of a mask that is not empty, in mm, LPS+."""
    index = []
    for others in ((1, 2), (0, 2), (0, 1)):
        profile = np.count_nonzero(mask, axis=others)
        index.append(float(profile @ np.arange(len(profile))) / float(profile.sum()))
    return grid.to_patient(index)


def laterality(grid: Grid, drawn: list[DrawnStructure]) -> list[Finding]:
    """Compare the side in a mask's name with where it lies (K13).

    If both sides exist, they are compared with each other; a single side is compared
    with the middle of the image, which yields a warning only.
    """
    middle_x = float(grid.middle_mm[0])
    by_name: dict[str, dict[str, float]] = {}
    for part in drawn:
        if part.side in ("left", "right"):
            sides = by_name.setdefault(part.structure, {})
            sides[part.side] = float(part.centroid_mm[0])
    findings: list[Finding] = []
    for structure, sides in sorted(by_name.items()):
        ((side, x), *rest) = sides.items()
        leftwards = x - middle_x
        if rest and sides["left"] <= sides["right"]:
            apart = f"{sides['right'] - sides['left']:.1f} mm"
            text = f"The left {structure} lies {apart} to the right of the right one."
            why = "Their names are exchanged, or the image is mirrored"
            how = "correct the names or export the image again."
            findings.append(refusal("K13", f"{text} {why}: {how}"))
        elif not rest and (leftwards < 0 if side == "left" else leftwards > 0):
            text = f"The {side} {structure} lies {abs(leftwards):.1f} mm beyond the"
            where = "middle of the image, on the other side"
            findings.append(warning("K13", f"{text} {where}. Check its name."))
    return findings


def specks(mask: BoolArray, *, name: str, parts: int = 1) -> Iterator[Finding]:
    """Warn of a mask that consists of more than `parts` pieces (K22)."""
    from scipy import ndimage

    box = _box(mask)
    if box is None:
        return
    pieces, count = ndimage.label(mask[box])
    if count <= 1:
        return
    sizes = np.sort(np.bincount(pieces.ravel())[1:])
    bones = sizes[-parts:]
    bones = bones[bones >= TWIN_SHARE * sizes[-1]]
    share = float(bones.sum() / sizes.sum())
    if share < WHOLE_SHARE:
        hold = "two hold" if len(bones) > 1 else "holds"
        text = f"{name} is in {count} pieces; the largest {hold} {share:.1%} of it."
        yield warning("K22", text)


def _box(mask: BoolArray) -> tuple[slice, slice, slice] | None:
    """Return the smallest box that holds the mask; None if the mask is empty."""
    flat: BoolArray = np.any(mask, axis=2)
    seen = (np.any(flat, axis=1), np.any(flat, axis=0), np.any(mask, axis=(0, 1)))
    if not flat.any():
        return None
    i, j, k = (np.flatnonzero(axis)[[0, -1]].tolist() for axis in seen)
    return slice(i[0], i[1] + 1), slice(j[0], j[1] + 1), slice(k[0], k[1] + 1)


def on_the_image(volume: Volume, labelmap: Labelmap) -> list[Finding]:
    """Find structures in air (K17) and outside the content of the image (K18).

    A zero voxel is outside the content unless non-zero voxels enclose it within its
    slice: black cortical bone is inside, the empty rim of an image is not.
    """
    threshold = AIR_SHARE * high_value(volume.voxels)
    size = len(labelmap.labels) + 1
    total, air, void = (np.zeros(size, np.int64) for _ in range(3))
    for k in range(volume.grid.shape[2]):
        values = labelmap.voxels[:, :, k]
        drawn = values != 0
        if not drawn.any():
            continue
        image = volume.voxels[:, :, k]
        total += np.bincount(values[drawn], minlength=size)
        air += np.bincount(values[drawn & (image < threshold)], minlength=size)
        void += np.bincount(values[drawn & ~_enclosed(image != 0)], minlength=size)
    findings: list[Finding] = []
    for label in labelmap.labels:
        voxels = int(total[label.value])
        if voxels:
            share = int(air[label.value]) / voxels
            if share > AIR_LIMIT:
                text = f"{share:.0%} of {label.name} lie in air (limit {AIR_LIMIT:.0%})"
                why = "the mask probably belongs to another scan."
                findings.append(refusal("K17", f"{text}: {why}"))
            findings += _in_the_void(label.name, voxels, int(void[label.value]))
    return findings


def touches_an_end(labelmap: Labelmap) -> bool:
    """Whether a structure reaches the first or the last slice."""
    return bool(labelmap.voxels[:, :, 0].any() or labelmap.voxels[:, :, -1].any())


def high_value(voxels: VoxelArray) -> float:
    """Return the 99th percentile; of every n-th voxel of a large image."""
    flat = voxels.ravel(order="K")
    step = max(1, flat.size // _SAMPLES)
    return float(np.percentile(flat[::step], 99))


def _enclosed(shown: BoolArray) -> BoolArray:
    """Return the shown pixels and those between shown pixels along both axes."""
    inside = np.ones_like(shown)
    for axis in (0, 1):
        before = np.logical_or.accumulate(shown, axis=axis)
        after = np.flip(np.logical_or.accumulate(np.flip(shown, axis), axis=axis), axis)
        inside &= before & after
    return inside | shown


def _in_the_void(name: str, total: int, void: int) -> Iterator[Finding]:
    if void == 0:
        return
    share = void / total
    yield Finding(
        "K18",
        Outcome.REFUSED if share > VOID_LIMIT else Outcome.WARNED,
        f"{void} of {total} voxels of {name} ({share:.1%}) lie where the image is "
        "empty, which nnU-Net would cut off.",
    )
