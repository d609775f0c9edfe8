"""Common parts of the pages: their frame, our style and scripts, numbers as text.

A page's Content-Security-Policy forbids the browser to fetch anything, so the page
works offline. No script of others is part of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from nnunet_bridge.core.version import __version__
from nnunet_bridge.formats.html import charts
from nnunet_bridge.ops.paired import p_words

if TYPE_CHECKING:
    from jinja2 import Environment

_MODULE_WORDS = re.compile(r"^(?:import .*\n|export )", re.MULTILINE)
"""What a script needs only where it is loaded as a module."""


def rendered(
    template: str,
    *,
    models: Sequence[str],
    surfaces: bool = False,
    **content: Any,  # noqa: ANN401 - whatever a template names
) -> str:
    """Return a page as text; `content` are the variables of the template.

    `models` have the order of their colours and marks. With `surfaces` the page has the
    script that draws surfaces.
    """
    return (
        _environment()
        .get_template(template)
        .render(
            number=number,
            interval=interval,
            p_value=p_value,
            model_places={name: place for place, name in enumerate(models)},
            key=charts.legend_mark,
            style=_own("page.css"),
            script=_script(surfaces=surfaces),
            surfaces=surfaces,
            version=__version__,
            **content,
        )
    )


@cache
def _environment() -> Environment:
    """Return Jinja's environment, which compiles a template once a process."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("nnunet_bridge.formats.html", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
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
    if math.isinf(value):  # the difference of a failure from a distance
        return "+\u221e" if value > 0 else "\u2212\u221e"
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


def p_value(p: float | None) -> str:
    """Return a p as the page writes it."""
    return "\u2013" if p is None else p_words(p).removeprefix("= ")


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


def _script(*, surfaces: bool) -> Markup:
    """Return the script of a page; our modules become one block."""
    names = ["shared.js", *(["surfaces.js"] if surfaces else []), "page.js"]
    block = Markup("\n").join(map(_own, names))
    return Markup(_MODULE_WORDS.sub("", block))  # noqa: S704 - our own script


def _own(name: str) -> Markup:
    """Return one of our own files that lie beside this one; they are trusted."""
    text = files("nnunet_bridge.formats.html").joinpath(name).read_text("utf-8")
    return Markup(text)  # noqa: S704 - our own style and script, not user input
