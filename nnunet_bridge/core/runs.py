"""A training, named by what it learns, how, and from which part of the cases."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.words import ALL_CASES, Fold


@dataclass(frozen=True, slots=True, order=True)
class TrainingRun:
    """One training of nnU-Net; its five fields name one folder of results.

    Examples
    --------
    >>> TrainingRun("Dataset001_Tibia", "2d", 0, "nnUNetTrainer", "nnUNetPlans").fold
    0
    """

    dataset: str
    """Full name, such as ``Dataset001_Tibia``."""

    configuration: str
    """``2d``, ``3d_fullres``, ...; a model from elsewhere may name its own."""

    fold: Fold
    """0, 1, ... or ``all``."""

    trainer: str
    """Name of nnU-Net's trainer class."""

    plans: str
    """Name of the plans, such as ``nnUNetPlans``."""

    def __post_init__(self) -> None:
        """Refuse an empty name and a fold that nnU-Net does not know."""
        names = (self.dataset, self.configuration, self.trainer, self.plans)
        if not all(names):
            raise InputError(f"A training needs four names: {names}.")
        numbered = type(self.fold) is int and self.fold >= 0
        if not numbered and self.fold != ALL_CASES:
            raise InputError(
                f"Unknown fold {self.fold!r}. Give a number from 0, or {ALL_CASES!r}."
            )
