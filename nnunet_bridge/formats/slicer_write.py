"""Write a segmentation as 3D Slicer saves it: a ``.seg.nrrd``, a segment a structure.

Segments that share voxels lie in different layers, and label values begin again in
every layer. The same segments give the same bytes: the header is written here, because
pynrrd writes the date into it and accepts ASCII names only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from nnunet_bridge.core.errors import GeometryError, InputError
from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import BoolArray, Colour, LabelArray, Labelmap
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.files import open_to_write, whole_file
from nnunet_bridge.formats.nifti import LABELS_LEVEL
from nnunet_bridge.formats.slicer import PREDICTED
from nnunet_bridge.formats.terminology import (
    ANATOMY,
    SCHEME,
    Concept,
    Terms,
    find_terms,
)

Segment: TypeAlias = tuple[str, Colour, BoolArray]  # name, colour and (I, J, K) mask
_MAGIC = (
    "NRRD0004",
    "# Complete NRRD file format specification at:",
    "# http://teem.sourceforge.net/nrrd/format.html",
)
_TERMINOLOGY = "3D Slicer General Anatomy list"
_REGIONS = "Anatomic codes - DICOM master list"
_SLICER_ANATOMY = Concept("123037004", "Anatomical Structure")
"""That list's category of organs and bones; DICOM has another code."""

_ABOUT_ALL = (
    "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
    "Segmentation_MasterRepresentation:=Binary labelmap",
    "Segmentation_ReferenceImageExtentOffset:=0 0 0",
)
_NOWHERE = (slice(0, 0),) * 3  # box of a segment without voxels
_MOST_SEGMENTS = 255  # label values of a layer of one byte a voxel


def write_segmentation(file: Path, grid: Grid, segments: Sequence[Segment]) -> None:
    """Write segments as 3D Slicer would; the file is whole or absent.

    `segments` are 1 to 255 names, colours and (I, J, K) masks, which may share voxels.
    The file ends in ``.seg.nrrd``; otherwise 3D Slicer does not read it as a
    segmentation.

    Raises `InputError` if there are no segments or too many, or a name has control
    characters. Raises `GeometryError` if a mask does not fit the grid.
    """
    from scipy.ndimage import find_objects

    _check([name for name, _, _ in segments])
    for name, _, mask in segments:
        if mask.shape != grid.shape:
            shapes = f"the shape {mask.shape}, its grid {grid.shape}"
            raise GeometryError(f"Segment {quoted(name)} has {shapes}.")
    voxels, addresses = _layered(grid, segments)
    about = []
    for (name, colour, mask), address in zip(segments, addresses, strict=True):
        (box,) = find_objects(mask.astype(np.uint8), max_label=1)
        about.append(_about(name, colour, box, *address))
    _write(file, grid, voxels, about)


def write_labelmap_segmentation(
    file: Path, labelmap: Labelmap, predicted: Labelmap | None = None
) -> None:
    """Write a labelmap as 3D Slicer writes a segmentation, as `write_segmentation`.

    Every structure of the table becomes a segment, found or not, with the label value
    of the table. A prediction becomes a second layer, of paler segments whose names
    begin with `PREDICTED`, so that no reader takes them for what was drawn.

    Raises `GeometryError` if both lie on different grids.
    """
    from scipy.ndimage import find_objects

    layers = [labelmap] if predicted is None else [labelmap, predicted]
    if not all(labelmap.grid.matches(layer.grid) for layer in layers):
        raise GeometryError("Labels and prediction lie on different grids.")
    _check([label.name for layer in layers for label in layer.labels])
    arrays, about = [], []
    for place, layer in enumerate(layers):
        voxels = layer.without_ignored().voxels.astype(np.uint8, copy=False)
        arrays.append(voxels)
        boxes = find_objects(voxels, max_label=len(layer.labels))
        for label, box in zip(layer.labels, boxes, strict=True):
            name, colour = label.name, label.colour
            if place:
                name, colour = f"{PREDICTED}{name}", _paler(colour)
            about.append(_about(name, colour, box, place, label.value))
    stored = arrays[0] if predicted is None else np.stack(arrays)
    _write(file, labelmap.grid, stored, about)


def _paler(colour: Colour) -> Colour:
    red, green, blue = ((part + 255) // 2 for part in colour)
    return red, green, blue


def _write(
    file: Path, grid: Grid, voxels: LabelArray, about: Sequence[dict[str, str]]
) -> None:
    from isal import igzip

    lines = [*_MAGIC, *_place(grid, voxels.shape)]
    for number, fields in enumerate(about):
        fields["ID"] = f"Segment_{number + 1}"
        lines += [f"Segment{number}_{key}:={text}" for key, text in fields.items()]
    in_file_order: Any = voxels.ravel(order="F")
    with whole_file(file) as temporary, open_to_write(temporary) as stream:
        stream.write("\n".join([*lines, *_ABOUT_ALL, "", ""]).encode())
        with igzip.GzipFile("", "wb", LABELS_LEVEL, stream, mtime=0) as packed:
            packed.write(memoryview(in_file_order))


def _check(names: Sequence[str]) -> None:
    if not 0 < len(names) <= _MOST_SEGMENTS:
        most = f"1 to {_MOST_SEGMENTS} segments"
        raise InputError(f"A segmentation holds {most}, not {len(names)}.")
    for name in names:
        if not name.isprintable():
            raise InputError(f"{quoted(name)} has control characters: rename it.")


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
    """Return the fields that place the voxels in the patient."""
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


def _about(
    name: str, colour: Colour, box: tuple[slice, ...] | None, layer: int, value: int
) -> dict[str, str]:
    """Return the header fields of one segment, in 3D Slicer's order."""
    return {
        "Color": " ".join(f"{part / 255:.6g}" for part in colour),
        "ColorAutoGenerated": "0",
        "Extent": " ".join(f"{side.start} {side.stop - 1}" for side in box or _NOWHERE),
        "ID": "",  # numbered by `_write`
        "LabelValue": str(value),
        "Layer": str(layer),
        "Name": name,
        "NameAutoGenerated": "0",
        "Tags": _tags(find_terms(name)),
    }


def _tags(terms: Terms) -> str:
    """Return status and terminology of a segment in 3D Slicer's format."""
    category = _SLICER_ANATOMY if terms.category == ANATOMY else terms.category
    side = _coded(terms.side) if terms.side else "^^"
    return (
        "Segmentation.Status:completed|TerminologyEntry:Segmentation category and type "
        f"- {_TERMINOLOGY}~{_coded(category)}~{_coded(terms.kind)}~{side}"
        f"~{_REGIONS}~^^~^^|"
    )


def _coded(concept: Concept) -> str:
    return f"{SCHEME}^{concept.value}^{concept.meaning}"


def _vector(numbers: FloatArray) -> str:
    """Format a vector with all its digits."""
    return "(" + ",".join(repr(float(number) + 0.0) for number in numbers) + ")"
