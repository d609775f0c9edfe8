"""The drawings of the page: SVG that takes its colours from the page's style sheet.

Every drawing is narrow (a phone shows it at its own size) and repeated for each
structure or model, instead of one that is wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from nnunet_bridge.core.comparison import Agreement, PairedDifference
from nnunet_bridge.formats.events import Curve

MAX_POINTS = 240
"""Of one line; more cannot be told apart at this width."""

_MARKS = ("circle", "triangle", "diamond", "square")


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to positions on the page, linear."""

    low: float
    high: float
    start: float
    """Position of `low`, in pixels."""

    end: float

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Return round values within the range.

        Examples
        --------
        >>> Scale(0, 1, 0, 100).ticks()
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        """
        raw = (self.high - self.low) / max(1, most - 1)
        power = 10.0 ** np.floor(np.log10(raw))
        step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * 0.999)
        first = np.ceil(self.low / step - 1e-9)
        last = np.floor(self.high / step + 1e-9)
        return [round(float(n * step), 12) + 0.0 for n in np.arange(first, last + 1)]


def scale_of(
    values: Iterable[float], start: float, end: float, *, zero: bool = False
) -> Scale:
    """Return a scale that shows all values with a little room."""
    shown = [*values, 0.0] if zero else list(values)
    low, high = min(shown), max(shown)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    return Scale(low - room, high + room, start, end)


def mark(model: int, x: float, y: float, title: str, *, size: float = 4.2) -> Markup:
    """Return the mark of the `model`-th model: each has a colour and a shape."""
    shape = _MARKS[model % len(_MARKS)]
    s = size
    outlines = {
        "triangle": [(0, -1.25 * s), (1.15 * s, 0.85 * s), (-1.15 * s, 0.85 * s)],
        "diamond": [(0, -1.3 * s), (1.3 * s, 0), (0, 1.3 * s), (-1.3 * s, 0)],
        "square": [(-s, -s), (s, -s), (s, s), (-s, s)],
    }
    tooltip = Markup("<title>{}</title>").format(title) if title else Markup()
    css = f"mark m{model % len(_MARKS)}"
    if shape == "circle":
        return Markup(
            '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}">{}</circle>'
        ).format(css, x, y, s, tooltip)
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in outlines[shape])
    return Markup('<polygon class="{}" points="{}">{}</polygon>').format(
        css, points, tooltip
    )


def legend_mark(model: int) -> Markup:
    """Return the mark of a model as a small picture for running text."""
    return Markup(
        '<svg class="key" viewBox="-7 -7 14 14" width="14" height="14" '
        'aria-hidden="true">{}</svg>'
    ).format(mark(model, 0, 0.5, "", size=4.6))


def estimation_plot(
    rows: Sequence[PairedDifference], models: Sequence[str], decimals: int
) -> Markup:
    """Return every case's values, joined, and beside them their differences.

    Parameters
    ----------
    rows : sequence of PairedDifference
        One for each pair of models, all on the same structure and metric.
    models : sequence of str
        All models, in order.
    decimals : int
        Digits after the point.

    Notes
    -----
    After Gardner and Altman 1986: what was measured on the left, what was estimated on
    the right, with its own axis through 0.
    """
    width, top, bottom = 320, 12, 196
    split = 196 if len(models) == 2 else 150  # noqa: PLR2004 - two leave room
    values = _values(rows)
    left = scale_of([v for case in values.values() for v in case.values()], bottom, top)
    right = scale_of(_all_differences(rows), bottom, top, zero=True)
    places = _places(len(models), 66, split - 26)
    parts = [_axis(left, 42, decimals, towards=-1, grid_to=split)]
    parts += [
        _joined(case, case_values, models, places, left, decimals)
        for case, case_values in values.items()
    ]
    for place, model in zip(places, models, strict=True):
        parts.append(_text(place, bottom + 18, _short(model), "tick", "middle"))
    parts.append(_axis(right, 278, decimals, towards=1, grid_to=278))
    zero = right(0.0)
    parts.append(_line(split + 8, zero, 278, zero, "zero"))
    columns = _places(len(rows), split + 32, 254)
    for column, row in zip(columns, rows, strict=True):
        parts.append(_difference(row, column, right, decimals))
        parts.append(
            _text(
                column,
                bottom + 18,
                "difference" if len(rows) == 1 else "Δ",
                "tick",
                "middle",
            )
        )
    described = f"{rows[0].structure}, {rows[0].metric.heading}: {len(values)} cases"
    return _svg(width, bottom + 28, parts, described)


def forest_plot(rows: Sequence[PairedDifference], decimals: int) -> Markup:
    """Return the median difference of every structure with its 95 % interval."""
    width, line_height, top = 400, 30, 12
    ends = [end for row in rows for end in (row.interval_95 or ())]
    medians = [
        row.median_difference for row in rows if row.median_difference is not None
    ]
    reach = max((abs(value) for value in [*ends, *medians]), default=0.0)
    scale = scale_of([-reach, reach], 128, width - 14, zero=True)
    bottom = top + line_height * len(rows)
    ticks = scale.ticks(5)
    parts = [_line(scale(t), top, scale(t), bottom, "grid") for t in ticks]
    shown = min(decimals, _decimals(scale))
    parts += [
        _text(scale(t), bottom + 16, _signed(t, shown), "tick", "middle") for t in ticks
    ]
    parts += _directions(rows[0], scale, bottom + 37)
    parts.append(_line(scale(0), top - 4, scale(0), bottom, "zero"))
    for number, row in enumerate(rows):
        y = top + line_height * (number + 0.5)
        parts.append(_text(118, y + 4, _short(row.structure, 17), "row", "end"))
        parts.append(_interval_across(row, scale, y, decimals))
    return _svg(width, bottom + 42, parts, "Median differences with 95 % intervals")


def agreement_plot(
    found: Agreement, model: int, same_axes: Sequence[Agreement]
) -> Markup:
    """Return the differences of every case over its mean volume, with bias and limits.

    Parameters
    ----------
    found : Agreement
        What is drawn, with at least one case.
    model : int
        Place of its model, for colour and mark.
    same_axes : sequence of Agreement
        All that must fit the same axes, this one among them.

    Notes
    -----
    After Bland and Altman 1986. Bars on the right: 95 % intervals of the three lines.
    """
    width, top, bottom, left, right = 400, 12, 190, 48, 316
    means = [mean for one in same_axes for mean in one.means_cm3]
    across = scale_of(means, left, right)
    down = scale_of(_agreement_extent(same_axes), bottom, top, zero=True)
    parts = [_axis(down, left, 1, towards=-1, grid_to=right)]
    parts += [
        _text(across(t), bottom + 17, _plain(t, _decimals(across)), "tick", "middle")
        for t in across.ticks(5)
    ]
    middle = (left + right) / 2
    words = "mean of prediction and reference (cm\u00b3)"
    parts.append(_text(middle, bottom + 34, words, "tick", "middle"))
    parts.append(_line(left, down(0.0), right, down(0.0), "zero"))
    lines = _agreement_lines(found)
    heights = _apart([down(value) for value, _, _ in lines], 13)
    for place, (value, ends, css) in enumerate(lines):
        y, beside = down(value), right + 8 + 9 * place
        parts.append(_line(left, y, right, y, f"level l{model % len(_MARKS)} {css}"))
        words = _signed(value, 2)
        parts.append(_text(right + 36, heights[place] + 4, words, "tick", "start"))
        if ends is not None:
            parts.append(_line(beside, down(ends[0]), beside, down(ends[1]), "reach"))
            parts.append(_dot("reached", beside, y, ""))
    points = zip(found.case_ids, found.means_cm3, found.differences_cm3, strict=True)
    parts += [
        mark(
            model,
            across(mean),
            down(difference),
            f"{case_id}: {_signed(difference, 2)} cm\u00b3 at {mean:.2f} cm\u00b3",
            size=3.6,
        )
        for case_id, mean, difference in points
    ]
    described = f"{found.structure}, {found.model}: volume agreement of {found.n} cases"
    return _svg(width, bottom + 40, parts, described)


def _agreement_lines(
    found: Agreement,
) -> list[tuple[float, tuple[float, float] | None, str]]:
    """Return value, interval and style of lower limit, bias and upper limit."""
    if found.bias_cm3 is None:
        return []
    bias = (found.bias_cm3, found.bias_interval_95, "")
    if found.limits_cm3 is None:
        return [bias]
    low, high = found.limits_cm3
    return [
        (low, found.lower_limit_interval_95, "dashed"),
        bias,
        (high, found.upper_limit_interval_95, "dashed"),
    ]


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """Return heights from below to above, moved so that none covers another.

    Examples
    --------
    >>> _apart([100.0, 98.0, 40.0], 10)
    [104.0, 94.0, 40.0]
    """
    moved = list(heights)
    for place in range(1, len(moved)):
        short = least - (moved[place - 1] - moved[place])
        if short > 0:
            moved[place - 1] += short / 2
            moved[place] -= short / 2
    return moved


def _agreement_extent(agreements: Sequence[Agreement]) -> list[float]:
    """Return all that must be seen: differences, lines, intervals."""
    shown = [value for one in agreements for value in one.differences_cm3]
    for one in agreements:
        for value, ends, _ in _agreement_lines(one):
            shown += [value, *(ends or ())]
    return shown


def loss_plot(curves: Sequence[Curve], model: int, limits: Sequence[Curve]) -> Markup:
    """Return training (dashed) and validation loss of every fold of one model."""
    shown = [v for c in limits for v in (*c.train_loss, *c.val_loss) if v is not None]
    return _curves_plot(
        curves,
        [(lambda c: c.train_loss, f"line thin dashed l{model}"),
         (lambda c: c.val_loss, f"line l{model}")],
        shown,
        "Loss by epoch",
    )  # fmt: skip


def dice_plot(curves: Sequence[Curve], model: int, limits: Sequence[Curve]) -> Markup:
    """Return the mean pseudo-Dice of every fold, and the IoU derived from it."""
    shown = [
        value
        for curve in limits
        for value in (*curve.pseudo_dice, *curve.pseudo_iou)
        if value is not None
    ]
    if not shown:
        return Markup()
    return _curves_plot(
        curves,
        [(lambda c: c.pseudo_iou, f"line thin dashed l{model}"),
         (lambda c: c.pseudo_dice, f"line l{model}")],
        [*shown, 0.0],
        "Pseudo-Dice and derived IoU by epoch",
    )  # fmt: skip


def _curves_plot(
    curves: Sequence[Curve],
    lines: Sequence[tuple[Callable[[Curve], Sequence[float | None]], str]],
    shown: Sequence[float],
    described: str,
) -> Markup:
    if not shown:
        return Markup()
    width, top, bottom, left = 400, 10, 178, 46
    last = max((epoch for curve in curves for epoch in curve.epochs), default=1)
    across = Scale(0, max(last, 1), left, width - 12)
    down = scale_of(shown, bottom, top)
    parts = [_axis(down, left, _decimals(down), towards=-1, grid_to=width - 12)]
    parts += [
        _text(across(tick), bottom + 17, f"{tick:g}", "tick", "middle")
        for tick in across.ticks(6)
        if tick == round(tick)
    ]
    parts.append(_text((left + width) / 2, bottom + 33, "epoch", "tick", "middle"))
    for curve in curves:
        for values_of, css in lines:
            title = f"{curve.model}, fold {curve.fold}"
            parts.append(
                _path(curve.epochs, values_of(curve), across, down, css, title)
            )
    return _svg(width, bottom + 38, parts, described)


def _path(
    epochs: Sequence[int],
    values: Sequence[float | None],
    across: Scale,
    down: Scale,
    css: str,
    title: str,
) -> Markup:  # fmt: skip
    """Return a line that breaks where a value is missing."""
    step = max(1, -(-len(epochs) // MAX_POINTS))
    words, pen = [], "M"
    for epoch, value in list(zip(epochs, values, strict=True))[::step]:
        if value is None:
            pen = "M"
            continue
        words.append(f"{pen}{across(epoch):.1f} {down(value):.1f}")
        pen = "L"
    if len(words) == 1:
        words.append("h0.01")
    return Markup('<path class="{}" d="{}"><title>{}</title></path>').format(
        css, "".join(words), title
    )


def _values(rows: Sequence[PairedDifference]) -> dict[str, dict[str, float]]:
    """Return case -> model -> value."""
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        pairs = zip(row.case_ids, row.first_values, row.second_values, strict=True)
        for case_id, first, second in pairs:
            values.setdefault(case_id, {}).update(
                {row.first: first, row.second: second}
            )
    return values


def _joined(
    case_id: str,
    values: dict[str, float],
    models: Sequence[str],
    places: Sequence[float],
    scale: Scale,
    decimals: int,
) -> Markup:  # fmt: skip
    """Return the marks of one case and the line between them."""
    marks = [
        (number, place, values[model], model)
        for number, (place, model) in enumerate(zip(places, models, strict=True))
        if model in values
    ]
    points = " ".join(f"{place:.1f},{scale(value):.1f}" for _, place, value, _ in marks)
    title = f"{case_id}: " + ", ".join(
        f"{model} {value:.{decimals}f}" for _, _, value, model in marks
    )
    drawn = Markup().join(
        mark(number, place, scale(value), title) for number, place, value, _ in marks
    )
    return Markup('<g class="case"><polyline class="pair" points="{}"/>{}</g>').format(
        points, drawn
    )


def _difference(row: PairedDifference, x: float, scale: Scale, decimals: int) -> Markup:
    """Return the differences of one pair of models, with median and interval."""
    pairs = zip(row.case_ids, row.differences, strict=True)
    dots = [
        _dot("diff", x - 9, scale(value), f"{case_id}: {_signed(value, decimals)}")
        for case_id, value in pairs
    ]
    if row.interval_95 is not None:
        low, high = row.interval_95
        dots.append(_line(x + 9, scale(low), x + 9, scale(high), "interval"))
    if row.median_difference is not None:
        dots.append(_median(x + 9, scale(row.median_difference), row, decimals))
    return Markup().join(dots)


def _interval_across(
    row: PairedDifference, scale: Scale, y: float, decimals: int
) -> Markup:
    if row.median_difference is None:
        return _text(136, y + 4, "no pair", "tick", "start")
    bar = Markup()
    if row.interval_95 is not None:
        low, high = row.interval_95
        bar = _line(scale(low), y, scale(high), y, "interval")
    return bar + _median(scale(row.median_difference), y, row, decimals)


def _directions(row: PairedDifference, scale: Scale, y: float) -> list[Markup]:
    """Return which model is better on which side of 0."""
    zero = scale(0.0)
    down, up = _short(row.first, 14), _short(row.second, 14)
    if row.metric.better == "lower":
        down, up = up, down
    return [
        mark(0 if down == _short(row.first, 14) else 1, zero - 12, y - 4, ""),
        _text(zero - 22, y, f"\u2190 {down} better", "row", "end"),
        mark(1 if up == _short(row.second, 14) else 0, zero + 12, y - 4, ""),
        _text(zero + 22, y, f"{up} better \u2192", "row", "start"),
    ]


def _median(x: float, y: float, row: PairedDifference, decimals: int) -> Markup:
    words = f"median {_signed(row.median_difference or 0.0, decimals)}"
    if row.interval_95 is not None:
        low, high = (_signed(end, decimals) for end in row.interval_95)
        words += f", 95 % interval {low} to {high}"
    return _dot("median", x, y, words)


def _axis(
    scale: Scale, x: float, decimals: int, *, towards: int, grid_to: float
) -> Markup:
    """Return an upright axis with its numbers on the left (-1) or right (1)."""
    anchor = "end" if towards < 0 else "start"
    shown = max(decimals - 1, _decimals(scale))
    parts = []
    for tick in scale.ticks():
        y = scale(tick)
        words = _signed(tick, shown) if towards > 0 else _plain(tick, shown)
        parts.append(_line(x, y, grid_to, y, "grid"))
        parts.append(_text(x + 6 * towards, y + 4, words, "tick", anchor))
    return Markup().join(parts)


def _decimals(scale: Scale) -> int:
    """Return how many digits tell the ticks apart."""
    ticks = scale.ticks()
    for digits in range(6):
        if all(abs(round(tick, digits) - tick) < 1e-9 for tick in ticks):  # noqa: PLR2004 - rounding
            return digits
    return 6


def _places(count: int, first: float, last: float) -> list[float]:
    if count == 1:
        return [(first + last) / 2]
    return [first + (last - first) * n / (count - 1) for n in range(count)]


def _all_differences(rows: Sequence[PairedDifference]) -> list[float]:
    ends = [end for row in rows for end in (row.interval_95 or ())]
    return [*ends, *(difference for row in rows for difference in row.differences)]


def _signed(value: float, decimals: int) -> str:
    return f"{value:+z.{decimals}f}".replace("-", "\u2212") if value else "0"


def _plain(value: float, decimals: int) -> str:
    return f"{value:z.{decimals}f}".replace("-", "\u2212")


def _short(name: str, most: int = 12) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _dot(css: str, x: float, y: float, title: str) -> Markup:
    """Return a dot; the style sheet gives it its size."""
    return Markup(
        '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title></circle>'
    ).format(css, x, y, title)


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    return Markup(
        '<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    ).format(css, x1, y1, x2, y2)


def _text(x: float, y: float, words: str, css: str, anchor: str) -> Markup:
    return Markup(
        '<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
    ).format(css, x, y, anchor, words)


def _svg(
    width: float, height: float, parts: Sequence[Markup], described: str
) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}" '
        'style="max-width:{:g}px">{}</svg>'
    ).format(width, height, described, width * 1.25, Markup().join(parts))
