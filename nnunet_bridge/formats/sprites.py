"""Slices of a case as sprites: many frames in one picture, carried inside the page.

The image is a grey JPEG, because a lossless one of a noisy MRI would weigh five times
as much and the page is not for measuring. Labels are lossless PNG, transparent where
there are none, at twice the size of the image so that outlines stay thin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from nnunet_bridge.core.image import Colour, Label, Labelmap, Volume, VoxelArray
from nnunet_bridge.formats.pictures import (
    Pixels,
    Size,
    View,
    check_same_grid,
    data_uri,
    fitted,
    grey_frame,
    label_frame,
    outline,
    overlay,
    palette,
    view_of,
    window,
)

if TYPE_CHECKING:
    from PIL.Image import Image

Box: TypeAlias = tuple[tuple[int, int], ...]
"""First and past-the-last index along i, j and k."""

MARGIN_MM = 12.0  # width of the surroundings shown around the labels
LABEL_SCALE = 2  # pixels of a label frame for one pixel of an image frame
OUTLINE_PIXELS = 2  # thickness of an outline; it lies inside the structure
JPEG_QUALITY = 82
FILL_OPACITY = 120  # opacity of the filled reference, 0..255
DISAGREEMENT = "disagreement"  # name of the layer that shows where labelmaps differ
DISAGREEMENT_OPACITY = 220
MODEL_COLOURS: tuple[Colour, ...] = (
    (92, 184, 242),
    (255, 157, 69),
    (63, 207, 159),
    (236, 156, 201),
)
"""Colours of the models on black, in their order; the style sheet has the same."""

_BARS_MM = (200, 100, 50, 20, 10, 5, 2, 1)
_SMALL_SIDE = 112  # pixels of the longest side of a small picture

SEVERAL_COLOUR: Colour = (226, 26, 138)
"""Where more than one model differs from the reference."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One toggle of the slice viewer."""

    name: str  # ``reference``, ``disagreement``, or the name of a model
    sprite: str
    """``data:`` address of a PNG with all frames, transparent where nothing is."""

    kind: str
    """``filled`` and ``disagreement`` bring their colours, ``outline`` is white."""


@dataclass(frozen=True, slots=True)
class SliceStack:
    """The slices of one case in one plane, as `page.js` reads them."""

    plane: str
    letters: str
    """The patient's sides at the left, right, top and bottom, such as ``RLAP``."""

    width: int  # width of one frame, in pixels; pixels are square
    height: int
    columns: int  # frames in one row of the sprite
    indices: tuple[int, ...]
    """Array index of each frame, from the first shown to the last."""

    start: int  # frame to show first: where models differ most
    present: tuple[tuple[int, ...], ...]
    """Label values that the reference or a prediction has in each frame."""

    bar_mm: float  # length of the scale bar, and as a share of the width of a frame
    bar_share: float
    picture: str  # ``data:`` address of a small JPEG of the first frame to show
    image: str  # ``data:`` address of the grey JPEG with all frames
    layers: tuple[Layer, ...]
    """The reference filled, where predictions differ from it, then their outlines."""


@dataclass(frozen=True, slots=True)
class SlicePicture:
    """One slice of a case, for a page that needs no viewer."""

    plane: str
    letters: str
    index: int  # along the array, from 0
    width: int
    height: int
    image: str
    layers: tuple[Layer, ...]  # over the image: reference, prediction, their difference

    @property
    def panels(self) -> tuple[tuple[str, str], ...]:
        """Name and sprite of each panel; the first is the image alone."""
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

    The reference is filled, in the colours of its structures; predictions are white
    outlines, so that the page can give them the colour of the model. At most `frames`
    slices are shown, evenly spaced; the longest side of a frame is in pixels.

    Raises `GeometryError` if one of them lies on another grid.
    """
    found = list(predictions.values())
    labelmaps = [reference, *found]
    sprite = _Sprite.of(volume, labelmaps, plane, longest_side, frames)
    start = sprite.indices.index(sprite.telling)
    bar_mm = next(mm for mm in _BARS_MM if 3 * mm <= sprite.width_mm or mm == 1)
    outlines = {name: sprite.outlined(one) for name, one in predictions.items()}
    return SliceStack(
        plane=plane,
        letters=sprite.view.letters,
        width=sprite.size[0],
        height=sprite.size[1],
        columns=sprite.columns,
        indices=tuple(sprite.indices),
        start=start,
        present=sprite.present(labelmaps),
        bar_mm=bar_mm,
        bar_share=bar_mm / sprite.width_mm,
        picture=_small_picture(sprite, volume, reference, found),
        image=sprite.image(volume),
        layers=(
            Layer("reference", sprite.filled(reference), "filled"),
            *_disagreement(sprite, reference, found),
            *(Layer(name, drawn, "outline") for name, drawn in outlines.items()),
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

    Raises `GeometryError` if one of them lies on another grid.
    """
    labelmaps = [reference, prediction]
    sprite = _Sprite.of(volume, labelmaps, plane, longest_side, [index])
    layers = (
        Layer("reference", sprite.filled(reference), "filled"),
        Layer("prediction", sprite.filled(prediction), "filled"),
        *_disagreement(sprite, reference, [prediction]),
    )
    return _picture(sprite, volume, layers)


def structure_picture(
    volume: Volume,
    reference: Labelmap,
    prediction: Labelmap | None,
    *,
    label: Label,
    plane: str,
    longest_side: int = 320,
) -> SlicePicture:
    """Return the slice in which one structure differs most from its prediction.

    Without a prediction, the slice with most of it. The part around the structure is
    shown: references filled, predictions outlined, those of other structures too.

    Raises `GeometryError` if one of them lies on another grid.
    """
    found = [reference] if prediction is None else [reference, prediction]
    alone = [one.with_voxels(one.voxels * (one.voxels == label.value)) for one in found]
    sprite = _Sprite.of(volume, alone, plane, longest_side, 1)
    layers = [Layer("reference", sprite.filled(reference), "filled")]
    if prediction is not None:
        layers.append(Layer("prediction", sprite.outlined(prediction), "outline"))
    return _picture(sprite, volume, layers)


def _picture(sprite: _Sprite, volume: Volume, layers: Sequence[Layer]) -> SlicePicture:
    """Return the only slice of a sprite."""
    (index,), (width, height), view = sprite.indices, sprite.size, sprite.view
    image, shown = sprite.image(volume), tuple(layers)
    return SlicePicture(view.plane, view.letters, index, width, height, image, shown)


def disagreement(reference: Labelmap, predictions: Sequence[Labelmap]) -> Pixels:
    """Return where predictions differ from the reference, and which of them do.

    The (I, J, K) uint8 array is 0 where none differs, m + 1 where only the m-th does,
    n + 1 where several of the n do.
    """
    which = np.zeros(reference.voxels.shape, dtype=np.uint8, order="F")
    for place, prediction in enumerate(predictions, start=1):
        wrong = prediction.voxels != reference.voxels
        # A voxel that an earlier model got wrong too belongs to "several".
        which[wrong] = np.where(which[wrong] == 0, place, len(predictions) + 1)
    return which


def _disagreement(
    sprite: _Sprite, reference: Labelmap, predictions: Sequence[Labelmap]
) -> tuple[Layer, ...]:
    if not predictions:
        return ()
    which = disagreement(reference, predictions)
    colours = _colours_of_models(len(predictions))
    drawn = sprite.drawn(which, colours, DISAGREEMENT_OPACITY)
    return (Layer(DISAGREEMENT, drawn, "disagreement"),)


def _colours_of_models(count: int) -> list[Colour]:
    """Return the colours of `disagreement`, from 1."""
    own = [MODEL_COLOURS[n % len(MODEL_COLOURS)] for n in range(count)]
    return [*own, SEVERAL_COLOUR]


def _small_picture(
    sprite: _Sprite,
    volume: Volume,
    reference: Labelmap,
    predictions: Sequence[Labelmap],
) -> str:
    """Return the most telling slice with the disagreement, as a small JPEG."""
    size = fitted(sprite.size, (_SMALL_SIDE, _SMALL_SIDE))
    small = replace(sprite, indices=[sprite.telling])
    which = disagreement(reference, predictions)
    (_, image), (_, values) = *small.pictures(volume.voxels), *small.pictures(which)
    grey = grey_frame(image, window(volume.voxels), size)
    table = np.array([(0, 0, 0), *_colours_of_models(len(predictions))], dtype=np.uint8)
    shown = overlay(grey, label_frame(values, size), table)
    return data_uri(shown, "jpeg", quality=75)


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


def _telling_slice(labelmaps: Sequence[Labelmap], box: Box, through: int) -> int:
    """Return the slice in which predictions differ most from each other.

    Without such a difference, the one in which they differ most from the reference;
    without that, the one with most labels.
    """
    inside = tuple(slice(first, past) for first, past in box)
    reference, *predictions = (found.voxels[inside] for found in labelmaps)
    others = tuple(axis for axis in range(3) if axis != through)
    counts = np.zeros(reference.shape[through], dtype=np.intp)
    for pairs in (
        combinations(predictions, 2),
        ((found, reference) for found in predictions),
        [(reference, np.zeros_like(reference))],
    ):
        for one, other in pairs:
            counts += np.count_nonzero(one != other, axis=others)
        if counts.any():
            break
    return box[through][0] + int(counts.argmax())


@dataclass(frozen=True, slots=True)
class _Sprite:
    """The layout of the frames of one plane: row by row in one picture."""

    view: View
    box: Box
    indices: Sequence[int]
    telling: int
    """Slice where predictions differ most from each other, or from the reference."""

    width_mm: float  # of a frame
    size: Size  # size of an image frame; a label frame is `LABEL_SCALE` times as large

    @classmethod
    def of(
        cls,
        volume: Volume,
        labelmaps: Sequence[Labelmap],
        plane: str,
        longest_side: int,
        shown: int | Sequence[int],
    ) -> _Sprite:
        """Return the layout for at most so many frames, or for given slices."""
        for labelmap in labelmaps:
            check_same_grid(volume, labelmap)
        view, box = view_of(volume.grid, plane), labelled_box(labelmaps)
        telling = _telling_slice(labelmaps, box, view.through)
        if isinstance(shown, int):
            first, past = box[view.through]
            count = min(shown, past - first)
            # Both ends are shown; linspace rounds to at most one slice off even steps.
            chosen = np.linspace(first, past - 1, count).round().astype(int).tolist()
            nearest = int(np.argmin(np.abs(np.array(chosen) - telling)))
            chosen[nearest] = telling
            indices = chosen[::-1] if view.flip_through else chosen
        else:
            indices = shown
        size_mm = view.size_mm([past - first for first, past in box])
        size = fitted(size_mm, (longest_side, longest_side))
        return cls(view, box, indices, telling, size_mm[0], size)

    @property
    def columns(self) -> int:
        """Frames in a row: about as many as there are rows.

        A square keeps both sides below the limit of a browser's canvas and decoder.
        """
        return max(1, int(np.ceil(np.sqrt(len(self.indices)))))

    def present(self, labelmaps: Sequence[Labelmap]) -> tuple[tuple[int, ...], ...]:
        """Return the label values in each frame."""
        found: list[set[int]] = [set() for _ in self.indices]
        for labelmap in labelmaps:
            for place, picture in self.pictures(labelmap.voxels):
                found[place] |= set(np.unique(picture).tolist()) - {0}
        return tuple(tuple(sorted(values)) for values in found)

    def image(self, volume: Volume) -> str:
        """Return the grey sprite, all frames in the window of the whole volume."""
        limits = window(volume.voxels)
        sheet = self._sheet("L", 1)
        for place, picture in self.pictures(volume.voxels):
            frame = grey_frame(picture, limits, self.size)
            sheet.paste(frame, self._corner(place, 1))
        return data_uri(sheet, "jpeg", quality=JPEG_QUALITY)

    def filled(self, labelmap: Labelmap) -> str:
        """Return the sprite of coloured, half-transparent structures."""
        colours = palette(labelmap.labels)[1:].tolist()
        return self.drawn(labelmap.voxels, colours, FILL_OPACITY)

    def outlined(self, labelmap: Labelmap) -> str:
        """Return the sprite of white outlines."""
        edges = partial(outline, reach=OUTLINE_PIXELS)
        return self.drawn(labelmap.voxels, [(255, 255, 255)], 255, edges)

    def drawn(
        self,
        voxels: VoxelArray,
        colours: Sequence[Sequence[int]],
        opacity: int,
        shape: Callable[[Pixels], Pixels] = lambda frame: frame,
    ) -> str:
        """Return the sprite of values 0..n, where 0 is transparent."""
        from PIL import Image

        # A palette picture holds the values themselves, one byte a pixel, and the
        # colours once; PNG packs its large flat areas into very little.
        sheet = self._sheet("P", LABEL_SCALE)
        large = self.size[0] * LABEL_SCALE, self.size[1] * LABEL_SCALE
        for place, picture in self.pictures(voxels):
            # Enlarge first, outline afterwards: an outline of 2 label pixels is one
            # image pixel wide whatever the size of a voxel.
            frame = Image.fromarray(shape(label_frame(picture, large)))
            sheet.paste(frame, self._corner(place, LABEL_SCALE))
        flat = [part for colour in [(0, 0, 0), *colours] for part in colour]
        sheet.putpalette(bytes(flat))
        # One opacity for each entry of the palette: the background's is 0.
        transparency = bytes([0, *[opacity] * len(colours)])
        return data_uri(sheet, "png", transparency=transparency)

    def pictures(self, voxels: VoxelArray) -> list[tuple[int, VoxelArray]]:
        """Return place and cropped picture of every frame."""
        cropped = voxels[tuple(slice(first, past) for first, past in self.box)]
        # `indices` count in the whole array, the cropped one starts at the box.
        first = self.box[self.view.through][0]
        return [
            (place, self.view.picture(cropped, index - first))
            for place, index in enumerate(self.indices)
        ]

    def _sheet(self, mode: str, scale: int) -> Image:
        """Return an empty sprite: black, or the transparent value 0."""
        from PIL import Image

        rows = -(-len(self.indices) // self.columns)
        width, height = self.size
        return Image.new(mode, (self.columns * width * scale, rows * height * scale))

    def _corner(self, place: int, scale: int) -> tuple[int, int]:
        """Return left and top of a frame; `page.js` cuts it out by the same rule."""
        row, column = divmod(place, self.columns)
        return column * self.size[0] * scale, row * self.size[1] * scale
