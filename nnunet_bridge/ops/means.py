"""Mean scores over many cases, structure by structure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import ScoreState
from nnunet_bridge.ops.outcomes import (
    DISTANCES,
    SHARES,
    bounded,
    finite,
    outcome,
    unbounded,
)


@dataclass(frozen=True, slots=True)
class StructureMean:
    """The arithmetic means of one structure, with the number of cases of each.

    Cases in which neither side holds the structure are left out. A missed or invented
    structure counts as Dice, IoU and NSD 0 and with its volume error. It has no
    distance, so the mean of a distance is None if there is one; median and quartiles
    rank it as the worst.
    """

    structure: str
    n: int
    """Cases behind `dice`, `iou`, `nsd` and the volume errors in cm3 and mm3: those in
    which either side holds the structure."""

    n_surface: int  # cases with a surface distance: those ``scored``
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

    median: Mapping[str, float | None]
    """Of Dice, IoU, NSD and the distances; None if it is a failure's."""

    iqr: Mapping[str, list[float | None]]  # the quartiles of the same

    @property
    def n_failed(self) -> int:
        """Return the number of cases that are missed or invented."""
        return self.n - self.n_surface

    def as_json(self) -> JsonObject:
        """Return the entry of `mean`."""
        counts = {"n": self.n, "n_surface": self.n_surface}
        counts |= {"n_found": self.n_surface, "n_failed": self.n_failed}
        states = {str(state): self.states[state] for state in ScoreState}
        means = {name: getattr(self, name) for name in _MEASURES}
        return {**counts, **states, **means, "median": self.median, "iqr": self.iqr}


_COUNTED = ("structure", "n", "n_surface", "states", "median", "iqr")
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
    held = [score for score in scores if score.state.held]
    means = {}
    for name in _MEASURES:  # the JSON has another name for one property of a score
        measure = name.replace("cm3_absolute", "abs_cm3")
        means[name] = finite(mean_of(outcome(score, measure) for score in held))
    quartiles = {key: _quartiles(held, key) for key in (*SHARES, *DISTANCES)}
    return StructureMean(
        structure=structure,
        n=len(held),
        n_surface=states[ScoreState.SCORED],
        states=states,
        median={key: found[1] for key, found in quartiles.items()},
        iqr={key: [found[0], found[2]] for key, found in quartiles.items()},
        **means,
    )


def _quartiles(scores: Sequence[BoneScore], measure: str) -> list[float | None]:
    """Return quartile, median and quartile; None where a failure is the value."""
    known = [value for s in scores if (value := outcome(s, measure)) is not None]
    if not known:
        return [None] * 3
    found = np.quantile(bounded(known), [0.25, 0.5, 0.75])
    return [finite(unbounded(float(value))) for value in found]


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are defined; None if there is none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
