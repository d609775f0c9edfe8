"""Write one DICOM series as a NIfTI file, to look at it or for other tools."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

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
    SeriesReading,
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
    reading: SeriesReading | None = None
    """None if the series was refused; nothing is written then."""

    rewritten: bool = False  # whether this call wrote the file

    @property
    def exit_code(self) -> int:
        """0 if the file is there, 3 if the series was refused."""
        return exit_code_of([self.case])

    def as_json(self) -> JsonObject:
        """Return the one object that `--json` prints."""
        reading, files = self.reading, self.files
        kinds = {
            kind: len(getattr(files, kind)) for kind in ("used", "excluded", "failed")
        }
        rest = (*files.excluded, *files.failed)
        grid = reading.volume.grid if reading else None
        spacing_mm = (
            [round(float(size), 6) for size in grid.spacing_mm] if grid else None
        )
        return {
            **self.case.as_json(),
            "shape": list(grid.shape) if grid else None,
            "spacing_mm": spacing_mm,
            "files": {"found": files.found, **kinds},
            "not_used": [{"name": name, "reason": why} for name, why in rest],
            "interventions": dict(reading.interventions) if reading else {},
            "file": str(self.out) if reading else None,
            "rewritten": self.rewritten,
        }

    def as_text(self) -> str:
        """Return the file, its size and the findings."""
        content = self.as_json()
        lines = [f"{self.out}: {self.case.outcome}"]
        if self.reading:
            size = " x ".join(map(str, content["shape"]))
            spacing = " x ".join(f"{size:g}" for size in content["spacing_mm"])
            lines[0] += f", {size} voxels of {spacing} mm"
        lines += [f"  {message}" for message in content["messages"]]
        counts = content["files"].items()
        kinds = ", ".join(f"{number} {kind}" for kind, number in counts)
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

    `dicom` is a folder or a zip; `options` choose the series if it holds several. `out`
    ends in ``.nii.gz`` or ``.nii`` and lies outside `dicom`. A file with another image
    is replaced only with `force`.
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
    missing = force or not _holds(out, reading.volume)
    if missing:
        write_volume(out, reading.volume)
    listener.advance(1, out.name)
    report = CaseReport(case_id, reading.findings)
    return ImageSummary(report, reading.files, out, reading, rewritten=missing)


def _check_target(dicom: Path, out: Path) -> None:
    if not out.name.endswith(NIFTI_ENDINGS):
        raise UsageError(f"{out} must end in .nii.gz or .nii.")
    if out.resolve().is_relative_to(dicom.resolve()):
        text = (
            f"{out} would lie inside the DICOM folder {dicom}: choose a file outside."
        )
        raise InputError(text, code="F05")


def _holds(out: Path, volume: Volume) -> bool:
    """Whether the file holds this image; refuse to replace another one."""
    if not out.exists():
        return False
    with contextlib.suppress(BridgeError):
        there = read_volume(out)
        same = there.grid.matches(volume.grid)
        if same and np.array_equal(there.voxels, volume.voxels):
            return True
    raise InputError(f"{out} holds another image: name another file, or use --force.")
