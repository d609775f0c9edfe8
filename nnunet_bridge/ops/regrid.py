"""Put a mask on the grid of an image: copied if it is aligned, resampled otherwise.

3D Slicer writes masks flipped, permuted, cropped, padded or oversampled. Only the
position in the patient decides where a voxel belongs, never the shape alone. Inexact
placements are reported in mm (FAULTS K01-K05, K20). A mask without a valid position is
refused, unless the recipe gives its position.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.findings import Finding, Outcome, Refused
from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import BoolArray

SAME_WITHIN = 0.01
"""Grids whose voxels agree to this share of the smallest spacing are the same."""

SNAP_WITHIN = 0.10  # up to this share, the mask is moved onto the grid, with a warning
OUTSIDE_LIMIT = 0.001  # largest share of a mask that may lie outside the image

ELSEWHERE_LIMIT = 0.01
"""A mask of the image's shape with a larger share outside is of another scan."""

VOLUME_LIMIT = 0.02  # largest relative change of the volume of a mask by resampling

_TIE = 1e-6
_WHOLE_FACTOR_WITHIN = 1e-3


@dataclass(frozen=True, slots=True)
class StatedPlace:
    """The position of masks whose file has none, as given in the recipe."""

    slices: tuple[int, int] | None = None
    """First slice of the image that the mask covers, and one past the last; negative
    numbers count from the end of the stack. For masks with an identity matrix (K20)."""

    as_image: bool = False
    """Put a mask of the image's shape on its voxels, whatever its position (K05)."""


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """A mask on the grid of an image, with the method and its effects."""

    voxels: BoolArray  # (I, J, K) on the image's grid, Fortran-ordered
    method: str
    """``empty``, ``same grid``, ``snapped``, ``pasted``, ``whole factor``,
    ``nearest neighbour``, ``stated slices`` or ``stated place``."""

    voxels_before: int
    voxels_after: int
    voxels_outside: int
    """Voxels of the mask (on its own grid) whose centres lie outside the image."""

    volume_change: float  # relative change of the volume inside the image
    findings: tuple[Finding, ...]


def placed_on(
    grid: Grid,
    mask_grid: Grid,
    mask: BoolArray,
    *,
    name: str,
    stated: StatedPlace | None = None,
) -> Placement:
    """Put a mask on the grid of an image, or where the recipe `stated` it.

    Raises `Refused` if the mask lies elsewhere (K05), covers unknown slices (K20),
    leaves the image (K02), or changes its volume (K03).
    """
    before = int(np.count_nonzero(mask))
    if before == 0:
        nothing = np.zeros(grid.shape, bool, order="F")
        return Placement(nothing, "empty", 0, 0, 0, 0.0, ())
    if grid.shape == mask_grid.shape:
        apart_mm = mask_grid.displacement_mm(grid)
        if apart_mm <= (SNAP_WITHIN + _TIE) * grid.spacing_mm.min():
            return _copied(mask, before, apart_mm, grid, name)
    on_request = _as_stated(
        grid, mask_grid, mask, before, stated or StatedPlace(), name
    )
    if on_request is not None:
        return on_request
    _refuse_an_identity_matrix(grid, mask_grid, name)
    to_image = np.linalg.inv(grid.affine) @ mask_grid.affine
    turn = _signed_permutation(to_image)
    if turn is not None:
        snapped = Grid(mask_grid.shape, grid.affine @ turn)
        apart_mm = snapped.displacement_mm(mask_grid)
        aligned = apart_mm <= (SNAP_WITHIN + _TIE) * grid.spacing_mm.min()
        if np.array_equal(turn[:3, :3], np.eye(3)) and grid.shape == mask_grid.shape:
            raise _elsewhere(grid, mask_grid, name)
        if aligned:
            return _pasted(grid, mask_grid, mask, turn, (before, apart_mm), name)
    return _resampled(grid, mask_grid, mask, to_image, before, name)


def _copied(
    mask: BoolArray, before: int, apart_mm: float, grid: Grid, name: str
) -> Placement:
    moved = _moved(apart_mm, grid, name)
    return Placement(
        np.asfortranarray(mask),
        "snapped" if moved else "same grid",
        before, before, 0, 0.0, tuple(moved),
    )  # fmt: skip


def _moved(apart_mm: float, grid: Grid, name: str) -> list[Finding]:
    """Report a mask that is moved onto the grid by more than a rounding error."""
    if apart_mm <= (SAME_WITHIN + _TIE) * grid.spacing_mm.min():
        return []
    return [
        Finding(
            "K04",
            Outcome.WARNED,
            f"{name} lies {apart_mm:.3f} mm beside the voxels of the image and is "
            "moved onto them.",
        )
    ]


def _as_stated(
    grid: Grid,
    mask_grid: Grid,
    mask: BoolArray,
    before: int,
    stated: StatedPlace,
    name: str,
) -> Placement | None:
    """Put a mask on the position from the recipe; None if it does not apply."""
    if stated.as_image and grid.shape == mask_grid.shape:
        return _laid_on(mask, before, mask_grid.displacement_mm(grid), name)
    # The mask covers whole slices of the image, but does not say which.
    unplaced = mask_grid.shape[:2] == grid.shape[:2] and _is_identity(mask_grid.affine)
    if stated.slices and unplaced:
        return _on_stated_slices(grid, mask, before, stated.slices, name)
    return None


def _laid_on(mask: BoolArray, before: int, apart_mm: float, name: str) -> Placement:
    """Copy a mask onto the voxels of the image, against its own position."""
    finding = Finding(
        "K05",
        Outcome.WARNED,
        f"{name} has a position {apart_mm:.2f} mm away; it is put on the voxels of the "
        "image, as `masks.ignore_place` requires.",
    )
    voxels = np.asfortranarray(mask)
    return Placement(voxels, "stated place", before, before, 0, 0.0, (finding,))


def _on_stated_slices(
    grid: Grid, mask: BoolArray, before: int, slices: tuple[int, int], name: str
) -> Placement:
    """Put a mask without a position on the slices from the recipe (K20)."""
    count = grid.shape[2]
    first, end = (n + count if n < 0 else n for n in slices)
    if not 0 <= first < end <= count or end - first != mask.shape[2]:
        raise Refused.because(
            "K20",
            f"{name} has {mask.shape[2]} slices, but `masks.slices` is {slices[0]} to "
            f"{slices[1]} of the {count} slices of the image, which is "
            f"{max(end - first, 0)} slices. Correct the range.",
        )
    voxels = np.zeros(grid.shape, bool, order="F")
    voxels[:, :, first:end] = mask
    finding = Finding(
        "K20",
        Outcome.WARNED,
        f"{name} has no position; it is put on slices {first} to {end - 1} of {count}, "
        "as `masks.slices` requires.",
    )
    return Placement(voxels, "stated slices", before, before, 0, 0.0, (finding,))


def _refuse_an_identity_matrix(grid: Grid, mask_grid: Grid, name: str) -> None:
    """Refuse a mask that was saved without a position (K05, K20)."""
    if not _is_identity(mask_grid.affine) or _is_identity(grid.affine):
        return
    if mask_grid.shape[:2] == grid.shape[:2] and mask_grid.shape != grid.shape:
        raise Refused.because(
            "K20",
            f"{name} has {mask_grid.shape[2]} slices, the image {grid.shape[2]}, and "
            "an identity matrix instead of a position, so its slices are unknown. "
            "Export it from 3D Slicer again with the MR as reference, or give its "
            "slices in `masks.slices`.",
        )
    raise Refused.because(
        "K05",
        f"{name} has an identity matrix instead of a position in the patient, but the "
        "image has a position. Export it from 3D Slicer again with the MR as "
        "reference.",
    )


def _is_identity(affine: FloatArray) -> bool:
    """Whether the affine is the identity, in LPS or as RAS files have it."""
    return bool(np.allclose(np.abs(affine), np.eye(4), atol=1e-6) and affine[2, 2] > 0)


def _elsewhere(grid: Grid, mask_grid: Grid, name: str) -> Refused:
    shift = mask_grid.affine[:3, 3] - grid.affine[:3, 3]
    return Refused.because(
        "K05",
        f"{name} has the image's shape, but lies up to "
        f"{mask_grid.displacement_mm(grid):.2f} mm away (its first voxel by "
        f"{shift[0]:+.2f}, {shift[1]:+.2f}, {shift[2]:+.2f} mm to left, back and "
        "head): it belongs to another scan, or its position is wrong. Export it again.",
    )


def _signed_permutation(to_image: FloatArray) -> FloatArray | None:
    """Return the nearest exact map between voxels if axes only swap and flip.

    Each rounded column and row then has a single entry of 1 or -1.
    """
    rounded = np.rint(to_image)
    axes = np.abs(rounded[:3, :3])
    close = np.allclose(to_image[:3, :3], rounded[:3, :3], atol=0.05)
    if close and np.all(axes.sum(axis=0) == 1) and np.all(axes.sum(axis=1) == 1):
        return rounded
    return None


def _pasted(
    grid: Grid,
    mask_grid: Grid,
    mask: BoolArray,
    turn: FloatArray,
    known: tuple[int, float],
    name: str,
) -> Placement:
    """Copy voxel by voxel: axes swapped and flipped, offset by whole voxels.

    `turn` maps voxels of the mask to voxels of the image. First the axes of the mask
    are put in the order of the image; then each axis is flipped if it runs backwards
    (its first voxel is then the last), and cropped to the overlap with the image.
    """
    before, apart_mm = known
    order = [int(np.abs(turn[axis, :3]).argmax()) for axis in range(3)]
    view = mask.transpose(order)
    into, out_of = [], []
    for axis in range(3):
        size, sign = view.shape[axis], int(turn[axis, order[axis]])
        start = int(turn[axis, 3])
        if sign < 0:
            view = np.flip(view, axis)
            start -= size - 1
        low, high = max(start, 0), min(start + size, grid.shape[axis])
        into.append(slice(low, max(low, high)))
        out_of.append(slice(low - start, max(low, high) - start))
    voxels = np.zeros(grid.shape, bool, order="F")
    voxels[tuple(into)] = view[tuple(out_of)]
    after = int(np.count_nonzero(voxels))
    same_shape = grid.shape == mask_grid.shape
    findings = [
        *_moved(apart_mm, grid, name),
        *_outside(before, before - after, name, same_shape=same_shape),
        Finding(
            "K01" if same_shape else "K02",
            Outcome.FIXED,
            f"{name} is copied voxel by voxel: its grid is "
            + ("turned or flipped." if same_shape else "cropped, padded or turned."),
        ),
    ]
    return Placement(
        voxels, "pasted", before, after, before - after, 0.0, tuple(findings)
    )


def _outside(
    before: int, outside: int, name: str, *, same_shape: bool
) -> list[Finding]:
    if outside == 0:
        return []
    share = outside / before
    what = f"{outside} of {before} voxels of {name} ({share:.2%}) lie outside the image"
    if same_shape and share > ELSEWHERE_LIMIT:
        raise Refused.because(
            "K05", f"{what}: it belongs to another scan, or its position is wrong."
        )
    if share > OUTSIDE_LIMIT:
        raise Refused.because(
            "K02",
            f"{what} (limit {OUTSIDE_LIMIT:.1%}). Check that it belongs to this scan.",
        )
    return [Finding("K02", Outcome.WARNED, f"{what} and are dropped.")]


def _resampled(
    grid: Grid,
    mask_grid: Grid,
    mask: BoolArray,
    to_image: FloatArray,
    before: int,
    name: str,
) -> Placement:
    """Give every voxel of the image the value of the nearest voxel of the mask."""
    inside = _count_inside(grid, mask, to_image)
    same_shape = grid.shape == mask_grid.shape
    findings = _outside(before, before - inside, name, same_shape=same_shape)
    to_mask = np.linalg.inv(to_image).astype(np.float64)
    voxels = _nearest(grid.shape, mask, to_mask)
    after = int(np.count_nonzero(voxels))
    expected_mm3 = inside * mask_grid.voxel_volume_mm3
    change = after * grid.voxel_volume_mm3 / expected_mm3 - 1.0
    spacings = " x ".join(f"{size:.3g}" for size in mask_grid.spacing_mm)
    if abs(change) > VOLUME_LIMIT:
        raise Refused.because(
            "K03",
            f"{name} lies on another grid (voxels of {spacings} mm), and resampling "
            f"changes its volume by {change:+.1%} (limit {VOLUME_LIMIT:.0%}). Export "
            "it from 3D Slicer with the MR as reference.",
        )
    whole = _is_whole_factor(to_image, mask.shape)
    findings.append(
        Finding(
            "K03",
            Outcome.FIXED if whole else Outcome.WARNED,
            f"{name} is resampled from voxels of {spacings} mm to the nearest voxels "
            f"of the image; its volume changes by {change:+.2%}.",
        )
    )
    method = "whole factor" if whole else "nearest neighbour"
    return Placement(
        voxels, method, before, after, before - inside, change, tuple(findings)
    )


def _count_inside(grid: Grid, mask: BoolArray, to_image: FloatArray) -> int:
    """Count the voxels of the mask whose centres lie in the image."""
    total = 0
    highest = np.array(grid.shape) - 0.5
    for k in np.flatnonzero(mask.any(axis=(0, 1))):
        i, j = np.nonzero(mask[:, :, k])
        indices = np.stack([i, j, np.full_like(i, k)], axis=1)
        centres = indices @ to_image[:3, :3].T + to_image[:3, 3]
        # Rounding errors must not exclude a voxel on the border.
        within = (centres >= -0.5 - _TIE) & (centres <= highest + _TIE)
        total += int(np.count_nonzero(within.all(axis=1)))
    return total


def _nearest(
    shape: tuple[int, int, int], mask: BoolArray, to_mask: FloatArray
) -> BoolArray:
    """Sample the mask at the voxel centres of the image; outside it is empty."""
    voxels = np.zeros(shape, bool, order="F")
    plane = np.stack(np.meshgrid(*map(np.arange, shape[:2]), indexing="ij"), axis=-1)
    in_plane = plane @ to_mask[:3, :2].T
    sizes = np.array(mask.shape)
    for k in range(shape[2]):
        centres = in_plane + (to_mask[:3, 2] * k + to_mask[:3, 3])
        indices = np.floor(centres + (0.5 - _TIE)).astype(np.intp)
        within = ((indices >= 0) & (indices < sizes)).all(axis=-1)
        i, j, m = indices[within].T
        voxels[:, :, k][within] = mask[i, j, m]
    return voxels


def _is_whole_factor(to_image: FloatArray, shape: tuple[int, ...]) -> bool:
    """Whether axes only swap, flip and scale by whole numbers or their inverses."""
    axes = to_image[:3, :3]
    largest = np.abs(axes).argmax(axis=0)
    scales = np.abs(axes[largest, np.arange(3)])
    rest: npt.NDArray[np.float64] = np.abs(axes).sum(axis=0) - scales
    factors = np.maximum(scales, 1 / scales)
    return bool(
        len(set(largest.tolist())) == len(shape)
        and np.all(rest * np.array(shape) <= SNAP_WITHIN)
        and np.all(np.abs(factors - np.rint(factors)) <= _WHOLE_FACTOR_WITHIN)
    )
