"""A labelmap that was cleaned, with an account of what changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nnunet_bridge.core.image import Labelmap


@dataclass(frozen=True, slots=True, eq=False)
class Cleaned:
    """The result of a cleaning; nothing is removed or filled silently.

    For every structure, its volume afterwards is its volume before, minus
    `removed_mm3`, plus `filled_mm3`.
    """

    labelmap: Labelmap
    """The cleaned labelmap, in the place and with the table of the input."""

    removed_mm3: Mapping[str, float]
    """By structure: what it lost."""

    filled_mm3: Mapping[str, float]
    """By structure: what it gained."""

    contested_voxels: int
    """Voxels that two structures claimed; they kept their input label."""

    rule: str
    """The rule and its parameters, in words."""

    @property
    def changed(self) -> bool:
        """Whether any voxel differs from the input."""
        return any(self.removed_mm3.values()) or any(self.filled_mm3.values())
