"""The words that the command line, the records and the code share, as types.

They are `StrEnum`: a member is the word itself, in JSON, in a file name and in a
message. The command line takes its choices from here. Standard library only, so that
``--help`` stays quick.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal, TypeAlias, TypeVar

from nnunet_bridge.core.errors import InputError

Word = TypeVar("Word", bound=StrEnum)

Fold: TypeAlias = int | Literal["all"]
"""A fold of the cross-validation: 0, 1, ... or nnU-Net's ``all``."""

ALL_CASES: Literal["all"] = "all"
"""nnU-Net's fold that trains on every case; its validation has no held-out cases."""


class Configuration(StrEnum):
    """A configuration of nnU-Net."""

    TWO_D = "2d"
    FULLRES = "3d_fullres"
    LOWRES = "3d_lowres"
    CASCADE = "3d_cascade_fullres"


ALWAYS_PLANNED = (Configuration.TWO_D, Configuration.FULLRES)
"""The configurations that every three-dimensional dataset has."""


class BudgetName(StrEnum):
    """How long a training is."""

    FULL = "full"
    STANDARD = "standard"
    QUICK = "quick"
    SMOKE = "smoke"


class ModelName(StrEnum):
    """A network with the way it learns; `nnunet.methods` defines each."""

    NNUNET = "nnunet"
    UNET_2D = "unet2d"
    RESNET_34 = "resnet34"
    RESNET_34_FROZEN = "resnet34-frozen"
    REPORT_AUGMENTATION = "report-augmentation"
    RESENC_M = "resenc-m"
    RESENC_L = "resenc-l"


class PlannerName(StrEnum):
    """A planner of nnU-Net: its own network, or residual encoders for larger GPUs."""

    DEFAULT = "default"
    RESENC_M = "resenc-m"
    RESENC_L = "resenc-l"
    RESENC_XL = "resenc-xl"


class RunStatus(StrEnum):
    """Where a training stands; `nnunet.runs` defines each from the files of a run."""

    PLANNED = "planned"
    QUEUED = "queued"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    DONE = "done"
    UNPACKED = "unpacked"


class ScoreState(StrEnum):
    """Who holds a structure: both, neither, only the reference, only the prediction.

    `NOT_DRAWN`: the reference leaves it open, so nothing can be said of the prediction.
    """

    SCORED = "scored"
    BOTH_EMPTY = "both_empty"
    MISSED = "missed"
    INVENTED = "invented"
    NOT_DRAWN = "not_drawn"

    @property
    def failed(self) -> bool:
        """Whether the model failed: missed the structure, or invented it."""
        return self in (ScoreState.MISSED, ScoreState.INVENTED)

    @property
    def held(self) -> bool:
        """Whether the reference or the prediction holds the structure."""
        return self.failed or self is ScoreState.SCORED


class Side(StrEnum):
    """The side of a label; `MERGED` where one label holds all sides."""

    MERGED = ""
    LEFT = "left"
    RIGHT = "right"
    MIDDLE = "middle"


class Rule(StrEnum):
    """How a structure is cleaned: slice by slice as in the source report, or in 3-D."""

    NONE = "none"
    SLICE = "slice"
    VOLUME = "volume"


class Better(StrEnum):
    """Which values of a metric are better."""

    HIGHER = "higher"
    LOWER = "lower"
    ZERO = "zero"


class RowState(StrEnum):
    """Which statistics the pairs of a comparison allow.

    `COMPARED`: all. `CONSTANT`: every difference is the same, so there is no interval.
    `IDENTICAL`: every difference is 0. `ONE_PATIENT`: several cases of one patient.
    `TOO_FEW`: one pair. `ABSENT`: none.
    """

    COMPARED = "compared"
    CONSTANT = "constant"
    IDENTICAL = "identical"
    ONE_PATIENT = "one_patient"
    TOO_FEW = "too_few"
    ABSENT = "absent"


class Answer(StrEnum):
    """The second model against the first, for a margin of equivalence.

    `EQUIVALENT`: the whole 95 % interval lies within the margin. `NONE`: the data do
    not allow the question.
    """

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"
    NONE = "none"


def fold_named(word: str) -> Fold:
    """Return the fold of a word or a folder name; ValueError if there is none.

    Examples
    --------
    >>> fold_named("3"), fold_named("all")
    (3, 'all')
    """
    if word == ALL_CASES:
        return ALL_CASES
    if not (word.isascii() and word.isdigit()):
        raise ValueError(f"{word!r} is not a fold: expected a number or 'all'.")
    return int(word)


def checked_word(
    kind: type[Word], word: str, what: str, *, choices: Sequence[Word] = ()
) -> Word:
    """Return the member of an enumeration; InputError for an unknown word.

    The message names `what` the word should be, such as ``rule``, and offers the
    `choices`, by default every member.
    """
    if word not in tuple(kind):
        offered = choices or [member for member in kind if member]
        raise InputError(unknown_word(what, word, offered))
    return kind(word)


def unknown_word(kind: str, word: str, choices: Sequence[str]) -> str:
    """Return the message for a word that is none of the choices.

    Examples
    --------
    >>> unknown_word("rule", "x", ["slice", "volume"])
    "Unknown rule 'x'. Choose 'slice' or 'volume'."
    """
    *first, last = (f"'{choice}'" for choice in choices)
    known = f"{', '.join(first)} or {last}" if first else last
    return f"Unknown {kind} '{word}'. Choose {known}."
