"""Labels of another tool: read by our names and placed on our grid."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, VoxelArray
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.images import read_values
from nnunet_bridge.formats.label_map import LabelMap, parse_label_map, read_names_beside
from nnunet_bridge.ops.regrid import placed_on


def mapped_labels(
    file: Path, grid: Grid, table: LabelTable, label_map: LabelMap
) -> tuple[Labelmap, tuple[str, ...]]:
    """Return another tool's labels as ours, and the labels missing from the map.

    The file is a NIfTI of whole numbers, on `grid` or on another grid of the same
    image; the result lies on `grid`.

    Raises `InputError` if the map does not fit the table; `Refused` if the file
    contains no labels (K06), lies elsewhere (K05) or leaves the image (K02).
    """
    places = label_map.by_value(table)
    theirs, voxels = read_values(file)
    values = _whole_values(file, voxels)
    ours = np.zeros(grid.shape, np.uint8 if len(table) < 256 else np.uint16, order="F")  # noqa: PLR2004 - what a byte holds
    for label in table:
        parts = [value for value, own in places.items() if own == label.value]
        mask = np.isin(voxels, parts)
        placement = placed_on(grid, theirs, mask, name=f"{file.name}, {label.name}")
        ours[placement.voxels & (ours == 0)] = label.value
    left_out = [label_map.name_of(v) for v in values if v and v not in places]
    return Labelmap(grid, ours, table), tuple(left_out)


def read_map(words: Sequence[str], files: Sequence[Path]) -> LabelMap:
    """Return the map of the command line, with the names that lie beside the files."""
    return parse_label_map(words).with_values(read_names_beside(files))


def _whole_values(file: Path, voxels: VoxelArray) -> list[int]:
    """Return the different values of a labelmap, sorted."""
    values = np.unique(voxels)
    if (values != np.rint(values)).any() or values[0] < 0:
        text = f"{quoted(file.name)} contains values that are not labels. Check that"
        raise Refused.because("K06", f"{text} it is not an image.")
    return [int(value) for value in values]
