"""`index.html`: the comparison as one file that needs nothing else.

The page's Content-Security-Policy forbids the browser to fetch anything, so that
"offline" is not a promise but a rule. The script that draws meshes comes from the
installed plotly package; it stands in the page once, as text, and runs only when the
reader opens the meshes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from nnunet_bridge.core.comparison import (
    ALL_STRUCTURES,
    METRICS,
    Comparison,
    Metric,
    PairedDifference,
)
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.version import __version__
from nnunet_bridge.formats.files import write_text
from nnunet_bridge.formats.html import charts
from nnunet_bridge.formats.html.content import CaseView, PageContent
from nnunet_bridge.formats.html.meshes import packed_mesh
from nnunet_bridge.ops.paired import p_words

MAX_BYTES = 15_000_000
"""The page stays below this, so that it can be sent by mail."""

_MESH_FACES = (6000, 3000, 1500, 700)
"""Faces a structure, tried in turn until the page is small enough."""


def write_page(file: Path, content: PageContent) -> int:
    """Write the page, whole or not at all; return its size in bytes."""
    for max_faces in _MESH_FACES:
        page = page_text(content, max_faces=max_faces)
        size = len(page.encode())
        if size <= MAX_BYTES:
            break
    write_text(file, page)
    return size


def page_text(content: PageContent, *, max_faces: int = _MESH_FACES[0]) -> str:
    """Return the page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nnunet_bridge.formats.html", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with_meshes = any(case.meshes for case in content.cases)
    comparison = content.comparison
    return environment.get_template("page.html.j2").render(
        content=content,
        comparison=comparison,
        banner=_sentence(content.caveat),
        colours=dict(content.colours),
        tables=metric_tables(comparison, plots=True),
        test_tables=metric_tables(content.test, plots=False) if content.test else (),
        forest=_forest(comparison),
        curves=_curve_figures(content),
        cases=[_case_object(case, max_faces) for case in content.cases],
        model_places={name: n for n, name in enumerate(comparison.models)},
        key=charts.legend_mark,
        style=_own("page.css"),
        script=_own("page.js"),
        plotly=_plotly() if with_meshes else "",
        version=__version__,
    )


@dataclass(frozen=True, slots=True)
class TableRow:
    """One structure in a table of the page; every cell is ready to be read."""

    structure: str
    means: tuple[str, ...]
    """In the order of the columns' models."""

    difference: str = ""
    interval: str = ""
    p: str = ""
    p_holm: str = ""
    effect: str = ""
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
        return f"Difference = {self.models[1]} minus {self.models[0]}. {way}"


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
            tables.append(MetricTable(metric, pair, cells))
        if not pairs:
            tables.append(_lone_table(metric, comparison))
    return tuple(tables)


def number(value: float | None, decimals: int, *, signed: bool = False) -> str:
    """Return a number as the page writes it; an en dash where there is none.

    Examples
    --------
    >>> number(0.91234, 3), number(None, 3), number(0.5, 1, signed=True)
    ('0.912', '\u2013', '+0.5')
    """
    if value is None:
        return "\u2013"
    words = f"{value:+z.{decimals}f}" if signed else f"{value:z.{decimals}f}"
    return words.replace("-", "\u2212")


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
        interval=_interval(row.interval_95, digits),
        p=_p(row.p),
        p_holm=_p(row.p_holm),
        effect=number(row.effect, 2, signed=True),
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


def _forest(comparison: Comparison) -> Markup:
    """Return the Dice differences of the first pair, all structures first."""
    if len(comparison.models) != 2:  # noqa: PLR2004 - a pair
        return Markup()
    rows = [row for row in comparison.rows if row.metric.key == "dice" and row.n]
    rows.sort(key=lambda row: row.structure != ALL_STRUCTURES)
    return charts.forest_plot(rows, 3) if rows else Markup()


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


def _interval(ends: tuple[float, float] | None, digits: int) -> str:
    if ends is None:
        return "\u2013"
    low, high = (number(end, digits, signed=True) for end in ends)
    return f"{low} to {high}"


def _excludes_zero(ends: tuple[float, float] | None) -> bool:
    return ends is not None and (ends[0] > 0 or ends[1] < 0)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


@dataclass(frozen=True, slots=True)
class CurveFigure:
    """The two drawings of the trainings of one model."""

    model: str
    folds: tuple[str, ...]
    loss: Markup
    dice: Markup


def _curve_figures(content: PageContent) -> tuple[CurveFigure, ...]:
    """Return loss and pseudo-Dice of every model, all on the same axes."""
    figures = []
    for place, model in enumerate(content.comparison.models):
        own = [
            curve for curve in content.curves if curve.model == model and curve.epochs
        ]
        if own:
            figures.append(
                CurveFigure(
                    model,
                    tuple(curve.fold for curve in own),
                    charts.loss_plot(own, place, content.curves),
                    charts.dice_plot(own, place, content.curves),
                )
            )
    return tuple(figures)


def _case_object(case: CaseView, max_faces: int) -> JsonObject:
    """Return a case as `page.js` reads it."""
    return {
        "id": case.case_id,
        "reason": case.reason,
        "dice": [[model, number(dice, 3)] for model, dice in case.dice],
        "planes": [
            {
                "plane": stack.plane,
                "letters": stack.letters,
                "width": stack.width,
                "height": stack.height,
                "columns": stack.columns,
                "indices": stack.indices,
                "start": stack.start,
                "image": stack.image,
                "layers": [[layer.name, layer.sprite] for layer in stack.layers],
            }
            for stack in case.stacks
        ],
        "meshes": [
            {
                "name": found.name,
                "meshes": [packed_mesh(mesh, max_faces) for mesh in found.meshes],
            }
            for found in case.meshes
        ],
    }


def _own(name: str) -> Markup:
    """Return one of our own files that lie beside this one; they are trusted."""
    text = files("nnunet_bridge.formats.html").joinpath(name).read_text("utf-8")
    return Markup(text)  # noqa: S704 - our own style and script, not anybody's input


def _plotly() -> Markup:
    """Return plotly's script so that it can stand inside a script element."""
    from plotly.offline import get_plotlyjs

    script = re.sub(r"</(?=script)", r"<\\/", get_plotlyjs(), flags=re.IGNORECASE)
    return Markup(script.replace("<!--", r"<\!--"))  # noqa: S704 - plotly's own script


def _sentence(words: str) -> str:
    """Return words as a sentence; nothing stays nothing."""
    return f"{words[0].upper()}{words[1:]}." if words else ""
