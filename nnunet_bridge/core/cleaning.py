"""The cleaning rule of a structure, and the result of a cleaning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import Rule, checked_word

if TYPE_CHECKING:
    from nnunet_bridge.core.image import Labelmap

DEFAULT_MIN_VOLUME_MM3 = 500.0
"""By default, the volume rule removes pieces below half a cm3."""


@dataclass(frozen=True, slots=True)
class CleaningRule:
    """The cleaning rule of one structure, with its parameters."""

    name: Rule = Rule.SLICE
    ratio: float = 0.01
    """Slice rule: smallest hole or piece that stays, as a share of the area of the
    structure in the slice."""

    min_volume_mm3: float = DEFAULT_MIN_VOLUME_MM3
    """Volume rule: smallest piece that stays. 0 removes none."""

    keep_largest: int | None = None
    """Volume rule: largest number of pieces of a label; None for no limit."""

    each_side: bool = False
    """Volume rule: apply `keep_largest` to each side of the middle of the image, for
    labels that hold both sides."""

    def __post_init__(self) -> None:
        """Refuse an unknown rule and parameters out of range."""
        choices = Rule.SLICE, Rule.VOLUME
        rule = checked_word(Rule, self.name, "rule", choices=choices)
        object.__setattr__(self, "name", rule)
        if not 0 <= self.ratio <= 1:
            raise InputError(f"The ratio must be between 0 and 1, not {self.ratio}.")
        if not 0 <= self.min_volume_mm3 < math.inf:
            raise InputError(
                f"The smallest volume must be 0 mm3 or more, not {self.min_volume_mm3}."
            )
        if self.keep_largest is not None and self.keep_largest < 1:
            raise InputError(f"At least one piece must stay, not {self.keep_largest}.")
        if self.each_side and self.keep_largest is None:
            raise InputError("--each-side needs --keep N.")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CleaningRule:
        """Return the rule that `as_json` wrote; InputError if it is damaged."""
        options = {key: value for key, value in content.items() if key in _OPTIONS}
        try:
            return cls(content["rule"], **options)
        except (KeyError, TypeError) as error:
            text = f"The cleaning rule is damaged: {dict(content)}."
            raise InputError(text) from error

    def as_json(self) -> JsonObject:
        """Return the rule with the parameters that it uses."""
        if self.name is Rule.SLICE:
            return {"rule": "slice", "ratio": self.ratio}
        if self.name is Rule.NONE:
            return {"rule": "none"}
        return {
            "rule": "volume",
            **{name: getattr(self, name) for name in _OPTIONS[1:]},
        }

    def as_text(self) -> str:
        """Return the rule as a sentence."""
        if self.name is Rule.NONE:
            return "none"
        if self.name is Rule.SLICE:
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

UNCLEANED = CleaningRule(Rule.NONE)  # leaves a structure as it is


@dataclass(frozen=True, slots=True, eq=False)
class Cleaned:
    """A cleaned labelmap, with an account of every change.

    The volume of a structure afterwards is its volume before, minus `removed_mm3`, plus
    `filled_mm3`.
    """

    labelmap: Labelmap  # on the grid and with the table of the input
    removed_mm3: Mapping[str, float]  # structure -> volume removed
    filled_mm3: Mapping[str, float]  # structure -> volume filled
    contested_voxels: int
    """Voxels that two structures claimed; they kept their input label."""

    rule: str  # the rules and their parameters as text

    @property
    def changed(self) -> bool:
        """Whether any voxel differs from the input."""
        return any(self.removed_mm3.values()) or any(self.filled_mm3.values())
