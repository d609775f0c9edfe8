"""Axes of nnU-Net's arrays along which mirroring would exchange left and right.

In a dataset with sided labels (``femur_left``, ``femur_right``), an image mirrored from
left to right shows a right femur under the label of the left one. The left-right
component c of an axis is the first component of its unit vector in LPS+: mirroring
along that axis takes the vector that points to the left to one with the left-right
component 1 - 2 c^2.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from nnunet_bridge.core.image import side_of

KEEPS_SIDES = 0.5
"""Up to this component (60 degrees off left-right) left stays on the left."""

SWAPS_SIDES = math.sqrt(0.75)
"""From this component (30 degrees off left-right) on, left goes to the right."""

TURNS_OVER = math.pi / 4
"""Widest range of rotation, in radians, with which any axis may be mirrored: half a
turn and a mirror from front to back are together a mirror from left to right."""

_OTHER = {"left": "right", "right": "left"}


def has_sided_labels(labels: Iterable[str]) -> bool:
    """Whether a label names a side."""
    return any(side_of(name) in _OTHER for name in labels)


def swapped_labels(labels: Mapping[str, int]) -> dict[int, int] | None:
    """Return value -> value of the same structure on the other side.

    None if a structure has a label on one side only: a mirrored image would need the
    other one.

    Examples
    --------
    >>> swapped_labels({"background": 0, "hip_left": 1, "hip_right": 2, "sacrum": 3})
    {1: 2, 2: 1}
    >>> swapped_labels({"background": 0, "hip_left": 1}) is None
    True
    """
    swaps = {}
    for name, value in labels.items():
        side = side_of(name)
        if side in _OTHER:
            twin = f"{name.removesuffix(side)}{_OTHER[side]}"
            if twin not in labels:
                return None
            swaps[value] = labels[twin]
    return swaps


def left_right_components(
    direction: Sequence[float], transpose: Sequence[int]
) -> tuple[float, float, float]:
    """Return |c| of the three axes of a preprocessed case.

    Parameters
    ----------
    direction : (9,) sequence
        SimpleITK's, by rows: its columns are the unit vectors of the image's axes i, j
        and k in LPS+.
    transpose : (3,) sequence
        ``transpose_forward`` of the plans: axis of the array [k, j, i] as it is read
        that each axis of the preprocessed array is.

    Examples
    --------
    >>> left_right_components([1, 0, 0, 0, 1, 0, 0, 0, 1], [0, 1, 2])
    (0.0, 0.0, 1.0)
    """
    as_read = [abs(float(component)) for component in direction[:3]][::-1]
    first, second, third = (as_read[axis] for axis in transpose)
    return first, second, third


def axes_that_keep_sides(
    cases: Sequence[Sequence[float]], dimensions: int
) -> tuple[int, ...]:
    """Return the axes of a patch along which mirroring keeps the sides of all cases.

    `cases` are `left_right_components`, empty for a case of unknown direction, which
    allows no axis; `dimensions` 2 for patches of slices, which lack the first axis.
    """
    largest = _components_of_axes(cases, dimensions, max)
    return tuple(axis for axis, most in enumerate(largest) if most <= KEEPS_SIDES)


def axis_that_swaps_sides(
    cases: Sequence[Sequence[float]], dimensions: int
) -> int | None:
    """Return the axis of a patch that is left-right in all cases, or None."""
    smallest = _components_of_axes(cases, dimensions, min)
    return next((n for n, least in enumerate(smallest) if least >= SWAPS_SIDES), None)


def _components_of_axes(
    cases: Sequence[Sequence[float]], dimensions: int, extreme: Callable[..., float]
) -> list[float]:
    """Return the extreme component of each axis of a patch; empty if one is unknown."""
    if not cases or not all(cases):
        return []
    return [extreme(axis) for axis in list(zip(*cases, strict=True))[-dimensions:]]


def allowed_axes(
    wanted: Iterable[int], keeping: Iterable[int], rotation: Sequence[float]
) -> tuple[int, ...]:
    """Return the axes along which a dataset with sided labels may be mirrored.

    Those of `wanted` that are `keeping` sides; none if the trainer's range of rotation,
    in radians, is too wide.

    Examples
    --------
    >>> allowed_axes((0, 1, 2), (0, 1), (-0.5, 0.5)), allowed_axes((0,), (0,), (-3, 3))
    ((0, 1), ())
    """
    if max(abs(angle) for angle in rotation) > TURNS_OVER:
        return ()
    return tuple(sorted(set(wanted) & set(keeping)))
