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

import numpy as np

from nnunet_bridge.core.comparison import (
    ALL_STRUCTURES,
    METRICS,
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
from nnunet_bridge.ops.paired import (
    FEWEST_FOR_AN_INTERVAL,
    SEED,
    SIGNIFICANT,
    TIE_DECIMALS,
    cluster_table,
    clustered_intervals,
    equivalence,
    holm,
    rank_biserial,
    signed_rank_p,
)


@dataclass(frozen=True, slots=True)
class _Scores:
    """The scores of all models on the cases that all of them have."""

    by_model: Mapping[str, Mapping[tuple[str, str], BoneScore]]
    """Model -> (case, structure) -> score."""

    case_ids: tuple[str, ...]
    structures: tuple[str, ...]  # in the order of their first appearance
    patients: Mapping[str, str]

    def value(
        self, model: str, case_id: str, structure: str, metric: Metric
    ) -> float | None:
        score = self.by_model[model].get((case_id, structure))
        if score is None or score.state is ScoreState.BOTH_EMPTY:
            return None
        value: float | None = getattr(score, metric.key)
        return value


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
    by_model = {model: _by_case(model, found) for model, found in scores.items()}
    case_ids, left_out = _common_cases(by_model)
    unknown = [case_id for case_id in case_ids if case_id not in patients]
    if unknown:
        raise InputError(
            f"The patients of {', '.join(unknown)} are unknown, so it is unknown which "
            "cases are independent. Give a patient for every case."
        )
    names = {structure: None for found in by_model.values() for _, structure in found}
    scored = _Scores(by_model, case_ids, tuple(names), patients)
    rows = [
        _row(_Pair(metric, structure, first, second), scored, seed)
        for first, second in combinations(scores, 2)
        for metric in METRICS
        for structure in (*names, ALL_STRUCTURES)
    ]
    return Comparison(
        models=tuple(scores),
        structures=scored.structures,
        case_ids=case_ids,
        left_out=left_out,
        patients=len({patients[case_id] for case_id in case_ids}),
        rows=_with_answers(_with_holm(rows), margins or {}),
        means=tuple(_means(scored)),
        misses=tuple(_misses(scored)),
        agreements=tuple(
            _agreement(model, structure, scored)
            for structure in names
            for model in scores
        ),
        ranks=tuple(_ranks(scored)),
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """The subject of one row of the comparison."""

    metric: Metric
    structure: str
    first: str
    second: str


def _row(pair: _Pair, scored: _Scores, seed: int) -> PairedDifference:
    """Return the paired differences of one metric and structure, not yet corrected."""
    case_ids = scored.case_ids
    values = {case_id: _paired_values(pair, scored, case_id) for case_id in case_ids}
    kept = {case_id: both for case_id, both in values.items() if both is not None}
    clusters = [scored.patients[case_id] for case_id in kept]
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
        state=RowState.ABSENT,
    )
    return _with_statistics(row, clusters, seed) if kept else row


def _with_statistics(
    row: PairedDifference, clusters: Sequence[str], seed: int
) -> PairedDifference:
    """Return the row with the statistics that its pairs allow."""
    differences = np.array(row.differences).round(TIE_DECIMALS)
    state = _row_state(differences, row.patients)
    row = replace(
        row,
        state=state,
        median_difference=float(np.median(differences)),
        mean_difference=float(np.mean(differences)),
    )
    if state in (RowState.TOO_FEW, RowState.ONE_PATIENT):
        return row
    per_patient = np.nanmean(cluster_table(differences, clusters), axis=1)
    row = replace(row, p=signed_rank_p(per_patient), effect=rank_biserial(per_patient))
    intervals = clustered_intervals(differences, clusters, seed=seed)
    if state is not RowState.COMPARED or intervals is None:
        return row
    return replace(row, interval_95=intervals.median, mean_interval_95=intervals.mean)


def _row_state(differences: FloatArray, patients: int) -> RowState:
    if len(differences) < 2:  # noqa: PLR2004 - one pair has no spread
        return RowState.TOO_FEW
    if not differences.any():
        return RowState.IDENTICAL
    if patients < 2:  # noqa: PLR2004 - one patient has no spread either
        return RowState.ONE_PATIENT
    same = np.ptp(differences) == 0
    return RowState.CONSTANT if same else RowState.COMPARED


def _paired_values(
    pair: _Pair, scored: _Scores, case_id: str
) -> tuple[float, float] | None:
    """Return the values of both models in one case; None if a model has no value.

    Over all structures: the mean over those that both models have in this case.
    """
    names = [pair.structure]
    if pair.structure == ALL_STRUCTURES:
        of_first = scored.by_model[pair.first]
        names = sorted({structure for case, structure in of_first if case == case_id})
    found = []
    for name in names:
        first = scored.value(pair.first, case_id, name, pair.metric)
        second = scored.value(pair.second, case_id, name, pair.metric)
        if first is not None and second is not None:
            found.append((first, second))
    if not found:
        return None
    first_mean, second_mean = np.mean(found, axis=0)
    return float(first_mean), float(second_mean)


def _by_case(
    model: str, scores: Sequence[BoneScore]
) -> dict[tuple[str, str], BoneScore]:
    counts = Counter((score.case_id, score.structure) for score in scores)
    twice = sorted({case_id for (case_id, _), count in counts.items() if count > 1})
    if twice:
        raise InputError(
            f"Model {model} has two scores for the same structure of "
            f"{', '.join(twice)}. A case belongs to the validation of one fold only."
        )
    return {(score.case_id, score.structure): score for score in scores}


def _common_cases(
    by_model: Mapping[str, Mapping[tuple[str, str], BoneScore]],
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return the cases of all models, and (case, model) for those of only some."""
    cases = {model: {case for case, _ in found} for model, found in by_model.items()}
    common = set.intersection(*cases.values()) if cases else set()
    left_out = [
        (case_id, model)
        for model, found in cases.items()
        for case_id in sorted(found - common)
    ]
    return tuple(sorted(common)), tuple(left_out)


def _with_holm(rows: Sequence[PairedDifference]) -> tuple[PairedDifference, ...]:
    tested = [row.p for row in rows if row.p is not None]
    corrected = iter(holm(tested))
    return tuple(
        row if row.p is None else replace(row, p_holm=next(corrected)) for row in rows
    )


def _means(scored: _Scores) -> Iterator[ModelMean]:
    for model, metric in product(scored.by_model, METRICS):
        per_case: dict[str, list[float]] = {case: [] for case in scored.case_ids}
        for structure in scored.structures:
            values = []
            for case_id in scored.case_ids:
                value = scored.value(model, case_id, structure, metric)
                if value is not None:
                    values.append(value)
                    per_case[case_id].append(value)
            yield _mean(model, structure, metric, values)
        overall = [float(np.mean(values)) for values in per_case.values() if values]
        yield _mean(model, ALL_STRUCTURES, metric, overall)


def _mean(
    model: str, structure: str, metric: Metric, values: Sequence[float]
) -> ModelMean:
    return ModelMean(model, structure, metric.key, mean_of(values), len(values))


def _misses(scored: _Scores) -> Iterator[Miss]:
    for model, structure in product(scored.by_model, scored.structures):
        found = scored.by_model[model]
        places = [(case_id, structure) for case_id in scored.case_ids]
        states = Counter(found[place].state for place in places if place in found)
        missed, invented = states[ScoreState.MISSED], states[ScoreState.INVENTED]
        if missed or invented:
            yield Miss(model, structure, missed, invented)


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
    """Return the second model against the first, by the margin and Holm's p."""
    found = equivalence(answering_interval(row), margins[row.metric.key])
    if found != "different" or row.metric.better is Better.ZERO:
        return Answer.EQUIVALENT if found == "equivalent" else Answer.UNDECIDED
    if row.p_holm is None or row.p_holm >= SIGNIFICANT:
        return Answer.UNDECIDED
    return Answer.BETTER if row.favours == row.second else Answer.WORSE


def answering_interval(row: PairedDifference) -> tuple[float, float] | None:
    """Return the interval that is compared with the margin.

    Equal differences have no spread and no interval; with enough patients their single
    value takes its place.
    """
    if row.interval_95 is None and row.state in (RowState.IDENTICAL, RowState.CONSTANT):
        same = row.median_difference
        if same is not None and row.patients >= FEWEST_FOR_AN_INTERVAL:
            return same, same
    return row.interval_95


def _agreement(model: str, structure: str, scored: _Scores) -> Agreement:
    """Return the agreement of the volumes of one structure with their references."""
    found = scored.by_model[model]
    places = [(case_id, structure) for case_id in scored.case_ids]
    known = [found[place] for place in places if place in found]
    scores = [one for one in known if one.state is not ScoreState.BOTH_EMPTY]
    differences = tuple(score.volume_error_cm3 for score in scores)
    of_patients = {scored.patients[score.case_id] for score in scores}
    agreement = Agreement(
        model=model,
        structure=structure,
        case_ids=tuple(score.case_id for score in scores),
        means_cm3=tuple(
            (score.volume_reference_mm3 + score.volume_prediction_mm3) / 2000.0
            for score in scores
        ),
        differences_cm3=differences,
        patients=len(of_patients),
        bias_cm3=mean_of(differences),
    )
    limits = limits_of_agreement(differences)
    if limits is None:
        return agreement
    agreement = replace(agreement, limits_cm3=limits.limits)
    if len(of_patients) < len(scores):
        return agreement
    return replace(
        agreement,
        bias_interval_95=limits.bias_interval_95,
        lower_limit_interval_95=limits.lower_interval_95,
        upper_limit_interval_95=limits.upper_interval_95,
    )


def _ranks(scored: _Scores) -> Iterator[ModelRank]:
    """Yield the mean rank of every model on every metric, over all structures."""
    from scipy.stats import rankdata

    for metric in METRICS:
        table = _case_table(scored, metric).round(TIE_DECIMALS)
        badness = {
            Better.HIGHER: -table,
            Better.LOWER: table,
            Better.ZERO: np.abs(table),
        }[metric.better]
        places = rankdata(badness, axis=1, method="average")
        first = rankdata(badness, axis=1, method="min") == 1
        for column, model in enumerate(scored.by_model):
            mean = float(places[:, column].mean()) if len(table) else None
            firsts = int(first[:, column].sum())
            yield ModelRank(model, metric.key, mean, firsts, len(table))


def _case_table(scored: _Scores, metric: Metric) -> FloatArray:
    """Return the (cases, models) means over the structures that all models have.

    Cases in which no structure has a value in every model are left out.
    """
    rows = []
    for case_id in scored.case_ids:
        by_structure = [
            [scored.value(model, case_id, name, metric) for model in scored.by_model]
            for name in scored.structures
        ]
        whole = [values for values in by_structure if None not in values]
        if whole:
            rows.append(np.mean(np.array(whole, dtype=np.float64), axis=0))
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(scored.by_model))
