"""Pictures of a case as files: preview, panels of one slice, contact sheet, thumbnail.

Each is written whole or not at all, and refused with a GeometryError where image and
labels do not lie on the same grid.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.core.partly import PartlyDrawn
from nnunet_bridge.formats.files import open_to_write, whole_file
from nnunet_bridge.formats.pictures import (
    PLANES,
    Frame,
    Legend,
    Size,
    View,
    check_same_grid,
    data_uri,
    drawn_sheet,
    fitted,
    grey_frame,
    label_frame,
    legend_of,
    most_labelled_slice,
    overlay,
    palette,
    view_of,
    window,
)
from nnunet_bridge.formats.sprites import labelled_box

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_FRAMES = 400  # frames on one contact sheet; more would be too small to read
THUMBNAIL_SIDE = 600  # longest side of a thumbnail, in pixels
_SMALL = 160  # longest side of `write_small`, in pixels
_PREVIEW = (1500, 760)  # room for the three frames of a preview, in pixels
_PREVIEW_WIDTH = 900  # least width of a preview: the legend needs it
_PANEL = (540, 1100)
_CONTACT, _CONTACT_LONGEST = 220, 440
"""Side of a square frame of a contact sheet; longest side of one that is not."""

_SCREEN = 1.6  # width of a contact sheet for its height, about


def write_preview(
    file: Path, volume: Volume, labelmap: Labelmap, *, title: str = ""
) -> None:
    """Write three planes of an image with its labels over it, as PNG.

    Each plane shows the slice with the most labelled voxels, all on one scale; the
    legend below has the volume of every structure.
    """
    check_same_grid(volume, labelmap)
    views = [view_of(volume.grid, plane) for plane in PLANES]
    sizes_mm = [view.size_mm(volume.grid.shape) for view in views]
    # One scale for all: what fits is the row of three, not each frame by itself.
    row = sum(width for width, _ in sizes_mm), max(height for _, height in sizes_mm)
    scale = fitted(row, _PREVIEW)[0] / row[0]
    frames, limits = [], window(volume.voxels)
    for view, (width, height) in zip(views, sizes_mm, strict=True):
        index = most_labelled_slice(view, volume.grid, labelmap)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        picture = _overlaid(view, volume, labelmap, index, size, limits)
        frames.append(Frame(picture, f"{view.plane} {index}", view.letters))
    legend = _volumes(labelmap)
    sheet = drawn_sheet(
        frames, len(frames), title=title, legend=legend, least_width=_PREVIEW_WIDTH
    )
    _save(sheet, file)


def write_small(file: Path, volume: Volume, labelmap: Labelmap) -> None:
    """Write the slice that shows the largest area of labels, of any plane, as PNG.

    Without labels it is the middle one of the plane with the finest pixels.
    """
    check_same_grid(volume, labelmap)
    found = []
    for view in (view_of(volume.grid, plane) for plane in PLANES):
        index = most_labelled_slice(view, volume.grid, labelmap)
        pixel_mm2 = view.pixel_mm[0] * view.pixel_mm[1]
        pixels = np.count_nonzero(view.picture(labelmap.voxels, index))
        found.append((-pixels * pixel_mm2, pixel_mm2, view, index))
    *_, view, index = min(found, key=lambda one: one[:2])
    size = fitted(view.size_mm(volume.grid.shape), (_SMALL, _SMALL))
    limits = window(volume.voxels)
    _save(_overlaid(view, volume, labelmap, index, size, limits), file)


def write_midline(
    file: Path, volume: Volume, labelmap: Labelmap, partly: PartlyDrawn
) -> None:
    """Write a preview in which the side that was not drawn has a colour, as PNG.

    `partly` must have a midline.
    """
    names = [*labelmap.labels.names, "not drawn"]
    voxels, grid = labelmap.without_ignored().voxels, labelmap.grid
    if partly.midline is not None:
        far = partly.midline.beyond(partly.side, grid.affine, grid.shape)
        voxels = np.where(far & (voxels == 0), voxels.dtype.type(len(names)), voxels)
    marked = Labelmap(grid, voxels, LabelTable.from_names(names))
    write_preview(file, volume, marked, title=f"drawn: {partly.side}")


def write_panels(
    file: Path,
    volume: Volume,
    labelmap: Labelmap | None,
    *,
    plane: str = "axial",
    slice_index: int | None = None,
) -> int:
    """Write image, labels and overlay of one slice side by side, as PNG.

    Without a labelmap there is one panel. Return the index of the slice along the
    array, from 0: by default that of the slice with the most labels. The plane is named
    by the nearest axes of the patient.

    Raises `UsageError` if there is no such plane or slice.
    """
    from PIL import Image

    check_same_grid(volume, labelmap)
    view = view_of(volume.grid, plane)
    if slice_index is None:
        slice_index = most_labelled_slice(view, volume.grid, labelmap)
    last = volume.grid.shape[view.through] - 1
    if not 0 <= slice_index <= last:
        raise UsageError(
            f"There is no {plane} slice {slice_index}: choose one from 0 to {last}."
        )
    size = fitted(view.size_mm(volume.grid.shape), _PANEL)
    picture = view.picture(volume.voxels, slice_index)
    grey = grey_frame(picture, window(volume.voxels), size)
    panels = {"image": grey.convert("RGB")}
    if labelmap is not None:
        colours = palette(labelmap.labels)
        values = label_frame(view.picture(labelmap.voxels, slice_index), size)
        panels["labels"] = Image.fromarray(colours[values])
        panels["overlay"] = overlay(grey, values, colours)
    frames = [Frame(panel, name, view.letters) for name, panel in panels.items()]
    title = f"{plane}, slice {slice_index} of 0 to {last}"
    legend = legend_of(labelmap.labels) if labelmap is not None else ()
    _save(drawn_sheet(frames, len(frames), title=title, legend=legend), file)
    return slice_index


def write_contact_sheet(
    file: Path, volume: Volume, labelmap: Labelmap | None, *, plane: str, every: int
) -> tuple[int, ...]:
    """Write every `every`-th slice on one sheet, as PNG; return their indices.

    The slices are in the order of scrolling: from the head down, from front to back,
    from right to left.

    Raises `UsageError` if `every` is below 1, or the sheet would have more than
    `MOST_FRAMES`.
    """
    if every < 1:
        raise UsageError(f"Cannot show every {every}-th slice: give a number from 1.")
    check_same_grid(volume, labelmap)
    view = view_of(volume.grid, plane)
    indices = list(range(0, volume.grid.shape[view.through], every))
    if len(indices) > MOST_FRAMES:
        fewer = math.ceil(every * len(indices) / MOST_FRAMES)
        excess = f"{len(indices)} slices do not fit one sheet of {MOST_FRAMES}"
        raise UsageError(f"{excess}: show every {fewer}-th.")
    if view.flip_through:
        indices.reverse()
    # The area of a frame is the same whatever its shape.
    width_mm, height_mm = view.size_mm(volume.grid.shape)
    scale = _CONTACT / math.sqrt(width_mm * height_mm)
    longest = min(_CONTACT_LONGEST, scale * max(width_mm, height_mm))
    size = fitted((width_mm, height_mm), (longest, longest))
    limits = window(volume.voxels)
    pictures = {n: _overlaid(view, volume, labelmap, n, size, limits) for n in indices}
    frames = [Frame(picture, str(n), view.letters) for n, picture in pictures.items()]
    wanted = math.sqrt(_SCREEN * len(frames) * size[1] / size[0])
    columns = _columns(len(frames), wanted)
    legend = legend_of(labelmap.labels) if labelmap is not None else ()
    _save(drawn_sheet(frames, columns, legend=legend), file)
    return tuple(indices)


def thumbnail(source: Path | Labelmap) -> str:
    """Return a small picture of a predicted case as a ``data:`` address.

    A picture on the disk is made smaller; of labels, the slice with the most is drawn
    in each plane.

    Raises `InputError` if the file is not a picture.
    """
    picture = _shrunk(source) if isinstance(source, Path) else _planes_of(source)
    return data_uri(picture, "jpeg", quality=80)


def _overlaid(
    view: View,
    volume: Volume,
    labelmap: Labelmap | None,
    index: int,
    size: Size,
    limits: tuple[float, float],
) -> Image:
    """Return one slice of the image, with the labels over it."""
    grey = grey_frame(view.picture(volume.voxels, index), limits, size)
    if labelmap is None:
        return grey.convert("RGB")
    values = label_frame(view.picture(labelmap.voxels, index), size)
    return overlay(grey, values, palette(labelmap.labels))


def _volumes(labelmap: Labelmap) -> Legend:
    """Return every structure with its volume, absent ones last and in grey."""
    found, absent = [], []
    volumes_mm3 = labelmap.volumes_mm3()
    for label in labelmap.labels:
        cm3 = volumes_mm3[label.name] / 1000
        if cm3:
            digits = 1 if cm3 >= 10 else 2  # noqa: PLR2004 - three figures are enough
            found.append((label.colour, f"{label.name}  {cm3:.{digits}f} cm3"))
        else:
            absent.append(((60, 60, 60), f"{label.name}  not found"))
    return found + absent


def _columns(frames: int, wanted: float) -> int:
    """Return about as many columns as wanted, with few places left empty.

    Examples
    --------
    >>> _columns(12, 4.6), _columns(10, 4.6), _columns(31, 2.9), _columns(1, 1.3)
    (4, 5, 3, 1)
    """
    near = range(max(1, int(wanted) - 1), int(wanted) + 3)
    able = [columns for columns in near if columns <= frames] or [frames]
    return min(able, key=lambda n: (-frames % n) / frames + abs(n - wanted) / wanted)


def _shrunk(file: Path) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            small = picture.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} is not a picture ({error}).") from error
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return small


def _planes_of(labelmap: Labelmap) -> Image:
    """Return the three planes of labels side by side, in millimetres, on black."""
    from PIL import Image

    inside = [slice(first, last) for first, last in labelled_box([labelmap])]
    voxels = labelmap.voxels[tuple(inside)]
    frames = []
    for plane in PLANES:
        view = view_of(labelmap.grid, plane)
        others = tuple(axis for axis in range(3) if axis != view.through)
        index = int(np.count_nonzero(voxels, axis=others).argmax())
        side = THUMBNAIL_SIDE / len(PLANES) - 6
        size = fitted(view.size_mm(voxels.shape), (side, side))
        values = label_frame(view.picture(voxels, index), size)
        frames.append(Frame(Image.fromarray(palette(labelmap.labels)[values])))
    return drawn_sheet(frames, len(frames))


def _save(picture: Image, file: Path) -> None:
    with whole_file(file) as temporary, open_to_write(temporary) as stream:
        # Pillow's `optimize` takes seven times as long for a tenth of the bytes.
        picture.save(stream, format="png")
