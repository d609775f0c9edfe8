"""Is one model better than another on the same cases, and what n cannot show.

Estimates are over cases; intervals resample patients with all their cases; tests use
one difference a patient (the mean of the patient's cases). With one case a patient this
is the usual paired analysis. `ops.paired` names the statistics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from nnunet_bridge.core.comparison import (
    ALL_STRUCTURES,
    METRICS,
    Comparison,
    Metric,
    Miss,
    ModelMean,
    PairedDifference,
    Verdict,
)
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.ops.paired import (
    SEED,
    TIE_DECIMALS,
    cluster_table,
    clustered_intervals,
    holm,
    p_words,
    rank_biserial,
    signed_rank_p,
    smallest_p,
)

SIGNIFICANT = 0.05
OVERLAP_NOTE = (
    "cross-validation models share most of their training cases, so the interval is "
    "somewhat narrower than that of independent trainings"
)

_Scored = Mapping[tuple[str, str], BoneScore]
"""(case, structure) -> score of one model."""


def compare_models(
    scores: Mapping[str, Sequence[BoneScore]],
    *,
    patients: Mapping[str, str],
    seed: int = SEED,
) -> Comparison:
    """Compare every pair of models on the cases that all of them were scored on.

    Parameters
    ----------
    scores : mapping
        Model name -> its scores, one for each case and structure. The order of the
        models decides who is "first".
    patients : mapping
        Case id -> patient, for every case.
    seed : int
        Of the bootstrap; the same seed gives the same intervals.

    Raises
    ------
    InputError
        If a model has two scores for one case and structure, or the patient of a case
        is not known.
    """
    scored = {model: _by_case(model, found) for model, found in scores.items()}
    case_ids, left_out = _common_cases(scored)
    _check_patients(case_ids, patients)
    structures = _structures(scored)
    rows = [
        _row(_Pair(metric, structure, first, second), scored, case_ids, patients, seed)
        for first, second in combinations(scores, 2)
        for metric in METRICS
        for structure in (*structures, ALL_STRUCTURES)
    ]
    return Comparison(
        models=tuple(scores),
        structures=structures,
        case_ids=case_ids,
        left_out=left_out,
        patients=len({patients[case_id] for case_id in case_ids}),
        rows=_with_holm(rows),
        means=_means(scored, case_ids, structures),
        misses=_misses(scored, case_ids, structures),
    )


def verdict(comparison: Comparison, *, caveat: str = "") -> Verdict:
    """Return which model is better on Dice over all structures, or why nobody knows.

    A model wins only if the 95 % interval of the median difference excludes 0 and
    Wilcoxon's p (Holm-corrected over the pairs of models) is below 0.05. With more
    than two models, the two with the highest mean Dice are weighed against each other.

    Parameters
    ----------
    comparison : Comparison
        What was measured.
    caveat : str
        Why this cannot be a result, such as "a smoke run proves the chain, not a
        result"; then no winner is named.
    """
    if len(comparison.models) < 2:  # noqa: PLR2004 - a comparison has two sides
        only = "".join(comparison.models) or "no model"
        return Verdict(
            "",
            (
                f"Nothing to compare: {only} was scored alone.",
                "Train a second configuration on the same folds to compare them.",
            ),
        )
    row, p = _leading_row(comparison)
    if row.median_difference is None:
        return Verdict(
            "",
            (
                f"Undecided: {row.first} and {row.second} share no case with a Dice.",
                "Score both models on the same cases.",
            ),
        )
    measured = _measured(row, p)
    if caveat:
        return Verdict(
            "",
            (f"No verdict: {caveat}.", f"For the record: {measured}."),
        )
    winner = _winner(row, p)
    if winner:
        loser = row.first if winner == row.second else row.second
        opening = f"{winner} is better than {loser} on Dice: {measured}."
    else:
        opening = f"Undecided between {row.first} and {row.second} on Dice: {measured}."
    return Verdict(winner, (opening, _limits(row, decided=bool(winner))))


@dataclass(frozen=True, slots=True)
class _Pair:
    """What one row of the comparison is about."""

    metric: Metric
    structure: str
    first: str
    second: str


def _row(
    pair: _Pair,
    scored: Mapping[str, _Scored],
    case_ids: Sequence[str],
    patients: Mapping[str, str],
    seed: int,
) -> PairedDifference:
    """Return the paired differences of one metric and structure, not yet corrected."""
    values = {case_id: _paired_values(pair, scored, case_id) for case_id in case_ids}
    kept = {case_id: both for case_id, both in values.items() if both is not None}
    clusters = [patients[case_id] for case_id in kept]
    row = PairedDifference(
        structure=pair.structure,
        metric=pair.metric,
        first=pair.first,
        second=pair.second,
        case_ids=tuple(kept),
        first_values=tuple(first for first, _ in kept.values()),
        second_values=tuple(second for _, second in kept.values()),
        left_out=tuple(case_id for case_id in case_ids if case_id not in kept),
        patients=len(set(clusters)),
        state="absent",
    )
    return _with_statistics(row, clusters, seed) if kept else row


def _with_statistics(
    row: PairedDifference, clusters: Sequence[str], seed: int
) -> PairedDifference:
    """Return the row with all that its number of pairs allows to say."""
    differences = np.array(row.differences).round(TIE_DECIMALS)
    state = _row_state(differences, row.patients)
    row = replace(
        row,
        state=state,
        median_difference=float(np.median(differences)),
        mean_difference=float(np.mean(differences)),
    )
    if state in ("too_few", "one_patient"):
        return row
    per_patient = np.nanmean(cluster_table(differences, clusters), axis=1)
    row = replace(row, p=signed_rank_p(per_patient), effect=rank_biserial(per_patient))
    intervals = clustered_intervals(differences, clusters, seed=seed)
    if state != "compared" or intervals is None:
        return row
    return replace(row, interval_95=intervals.median, mean_interval_95=intervals.mean)


def _row_state(differences: FloatArray, patients: int) -> str:
    if len(differences) < 2:  # noqa: PLR2004 - one pair has no spread
        return "too_few"
    if not differences.any():
        return "identical"
    if patients < 2:  # noqa: PLR2004 - likewise
        return "one_patient"
    return "constant" if np.ptp(differences) == 0 else "compared"


def _paired_values(
    pair: _Pair, scored: Mapping[str, _Scored], case_id: str
) -> tuple[float, float] | None:
    """Return the values of both models in one case; None where one has none.

    Over all structures: the mean of those that both models have in this case.
    """
    names = sorted(
        {structure for case, structure in scored[pair.first] if case == case_id}
    )
    if pair.structure != ALL_STRUCTURES:
        names = [pair.structure]
    found = []
    for name in names:
        first = _value(scored[pair.first], case_id, name, pair.metric)
        second = _value(scored[pair.second], case_id, name, pair.metric)
        if first is not None and second is not None:
            found.append((first, second))
    if not found:
        return None
    first_mean, second_mean = np.mean(found, axis=0)
    return float(first_mean), float(second_mean)


def _value(
    scored: _Scored, case_id: str, structure: str, metric: Metric
) -> float | None:
    score = scored.get((case_id, structure))
    if score is None or score.state == "both_empty":
        return None
    value: float | None = getattr(score, metric.key)
    return value


def _by_case(model: str, scores: Sequence[BoneScore]) -> _Scored:
    counts = Counter((score.case_id, score.structure) for score in scores)
    twice = sorted({case_id for (case_id, _), count in counts.items() if count > 1})
    if twice:
        raise InputError(
            f"Model {model} has two scores for the same structure of "
            f"{', '.join(twice)}: a case belongs to the validation of one fold only."
        )
    return {(score.case_id, score.structure): score for score in scores}


def _common_cases(
    scored: Mapping[str, _Scored],
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return the cases of all models, and (case, model) for those of only some."""
    cases = {
        model: {case_id for case_id, _ in found} for model, found in scored.items()
    }
    common = set.intersection(*cases.values()) if cases else set()
    left_out = [
        (case_id, model)
        for model, found in cases.items()
        for case_id in sorted(found - common)
    ]
    return tuple(sorted(common)), tuple(left_out)


def _check_patients(case_ids: Sequence[str], patients: Mapping[str, str]) -> None:
    unknown = [case_id for case_id in case_ids if case_id not in patients]
    if unknown:
        raise InputError(
            f"The patients of {', '.join(unknown)} are not known, so it is not known "
            "which cases are independent: name one for every case."
        )


def _structures(scored: Mapping[str, _Scored]) -> tuple[str, ...]:
    """Return the structures in the order in which the scores first name them."""
    names = {structure: None for found in scored.values() for _, structure in found}
    return tuple(names)


def _with_holm(rows: Sequence[PairedDifference]) -> tuple[PairedDifference, ...]:
    tested = [row.p for row in rows if row.p is not None]
    corrected = iter(holm(tested))
    return tuple(
        row if row.p is None else replace(row, p_holm=next(corrected)) for row in rows
    )


def _means(
    scored: Mapping[str, _Scored], case_ids: Sequence[str], structures: Sequence[str]
) -> tuple[ModelMean, ...]:
    means = []
    for model, found in scored.items():
        for metric in METRICS:
            per_case: dict[str, list[float]] = {case_id: [] for case_id in case_ids}
            for structure in structures:
                values = []
                for case_id in case_ids:
                    value = _value(found, case_id, structure, metric)
                    if value is not None:
                        values.append(value)
                        per_case[case_id].append(value)
                means.append(_mean(model, structure, metric, values))
            overall = [float(np.mean(values)) for values in per_case.values() if values]
            means.append(_mean(model, ALL_STRUCTURES, metric, overall))
    return tuple(means)


def _mean(
    model: str, structure: str, metric: Metric, values: Sequence[float]
) -> ModelMean:
    mean = float(np.mean(values)) if values else None
    return ModelMean(model, structure, metric.key, mean, len(values))


def _misses(
    scored: Mapping[str, _Scored], case_ids: Sequence[str], structures: Sequence[str]
) -> tuple[Miss, ...]:
    misses = []
    for model, found in scored.items():
        for structure in structures:
            states = Counter(
                found[case_id, structure].state
                for case_id in case_ids
                if (case_id, structure) in found
            )
            if states["missed"] or states["invented"]:
                misses.append(
                    Miss(model, structure, states["missed"], states["invented"])
                )
    return tuple(misses)


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
    """Say the numbers: difference, interval, p, n."""
    uncertainty = []
    if row.interval_95 is not None:
        low, high = row.interval_95
        uncertainty.append(f"95 % interval {low:+z.3f} to {high:+z.3f}")
    if p is not None:
        uncertainty.append(f"Wilcoxon p {p_words(p)}")
    in_brackets = f" ({', '.join(uncertainty)})" if uncertainty else ""
    return (
        f"the median difference ({row.second} minus {row.first}) is "
        f"{row.median_difference:+z.3f}{in_brackets}, over {_number(row.n, 'case')} of "
        f"{_number(row.patients, 'patient')}"
    )


def _limits(row: PairedDifference, *, decided: bool) -> str:
    """Say what these cases cannot show."""
    least = smallest_p(row.patients)
    if row.patients < 2:  # noqa: PLR2004 - one patient has no spread
        return "One patient shows no spread: no interval and no test exist."
    if least >= SIGNIFICANT:
        return (
            f"With {row.patients} patients no two-sided p below {least:g} exists, so "
            "no difference, however large, could be called significant: add patients."
        )
    if row.state == "identical":
        return "Both models gave the same Dice in every case."
    if row.state == "constant":
        return "The difference is the same in every case, so no interval exists."
    if decided:
        return f"Read it with care: {OVERLAP_NOTE}."
    return (
        "That is not proof of equality: a difference within the interval may exist; "
        f"and {OVERLAP_NOTE}."
    )


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
