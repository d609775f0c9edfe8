"""A segmentation as 3D Slicer saves it: one ``.seg.nrrd``, one segment a structure.

Segments that share voxels lie in different layers, and label values begin again in
every layer. The same segments give the same bytes: the header is written here because
pynrrd puts the date into it, and takes ASCII names only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from nnunet_bridge.core.errors import GeometryError, InputError
from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import BoolArray, Colour, LabelArray
from nnunet_bridge.formats.files import quoted, whole_file
from nnunet_bridge.formats.nifti import LABELS_LEVEL

Segment: TypeAlias = tuple[str, Colour, BoolArray]
"""Name, colour and (I, J, K) mask."""

_MAGIC = (
    "NRRD0004",
    "# Complete NRRD file format specification at:",
    "# http://teem.sourceforge.net/nrrd/format.html",
)
_TAGS = (
    "Segmentation.Status:completed|TerminologyEntry:Segmentation category and type - "
    "3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~"
    "Anatomic codes - DICOM master list~^^~^^|"
)
"""What 3D Slicer notes of a segment that nobody classified."""

_ABOUT_ALL = (
    "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
    "Segmentation_MasterRepresentation:=Binary labelmap",
    "Segmentation_ReferenceImageExtentOffset:=0 0 0",
)
_NOWHERE = "0 -1 0 -1 0 -1"
"""Extent of a segment without voxels."""

_MOST_SEGMENTS = 255
"""Label values of a layer of one byte a voxel."""


def write_segmentation(file: Path, grid: Grid, segments: Sequence[Segment]) -> None:
    """Write segments as 3D Slicer would; the file is whole or absent.

    Parameters
    ----------
    file : Path
        Ends in ``.seg.nrrd``, by which 3D Slicer knows a segmentation.
    grid : Grid
        Where the masks lie.
    segments : sequence of (name, colour, mask)
        One to 255 of them, with (I, J, K) masks; they may share voxels.

    Raises
    ------
    InputError
        If there are no segments or too many, or a name has control characters.
    GeometryError
        If a mask does not fit the grid.
    """
    from isal import igzip

    _check(grid, segments)
    voxels, addresses = _layered(grid, segments)
    lines = [*_MAGIC, *_place(grid, voxels.shape)]
    for number, (segment, address) in enumerate(zip(segments, addresses, strict=True)):
        lines += _about(number, segment, address)
    in_file_order: Any = voxels.ravel(order="F")
    with whole_file(file) as temporary, temporary.open("wb") as stream:
        stream.write("\n".join([*lines, *_ABOUT_ALL, "", ""]).encode())
        with igzip.GzipFile(
            filename="", mode="wb", compresslevel=LABELS_LEVEL, fileobj=stream, mtime=0
        ) as packed:
            packed.write(memoryview(in_file_order))


def _check(grid: Grid, segments: Sequence[Segment]) -> None:
    if not 0 < len(segments) <= _MOST_SEGMENTS:
        raise InputError(
            f"A segmentation holds 1 to {_MOST_SEGMENTS} segments, not {len(segments)}."
        )
    for name, _, mask in segments:
        if not name.isprintable():
            raise InputError(f"{quoted(name)} has control characters: rename it.")
        if mask.shape != grid.shape:
            raise GeometryError(
                f"Segment {quoted(name)} has the shape {mask.shape}, its grid "
                f"{grid.shape}."
            )


def _layered(
    grid: Grid, segments: Sequence[Segment]
) -> tuple[LabelArray, list[tuple[int, int]]]:
    """Return the voxels, and the layer and label value of every segment.

    A segment goes to the first layer where its voxels are free. The voxels are
    (I, J, K) in one layer, and (L, I, J, K) in several.
    """
    layers: list[LabelArray] = []
    addresses: list[tuple[int, int]] = []
    for _, _, mask in segments:
        free = (n for n, layer in enumerate(layers) if not layer[mask].any())
        chosen = next(free, len(layers))
        if chosen == len(layers):
            layers.append(np.zeros(grid.shape, np.uint8))
        value = 1 + sum(layer == chosen for layer, _ in addresses)
        layers[chosen][mask] = value
        addresses.append((chosen, value))
    return (layers[0] if len(layers) == 1 else np.stack(layers)), addresses


def _place(grid: Grid, sizes: tuple[int, ...]) -> list[str]:
    """Return the fields that say how the voxels lie in the patient."""
    list_axis = len(sizes) > len(grid.shape)
    axes = " ".join(_vector(axis) for axis in grid.affine[:3, :3].T)
    return [
        "type: unsigned char",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {'none ' if list_axis else ''}{axes}",
        f"kinds: {'list ' if list_axis else ''}domain domain domain",
        "encoding: gzip",
        f"space origin: {_vector(grid.affine[:3, 3])}",
    ]


def _about(number: int, segment: Segment, address: tuple[int, int]) -> list[str]:
    """Return what the header says of one segment, in 3D Slicer's order."""
    name, colour, mask = segment
    layer, value = address
    fields = {
        "Color": " ".join(f"{part / 255:.6g}" for part in colour),
        "ColorAutoGenerated": "0",
        "Extent": _extent(mask),
        "ID": f"Segment_{number + 1}",
        "LabelValue": str(value),
        "Layer": str(layer),
        "Name": name,
        "NameAutoGenerated": "0",
        "Tags": _TAGS,
    }
    return [f"Segment{number}_{key}:={text}" for key, text in fields.items()]


def _extent(mask: BoolArray) -> str:
    """Return first and last index of the segment along i, j and k."""
    where = np.argwhere(mask)
    if not len(where):
        return _NOWHERE
    ends = zip(where.min(axis=0), where.max(axis=0), strict=True)
    return " ".join(f"{low} {high}" for low, high in ends)


def _vector(numbers: FloatArray) -> str:
    """Return a vector with all its digits.

    Examples
    --------
    >>> _vector(np.array([0.1, -0.0, 4.0]))
    '(0.1,0.0,4.0)'
    """
    return "(" + ",".join(repr(float(number) + 0.0) for number in numbers) + ")"
