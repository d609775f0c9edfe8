"""How large a structure is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StructureVolume:
    """The volume of one structure in one case, counted in voxels.

    Examples
    --------
    >>> StructureVolume("msk_001", "tibia", "", voxels=4000, volume_mm3=3000.0)
    StructureVolume(case_id='msk_001', structure='tibia', side='', voxels=4000,
    volume_mm3=3000.0)
    """

    case_id: str
    structure: str

    side: str
    """``left``, ``right``, ``middle``, or empty where sides are merged."""

    voxels: int

    volume_mm3: float
    """Voxels times ``|det affine|`` of the case's own grid."""

    @property
    def volume_cm3(self) -> float:
        """The volume in cubic centimetres."""
        return self.volume_mm3 / 1000.0
