"""Every n-th slice of an image on one sheet, labels over it, numbered.

Slices keep the shape that they have in the patient and the order in which one scrolls
through them: from the head down, from front to back, from right to left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.image import Colour, Labelmap, Volume
from nnunet_bridge.formats.files import whole_file
from nnunet_bridge.formats.pictures import (
    View,
    blended,
    check_same_grid,
    palette,
    view_of,
    window,
    windowed,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont


class _Edge(TypedDict):
    stroke_width: int
    stroke_fill: Colour


MOST_FRAMES = 400
"""More frames than this on one sheet show nothing."""

_FRAME_PIXELS = 220
"""Longest side of a frame."""

_GAP = 4
_SCREEN = 1.6
"""Width of a sheet for its height, about."""

_LEGEND_PIXELS = 26
TEXT_COLOUR = (255, 209, 102)
WHITE = (235, 235, 235)
EDGED: _Edge = {"stroke_width": 1, "stroke_fill": (0, 0, 0)}
"""Letters have a black edge, so that they are read on white as well."""

Rgb = npt.NDArray[np.uint8]


def write_contact_sheet(
    file: Path, volume: Volume, labelmap: Labelmap | None, *, plane: str, every: int
) -> tuple[int, ...]:
    """Write every `every`-th slice on one sheet, as PNG; return their indices.

    Parameters
    ----------
    file : Path
        Where the picture goes; whole or absent.
    volume : Volume
        The image.
    labelmap : Labelmap or None
        On the same grid.
    plane : str
        ``axial``, ``coronal`` or ``sagittal``, by the nearest axes of the patient.
    every : int
        1 shows all slices, from the first of the array.

    Raises
    ------
    GeometryError
        If image and labels do not lie on the same grid.
    UsageError
        If `every` is below 1, or the sheet would have more than `MOST_FRAMES`.
    """
    if every < 1:
        raise UsageError(f"Every {every}-th slice is none: give a number from 1.")
    check_same_grid(volume, labelmap)
    view = view_of(volume.grid, plane)
    indices = list(range(0, volume.grid.shape[view.through], every))
    if len(indices) > MOST_FRAMES:
        raise UsageError(
            f"{len(indices)} slices do not fit one sheet of {MOST_FRAMES}: show every "
            f"{math.ceil(every * len(indices) / MOST_FRAMES)}-th."
        )
    if view.flip_through:
        indices.reverse()
    sheet = _Sheet.of(view, volume, len(indices))
    picture = sheet.drawn(volume, labelmap, indices)
    with whole_file(file) as temporary:
        picture.save(temporary, format="png", optimize=True)
    return tuple(indices)


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Where the frames stand."""

    view: View
    width: int
    """Of a frame, in pixels; pixels are square in mm."""

    height: int
    columns: int
    rows: int

    @classmethod
    def of(cls, view: View, volume: Volume, frames: int) -> _Sheet:
        """Return a sheet of about the shape of a screen."""
        across_mm = volume.grid.shape[view.across] * view.pixel_mm[0]
        down_mm = volume.grid.shape[view.down] * view.pixel_mm[1]
        scale = _FRAME_PIXELS / max(across_mm, down_mm)
        width, height = max(1, round(across_mm * scale)), max(1, round(down_mm * scale))
        columns = _columns(frames, math.sqrt(_SCREEN * frames * height / width))
        return cls(view, width, height, columns, -(-frames // columns))

    def drawn(
        self, volume: Volume, labelmap: Labelmap | None, indices: list[int]
    ) -> Image:
        """Return the whole sheet."""
        from PIL import Image, ImageDraw

        legend = _LEGEND_PIXELS if labelmap is not None else 0
        size = (
            self.columns * (self.width + _GAP) + _GAP,
            self.rows * (self.height + _GAP) + _GAP + legend,
        )
        sheet = Image.new("RGB", size)
        pen = ImageDraw.Draw(sheet)
        limits = window(volume.voxels)
        for place, index in enumerate(indices):
            row, column = divmod(place, self.columns)
            left = _GAP + column * (self.width + _GAP)
            top = _GAP + row * (self.height + _GAP)
            frame = self._frame(volume, labelmap, index, limits)
            sheet.paste(frame, (left, top))
            self._write(pen, left, top, index)
        if labelmap is not None:
            _write_legend(pen, labelmap, size[1] - _LEGEND_PIXELS)
        return sheet

    def _frame(
        self,
        volume: Volume,
        labelmap: Labelmap | None,
        index: int,
        limits: tuple[float, float],
    ) -> Image:
        from PIL import Image

        grey = windowed(self.view.picture(volume.voxels, index), limits)
        picture: Rgb = np.stack([grey] * 3, axis=-1)
        if labelmap is not None:
            shown = self.view.picture(labelmap.voxels, index)
            picture = blended(picture, palette(labelmap.labels)[shown], shown > 0)
        height, width = picture.shape[:2]
        frame = Image.frombytes("RGB", (width, height), picture.tobytes())
        shrinks = width > self.width or height > self.height
        how = Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST
        return frame.resize((self.width, self.height), how)

    def _write(self, pen: ImageDraw, left: int, top: int, index: int) -> None:
        """Write the number of a frame and what lies at its edges."""
        script = font(11)
        pen.text((left + 3, top + 2), str(index), WHITE, script, **EDGED)
        right, bottom = left + self.width, top + self.height
        middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
        places = (
            ((left + 3, middle_y), "lm"),
            ((right - 3, middle_y), "rm"),
            ((middle_x, top + 2), "ma"),
            ((middle_x, bottom - 2), "md"),
        )
        for letter, (place, anchor) in zip(self.view.letters, places, strict=True):
            pen.text(place, letter, TEXT_COLOUR, script, anchor=anchor, **EDGED)


def _columns(frames: int, wanted: float) -> int:
    """Return about as many columns as wanted, with few places left empty.

    Examples
    --------
    >>> _columns(12, 4.6), _columns(10, 4.6), _columns(1, 1.3)
    (4, 5, 1)
    """
    near = range(max(1, int(wanted) - 1), int(wanted) + 3)
    able = [columns for columns in near if columns <= frames] or [frames]
    return min(able, key=lambda n: (-frames % n, abs(n - wanted)))


def _write_legend(pen: ImageDraw, labelmap: Labelmap, top: int) -> None:
    """Name the colours below the frames."""
    left, script = 8, font(13)
    for label in labelmap.labels:
        pen.rectangle((left, top + 7, left + 12, top + 19), fill=label.colour)
        pen.text((left + 18, top + 13), label.name, WHITE, script, anchor="lm")
        left += 36 + round(script.getlength(label.name))


def font(size: int) -> FreeTypeFont | ImageFont:
    """Return the font of all that is written into pictures."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
