r"""A comparison as a LaTeX table, ready for a thesis: `\input{comparison.tex}`.

The only package it needs is booktabs.
"""

from nnunet_bridge.core.comparison import (
    ALL_STRUCTURES,
    METRICS,
    Comparison,
    Metric,
    PairedDifference,
)
from nnunet_bridge.ops.paired import p_words

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u00b3": r"\textsuperscript{3}",
}


def comparison_latex(comparison: Comparison, *, caveat: str = "") -> str:
    """Return one ``table`` for every pair of models; a comment where there is none.

    The caption starts with `caveat`, a warning; empty for none.
    """
    pairs = list(dict.fromkeys((row.first, row.second) for row in comparison.rows))
    if not pairs:
        return "% A comparison needs two models.\n"
    return "\n".join(_table(comparison, *pair, caveat=caveat) for pair in pairs)


def escaped(words: str) -> str:
    r"""Return text with the special characters of LaTeX escaped.

    Examples
    --------
    >>> print(escaped("3d_fullres & 50 %"))
    3d\_fullres \& 50 \%
    """
    return "".join(_SPECIAL.get(character, character) for character in words)


def _table(comparison: Comparison, first: str, second: str, *, caveat: str) -> str:
    pair = (first, second)
    rows = [row for row in comparison.rows if (row.first, row.second) == pair]
    asked = any(row.answer for row in rows)
    start = caveat[:1].upper() + caveat[1:]
    warning = rf"\textbf{{{escaped(start)}.}} " if caveat else ""
    heads = ["Structure", escaped(first), escaped(second), "Difference"]
    heads += [r"95\,\% interval", "$p$", r"$p_\mathrm{Holm}$", "Effect", "$n$"]
    heads += ["Answer"] if asked else []
    lines = [
        "% Needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{warning}{_caption(comparison, first, second)}}}",
        rf"\begin{{tabular}}{{l{'r' * 8}{'l' if asked else ''}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
    ]
    for metric in METRICS:
        title = rf"\emph{{{escaped(metric.heading)}}}"
        lines += [r"\midrule", rf"\multicolumn{{{len(heads)}}}{{l}}{{{title}}} \\"]
        own = [row for row in rows if row.metric.key == metric.key]
        own.sort(key=lambda row: row.structure != ALL_STRUCTURES)
        lines += [" & ".join(_cells(row, asked=asked)) + r" \\" for row in own]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _caption(comparison: Comparison, first: str, second: str) -> str:
    cases, patients = len(comparison.case_ids), comparison.patients
    return (
        f"{escaped(second)} against {escaped(first)} on {cases} "
        f"{'case' if cases == 1 else 'cases'} of {patients} "
        f"{'patient' if patients == 1 else 'patients'}: means of both, median of the "
        rf"paired differences ({escaped(second)} minus {escaped(first)}) with its "
        r"95\,\% bootstrap interval over patients, exact two-sided Wilcoxon "
        "signed-rank $p$, the same after Holm's correction over all rows, "
        "matched-pairs rank-biserial correlation."
    )


def _cells(row: PairedDifference, *, asked: bool) -> list[str]:
    metric = row.metric
    return [
        escaped(row.structure),
        *(_number(mean, metric.decimals) for mean in row.means),
        _signed(row.median_difference, metric),
        _interval(row),
        _p(row.p),
        _p(row.p_holm),
        "--" if row.effect is None else f"${row.effect:+z.2f}$",
        str(row.n),
        *([row.answer or "--"] if asked else []),
    ]


def _interval(row: PairedDifference) -> str:
    if row.interval_95 is None:
        return "--"
    low, high = (_signed(end, row.metric) for end in row.interval_95)
    return f"{low} to {high}"


def _p(p: float | None) -> str:
    return "--" if p is None else f"${p_words(p).removeprefix('= ')}$"


def _number(value: float | None, decimals: int) -> str:
    return "--" if value is None else f"${value:z.{decimals}f}$"


def _signed(value: float | None, metric: Metric) -> str:
    words = "--" if value is None else f"${value:+z.{metric.decimals}f}$"
    return words.replace("inf", r"\infty")
