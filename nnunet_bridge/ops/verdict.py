"""The conclusion of a comparison in two sentences: the result and its limits."""

from __future__ import annotations

from nnunet_bridge.core.comparison import (
    ALL_STRUCTURES,
    Comparison,
    PairedDifference,
    Verdict,
)
from nnunet_bridge.core.units import counted
from nnunet_bridge.core.words import Answer, RowState
from nnunet_bridge.ops.paired import SIGNIFICANT, holm, p_words, smallest_p

OVERLAP_NOTE = (
    "cross-validation models share most of their training cases, so the interval is "
    "somewhat narrower than that of independent trainings"
)


def verdict(comparison: Comparison, *, caveat: str = "") -> Verdict:
    """Return which model is better on Dice over all structures, or why it is undecided.

    A model wins only if the 95 % interval of the median difference excludes 0 and
    Wilcoxon's p (Holm-corrected over the pairs of models) is below 0.05. Of more than
    two models, the two with the highest mean Dice are compared. With a margin of Dice,
    models whose whole interval lies within it are equivalent, even if the interval
    excludes 0. A `caveat`, such as a smoke test, allows no winner.
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
    measured = _measured(row, p)
    if caveat:
        return _none(f"No verdict: {caveat}.", f"For the record: {measured}.")
    if row.answer is Answer.EQUIVALENT:
        return _equivalent(row, measured)
    winner = _winner(row, p)
    if winner:
        loser = row.first if winner == row.second else row.second
        opening = f"{winner} is better than {loser} on Dice: {measured}."
    else:
        opening = f"Undecided between {row.first} and {row.second} on Dice: {measured}."
    answer = Answer.BETTER if winner else Answer.UNDECIDED
    return Verdict(winner, (opening, _limits(row, decided=bool(winner))), answer)


def _none(result: str, limits: str) -> Verdict:
    return Verdict("", (result, limits), Answer.NONE)


def _equivalent(row: PairedDifference, measured: str) -> Verdict:
    low, high = row.interval_95 or (0.0, 0.0)
    opening = (
        f"{row.first} and {row.second} are equivalent on Dice within the margin of "
        f"{row.margin:g}: {measured}."
    )
    remark = f"The margin of {row.margin:g} was defined beforehand"
    if low > 0 or high < 0:
        remark += f"; a smaller difference exists, in favour of {row.favours}"
    return Verdict("", (opening, f"{remark}; and {OVERLAP_NOTE}."), Answer.EQUIVALENT)


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


def _winner(row: PairedDifference, p: float | None) -> str:
    if row.interval_95 is None or p is None or p >= SIGNIFICANT:
        return ""
    low, high = row.interval_95
    return row.favours if low > 0 or high < 0 else ""


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


def _limits(row: PairedDifference, *, decided: bool) -> str:
    """Return what these cases cannot show."""
    least = smallest_p(row.patients)
    if row.patients < 2:  # noqa: PLR2004 - one patient has no spread
        return "One patient has no spread: no interval and no test exist."
    if least >= SIGNIFICANT:
        return (
            f"With {row.patients} patients no two-sided p below {least:g} exists, so "
            "no difference, however large, could be called significant: add patients."
        )
    if row.state is RowState.IDENTICAL:
        return "Both models gave the same Dice in every case."
    if row.state is RowState.CONSTANT:
        return "The difference is the same in every case, so no interval exists."
    if decided:
        return f"Read it with care: {OVERLAP_NOTE}."
    unproven = (
        "This is not proof of equality: a difference within the interval may exist"
    )
    if row.margin is not None:
        unproven = (
            f"The interval reaches beyond the margin of {row.margin:g}, so equality is "
            "not shown either"
        )
    return f"{unproven}; and {OVERLAP_NOTE}."
