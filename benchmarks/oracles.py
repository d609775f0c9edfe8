"""Hold the statistics of the comparison against other ways to the same number.

    python benchmarks/oracles.py

Prints two tables: the largest difference from an independent answer, and how often an
interval holds the truth when it is known. Every run draws the same samples.
"""

from itertools import product

import numpy as np
from scipy import stats

from nnunet_bridge.ops.agreement import limits_of_agreement
from nnunet_bridge.ops.paired import (
    clustered_intervals,
    equivalence,
    holm,
    rank_biserial,
    signed_rank_p,
)

SAMPLES = 2000
RNG = np.random.default_rng(20)


def distinct(most):
    """Return differences of which no two have the same size."""
    size = int(RNG.integers(1, most + 1))
    return RNG.permutation(np.arange(1, 200))[:size] * RNG.choice([-1, 1], size)


def wilcoxon_without_ties():
    found = [distinct(25) for _ in range(SAMPLES)]
    ours = [signed_rank_p(values) for values in found]
    theirs = [stats.wilcoxon(values, method="exact").pvalue for values in found]
    return SAMPLES, worst(ours, theirs)


def wilcoxon_with_ties():
    found = [RNG.integers(-3, 4, RNG.integers(1, 11)) for _ in range(500)]
    theirs = []
    for values in found:
        left = values[values != 0]
        ranks = stats.rankdata(np.abs(left)) if len(left) else np.zeros(0)
        signs = np.array(list(product([0, 1], repeat=len(left))))
        sums, centre = signs @ ranks, ranks.sum() / 2
        reached = abs(ranks[left > 0].sum() - centre) - 1e-9
        theirs.append(np.mean(np.abs(sums - centre) >= reached))
    return len(found), worst([signed_rank_p(values) for values in found], theirs)


def effect():
    found = [distinct(25) for _ in range(SAMPLES)]
    theirs = [
        np.sum(stats.rankdata(np.abs(v)) * np.sign(v)) / stats.rankdata(np.abs(v)).sum()
        for v in found
    ]
    return SAMPLES, worst([rank_biserial(values) for values in found], theirs)


def correction():
    ours, theirs = [], []
    for _ in range(SAMPLES):
        p = RNG.random(int(RNG.integers(1, 41)))
        ordered = np.sort(p)
        steps = (len(p) - np.arange(len(p))) * ordered
        ours += holm(p.tolist())
        theirs += [min(1, steps[ordered <= value].max()) for value in p]
    return len(ours), worst(ours, theirs)


def bias_and_interval():
    ours, theirs = [], []
    for _ in range(SAMPLES):
        values = RNG.normal(0, 1, int(RNG.integers(2, 31)))
        found = limits_of_agreement(values)
        ours += [found.bias, *found.bias_interval_95]
        reach = stats.t.interval(
            0.95, len(values) - 1, values.mean(), stats.sem(values)
        )
        theirs += [values.mean(), *reach]
    return len(ours), worst(ours, theirs)


def bootstrap(kind):
    ours, theirs = [], []
    reach = stats.t.ppf(0.975, 19) * np.sqrt(20 / 19)
    level = {"median": 0.95, "mean": 1 - 2 * stats.norm.cdf(-reach)}[kind]
    for _ in range(50):
        values = RNG.normal(0, 1, 20)
        patients = [str(number) for number in range(20)]
        ours += getattr(clustered_intervals(values, patients), kind)
        theirs += stats.bootstrap(
            (values,), getattr(np, kind), confidence_level=level, method="percentile",
            n_resamples=10_000, rng=RNG,
        ).confidence_interval  # fmt: skip
    return len(ours), worst(ours, theirs)


def coverage(draw, kind, truth, *, cases=1):
    covered = 0
    patients = [str(number // cases) for number in range(20 * cases)]
    for _ in range(SAMPLES):
        found = clustered_intervals(draw(20), patients, resamples=1000)
        low, high = getattr(found, kind)
        covered += low <= truth <= high
    return covered / SAMPLES


def pairs_of_cases(patients):
    return np.repeat(RNG.normal(0, 1, patients), 2) + RNG.normal(0, 0.2, 2 * patients)


def wrongly_equivalent():
    patients = [str(number) for number in range(20)]
    declared = 0
    for _ in range(SAMPLES):
        values = RNG.normal(1, 1, 20)
        ends = clustered_intervals(values, patients, resamples=1000).median
        declared += equivalence(ends, 1) == "equivalent"
    return declared / SAMPLES


def limits_coverage():
    covered = 0
    for _ in range(SAMPLES):
        low, high = limits_of_agreement(RNG.normal(0, 1, 20)).upper_interval_95
        covered += low <= stats.norm.ppf(0.975) <= high
    return covered / SAMPLES


def worst(ours, theirs):
    return float(np.abs(np.array(ours) - np.array(theirs)).max())


def normal(size):
    return RNG.normal(0, 1, size)


def skewed(size):
    return RNG.exponential(1, size)


if __name__ == "__main__":
    print("| figure | held against | cases | largest difference |\n|---|---|---|---|")
    for name, oracle, found in (
        (
            "Wilcoxon's p, no ties",
            "scipy.stats.wilcoxon, exact",
            wilcoxon_without_ties(),
        ),
        ("Wilcoxon's p, ties", "every sign pattern, counted", wilcoxon_with_ties()),
        ("effect", "its definition from scipy's ranks", effect()),
        ("Holm's correction", "its definition in closed form", correction()),
        ("bias and its interval", "scipy.stats.t.interval", bias_and_interval()),
        (
            "interval of the median",
            "scipy.stats.bootstrap (in SD)",
            bootstrap("median"),
        ),
        ("interval of the mean", "scipy.stats.bootstrap (in SD)", bootstrap("mean")),
    ):
        print(f"| {name} | {oracle} | {found[0]} | {found[1]:.1g} |", flush=True)
    print("\n| of 20 patients | the truth is held in |\n|---|---|")
    for name, share in (
        ("median, normal differences", coverage(normal, "median", 0.0)),
        ("median, skewed differences", coverage(skewed, "median", np.log(2))),
        ("mean, normal differences", coverage(normal, "mean", 0.0)),
        ("mean, skewed differences", coverage(skewed, "mean", 1.0)),
        ("mean, two cases a patient", coverage(pairs_of_cases, "mean", 0.0, cases=2)),
        ("upper limit of agreement", limits_coverage()),
        ("declared equivalent, at the margin itself", wrongly_equivalent()),
    ):
        print(f"| {name} | {100 * share:.1f} % |", flush=True)
