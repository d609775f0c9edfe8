"""What a user may decide about a series: which one, and what may be done to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SeriesOptions:
    """Choices among images, and permissions that are never taken without being given.

    The names are those of ``[scans]`` in a recipe.
    """

    series: str | None = None
    """Which of several series: its number, description or UID."""

    image_type: str | None = None
    """Which contrast of a mixed series: a word of *Image Type* such as ``WATER``."""

    echo: int | None = None
    """Which of several echoes: its *Echo Number(s)*."""

    repetition: str | None = None
    """Which of several acquisitions of one place: ``acquisition 2``, or ``2``."""

    overlap: Literal["refuse", "first", "mean"] = "refuse"
    """What becomes of places that two stations of one grid both hold (D09)."""

    invert_monochrome1: bool = False
    """Whether a series that calls its smallest value white is turned over (P03)."""

    pixel_spacing_mm: tuple[float, float] | None = None
    """Between rows, then between columns; where the header has none (G12)."""

    resample: Literal["never", "uneven", "sheared", "any"] = "never"
    """Which stacks are interpolated onto a regular, upright grid (G06, G07)."""

    @staticmethod
    def how_to(name: str, value: str = "") -> str:
        """Return where a user sets an option: in the recipe, or as a word.

        Examples
        --------
        >>> SeriesOptions.how_to("image_type")
        '`image_type` in [scans], or `--image-type`'
        """
        word = f"--{name.replace('_', '-')}".removesuffix("-mm")
        set_to = f' = "{value}"' if value else ""
        return f"`{name}{set_to}` in [scans], or `{word}{value and ' '}{value}`"

    def may_resample(self, kind: Literal["uneven", "sheared"]) -> bool:
        """Whether such a stack may be interpolated."""
        return self.resample in (kind, "any")
