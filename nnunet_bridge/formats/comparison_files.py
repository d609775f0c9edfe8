"""A comparison as JSON and as CSV: every number that the page shows.

The CSV is one table with a column `kind` for differences, means, agreement, ranks,
costs, scores, settings and curves; columns that a kind does not have are empty.
Differences come first, curves last.
"""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from nnunet_bridge.core.comparison import (
    ALL_STRUCTURES,
    METRICS,
    Agreement,
    Comparison,
    ModelCost,
    PairedDifference,
    Setting,
)
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.events import Curve
from nnunet_bridge.formats.tables import guarded_row

_CURVES = ("train_loss", "val_loss", "pseudo_dice", "pseudo_iou")

_STATISTICS = (
    *("median_difference", "interval_95", "mean_difference", "mean_interval_95"),
    *("p", "p_holm", "effect", "n", "patients", "state", "margin"),
    *("n_means", "folds", "fold_interval_95", "fold_interval_95_corrected"),
    "detectable_difference",
)
"""Fields of a difference that keep their name in JSON and CSV."""

_COLUMNS = (
    *("kind", "set", "metric", "structure", "first", "second", "case", "fold"),
    *("epoch", "value", "n", "patients", "state", "better", "mean_first"),
    *("mean_second", "median_difference", "interval_95_low", "interval_95_high"),
    *("mean_difference", "mean_interval_95_low", "mean_interval_95_high", "p"),
    *("p_holm", "effect", "favours", "margin", "answer", "left_out"),
    *("bias_interval_95_low", "bias_interval_95_high", "limits_low", "limits_high"),
    *("lower_limit_interval_95_low", "lower_limit_interval_95_high"),
    *("upper_limit_interval_95_low", "upper_limit_interval_95_high", "firsts"),
    *("n_means", "folds", "fold_interval_95_low", "fold_interval_95_high"),
    *("fold_interval_95_corrected_low", "fold_interval_95_corrected_high"),
    *("detectable_difference", "failures_first", "failures_second", "winner"),
    *("n_failed", "repeat"),
)

_PLACE = ("structure", "case", "state", "fold", "repeat")


@dataclass(frozen=True, slots=True)
class Evidence:
    """A comparison and its data; the order of the models is the comparison's."""

    comparison: Comparison
    scores: Mapping[str, Sequence[BoneScore]]
    test: Comparison | None = None
    test_scores: Mapping[str, Sequence[BoneScore]] | None = None
    costs: tuple[ModelCost, ...] = ()
    settings: tuple[Setting, ...] = ()
    versions: tuple[Setting, ...] = ()
    curves: tuple[Curve, ...] = ()


def comparison_json(comparison: Comparison) -> JsonObject:
    """Return a comparison as JSON; ``results`` has one object a row."""
    return {
        "models": list(comparison.models),
        "structures": list(comparison.structures),
        "cases": list(comparison.case_ids),
        "patients": comparison.patients,
        "left_out": [{"case": c, "only_in": m} for c, m in comparison.left_out],
        "misses": [asdict(miss) for miss in comparison.misses],
        "failures": [asdict(miss) for miss in comparison.misses],
        "means": [asdict(mean) for mean in comparison.means],
        "results": [_row_json(row) for row in comparison.rows],
        "agreement": [_agreement_json(found) for found in comparison.agreements],
        "ranks": [asdict(rank) for rank in comparison.ranks],
    }


def _row_json(row: PairedDifference) -> JsonObject:
    return {
        "metric": row.metric.key,
        "structure": row.structure,
        "first": row.first,
        "second": row.second,
        "better": row.metric.better,
        "mean_first": row.means[0],
        "mean_second": row.means[1],
        **{name: _finite(getattr(row, name)) for name in _STATISTICS},
        "failures_first": row.failures[0],
        "failures_second": row.failures[1],
        "favours": row.favours or None,
        "winner": row.winner or None,
        "answer": row.answer or None,
        "left_out": list(row.left_out),
    }


def _finite(value: object) -> object:
    """Return a value for JSON; null for an infinite one, or such an end."""
    if isinstance(value, tuple):
        return [_finite(end) for end in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def _agreement_json(found: Agreement) -> JsonObject:
    fields_of = asdict(found)
    return {"n": found.n, "cases": fields_of.pop("case_ids"), **fields_of}


def evidence_json(evidence: Evidence) -> JsonObject:
    """Return the data of a comparison as JSON: scores, costs, settings, curves."""
    models = evidence.comparison.models
    return {
        "costs": [asdict(cost) for cost in evidence.costs],
        "settings": _settings_json(evidence.settings, models),
        "versions": _settings_json(evidence.versions, models),
        "scores": _scores_json(evidence.scores),
        "test_scores": _scores_json(evidence.test_scores or {}),
        "curves": [asdict(curve) for curve in evidence.curves],
    }


def _settings_json(settings: Iterable[Setting], models: Sequence[str]) -> JsonObject:
    return {one.name: dict(zip(models, one.values, strict=False)) for one in settings}


def _scores_json(scores: Mapping[str, Sequence[BoneScore]]) -> list[JsonObject]:
    return [
        {
            "model": model,
            "case": score.case_id,
            "structure": score.structure,
            "state": score.state,
            "fold": score.fold,
            "repeat": score.repeat,
            **{metric.key: getattr(score, metric.key) for metric in METRICS},
            "volume_reference_mm3": score.volume_reference_mm3,
            "volume_prediction_mm3": score.volume_prediction_mm3,
        }
        for model, found in scores.items()
        for score in found
    ]


def comparison_csv(evidence: Evidence) -> str:
    """Return every number as one table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(guarded_row, _rows(evidence)))
    return text.getvalue()


def _rows(evidence: Evidence) -> Iterator[JsonObject]:
    sets = [("validation", evidence.comparison, evidence.scores)]
    if evidence.test is not None:
        sets.append(("test", evidence.test, evidence.test_scores or {}))
    for name, comparison, scores in sets:
        for row in (*_compared_rows(comparison), *_score_rows(scores)):
            yield {"set": name, **row}
    for cost in evidence.costs:
        for name, value in asdict(cost).items():
            if name != "model":
                yield _row("cost", name, cost.model, value)
    yield from _setting_rows("setting", evidence.settings, evidence.comparison.models)
    yield from _setting_rows("version", evidence.versions, evidence.comparison.models)
    for curve in evidence.curves:
        yield from _curve_rows(curve)


def _setting_rows(
    kind: str, settings: Iterable[Setting], models: Sequence[str]
) -> Iterator[JsonObject]:
    for setting in settings:
        for model, value in zip(models, setting.values, strict=False):
            yield _row(kind, setting.name, model, value)


def _curve_rows(curve: Curve) -> Iterator[JsonObject]:
    for name in _CURVES:
        for epoch, value in zip(curve.epochs, getattr(curve, name), strict=False):
            place = {"fold": curve.fold, "epoch": epoch}
            yield _row("curve", name, curve.model, value, **place)


def _compared_rows(comparison: Comparison) -> Iterator[JsonObject]:
    """Return differences, means, agreement, ranks and misses."""
    for difference in comparison.rows:
        yield {"kind": "difference", **_flat(_row_json(difference))}
    for mean in comparison.means:
        place = {"structure": mean.structure, "n": mean.n, "n_failed": mean.n_failed}
        yield _row("mean", mean.metric, mean.model, mean.mean, **place)
    for agreement in comparison.agreements:
        yield from _agreement_rows(agreement)
    for rank in comparison.ranks:
        place = {"structure": ALL_STRUCTURES, "n": rank.n, "firsts": rank.firsts}
        yield _row("rank", rank.metric, rank.model, rank.mean_rank, **place)
    for miss in comparison.misses:
        for word, count in (("missed", miss.missed), ("invented", miss.invented)):
            place = {"structure": miss.structure, "n": miss.n}
            yield _row("miss", word, miss.model, count, **place)


def _agreement_rows(found: Agreement) -> Iterator[JsonObject]:
    """Return bias and limits, then the mean volume that each case is drawn at."""
    flat = _flat({**_agreement_json(found), "limits": found.limits_cm3})
    known = {key: flat[key] for key in _COLUMNS if key in flat}
    yield _row("agreement", "volume_error_cm3", found.model, found.bias_cm3, **known)
    for case_id, mean in zip(found.case_ids, found.means_cm3, strict=True):
        place = {"structure": found.structure, "case": case_id}
        yield _row("agreement point", "mean_volume_cm3", found.model, mean, **place)


def _score_rows(scores: Mapping[str, Sequence[BoneScore]]) -> Iterator[JsonObject]:
    for score in _scores_json(scores):
        place = {key: score[key] for key in _PLACE}
        for metric in METRICS:
            yield _row("score", metric.key, score["model"], score[metric.key], **place)


def _row(
    kind: str, metric: str, model: str, value: object, **others: object
) -> JsonObject:
    shown = "" if value is None else value
    return {"kind": kind, "metric": metric, "first": model, "value": shown, **others}


def _flat(row: JsonObject) -> JsonObject:
    """Return a row with one value a column: both ends of an interval by themselves."""
    flat: JsonObject = {}
    for key, value in row.items():
        if "interval" in key or "limits" in key:
            low, high = value or ("", "")
            for end, limit in (("low", low), ("high", high)):
                flat[f"{key}_{end}"] = "" if limit is None else limit
        elif isinstance(value, list):
            flat[key] = " ".join(str(part) for part in value)
        else:
            flat[key] = "" if value is None else value
    return flat
