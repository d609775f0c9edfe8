"""Read the polygons of a legacy VTK file, as text or binary, of versions 1 to 5.

The VTK User's Guide, "Simple Legacy Formats"; version 5.1 stores offsets and
connectivity.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import FloatArray

Triangles = npt.NDArray[np.int64]
_KINDS = {
    "float": ">f4", "double": ">f8", "int": ">i4", "long": ">i8",
    "vtktypeint64": ">i8", "vtktypeint32": ">i4", "vtkidtype": ">i8",
}  # fmt: skip
_SURFACES = ("POLYGONS", "TRIANGLE_STRIPS")
_CELLS = ("VERTICES", "LINES", *_SURFACES)
_LONGEST_LINE = 1024
_CORNERS = 3


def read_vtk(content: bytes) -> tuple[FloatArray, Triangles]:
    """Return (V, 3) points and (F, 3) triangles of a POLYDATA file.

    Raises `InputError`, `LookupError` or `ValueError` if it is anything else.
    """
    reader = _Reader(content)
    points, triangles = np.empty((0, 3)), [np.empty((0, 3), np.int64)]
    while (line := reader.line()) is not None:
        word, *rest = line.split() or [""]
        if word == "DATASET" and rest != ["POLYDATA"]:
            raise InputError("It holds no polygons.")
        if word == "POINTS":
            points = reader.numbers(3 * int(rest[0]), rest[1]).reshape(-1, 3)
        elif word in _CELLS:
            offsets, corners = reader.cells(int(rest[0]), int(rest[1]))
            if word in _SURFACES:
                strips = word == "TRIANGLE_STRIPS"
                triangles.append(_split(offsets, corners, strips=strips))
        elif word in ("POINT_DATA", "CELL_DATA"):
            break
    return points, np.concatenate(triangles)


def _split(
    offsets: npt.NDArray[np.int64], corners: npt.NDArray[np.int64], *, strips: bool
) -> Triangles:
    """Return the triangles of polygons, as fans, or of strips."""
    counts = np.maximum(np.diff(offsets) - 2, 0)
    start = np.repeat(offsets[:-1], counts)
    number = np.arange(len(start)) - np.repeat(np.cumsum(counts) - counts, counts)
    second, third = start + number + 1, start + number + 2
    if strips:  # every other triangle of a strip is turned the other way
        odd = number % 2 == 1
        start = start + number
        second, third = np.where(odd, third, second), np.where(odd, second, third)
    triangles: Triangles = corners[np.stack([start, second, third], axis=1)]
    return triangles


class _Reader:
    """Reads lines and numbers of a file, one after the other."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0
        title, _, form = (self.line() or "" for _ in range(3))
        if not title.startswith("# vtk DataFile") or form not in ("ASCII", "BINARY"):
            raise InputError("It is no legacy VTK file.")
        self._binary = form == "BINARY"

    def line(self) -> str | None:
        """Return the next line; None at the end."""
        if self._at >= len(self._content):
            return None
        end = self._content.find(b"\n", self._at)
        end = len(self._content) if end < 0 else end
        line = self._content[self._at : min(end, self._at + _LONGEST_LINE)]
        self._at = end + 1
        return line.decode("latin-1").strip()

    def numbers(self, count: int, kind: str) -> FloatArray:
        """Return the next numbers."""
        if not 0 <= count <= len(self._content):
            raise InputError("It announces more numbers than it has bytes.")
        if self._binary:
            found = np.frombuffer(self._content, _KINDS[kind.lower()], count, self._at)
            self._at += found.nbytes
            return found.astype(np.float64)
        words = self._content[self._at :].split(None, count)
        rest = words.pop() if len(words) > count else b""
        self._at = len(self._content) - len(rest)
        return np.array([float(word) for word in words[:count]])

    def cells(
        self, first: int, second: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return where each cell begins among the points of all cells, and these."""
        start = self._at
        words = (self.line() or "").split()
        if words[:1] == ["OFFSETS"]:
            offsets = self.numbers(first, words[1]).astype(np.int64)
            words = (self.line() or self.line() or "").split()
            return offsets, self.numbers(second, words[1]).astype(np.int64)
        self._at = start
        flat = self.numbers(second, "int").astype(np.int64)
        sizes = flat[::4] if len(flat) == 4 * first else flat[:0]
        if not (sizes == _CORNERS).all() or not len(sizes):
            sizes = np.array(list(_sizes(flat, first)), np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        heads = offsets[:-1] + np.arange(first)
        return offsets, np.delete(flat, heads)


def _sizes(flat: npt.NDArray[np.int64], count: int) -> Iterator[int]:
    """Yield the size of each cell, which stands before its points."""
    at = 0
    for _ in range(count):
        size = int(flat[at])
        if size < 0:
            raise InputError("A cell has fewer than no points.")
        yield size
        at += 1 + size
