"""Statistics of paired differences: interval, test, effect, correction.

The unit of resampling is the **patient**: the two legs of one person are not two
independent observations.

- Interval of the median: percentile bootstrap. At n = 5 it is the whole range of the
  data, as the order statistics demand.
- Interval of the mean: expanded percentile bootstrap (Hesterberg 2015, The American
  Statistician 69(4), 371-386), as the plain one is too narrow for few patients.
- p: Wilcoxon's signed-rank test, two-sided, exact at every n and with ties; zero
  differences are dropped.
- Correction: Holm 1979.
- Effect: matched-pairs rank-biserial correlation (Kerby 2014), the share of the rank
  sum in favour of the second model minus the share against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.grid import FloatArray

SEED = 20_251_101
SIGNIFICANT = 0.05
FEWEST_FOR_AN_INTERVAL = 6
"""Fewest patients for a 95 % interval of a median: the whole range of five values
covers their median with a probability of 1 - 2 / 2**5 = 93.75 %."""

RESAMPLES = 10_000  # bootstrap samples: enough that the seed hardly changes an interval
TIE_DECIMALS = 12  # decimals to which equal differences agree: 0.9 - 0.8 and 0.8 - 0.7


def signed_rank_p(differences: npt.ArrayLike) -> float:
    """Return the exact two-sided p of Wilcoxon's signed-rank test.

    Zeros are dropped; with nothing left, p is 1. Under the null hypothesis both signs
    have the same probability. The distribution of the rank sum is convolved from the
    observed ranks, doubled so that the midranks of ties are integers; it is exact with
    ties, unlike tables.
    """
    ranks, positive = _doubled_ranks(differences)
    total = int(ranks.sum())
    chance = np.zeros(total + 1)
    chance[0] = 1.0
    for rank in ranks:  # half of the time the sign is positive and adds the rank
        moved = np.zeros_like(chance)
        moved[rank:] = chance[: total + 1 - rank]
        chance = (chance + moved) / 2
    rank_sum = int(ranks[positive].sum())
    tail = min(chance[: rank_sum + 1].sum(), chance[rank_sum:].sum())
    return float(min(1.0, 2 * tail))


def rank_biserial(differences: npt.ArrayLike) -> float:
    """Return the matched-pairs rank-biserial correlation, -1..1; 0 if all are 0."""
    ranks, positive = _doubled_ranks(differences)
    if not ranks.size:
        return 0.0
    return float((2 * ranks[positive].sum() - ranks.sum()) / ranks.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for multiple tests by Holm's step-down method."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for step, place in enumerate(order):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - step)))
        corrected[place] = highest
    return corrected


def equivalence(ends: tuple[float, float] | None, margin: float) -> str:
    """Compare the 95 % interval of a difference with a positive margin.

    ``equivalent``: the whole interval lies within the margin on both sides (two
    one-sided tests of 2.5 % each; Schuirmann 1987), even if it excludes 0.
    ``different``: it excludes 0 otherwise. ``undecided``: all other cases.
    """
    if ends is None:
        return "undecided"
    low, high = ends
    if -margin < low and high < margin:
        return "equivalent"
    return "different" if low > 0 or high < 0 else "undecided"


def smallest_p(pairs: int) -> float:
    """Return the smallest possible two-sided p of `pairs` differences."""
    return float(min(1.0, 2.0 ** (1 - pairs)))


def p_words(p: float) -> str:
    """Return p rounded for a reader, with its sign of equality.

    Examples
    --------
    >>> p_words(0.0625), p_words(0.19531), p_words(0.0078125), p_words(0.00004)
    ('= 0.0625', '= 0.195', '= 0.0078', '< 0.001')
    """
    if p < 0.001:  # noqa: PLR2004 - the custom
        return "< 0.001"
    if p < 0.01:  # noqa: PLR2004 - two digits are enough
        return f"= {p:.2g}"
    return f"= {p:.3f}" if p >= 0.1 else f"= {p:.3g}"  # noqa: PLR2004 - three digits


@dataclass(frozen=True, slots=True)
class Intervals:
    """95 % intervals of one set of paired differences."""

    median: tuple[float, float]
    mean: tuple[float, float]


def clustered_intervals(
    differences: npt.ArrayLike,
    clusters: Sequence[str],
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> Intervals | None:
    """Return bootstrap intervals that resample whole clusters (patients).

    `clusters` names the patient of each of the (n,) differences. None with fewer than
    `FEWEST_FOR_AN_INTERVAL` clusters.
    """
    table = cluster_table(differences, clusters)
    size = len(table)
    if size < FEWEST_FOR_AN_INTERVAL:
        return None
    # A sample draws as many patients as there are, with all their cases. Sorting puts
    # the padding (NaN) last, so that the first `counts` values of a row are cases.
    draws = np.random.default_rng(seed).integers(size, size=(resamples, size))
    samples = np.sort(table[draws].reshape(resamples, -1), axis=1)
    counts = np.isfinite(samples).sum(axis=1)
    rows = np.arange(resamples)
    medians = (samples[rows, (counts - 1) // 2] + samples[rows, counts // 2]) / 2
    means = np.nansum(samples, axis=1) / counts
    return Intervals(
        median=_percentiles(medians, 0.025), mean=_percentiles(means, _tail(size))
    )


def cluster_table(differences: npt.ArrayLike, clusters: Sequence[str]) -> FloatArray:
    """Return the (clusters, largest cluster) values, padded with NaN."""
    grouped: dict[str, list[float]] = {}
    values = np.asarray(differences, dtype=np.float64)
    for value, cluster in zip(values, clusters, strict=True):
        grouped.setdefault(cluster, []).append(float(value))
    width = max((len(group) for group in grouped.values()), default=0)
    table = np.full((len(grouped), width), np.nan)
    for place, group in enumerate(grouped.values()):
        table[place, : len(group)] = group
    return table


def _doubled_ranks(
    differences: npt.ArrayLike,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return twice the midranks of the non-zero differences, and which are positive."""
    from scipy.stats import rankdata

    values = np.asarray(differences, dtype=np.float64).round(TIE_DECIMALS)
    values = values[values != 0]
    doubled = np.rint(2 * rankdata(np.abs(values))).astype(np.int64)
    return doubled, values > 0


def _percentiles(values: FloatArray, tail: float) -> tuple[float, float]:
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _tail(clusters: int) -> float:
    """Return the tail of the expanded percentile interval for a number of clusters."""
    from scipy.stats import norm, t

    reach = t.ppf(0.975, clusters - 1) * np.sqrt(clusters / (clusters - 1))
    return float(norm.cdf(-reach))
