"""How suspicious the masks of a training set are, and which were changed since."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

SUSPICIOUS = 3.5
"""Robust standard deviations from which a figure is a reason to look at a mask (B.
Iglewicz and D. C. Hoaglin, How to Detect and Handle Outliers, 1993)."""


@dataclass(frozen=True, slots=True)
class AuditedMask:
    """One structure of one case, compared with the other cases."""

    case: str
    structure: str
    suspicion: float  # robust standard deviations of its worst figure; 0 without one
    reasons: tuple[str, ...]  # its suspicious figures in words, the worst first
    worst: str  # its worst figure, suspicious or not; empty if none was compared
    volume_mm3: float
    sha256: str  # of its voxels

    @property
    def key(self) -> tuple[str, str]:
        """Case and structure."""
        return self.case, self.structure

    @property
    def suspicious(self) -> bool:
        """Whether there is a reason to look at it."""
        return self.suspicion >= SUSPICIOUS


@dataclass(frozen=True, slots=True)
class MaskChange:
    """A mask that differs from the audit before; None where it was not drawn."""

    case: str
    structure: str
    volumes_mm3: tuple[float | None, ...]  # then and now
    suspicions: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """The content of ``audit.json``."""

    dataset: str
    model: str  # whose predictions were compared; empty for none
    created: str
    notes: tuple[str, ...]  # what could not be compared
    masks: tuple[AuditedMask, ...]  # the most suspicious first
    changes: tuple[MaskChange, ...] = ()  # by the last change of the dataset
    files: dict[str, str] = field(default_factory=dict)
    """Name -> SHA-256 of the segmentations, as they were written."""

    schema: Literal[1] = 1

    def changes_since(self, earlier: AuditRecord) -> Iterator[MaskChange]:
        """Yield every mask that was changed, drawn or removed since an audit."""
        before, after = ({m.key: m for m in one.masks} for one in (earlier, self))
        for key in sorted(before.keys() | after.keys()):
            pair = before.get(key), after.get(key)
            then, now = (mask.sha256 if mask else "" for mask in pair)
            if then != now:
                volumes = [mask.volume_mm3 if mask else None for mask in pair]
                suspicions = [mask.suspicion if mask else None for mask in pair]
                yield MaskChange(*key, (*volumes,), (*suspicions,))
