"""The scores and the volume of one structure of one case."""

import math
from dataclasses import dataclass

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.words import ScoreState, Side, checked_word

_ROUNDING = 1e-9  # a share of sums may exceed 1 by the rounding of its terms


@dataclass(frozen=True, slots=True)
class BoneScore:
    """The measures of one structure in one case.

    An undefined measure is None, never 0 or infinite; `state` gives the reason. A
    missed or invented structure has Dice, IoU and NSD 0 (nothing overlaps), but no
    surface distance.
    """

    case_id: str
    structure: str
    configuration: str  # the model that made the prediction; empty if unknown
    state: ScoreState
    dice: float | None
    hd95_mm: float | None
    assd_mm: float | None
    nsd: float | None  # normalised surface Dice; the tolerance is kept beside the table
    volume_reference_mm3: float | None  # None in a table of others without volumes
    volume_prediction_mm3: float | None
    iou: float | None = None  # intersection over union (Jaccard), in voxels
    hd_mm: float | None = None  # Hausdorff distance: the largest of any surface element
    fold: str = ""  # whose validation case it is; empty if unknown
    repeat: int = 0  # training of the fold: 0 is the first, others have other seeds

    def __post_init__(self) -> None:
        """Refuse an unknown state and measures out of range."""
        state = checked_word(ScoreState, self.state, "state")
        object.__setattr__(self, "state", state)
        shares = {"Dice": self.dice, "IoU": self.iou, "NSD": self.nsd}
        for name, share in shares.items():
            if share is not None and not 0 <= share <= 1 + _ROUNDING:
                raise InputError(f"{self._place}: {name} must be 0..1, not {share}.")
        sizes = {
            "HD95": self.hd95_mm,
            "ASSD": self.assd_mm,
            "HD": self.hd_mm,
            "reference volume": self.volume_reference_mm3,
            "prediction volume": self.volume_prediction_mm3,
        }
        for name, size in sizes.items():
            if size is not None and not 0 <= size < math.inf:
                text = f"{self._place}: {name} must be 0 or more, not {size}."
                raise InputError(text)
        if not self.state.held and self.dice is not None:
            raise InputError(f"{self._place}: no Dice exists where both are empty.")

    @property
    def _place(self) -> str:
        return f"{self.case_id}, {self.structure}"

    @property
    def volume_error_mm3(self) -> float | None:
        """Prediction minus reference, signed; None if a volume is unknown."""
        if self.volume_prediction_mm3 is None or self.volume_reference_mm3 is None:
            return None
        return self.volume_prediction_mm3 - self.volume_reference_mm3

    @property
    def volume_error_cm3(self) -> float | None:
        """Prediction minus reference, signed, in cubic centimetres."""
        error = self.volume_error_mm3
        return None if error is None else error / 1000.0

    @property
    def volume_error_abs_cm3(self) -> float | None:
        """Absolute volume error in cubic centimetres."""
        error = self.volume_error_cm3
        return None if error is None else abs(error)

    @property
    def volume_error_abs_mm3(self) -> float | None:
        """Absolute volume error."""
        return None if self.volume_error_mm3 is None else abs(self.volume_error_mm3)

    @property
    def volume_error_percent(self) -> float | None:
        """Signed error in percent of the reference; None if that is empty."""
        error = self.volume_error_mm3
        if error is None or not self.volume_reference_mm3:
            return None
        return 100.0 * error / self.volume_reference_mm3

    @property
    def volume_error_abs_percent(self) -> float | None:
        """Absolute error in percent of the reference; None if that is empty."""
        percent = self.volume_error_percent
        return None if percent is None else abs(percent)


@dataclass(frozen=True, slots=True)
class StructureVolume:
    """The volume of one structure in one case, counted in voxels."""

    case_id: str
    structure: str
    side: Side
    voxels: int
    volume_mm3: float  # voxels times ``|det affine|`` of the case's own grid

    def __post_init__(self) -> None:
        """Refuse an unknown side, and sizes of which one is 0 and the other is not."""
        object.__setattr__(self, "side", checked_word(Side, self.side, "side"))
        sizes = self.voxels, self.volume_mm3
        valid = all(0 <= size < math.inf for size in sizes)
        if not valid or (self.voxels == 0) != (self.volume_mm3 == 0):
            raise InputError(
                f"{self.case_id}, {self.structure}: {self.voxels} voxels cannot have "
                f"{self.volume_mm3} mm3."
            )

    @property
    def volume_cm3(self) -> float:
        """The volume in cubic centimetres."""
        return self.volume_mm3 / 1000.0
