"""Choose the cheapest of several models that is not worse beyond the noise.

All candidates are compared on the cases that all of them have validated. The candidate
with the best mean is the benchmark. A cheaper one is preferred unless the benchmark is
better beyond the noise: the 95 % interval of the mean difference, resampled over
patients, excludes 0, and Wilcoxon's p, corrected for every pair of candidates (the
benchmark is the best of all of them), is below 0.05. Below six patients no difference
can be shown, and the cheapest is chosen.

Failures count as everywhere (`ops.outcomes`). By a distance with failures, the mean
rank takes the place of the mean, and the test decides alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnunet_bridge.core.comparison import METRICS, SIGNIFICANT, Metric
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import counted
from nnunet_bridge.core.words import Better
from nnunet_bridge.ops.means import mean_of
from nnunet_bridge.ops.outcomes import Outcomes, bounded, finite
from nnunet_bridge.ops.paired import (
    FEWEST_FOR_AN_INTERVAL,
    cluster_table,
    clustered_intervals,
    p_words,
    rank_biserial,
    signed_rank_p,
)

RULE = (
    "Of the candidates, scored on the cases that all have validated, the cheapest by "
    "multiply-adds is chosen that the one with the best mean does not beat beyond the "
    "noise: beyond it is a 95 % interval of the mean difference (bootstrap over "
    "patients) without 0 and Wilcoxon's p, corrected for all pairs, below 0.05. With "
    "fewer than six patients no difference can be shown: the cheapest is chosen."
)
OPTIMISTIC = (
    "The score of the chosen is optimistic, because the same cases chose it; --nested "
    "gives the score of the whole procedure on cases that took no part in the choice."
)

CHOOSING = {
    metric.key.removesuffix("_mm"): metric
    for key in ("dice", "nsd", "hd95_mm", "assd_mm")
    for metric in METRICS
    if metric.key == key
}
"""Word of `--metric` -> metric."""

_FIGURES = {key: key for key in ("dice", "nsd", "hd95_mm", "assd_mm")}
_FIGURES |= {"volume_error_cm3_absolute": "volume_error_abs_cm3"}
"""Name in the JSON -> measure."""

BEST, NOT_WORSE, WORSE = "best", "within the noise", "worse"
CANNOT_TELL = "too few patients to tell"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model, or the mean of several, with its scores on unseen cases."""

    name: str
    scores: tuple[BoneScore, ...]
    cost: float = math.inf
    """Multiply-adds to predict the median case; infinite if they cannot be counted."""

    seconds: float | None = None  # to predict a case, as measured in the validation


@dataclass(frozen=True, slots=True)
class Standing:
    """The result of a candidate on the common cases."""

    name: str
    cost: float
    mean: float | None
    """Mean of the metric over cases, in a case over its structures; None if a distance
    is a failure."""

    behind: float | None
    """Mean difference by which the best candidate is better; 0 for the best."""

    interval_95: tuple[float, float] | None
    """95 % interval of `behind`; None with too few patients, or a failure."""

    p: float | None  # against the best, corrected for all pairs
    verdict: str  # `BEST`, `NOT_WORSE`, `WORSE` or `CANNOT_TELL`
    figures: Mapping[str, float | None]  # measure -> mean over the structures
    seconds: float | None = None

    def as_json(self) -> JsonObject:
        """Return the entry of `candidates`."""
        return {
            "name": self.name,
            "multiply_adds": finite(self.cost),
            "seconds_per_case": self.seconds,
            "mean": self.mean,
            "behind": self.behind,
            "interval_95": self.interval_95 and list(self.interval_95),
            "p": self.p,
            "verdict": self.verdict,
            **self.figures,
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen candidate, and the reason."""

    chosen: str
    reason: str
    metric: str  # field of `BoneScore`
    case_ids: tuple[str, ...]
    patients: int
    standings: tuple[Standing, ...]  # sorted by mean, the best first


@dataclass(frozen=True, slots=True)
class NestedChoice:
    """The score of the procedure: each fold scored by what the other folds choose."""

    mean: float | None  # over the cases; None if a distance is a failure
    n: int
    chosen: Mapping[str, str]  # fold -> the candidate that the others choose

    def as_json(self) -> JsonObject:
        """Return the object `nested`."""
        return {"mean": self.mean, "n": self.n, "chosen": dict(self.chosen)}


def choose(
    candidates: Sequence[Candidate], metric: Metric, patients: Mapping[str, str]
) -> Choice:
    """Choose one of the candidates, which have different names.

    `metric` is one of `CHOOSING`; `patients` maps case ids to patients (a case that is
    not in it is a patient of its own). Raises InputError if the candidates have no
    validated case in common.
    """
    table = _table(_outcomes(candidates), metric)
    cases, values = list(table), np.array(list(table.values()))
    clusters = [patients.get(case, case) for case in cases]
    people = len(set(clusters))
    levels = _levels(values, metric)
    places = sorted(
        range(len(candidates)),
        key=lambda n: (levels[n], candidates[n].cost, candidates[n].name),
    )
    best, figures = places[0], _figures(candidates)
    standings = []
    for place in places:
        own = candidates[place]
        found = Standing(
            own.name,
            own.cost,
            finite(float(values[:, place].mean())),
            0.0,
            None,
            None,
            BEST,
            figures[place],
            own.seconds,
        )
        if place != best:
            lag = _behind_of(values[:, best], values[:, place], metric)
            found = _judged(found, lag, clusters, len(candidates))
        standings.append(found)
    order = {candidates[place].name: rank for rank, place in enumerate(places)}
    able = [one for one in standings if one.verdict != WORSE]
    chosen = min(able, key=lambda one: (one.cost, order[one.name]))
    reason = _reason(chosen, standings, metric, len(cases), people)
    kept = tuple(cases), people, tuple(standings)
    return Choice(chosen.name, reason, metric.key, *kept)


def choose_nested(
    candidates: Sequence[Candidate], metric: Metric, patients: Mapping[str, str]
) -> NestedChoice:
    """Score every fold by the candidate that the cases of the other folds choose.

    Raises InputError with fewer than two folds, or if candidates differ in them.
    """
    outcomes = _outcomes(candidates)
    table, names = _table(outcomes, metric), list(outcomes.by_model)
    folds = {case: {own[case] for own in outcomes.folds.values()} for case in table}
    several = {fold for found in folds.values() for fold in found}
    if len(several) < 2 or any(len(found) > 1 for found in folds.values()):  # noqa: PLR2004 - two folds
        raise InputError(
            "--nested needs at least two folds, which all candidates share: train more "
            "folds of each."
        )
    chosen, values = {}, []
    for fold in sorted(several):
        inside = {case for case, found in folds.items() if fold in found}
        others = [
            replace(one, scores=tuple(s for s in one.scores if s.case_id not in inside))
            for one in candidates
        ]
        chosen[fold] = choose(others, metric, patients).chosen
        place = names.index(chosen[fold])
        values += [float(table[case][place]) for case in table if case in inside]
    return NestedChoice(finite(float(np.mean(values))), len(values), chosen)


def _outcomes(candidates: Sequence[Candidate]) -> Outcomes:
    return Outcomes.of({one.name: one.scores for one in candidates})


def _table(outcomes: Outcomes, metric: Metric) -> dict[str, FloatArray]:
    """Return case -> (candidates,) means over the structures."""
    names = list(outcomes.by_model)
    table = outcomes.table(metric.key, names, outcomes.structures) if names else {}
    if not table:
        raise InputError(
            "No case has been validated by every candidate: "
            f"{', '.join(names) or 'there is none'}. Train the same folds of each."
        )
    return table


def _levels(values: FloatArray, metric: Metric) -> FloatArray:
    """Return what the (cases, candidates) are sorted by, the best lowest.

    The mean; the mean rank in a case if a value is a failure, which has no mean.
    """
    from scipy.stats import rankdata

    sign = -1.0 if metric.better is Better.HIGHER else 1.0
    badness = sign * values
    if np.isinf(badness).any():
        badness = rankdata(badness, axis=1)
    levels: FloatArray = badness.mean(axis=0)
    return levels


def _behind_of(best: FloatArray, own: FloatArray, metric: Metric) -> FloatArray:
    """Return by how much the best is better, case by case; two failures are a tie."""
    sign = 1.0 if metric.better is Better.HIGHER else -1.0
    return np.array(
        [0.0 if a == b else sign * (a - b) for a, b in zip(best, own, strict=True)]
    )


def _judged(
    standing: Standing, lag: FloatArray, clusters: Sequence[str], candidates: int
) -> Standing:
    """Return the standing of a candidate whose cases are behind by `lag`."""
    intervals = clustered_intervals(lag, clusters)
    interval = intervals.mean if intervals else None
    per_patient = np.nanmean(cluster_table(bounded(lag), clusters), axis=1)
    pairs = math.comb(candidates, 2)
    p = min(1.0, signed_rank_p(per_patient) * pairs)
    verdict = NOT_WORSE
    if len(per_patient) < FEWEST_FOR_AN_INTERVAL:
        verdict = CANNOT_TELL
    elif p < SIGNIFICANT and rank_biserial(per_patient) > 0:
        verdict = WORSE if interval is None or interval[0] > 0 else NOT_WORSE
    behind = None if np.isinf(lag).any() else float(lag.mean())
    return replace(standing, behind=behind, interval_95=interval, p=p, verdict=verdict)


def _figures(candidates: Sequence[Candidate]) -> list[dict[str, float | None]]:
    """Return the means over the common cases of every candidate, by measure."""
    outcomes = Outcomes.of({one.name: one.scores for one in candidates})
    names = [one.name for one in candidates]
    found: list[dict[str, float | None]] = [{} for _ in names]
    for key, measure in _FIGURES.items():
        table = list(outcomes.table(measure, names, outcomes.structures).values())
        for place, own in enumerate(found):
            own[key] = finite(mean_of(float(row[place]) for row in table))
    return found


def _reason(
    chosen: Standing,
    standings: Sequence[Standing],
    metric: Metric,
    cases: int,
    patients: int,
) -> str:
    """Return the reason of the choice as a sentence."""
    over = f"over {counted(cases, 'case')} of {counted(patients, 'patient')}"
    digits, known = metric.decimals, chosen.mean is not None
    mean = f"{metric.title} " + (f"{chosen.mean:.{digits}f}" if known else "fails")
    if len(standings) == 1:
        return f"{chosen.name} is the only candidate ({mean} {over})."
    best = standings[0]
    if patients < FEWEST_FOR_AN_INTERVAL:
        return (
            f"{counted(patients, 'patient')} cannot tell the candidates apart (at "
            f"least {FEWEST_FOR_AN_INTERVAL} can), so the cheapest is taken: "
            f"{chosen.name} ({_cost(chosen)}), {mean} {over}."
        )
    if chosen.name != best.name:
        return (
            f"{chosen.name} is cheaper ({_cost(chosen)}) than {best.name} "
            f"({_cost(best)}), which has the best mean {metric.title} but is not "
            f"better beyond the noise: by {_behind(chosen, metric)}, {over}."
        )
    cheaper = [s.name for s in standings if s.cost < best.cost]
    rest = "and none is cheaper"
    if cheaper:
        verb = "is" if len(cheaper) == 1 else "are"
        rest = f"and {' and '.join(cheaper)}, which {verb} cheaper, {verb} worse"
    return f"{chosen.name} has the best mean ({mean} {over}), {rest}."


def _behind(standing: Standing, metric: Metric) -> str:
    digits = metric.decimals
    unit = f" {metric.unit}" if metric.unit else ""
    p = f"p {p_words(standing.p or 1.0)}, corrected for all candidates"
    if standing.behind is None:
        return f"ranks, as a distance fails ({p})"
    words = f"{standing.behind:+.{digits}f}{unit}"
    if standing.interval_95 is None:
        return f"{words} ({p})"
    low, high = standing.interval_95
    return f"{words} (95 % interval {low:+.{digits}f} to {high:+.{digits}f}; {p})"


def _cost(standing: Standing) -> str:
    if math.isinf(standing.cost):
        return "cost unknown"
    return f"{standing.cost / 1e9:.3g} billion multiply-adds a case"
