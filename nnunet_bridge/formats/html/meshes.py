"""Surfaces for the page: fewer triangles, packed as base64.

Positions are rounded to a hundredth of a millimetre or so: for display only. Use
`pipeline.labels.mesh` for meshes to measure.
"""

from __future__ import annotations

import base64

import numpy as np

from nnunet_bridge.core.mesh import Mesh
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.ops.surface import decimated

_STEPS = 32767


def packed_mesh(mesh: Mesh, max_faces: int) -> JsonObject:
    """Return a mesh for `surfaces.js`: name, colour, base64 of vertices and faces.

    Vertices are int16 steps of `step_mm` from `centre_mm`; faces are uint16 where the
    vertices allow, otherwise (`wide`) uint32; both little-endian.
    """
    fewer = decimated(mesh, max_faces)
    low, high = fewer.vertices_mm.min(axis=0), fewer.vertices_mm.max(axis=0)
    centre = (low + high) / 2
    step_mm = max(float((high - low).max()) / 2 / _STEPS, 1e-6)
    steps = np.rint((fewer.vertices_mm - centre) / step_mm).astype("<i2")
    wide = len(steps) > np.iinfo(np.uint16).max
    faces = fewer.faces.astype("<u4" if wide else "<u2")
    return {
        "name": mesh.label.name,
        "colour": mesh.label.hex_colour,
        "centre_mm": [round(float(value), 4) for value in centre],
        "step_mm": step_mm,
        "wide": wide,
        "vertices": base64.b64encode(steps.tobytes()).decode(),
        "faces": base64.b64encode(faces.tobytes()).decode(),
    }
