"""Compare models on the same cases: differences, agreement and ranks.

Estimates are over cases; intervals resample patients with all their cases; tests use
one difference a patient (the mean of the patient's cases). With one case a patient this
is the usual paired analysis. `ops.paired` and `ops.agreement` define the statistics,
`ops.verdict` draws the conclusion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import TypeAlias

import numpy as np

from nnunet_bridge.core.comparison import (
    ALL_STRUCTURES,
    METRICS,
    SIGNIFICANT,
    Agreement,
    Comparison,
    Metric,
    Miss,
    ModelMean,
    ModelRank,
    PairedDifference,
)
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.words import Answer, Better, RowState, ScoreState
from nnunet_bridge.ops.agreement import limits_of_agreement
from nnunet_bridge.ops.means import mean_of
from nnunet_bridge.ops.outcomes import NOT_TRAINED, Outcomes, bounded, unbounded
from nnunet_bridge.ops.paired import (
    FEWEST_FOR_AN_INTERVAL,
    SEED,
    TIE_DECIMALS,
    cluster_table,
    clustered_intervals,
    detectable_difference,
    equivalence,
    fold_intervals,
    holm,
    rank_biserial,
    signed_rank_p,
)


def compare_models(
    scores: Mapping[str, Sequence[BoneScore]],
    *,
    patients: Mapping[str, str],
    margins: Mapping[str, float] | None = None,
    seed: int = SEED,
) -> Comparison:
    """Compare every pair of models on the cases that all of them were scored on.

    The first model of a pair comes first in `scores`; `patients` maps case ids to
    patients. `margins` are the largest differences that do not matter, by metric and in
    its unit: the rows of these metrics get an `answer`.

    Raises `InputError` if a model has two scores for one case and structure, or the
    patient of a case is unknown.
    """
    outcomes = Outcomes.of(scores)
    case_ids, names = outcomes.case_ids, outcomes.structures
    unknown = [case_id for case_id in case_ids if case_id not in patients]
    if unknown:
        raise InputError(
            f"The patients of {', '.join(unknown)} are unknown, so it is unknown which "
            "cases are independent. Give a patient for every case."
        )
    scored = _Study(outcomes, patients)
    rows = [
        _row(_Pair(metric, structure, first, second), scored, seed)
        for first, second in combinations(scores, 2)
        for metric in METRICS
        for structure in (*names, ALL_STRUCTURES)
    ]
    return Comparison(
        models=tuple(scores),
        structures=names,
        case_ids=case_ids,
        left_out=outcomes.left_out,
        patients=len({patients[case_id] for case_id in case_ids}),
        rows=_with_answers(_with_holm(rows), margins or {}),
        means=tuple(_means(outcomes)),
        misses=tuple(_misses(outcomes)),
        agreements=tuple(
            _agreement(model, structure, scored)
            for structure in names
            for model in scores
        ),
        ranks=tuple(_ranks(outcomes)),
    )


@dataclass(frozen=True, slots=True)
class _Study:
    """The scores that are compared, and the patient of every case."""

    outcomes: Outcomes
    patients: Mapping[str, str]

    def fold(self, pair: _Pair, case_id: str) -> str:
        """Return the fold that held out a case; empty unless both models agree.

        A model that was not trained agrees with every fold.
        """
        folds = self.outcomes.folds
        known = {folds[model][case_id] for model in (pair.first, pair.second)}
        known = known - {NOT_TRAINED} or known
        return known.pop() if len(known) == 1 else ""


@dataclass(frozen=True, slots=True)
class _Pair:
    """The subject of one row of the comparison."""

    metric: Metric
    structure: str
    first: str
    second: str


def _row(pair: _Pair, study: _Study, seed: int) -> PairedDifference:
    """Return the paired differences of one metric and structure, not yet corrected."""
    names = [pair.structure]
    if pair.structure == ALL_STRUCTURES:
        names = list(study.outcomes.structures)
    models = pair.first, pair.second
    kept = study.outcomes.table(pair.metric.key, models, names)
    clusters = [study.patients[case_id] for case_id in kept]
    values = np.array(list(kept.values())).reshape(-1, 2)
    # In how many of the cases a model misses or invents one of the structures.
    failed = {m: len(study.outcomes.failed_cases(m, names) & set(kept)) for m in models}
    row = PairedDifference(
        structure=pair.structure,
        metric=pair.metric,
        first=pair.first,
        second=pair.second,
        case_ids=tuple(kept),
        first_values=tuple(map(float, values[:, 0])),
        second_values=tuple(map(float, values[:, 1])),
        left_out=tuple(
            case_id
            for case_id in study.outcomes.case_ids
            if case_id not in kept
            and any((case_id, name) in study.outcomes.held for name in names)
        ),
        patients=len(set(clusters)),
        state=RowState.ABSENT,
        failures=(failed[pair.first], failed[pair.second]),
    )
    folds = [study.fold(pair, case_id) for case_id in kept]
    return _with_statistics(row, clusters, folds, seed) if kept else row


def _with_statistics(
    row: PairedDifference, clusters: Sequence[str], folds: Sequence[str], seed: int
) -> PairedDifference:
    """Return the row with the statistics that its pairs allow."""
    differences = bounded(row.differences).round(TIE_DECIMALS)
    whole = row.n_means == row.n
    state = _row_state(differences, row.patients)
    row = replace(
        row,
        state=state,
        median_difference=unbounded(float(np.median(differences))),
        mean_difference=float(np.mean(differences)) if whole else None,
    )
    if state in (RowState.TOO_FEW, RowState.ONE_PATIENT):
        return row
    per_patient = np.nanmean(cluster_table(differences, clusters), axis=1)
    row = replace(row, p=signed_rank_p(per_patient), effect=rank_biserial(per_patient))
    intervals = clustered_intervals(row.differences, clusters, seed=seed)
    if state is not RowState.COMPARED or intervals is None:
        return row
    by_fold = fold_intervals(differences, folds) if whole else None
    return replace(
        row,
        interval_95=intervals.median,
        mean_interval_95=intervals.mean if whole else None,
        folds=by_fold.folds if by_fold else 0,
        fold_interval_95=by_fold.plain if by_fold else None,
        fold_interval_95_corrected=by_fold.corrected if by_fold else None,
        detectable_difference=detectable_difference(per_patient) if whole else None,
    )


def _row_state(differences: FloatArray, patients: int) -> RowState:
    if len(differences) < 2:  # noqa: PLR2004 - one pair has no spread
        return RowState.TOO_FEW
    if not differences.any():
        return RowState.IDENTICAL
    if patients < 2:  # noqa: PLR2004 - one patient has no spread either
        return RowState.ONE_PATIENT
    same = np.ptp(differences) == 0
    return RowState.CONSTANT if same else RowState.COMPARED


def _with_holm(rows: Sequence[PairedDifference]) -> tuple[PairedDifference, ...]:
    tested = [row.p for row in rows if row.p is not None]
    corrected = iter(holm(tested))
    return tuple(
        row if row.p is None else replace(row, p_holm=next(corrected)) for row in rows
    )


def _means(outcomes: Outcomes) -> Iterator[ModelMean]:
    """Yield the mean of every model, over the same cases for all that have scores."""
    models = list(outcomes.by_model)
    for metric, structure in product(METRICS, (*outcomes.structures, ALL_STRUCTURES)):
        every = structure == ALL_STRUCTURES
        names = outcomes.structures if every else (structure,)
        table = outcomes.table(metric.key, models, names)
        rows = [row for row in table.values() if np.isfinite(row).all()]
        for column, model in enumerate(models):
            values = [float(row[column]) for row in rows]
            failed = len(outcomes.failed_cases(model, names))
            mean = mean_of(values)
            yield ModelMean(model, structure, metric.key, mean, len(values), failed)


def _misses(outcomes: Outcomes) -> Iterator[Miss]:
    for model, structure in product(outcomes.by_model, outcomes.structures):
        found = {one.case_id: one for one in outcomes.scores(model, structure)}
        states = Counter(
            one.state for one in outcomes.scores(model, structure) if one.state.failed
        )
        missed, invented = states[ScoreState.MISSED], states[ScoreState.INVENTED]
        if missed or invented:
            yield Miss(model, structure, missed, invented, len(found))


def _with_answers(
    rows: Sequence[PairedDifference], margins: Mapping[str, float]
) -> tuple[PairedDifference, ...]:
    """Return the rows, with an answer for every metric with a margin."""
    return tuple(
        replace(row, margin=margins[row.metric.key], answer=_answer(row, margins))
        if row.metric.key in margins
        else row
        for row in rows
    )


def _answer(row: PairedDifference, margins: Mapping[str, float]) -> Answer:
    """Return the second model against the first, by the margin and Holm's p.

    Equivalent: the intervals of the median and of the mean lie within the margin, both
    models fail in as many cases, and no distance is a failure.
    """
    median, mean = _answering_intervals(row)
    margin = margins[row.metric.key]
    answers = {equivalence(ends, margin) for ends in (median, mean)}
    if answers == {"equivalent"} and row.failures[0] == row.failures[1]:
        return Answer.EQUIVALENT
    different = equivalence(median, margin) == "different"
    p = row.p_holm
    if not different or p is None or p >= SIGNIFICANT or not row.holds_for_trainings:
        return Answer.UNDECIDED
    if not row.favours:
        return Answer.UNDECIDED
    return Answer.BETTER if row.favours == row.second else Answer.WORSE


_Ends: TypeAlias = tuple[float, float] | None


def _answering_intervals(row: PairedDifference) -> tuple[_Ends, _Ends]:
    """Return the intervals of median and mean that are compared with the margin.

    Equal differences have no spread and no interval; with enough patients their single
    value takes its place.
    """
    if row.interval_95 is None and row.state in (RowState.IDENTICAL, RowState.CONSTANT):
        same = row.median_difference
        if same is not None and row.patients >= FEWEST_FOR_AN_INTERVAL:
            ends = (same, same)
            return ends, ends if row.n_means == row.n else None
    return row.interval_95, row.mean_interval_95


def _agreement(model: str, structure: str, study: _Study) -> Agreement:
    """Return the agreement of the volumes of one structure with their references.

    Over the cases that count for any model: what one invents and another leaves empty
    is an error of 0. Of several trainings of a fold, only the first.
    """
    errors = {
        one.case_id: (error, (one.volume_reference_mm3 or 0.0) / 1000.0 + error / 2)
        for one in study.outcomes.scores(model, structure)
        if not one.repeat and (error := one.volume_error_cm3) is not None
    }
    differences = tuple(error for error, _ in errors.values())
    of_patients = {study.patients[case_id] for case_id in errors}
    agreement = Agreement(
        model=model,
        structure=structure,
        case_ids=tuple(errors),
        means_cm3=tuple(mean for _, mean in errors.values()),
        differences_cm3=differences,
        patients=len(of_patients),
        bias_cm3=mean_of(differences),
    )
    limits = limits_of_agreement(differences)
    if limits is None:
        return agreement
    agreement = replace(agreement, limits_cm3=limits.limits)
    if len(of_patients) < len(errors):
        return agreement
    return replace(
        agreement,
        bias_interval_95=limits.bias_interval_95,
        lower_limit_interval_95=limits.lower_interval_95,
        upper_limit_interval_95=limits.upper_interval_95,
    )


def _ranks(outcomes: Outcomes) -> Iterator[ModelRank]:
    """Yield the mean rank of every model on every metric, over all structures."""
    from scipy.stats import rankdata

    models = list(outcomes.by_model)
    for metric in METRICS:
        values = outcomes.table(metric.key, models, outcomes.structures).values()
        table = np.array(list(values), dtype=np.float64).round(TIE_DECIMALS)
        table = table.reshape(len(values), len(models))
        badness = {
            Better.HIGHER: -table,
            Better.LOWER: table,
            Better.ZERO: np.abs(table),
        }[metric.better]
        places = rankdata(badness, axis=1, method="average")
        first = rankdata(badness, axis=1, method="min") == 1
        for column, model in enumerate(models):
            mean = float(places[:, column].mean()) if len(table) else None
            firsts = int(first[:, column].sum())
            yield ModelRank(model, metric.key, mean, firsts, len(table))
