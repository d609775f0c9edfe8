"""How well one structure of one case was predicted."""

from __future__ import annotations

from dataclasses import dataclass

STATES = ("scored", "both_empty", "missed", "invented")
"""`scored`: both hold the structure. `both_empty`: neither. `missed`: only the
reference. `invented`: only the prediction."""


@dataclass(frozen=True, slots=True)
class BoneScore:
    """The measures of one structure in one case.

    Where a measure is not defined it is None, and `state` says why; it is never 0 or
    infinite for that reason. A missed or invented structure has Dice 0 (nothing
    overlaps), but no surface distance.
    """

    case_id: str
    structure: str
    configuration: str
    """Which model made the prediction; empty when unknown."""

    state: str
    dice: float | None
    hd95_mm: float | None
    assd_mm: float | None
    nsd: float | None
    """Normalised surface Dice at the tolerance named beside the table."""

    volume_reference_mm3: float
    volume_prediction_mm3: float
    iou: float | None = None
    """Intersection over union (Jaccard), in voxels."""

    hd_mm: float | None = None
    """Hausdorff distance: the largest, however small the area that lies so far."""

    @property
    def volume_error_mm3(self) -> float:
        """Prediction minus reference, signed."""
        return self.volume_prediction_mm3 - self.volume_reference_mm3

    @property
    def volume_error_cm3(self) -> float:
        """Prediction minus reference, signed, in cubic centimetres."""
        return self.volume_error_mm3 / 1000.0

    @property
    def volume_error_abs_mm3(self) -> float:
        """Size of the volume error, without its sign."""
        return abs(self.volume_error_mm3)

    @property
    def volume_error_percent(self) -> float | None:
        """Signed error in percent of the reference; None where that is empty."""
        if self.volume_reference_mm3 == 0:
            return None
        return 100.0 * self.volume_error_mm3 / self.volume_reference_mm3

    @property
    def volume_error_abs_percent(self) -> float | None:
        """Size of the error in percent of the reference; None where that is empty."""
        percent = self.volume_error_percent
        return None if percent is None else abs(percent)


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
