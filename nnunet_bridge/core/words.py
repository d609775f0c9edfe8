"""The words that the command line, the records and the code share, as types.

They are `StrEnum`: a member is the word itself, in JSON, in a file name and in a
message. The command line takes its choices from here. Standard library only, so that
``--help`` stays quick.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeAlias

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


FOREIGN = "foreign"
"""The model name of a model that another trainer or other plans made."""


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
    """Whether reference and prediction hold a structure."""

    SCORED = "scored"
    BOTH_EMPTY = "both_empty"
    MISSED = "missed"
    INVENTED = "invented"


def fold_named(word: str) -> Fold:
    """Return the fold that a word or a folder name stands for.

    Raises
    ------
    ValueError
        If it is neither a number nor ``all``.

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
