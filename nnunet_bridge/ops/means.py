"""What the scores of many cases amount to, structure by structure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import ScoreState


@dataclass(frozen=True, slots=True)
class StructureMean:
    """The arithmetic means of one structure, and over how many cases each goes.

    A case in which neither side holds the structure is counted and left out. A missed
    or invented structure counts as Dice 0 and with its volume error, but has no
    surface distance, so the surface measures go over the scored cases alone.
    """

    structure: str

    n: int
    """Cases behind `dice`, `iou` and the volume errors in cm3 and mm3: all but
    ``both_empty``."""

    n_surface: int
    """Cases behind the surface measures: those ``scored``."""

    states: dict[str, int]
    """How many cases are in each state."""

    dice: float | None
    hd95_mm: float | None
    assd_mm: float | None
    nsd: float | None
    volume_error_cm3: float | None
    """Signed, so that over- and underestimates cancel."""

    volume_error_cm3_absolute: float | None
    volume_error_percent: float | None
    """Signed; over the cases whose reference holds the structure."""

    iou: float | None
    hd_mm: float | None
    volume_error_mm3: float | None
    """Signed."""

    volume_error_abs_mm3: float | None
    volume_error_abs_percent: float | None
    """Over the cases whose reference holds the structure."""

    def as_json(self) -> JsonObject:
        """Return the entry of `mean`."""
        return {
            "n": self.n,
            "n_surface": self.n_surface,
            **{state: self.states[state] for state in ScoreState},
            "dice": self.dice,
            "hd95_mm": self.hd95_mm,
            "assd_mm": self.assd_mm,
            "nsd": self.nsd,
            "volume_error_cm3": self.volume_error_cm3,
            "volume_error_cm3_absolute": self.volume_error_cm3_absolute,
            "volume_error_percent": self.volume_error_percent,
            "iou": self.iou,
            "hd_mm": self.hd_mm,
            "volume_error_mm3": self.volume_error_mm3,
            "volume_error_abs_mm3": self.volume_error_abs_mm3,
            "volume_error_abs_percent": self.volume_error_abs_percent,
        }


def mean_scores(scores: Iterable[BoneScore]) -> tuple[StructureMean, ...]:
    """Return the means of every structure, in the order of its first appearance."""
    by_structure: dict[str, list[BoneScore]] = {}
    for score in scores:
        by_structure.setdefault(score.structure, []).append(score)
    return tuple(_mean(name, group) for name, group in by_structure.items())


def _mean(structure: str, scores: Sequence[BoneScore]) -> StructureMean:
    held = [score for score in scores if score.state is not ScoreState.BOTH_EMPTY]
    return StructureMean(
        structure=structure,
        n=len(held),
        n_surface=sum(score.state is ScoreState.SCORED for score in scores),
        states={
            state: sum(score.state == state for score in scores) for state in ScoreState
        },
        dice=_average(score.dice for score in held),
        hd95_mm=_average(score.hd95_mm for score in held),
        assd_mm=_average(score.assd_mm for score in held),
        nsd=_average(score.nsd for score in held),
        volume_error_cm3=_average(score.volume_error_cm3 for score in held),
        volume_error_cm3_absolute=_average(
            abs(score.volume_error_cm3) for score in held
        ),
        volume_error_percent=_average(score.volume_error_percent for score in held),
        iou=_average(score.iou for score in held),
        hd_mm=_average(score.hd_mm for score in held),
        volume_error_mm3=_average(score.volume_error_mm3 for score in held),
        volume_error_abs_mm3=_average(score.volume_error_abs_mm3 for score in held),
        volume_error_abs_percent=_average(
            score.volume_error_abs_percent for score in held
        ),
    )


def _average(values: Iterable[float | None]) -> float | None:
    """Return the mean of those that are defined, None if none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
