"""The tables of the comparison page; the template formats their numbers."""

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
    Setting,
)
from nnunet_bridge.formats.html import charts
from nnunet_bridge.formats.html.parts import number


@dataclass(frozen=True, slots=True)
class TableRow:
    """One structure in a table of one metric."""

    structure: str
    means: tuple[float | None, ...]  # in the order of the columns' models
    n: int  # number of cases
    difference: PairedDifference | None = None  # None in a table of one model
    plot: Markup | None = None

    @property
    def total(self) -> bool:
        """Whether it is the row over all structures."""
        return self.structure == ALL_STRUCTURES

    @property
    def favours(self) -> str:
        """The model that is better after the correction for all rows, if any."""
        return self.difference.winner if self.difference else ""

    @property
    def remark(self) -> str:
        """Why numbers are missing; empty if none are."""
        row = self.difference
        if row is None:
            return ""
        words = [_REMARKS.get(row.state, "")]
        if row.left_out and row.n:
            words.append(f"without {', '.join(row.left_out)}: no value in one model")
        pairs = zip((row.first, row.second), row.failures, strict=True)
        words += [
            f"{model} failed in {count} of {row.n}" for model, count in pairs if count
        ]
        if row.n_means < row.n:
            words.append(f"means over the other {row.n_means}")
        return "; ".join(filter(None, words))


_REMARKS = {
    "constant": "the same difference in every case: no interval",
    "identical": "no difference in any case",
    "one_patient": "cases of one patient: no interval, no test",
    "too_few": "one pair: no interval, no test",
    "absent": "no case with a value in both models",
}


@dataclass(frozen=True, slots=True)
class MetricTable:
    """One metric of one pair of models (or of a model alone)."""

    metric: Metric
    models: tuple[str, ...]
    rows: tuple[TableRow, ...]
    margin: float | None = None
    """Size of a difference too small to matter, if one was given."""

    @property
    def paired(self) -> bool:
        """Whether two models are compared."""
        return len(self.models) == 2  # noqa: PLR2004 - a pair

    @property
    def reading(self) -> str:
        """One line on how to read the numbers."""
        ways = {
            "higher": "Higher is better.",
            "lower": "Lower is better.",
            "zero": "Prediction minus reference: 0 is best. A difference is a shift, "
            "not a ranking.",
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
            cells = []
            for row in chosen:
                plot = _plot(row, rows, comparison) if with_plot else None
                cells.append(TableRow(row.structure, row.means, row.n, row, plot))
            tables.append(MetricTable(metric, pair, tuple(cells), chosen[0].margin))
        if not pairs:
            tables.append(_lone_table(metric, comparison))
    return tuple(tables)


def agreement_rows(comparison: Comparison) -> tuple[tuple[Agreement, Markup], ...]:
    """Return bias and limits of every structure and model, with their charts.

    The charts of one structure share their axes.
    """
    rows = []
    for structure in comparison.structures:
        agreements = comparison.agreements
        own = [one for one in agreements if one.structure == structure and one.n]
        for found in own:
            place = comparison.models.index(found.model)
            rows.append((found, charts.agreement_plot(found, place, own)))
    return tuple(rows)


def rank_rows(comparison: Comparison) -> tuple[Setting, ...]:
    """Return mean ranks and first places, a row for each metric.

    None for fewer than three models: the table of differences says more of two.
    """
    if len(comparison.models) < 3:  # noqa: PLR2004 - two need no ranks
        return ()
    rows = []
    for metric in METRICS:
        ranks = [rank for rank in comparison.ranks if rank.metric == metric.key]
        cells = (f"{number(r.mean_rank, 2)} ({r.firsts} of {r.n} first)" for r in ranks)
        rows.append(Setting(metric.heading, tuple(cells)))
    return tuple(rows)


def _lone_table(metric: Metric, comparison: Comparison) -> MetricTable:
    """Return the means alone, where there is no pair."""
    rows = []
    for structure in (ALL_STRUCTURES, *comparison.structures):
        models = comparison.models
        found = [comparison.mean(model, structure, metric.key) for model in models]
        most = max((mean.n for mean in found), default=0)
        rows.append(TableRow(structure, tuple(mean.mean for mean in found), most))
    return MetricTable(metric, comparison.models, tuple(rows))


def _plot(
    row: PairedDifference, rows: Sequence[PairedDifference], comparison: Comparison
) -> Markup | None:
    same = [other for other in rows if other.structure == row.structure and other.n]
    if not same:
        return None
    return charts.estimation_plot(same, comparison.models, row.metric.decimals)
