"""The user's choices for a series: which images, and what may be changed."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SeriesOptions:
    """Choices among images, and permissions to change them.

    By default nothing is changed. The names are those of ``[scans]`` in a recipe.
    """

    series: str | None = None  # number, description or UID of the series
    image_type: str | tuple[str, ...] | None = None
    """Contrast of a mixed series: a word of *Image Type* such as ``WATER``, or one of
    several."""

    echo: int | None = None
    """*Echo Number(s)* of the images; by rising echo time where numbers lack."""

    echo_time_ms: float | None = None  # echo time of the images, nearest to this one
    repetition: str | None = None
    """Acquisition, where several hold the same places: ``acquisition 2``, or ``2``."""

    overlap: Literal["refuse", "first", "mean"] = "refuse"
    """Image to use where two stations of one grid overlap (D09)."""

    invert_monochrome1: bool = False
    """Whether to invert a series whose smallest value is white (P03)."""

    pixel_spacing_mm: tuple[float, float] | None = None
    """Between rows, then between columns, for headers without it (G12)."""

    resample: Literal["never", "uneven", "sheared", "any"] = "never"
    """Stacks to interpolate onto a regular, upright grid (G06, G07)."""

    channel: str = ""  # the channel that is read, of an image with several

    @staticmethod
    def how_to(name: str, value: str = "") -> str:
        """Return how a user sets an option, in the recipe or on the command line.

        Examples
        --------
        >>> SeriesOptions.how_to("image_type")
        '`image_type` in [scans], or `--image-type`'
        """
        word = f"--{name.replace('_', '-')}".removesuffix("-mm").removesuffix("-ms")
        set_to = f' = "{value}"' if value else ""
        return f"`{name}{set_to}` in [scans], or `{word}{value and ' '}{value}`"

    def way_to_choose(self, name: str) -> str:
        """Return how a user chooses among the images that fit."""
        if self.channel:
            return f"`{name}` in [channels.{self.channel}] of the recipe"
        return self.how_to(name)

    def may_resample(self, kind: Literal["uneven", "sheared"]) -> bool:
        """Whether such a stack may be interpolated."""
        return self.resample in (kind, "any")
