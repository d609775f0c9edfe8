"""When a predicted case is finished: its files are those that its record names (N03).

A file that exists proves nothing: a killed process leaves files of 0 and of 4 bytes,
and nnU-Net's own way to go on takes them for done. Here a case is finished if its
record fits the input and the model, every file that it names has the hash that it
names, and the labels can be read to their end, on the grid of the input.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nnunet_bridge.core.errors import BridgeError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.files import PARTIAL, read_json, sha256_of
from nnunet_bridge.formats.labels_file import CASE_LABELS
from nnunet_bridge.formats.nifti import read_labelmap

RECORD = "prediction.json"
"""Written last in the folder of a case: without it nothing is finished."""


def file_hashes(case_dir: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a case but its record, by its name."""
    files = sorted(file for file in case_dir.rglob("*") if file.is_file())
    return {
        file.relative_to(case_dir).as_posix(): sha256_of(file)
        for file in files
        if file != case_dir / RECORD and not file.name.endswith(PARTIAL)
    }


def finished_record(
    case_dir: Path, facts: JsonObject, labels: LabelTable, grid: Grid
) -> JsonObject | None:
    """Return the record of a case that need not be predicted again, or None.

    Parameters
    ----------
    case_dir : Path
        The folder of the case; it may not be there.
    facts : dict
        What the record must say: hashes of input and model, and the options.
    labels : LabelTable
        Of the model.
    grid : Grid
        Of the input.
    """
    record = _record_in(case_dir)
    if record is None or any(record.get(key) != facts[key] for key in facts):
        return None
    files = record.get("outputs")
    if not isinstance(files, dict) or CASE_LABELS not in files:
        return None
    for name, sha256 in files.items():
        file = case_dir / name
        if not file.is_file() or sha256_of(file) != sha256:
            return None
    try:
        labelmap = read_labelmap(case_dir / CASE_LABELS, labels)
    except BridgeError:
        return None
    return record if labelmap.grid.matches(grid) else None


@dataclass(slots=True)
class WholeLabelmaps:
    """Takes labelmaps from the folder of a process that is still writing there."""

    labels: LabelTable
    _sizes: dict[Path, int] = field(default_factory=dict)

    def take(self, file: Path) -> Labelmap | None:
        """Return a labelmap that is whole: no longer growing, and read to its end."""
        try:
            size = file.stat().st_size
        except OSError:
            return None
        if self._sizes.get(file) != size:
            self._sizes[file] = size
            return None
        try:
            return read_labelmap(file, self.labels)
        except Refused:
            return None


def _record_in(case_dir: Path) -> JsonObject | None:
    try:
        content = read_json(case_dir / RECORD)
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
