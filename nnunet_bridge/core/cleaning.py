"""How one structure is cleaned, as a value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.image import Labelmap
from nnunet_bridge.core.summary import JsonObject

RULES = ("slice", "volume")
"""The rules that change something; ``none`` leaves a structure as it is."""

DEFAULT_MIN_VOLUME_MM3 = 500.0
"""Where nothing else is said, pieces of a structure below half a cm3 go."""


@dataclass(frozen=True, slots=True)
class CleaningRule:
    """A rule for one structure; two rules are equal if they do the same.

    Examples
    --------
    >>> CleaningRule("volume", min_volume_mm3=0.0, keep_largest=1).as_json()
    {'rule': 'volume', 'min_volume_mm3': 0.0, 'keep_largest': 1, 'each_side': False}
    """

    name: str = "slice"
    """``slice``: the source report's rule. ``volume``: whole pieces in 3-D.
    ``none``."""

    ratio: float = 0.01
    """Of the slice rule: share of the structure's area in a slice."""

    min_volume_mm3: float = DEFAULT_MIN_VOLUME_MM3
    """Of the volume rule: pieces of exactly this volume stay. 0 removes none."""

    keep_largest: int | None = None
    """Of the volume rule: how many pieces of a label may stay; None for any number."""

    each_side: bool = False
    """Of `keep_largest`: whether left and right of the middle of the image are counted
    apart. For labels that hold both sides."""

    def __post_init__(self) -> None:
        """Refuse a rule without sense."""
        if self.name not in ("none", *RULES):
            raise InputError(f"{self.name!r} is no rule; choose {' or '.join(RULES)}.")
        if not 0 <= self.ratio <= 1:
            raise InputError(f"The ratio lies within 0..1, not {self.ratio}.")
        if not 0 <= self.min_volume_mm3 < math.inf:
            raise InputError(
                f"The smallest volume is 0 mm3 or more, not {self.min_volume_mm3}."
            )
        if self.keep_largest is not None and self.keep_largest < 1:
            raise InputError(f"At least one piece must stay, not {self.keep_largest}.")
        if self.each_side and self.keep_largest is None:
            raise InputError("How many pieces may stay on each side? Name a number.")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CleaningRule:
        """Return the rule that `as_json` described.

        Raises
        ------
        InputError
            If it describes none.
        """
        options = {key: value for key, value in content.items() if key in _OPTIONS}
        try:
            return cls(content["rule"], **options)
        except (KeyError, TypeError) as error:
            raise InputError(f"{dict(content)} describes no cleaning rule.") from error

    def as_json(self) -> JsonObject:
        """Return what decides about the result."""
        if self.name == "slice":
            return {"rule": self.name, "ratio": self.ratio}
        if self.name == "none":
            return {"rule": self.name}
        return {
            "rule": self.name,
            "min_volume_mm3": self.min_volume_mm3,
            "keep_largest": self.keep_largest,
            "each_side": self.each_side,
        }

    def as_text(self) -> str:
        """Return the rule in words."""
        if self.name == "none":
            return "none"
        if self.name == "slice":
            return (
                "slice: in every slice, holes and pieces below "
                f"{self.ratio:g} of the area of the structure there, 4-connected"
            )
        kept = self.keep_largest
        where = " on each side" if self.each_side else ""
        largest = "" if kept is None else f"; the {kept} largest{where} kept"
        return (
            "volume: enclosed cavities filled, pieces below "
            f"{self.min_volume_mm3:g} mm3 removed{largest}, 6-connected"
        )


_OPTIONS = ("ratio", "min_volume_mm3", "keep_largest", "each_side")

UNCLEANED = CleaningRule("none")
"""The rule of a structure that stays as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Cleaned:
    """The result of a cleaning; nothing is removed or filled silently.

    For every structure, its volume afterwards is its volume before, minus
    `removed_mm3`, plus `filled_mm3`.
    """

    labelmap: Labelmap
    """The cleaned labelmap, in the place and with the table of the input."""

    removed_mm3: Mapping[str, float]
    """By structure: what it lost."""

    filled_mm3: Mapping[str, float]
    """By structure: what it gained."""

    contested_voxels: int
    """Voxels that two structures claimed; they kept their input label."""

    rule: str
    """The rule and its parameters, in words."""

    @property
    def changed(self) -> bool:
        """Whether any voxel differs from the input."""
        return any(self.removed_mm3.values()) or any(self.filled_mm3.values())
