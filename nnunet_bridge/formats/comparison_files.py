"""A comparison as JSON and as CSV: every number that the page shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from nnunet_bridge.core.comparison import METRICS, Comparison, PairedDifference
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject


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
    }


def comparison_csv(comparison: Comparison) -> str:
    """Return one line a metric, structure and pair of models."""
    rows = [_flat(_row_json(row)) for row in comparison.rows]
    if not rows:
        rows = [asdict(mean) for mean in comparison.means]
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


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
        "interval_95": list(row.interval_95) if row.interval_95 else None,
        "mean_difference": row.mean_difference,
        "mean_interval_95": (
            list(row.mean_interval_95) if row.mean_interval_95 else None
        ),
        "p": row.p,
        "p_holm": row.p_holm,
        "effect": row.effect,
        "n": row.n,
        "patients": row.patients,
        "state": row.state,
        "favours": row.favours or None,
        "left_out": list(row.left_out),
    }


def _flat(row: JsonObject) -> JsonObject:
    """Return a row with one value a column."""
    flat: JsonObject = {}
    for key, value in row.items():
        if "interval" in key:
            low, high = value or ("", "")
            flat |= {f"{key}_low": low, f"{key}_high": high}
        elif isinstance(value, list):
            flat[key] = " ".join(value)
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
        }
        for model, found in scores.items()
        for score in found
    ]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
