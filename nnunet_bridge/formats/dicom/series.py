"""One DICOM series as one volume, with everything that was noticed on the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_bridge.core.errors import GeometryError
from nnunet_bridge.core.findings import Finding, Outcome, Refused, worst
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.dicom.folder import FileAccount, Scan, scan_folder
from nnunet_bridge.formats.dicom.groups import choose
from nnunet_bridge.formats.dicom.pixels import read_pixels
from nnunet_bridge.formats.dicom.stack import arrange


@dataclass(frozen=True, slots=True, eq=False)
class SeriesReading:
    """A volume, and the account that the manifest needs."""

    volume: Volume
    """(column, row, slice), LPS+, right-handed; voxels in Fortran order."""

    findings: tuple[Finding, ...]
    files: FileAccount
    max_position_error_mm: float
    """Largest distance of a slice from where the affine puts it (FAULTS R1)."""

    rescale_slopes: tuple[float, float]
    """Smallest and largest."""

    rescale_intercepts: tuple[float, float]
    """Smallest and largest."""

    group: str
    """Contrast and size of what was read; tells no patient."""

    rejected_groups: tuple[str, ...]
    """The same of what was left out."""

    declared_thickness_mm: float | None
    declared_spacing_mm: float | None
    series_uid: str = field(repr=False)
    """Identity: write it as a salted hash only."""

    frame_of_reference_uid: str = field(repr=False)
    """Identity: write it as a salted hash only."""

    patient_id: str = field(repr=False)
    """Identity: write it as a salted hash only."""


class SeriesRefused(Refused):
    """No volume could be read; carries the account of the files as well."""

    def __init__(self, findings: Iterable[Finding], files: FileAccount) -> None:
        super().__init__(findings)
        self.files = files


def read_series(
    folder: Path,
    *,
    image_type: str | None = None,
    series: str | None = None,
    echo: int | None = None,
) -> SeriesReading:
    """Return the volume of the DICOM series in a folder.

    Parameters
    ----------
    folder : Path
        Searched with its subfolders; files are known by content, not by name.
    image_type : str, optional
        Which contrast of a mixed series: a word of *Image Type* such as ``WATER``.
    series : str, optional
        Which of several series: its number, description or UID.
    echo : int, optional
        Which of several echoes: its *Echo Number(s)*.

    Raises
    ------
    InputError
        If `folder` is no folder.
    SeriesRefused
        If there is not exactly one sound volume to read; with all findings.
    """
    scan = scan_folder(folder)
    try:
        return _reading(scan, image_type=image_type, series=series, echo=echo)
    except Refused as refused:
        findings = (*scan.findings, *refused.findings)
        raise SeriesRefused(findings, _nothing_used(scan)) from refused


def _reading(
    scan: Scan, *, image_type: str | None, series: str | None, echo: int | None
) -> SeriesReading:
    chosen, rejected = choose(scan, image_type=image_type, series=series, echo=echo)
    stack = arrange(chosen, whole_series=not rejected)
    if worst(scan.findings) is Outcome.REFUSED:
        raise Refused(stack.findings)
    pixels = read_pixels(stack.headers)
    columns, rows = stack.headers[0].plane.columns, stack.headers[0].plane.rows
    try:
        grid = Grid((columns, rows, len(stack.headers)), stack.affine)
    except GeometryError as error:
        raise Refused.because("G11", str(error)) from error
    first = stack.headers[0]
    return SeriesReading(
        volume=Volume(grid, pixels.voxels),
        findings=(*scan.findings, *stack.findings, *pixels.findings),
        files=scan.account(),
        max_position_error_mm=stack.max_error_mm,
        rescale_slopes=pixels.slopes,
        rescale_intercepts=pixels.intercepts,
        group=chosen.kind,
        rejected_groups=tuple(group.kind for group in rejected),
        declared_thickness_mm=first.thickness_mm,
        declared_spacing_mm=first.declared_spacing_mm,
        series_uid=first.identity.series,
        frame_of_reference_uid=first.identity.frame_of_reference,
        patient_id=first.identity.patient,
    )


def _nothing_used(scan: Scan) -> FileAccount:
    """Return the account of a refused folder: no file was used."""
    excluded = dict.fromkeys(
        (header.name for header in scan.headers), "the series was refused"
    )
    excluded |= scan.excluded
    return FileAccount(
        excluded=tuple(sorted(excluded.items())),
        failed=tuple(sorted(scan.failed.items())),
    )
