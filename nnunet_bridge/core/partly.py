"""What was drawn in a case in which not everything was drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import Side

PARTIAL = "partial"
"""In a recipe: what was not drawn may be anywhere where nothing else was drawn."""

Point: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Midline:
    """The plane between the left and the right half of a body, in LPS+ mm."""

    point_mm: Point
    normal: Point  # of length 1; towards the patient's left

    def __post_init__(self) -> None:
        """Refuse a plane that does not part left from right."""
        length = float(np.linalg.norm(self.normal))
        if not (abs(length - 1) < 1e-3 and self.normal[0] > 0):  # noqa: PLR2004 - rounding
            raise InputError(f"{self.normal} is not a unit normal to the left.")

    def beyond(
        self, side: Side, affine: npt.NDArray[np.float64], shape: tuple[int, ...]
    ) -> npt.NDArray[np.bool_]:
        """Return which voxels of an (I, J, K) array lie on the other side than `side`.

        `affine` (4, 4) maps the indices of the voxels to LPS+ mm.
        """
        to_left = np.asarray(self.normal) * (1 if side is Side.RIGHT else -1)
        slopes = to_left @ affine[:3, :3]
        offset = to_left @ (affine[:3, 3] - np.asarray(self.point_mm))
        along = [slope * np.arange(n) for slope, n in zip(slopes, shape, strict=True)]
        i, j, k = np.ix_(*along)
        found: npt.NDArray[np.bool_] = i + j + k + offset > 0
        return found


@dataclass(frozen=True, slots=True)
class PartlyDrawn:
    """What was drawn in one case."""

    not_drawn: frozenset[str] = frozenset()  # structures of which nothing is known
    side: Side = Side.MERGED
    """The only side of the body on which was drawn; `MERGED` for both."""

    midline: Midline | None = None  # between the sides; None for both
    on_both: frozenset[str] = frozenset()  # structures that were drawn on both sides

    def __post_init__(self) -> None:
        """Refuse a case in which everything was drawn, and a side without a midline."""
        if not (self.not_drawn or self.side):
            raise InputError("In a partly drawn case something was not drawn.")
        if (self.midline is not None) != (self.side in (Side.LEFT, Side.RIGHT)):
            raise InputError(
                "One side that was drawn needs a midline, and left or right."
            )

    def as_json(self) -> JsonObject:
        """Return the entry of the case in ``dataset.json``."""
        entry: JsonObject = {}
        if self.not_drawn:
            entry["not_drawn"] = sorted(self.not_drawn)
        if self.midline is not None:
            plane = {"point_mm": self.midline.point_mm, "normal": self.midline.normal}
            entry |= {"side": str(self.side), "midline": plane}
            entry["on_both"] = sorted(self.on_both)
        return entry

    @classmethod
    def from_json(cls, entry: JsonObject) -> PartlyDrawn:
        """Return the case of an entry; ValueError if it is none."""
        try:
            names = [entry.get(key, []) for key in ("not_drawn", "on_both")]
            if not all(isinstance(n, list) for n in names) or entry.keys() - _KEYS:
                raise ValueError("unknown entries")
            not_drawn, on_both = (frozenset(map(str, found)) for found in names)
            plane = entry.get("midline")
            points = [_point(plane[k]) for k in ("point_mm", "normal")] if plane else []
            midline = Midline(*points) if points else None
            return cls(not_drawn, Side(entry.get("side", "")), midline, on_both)
        except (AttributeError, KeyError, TypeError, InputError) as error:
            raise ValueError(str(error)) from error


def _point(numbers: list[float]) -> Point:
    x, y, z = map(float, numbers)
    return x, y, z


_KEYS = {"not_drawn", "side", "midline", "on_both"}

CasesPartlyDrawn: TypeAlias = Mapping[str, PartlyDrawn]
"""Case id -> what was drawn; cases in which everything was drawn have no entry."""
