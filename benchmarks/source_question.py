"""What seven children could show: the source report's comparison, as our code reads it.

    python benchmarks/source_question.py docs/images

The report gives mean and standard deviation (SD) of the Dice of four networks, from
seven children, leave-one-out; no values by child, no interval and no test. How a paired
comparison of seven would have ended depends on one number that it does not give: the
correlation of two networks over the children. So it is computed for several. Each study
is a sample with exactly the report's means and SDs, and gets the statistics of
`compare`. Prints the tables of docs/explanations/source-report.md and draws
its figure.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, t

from nnunet_bridge.core.comparison import ALL_STRUCTURES
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.ops.comparison import compare_models

CHILDREN = 7
BONES = ("tibia", "femur", "fibula", "pelvis")
DICE = {
    "nnU-Net 2d": ((0.89, 0.03), (0.92, 0.03), (0.75, 0.03), (0.84, 0.04)),
    "nnU-Net 3d": ((0.90, 0.03), (0.91, 0.03), (0.75, 0.06), (0.70, 0.05)),
    "ResNet34": ((0.93, 0.02), (0.95, 0.01), (0.78, 0.04), (0.88, 0.03)),
}
"""Mean and SD by network, in the order of `BONES`."""

PAIRS = (("nnU-Net 2d", "ResNet34"), ("nnU-Net 3d", "nnU-Net 2d"))
CORRELATIONS = (0.0, 0.5, 0.9)
STUDIES = 100


def sample(first, second, correlation, rng):
    """Return two (7,) arrays of exactly these means and SDs, correlated about so."""
    normal = rng.standard_normal((2, CHILDREN))
    mixed = normal[0], correlation * normal[0] + np.sqrt(1 - correlation**2) * normal[1]
    exact = [(x - x.mean()) / x.std(ddof=1) for x in mixed]
    return [m + sd * x for (m, sd), x in zip((first, second), exact, strict=True)]


def interval(first, second, correlation):
    """Return the mean difference and its 95 % interval by Student's t."""
    (m1, s1), (m2, s2) = first, second
    error = np.sqrt((s1**2 + s2**2 - 2 * correlation * s1 * s2) / CHILDREN)
    reach = t.ppf(0.975, CHILDREN - 1) * error
    return m2 - m1, m2 - m1 - reach, m2 - m1 + reach


def detectable(first, second, correlation):
    """Return the true difference that a t test of seven finds in 80 % of studies."""
    (_, s1), (_, s2) = first, second
    deviation = np.sqrt(s1**2 + s2**2 - 2 * correlation * s1 * s2)
    limit = t.ppf(0.975, CHILDREN - 1)

    def missed(difference):
        shift = difference / deviation * np.sqrt(CHILDREN)
        return nct.cdf(limit, CHILDREN - 1, shift) - 0.2

    return brentq(missed, 1e-4, 3 * deviation)


def study(pair, correlation, rng):
    """Return the comparison of one simulated study of the four bones."""
    scores = {name: [] for name in pair}
    for place, bone in enumerate(BONES):
        means = [DICE[name][place] for name in pair]
        for name, values in zip(pair, sample(*means, correlation, rng), strict=True):
            scores[name] += [
                BoneScore(
                    f"child {n}",
                    bone,
                    name,
                    "scored",
                    float(dice),
                    None,
                    None,
                    None,
                    1e4,
                    1e4,
                )
                for n, dice in enumerate(np.clip(values, 0, 1))
            ]
    children = {f"child {n}": f"child {n}" for n in range(CHILDREN)}
    return compare_models(scores, patients=children)


def shares(pair, correlation):
    """Return by bone: share of studies with p < 0.05, and after Holm's correction."""
    rng = np.random.default_rng(7)
    found = {bone: [] for bone in (*BONES, ALL_STRUCTURES)}
    for _ in range(STUDIES):
        for row in study(pair, correlation, rng).rows:
            if row.metric.key == "dice" and row.p is not None:
                found[row.structure].append((row.p < 0.05, row.p_holm < 0.05))
    return {bone: np.mean(each, axis=0) for bone, each in found.items()}


def report(pictures):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, pair in zip(axes, PAIRS, strict=True):
        print(f"\n{pair[1]} minus {pair[0]}\n")
        head = " | ".join(f"r = {r:g}" for r in CORRELATIONS)
        print(f"| bone | difference | interval: {head} | detectable: {head} |")
        print("|---|---|---|---|---|---|---|---|")
        for place, bone in enumerate(BONES):
            means = [DICE[name][place] for name in pair]
            every = [interval(*means, r) for r in CORRELATIONS]
            cells = [f"{low:+.2f} to {high:+.2f}" for _, low, high in every]
            cells += [f"{detectable(*means, r):.3f}" for r in CORRELATIONS]
            print(f"| {bone} | {every[0][0]:+.2f} | {' | '.join(cells)} |")
            for n, (middle, low, high) in enumerate(every):
                y = place + 0.2 * (n - 1)
                colour = ("#0067a8", "#cf5400", "#00805c")[n]
                word = f"r = {CORRELATIONS[n]:g}" if place == 0 else None
                panel.plot([low, high], [y, y], color=colour, lw=3, label=word)
                panel.plot([middle], [y], "o", color="black", ms=4)
        panel.axvline(0, color="grey", ls="--", lw=1)
        panel.set(
            yticks=range(4), yticklabels=BONES, title=f"{pair[1]} minus {pair[0]}"
        )
        panel.set_xlabel("difference of the mean Dice, 95 % interval")
        print(f"\n| bone | p < 0.05: {head} | Holm: {head} |")
        print("|---|---|---|---|---|---|---|")
        every = [shares(pair, r) for r in CORRELATIONS]
        for bone in (*BONES, ALL_STRUCTURES):
            cells = [f"{100 * found[bone][k]:.0f} %" for k in (0, 1) for found in every]
            print(f"| {bone} | {' | '.join(cells)} |")
    axes[0].invert_yaxis()
    axes[0].legend(loc="lower right", frameon=False, title="correlation")
    figure.savefig(pictures / "source-question.png", dpi=110)


if __name__ == "__main__":
    report(Path(sys.argv[1]))
