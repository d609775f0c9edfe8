"""What can be said of a prediction that nobody has drawn a reference for.

A case is as good as its worst reason: one figure of one structure, compared with what
was to be expected. What to expect comes from the labels that a model learnt from, of
which no more than ranges are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Any

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.summary import JsonObject

KINDS = (
    "between_folds",
    "between_configurations",
    "volume",
    "pieces",
    "symmetry",
    "border",
    "empty",
)
"""What a reason looks at."""

AGREEMENTS = KINDS[:2]

_MALFORMED = (KeyError, TypeError, ValueError, AttributeError)


class Light(IntEnum):
    """How much a prediction needs to be looked at, from least to most."""

    GREEN = 0
    AMBER = 1
    RED = 2

    def __str__(self) -> str:
        """Return the word that the command line, the files and the page use."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Reason:
    """One figure of one structure, and what it says.

    Examples
    --------
    >>> words = "tibia: the folds agree (Dice 0.95)."
    >>> str(Reason("tibia", "between_folds", Light.GREEN, 0.95, (0.8, None), words))
    'green: tibia: the folds agree (Dice 0.95).'
    """

    structure: str
    kind: str
    """One of `KINDS`."""

    level: Light

    value: float | None
    """Dice, mm3, a number of pieces, or a share 0..1; None where it is not defined."""

    expected: tuple[float | None, float | None]
    """Least and most value that is green; None where there is no such limit."""

    message: str
    """One sentence for a person."""

    def __post_init__(self) -> None:
        """Refuse a kind that nobody would understand."""
        if self.kind not in KINDS:
            raise InputError(f"{self.kind!r} is no kind of reason: {', '.join(KINDS)}.")

    def __str__(self) -> str:
        """Return the line that a person reads."""
        return f"{self.level}: {self.message}"

    def as_json(self) -> JsonObject:
        """Return the entry of ``reasons``."""
        return {
            "structure": self.structure,
            "kind": self.kind,
            "level": str(self.level),
            "value": self.value,
            "expected": list(self.expected),
            "message": self.message,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Reason:
        """Return the reason that `as_json` wrote.

        Raises
        ------
        InputError
            If it is none.
        """
        try:
            least, most = content["expected"]
            return cls(
                str(content["structure"]),
                content["kind"],
                Light[content["level"].upper()],
                _number(content["value"]),
                (_number(least), _number(most)),
                str(content["message"]),
            )
        except _MALFORMED as error:
            raise InputError(f"{content!r} is no reason of a light.") from error


@dataclass(frozen=True, slots=True)
class Quality:
    """The light of a case, with its reasons."""

    reasons: tuple[Reason, ...]
    """All that was looked at; the gravest first."""

    not_judged: tuple[str, ...] = ()
    """What could not be looked at, one sentence each."""

    def __post_init__(self) -> None:
        """Put the gravest reasons first."""
        ordered = sorted(self.reasons, key=lambda reason: -reason.level)
        object.__setattr__(self, "reasons", tuple(ordered))

    @property
    def light(self) -> Light:
        """The gravest level; green if there is no reason at all."""
        return max((reason.level for reason in self.reasons), default=Light.GREEN)

    @property
    def concerns(self) -> tuple[Reason, ...]:
        """The reasons that are not green."""
        return tuple(reason for reason in self.reasons if reason.level > Light.GREEN)

    @property
    def lowest_agreement(self) -> float | None:
        """Lowest Dice between folds or configurations; None without either."""
        return min(
            (
                reason.value
                for reason in self.reasons
                if reason.kind in AGREEMENTS and reason.value is not None
            ),
            default=None,
        )

    @property
    def rank(self) -> tuple[int, int, int, float]:
        """What sorts cases, the worst last: light, reds, ambers, disagreement."""
        levels = Counter(reason.level for reason in self.reasons)
        lowest = 1.0 if self.lowest_agreement is None else self.lowest_agreement
        return self.light, levels[Light.RED], levels[Light.AMBER], 1.0 - lowest

    def as_json(self) -> JsonObject:
        """Return the entry ``quality``."""
        return {
            "light": str(self.light),
            "lowest_agreement": self.lowest_agreement,
            "reasons": [reason.as_json() for reason in self.reasons],
            "not_judged": list(self.not_judged),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Quality:
        """Return the quality that `as_json` wrote.

        Raises
        ------
        InputError
            If it is none.
        """
        try:
            reasons = tuple(Reason.from_json(row) for row in content["reasons"])
            return cls(reasons, tuple(str(words) for words in content["not_judged"]))
        except _MALFORMED as error:
            raise InputError("This is no light of a case.") from error


@dataclass(frozen=True, slots=True)
class MemberAgreement:
    """How alike the members of a model see a case, label by label.

    A Dice of None: no member found the structure.
    """

    between_folds: Mapping[int, float | None] | None = None
    """Label value -> Dice between folds; None if there is one fold only."""

    between_configurations: Mapping[int, float | None] | None = None
    """Label value -> Dice between 2d and 3d; None if one configuration answered."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> MemberAgreement:
        """Return what ``<case>.agreement.json`` holds.

        Raises
        ------
        InputError
            If it holds something else.
        """
        try:
            return cls(
                **{
                    kind: {int(v): _dice(dice) for v, dice in content[kind].items()}
                    for kind in AGREEMENTS
                    if kind in content
                }
            )
        except _MALFORMED as error:
            raise InputError("This is no table of agreements.") from error


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure is spread over the training labels; nothing else is kept of it."""

    least: float
    low: float
    """Five percent lie below."""

    median: float
    high: float
    """Five percent lie above."""

    most: float

    def __post_init__(self) -> None:
        """Refuse figures out of order."""
        ordered = (self.least, self.low, self.median, self.high, self.most)
        if any(a > b for a, b in pairwise(ordered)):
            raise InputError(f"Figures of a spread must ascend: {ordered}.")

    def as_json(self) -> JsonObject:
        """Return the five figures."""
        return {
            "least": self.least,
            "low": self.low,
            "median": self.median,
            "high": self.high,
            "most": self.most,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Spread:
        """Return the spread that `as_json` wrote; KeyError, TypeError if it is none."""
        names = ("least", "low", "median", "high", "most")
        return cls(*(float(content[name]) for name in names))


@dataclass(frozen=True, slots=True)
class StructureRange:
    """What the training labels say of one structure."""

    cases: int
    """Labels that hold it, of all that were looked at."""

    at_border: int
    """Labels in which it reaches the border of the field of view."""

    volume_mm3: Spread
    pieces: Spread
    asymmetry: Spread | None
    """Of the volumes of both sides, 0..1; None if it does not come in pairs."""

    def as_json(self) -> JsonObject:
        """Return the entry of a structure."""
        return {
            "cases": self.cases,
            "at_border": self.at_border,
            "volume_mm3": self.volume_mm3.as_json(),
            "pieces": self.pieces.as_json(),
            "asymmetry": self.asymmetry.as_json() if self.asymmetry else None,
        }


@dataclass(frozen=True, slots=True)
class TrainingStructures:
    """What the labels that a model learnt from say of its structures.

    No name and no case is in it: only counts and the five figures of each spread.
    """

    cases: int
    structures: Mapping[str, StructureRange]
    """Structures that no label holds are absent."""

    def as_json(self) -> JsonObject:
        """Return what is kept beside a training, and in a packed model."""
        return {
            "cases": self.cases,
            "structures": {
                name: found.as_json() for name, found in self.structures.items()
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainingStructures:
        """Return what `as_json` wrote.

        Raises
        ------
        InputError
            If it is damaged.
        """
        try:
            return cls(
                int(content["cases"]),
                {
                    str(name): StructureRange(
                        int(row["cases"]),
                        int(row["at_border"]),
                        Spread.from_json(row["volume_mm3"]),
                        Spread.from_json(row["pieces"]),
                        Spread.from_json(row["asymmetry"])
                        if row["asymmetry"] is not None
                        else None,
                    )
                    for name, row in content["structures"].items()
                },
            )
        except _MALFORMED as error:
            raise InputError(
                "The ranges of the training labels are damaged."
            ) from error


def lights_said(qualities: Iterable[Quality]) -> str:
    """Return how many cases have which light.

    Examples
    --------
    >>> lights_said([Quality(())])
    '0 red, 0 amber, 1 green'
    """
    found = Counter(quality.light for quality in qualities)
    return ", ".join(f"{found[light]} {light}" for light in reversed(Light))


def _number(value: Any) -> float | None:  # noqa: ANN401 - of a JSON file
    return None if value is None else float(value)


def _dice(value: Any) -> float | None:  # noqa: ANN401 - of a JSON file
    dice = _number(value)
    if dice is not None and not 0 <= dice <= 1:
        raise ValueError(f"{dice} is no Dice")
    return dice
