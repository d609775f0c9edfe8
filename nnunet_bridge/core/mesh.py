"""A surface in the patient."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.image import Label, read_only


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """A triangle mesh in patient millimetres, LPS+; faces turn outwards."""

    vertices_mm: FloatArray  # (V, 3) float64 positions in mm, LPS+
    faces: npt.NDArray[np.int32]
    """(F, 3) indices of vertices, counter-clockwise seen from outside."""

    label: Label  # the structure inside the surface
    watertight: bool  # whether every edge has two faces
    touches_border: bool
    """Whether the structure reaches the border of its image, which may cut it."""

    def __post_init__(self) -> None:
        """Refuse faces with vertices that do not exist."""
        lowest, highest = self.faces.min(initial=0), self.faces.max(initial=-1)
        if lowest < 0 or highest >= len(self.vertices_mm):
            name = self.label.name
            raise InputError(f"Faces of the mesh of {name} refer to missing vertices.")
        object.__setattr__(self, "vertices_mm", read_only(self.vertices_mm))
        object.__setattr__(self, "faces", read_only(self.faces))

    @property
    def volume_mm3(self) -> float:
        """Signed volume enclosed by the faces in mm3 (divergence theorem)."""
        corners = self.vertices_mm[self.faces]
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0)
