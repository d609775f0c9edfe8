"""The quality rating of a prediction without a reference, as values.

Each reason compares one figure of one structure with its expected range; the worst
reason is the rating of the case. The ranges come from the labels of the training cases,
of which only summary figures are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.records import from_record, to_record
from nnunet_bridge.core.summary import JsonObject

if TYPE_CHECKING:
    from pydantic_core import CoreSchema


class QualityCheck(StrEnum):
    """What a reason checks."""

    BETWEEN_FOLDS = "between_folds"
    BETWEEN_CONFIGURATIONS = "between_configurations"
    VOLUME = "volume"
    PIECES = "pieces"
    SYMMETRY = "symmetry"
    BORDER = "border"
    EMPTY = "empty"
    STEPS = "steps"
    EDGES = "edges"


AGREEMENTS = (QualityCheck.BETWEEN_FOLDS, QualityCheck.BETWEEN_CONFIGURATIONS)


class QualityLevel(IntEnum):
    """How urgently a prediction needs review."""

    GREEN = 0
    AMBER = 1
    RED = 2

    def __str__(self) -> str:
        """Return the word of the command line, the files and the page."""
        return self.name.lower()

    @classmethod
    def named(cls, word: str) -> QualityLevel:
        """Return the level of a word; ValueError if there is none."""
        for level in cls:
            if word in (level, str(level)):
                return level
        raise ValueError(f"unknown level {word!r}")

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> CoreSchema:
        """Write a level as its word in records."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls.named,
            json_schema_input_schema=core_schema.literal_schema([*map(str, cls)]),
            serialization=core_schema.to_string_ser_schema(),
        )


@dataclass(frozen=True, slots=True)
class Reason:
    """One figure of one structure, with its expected range and level."""

    structure: str
    kind: QualityCheck
    level: QualityLevel
    value: float | None
    """Dice, mm3, number of pieces, or a share 0..1; None where it is not defined."""

    expected: tuple[float | None, float | None]
    """Lowest and highest green value; None where there is no such limit."""

    message: str  # one sentence for a person

    def __post_init__(self) -> None:
        """Refuse an unknown kind."""
        try:
            object.__setattr__(self, "kind", QualityCheck(self.kind))
        except ValueError as error:
            raise InputError(
                f"Unknown check {self.kind!r}. Choose one of {', '.join(QualityCheck)}."
            ) from error

    def __str__(self) -> str:
        """Return the line that a person reads."""
        return f"{self.level}: {self.message}"


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality rating of a case, with its reasons."""

    reasons: tuple[Reason, ...]  # everything that was checked, the worst first
    not_judged: tuple[str, ...] = ()  # what could not be checked, one sentence each

    def __post_init__(self) -> None:
        """Sort the reasons, the worst first."""
        ordered = sorted(self.reasons, key=lambda reason: -reason.level)
        object.__setattr__(self, "reasons", tuple(ordered))

    @property
    def level(self) -> QualityLevel:
        """The worst level of all reasons; green without a reason."""
        levels = (reason.level for reason in self.reasons)
        return max(levels, default=QualityLevel.GREEN)

    @property
    def concerns(self) -> tuple[Reason, ...]:
        """The reasons that are not green."""
        return tuple(one for one in self.reasons if one.level > QualityLevel.GREEN)

    @property
    def lowest_agreement(self) -> float | None:
        """Lowest Dice between folds or configurations; None without either."""
        found = [one.value for one in self.reasons if one.kind in AGREEMENTS]
        return min((dice for dice in found if dice is not None), default=None)

    @property
    def rank(self) -> tuple[int, int, int, float]:
        """Sort key, the worst last: level, reds, ambers, lowest agreement."""
        levels = Counter(reason.level for reason in self.reasons)
        lowest = 1.0 if self.lowest_agreement is None else self.lowest_agreement
        reds, ambers = levels[QualityLevel.RED], levels[QualityLevel.AMBER]
        return self.level, reds, ambers, -lowest

    def as_json(self) -> JsonObject:
        """Return the entry ``quality`` of a prediction's record."""
        summary = {"light": str(self.level), "lowest_agreement": self.lowest_agreement}
        return {**summary, **to_record(self)}


@dataclass(frozen=True, slots=True)
class MemberAgreement:
    """How well the members of a model agree on a case, label by label.

    A Dice of None: no member found the structure.
    """

    between_folds: Mapping[int, float | None] | None = None
    """Label value -> Dice between folds; None with a single fold."""

    between_configurations: Mapping[int, float | None] | None = None
    """Label value -> Dice between 2d and 3d; None with a single configuration."""

    def __post_init__(self) -> None:
        """Refuse a Dice outside 0..1."""
        for table in (self.between_folds, self.between_configurations):
            for dice in (table or {}).values():
                if dice is not None and not 0 <= dice <= 1:
                    raise InputError(f"A Dice lies within 0..1, not {dice}.")


@dataclass(frozen=True, slots=True)
class Spread:
    """The distribution of a figure over the training labels, in five figures."""

    least: float
    low: float  # 5th percentile
    median: float
    high: float  # 95th percentile
    most: float

    def __post_init__(self) -> None:
        """Refuse figures out of order."""
        ordered = (self.least, self.low, self.median, self.high, self.most)
        if not all(a <= b for a, b in pairwise(ordered)):
            raise InputError(f"Figures of a spread must ascend: {ordered}.")


@dataclass(frozen=True, slots=True)
class StructureRange:
    """The ranges of one structure over the training labels."""

    cases: int  # training labels that hold the structure
    at_border: int
    """Training labels in which it reaches the border of the field of view."""

    volume_mm3: Spread
    pieces: Spread
    asymmetry: Spread | None
    """Asymmetry of the volumes of both sides, 0..1; None for an unpaired structure."""

    step_mm: Spread | None = None  # steps between slices; None in old records


@dataclass(frozen=True, slots=True)
class TrainingStructures:
    """The ranges of all structures over the labels that a model learned from.

    Holds no name and no case: only counts and the five figures of each spread.
    """

    cases: int
    structures: Mapping[str, StructureRange]
    """Structures that no label holds are absent."""

    edges: Spread | None = None
    """Strength of the edges of the training images; None if it was not measured."""

    def as_json(self) -> JsonObject:
        """Return the record kept beside a training and in a packed model."""
        return to_record(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainingStructures:
        """Return what `as_json` wrote; InputError if it is damaged."""
        return from_record(cls, content, "record of the training labels")


def count_levels(qualities: Iterable[Quality]) -> str:
    """Return how many cases have each level."""
    found = Counter(quality.level for quality in qualities)
    return ", ".join(f"{found[level]} {level}" for level in reversed(QualityLevel))
