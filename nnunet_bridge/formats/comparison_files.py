"""A comparison as JSON and as CSV: every number that the page shows.

The CSV is one table with a column `kind`, so that one file carries differences, means,
agreement, ranks, costs, scores, settings and curves; a column that a kind does not know
is empty. Differences come first, curves last.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

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

_LINES = ("train_loss", "val_loss", "pseudo_dice", "pseudo_iou")

_COLUMNS = (
    *("kind", "set", "metric", "structure", "first", "second", "case", "fold"),
    *("epoch", "value", "n", "patients", "state", "better", "mean_first"),
    *("mean_second", "median_difference", "interval_95_low", "interval_95_high"),
    *("mean_difference", "mean_interval_95_low", "mean_interval_95_high", "p"),
    *("p_holm", "effect", "favours", "margin", "answer", "left_out"),
    *("bias_interval_95_low", "bias_interval_95_high", "limits_low", "limits_high"),
    *("lower_limit_interval_95_low", "lower_limit_interval_95_high"),
    *("upper_limit_interval_95_low", "upper_limit_interval_95_high", "firsts"),
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a comparison rests on; the order of the models is the comparison's."""

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
        "left_out": [
            {"case": case_id, "only_in": model}
            for case_id, model in comparison.left_out
        ],
        "misses": [asdict(miss) for miss in comparison.misses],
        "means": [asdict(mean) for mean in comparison.means],
        "results": [_row_json(row) for row in comparison.rows],
        "agreement": [_agreement_json(found) for found in comparison.agreements],
        "ranks": [asdict(rank) for rank in comparison.ranks],
    }


def evidence_json(evidence: Evidence) -> JsonObject:
    """Return what the file holds beside the comparison: scores, costs, curves."""
    models = evidence.comparison.models
    return {
        "costs": [asdict(cost) for cost in evidence.costs],
        "settings": _settings_json(evidence.settings, models),
        "versions": _settings_json(evidence.versions, models),
        "scores": scores_json(evidence.scores),
        "test_scores": scores_json(evidence.test_scores or {}),
        "curves": [asdict(curve) for curve in evidence.curves],
    }


def comparison_csv(evidence: Evidence) -> str:
    """Return every number as one table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_rows(evidence))
    return text.getvalue()


def _rows(evidence: Evidence) -> Iterator[JsonObject]:
    sets = [("validation", evidence.comparison, evidence.scores)]
    if evidence.test is not None:
        sets.append(("test", evidence.test, evidence.test_scores or {}))
    for name, comparison, scores in sets:
        for row in _compared_rows(comparison):
            yield {"set": name, **row}
        for score in scores_json(scores):
            yield from ({"set": name, **row} for row in _score_rows(score))
    models = evidence.comparison.models
    yield from _cost_rows(evidence.costs)
    yield from _setting_rows("setting", evidence.settings, models)
    yield from _setting_rows("version", evidence.versions, models)
    for curve in evidence.curves:
        yield from _curve_rows(curve)


def _compared_rows(comparison: Comparison) -> Iterator[JsonObject]:
    """Return differences, means, agreement, ranks and misses."""
    for difference in comparison.rows:
        yield {"kind": "difference", **_flat(_row_json(difference))}
    for mean in comparison.means:
        found = _row("mean", mean.metric, mean.model, mean.mean)
        yield {**found, "structure": mean.structure, "n": mean.n}
    for agreement in comparison.agreements:
        yield from _agreement_rows(agreement)
    for rank in comparison.ranks:
        found = _row("rank", rank.metric, rank.model, rank.mean_rank)
        yield {
            **found,
            "structure": ALL_STRUCTURES,
            "n": rank.n,
            "firsts": rank.firsts,
        }
    for miss in comparison.misses:
        for word, count in (("missed", miss.missed), ("invented", miss.invented)):
            yield {**_row("miss", word, miss.model, count), "structure": miss.structure}


def _agreement_rows(agreement: Agreement) -> Iterator[JsonObject]:
    """Return bias and limits, then the mean volume that each case is drawn at."""
    flat = _flat(_agreement_json(agreement))
    known = {key: flat[key] for key in _COLUMNS if key in flat}
    metric, structure = "volume_error_cm3", agreement.structure
    summary = _row("agreement", metric, agreement.model, agreement.bias_cm3)
    yield {
        **summary,
        **known,
        "limits_low": flat["limits_cm3_low"],
        "limits_high": flat["limits_cm3_high"],
    }
    for case_id, mean in zip(agreement.case_ids, agreement.means_cm3, strict=True):
        row = _row("agreement point", "mean_volume_cm3", agreement.model, mean)
        yield {**row, "structure": structure, "case": case_id}


def _score_rows(score: JsonObject) -> Iterator[JsonObject]:
    for metric in METRICS:
        yield {
            **_row("score", metric.key, score["model"], score[metric.key]),
            "structure": score["structure"],
            "case": score["case"],
            "state": score["state"],
        }


def _cost_rows(costs: Iterable[ModelCost]) -> Iterator[JsonObject]:
    for cost in costs:
        for field in fields(cost):
            if field.name != "model":
                value = getattr(cost, field.name)
                yield _row("cost", field.name, cost.model, value)


def _setting_rows(
    kind: str, settings: Iterable[Setting], models: Sequence[str]
) -> Iterator[JsonObject]:
    for setting in settings:
        for model, value in zip(models, setting.values, strict=False):
            yield _row(kind, setting.name, model, value)


def _curve_rows(curve: Curve) -> Iterator[JsonObject]:
    for name in _LINES:
        for epoch, value in zip(curve.epochs, getattr(curve, name), strict=False):
            row = _row("curve", name, curve.model, value)
            yield {**row, "fold": curve.fold, "epoch": epoch}


def _row(kind: str, metric: str, model: str, value: object) -> JsonObject:
    shown = "" if value is None else value
    return {"kind": kind, "metric": metric, "first": model, "value": shown}


def _row_json(row: PairedDifference) -> JsonObject:
    return {
        "metric": row.metric.key,
        "structure": row.structure,
        "first": row.first,
        "second": row.second,
        "better": row.metric.better,
        "mean_first": _mean(row.first_values),
        "mean_second": _mean(row.second_values),
        "median_difference": row.median_difference,
        "interval_95": _ends(row.interval_95),
        "mean_difference": row.mean_difference,
        "mean_interval_95": _ends(row.mean_interval_95),
        "p": row.p,
        "p_holm": row.p_holm,
        "effect": row.effect,
        "n": row.n,
        "patients": row.patients,
        "state": row.state,
        "favours": row.favours or None,
        "margin": row.margin,
        "answer": row.answer or None,
        "left_out": list(row.left_out),
    }


def _agreement_json(found: Agreement) -> JsonObject:
    return {
        "model": found.model,
        "structure": found.structure,
        "n": found.n,
        "patients": found.patients,
        "bias_cm3": found.bias_cm3,
        "bias_interval_95": _ends(found.bias_interval_95),
        "limits_cm3": _ends(found.limits_cm3),
        "lower_limit_interval_95": _ends(found.lower_limit_interval_95),
        "upper_limit_interval_95": _ends(found.upper_limit_interval_95),
        "cases": list(found.case_ids),
        "means_cm3": list(found.means_cm3),
        "differences_cm3": list(found.differences_cm3),
    }


def _settings_json(settings: Iterable[Setting], models: Sequence[str]) -> JsonObject:
    return {
        setting.name: dict(zip(models, setting.values, strict=False))
        for setting in settings
    }


def _flat(row: JsonObject) -> JsonObject:
    """Return a row with one value a column."""
    flat: JsonObject = {}
    for key, value in row.items():
        if "interval" in key or "limits" in key:
            low, high = value or ("", "")
            flat |= {f"{key}_low": low, f"{key}_high": high}
        elif isinstance(value, list):
            flat[key] = " ".join(str(part) for part in value)
        else:
            flat[key] = "" if value is None else value
    return flat


def scores_json(scores: Mapping[str, Sequence[BoneScore]]) -> list[JsonObject]:
    """Return every score: model, case, structure, state and all metrics."""
    return [
        {
            "model": model,
            "case": score.case_id,
            "structure": score.structure,
            "state": score.state,
            **{metric.key: getattr(score, metric.key) for metric in METRICS},
            "volume_reference_mm3": score.volume_reference_mm3,
            "volume_prediction_mm3": score.volume_prediction_mm3,
        }
        for model, found in scores.items()
        for score in found
    ]


def _ends(ends: tuple[float, float] | None) -> list[float] | None:
    return list(ends) if ends else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
