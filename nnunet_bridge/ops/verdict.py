"""The conclusion of a comparison: the answer, its statistics, and its limits.

Two questions have two answers. Whether a trained model is better on such patients is
answered by the patients. Whether its kind is better is about trainings too: a winner is
named only if the means of the folds agree.
"""

from dataclasses import replace

from nnunet_bridge.core.comparison import (
    ALL_STRUCTURES,
    SIGNIFICANT,
    Comparison,
    PairedDifference,
    Verdict,
)
from nnunet_bridge.core.units import counted
from nnunet_bridge.core.words import Answer, RowState
from nnunet_bridge.ops.paired import holm, p_words, smallest_p

OVERLAP_NOTE = (
    "cross-validation models share most of their training cases, so the interval is "
    "somewhat narrower than that of independent trainings"
)


def verdict(comparison: Comparison, *, caveat: str = "") -> Verdict:
    """Return which model is better on Dice over all structures, or why it is undecided.

    A model wins only if the 95 % interval of the median difference excludes 0,
    Wilcoxon's p (Holm-corrected over the pairs of models) is below 0.05, and the
    interval of the means of the folds, where there is one, excludes 0 as well. Of more
    than two models, the two with the highest mean Dice are compared. With a margin of
    Dice, models whose whole intervals lie within it are equivalent, even if they
    exclude 0. A `caveat`, such as a smoke test, allows no winner.
    """
    if len(comparison.models) < 2:  # noqa: PLR2004 - a comparison has two sides
        only = "".join(comparison.models) or "no model"
        return _none(
            f"Nothing to compare: {only} was scored alone.",
            "Train a second configuration on the same folds to compare them.",
        )
    row, p = _leading_row(comparison)
    if row.median_difference is None:
        return _none(
            f"Undecided: {row.first} and {row.second} share no case with a Dice.",
            "Score both models on the same cases.",
        )
    measured = f"{_measured(row, p)}."
    if caveat:
        return _none(f"No verdict: {caveat}.", f"For the record: {measured}")
    winner = row.winner_by(p)
    answer = Answer.BETTER if winner else Answer.UNDECIDED
    if row.answer is Answer.EQUIVALENT:
        winner, answer = "", Answer.EQUIVALENT
    measured = f"{measured[0].upper()}{measured[1:]}"
    rest = (_limits(row, answer), _trainings(row), _power(row))
    opening = f"{_opening(row, p, answer)}: {_scores(row)}."
    return Verdict(winner, (opening, measured, *filter(None, rest)), answer)


def _none(result: str, limits: str) -> Verdict:
    return Verdict("", (result, limits), Answer.NONE)


def _opening(row: PairedDifference, p: float | None, answer: Answer) -> str:
    """Return the answer in a few words."""
    if answer is Answer.EQUIVALENT:
        return f"{row.first} and {row.second} are equivalent within {row.margin:g}"
    if answer is Answer.BETTER:
        return f"{row.favours} is better"
    if replace(row, fold_interval_95=None).winner_by(p):  # the patients alone name one
        return (
            f"{row.favours} is better for these {row.folds} trainings each; whether it "
            "holds for another training cannot be told"
        )
    return f"Undecided between {row.first} and {row.second}"


def _scores(row: PairedDifference) -> str:
    """Return both means, that of the favoured model first, and the number of cases."""
    means = dict(zip((row.first, row.second), row.means, strict=True))
    best = row.favours or row.first
    other = row.first if best == row.second else row.second
    return f"Dice {means[best]:.3f} against {means[other]:.3f}, n = {row.n}"


def _leading_row(comparison: Comparison) -> tuple[PairedDifference, float | None]:
    """Return the Dice row of the two best models, with p corrected over the pairs."""
    rows = [
        row
        for row in comparison.rows
        if row.metric.key == "dice" and row.structure == ALL_STRUCTURES
    ]
    rank = {
        model: comparison.mean(model, ALL_STRUCTURES, "dice").mean or 0.0
        for model in comparison.models
    }
    best = set(sorted(comparison.models, key=lambda model: -rank[model])[:2])
    leading = next(row for row in rows if {row.first, row.second} == best)
    tested = [row for row in rows if row.p is not None]
    corrected = holm([row.p for row in tested if row.p is not None])
    found = [p for row, p in zip(tested, corrected, strict=True) if row is leading]
    return leading, found[0] if found else None


def _measured(row: PairedDifference, p: float | None) -> str:
    """Return difference, interval, p and n as text."""
    uncertainty = []
    if row.interval_95 is not None:
        low, high = row.interval_95
        uncertainty.append(f"95 % interval {low:+z.3f} to {high:+z.3f}")
    if p is not None:
        uncertainty.append(f"Wilcoxon p {p_words(p)}")
    in_brackets = f" ({', '.join(uncertainty)})" if uncertainty else ""
    return (
        f"the median difference ({row.second} minus {row.first}) is "
        f"{row.median_difference:+z.3f}{in_brackets}, over {counted(row.n, 'case')} of "
        f"{counted(row.patients, 'patient')}"
    )


def _limits(row: PairedDifference, answer: Answer) -> str:
    """Return what these cases cannot show."""
    least = smallest_p(row.patients)
    if row.patients < 2:  # noqa: PLR2004 - one patient has no spread
        return "One patient has no spread: no interval and no test exist."
    if least >= SIGNIFICANT:
        return (
            f"With {row.patients} patients no two-sided p below {least:g} exists, so "
            "no difference, however large, could be called significant: add patients."
        )
    if row.state in _WITHOUT_SPREAD and answer is not Answer.EQUIVALENT:
        return _WITHOUT_SPREAD[row.state]
    reading = _reading(row, answer)
    if not row.folds:  # no cross-validation
        return "" if answer is Answer.BETTER else f"{reading}."
    return f"{reading}: {OVERLAP_NOTE}."


_WITHOUT_SPREAD = {
    RowState.IDENTICAL: "Both models gave the same Dice in every case.",
    RowState.CONSTANT: "The difference is the same in every case, so no interval "
    "exists.",
}


def _reading(row: PairedDifference, answer: Answer) -> str:
    """Return how to read an answer."""
    if answer is Answer.BETTER:
        return "Read it with care"
    if answer is Answer.EQUIVALENT:
        low, high = row.interval_95 or (0.0, 0.0)
        exists = f"; a smaller difference exists, in favour of {row.favours}"
        remark = exists if row.favours and (low > 0 or high < 0) else ""
        return f"The margin of {row.margin:g} was defined beforehand{remark}"
    if row.margin is not None:
        return (
            f"An interval reaches beyond the margin of {row.margin:g}, or the models "
            "fail in unequal numbers of cases, so equality is not shown either"
        )
    return "This is not proof of equality (a difference within the interval may exist)"


def _trainings(row: PairedDifference) -> str:
    """Return what the folds say about other trainings."""
    if row.state is not RowState.COMPARED or row.interval_95 is None:
        return ""
    if row.fold_interval_95 is None or row.fold_interval_95_corrected is None:
        return (
            "This is about the patients only: the trainings behind it are one draw, "
            "and the scores do not show how another training would turn out."
        )
    plain, corrected = (
        f"{low:+z.3f} to {high:+z.3f}"
        for low, high in (row.fold_interval_95, row.fold_interval_95_corrected)
    )
    return (
        f"Over the means of the {row.folds} folds, each of which trained both models "
        f"anew, the 95 % interval of the mean difference is {plain} ({corrected} after "
        "Nadeau and Bengio, for training sets that overlap)."
    )


def _power(row: PairedDifference) -> str:
    """Return the smallest difference that the comparison could have shown."""
    if row.detectable_difference is None:
        return ""
    return (
        f"With the spread of these differences, {row.patients} patients show a "
        f"difference of {row.detectable_difference:.3f} or more in 80 % of studies."
    )
