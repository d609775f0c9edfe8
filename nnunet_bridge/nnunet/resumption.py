"""Choose the checkpoint from which a training resumes.

nnU-Net takes ``final``, else ``latest``, else ``best``, by existence alone: a file that
a full disk or a power cut left half-written fails the training every time (FAULTS N05).
So each is read to its end before. A checkpoint is a zip file with checksums; checking
them executes nothing.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.findings import Finding, Outcome
from nnunet_bridge.nnunet.names import (
    CHECKPOINT_BEST,
    CHECKPOINT_FINAL,
    CHECKPOINT_LATEST,
    CHECKPOINT_PREVIOUS,
)

NEWEST_FIRST = (
    CHECKPOINT_FINAL,
    CHECKPOINT_LATEST,
    CHECKPOINT_PREVIOUS,
    CHECKPOINT_BEST,
)
"""nnU-Net's order, with the one before the latest, which is ours."""

DAMAGED = ".damaged"  # ending of a checkpoint that was set aside


@dataclass(frozen=True, slots=True)
class Resumption:
    """The checkpoint from which a training resumes."""

    checkpoint: str | None  # name of the file; None if there is none
    damaged: tuple[str, ...]  # newer checkpoints that could not be read

    @property
    def findings(self) -> tuple[Finding, ...]:
        """A warning for each damaged checkpoint that was skipped."""
        if not self.damaged:
            return ()
        onwards = "training starts from the beginning"
        if self.checkpoint:
            onwards = f"training resumes from {self.checkpoint}"
        message = (
            f"{', '.join(self.damaged)} cannot be read: {onwards}. The damaged file is "
            f"kept with the ending {DAMAGED}."
        )
        return (Finding("N05", Outcome.WARNED, message),)


def pick_checkpoint(fold_dir: Path) -> Resumption:
    """Arrange the checkpoints of a fold so that nnU-Net finds the newest whole one.

    A damaged one is renamed; the one before the latest takes the name of the latest.
    Hold the lock of the run.
    """
    damaged: list[str] = []
    for name in NEWEST_FIRST:
        file = fold_dir / name
        if not file.exists():
            continue
        if is_whole(file):
            if name == CHECKPOINT_PREVIOUS:
                file.rename(fold_dir / CHECKPOINT_LATEST)
            return Resumption(name, tuple(damaged))
        file.replace(file.with_name(file.name + DAMAGED))
        damaged.append(name)
    return Resumption(None, tuple(damaged))


def is_whole(file: Path) -> bool:
    """Whether a checkpoint can be read to its end, checksums and all."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
        return False
