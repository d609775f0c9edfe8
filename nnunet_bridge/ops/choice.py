"""Which of several models to use: the cheapest that is not worse beyond the noise.

Every candidate is scored on the cases that all of them have validated. The one with the
best mean is the mark. A cheaper one is preferred unless the mark is better beyond the
noise: the 95 % interval of the mean difference, resampled over patients, lies on its
side of 0. With fewer patients than an interval needs, it must be better in all of them.

A missed or invented structure counts as Dice 0 and NSD 0. It has no distance: by a
distance, only candidates with the fewest of them can be chosen, and what any candidate
missed is left out of the mean of all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_bridge.core.comparison import METRICS, Metric
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import Better, ScoreState
from nnunet_bridge.ops.means import mean_scores
from nnunet_bridge.ops.paired import cluster_table, clustered_intervals

RULE = (
    "Of the candidates, scored on the cases that all have validated, the cheapest is "
    "chosen that the one with the best mean does not beat beyond the noise: beyond it "
    "is a 95 % interval of the mean difference (bootstrap over patients) without 0; "
    "with fewer than six patients, being better in every one."
)

CHOOSING = {
    name: next(metric for metric in METRICS if metric.key == key)
    for name, key in (
        *(("dice", "dice"), ("nsd", "nsd")),
        *(("hd95", "hd95_mm"), ("assd", "assd_mm")),
    )
}
"""Word of `--metric` -> what is compared."""

BEST, NOT_WORSE, WORSE, MISSES = "best", "within the noise", "worse", "misses more"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model, or the mean of several, scored on cases that it had not seen."""

    name: str
    scores: tuple[BoneScore, ...]
    cost: float = math.inf
    """Seconds for predicting a case; infinite where nobody measured it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a candidate did on the common cases."""

    name: str
    cost: float
    mean: float | None
    """Of the metric, over cases; of a case, over its structures."""

    behind: float | None
    """Mean over the cases by which the best is better; 0 for the best."""

    interval_95: tuple[float, float] | None
    """Of `behind`; None with too few patients."""

    verdict: str
    """`BEST`, `NOT_WORSE`, `WORSE` or `MISSES`."""

    figures: Mapping[str, float | None]
    """Means over the structures, by the name of the measure."""

    def as_json(self) -> JsonObject:
        """Return the entry of `candidates`."""
        interval = self.interval_95
        return {
            "name": self.name,
            "seconds_per_case": self.cost if math.isfinite(self.cost) else None,
            "mean": self.mean,
            "behind": self.behind,
            "interval_95": None if interval is None else list(interval),
            "verdict": self.verdict,
            **self.figures,
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and why."""

    chosen: str
    reason: str
    metric: str
    """Key of the measure, as in `BoneScore`."""

    case_ids: tuple[str, ...]
    patients: int
    standings: tuple[Standing, ...]
    """The better mean first."""


def choose(
    candidates: Sequence[Candidate], metric: Metric, patients: Mapping[str, str]
) -> Choice:
    """Return the candidate to use.

    Parameters
    ----------
    candidates : sequence of Candidate
        With different names.
    metric : Metric
        One of `CHOOSING`.
    patients : mapping
        Case id -> patient; a case that is not in it is a patient of its own.

    Raises
    ------
    InputError
        If there is no candidate, or no case that all of them have validated.
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

    def order(candidate: Candidate) -> tuple[float, float, str]:
        mean = float(np.mean([values[candidate.name][case] for case in cases]))
        return (-sign * mean, candidate.cost, candidate.name)

    best = min(eligible, key=order)
    clusters = [patients.get(case, case) for case in cases]
    standings = {}
    for candidate in sorted(candidates, key=order):
        behind = [
            sign * (values[best.name][case] - values[candidate.name][case])
            for case in cases
        ]
        standings[candidate.name] = Standing(
            candidate.name,
            candidate.cost,
            float(np.mean([values[candidate.name][case] for case in cases])),
            float(np.mean(behind)),
            _interval(behind, clusters),
            _verdict(candidate, best, eligible, behind, clusters),
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
    """Return those that may be chosen: all, unless the metric cannot see a miss."""
    if metric.better is Better.HIGHER:
        return list(candidates)
    judged = set.intersection(*({s.case_id for s in c.scores} for c in candidates))
    misses = {
        c.name: sum(
            s.state in (ScoreState.MISSED, ScoreState.INVENTED)
            for s in c.scores
            if s.case_id in judged
        )
        for c in candidates
    }
    fewest = min(misses.values())
    return [c for c in candidates if misses[c.name] == fewest]


def _verdict(
    candidate: Candidate,
    best: Candidate,
    eligible: Sequence[Candidate],
    behind: Sequence[float],
    clusters: Sequence[str],
) -> str:
    if candidate.name == best.name:
        return BEST
    if candidate not in eligible:
        return MISSES
    return WORSE if _beyond_the_noise(behind, clusters) else NOT_WORSE


def _beyond_the_noise(behind: Sequence[float], clusters: Sequence[str]) -> bool:
    """Whether differences are larger than chance would make them."""
    interval = _interval(behind, clusters)
    if interval is not None:
        return interval[0] > 0
    per_patient = np.nanmean(cluster_table(behind, clusters), axis=1)
    return bool((per_patient > 0).all())


def _interval(
    behind: Sequence[float], clusters: Sequence[str]
) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean; None with too few patients."""
    intervals = clustered_intervals(behind, clusters)
    return None if intervals is None else intervals.mean


def _figures(candidate: Candidate, cases: Sequence[str]) -> dict[str, float | None]:
    """Return the means over the structures, each of them over the common cases."""
    means = mean_scores([s for s in candidate.scores if s.case_id in set(cases)])
    figures = {}
    for key in ("dice", "nsd", "hd95_mm", "assd_mm", "volume_error_cm3_absolute"):
        known = [v for v in (getattr(mean, key) for mean in means) if v is not None]
        figures[key] = float(np.mean(known)) if known else None
    return figures


def _reason(
    chosen: Standing,
    standings: Sequence[Standing],
    metric: Metric,
    cases: int,
    patients: int,
) -> str:
    """Say in words why this one."""
    over = f"over {_number(cases, 'case')} of {_number(patients, 'patient')}"
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
    if not math.isfinite(standing.cost):
        return "cost unknown"
    return f"{standing.cost:.1f} s a case"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
