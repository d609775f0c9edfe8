"""From which checkpoint a training can go on.

nnU-Net takes ``final``, else ``latest``, else ``best``, by existence alone: a file that
a full disk or a power cut left half-written ends the training for good (FAULTS N05).
So each is read to its end before nnU-Net sees it. A checkpoint is a zip file, whose
checksums say whether it is whole; nothing in it is executed for that.
"""

from __future__ import annotations

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
"""The order in which nnU-Net looks, and the one before the latest, which is ours."""

DAMAGED = ".damaged"
"""Ending of a checkpoint that was set aside."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a training goes on."""

    checkpoint: str | None
    """Name of the file; None if there is nothing to go on from."""

    damaged: tuple[str, ...]
    """Newer checkpoints that could not be read."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the user must know."""
        if not self.damaged:
            return ()
        onwards = (
            f"it goes on from {self.checkpoint}"
            if self.checkpoint
            else "it starts from the beginning"
        )
        return (
            Finding(
                "N05",
                Outcome.WARNED,
                f"{', '.join(self.damaged)} cannot be read: {onwards}. What is damaged "
                f"is kept with the ending {DAMAGED}.",
            ),
        )


def prepare_resumption(fold_dir: Path) -> Resumption:
    """Let nnU-Net find the newest checkpoint that is whole.

    A damaged one is set aside; the one before the latest takes its name.

    Parameters
    ----------
    fold_dir : Path
        Folder of one fold of a model; nobody trains in it.
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
