"""The surface of a structure, in patient millimetres.

Marching cubes at level 0.5 on the bounding box and one voxel around it. Every vertex of
a mask lies exactly half-way between two voxels, so the surface of the box is bit for
bit that of the whole volume, at a tenth of the cost.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.image import BoolArray, Label, Labelmap
from nnunet_bridge.core.mesh import Mesh
from nnunet_bridge.ops.occupancy import Box, label_boxes

FaceArray = npt.NDArray[np.int32]

FEWEST_FACES = 4  # of a tetrahedron

SIMPLIFY_GENTLY_FIRST = (3.0, 5.0, 7.0, 10.0)
"""Rates at which the error limit of an edge rises. A low rate keeps the shape better,
but may end before the surface is small enough: then the next rate is tried."""

SHRINKING_STEP = 0.5
GROWING_STEP = -0.53
"""Taubin's two steps: together they keep shapes wider than a few triangles and, unlike
plain smoothing, do not shrink the surface."""


def surfaces_of(labelmap: Labelmap) -> dict[str, Mesh | None]:
    """Return name -> surface of every structure; None if it is absent.

    The grid may be oblique, left-handed or anisotropic. The faces turn outwards. A
    structure that reaches the border of the image is closed there and has
    `Mesh.touches_border`.
    """
    return {
        label.name: surface_in(labelmap, label, box)
        for label, box in zip(labelmap.labels, label_boxes(labelmap), strict=True)
    }


def surface_in(labelmap: Labelmap, label: Label, box: Box | None) -> Mesh | None:
    """Return the surface of the structure with the bounding box `box`; None without.

    Raises InputError if the box holds no voxel of the structure.
    """
    if box is None:
        return None
    mask = labelmap.voxels[box] == label.value
    if not mask.any():
        raise InputError(f"The box {box} holds nothing of {label.name}.")
    vertices, faces = _marching_cubes(mask)
    lowest = np.array([along.start for along in box], dtype=np.float64)
    sides = zip(box, labelmap.grid.shape, strict=True)
    return Mesh(
        vertices_mm=labelmap.grid.to_patient(vertices + lowest),
        faces=_outward(faces, labelmap.grid.affine),
        label=label,
        watertight=is_watertight(faces),
        touches_border=any(a.start == 0 or a.stop == size for a, size in sides),
    )


def smoothed(mesh: Mesh, iterations: int) -> Mesh:
    """Return the mesh after Taubin smoothing.

    An iteration is a shrinking and a growing step; 0 iterations return the mesh itself,
    a negative number raises InputError.

    G. Taubin, "A signal processing approach to fair surface design", SIGGRAPH 1995,
    with equal weights and steps of 0.5 and -0.53.
    """
    if iterations < 0:
        raise InputError(f"Smoothing needs 0 iterations or more, not {iterations}.")
    if iterations == 0:
        return mesh
    averaging = _neighbour_average(mesh.faces, len(mesh.vertices_mm))
    vertices = np.array(mesh.vertices_mm)
    for _ in range(iterations):
        for step in (SHRINKING_STEP, GROWING_STEP):
            vertices += step * (averaging @ vertices - vertices)
    return Mesh(vertices, mesh.faces, mesh.label, mesh.watertight, mesh.touches_border)


def decimated(mesh: Mesh, faces: int) -> Mesh:
    """Return the surface with at most about `faces` faces.

    A mesh with no more faces is returned unchanged. Raises InputError below 4 faces.

    Edges are collapsed by quadric error (M. Garland and P. S. Heckbert, "Surface
    simplification using quadric error metrics", SIGGRAPH 1997).
    """
    if faces < FEWEST_FACES:
        raise InputError(f"A closed surface has at least 4 faces, not {faces}.")
    if len(mesh.faces) <= faces:
        return mesh
    from fast_simplification import simplify

    centre = mesh.vertices_mm.mean(axis=0)  # single precision is best near 0
    points = (mesh.vertices_mm - centre).astype(np.float32)
    for haste in SIMPLIFY_GENTLY_FIRST:
        vertices, kept = simplify(
            points, np.array(mesh.faces), target_count=faces, agg=haste
        )
        if len(kept) <= faces:
            break
    return Mesh(
        vertices.astype(np.float64) + centre,
        kept.astype(np.int32),
        mesh.label,
        is_watertight(kept),
        mesh.touches_border,
    )


def is_watertight(faces: FaceArray) -> bool:
    """Whether every edge of the (F, 3) faces belongs to exactly two of them."""
    one, other = _edges(faces).T
    vertices = int(faces.max(initial=0)) + 1
    codes = np.sort(np.minimum(one, other) * vertices + np.maximum(one, other))
    if len(codes) % 2:
        return False
    in_pairs = bool((codes[::2] == codes[1::2]).all())
    return in_pairs and bool((codes[1:-1:2] != codes[2::2]).all())


def _marching_cubes(mask: BoolArray) -> tuple[FloatArray, FaceArray]:
    """Return vertices, in indices of the mask, and faces of its surface."""
    from skimage import measure

    marching_cubes: Any = measure.marching_cubes  # its stub has no types
    padded = np.pad(mask, 1).astype(np.float32, order="C")
    vertices, faces, _, _ = marching_cubes(padded, level=0.5)
    return vertices.astype(np.float64) - 1.0, faces.astype(np.int32)


def _outward(faces: FaceArray, affine: FloatArray) -> FaceArray:
    """Turn faces outwards: those of scikit-image turn inwards unless mirrored."""
    mirrored = np.linalg.det(affine[:3, :3]) < 0
    return faces if mirrored else faces[:, ::-1].copy()


def _edges(faces: FaceArray) -> npt.NDArray[np.int64]:
    """Return the (3 F, 2) directed edges of the faces."""
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return pairs.astype(np.int64)


def _neighbour_average(faces: FaceArray, vertices: int) -> csr_array:
    """Return the (V, V) matrix that replaces every vertex by its neighbours' mean."""
    ends = _edges(faces)
    both_ways = np.concatenate([ends, ends[:, ::-1]])
    links = csr_array(
        (np.ones(len(both_ways)), (both_ways[:, 0], both_ways[:, 1])),
        shape=(vertices, vertices),
    )
    links.data[:] = 1.0
    neighbours = np.maximum(links.sum(axis=1), 1.0)
    return csr_array(links.multiply(1.0 / neighbours[:, np.newaxis]))
