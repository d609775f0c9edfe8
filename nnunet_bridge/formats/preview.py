"""One picture of a segmented case: three planes through it, with names and volumes.

Each plane shows the slice with the most labelled voxels, by which structures can be
judged at a glance; a frame is as large as the patient, on one scale for all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.image import Colour, Labelmap, Volume
from nnunet_bridge.formats.contact_sheet import EDGED, TEXT_COLOUR, WHITE, font
from nnunet_bridge.formats.files import whole_file
from nnunet_bridge.formats.pictures import (
    PLANES,
    View,
    check_same_grid,
    most_labelled_slice,
    palette,
    view_of,
    window,
    windowed,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

_WIDTH = 1500
_HEIGHT = 760
"""The largest room for the three frames, in pixels."""

_FEWEST = 900
"""No sheet is narrower: the legend needs room."""

_GAP = 8
_HEADING = 28
_LINE = 24
_FILL, _EDGE = 0.30, 0.95
"""How much of a structure's colour covers the image inside it, and along its edge."""

Rgb = npt.NDArray[np.uint8]


def write_preview(
    file: Path, volume: Volume, labelmap: Labelmap, *, title: str = ""
) -> None:
    """Write three planes of an image with its labels over it, as PNG.

    Parameters
    ----------
    file : Path
        Where the picture goes; whole or absent.
    volume : Volume
        The image.
    labelmap : Labelmap
        On the same grid.
    title : str
        Stands above the frames.

    Raises
    ------
    GeometryError
        If image and labels do not lie on the same grid.
    """
    check_same_grid(volume, labelmap)
    views = [view_of(volume.grid, plane) for plane in PLANES]
    picture = _Preview.of(views, volume, labelmap).drawn(volume, labelmap, title)
    with whole_file(file) as temporary:
        picture.save(temporary, format="png", optimize=True)


@dataclass(frozen=True, slots=True)
class _Preview:
    """Where the frames and the legend stand."""

    views: tuple[View, ...]
    sizes: tuple[tuple[int, int], ...]
    """Width and height of each frame, in pixels."""

    entries: tuple[tuple[Colour, str], ...]
    width: int

    @classmethod
    def of(cls, views: list[View], volume: Volume, labelmap: Labelmap) -> _Preview:
        shape = volume.grid.shape
        sizes_mm = [
            (shape[v.across] * v.pixel_mm[0], shape[v.down] * v.pixel_mm[1])
            for v in views
        ]
        scale = min(
            _WIDTH / sum(width for width, _ in sizes_mm),
            _HEIGHT / max(height for _, height in sizes_mm),
        )
        sizes = tuple(
            (max(1, round(width * scale)), max(1, round(height * scale)))
            for width, height in sizes_mm
        )
        wide = sum(width for width, _ in sizes) + _GAP * (len(sizes) + 1)
        entries = tuple(_entries(labelmap, labelmap.volumes_mm3()))
        return cls(tuple(views), sizes, entries, max(wide, _FEWEST))

    def drawn(self, volume: Volume, labelmap: Labelmap, title: str) -> Image:
        """Return the whole picture."""
        from PIL import Image, ImageDraw

        lines = self._legend_places()
        frames = max(height for _, height in self.sizes)
        legend_top = _HEADING + frames + _GAP
        height = legend_top + _LINE * (lines[-1][1] + 1) + _GAP
        sheet = Image.new("RGB", (self.width, height))
        pen = ImageDraw.Draw(sheet)
        pen.text((_GAP, _HEADING // 2), title, WHITE, font(15), anchor="lm")
        limits = window(volume.voxels)
        free = self.width - sum(width for width, _ in self.sizes)
        gap = free // (len(self.sizes) + 1)
        left = gap
        for view, size in zip(self.views, self.sizes, strict=True):
            index = most_labelled_slice(view, volume.grid, labelmap)
            top = _HEADING + (frames - size[1]) // 2
            frame = _frame(view, volume, labelmap, index, limits, size)
            sheet.paste(frame, (left, top))
            _letter(pen, view, (left, top), size, index)
            left += size[0] + gap
        for (colour, text), (x, line) in zip(self.entries, lines, strict=True):
            y = legend_top + line * _LINE
            pen.rectangle((x, y + 5, x + 13, y + 18), fill=colour)
            pen.text((x + 20, y + 12), text, WHITE, font(14), anchor="lm")
        return sheet

    def _legend_places(self) -> list[tuple[int, int]]:
        """Return left end and line of every entry of the legend."""
        places, left, line = [], _GAP, 0
        for _, text in self.entries:
            wide = 44 + round(font(14).getlength(text))
            if left > _GAP and left + wide > self.width:
                left, line = _GAP, line + 1
            places.append((left, line))
            left += wide
        return places or [(0, 0)]


def _entries(
    labelmap: Labelmap, volumes_mm3: Mapping[str, float]
) -> list[tuple[Colour, str]]:
    """Return colour and text of every structure, absent ones last."""
    found, absent = [], []
    for label in labelmap.labels:
        cm3 = volumes_mm3[label.name] / 1000
        if cm3:
            digits = 1 if cm3 >= 10 else 2  # noqa: PLR2004 - three figures are enough
            found.append((label.colour, f"{label.name}  {cm3:.{digits}f} cm3"))
        else:
            absent.append(((60, 60, 60), f"{label.name}  not found"))
    return found + absent


def _frame(
    view: View,
    volume: Volume,
    labelmap: Labelmap,
    index: int,
    limits: tuple[float, float],
    size: tuple[int, int],
) -> Image:
    """Return one slice in the size of its frame."""
    from PIL import Image

    grey = windowed(view.picture(volume.voxels, index), limits)
    shown = np.ascontiguousarray(view.picture(labelmap.voxels, index))
    image = Image.fromarray(np.ascontiguousarray(grey))
    labels = Image.fromarray(shown.astype(np.uint8))
    grey = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    values = np.asarray(labels.resize(size, Image.Resampling.NEAREST))
    picture = np.stack([grey] * 3, axis=-1).astype(np.float64)
    share = np.where(_edges(values), _EDGE, _FILL) * (values > 0)
    colours = palette(labelmap.labels)[values]
    picture += share[..., np.newaxis] * (colours - picture)
    return Image.fromarray(picture.round().astype(np.uint8))


def _edges(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return where a structure ends: at pixels whose neighbour is something else."""
    edges = np.zeros(values.shape, bool)
    for axis in (0, 1):
        differs = np.diff(values, axis=axis) != 0
        before = [slice(None)] * 2
        after = [slice(None)] * 2
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        edges[tuple(before)] |= differs
        edges[tuple(after)] |= differs
    return edges


def _letter(
    pen: ImageDraw,
    view: View,
    corner: tuple[int, int],
    size: tuple[int, int],
    index: int,
) -> None:
    """Write the name of a frame and what lies at its edges."""
    left, top = corner
    right, bottom = left + size[0], top + size[1]
    middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
    heading = (left + 4, top + 4)
    pen.text(heading, f"{view.plane} {index}", WHITE, font(13), **EDGED)
    places = (
        ((left + 4, middle_y), "lm"),
        ((right - 4, middle_y), "rm"),
        ((middle_x, top + 4), "ma"),
        ((middle_x, bottom - 4), "md"),
    )
    for letter, (place, anchor) in zip(view.letters, places, strict=True):
        pen.text(place, letter, TEXT_COLOUR, font(14), anchor=anchor, **EDGED)
