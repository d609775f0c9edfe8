"""Images and labelmaps for a viewer: few bits, axes in the order of the patient."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import GeometryError, InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import LabelTable, Volume, VoxelArray
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.images import read_labelmap
from nnunet_bridge.formats.pictures import fitted, grey_frame, window
from nnunet_bridge.ops.region import slice_positions_mm
from nnunet_bridge.ops.turn import Turn
from nnunet_bridge.pipeline.labels.folders import table_file_for, table_for

if TYPE_CHECKING:
    from PIL.Image import Image

    from nnunet_bridge.pipeline.ingest.inputs import ImageReading

MOST_BYTES = 256 << 20
"""Size of an image from which every second row and column is left out."""

_ALIGNED = 8
_LEVEL = 1  # of compression: labels shrink a hundredfold at the lowest
_BYTES = 2  # of a voxel
_LARGEST = 65535
_SAME_PLACE_MM = 0.1
_ORDER = "LPS"
_SIDE_PIXELS = (560.0, 560.0)


@dataclass(frozen=True, slots=True, eq=False)
class ShownVolume:
    """Voxels whose axes run to the left, to the back and to the head.

    Of a tilted image, each axis is the one nearest to these directions.
    """

    source: Grid  # of the file, in its own order of axes
    grid: Grid  # of the shown voxels
    voxels: npt.NDArray[Any]  # (I, J, K) uint8 or uint16, little-endian
    numbers: tuple[tuple[int, int], ...]
    """Of each axis: slice number in the file of the first slice, and the step."""

    spared: int  # every n-th row and column is shown
    low: float = 0.0  # value of voxels that hold 0
    step: float = 1.0  # between neighbouring values
    window: tuple[float, float] = (0.0, 1.0)  # values to show as black and white
    labels: LabelTable | None = None

    def header(self) -> JsonObject:
        """Return all but the voxels, as JSON values."""
        return {
            "shape": list(self.grid.shape),
            "affine": self.grid.affine.tolist(),
            "spacing_mm": self.grid.spacing_mm.tolist(),
            "source": {
                "shape": list(self.source.shape),
                "affine": self.source.affine.tolist(),
                "letters": self.source.axis_letters,
            },
            "start": self._start(),
            "bits": 8 * self.voxels.dtype.itemsize,
            **{name: getattr(self, name) for name in ("low", "step", "spared")},
            "numbers": [list(pair) for pair in self.numbers],
            "window": list(self.window),
            "labels": [
                {"value": label.value, "name": label.name, "colour": label.hex_colour}
                for label in self.labels or ()
            ],
        }

    def _start(self) -> list[int]:
        """Return the voxel to show first: where most is labelled, or the middle."""
        if self.labels is None or not self.voxels.any():
            return [size // 2 for size in self.grid.shape]
        across = (1, 2), (0, 2), (0, 1)
        counts = [np.count_nonzero(self.voxels, axis=axes) for axes in across]
        return [int(np.argmax(along)) for along in counts]


def packed_image(
    paths: Sequence[Path],
    case_id: str = "",
    series: str = "",
    image_type: str = "",
    *,
    most_bytes: int = MOST_BYTES,
) -> bytes:
    """Read an image as `read_case_image` does, and pack it for the viewer."""
    reading = _reading(paths, case_id, series, image_type)
    messages = [str(finding) for finding in reading.findings]
    shown = shown_image(reading.volume, most_bytes=most_bytes)
    return _packed(shown, findings=messages)


def packed_labels(
    file: Path, onto: Mapping[str, Any] | None = None, table_file: Path | None = None
) -> bytes:
    """Read a labelmap and pack it, compressed.

    `onto` is the ``source`` of an image's header: its shape and affine.
    """
    from isal import igzip

    try:
        grid = Grid(tuple(onto["shape"]), onto["affine"]) if onto else None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError("The grid of the image is not valid.") from error
    shown = shown_labels(file, grid, table_file)
    return bytes(igzip.compress(_packed(shown), _LEVEL))


def packed_side(
    paths: Sequence[Path], case_id: str = "", series: str = "", image_type: str = ""
) -> JsonObject:
    """Read an image; return the picture on which its slices are chosen."""
    from nnunet_bridge.formats.pictures import data_uri

    reading = _reading(paths, case_id, series, image_type)
    side = slices_from_the_side(reading.volume)
    return {**side.as_json(), "picture": data_uri(side.picture, "png")}


def _reading(
    paths: Sequence[Path], case_id: str, series: str, image_type: str
) -> ImageReading:
    from nnunet_bridge.formats.dicom import SeriesOptions
    from nnunet_bridge.pipeline.ingest.inputs import read_case_image

    options = SeriesOptions(series or None, image_type or None)
    return read_case_image(paths, case_id, options)


def _packed(shown: ShownVolume, **more: object) -> bytes:
    """Return a line of JSON, then the voxels: i runs fastest, little-endian.

    The line ends at a multiple of eight bytes, where an array may begin.
    """
    line = json.dumps({**shown.header(), **more}).encode()
    spaces = b" " * (-(len(line) + 1) % _ALIGNED)
    return b"".join([line, spaces, b"\n", shown.voxels.tobytes(order="F")])


def shown_image(volume: Volume, *, most_bytes: int = MOST_BYTES) -> ShownVolume:
    """Return an image as 16 bits a voxel; whole numbers stay exact where they fit."""
    limits = window(volume.voxels)
    placed = _placed(volume.grid, volume.voxels, most_bytes)
    low, high = float(placed.voxels.min()), float(placed.voxels.max())
    whole = volume.voxels.dtype.kind != "f" and high - low <= _LARGEST
    step = 1.0 if whole or high <= low else (high - low) / _LARGEST
    voxels = np.empty(placed.voxels.shape, "<u2", order="F")
    for k in range(placed.grid.shape[2]):  # a slice at a time, to spare memory
        shares = (placed.voxels[:, :, k].astype(np.float64) - low) / step
        voxels[:, :, k] = np.rint(shares).clip(0, _LARGEST)
    place = placed.numbers, placed.spared
    return ShownVolume(volume.grid, placed.grid, voxels, *place, low, step, limits)


@dataclass(frozen=True, slots=True, eq=False)
class SideView:
    """A scan seen across its slices: every row of the picture is a slice or more."""

    picture: Image
    positions_mm: tuple[float, ...]  # of every slice, from the top
    letters: str  # sides of the patient at the left, right, top and bottom

    def as_json(self) -> JsonObject:
        """Return all but the picture."""
        return {"positions_mm": list(self.positions_mm), "letters": self.letters}


def slices_from_the_side(volume: Volume) -> SideView:
    """Return the picture on which slices are chosen: of axial ones, a coronal plane.

    Head, front and right are at the top and at the left. Of the parallel planes it is
    the one with the highest mean, which shows most of the body.
    """
    grid = volume.grid
    axis_of, forwards = grid.array_axes
    up = axis_of.index(2)
    across, through = (0, 3 - up) if up else (1, 2)
    others = tuple(axis for axis in range(3) if axis != axis_of[through])
    place = int(volume.voxels.mean(axis=others).argmax())
    plane = np.take(volume.voxels, place, axis=axis_of[through])
    plane = plane.T  # the slices, along array axis 2, become rows
    head = up == 2  # noqa: PLR2004 - z
    positions = slice_positions_mm(grid)
    if forwards[up] == head:
        plane, positions = plane[::-1], positions[::-1]
    if not forwards[across]:
        plane = plane[:, ::-1]
    spacing = grid.spacing_mm[axis_of[across]], grid.spacing_mm[2]
    size = plane.shape[1] * float(spacing[0]), plane.shape[0] * float(spacing[1])
    picture = grey_frame(plane, window(volume.voxels), fitted(size, _SIDE_PIXELS))
    ends = {0: "RL", 1: "AP", 2: "HF"}
    return SideView(picture, tuple(positions.tolist()), ends[across] + ends[up])


def shown_labels(
    file: Path,
    onto: Grid | None = None,
    table_file: Path | None = None,
    *,
    most_bytes: int = MOST_BYTES,
) -> ShownVolume:
    """Read a labelmap and return it as an image on the grid `onto` is shown.

    `table_file` is a ``dataset.json``; by default the one beside the file. Raises
    `GeometryError` if the labels lie elsewhere, `Refused` if they cannot be read.
    """
    table = table_for(table_file_for([file], table_file), [file], regions=True)
    labelmap = read_labelmap(file, table)
    grid, voxels = labelmap.grid, labelmap.voxels
    if onto is not None:
        turn = Turn.onto(grid, onto)
        if not turn.grid(grid).matches(onto, tolerance_mm=_SAME_PLACE_MM):
            raise GeometryError(
                f"{file.name} does not lie on the voxels of the image: its size is "
                f"{grid.shape}, that of the image {onto.shape}, or it lies elsewhere."
            )
        grid, voxels = onto, turn.voxels(voxels)
    placed = _placed(grid, voxels, most_bytes)
    little = placed.voxels.astype(f"<u{voxels.dtype.itemsize}")
    place = placed.numbers, placed.spared
    return ShownVolume(grid, placed.grid, little, *place, labels=table)


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    """Voxels in the order of the patient's axes."""

    grid: Grid
    voxels: VoxelArray
    numbers: tuple[tuple[int, int], ...]
    spared: int


def _placed(grid: Grid, voxels: VoxelArray, most_bytes: int) -> _Placed:
    """Turn voxels towards left, back and head; thin them in plane if they are many."""
    every = 1
    while (
        _BYTES * voxels.size / every**2 > most_bytes
        and min(grid.shape[:2]) >= 4 * every  # two rows are left
    ):
        every *= 2
    thin = voxels[::every, ::every]
    affine = grid.affine @ np.diag([every, every, 1, 1])
    own = Grid((thin.shape[0], thin.shape[1], thin.shape[2]), affine)
    turn = Turn.between(own.axis_letters, _ORDER)
    numbers = []
    for n, axis in enumerate(turn.axes):
        step = 1 if axis == 2 else every  # noqa: PLR2004 - the axis of the slices
        last = (own.shape[axis] - 1) * step
        numbers.append((last, -step) if n in turn.flips else (0, step))
    return _Placed(turn.grid(own), turn.voxels(thin), tuple(numbers), every)
