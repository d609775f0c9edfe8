"""Left and right in nnU-Net's arrays: where mirroring would exchange them.

Where a dataset keeps the sides apart (``femur_left``, ``femur_right``), an image that
is mirrored from left to right shows a right femur under the label of the left one. So
each axis of a case's array is judged by its left-right component c, the first component
of its unit vector in LPS+: mirroring along it takes the vector that points to the left
to one with the left-right component 1 - 2 c^2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from nnunet_bridge.core.image import side_of

KEEPS_SIDES = 0.5
"""Up to this component (60 degrees off left-right) left stays on the left."""

SWAPS_SIDES = math.sqrt(0.75)
"""From this component (30 degrees off left-right) on, left goes to the right."""

TURNS_OVER = math.pi / 4
"""A wider range of rotation, in radians, makes of any mirrored image one that is
mirrored from left to right: half a turn and a mirror from front to back are that."""

_OTHER = {"left": "right", "right": "left"}


def sides_are_apart(labels: Iterable[str]) -> bool:
    """Whether some label names a side.

    Examples
    --------
    >>> sides_are_apart(["background", "femur_left"]), sides_are_apart(["femur"])
    (True, False)
    """
    return any(side_of(name) in _OTHER for name in labels)


def swapped_labels(labels: Mapping[str, int]) -> dict[int, int] | None:
    """Return value -> value of the same structure on the other side.

    None if a structure has a label on one side only, so that there is no name for what
    a mirrored image shows.

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
    """Return the axes of a patch along which no case is mirrored from left to right.

    None of them if nothing is known about a case.

    Parameters
    ----------
    cases : sequence of (3,) sequence
        What `left_right_components` says; empty for a case without direction.
    dimensions : int
        2 for patches of slices, which lack the first axis; 3 for volumes.
    """
    if not cases or not all(cases):
        return ()
    skipped = 3 - dimensions
    return tuple(
        axis
        for axis in range(dimensions)
        if all(case[axis + skipped] <= KEEPS_SIDES for case in cases)
    )


def axis_that_swaps_sides(
    cases: Sequence[Sequence[float]], dimensions: int
) -> int | None:
    """Return the axis of a patch that is left-right in every case; None if none is.

    Parameters as `axes_that_keep_sides`.
    """
    if not cases or not all(cases):
        return None
    skipped = 3 - dimensions
    for axis in range(dimensions):
        if all(case[axis + skipped] >= SWAPS_SIDES for case in cases):
            return axis
    return None


def allowed_axes(
    wanted: Iterable[int], keeping: Iterable[int], rotation: Sequence[float]
) -> tuple[int, ...]:
    """Return the axes along which a dataset with sides may be mirrored in training.

    Parameters
    ----------
    wanted : iterable of int
        What the trainer would mirror.
    keeping : iterable of int
        What `axes_that_keep_sides` says.
    rotation : (2,) sequence
        Range of the trainer's rotation, in radians.

    Examples
    --------
    >>> allowed_axes((0, 1, 2), (0, 1), (-0.5, 0.5)), allowed_axes((0,), (0,), (-3, 3))
    ((0, 1), ())
    """
    if max(abs(angle) for angle in rotation) > TURNS_OVER:
        return ()
    return tuple(sorted(set(wanted) & set(keeping)))
