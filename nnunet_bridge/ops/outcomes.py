"""How a structure of a case counts: one definition for every command and page.

A structure that a model misses, or invents where the reference is empty, is a result.
It counts as Dice, IoU and NSD 0, and its distance is worse than any other. A case and
structure counts if the reference or any compared model holds it; there, a model that
rightly draws nothing has Dice, IoU and NSD 1 and distance 0. A structure that was
not drawn in the reference does not count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.words import ScoreState

SHARES = ("dice", "iou", "nsd")
DISTANCES = ("hd95_mm", "assd_mm", "hd_mm")

_FAR = 1e9  # stands for an infinite difference, so that sums of both signs are a tie

NOT_TRAINED = "-"  # fold of a model that has none, such as another tool
Place: TypeAlias = tuple[str, str]  # case and structure


def outcome(score: BoneScore, measure: str) -> float | None:
    """Return the value of a measure as it counts; infinite for a failed distance.

    None if the structure was not drawn, or the measure is unknown.
    """
    if score.state is ScoreState.NOT_DRAWN:
        return None
    if score.state is ScoreState.SCORED or measure not in (*SHARES, *DISTANCES):
        value: float | None = getattr(score, measure)
        return value
    failed, right = (0.0, 1.0) if measure in SHARES else (math.inf, 0.0)
    return failed if score.state.failed else right


def finite(value: float | None) -> float | None:
    """Return a value, or None for that of a failure."""
    return None if value is None or not math.isfinite(value) else value


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The scores of several models on the cases that all of them have."""

    by_model: Mapping[str, Mapping[Place, Sequence[BoneScore]]]
    """Model -> (case, structure) -> its score in each training of the fold."""

    case_ids: tuple[str, ...]  # the cases that all models were scored on
    left_out: tuple[tuple[str, str], ...]
    """(case, model) of every case that only some of the models have."""

    structures: tuple[str, ...]  # in the order of their first appearance
    held: frozenset[Place]  # where the reference or any model holds the structure
    folds: Mapping[str, Mapping[str, str]]
    """Model -> case -> the fold that held it out; empty if unknown."""

    @classmethod
    def of(cls, scores: Mapping[str, Sequence[BoneScore]]) -> Outcomes:
        """Sort scores; raise InputError if two are of one case, structure, training."""
        by_model = {model: _by_place(model, found) for model, found in scores.items()}
        cases = {
            model: {case for case, _ in found} for model, found in by_model.items()
        }
        common = set.intersection(*cases.values()) if cases else set()
        every = [score for found in scores.values() for score in found]

        def places(*states: ScoreState) -> set[Place]:
            return {(s.case_id, s.structure) for s in every if s.state in states}

        held = places(ScoreState.SCORED, ScoreState.MISSED, ScoreState.INVENTED)
        held -= places(ScoreState.NOT_DRAWN)
        return cls(
            by_model,
            tuple(sorted(common)),
            tuple((c, m) for m, found in cases.items() for c in sorted(found - common)),
            tuple(dict.fromkeys(one.structure for one in every)),
            frozenset(place for place in held if place[0] in common),
            {m: {one.case_id: one.fold for one in own} for m, own in scores.items()},
        )

    def scores(self, model: str, structure: str) -> list[BoneScore]:
        """Return the scores of a structure that count, case by case."""
        found = self.by_model[model]
        places = [(case_id, structure) for case_id in self.case_ids]
        return [s for p in places if p in self.held for s in found.get(p, ())]

    def failed_cases(self, model: str, structures: Sequence[str]) -> set[str]:
        """Return the cases in which a model misses or invents one of the structures."""
        every = (score for name in structures for score in self.scores(model, name))
        return {score.case_id for score in every if score.state.failed}

    def value(
        self, model: str, case_id: str, structure: str, measure: str
    ) -> float | None:
        """Return the mean outcome of all trainings of the fold; None if none counts."""
        if (case_id, structure) not in self.held:
            return None
        found = self.by_model[model].get((case_id, structure), ())
        values = [value for s in found if (value := outcome(s, measure)) is not None]
        return sum(values) / len(values) if values else None

    def table(
        self, measure: str, models: Sequence[str], structures: Sequence[str]
    ) -> dict[str, FloatArray]:
        """Return case -> (models,) means over the structures that all models have.

        Cases in which no structure has a value in every model are left out.
        """
        rows = {}
        for case_id in self.case_ids:
            by_structure = [
                [self.value(model, case_id, name, measure) for model in models]
                for name in structures
            ]
            whole = [values for values in by_structure if None not in values]
            if whole:
                rows[case_id] = np.mean(np.array(whole, dtype=np.float64), axis=0)
        return rows


def _by_place(
    model: str, scores: Sequence[BoneScore]
) -> dict[Place, tuple[BoneScore, ...]]:
    found: dict[Place, dict[int, BoneScore]] = {}
    twice = set()
    for score in scores:
        own = found.setdefault((score.case_id, score.structure), {})
        others = {one.fold for one in own.values()}
        if score.repeat in own or others - {score.fold}:
            twice.add(score.case_id)
        own[score.repeat] = score
    if twice:
        raise InputError(
            f"Model {model} has two scores for the same structure of "
            f"{', '.join(sorted(twice))}. A case belongs to the validation of one fold "
            "only."
        )
    return {place: tuple(own.values()) for place, own in found.items()}


def bounded(differences: npt.ArrayLike) -> FloatArray:
    """Return differences with a large number in place of infinity."""
    return np.clip(np.asarray(differences, dtype=np.float64), -_FAR, _FAR)


def unbounded(value: float) -> float:
    """Return a statistic of `bounded` differences; infinite where a failure is it."""
    return float(np.copysign(np.inf, value)) if abs(value) > _FAR / 1e3 else value
