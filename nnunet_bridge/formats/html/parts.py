"""What the pages have in common: their frame, our style and script, numbers as text.

A page's Content-Security-Policy forbids the browser to fetch anything, so that
"offline" is not a promise but a rule. The script that draws meshes comes from the
installed plotly package; it stands in a page once, as text, and runs only when the
reader opens the meshes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from nnunet_bridge.core.version import __version__
from nnunet_bridge.formats.html import charts


def rendered(
    template: str,
    *,
    models: Sequence[str],
    plotly: bool = False,
    **content: Any,  # noqa: ANN401 - whatever a template names
) -> str:
    """Return a page as text.

    Parameters
    ----------
    template : str
        Name of the file beside this one.
    models : sequence of str
        In the order of their colours and marks.
    plotly : bool
        Whether the page carries the script that draws meshes.
    **content
        What the template names.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nnunet_bridge.formats.html", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        model_places={name: place for place, name in enumerate(models)},
        key=charts.legend_mark,
        style=_own("page.css"),
        script=_own("page.js"),
        plotly=_plotly() if plotly else "",
        version=__version__,
        **content,
    )


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


def interval(ends: tuple[float, float] | None, decimals: int) -> str:
    """Return the ends of an interval as the page writes them.

    Examples
    --------
    >>> interval((0.1, 0.25), 2), interval(None, 2)
    ('+0.10 to +0.25', '\u2013')
    """
    if ends is None:
        return "\u2013"
    low, high = (number(end, decimals, signed=True) for end in ends)
    return f"{low} to {high}"


def sentence(words: str) -> str:
    """Return words as a sentence; nothing stays nothing."""
    return f"{words[0].upper()}{words[1:]}." if words else ""


def typeset(words: str) -> str:
    """Return words with a minus sign where a number is below zero.

    Examples
    --------
    >>> typeset("+0.005 (-0.007 to 0.1) in a well-known case-3")
    '+0.005 (\u22120.007 to 0.1) in a well-known case-3'
    """
    return re.sub(r"(?<![^ (])-(?=\d)", "\u2212", words)


def _own(name: str) -> Markup:
    """Return one of our own files that lie beside this one; they are trusted."""
    text = files("nnunet_bridge.formats.html").joinpath(name).read_text("utf-8")
    return Markup(text)  # noqa: S704 - our own style and script, not anybody's input


def _plotly() -> Markup:
    """Return plotly's script so that it can stand inside a script element."""
    from plotly.offline import get_plotlyjs

    script = re.sub(r"</(?=script)", r"<\\/", get_plotlyjs(), flags=re.IGNORECASE)
    return Markup(script.replace("<!--", r"<\!--"))  # noqa: S704 - plotly's own script
