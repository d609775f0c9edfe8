"""Slices of a case as sprites: many frames in one picture, carried inside the page.

The image is a grey JPEG, because a lossless one of a noisy MRI would weigh five times
as much and nobody measures on the page. Labels are lossless PNG, transparent where
nothing is, at twice the size of the image so that outlines stay thin.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.image import Colour, Labelmap, Volume, VoxelArray
from nnunet_bridge.formats.pictures import (
    View,
    check_same_grid,
    palette,
    view_of,
    window,
    windowed,
)

if TYPE_CHECKING:
    from PIL.Image import Image

Box: TypeAlias = tuple[tuple[int, int], ...]
"""First and past-the-last index along i, j and k."""

Pixels: TypeAlias = npt.NDArray[np.uint8]

MARGIN_MM = 12.0
"""How much is shown around the labels."""

LABEL_SCALE = 2
"""Pixels of a label frame for one pixel of an image frame."""

OUTLINE_PIXELS = 2
"""Thickness of an outline; it lies inside the structure."""

JPEG_QUALITY = 82
FILL_OPACITY = 120
"""Of the filled reference, 0..255."""

DISAGREEMENT = "disagreement"
"""Name of the layer that shows where labelmaps differ."""

DISAGREEMENT_OPACITY = 220
MODEL_COLOURS: tuple[Colour, ...] = (
    (92, 184, 242),
    (255, 157, 69),
    (63, 207, 159),
    (236, 156, 201),
)
"""Colours of the models on black, in their order; the style sheet has the same."""

SEVERAL_COLOUR: Colour = (226, 26, 138)
"""Where more than one model differs from the reference."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One toggle of the slice viewer."""

    name: str
    """``reference``, or the name of a model."""

    sprite: str
    """``data:`` address of a PNG with all frames, transparent where nothing is."""

    kind: str
    """``filled`` and ``disagreement`` bring their colours, ``outline`` is white."""


@dataclass(frozen=True, slots=True)
class SliceStack:
    """The slices of one case in one plane, as sprites for the page."""

    plane: str
    letters: str
    """What lies left, right, top and bottom, such as ``RLAP``."""

    width: int
    """Of one frame, in pixels; pixels are square."""

    height: int
    columns: int
    """Frames in one row of the sprite."""

    indices: tuple[int, ...]
    """Array index of each frame, from the first shown to the last."""

    start: int
    """Frame to show first: the one with most labels."""

    image: str
    """``data:`` address of the grey JPEG with all frames."""

    layers: tuple[Layer, ...]
    """The reference filled, where predictions differ from it, then their outlines."""


@dataclass(frozen=True, slots=True)
class SlicePicture:
    """One slice of a case, for a page that needs no viewer."""

    plane: str
    letters: str
    index: int
    """Along the array, from 0."""

    width: int
    height: int
    image: str
    layers: tuple[Layer, ...]
    """Reference and prediction filled, and where they differ."""

    @property
    def panels(self) -> tuple[tuple[str, str], ...]:
        """Return name and sprite of each panel; the first is the image alone."""
        return (("image", ""), *((layer.name, layer.sprite) for layer in self.layers))


def slice_stack(
    volume: Volume,
    reference: Labelmap,
    predictions: Mapping[str, Labelmap],
    *,
    plane: str,
    frames: int = 32,
    longest_side: int = 256,
) -> SliceStack:
    """Return the part of an image that holds labels, as sprites of one plane.

    Parameters
    ----------
    volume : Volume
        The image.
    reference : Labelmap
        What a person drew, on the same grid; drawn filled, in its colours.
    predictions : mapping
        Model name -> labelmap on the same grid; drawn as white outlines, so that the
        page can give them the colour of the model.
    plane : str
        ``axial``, ``coronal`` or ``sagittal``.
    frames : int
        At most so many slices, evenly spaced.
    longest_side : int
        Of a frame, in pixels.

    Raises
    ------
    GeometryError
        If one of them lies on another grid.
    """
    labelmaps = [reference, *predictions.values()]
    for labelmap in labelmaps:
        check_same_grid(volume, labelmap)
    view, box = view_of(volume.grid, plane), labelled_box(labelmaps)
    indices = _evenly_spaced(box[view.through], frames)
    if view.flip_through:
        indices = indices[::-1]
    sheet = _Sheet(view, box, indices, _frame_size(view, box, longest_side))
    return SliceStack(
        plane=plane,
        letters=view.letters,
        width=sheet.size[0],
        height=sheet.size[1],
        columns=sheet.columns,
        indices=tuple(indices),
        start=_richest(view, reference, indices),
        image=sheet.image(volume),
        layers=(
            Layer("reference", sheet.filled(reference), "filled"),
            *_disagreement(sheet, reference, list(predictions.values())),
            *(
                Layer(name, sheet.outlined(found), "outline")
                for name, found in predictions.items()
            ),
        ),
    )


def slice_picture(
    volume: Volume,
    reference: Labelmap,
    prediction: Labelmap,
    *,
    plane: str,
    index: int,
    longest_side: int = 320,
) -> SlicePicture:
    """Return one slice: image, reference and prediction filled, and their difference.

    Parameters
    ----------
    volume, reference, prediction : Volume, Labelmap, Labelmap
        On one grid.
    plane : str
        ``axial``, ``coronal`` or ``sagittal``.
    index : int
        Along the array, from 0.
    longest_side : int
        Of the picture, in pixels.

    Raises
    ------
    GeometryError
        If one of them lies on another grid.
    """
    for labelmap in (reference, prediction):
        check_same_grid(volume, labelmap)
    view = view_of(volume.grid, plane)
    box = labelled_box([reference, prediction])
    sheet = _Sheet(view, box, [index], _frame_size(view, box, longest_side))
    return SlicePicture(
        plane=plane,
        letters=view.letters,
        index=index,
        width=sheet.size[0],
        height=sheet.size[1],
        image=sheet.image(volume),
        layers=(
            Layer("reference", sheet.filled(reference), "filled"),
            Layer("prediction", sheet.filled(prediction), "filled"),
            *_disagreement(sheet, reference, [prediction]),
        ),
    )


def disagreement(reference: Labelmap, predictions: Sequence[Labelmap]) -> Pixels:
    """Return where predictions differ from the reference, and which of them do.

    Returns
    -------
    which : (I, J, K) uint8
        0 where none differs, m + 1 where only the m-th does, n + 1 where several of
        the n do.
    """
    which = np.zeros(reference.voxels.shape, dtype=np.uint8, order="F")
    for place, prediction in enumerate(predictions, start=1):
        wrong = prediction.voxels != reference.voxels
        which[wrong] = np.where(which[wrong] == 0, place, len(predictions) + 1)
    return which


def _disagreement(
    sheet: _Sheet, reference: Labelmap, predictions: Sequence[Labelmap]
) -> tuple[Layer, ...]:
    if not predictions:
        return ()
    colours = [MODEL_COLOURS[n % len(MODEL_COLOURS)] for n in range(len(predictions))]
    which = disagreement(reference, predictions)
    sprite = sheet.coloured(which, [*colours, SEVERAL_COLOUR])
    return (Layer(DISAGREEMENT, sprite, "disagreement"),)


def labelled_box(labelmaps: Sequence[Labelmap]) -> Box:
    """Return the box around all labels with a margin; the whole grid without any."""
    grid = labelmaps[0].grid
    labelled = np.logical_or.reduce([found.voxels > 0 for found in labelmaps])
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(labelled.any(axis=others))
        if not used.size:
            return tuple((0, size) for size in grid.shape)
        margin = round(MARGIN_MM / float(grid.spacing_mm[axis]))
        first, last = int(used[0]) - margin, int(used[-1]) + margin
        box.append((max(0, first), min(grid.shape[axis], last + 1)))
    return tuple(box)


@dataclass(frozen=True, slots=True)
class _Sheet:
    """The frames of one plane, side by side in one picture."""

    view: View
    box: Box
    indices: Sequence[int]
    size: tuple[int, int]
    """Width and height of an image frame in pixels."""

    @property
    def columns(self) -> int:
        """Return how many frames stand in a row: about as many as there are rows."""
        return max(1, int(np.ceil(np.sqrt(len(self.indices)))))

    def image(self, volume: Volume) -> str:
        """Return the grey sprite."""
        from PIL.Image import Resampling

        limits = window(volume.voxels)
        sheet = self._sheet("L", 1)
        for place, picture in self._pictures(volume.voxels):
            frame = _picture("L", windowed(picture, limits))
            smooth = frame.resize(
                self.size,
                Resampling.BOX if self._shrinks(picture) else Resampling.BICUBIC,
            )
            sheet.paste(smooth, self._corner(place, 1))
        return _data_uri(sheet, "jpeg")

    def filled(self, labelmap: Labelmap) -> str:
        """Return the sprite of coloured, half-transparent structures."""
        sheet = self._sheet("P", LABEL_SCALE)
        self._paste_labels(sheet, labelmap.voxels, lambda values: values)
        sheet.putpalette(palette(labelmap.labels).tobytes())
        opacity = bytes([0] + [FILL_OPACITY] * len(labelmap.labels))
        return _data_uri(sheet, "png", transparency=opacity)

    def outlined(self, labelmap: Labelmap) -> str:
        """Return the sprite of white outlines."""
        sheet = self._sheet("P", LABEL_SCALE)
        self._paste_labels(sheet, labelmap.voxels, outline)
        sheet.putpalette(bytes([0, 0, 0, 255, 255, 255]))
        return _data_uri(sheet, "png", transparency=bytes([0, 255]))

    def coloured(self, values: Pixels, colours: Sequence[Colour]) -> str:
        """Return the sprite of an array of values 1..n in their colours."""
        sheet = self._sheet("P", LABEL_SCALE)
        self._paste_labels(sheet, values, lambda frame: frame)
        sheet.putpalette(bytes([0, 0, 0, *(part for c in colours for part in c)]))
        opacity = bytes([0] + [DISAGREEMENT_OPACITY] * len(colours))
        return _data_uri(sheet, "png", transparency=opacity)

    def _paste_labels(
        self, sheet: Image, voxels: VoxelArray, drawn: Callable[[Pixels], Pixels]
    ) -> None:
        from PIL.Image import Resampling

        large = (self.size[0] * LABEL_SCALE, self.size[1] * LABEL_SCALE)
        for place, picture in self._pictures(voxels):
            values = _picture("L", picture.astype(np.uint8))
            resized = np.asarray(values.resize(large, Resampling.NEAREST))
            sheet.paste(_picture("P", drawn(resized)), self._corner(place, LABEL_SCALE))

    def _pictures(self, voxels: VoxelArray) -> list[tuple[int, VoxelArray]]:
        """Return place and cropped picture of every frame."""
        cropped = voxels[tuple(slice(first, last) for first, last in self.box)]
        first = self.box[self.view.through][0]
        return [
            (place, self.view.picture(cropped, index - first))
            for place, index in enumerate(self.indices)
        ]

    def _shrinks(self, picture: VoxelArray) -> bool:
        rows, columns = picture.shape
        return bool(rows > self.size[1] or columns > self.size[0])

    def _sheet(self, mode: str, scale: int) -> Image:
        from PIL import Image

        rows = -(-len(self.indices) // self.columns)
        width, height = self.size
        return Image.new(mode, (self.columns * width * scale, rows * height * scale))

    def _corner(self, place: int, scale: int) -> tuple[int, int]:
        row, column = divmod(place, self.columns)
        return column * self.size[0] * scale, row * self.size[1] * scale


def outline(values: Pixels) -> Pixels:
    """Return 1 on the pixels of a label that are near another value, 0 elsewhere.

    Examples
    --------
    >>> outline(np.pad(np.ones((5, 5), np.uint8), 1))[3].tolist()
    [0, 1, 1, 0, 1, 1, 0]
    """
    height, width = values.shape
    reach = OUTLINE_PIXELS
    padded = np.pad(values, reach, mode="edge")
    inner = np.ones(values.shape, dtype=bool)
    for rows, columns in product(range(2 * reach + 1), repeat=2):
        neighbour = padded[rows : rows + height, columns : columns + width]
        inner &= neighbour == values
    edge: Pixels = ((values > 0) & ~inner).astype(np.uint8)
    return edge


def _richest(view: View, labelmap: Labelmap, indices: Sequence[int]) -> int:
    """Return the frame with most labelled voxels."""
    counts = [
        np.count_nonzero(view.picture(labelmap.voxels, index)) for index in indices
    ]
    return int(np.argmax(counts))


def _evenly_spaced(ends: tuple[int, int], most: int) -> list[int]:
    """Return at most `most` indices from first to last, both included."""
    first, past = ends
    count = min(most, past - first)
    return [int(index) for index in np.linspace(first, past - 1, count).round()]


def _frame_size(view: View, box: Box, longest_side: int) -> tuple[int, int]:
    """Return width and height in pixels, so that a pixel is square in mm."""
    (left, right), (top, bottom) = box[view.across], box[view.down]
    width_mm = (right - left) * view.pixel_mm[0]
    height_mm = (bottom - top) * view.pixel_mm[1]
    scale = longest_side / max(width_mm, height_mm)
    return max(1, round(width_mm * scale)), max(1, round(height_mm * scale))


def _picture(mode: str, pixels: Pixels) -> Image:
    from PIL import Image

    height, width = pixels.shape
    return Image.frombytes(
        mode, (width, height), np.ascontiguousarray(pixels).tobytes()
    )


def _data_uri(picture: Image, kind: str, *, transparency: bytes | None = None) -> str:
    """Return a picture as an address that needs no file."""
    stream = io.BytesIO()
    if kind == "jpeg":
        picture.save(stream, "jpeg", quality=JPEG_QUALITY, optimize=True)
    else:
        picture.save(stream, "png", optimize=True, transparency=transparency)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
