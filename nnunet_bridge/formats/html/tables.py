"""The tables of the comparison page, every cell ready to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from nnunet_bridge.core.comparison import (
    ALL_STRUCTURES,
    METRICS,
    Agreement,
    Comparison,
    Metric,
    PairedDifference,
)
from nnunet_bridge.formats.html import charts
from nnunet_bridge.formats.html.parts import interval, number
from nnunet_bridge.ops.paired import p_words


@dataclass(frozen=True, slots=True)
class TableRow:
    """One structure in a table of the page; every cell is ready to be read."""

    structure: str
    means: tuple[str, ...]
    """In the order of the columns' models."""

    difference: str = ""
    """Median over the cases."""

    mean_difference: str = ""
    interval: str = ""
    """Of the median."""

    mean_interval: str = ""
    p: str = ""
    p_holm: str = ""
    effect: str = ""
    answer: str = ""
    n: str = ""
    favours: str = ""
    """The model whose interval excludes 0 in the better direction; empty if none."""

    total: bool = False
    """Whether it is the row over all structures."""

    remark: str = ""
    plot: Markup | None = None


@dataclass(frozen=True, slots=True)
class MetricTable:
    """One metric of one pair of models (or of a model alone)."""

    metric: Metric
    models: tuple[str, ...]
    rows: tuple[TableRow, ...]
    margin: float | None = None
    """Size of a difference too small to matter; None where nobody named one."""

    @property
    def paired(self) -> bool:
        """Whether two models are compared."""
        return len(self.models) == 2  # noqa: PLR2004 - a pair

    @property
    def reading(self) -> str:
        """Return how to read the numbers, in one line."""
        ways = {
            "higher": "Higher is better.",
            "lower": "Lower is better.",
            "zero": "Prediction minus reference: best near zero, so a difference is a "
            "shift and ranks nobody.",
        }
        way = ways[self.metric.better]
        if not self.paired:
            return way
        reading = f"Difference = {self.models[1]} minus {self.models[0]}. {way}"
        if self.margin is None:
            return reading
        unit = f" {self.metric.unit}" if self.metric.unit else ""
        first, second = self.models
        margin = f"for a margin of {self.margin:g}{unit}"
        return f"{reading} Answer: {second} against {first}, {margin}."


@dataclass(frozen=True, slots=True)
class AgreementRow:
    """Bias and limits of one structure and model."""

    structure: str
    model: str
    n: str
    bias: str
    bias_interval: str
    limits: str
    lower_interval: str
    upper_interval: str
    plot: Markup | None


@dataclass(frozen=True, slots=True)
class RankRow:
    """One model's mean rank and first places on one metric."""

    metric: str
    cells: tuple[str, ...]
    """In the order of the models."""


def metric_tables(comparison: Comparison, *, plots: bool) -> tuple[MetricTable, ...]:
    """Return the tables of a comparison: metrics in order, one for each pair."""
    tables = []
    for metric in METRICS:
        rows = [row for row in comparison.rows if row.metric.key == metric.key]
        pairs = list(dict.fromkeys((row.first, row.second) for row in rows))
        for pair in pairs:
            chosen = [row for row in rows if (row.first, row.second) == pair]
            chosen.sort(key=lambda row: row.structure != ALL_STRUCTURES)
            with_plot = plots and pair == pairs[0]
            cells = tuple(
                _paired_row(row, _plot(row, rows, comparison) if with_plot else None)
                for row in chosen
            )
            tables.append(MetricTable(metric, pair, cells, chosen[0].margin))
        if not pairs:
            tables.append(_lone_table(metric, comparison))
    return tuple(tables)


def agreement_rows(comparison: Comparison) -> tuple[AgreementRow, ...]:
    """Return bias and limits of every structure and model, with their drawings.

    The drawings of one structure share their axes.
    """
    rows = []
    for structure in comparison.structures:
        own = [
            found
            for found in comparison.agreements
            if found.structure == structure and found.n
        ]
        rows += [
            _agreement_row(found, own, comparison.models.index(found.model))
            for found in own
        ]
    return tuple(rows)


def rank_rows(comparison: Comparison) -> tuple[RankRow, ...]:
    """Return the mean ranks, a row for each metric; none for fewer than three models.

    Of two models the table of differences says more.
    """
    if len(comparison.models) < 3:  # noqa: PLR2004 - two need no ranks
        return ()
    rows = []
    for metric in METRICS:
        own = [rank for rank in comparison.ranks if rank.metric == metric.key]
        cells = tuple(
            f"{number(rank.mean_rank, 2)} ({rank.firsts} of {rank.n} first)"
            for rank in own
        )
        rows.append(RankRow(metric.heading, cells))
    return tuple(rows)


def _agreement_row(
    found: Agreement, same_structure: Sequence[Agreement], place: int
) -> AgreementRow:
    return AgreementRow(
        structure=found.structure,
        model=found.model,
        n=str(found.n),
        bias=number(found.bias_cm3, 2, signed=True),
        bias_interval=interval(found.bias_interval_95, 2),
        limits=interval(found.limits_cm3, 2),
        lower_interval=interval(found.lower_limit_interval_95, 2),
        upper_interval=interval(found.upper_limit_interval_95, 2),
        plot=charts.agreement_plot(found, place, same_structure),
    )


def _paired_row(row: PairedDifference, plot: Markup | None) -> TableRow:
    digits = row.metric.decimals
    signed = row.metric.better == "zero"
    return TableRow(
        structure=row.structure,
        means=(
            number(_mean(row.first_values), digits, signed=signed),
            number(_mean(row.second_values), digits, signed=signed),
        ),
        difference=number(row.median_difference, digits, signed=True),
        mean_difference=number(row.mean_difference, digits, signed=True),
        interval=interval(row.interval_95, digits),
        mean_interval=interval(row.mean_interval_95, digits),
        p=_p(row.p),
        p_holm=_p(row.p_holm),
        effect=number(row.effect, 2, signed=True),
        answer=row.answer or "",
        n=str(row.n),
        favours=row.favours if _excludes_zero(row.interval_95) else "",
        total=row.structure == ALL_STRUCTURES,
        remark=_remark(row),
        plot=plot,
    )


def _lone_table(metric: Metric, comparison: Comparison) -> MetricTable:
    """Return the means alone, where there is no pair."""
    rows = []
    for structure in (ALL_STRUCTURES, *comparison.structures):
        means = [
            comparison.mean(model, structure, metric.key) for model in comparison.models
        ]
        rows.append(
            TableRow(
                structure=structure,
                means=tuple(number(mean.mean, metric.decimals) for mean in means),
                n=str(max((mean.n for mean in means), default=0)),
                total=structure == ALL_STRUCTURES,
            )
        )
    return MetricTable(metric, comparison.models, tuple(rows))


def _plot(
    row: PairedDifference, rows: Sequence[PairedDifference], comparison: Comparison
) -> Markup | None:
    same = [other for other in rows if other.structure == row.structure and other.n]
    if not same:
        return None
    return charts.estimation_plot(same, comparison.models, row.metric.decimals)


def _remark(row: PairedDifference) -> str:
    words = {
        "constant": "the same difference in every case: no interval",
        "identical": "no difference in any case",
        "one_patient": "cases of one patient: no interval, no test",
        "too_few": "one pair: no interval, no test",
        "absent": "no case with a value in both models",
    }.get(row.state, "")
    if row.left_out and row.n:
        missing = f"without {', '.join(row.left_out)}: no value in one model"
        words = f"{words}; {missing}" if words else missing
    return words


def _p(p: float | None) -> str:
    return "\u2013" if p is None else p_words(p).removeprefix("= ")


def _excludes_zero(ends: tuple[float, float] | None) -> bool:
    return ends is not None and (ends[0] > 0 or ends[1] < 0)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
