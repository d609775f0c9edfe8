"""Surfaces for the page: fewer triangles, packed as base64.

Positions are rounded to a hundredth of a millimetre or so: for display only. Use
`pipeline.labels.mesh` for meshes to measure. Triangles are merged by clustering
(Rossignac and Borrel 1993): fast-simplification, which `ops.surface` uses, takes up to
30 s for one shattered structure of 380,000 triangles, and the page tries several sizes.
"""

import base64

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.mesh import Mesh
from nnunet_bridge.core.summary import JsonObject

_STEPS = 32767
_CELL_GROWTH = 1.15

_Faces = npt.NDArray[np.int64]


DISTANCE_STEPS = 127


def packed_mesh(
    mesh: Mesh,
    max_faces: int,
    distances_mm: FloatArray | None = None,
    scale_mm: float = 1.0,
) -> JsonObject:
    """Return a mesh for `surfaces.js`: name, colour, base64 of vertices and faces.

    Vertices are int16 steps of `step_mm` from `centre_mm`; faces are uint16 where the
    vertices allow, otherwise (`wide`) uint32; both little-endian. Distances are int8,
    127 at `scale_mm` and beyond.
    """
    far = 0.0 if distances_mm is None else distances_mm / scale_mm * DISTANCE_STEPS
    far = np.broadcast_to(
        np.clip(far, -DISTANCE_STEPS, DISTANCE_STEPS), mesh.vertices_mm.shape[:1]
    )
    points, remaining = thinned(
        np.column_stack([mesh.vertices_mm, far]), mesh.faces, max_faces
    )
    vertices, far = points[:, :3], points[:, 3]
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    centre = (low + high) / 2
    step_mm = max(float((high - low).max()) / 2 / _STEPS, 1e-6)
    steps = np.rint((vertices - centre) / step_mm).astype("<i2")
    wide = len(steps) > np.iinfo(np.uint16).max
    faces = remaining.astype("<u4" if wide else "<u2")
    return {
        "name": mesh.label.name,
        "colour": mesh.label.hex_colour,
        "centre_mm": [round(float(value), 4) for value in centre],
        "step_mm": step_mm,
        "wide": wide,
        "vertices": base64.b64encode(steps.tobytes()).decode(),
        "faces": base64.b64encode(faces.tobytes()).decode(),
        "distances": ""
        if distances_mm is None
        else base64.b64encode(np.rint(far).astype("i1").tobytes()).decode(),
    }


def thinned(
    vertices_mm: FloatArray, faces: npt.NDArray[np.int32], max_faces: int
) -> tuple[FloatArray, _Faces]:
    """Return a mesh of at most `max_faces` triangles by merging near vertices.

    Columns of the vertices after x, y and z are averaged with them.
    """
    vertices, remaining = vertices_mm, faces.astype(np.int64)
    if len(faces) <= max_faces:
        return vertices, remaining
    corners = vertices_mm[faces, :3]
    sides = np.linalg.norm(corners[:, 0] - corners[:, 1], axis=1)
    cell_mm = float(np.median(sides)) * np.sqrt(len(faces) / max_faces)
    while len(remaining) > max_faces:
        vertices, remaining = _clustered(vertices_mm, faces, cell_mm)
        cell_mm *= _CELL_GROWTH
    return vertices, remaining


def _clustered(
    vertices_mm: FloatArray, faces: npt.NDArray[np.int32], cell_mm: float
) -> tuple[FloatArray, _Faces]:
    """Return the mesh whose vertices in one cell have become their mean."""
    places = vertices_mm[:, :3]
    cells = np.floor((places - places.min(axis=0)) / cell_mm).astype(np.int64)
    _, place, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    place = place.reshape(-1)
    merged = np.zeros((len(counts), vertices_mm.shape[1]))
    np.add.at(merged, place, vertices_mm)
    moved = place[faces]
    a, b, c = moved[:, 0], moved[:, 1], moved[:, 2]
    kept = moved[(a != b) & (b != c) & (a != c)]
    _, first = np.unique(np.sort(kept, axis=1), axis=0, return_index=True)
    return merged / counts[:, None], kept[np.sort(first)]
