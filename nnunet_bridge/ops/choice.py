"""Choose the cheapest of several models that is not worse beyond the noise.

All candidates are compared on the cases that all of them have validated. The candidate
with the best mean is the benchmark. A cheaper one is preferred unless the benchmark is
better beyond the noise: the 95 % interval of the mean difference, resampled over
patients, excludes 0. With too few patients for an interval, the benchmark must be
better in all of them.

A missed or invented structure counts as Dice 0 and NSD 0. It has no distance: by a
distance, only candidates with the fewest misses can be chosen, and structures that any
candidate missed are left out of all means.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_bridge.core.comparison import METRICS, Metric
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import counted
from nnunet_bridge.core.words import Better, ScoreState
from nnunet_bridge.ops.means import mean_of, mean_scores
from nnunet_bridge.ops.paired import cluster_table, clustered_intervals

RULE = (
    "Of the candidates, scored on the cases that all have validated, the cheapest is "
    "chosen that the one with the best mean does not beat beyond the noise: beyond it "
    "is a 95 % interval of the mean difference (bootstrap over patients) without 0; "
    "with fewer than six patients, being better in every one."
)

CHOOSING = {
    metric.key.removesuffix("_mm"): metric
    for key in ("dice", "nsd", "hd95_mm", "assd_mm")
    for metric in METRICS
    if metric.key == key
}
"""Word of `--metric` -> metric."""

BEST, NOT_WORSE, WORSE, MISSES = "best", "within the noise", "worse", "misses more"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model, or the mean of several, with its scores on unseen cases."""

    name: str
    scores: tuple[BoneScore, ...]
    cost: float = math.inf  # seconds to predict a case; infinite if not measured


@dataclass(frozen=True, slots=True)
class Standing:
    """The result of a candidate on the common cases."""

    name: str
    cost: float
    mean: float | None  # mean of the metric over cases; in a case, over its structures
    behind: float | None
    """Mean difference by which the best candidate is better; 0 for the best."""

    interval_95: tuple[float, float] | None
    """95 % interval of `behind`; None with too few patients."""

    verdict: str  # `BEST`, `NOT_WORSE`, `WORSE` or `MISSES`
    figures: Mapping[str, float | None]  # measure -> mean over the structures

    def as_json(self) -> JsonObject:
        """Return the entry of `candidates`."""
        return {
            "name": self.name,
            "seconds_per_case": self.cost if math.isfinite(self.cost) else None,
            "mean": self.mean,
            "behind": self.behind,
            "interval_95": self.interval_95 and list(self.interval_95),
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


def choose(
    candidates: Sequence[Candidate], metric: Metric, patients: Mapping[str, str]
) -> Choice:
    """Choose one of the candidates, which have different names.

    `metric` is one of `CHOOSING`; `patients` maps case ids to patients (a case that is
    not in it is a patient of its own). Raises InputError if the candidates have no
    validated case in common.
    """
    values = _values(candidates, metric)
    cases = tuple(sorted(values[candidates[0].name])) if candidates else ()
    if not cases:
        raise InputError(
            "No case has been validated by every candidate: "
            f"{', '.join(c.name for c in candidates) or 'there is none'}. Train the "
            "same folds of each."
        )
    eligible = _with_fewest_misses(candidates, metric)
    sign = 1.0 if metric.better is Better.HIGHER else -1.0

    means = {
        name: float(np.mean([found[case] for case in cases]))
        for name, found in values.items()
    }

    def order(candidate: Candidate) -> tuple[float, float, str]:
        return (-sign * means[candidate.name], candidate.cost, candidate.name)

    best = min(eligible, key=order)
    clusters = [patients.get(case, case) for case in cases]
    standings = {}
    for candidate in sorted(candidates, key=order):
        own, leading = values[candidate.name], values[best.name]
        behind = [sign * (leading[case] - own[case]) for case in cases]
        intervals = clustered_intervals(behind, clusters)
        interval = None if intervals is None else intervals.mean
        verdict = WORSE if _beyond_the_noise(behind, clusters, interval) else NOT_WORSE
        if candidate.name == best.name:
            verdict = BEST
        elif candidate not in eligible:
            verdict = MISSES
        standings[candidate.name] = Standing(
            candidate.name,
            candidate.cost,
            means[candidate.name],
            float(np.mean(behind)),
            interval,
            verdict,
            _figures(candidate, cases),
        )
    able = [c for c in eligible if standings[c.name].verdict in (BEST, NOT_WORSE)]
    chosen = min(able, key=lambda c: (c.cost, *order(c)))
    found = tuple(standings.values())
    people = len(set(clusters))
    reason = _reason(standings[chosen.name], found, metric, len(cases), people)
    return Choice(chosen.name, reason, metric.key, cases, people, found)


def _values(
    candidates: Sequence[Candidate], metric: Metric
) -> dict[str, dict[str, float]]:
    """Return candidate -> case -> mean over the structures, for the common cases."""
    found = {c.name: _by_place(c.scores, metric) for c in candidates}
    if not found:
        return {}
    common = set.intersection(*(set(values) for values in found.values()))
    by_case: dict[str, list[str]] = {}
    for case, structure in sorted(common):
        by_case.setdefault(case, []).append(structure)
    return {
        name: {
            case: float(np.mean([values[case, structure] for structure in structures]))
            for case, structures in by_case.items()
        }
        for name, values in found.items()
    }


def _by_place(
    scores: Sequence[BoneScore], metric: Metric
) -> dict[tuple[str, str], float]:
    """Return (case, structure) -> value, where there is one."""
    found = {}
    for score in scores:
        value: float | None = getattr(score, metric.key)
        if value is None and score.state in (ScoreState.MISSED, ScoreState.INVENTED):
            value = None if metric.better is Better.LOWER else 0.0
        if value is not None:
            found[score.case_id, score.structure] = value
    return found


def _with_fewest_misses(
    candidates: Sequence[Candidate], metric: Metric
) -> list[Candidate]:
    """Return the eligible candidates: all, unless the metric ignores misses."""
    if metric.better is Better.HIGHER:
        return list(candidates)
    judged = set.intersection(*({s.case_id for s in c.scores} for c in candidates))
    misses = {}
    for candidate in candidates:
        states = Counter(s.state for s in candidate.scores if s.case_id in judged)
        missed = states[ScoreState.MISSED] + states[ScoreState.INVENTED]
        misses[candidate.name] = missed
    fewest = min(misses.values())
    return [c for c in candidates if misses[c.name] == fewest]


def _beyond_the_noise(
    behind: Sequence[float],
    clusters: Sequence[str],
    interval: tuple[float, float] | None,
) -> bool:
    """Whether differences are larger than chance explains."""
    if interval is not None:
        return interval[0] > 0
    per_patient = np.nanmean(cluster_table(behind, clusters), axis=1)
    return bool((per_patient > 0).all())


def _figures(candidate: Candidate, cases: Sequence[str]) -> dict[str, float | None]:
    """Return the means over the structures of the means over the common cases."""
    means = mean_scores([s for s in candidate.scores if s.case_id in set(cases)])
    keys = ("dice", "nsd", "hd95_mm", "assd_mm", "volume_error_cm3_absolute")
    return {key: mean_of(getattr(mean, key) for mean in means) for key in keys}


def _reason(
    chosen: Standing,
    standings: Sequence[Standing],
    metric: Metric,
    cases: int,
    patients: int,
) -> str:
    """Return the reason of the choice as a sentence."""
    over = f"over {counted(cases, 'case')} of {counted(patients, 'patient')}"
    mean = f"{metric.title} {chosen.mean:.{metric.decimals}f}"
    if len(standings) == 1:
        return f"{chosen.name} is the only candidate ({mean} {over})."
    best = next(standing for standing in standings if standing.verdict == BEST)
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
    words = f"{standing.behind:+.{digits}f}{unit}"
    if standing.interval_95 is None:
        return f"{words}, and not in every patient"
    low, high = standing.interval_95
    return f"{words} (95 % interval {low:+.{digits}f} to {high:+.{digits}f})"


def _cost(standing: Standing) -> str:
    known = math.isfinite(standing.cost)
    return f"{standing.cost:.1f} s a case" if known else "cost unknown"
