"""Mean scores over many cases, structure by structure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import ScoreState


@dataclass(frozen=True, slots=True)
class StructureMean:
    """The arithmetic means of one structure, with the number of cases of each.

    Cases in which neither side holds the structure are left out. A missed or invented
    structure counts as Dice 0 and with its volume error, but has no surface distance:
    the means of the surface measures are over the scored cases.
    """

    structure: str
    n: int
    """Cases behind `dice`, `iou` and the volume errors in cm3 and mm3: all but
    ``both_empty``."""

    n_surface: int  # cases behind the surface measures: those ``scored``
    states: Mapping[ScoreState, int]  # cases of each state
    dice: float | None
    hd95_mm: float | None
    assd_mm: float | None
    nsd: float | None
    volume_error_cm3: float | None  # signed, so that over- and underestimates cancel
    volume_error_cm3_absolute: float | None
    volume_error_percent: float | None
    """Signed, over the cases whose reference holds the structure."""

    iou: float | None
    hd_mm: float | None
    volume_error_mm3: float | None  # signed
    volume_error_abs_mm3: float | None
    volume_error_abs_percent: float | None
    """Over the cases whose reference holds the structure."""

    def as_json(self) -> JsonObject:
        """Return the entry of `mean`."""
        counts = {"n": self.n, "n_surface": self.n_surface}
        states = {str(state): self.states[state] for state in ScoreState}
        return {**counts, **states, **{name: getattr(self, name) for name in _MEASURES}}


_COUNTED = ("structure", "n", "n_surface", "states")
_MEASURES = [f.name for f in fields(StructureMean) if f.name not in _COUNTED]
"""The means, in the order of the JSON."""


def mean_scores(scores: Iterable[BoneScore]) -> tuple[StructureMean, ...]:
    """Return the means of every structure, in the order of its first appearance."""
    by_structure: dict[str, list[BoneScore]] = {}
    for score in scores:
        by_structure.setdefault(score.structure, []).append(score)
    return tuple(_mean(name, group) for name, group in by_structure.items())


def _mean(structure: str, scores: Sequence[BoneScore]) -> StructureMean:
    states = Counter(score.state for score in scores)
    held = [score for score in scores if score.state is not ScoreState.BOTH_EMPTY]
    means = {}
    for name in _MEASURES:  # the JSON has another name for one property of a score
        measure = name.replace("cm3_absolute", "abs_cm3")
        means[name] = mean_of(getattr(score, measure) for score in held)
    return StructureMean(
        structure=structure,
        n=len(held),
        n_surface=states[ScoreState.SCORED],
        states=states,
        **means,
    )


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are defined; None if there is none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
