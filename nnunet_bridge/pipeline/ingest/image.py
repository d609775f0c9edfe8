"""Write one DICOM series as a NIfTI file, to look at it or for other tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_bridge.core.cases import CaseReport, exit_code_of
from nnunet_bridge.core.dataset import case_id_of
from nnunet_bridge.core.errors import BridgeError, InputError, UsageError
from nnunet_bridge.core.image import Volume
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.dicom import (
    FileAccount,
    SeriesOptions,
    SeriesRefused,
    read_series,
)
from nnunet_bridge.formats.nifti import read_volume, write_volume
from nnunet_bridge.pipeline.ingest.inputs import NIFTI_ENDINGS, unpacked


@dataclass(frozen=True, slots=True, eq=False)
class ImageSummary:
    """The image that `image` wrote, or why it was refused."""

    case: CaseReport
    files: FileAccount
    out: Path
    volume: Volume | None = None
    """None if the series was refused; nothing is written then."""

    interventions: Mapping[str, Any] | None = None
    """Changes made by options."""

    rewritten: bool = False
    """Whether this call wrote the file."""

    @property
    def exit_code(self) -> int:
        """0 if the file is there, 3 if the series was refused."""
        return exit_code_of([self.case])

    def as_json(self) -> JsonObject:
        """Return the one object that `--json` prints."""
        grid = None if self.volume is None else self.volume.grid
        spacing_mm = () if grid is None else grid.spacing_mm
        return {
            **self.case.as_json(),
            "shape": None if grid is None else list(grid.shape),
            "spacing_mm": [round(float(size), 6) for size in spacing_mm] or None,
            "files": {
                "found": self.files.found,
                "used": len(self.files.used),
                "excluded": len(self.files.excluded),
                "failed": len(self.files.failed),
            },
            "not_used": [
                {"name": name, "reason": reason}
                for name, reason in (*self.files.excluded, *self.files.failed)
            ],
            "interventions": dict(self.interventions or {}),
            "file": None if self.volume is None else str(self.out),
            "rewritten": self.rewritten,
        }

    def as_text(self) -> str:
        """Return the file, its size and the findings."""
        content = self.as_json()
        lines = [f"{self.out}: {self.case.outcome}"]
        if self.volume is not None:
            size = " x ".join(map(str, content["shape"]))
            spacing = " x ".join(f"{size:g}" for size in content["spacing_mm"])
            lines[0] += f", {size} voxels of {spacing} mm"
        lines += [f"  {message}" for message in content["messages"]]
        kinds = ", ".join(
            f"{number} {kind}" for kind, number in content["files"].items()
        )
        return "\n".join([*lines, f"Files: {kinds}."])


def write_image(
    dicom: Path,
    out: Path,
    options: SeriesOptions,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> ImageSummary:
    """Write a DICOM series as a NIfTI file.

    Parameters
    ----------
    dicom : Path
        A folder or a zip; `options` choose the series if it holds several.
    out : Path
        Ends in ``.nii.gz`` or ``.nii``; outside `dicom`. A file with another image is
        replaced only with `force`.
    """
    _check_target(dicom, out)
    listener = progress or Silent()
    listener.stage("image", 1)
    case_id = case_id_of(dicom)
    try:
        with unpacked(dicom) as folder:
            reading = read_series(folder, options)
    except SeriesRefused as refused:
        return ImageSummary(CaseReport(case_id, refused.findings), refused.files, out)
    is_there = not force and _holds(out, reading.volume)
    if not is_there:
        write_volume(out, reading.volume)
    listener.advance(1, out.name)
    return ImageSummary(
        CaseReport(case_id, reading.findings),
        reading.files,
        out,
        reading.volume,
        reading.interventions,
        rewritten=not is_there,
    )


def _check_target(dicom: Path, out: Path) -> None:
    if not out.name.endswith(NIFTI_ENDINGS):
        raise UsageError(f"{out} must end in .nii.gz or .nii.")
    if out.resolve().is_relative_to(dicom.resolve()):
        raise InputError(
            f"{out} would lie inside the DICOM folder {dicom}: choose a file outside.",
            code="F05",
        )


def _holds(out: Path, volume: Volume) -> bool:
    """Whether the file holds this image; refuse to replace another one."""
    if not out.exists():
        return False
    try:
        there = read_volume(out)
    except BridgeError:
        there = None
    if (
        there is not None
        and there.grid.matches(volume.grid)
        and np.array_equal(there.voxels, volume.voxels)
    ):
        return True
    raise InputError(f"{out} holds another image: name another file, or use --force.")
