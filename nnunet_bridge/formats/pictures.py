"""Slices as pictures: planes, window, overlay, outlines, letters and legend.

Pictures follow the radiological convention: the patient's right is on the left of an
axial or coronal picture, the front on top of an axial and on the left of a sagittal
one, the head on top of a coronal and a sagittal one. A tilted image is shown by its own
rows and columns, each named after the nearest axis of the patient.

Slices are counted as array indices, from 0. Every picture of the package is drawn with
these functions: `preview` writes files, `sprites` the slices inside a page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import GeometryError, UsageError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Colour, Labelmap, LabelTable, Volume, VoxelArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

Pixels: TypeAlias = npt.NDArray[np.uint8]
Size: TypeAlias = tuple[int, int]  # width and height in pixels
PLANES = ("axial", "coronal", "sagittal")

LETTERS: Mapping[str, str] = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}
"""Sides of the patient at the left, right, top and bottom of a picture."""

WINDOW_PERCENTILES = (0.5, 99.5)  # intensities shown as black and white
_SEEN = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
"""Patient axes (x, y, z) that run across, down and through the pictures of a plane."""

_SHOWN_FORWARDS = (True, True, False)
"""Along x and y pictures follow LPS+ (to the left, to the back); along z they go
down."""

_FILL, _EDGE = 0.30, 0.95
"""Opacity of a structure's colour inside it, and along its edge."""

_GAP = 4
_MARGIN = 8
_TITLE_HEIGHT = 28
_LINE = 24  # height of a line of the legend

WHITE = (235, 235, 235)
_YELLOW = (255, 209, 102)


_EDGED: dict[str, Any] = {"stroke_width": 1, "stroke_fill": (0, 0, 0)}
"""Letters have a black edge, so that they can be read on white as well."""


@dataclass(frozen=True, slots=True)
class View:
    """How the slices of a grid are laid out as pictures of one plane."""

    plane: str
    across: int  # array axis that runs from left to right
    down: int  # array axis that runs from top to bottom
    through: int  # array axis that one scrolls along
    flip_across: bool  # whether the array axis runs the other way
    flip_down: bool
    flip_through: bool  # whether the first slice of the array is the last to show
    pixel_mm: tuple[float, float]  # width and height of a pixel

    @property
    def letters(self) -> str:
        """Sides of the patient at the left, right, top, bottom, such as ``RLAP``."""
        return LETTERS[self.plane]

    def picture(self, voxels: VoxelArray, index: int) -> VoxelArray:
        """Return the (rows, columns) picture of one slice of an (I, J, K) array."""
        picture: VoxelArray = np.take(voxels, index, axis=self.through)
        if self.across < self.down:
            picture = picture.T
        if self.flip_down:
            picture = picture[::-1]
        return picture[:, ::-1] if self.flip_across else picture

    def size_mm(self, shape: Sequence[int]) -> tuple[float, float]:
        """Return width and height of the pictures of an array of that shape."""
        width_mm, height_mm = self.pixel_mm
        return shape[self.across] * width_mm, shape[self.down] * height_mm


def view_of(grid: Grid, plane: str) -> View:
    """Return the layout of one plane's slices; UsageError for an unknown plane.

    Examples
    --------
    >>> view = view_of(Grid((4, 5, 6), np.diag([-0.5, 0.5, 3.0, 1.0])), "axial")
    >>> view.letters, view.through, view.flip_across, view.flip_down
    ('RLAP', 2, True, False)
    """
    if plane not in PLANES:
        raise UsageError(f"Unknown plane {plane!r}: choose one of {', '.join(PLANES)}.")
    axis_of, runs_forwards = grid.array_axes
    x_across, x_down, x_through = _SEEN[plane]
    pairs = zip(runs_forwards, _SHOWN_FORWARDS, strict=True)
    flip = [runs != shown for runs, shown in pairs]
    across, down = axis_of[x_across], axis_of[x_down]
    return View(
        plane=plane,
        across=across,
        down=down,
        through=axis_of[x_through],
        flip_across=flip[x_across],
        flip_down=flip[x_down],
        flip_through=flip[x_through],
        pixel_mm=(float(grid.spacing_mm[across]), float(grid.spacing_mm[down])),
    )


def most_labelled_slice(view: View, grid: Grid, labelmap: Labelmap | None) -> int:
    """Return the slice with the most labelled voxels; the middle one without any."""
    if labelmap is not None:
        others = tuple(axis for axis in range(3) if axis != view.through)
        counts = np.count_nonzero(labelmap.voxels, axis=others)
        if counts.any():
            return int(counts.argmax())
    return grid.shape[view.through] // 2


def window(voxels: VoxelArray) -> tuple[float, float]:
    """Return the intensities to show as black and white."""
    sample = voxels.ravel(order="K")[:: max(1, voxels.size // 1_000_000)]
    low, high = np.percentile(sample, WINDOW_PERCENTILES)
    return float(low), float(max(high, low + 1e-6))


def windowed(picture: VoxelArray, limits: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Return a picture as grey values 0..255."""
    low, high = limits
    share = (picture.astype(np.float64) - low) / (high - low)
    grey: npt.NDArray[np.uint8] = (share.clip(0, 1) * 255).round().astype(np.uint8)
    return grey


def check_same_grid(volume: Volume, labelmap: Labelmap | None) -> None:
    """Refuse labels that do not lie where the image lies."""
    if labelmap is None or volume.grid.matches(labelmap.grid, tolerance_mm=0.1):
        return
    image, labels = volume.grid, labelmap.grid
    if image.shape != labels.shape:
        fault = f"The image has {image.shape} voxels, the labels {labels.shape}"
    else:
        apart = f"{image.displacement_mm(labels):.2f} mm apart"
        fault = f"Image and labels have the same shape but lie {apart}"
    raise GeometryError(f"{fault}: put the labels on the grid of the image first.")


def palette(labels: LabelTable) -> npt.NDArray[np.uint8]:
    """Return the colour of every value: black, the structures, grey for ignore."""
    rows = [(0, 0, 0), *(label.colour for label in labels)]
    if labels.has_ignore:
        rows.append((110, 110, 110))
    return np.array(rows, dtype=np.uint8)


def fitted(size_mm: tuple[float, float], most: tuple[float, float]) -> Size:
    """Return the size in pixels of a picture that fits into `most`, square in mm."""
    scale = min(most[0] / size_mm[0], most[1] / size_mm[1])
    return max(1, round(size_mm[0] * scale)), max(1, round(size_mm[1] * scale))


def grey_frame(picture: VoxelArray, limits: tuple[float, float], size: Size) -> Image:
    """Return a slice of an image in the size of its frame.

    Averaged where it shrinks, so that thin structures do not vanish; smoothed where it
    grows.
    """
    from PIL import Image

    rows, columns = picture.shape
    shrinks = columns > size[0] or rows > size[1]
    how = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    grey = Image.fromarray(np.ascontiguousarray(windowed(picture, limits)))
    return grey.resize(size, how)


def label_frame(picture: VoxelArray, size: Size) -> Pixels:
    """Return a slice of a labelmap in the size of its frame: nearest neighbour."""
    from PIL import Image

    values = Image.fromarray(np.ascontiguousarray(picture.astype(np.uint8)))
    return np.asarray(values.resize(size, Image.Resampling.NEAREST))


def overlay(grey: Image, values: Pixels, colours: Pixels) -> Image:
    """Return labels over an image: a thin fill, and an edge that is nearly opaque."""
    from PIL import Image

    picture = np.repeat(np.asarray(grey)[..., np.newaxis], 3, axis=2).astype(np.float32)
    share = np.where(outline(values, 1), _EDGE, _FILL) * (values > 0)
    picture += share[..., np.newaxis] * (colours[values] - picture)
    return Image.fromarray(picture.round().astype(np.uint8))


def outline(values: Pixels, reach: int) -> Pixels:
    """Return 1 on the pixels of a label that are near another value, 0 elsewhere.

    Examples
    --------
    >>> outline(np.pad(np.ones((5, 5), np.uint8), 1), 2)[3].tolist()
    [0, 1, 1, 0, 1, 1, 0]
    """
    height, width = values.shape
    padded = np.pad(values, reach, mode="edge")
    inner = np.ones(values.shape, dtype=bool)
    for rows, columns in product(range(2 * reach + 1), repeat=2):
        neighbour = padded[rows : rows + height, columns : columns + width]
        inner &= neighbour == values
    edge: Pixels = ((values > 0) & ~inner).astype(np.uint8)
    return edge


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture on a sheet."""

    picture: Image
    caption: str = ""
    letters: str = ""  # of the patient's sides at its left, right, top and bottom edge


Legend: TypeAlias = Sequence[tuple[Colour, str]]  # colour and name of every structure


def legend_of(labels: LabelTable) -> Legend:
    """Return the legend that names every structure."""
    return [(label.colour, label.name) for label in labels]


def drawn_sheet(
    frames: Sequence[Frame],
    columns: int,
    *,
    title: str = "",
    legend: Legend = (),
    least_width: int = 0,
) -> Image:
    """Return frames in rows on black, with a title above and a legend below."""
    from PIL import Image, ImageDraw

    wide = max(frame.picture.width for frame in frames)
    tall = max(frame.picture.height for frame in frames)
    width = max(columns * (wide + _GAP) + _GAP, least_width)
    top = _TITLE_HEIGHT if title else 0
    below = top + -(-len(frames) // columns) * (tall + _GAP) + _GAP
    places = _legend_places(legend, width)
    lines = places[-1][1] + 1 if places else 0
    sheet = Image.new("RGB", (width, below + lines * _LINE))
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP + 4, top // 2), title, WHITE, font(15), anchor="lm")
    step = (width - _GAP) / columns
    for place, frame in enumerate(frames):
        row, column = divmod(place, columns)
        room = round(step) - _GAP - frame.picture.width
        left = _GAP + round(column * step) + room // 2
        down = _GAP + top + row * (tall + _GAP) + (tall - frame.picture.height) // 2
        sheet.paste(frame.picture, (left, down))
        _annotate(pen, frame, left, down)
    for (colour, text), (left, line) in zip(legend, places, strict=True):
        middle = below + line * _LINE + _LINE // 2
        pen.rectangle((left, middle - 6, left + 12, middle + 6), fill=colour)
        pen.text((left + 19, middle), text, WHITE, font(14), anchor="lm")
    return sheet


def _legend_places(legend: Legend, width: int) -> list[tuple[int, int]]:
    """Return left end and line of every entry of the legend."""
    places = []
    left, line = _MARGIN, 0
    for _, text in legend:
        wide = 40 + round(font(14).getlength(text))
        if left > _MARGIN and left + wide > width:
            left, line = _MARGIN, line + 1
        places.append((left, line))
        left += wide
    return places


def _annotate(pen: ImageDraw, frame: Frame, left: int, top: int) -> None:
    """Write the caption of a frame and the sides of the patient at its edges."""
    right, bottom = left + frame.picture.width, top + frame.picture.height
    middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
    pen.text((left + 4, top + 3), frame.caption, WHITE, font(13), **_EDGED)
    across = (left + 4, middle_y), (right - 4, middle_y)
    places = (*across, (middle_x, top + 3), (middle_x, bottom - 4))
    sides = zip(frame.letters, places, ("lm", "rm", "ma", "md"), strict=False)
    for letter, place, anchor in sides:
        pen.text(place, letter, _YELLOW, font(14), anchor=anchor, **_EDGED)


def font(size: int) -> FreeTypeFont | ImageFont:
    """Return the font of all text in pictures."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def data_uri(picture: Image, kind: str, **options: object) -> str:
    """Return a picture as a ``data:`` address, which needs no file."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
