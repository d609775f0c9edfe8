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
- Folds: Student's t over the means of the folds. One training a fold is one draw, so
  their spread holds what the choice of patients and the training do together. Beside
  it the correction of Nadeau and Bengio 2003, Machine Learning 52, 239-281, for
  training sets that overlap.
- Power: the smallest mean difference that the test finds in 80 % of samples with the
  spread of this one, for normal differences.

A difference with a failure on one side is infinite: larger than any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.comparison import SIGNIFICANT
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.ops.outcomes import bounded, unbounded

SEED = 20_251_101
FEWEST_FOR_AN_INTERVAL = 6
"""Fewest patients for a 95 % interval of a median: the whole range of five values
covers their median with a probability of 1 - 2 / 2**5 = 93.75 %."""

RESAMPLES = 10_000  # bootstrap samples: enough that the seed hardly changes an interval
TIE_DECIMALS = 12  # decimals to which equal differences agree: 0.9 - 0.8 and 0.8 - 0.7
POWER = 0.8
_SAMPLES = 2000  # samples of normal differences from which the power is estimated


def signed_rank_p(differences: npt.ArrayLike) -> float:
    """Return the exact two-sided p of Wilcoxon's signed-rank test.

    Zeros are dropped; with nothing left, p is 1. Under the null hypothesis both signs
    have the same probability. The distribution of the rank sum is convolved from the
    observed ranks, doubled so that the midranks of ties are integers; it is exact with
    ties, unlike tables.
    """
    ranks, positive = _doubled_ranks(differences)
    chance = _rank_sum_chances(ranks)
    rank_sum = int(ranks[positive].sum())
    tail = min(chance[: rank_sum + 1].sum(), chance[rank_sum:].sum())
    return float(min(1.0, 2 * tail))


def _rank_sum_chances(ranks: npt.NDArray[np.int64]) -> FloatArray:
    """Return the chance of every sum of the positive ranks, from 0 to their total."""
    total = int(ranks.sum())
    chance = np.zeros(total + 1)
    chance[0] = 1.0
    for rank in ranks:  # half of the time the sign is positive and adds the rank
        moved = np.zeros_like(chance)
        moved[rank:] = chance[: total + 1 - rank]
        chance = (chance + moved) / 2
    return chance


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

    median: tuple[float, float]  # an end may be infinite
    mean: tuple[float, float] | None  # None if a difference is infinite


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
    table = cluster_table(bounded(differences), clusters)
    size = len(table)
    if size < FEWEST_FOR_AN_INTERVAL:
        return None
    # A sample draws as many patients as there are, with all their cases. Sorting puts
    # the padding (NaN) last, so that the first `counts` values of a row are cases.
    draws = np.random.default_rng(seed).integers(size, size=(resamples, size))
    samples = np.sort(table[draws].reshape(resamples, -1), axis=1)
    counts = (~np.isnan(samples)).sum(axis=1)
    rows = np.arange(resamples)
    medians = (samples[rows, (counts - 1) // 2] + samples[rows, counts // 2]) / 2
    low, high = _percentiles(medians, 0.025)
    median = unbounded(low), unbounded(high)
    if np.isinf(differences).any():
        return Intervals(median, None)
    means = np.nansum(samples, axis=1) / counts
    return Intervals(median, _percentiles(means, _tail(size)))


@dataclass(frozen=True, slots=True)
class FoldIntervals:
    """95 % intervals of the mean difference, from the means of the folds."""

    folds: int
    plain: tuple[float, float]
    corrected: tuple[float, float]  # after Nadeau and Bengio


def fold_intervals(
    differences: npt.ArrayLike, folds: Sequence[str]
) -> FoldIntervals | None:
    """Return Student's t intervals over fold means; `folds` names that of each.

    None if a fold is unknown (an empty name), or there is only one.
    """
    from scipy.stats import t

    count = len(set(folds))
    if count < 2 or not all(folds):  # noqa: PLR2004 - one fold has no spread
        return None
    means = np.nanmean(cluster_table(differences, folds), axis=1)
    reach = float(t.ppf(0.975, count - 1) * means.std(ddof=1))
    centre = float(means.mean())
    widths = reach * np.sqrt([1 / count, 1 / count + 1 / (count - 1)])
    plain, corrected = ((centre - float(w), centre + float(w)) for w in widths)
    return FoldIntervals(count, plain, corrected)


def detectable_difference(
    per_patient: npt.ArrayLike, *, alpha: float = SIGNIFICANT
) -> float | None:
    """Return the smallest mean difference that is found with a power of 80 %.

    Of the test at `alpha`, with the spread of these differences, one a patient. None
    if there is no spread, or no p of so few patients is below `alpha`.
    """
    values = np.asarray(per_patient, dtype=np.float64)
    if smallest_p(len(values)) >= alpha or not np.isfinite(values).all():
        return None
    deviation = float(values.std(ddof=1))
    return deviation * _detectable_deviations(len(values), alpha) or None


@cache
def _detectable_deviations(patients: int, alpha: float) -> float:
    """Return the shift in standard deviations at which 80 % of samples have an answer.

    An answer is a p below alpha and an interval of the median without 0.

    The same samples serve every shift, so that the power rises with it.
    """
    from scipy.stats import binom, rankdata

    samples = np.random.default_rng(SEED).normal(size=(_SAMPLES, patients))
    chance = _rank_sum_chances(np.arange(1, patients + 1))
    p_of_sum = 2 * np.minimum(chance.cumsum(), chance[::-1].cumsum()[::-1])
    # A bootstrap median is below 0 where half of its draws are: the interval excludes 0
    # up to this many negative differences.
    below = np.arange(patients + 1)
    tails = binom.sf((patients + 1) // 2 - 1, patients, below / patients)
    most_negative = int(below[tails < (1 - 0.95) / 2].max())
    low, high = 0.0, 10.0
    while high - low > 1e-3:  # noqa: PLR2004 - digits of a factor
        shift = (low + high) / 2
        shifted = samples + shift
        sums = (rankdata(np.abs(shifted), axis=1) * (shifted > 0)).sum(axis=1)
        small_p = p_of_sum[np.rint(sums).astype(int)] < alpha
        clear = (shifted < 0).sum(axis=1) <= most_negative
        found = float(np.mean(small_p & clear))
        low, high = (low, shift) if found >= POWER else (shift, high)
    return high


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
