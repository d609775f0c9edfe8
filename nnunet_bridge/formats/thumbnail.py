"""A small picture of a predicted case, carried inside a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.image import Labelmap
from nnunet_bridge.formats.pictures import PLANES, most_labelled_slice, palette, view_of
from nnunet_bridge.formats.sprites import labelled_box

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_SIDE = 600
"""Of the picture, in pixels."""

_QUALITY = 80


def thumbnail(source: Path | Labelmap) -> str:
    """Return a picture as a ``data:`` address.

    Parameters
    ----------
    source : Path or Labelmap
        A picture on the disk, which is made smaller; or labels, of which the slice with
        the most is drawn in each plane.

    Raises
    ------
    InputError
        If the file is no picture.
    """
    drawn = _shrunk(source) if isinstance(source, Path) else _planes_of(source)
    stream = io.BytesIO()
    drawn.save(stream, "jpeg", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _shrunk(file: Path) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            small = picture.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} is no picture ({error}).") from error
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return small


def _planes_of(labelmap: Labelmap) -> Image:
    """Return the three planes side by side, in millimetres, on black."""
    from PIL import Image

    box = labelled_box([labelmap])
    colours = palette(labelmap.labels)
    height = LONGEST_SIDE // len(PLANES)
    sheet = Image.new("RGB", (LONGEST_SIDE, height))
    for place, plane in enumerate(PLANES):
        view = view_of(labelmap.grid, plane)
        index = most_labelled_slice(view, labelmap.grid, labelmap)
        inside = list(map(slice, *zip(*box, strict=True)))
        inside[view.through] = slice(None)
        values = view.picture(labelmap.voxels[tuple(inside)], index)
        picture = Image.fromarray(colours[values])
        width_mm = picture.width * view.pixel_mm[0]
        height_mm = picture.height * view.pixel_mm[1]
        scale = height / max(width_mm, height_mm)
        size = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
        left = place * height + (height - size[0]) // 2
        resized = picture.resize(size, Image.Resampling.NEAREST)
        sheet.paste(resized, (left, (height - size[1]) // 2))
    return sheet
