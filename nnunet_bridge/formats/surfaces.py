"""Read closed surfaces as masks: PLY, STL, OBJ and legacy VTK.

None of these formats states its coordinate system, but 3D Slicer and this package write
it into a comment. trimesh reads PLY, STL and OBJ from memory and without their
materials, so that no file can make it open another one; VTK's polygons are read here.
"""

import re
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.findings import Refused, warning
from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.memory import ask_for_memory
from nnunet_bridge.formats.mesh_files import FRAMES
from nnunet_bridge.formats.nifti import AGAIN, refused
from nnunet_bridge.formats.slicer import StructureMask
from nnunet_bridge.formats.vtk_polygons import read_vtk
from nnunet_bridge.ops.checks import LONGEST_M
from nnunet_bridge.ops.filling import Filling, filled
from nnunet_bridge.ops.regrid import OUTSIDE_LIMIT

SURFACE_ENDINGS = (".ply", ".stl", ".obj", ".vtk")
SHORTEST_MM = 2.0
"""A surface that is shorter was saved in metres."""

_TWISTED_LIMIT = 0.001
"""Largest share of voxels in folds, which smoothing leaves where a bone is thin."""

_CHECK_PLACE = "check that it belongs to this scan, and its frame (`masks.frame`)"
_REPAIR = "repair it (3D Slicer: Surface Toolbox), or save it as a labelmap"
_STARTS_BYTES = 4096
_BYTES_PER_BYTE = 24  # of memory, to parse a byte of text
_STATED = re.compile(rb"\b(?:SPACE=|frame )(LPS|RAS)\b")
_PLY_COUNT = re.compile(rb"^element\s+\S+\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """The triangles of a file."""

    file: str  # its name, without the folder
    points: FloatArray  # (V, 3) in mm, as stored; no two are equal
    faces: npt.NDArray[np.int64]  # (F, 3) indices of points
    frame: str  # ``LPS`` or ``RAS`` if the file states it, else empty

    def points_mm(self, frame: str) -> FloatArray:
        """Return the points in LPS+, if they are stored in `frame`."""
        points_mm: FloatArray = self.points * np.array(FRAMES[frame])
        return points_mm


def is_surface(name: str) -> bool:
    """Whether a file name ends like a surface's."""
    return name.lower().endswith(SURFACE_ENDINGS) and not name.startswith(".")


def read_surface(file: Path) -> Surface:
    """Read the closed surface in a file.

    Raises `Refused` if it is damaged (K19, S07), empty (K14), open (K26), or its unit
    of length is wrong (K12).
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise refused("K19", file, f"cannot be read: {error.strerror}") from error
    ask_for_memory(_BYTES_PER_BYTE * len(content), quoted(file.name))
    points, faces = _triangles(file, content)
    if not np.isfinite(points).all():
        raise refused("K19", file, f"has points at NaN or infinite places: {AGAIN}")
    if faces.size and (faces.min() < 0 or faces.max() >= len(points)):
        raise refused("K19", file, f"refers to points that do not exist: {AGAIN}")
    points, faces = _joined(points, faces)
    if not len(faces):
        raise refused("K14", file, "has no faces: remove it, or export it again")
    _require_possible_size(file, points)
    stated = _STATED.search(content[:_STARTS_BYTES])
    surface = Surface(file.name, points, faces, stated[1].decode() if stated else "")
    _require_closed(surface)
    return surface


def filled_surface(
    surface: Surface, grid: Grid, *, frame: str, name: str, side: str = ""
) -> StructureMask:
    """Return the voxels of a grid whose centres lie inside a surface.

    Raises `Refused` if it lies elsewhere (K05), leaves the image (K02), crosses itself
    (K26), or encloses no voxel (K14).
    """
    places = grid.to_voxel(surface.points_mm(frame))
    low, high = places.min(axis=0), places.max(axis=0)
    size = np.array(grid.shape)
    if (high < 0).any() or (low > size - 1).any() or (high - low > 3 * size).any():
        where = f"lies outside the image, read as {frame}"
        raise refused("K05", surface.file, f"{where}: {_CHECK_PLACE}")
    filling = _filled(surface, grid, places)
    inside = int(np.count_nonzero(filling.voxels))
    if not filling.count:
        raise refused("K14", surface.file, "encloses the centre of no voxel")
    outside = max(0, filling.count - inside)
    findings = []
    if outside:
        share = f"{outside} of {filling.count} voxels of {quoted(surface.file)}"
        text = f"{share} lie outside the image"
        if outside > OUTSIDE_LIMIT * filling.count:
            where = f"{text}, read as {frame}: {_CHECK_PLACE}."
            raise Refused.because("K02", where)
        findings.append(warning("K02", f"{text} and were left out."))
    return StructureMask(
        name, side, grid, filling.voxels, surface.file, tuple(findings), "surface"
    )


def _filled(surface: Surface, grid: Grid, places: FloatArray) -> Filling:
    crosses = "crosses itself, or parts of it are turned inside out"
    ask_for_memory(2 * int(np.prod(grid.shape)), quoted(surface.file))
    try:
        filling = filled(grid.shape, places, surface.faces)
    except InputError as error:
        raise refused("K26", surface.file, f"{crosses}, often: {_REPAIR}") from error
    if filling.twisted > _TWISTED_LIMIT * max(filling.count, 1):
        text = f"{crosses}, in {filling.twisted} voxels: {_REPAIR}"
        raise refused("K26", surface.file, text)
    return filling


def _triangles(file: Path, content: bytes) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Return points and triangles of a file, as stored."""
    kind = file.suffix.lower().removeprefix(".")
    if kind == "ply":
        header = content.partition(b"end_header")[0]
        if sum(map(int, _PLY_COUNT.findall(header))) > len(content):
            text = "announces more elements than it has bytes"
            raise refused("S07", file, f"{text}: {AGAIN}")
    try:
        if kind == "vtk":
            return read_vtk(content)
        import trimesh

        # No name and no resolver: there is no way from here to another file.
        with warnings.catch_warnings(action="ignore"):
            mesh = trimesh.load_mesh(
                BytesIO(content), file_type=kind, process=False, skip_materials=True
            )
        points = np.array(mesh.vertices, np.float64).reshape(-1, 3)
        return points, np.array(mesh.faces, np.int64).reshape(-1, 3)
    except Exception as error:  # the boundary around one untrusted file
        reason = f"is not a readable surface ({type(error).__name__}): {AGAIN}"
        raise refused("K19", file, reason) from error


def _joined(
    points: FloatArray, faces: npt.NDArray[np.int64]
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Return points without repetition (STL has no others), faces without slivers."""
    own, number = np.unique(points + 0.0, axis=0, return_inverse=True)
    faces = number.reshape(-1)[faces]
    first, second, third = faces.T
    return own, faces[(first != second) & (second != third) & (third != first)]


def _require_possible_size(file: Path, points: FloatArray) -> None:
    """Refuse a surface in metres or microns (K12)."""
    length_mm = float(np.ptp(points, axis=0).max())
    if not SHORTEST_MM <= length_mm <= 1000 * LONGEST_M:
        unit = "metres" if length_mm < SHORTEST_MM else "microns"
        text = f"is {length_mm:.3g} mm long, so it may be in {unit}"
        raise refused("K12", file, f"{text}: save it in millimetres")


def _require_closed(surface: Surface) -> None:
    """Refuse a surface with an edge that does not join two faces of one turn (K26)."""
    starts = surface.faces.reshape(-1)
    ends = np.roll(surface.faces, -1, axis=1).reshape(-1)
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    edges = low * len(surface.points) + high
    _, number, faces = np.unique(edges, return_inverse=True, return_counts=True)
    if many := int(np.count_nonzero(faces % 2)):
        text = f"is not closed: {many} edges have a face on one side only"
        raise refused("K26", surface.file, f"{text}; {_REPAIR}")
    turns = np.bincount(number.reshape(-1), np.where(starts < ends, 1.0, -1.0))
    if many := int(np.count_nonzero(turns)):
        text = f"has faces that are turned against their neighbours, at {many} edges"
        raise refused("K26", surface.file, f"{text}; {_REPAIR}")
