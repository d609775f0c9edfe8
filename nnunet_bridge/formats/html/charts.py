"""The charts of the pages: SVG that takes its colours from the page's style sheet.

Every chart is narrow (a phone shows it at its own size) and repeated for each structure
or model, instead of one that is wide.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import isfinite
from typing import Literal

import numpy as np
from markupsafe import Markup

from nnunet_bridge.core.comparison import Agreement, PairedDifference
from nnunet_bridge.formats.events import Curve
from nnunet_bridge.ops.along import PARTS, Profile

MAX_POINTS = 240  # points of one line; more would not be visible at this width
_MARKS = {
    "circle": (),
    "triangle": ((0, -1.25), (1.15, 0.85), (-1.15, 0.85)),
    "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
}
"""Shape of each model's mark, in its order: corners in units of the mark's size."""

_CURVES = {
    "loss": ("Loss", "train_loss", "val_loss"),
    "dice": ("Pseudo-Dice and derived IoU", "pseudo_iou", "pseudo_dice"),
}
"""Title and the fields of the dashed and of the solid line."""


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to positions on the page, linear."""

    low: float
    high: float
    start: float  # position of `low`, in pixels
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

    @property
    def decimals(self) -> int:
        """Digits after the point that tell the ticks apart."""
        ticks = self.ticks()
        for digits in range(6):
            if all(abs(round(tick, digits) - tick) < 1e-9 for tick in ticks):  # noqa: PLR2004 - rounding
                return digits
        return 6


def scale_of(
    values: Iterable[float], start: float, end: float, *, zero: bool = False
) -> Scale:
    """Return a scale that shows all finite values with a little room."""
    known = list(filter(isfinite, values))
    shown = [*known, 0.0] if zero or not known else known
    low, high = min(shown), max(shown)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    return Scale(low - room, high + room, start, end)


class _Drawing:
    """An SVG picture in the making; all text is escaped."""

    def __init__(self) -> None:
        self._parts: list[Markup] = []

    def add(self, form: str, *values: object) -> None:
        """Add an element: its markup with the values filled in."""
        self._parts.append(Markup(form).format(*values))  # noqa: S704 - our own markup

    def line(
        self, start: tuple[float, float], end: tuple[float, float], css: str
    ) -> None:
        self.add(
            '<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>',
            *(css, *start, *end),
        )

    def text(
        self, x: float, y: float, words: str, css: str = "tick", anchor: str = "middle"
    ) -> None:
        self.add(
            '<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>',
            *(css, x, y, anchor, words),
        )

    def dot(self, css: str, x: float, y: float, title: str) -> None:
        """Add a dot; the style sheet gives it its size."""
        self.add(
            '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title>'
            "</circle>",
            *(css, x, y, title),
        )

    def mark(
        self, model: int, x: float, y: float, title: str = "", size: float = 4.2
    ) -> None:
        """Add the mark of the `model`-th model: each has a colour and a shape."""
        corners = list(_MARKS.values())[model % len(_MARKS)]
        css = f"mark m{model % len(_MARKS)}"
        tooltip = Markup("<title>{}</title>").format(title) if title else Markup()
        if not corners:
            form = '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}">{}</circle>'
            self.add(form, css, x, y, size, tooltip)
            return
        at = (f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in corners)
        points = " ".join(at)
        self.add('<polygon class="{}" points="{}">{}</polygon>', css, points, tooltip)

    def axis(self, scale: Scale, x: float, grid_to: float, decimals: int) -> None:
        """Add an upright axis: numbers left of it, or right of it without a grid."""
        towards = -1 if grid_to > x else 1
        shown = max(decimals - 1, scale.decimals)
        for tick in scale.ticks():
            y = scale(tick)
            words = _signed(tick, shown) if towards > 0 else _plain(tick, shown)
            self.line((x, y), (grid_to, y), "grid")
            self.text(
                x + 6 * towards, y + 4, words, anchor="end" if towards < 0 else "start"
            )

    def difference(
        self,
        row: PairedDifference,
        scale: Scale,
        decimals: int,
        *,
        x: float | None = None,
        y: float | None = None,
    ) -> None:
        """Add the median of a difference on its interval, upright at x or along y."""

        def place(value: float) -> tuple[float, float]:
            return (scale(value) if x is None else x, scale(value) if y is None else y)

        median = row.median_difference or 0.0
        words = f"median {_signed(median, decimals)}"
        if row.interval_95 is not None:
            low, high = row.interval_95
            first, last = (min(max(e, scale.low), scale.high) for e in (low, high))
            self.line(place(first), place(last), "interval")
            ends = f"{_signed(low, decimals)} to {_signed(high, decimals)}"
            words += f", 95 % interval {ends}"
        self.dot("median", *place(median), words)

    def upright(self, words: str, x: float, y: float) -> None:
        """Add the title of an upright axis around y."""
        form = '<text class="tick" transform="translate({:.1f} {:.1f}) rotate(-90)" '
        self.add(form + 'text-anchor="middle">{}</text>', x, y, words)

    def svg(self, width: float, height: float, described: str) -> Markup:
        """Return the whole picture."""
        return Markup(
            '<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}" '
            'style="max-width:{:g}px">{}</svg>'
        ).format(width, height, described, width * 1.25, Markup().join(self._parts))


def profile_plot(profiles: Sequence[Profile], kind: str) -> Markup:
    """Return Dice or error of each model along the length of one structure.

    `kind` is the field of the profile to draw.
    """
    title = {"dice": "Dice", "error_mm": "distance (mm)"}[kind]
    values = [getattr(profile, kind) for profile in profiles]
    shown = [float(v) for found in values for v in found if np.isfinite(v)]
    if not shown:
        return Markup()
    width, top, bottom, left = 400, 12, 178, 58
    down = scale_of(shown, bottom, top, zero=kind == "error_mm")
    across = Scale(0, 100, left, width - 14)
    drawing = _Drawing()
    drawing.axis(down, left, width - 14, down.decimals)
    first, last = profiles[0].ends
    for tick in (0, 25, 50, 75, 100):
        drawing.text(across(tick), bottom + 17, f"{tick}")
    drawing.upright(title, 11, (top + bottom) / 2)
    drawing.text(
        (left + width) / 2, bottom + 34, f"% of the length, from {first} to {last}"
    )
    middles = [100 * (n + 0.5) / PARTS for n in range(PARTS)]
    for place, (profile, found) in enumerate(zip(profiles, values, strict=True)):
        line = [float(v) if np.isfinite(v) else None for v in found]
        path = _path(middles, line, across, down)
        form = '<path class="line l{}" d="{}"><title>{}</title></path>'
        drawing.add(form, place % len(_MARKS), path, profile.model)
    described = f"{profiles[0].structure}: {title} along its length"
    return drawing.svg(width, bottom + 40, described)


def legend_mark(model: int) -> Markup:
    """Return the mark of a model as a small picture for running text."""
    drawing = _Drawing()
    drawing.mark(model, 0, 0.5, size=4.6)
    return Markup(
        '<svg class="key" viewBox="-7 -7 14 14" width="14" height="14" '
        'aria-hidden="true">{}</svg>'
    ).format(*drawing._parts)  # noqa: SLF001 - of this module


def estimation_plot(
    rows: Sequence[PairedDifference], models: Sequence[str], decimals: int
) -> Markup:
    """Return every case's values, joined, and beside them their differences.

    The rows are all pairs of models on the same structure and metric.

    Notes
    -----
    After Gardner and Altman 1986: measurements on the left, estimates on the right
    with their own axis through 0.
    """
    width, top, bottom = 346, 12, 196
    split = 208 if len(models) == 2 else 162  # noqa: PLR2004 - two leave room
    values = _values(rows)
    left = scale_of([v for case in values.values() for v in case.values()], bottom, top)
    ends = [x for row in rows for x in (*(row.interval_95 or ()), *row.differences)]
    right = scale_of(ends, bottom, top, zero=True)
    places = _places(len(models), 78, split - 26)
    drawing = _Drawing()
    drawing.axis(left, 54, split, decimals)
    drawing.upright(rows[0].metric.heading, 11, (top + bottom) / 2)
    for case_id, found in values.items():
        marks = [
            (number, place, found[model], model)
            for number, (place, model) in enumerate(zip(places, models, strict=True))
            if model in found
        ]
        words = ", ".join(f"{model} {value:.{decimals}f}" for *_, value, model in marks)
        points = " ".join(f"{x:.1f},{left(value):.1f}" for _, x, value, _ in marks)
        drawing.add('<g class="case"><polyline class="pair" points="{}"/>', points)
        for number, x, value, _ in marks:
            drawing.mark(number, x, left(value), f"{case_id}: {words}")
        drawing.add("</g>")
    for place, model in zip(places, models, strict=True):
        drawing.text(place, bottom + 18, _short(model))
    drawing.axis(right, 290, 290, decimals)
    drawing.upright("difference", width - 4, (top + bottom) / 2)
    drawing.line((split + 8, right(0.0)), (290, right(0.0)), "zero")
    for x, row in zip(_places(len(rows), split + 32, 266), rows, strict=True):
        for case_id, value in zip(row.case_ids, row.differences, strict=True):
            if not isfinite(value):
                continue
            words = f"{case_id}: {_signed(value, decimals)}"
            drawing.dot("diff", x - 9, right(value), words)
        if row.median_difference is not None and isfinite(row.median_difference):
            drawing.difference(row, right, decimals, x=x + 9)
        drawing.text(x, bottom + 18, "difference" if len(rows) == 1 else "Δ")
    described = f"{rows[0].structure}, {rows[0].metric.heading}: {len(values)} cases"
    return drawing.svg(width, bottom + 28, described)


def forest_plot(rows: Sequence[PairedDifference], decimals: int) -> Markup:
    """Return the median difference of every structure with its 95 % interval."""
    width, line_height, top = 400, 30, 12
    ends = [end for row in rows for end in (row.interval_95 or ())]
    medians = [m for row in rows if (m := row.median_difference) is not None]
    reach = max((abs(value) for value in [*ends, *medians]), default=0.0)
    scale = scale_of([-reach, reach], 128, width - 14, zero=True)
    bottom = top + line_height * len(rows)
    drawing = _Drawing()
    for tick in scale.ticks(5):
        drawing.line((scale(tick), top), (scale(tick), bottom), "grid")
        words = _signed(tick, min(decimals, scale.decimals))
        drawing.text(scale(tick), bottom + 16, words)
    _directions(drawing, rows[0], scale(0.0), bottom + 37)
    pair = f"{_short(rows[0].second, 14)} \u2212 {_short(rows[0].first, 14)}"
    drawing.text(scale(0.0), bottom + 56, f"{rows[0].metric.heading}, {pair}")
    drawing.line((scale(0), top - 4), (scale(0), bottom), "zero")
    for number, row in enumerate(rows):
        y = top + line_height * (number + 0.5)
        drawing.text(118, y + 4, _short(row.structure, 17), "row", "end")
        if row.median_difference is None:
            drawing.text(136, y + 4, "no pair", anchor="start")
        else:
            drawing.difference(row, scale, decimals, y=y)
    return drawing.svg(width, bottom + 62, "Median differences with 95 % intervals")


def _directions(
    drawing: _Drawing, row: PairedDifference, zero: float, y: float
) -> None:
    """Add which model is better on which side of 0."""
    down, up = (0, _short(row.first, 14)), (1, _short(row.second, 14))
    if row.metric.better == "lower":
        down, up = up, down
    drawing.mark(down[0], zero - 12, y - 4)
    drawing.text(zero - 22, y, f"\u2190 {down[1]} better", "row", "end")
    drawing.mark(up[0], zero + 12, y - 4)
    drawing.text(zero + 22, y, f"{up[1]} better \u2192", "row", "start")


def agreement_plot(
    found: Agreement, model: int, same_axes: Sequence[Agreement]
) -> Markup:
    """Return the differences of every case over its mean volume, with bias and limits.

    `found` has a case at least, `model` is the place of its model. `same_axes` are all
    that must fit the same axes, this one among them.

    Notes
    -----
    After Bland and Altman 1986. Bars on the right: 95 % intervals of the three lines.
    """
    width, top, bottom, left, right = 400, 12, 190, 60, 316
    means = [mean for one in same_axes for mean in one.means_cm3]
    across = scale_of(means, left, right)
    down = scale_of(_agreement_extent(same_axes), bottom, top, zero=True)
    drawing = _Drawing()
    drawing.axis(down, left, right, 1)
    for tick in across.ticks(5):
        drawing.text(across(tick), bottom + 17, _plain(tick, across.decimals))
    drawing.upright("error (cm\u00b3)", 11, (top + bottom) / 2)
    words = "mean of prediction and reference (cm\u00b3)"
    drawing.text((left + right) / 2, bottom + 34, words)
    drawing.line((left, down(0.0)), (right, down(0.0)), "zero")
    lines = _agreement_lines(found)
    heights = _apart([down(value) for value, _, _ in lines], 13)
    for place, (value, ends, css) in enumerate(lines):
        y, beside = down(value), right + 8 + 9 * place
        drawing.line((left, y), (right, y), f"level l{model % len(_MARKS)} {css}")
        drawing.text(right + 36, heights[place] + 4, _signed(value, 2), anchor="start")
        if ends is not None:
            drawing.line((beside, down(ends[0])), (beside, down(ends[1])), "reach")
            drawing.dot("reached", beside, y, "")
    points = zip(found.case_ids, found.means_cm3, found.differences_cm3, strict=True)
    for case_id, mean, difference in points:
        words = f"{case_id}: {_signed(difference, 2)} cm\u00b3 at {mean:.2f} cm\u00b3"
        drawing.mark(model, across(mean), down(difference), words, size=3.6)
    described = f"{found.structure}, {found.model}: volume agreement of {found.n} cases"
    return drawing.svg(width, bottom + 40, described)


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
    lower = (low, found.lower_limit_interval_95, "dashed")
    return [lower, bias, (high, found.upper_limit_interval_95, "dashed")]


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
    """Return all values that must be visible: differences, lines, intervals."""
    shown = [value for one in agreements for value in one.differences_cm3]
    for one in agreements:
        for value, ends, _ in _agreement_lines(one):
            shown += [value, *(ends or ())]
    return shown


def curves_plot(
    curves: Sequence[Curve],
    model: int,
    limits: Sequence[Curve],
    kind: Literal["loss", "dice"],
) -> Markup:
    """Return two lines for every fold of one model, on axes that fit all of `limits`.

    They are training loss (dashed) and validation loss, or the IoU (dashed) that is
    derived from the mean pseudo-Dice, and that Dice.
    """
    described, *lines = _CURVES[kind]
    values = [v for curve in limits for name in lines for v in getattr(curve, name)]
    shown = [value for value in values if value is not None]
    if not shown:
        return Markup()
    width, top, bottom, left = 400, 10, 178, 60
    down = scale_of(shown, bottom, top, zero=kind == "dice")
    last = max((epoch for curve in curves for epoch in curve.epochs), default=1)
    across = Scale(0, max(last, 1), left, width - 12)
    drawing = _Drawing()
    drawing.axis(down, left, width - 12, down.decimals)
    for tick in across.ticks(6):
        if tick == round(tick):
            drawing.text(across(tick), bottom + 17, f"{tick:g}")
    drawing.upright("overlap" if kind == "dice" else "loss", 11, (top + bottom) / 2)
    drawing.text((left + width) / 2, bottom + 33, "epoch")
    for curve in curves:
        for name, style in zip(lines, ("line thin dashed", "line"), strict=True):
            path = _path(curve.epochs, getattr(curve, name), across, down)
            title = f"{curve.model}, fold {curve.fold}"
            form = '<path class="{} l{}" d="{}"><title>{}</title></path>'
            drawing.add(form, style, model, path, title)
    return drawing.svg(width, bottom + 38, f"{described} by epoch")


def curve_picture(curve: Curve, kind: Literal["loss", "dice"]) -> str:
    """Return the two lines of one training as a picture with a style sheet of its own.

    A program that shows pictures cannot reach it with a style sheet or a script.
    """
    style = files(__package__).joinpath("page.css").read_text("utf-8")
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 216">'
        "<style>{}</style>{}</svg>"
    ).format(style, curves_plot([curve], 0, [curve], kind))


def _path(
    epochs: Sequence[float], values: Sequence[float | None], across: Scale, down: Scale
) -> str:
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
    return "".join(words)


def _values(rows: Sequence[PairedDifference]) -> dict[str, dict[str, float]]:
    """Return case -> model -> value."""
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        pairs = zip(row.case_ids, row.first_values, row.second_values, strict=True)
        for case_id, first, second in pairs:
            pair = {row.first: first, row.second: second}
            known = {model: value for model, value in pair.items() if isfinite(value)}
            values.setdefault(case_id, {}).update(known)  # a failure has no height
    return values


def _places(count: int, first: float, last: float) -> list[float]:
    if count == 1:
        return [(first + last) / 2]
    return [first + (last - first) * n / (count - 1) for n in range(count)]


def _signed(value: float, decimals: int) -> str:
    return f"{value:+z.{decimals}f}".replace("-", "\u2212") if value else "0"


def _plain(value: float, decimals: int) -> str:
    return f"{value:z.{decimals}f}".replace("-", "\u2212")


def _short(name: str, most: int = 12) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
