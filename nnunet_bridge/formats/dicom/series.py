"""Read one DICOM series as one volume, with all findings."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_bridge.core.errors import GeometryError
from nnunet_bridge.core.findings import Finding, Outcome, Refused, worst
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.core.units import counted
from nnunet_bridge.formats.dicom.folder import FileAccount, Scan, scan_folder
from nnunet_bridge.formats.dicom.groups import choose
from nnunet_bridge.formats.dicom.headers import Contrast
from nnunet_bridge.formats.dicom.options import SeriesOptions
from nnunet_bridge.formats.dicom.pixels import read_pixels
from nnunet_bridge.formats.dicom.stack import Stack, arrange
from nnunet_bridge.ops.restack import restacked


@dataclass(frozen=True, slots=True)
class SourceSlice:
    """The file and frame of one slice of a volume."""

    file: Path
    frame: int  # 0 in a single-frame file


@dataclass(frozen=True, slots=True, eq=False)
class SeriesReading:
    """A volume, and the facts about it that the manifest records."""

    volume: Volume  # (column, row, slice), LPS+, right-handed; voxels in Fortran order
    findings: tuple[Finding, ...]
    files: FileAccount
    max_position_error_mm: float
    """Largest distance of a slice from its place by the affine (FAULTS R1)."""

    rescale_slopes: tuple[float, float]  # smallest and largest
    rescale_intercepts: tuple[float, float]  # smallest and largest
    group: str  # contrast and number of the images; nothing that identifies a patient
    rejected_groups: tuple[str, ...]  # the same of the groups that were left out
    contrast: Contrast
    """Modality, image type and echo; nothing that identifies a patient."""

    declared_thickness_mm: float | None
    declared_spacing_mm: float | None
    patient_position: str
    """*Patient Position*, such as ``HFS``; empty if it is not stated."""

    interventions: Mapping[str, Any]
    """Changes that a user allowed, as JSON; mostly empty."""

    # Identifiers: write them as salted hashes only.
    series_uid: str = field(repr=False)
    frame_of_reference_uid: str = field(repr=False)
    patient_id: str = field(repr=False)
    birth_date: str = field(repr=False)

    slices: tuple[SourceSlice, ...] = field(default=(), repr=False)
    """The source of slice k of the volume; empty if it was resampled."""


class SeriesRefused(Refused):
    """No volume could be read; holds the account of the files, too."""

    def __init__(self, findings: Iterable[Finding], files: FileAccount) -> None:
        super().__init__(findings)
        self.files = files


def read_series(
    folder: Path,
    options: SeriesOptions | None = None,
    *,
    leave_out: Collection[Path] = (),
) -> SeriesReading:
    """Read the volume of the DICOM series in a folder and its subfolders, or in a file.

    Files are known by content, not by name; what `leave_out` names is not looked at.

    Raises `InputError` if there is no such folder or file. Raises `SeriesRefused` if
    there is not exactly one sound volume to read; with all findings.
    """
    scan = scan_folder(folder, leave_out)
    try:
        return _reading(scan, options or SeriesOptions())
    except Refused as refused:
        scan.exclude(scan.headers, "the series was refused")
        findings = (*scan.findings, *refused.findings)
        raise SeriesRefused(findings, scan.account()) from refused


def _reading(scan: Scan, options: SeriesOptions) -> SeriesReading:
    if not scan.headers and worst(scan.findings) is Outcome.REFUSED:
        raise Refused(())  # the findings about the files are enough
    _give_spacing(scan, options.pixel_spacing_mm)
    chosen, rejected = choose(scan, options)
    stack = arrange(chosen, whole_series=not rejected, options=options)
    if worst(scan.findings) is Outcome.REFUSED:
        raise Refused(stack.findings)
    pixels = read_pixels(stack.headers, stack.overlap)
    if stack.overlap.how == "first":
        scan.exclude(list(stack.overlap.headers), "another station holds its place")
    voxels = pixels.voxels
    if stack.restack is not None:
        voxels = restacked(voxels, stack.restack)
    try:
        grid = Grid((voxels.shape[0], voxels.shape[1], voxels.shape[2]), stack.affine)
    except GeometryError as error:
        raise Refused.because("G11", str(error)) from error
    first = stack.headers[0]
    slices = tuple(SourceSlice(header.file, header.frame) for header in stack.headers)
    return SeriesReading(
        volume=Volume(grid, voxels),
        findings=(*scan.findings, *stack.findings, *pixels.findings),
        files=scan.account(),
        max_position_error_mm=stack.max_error_mm,
        rescale_slopes=pixels.slopes,
        rescale_intercepts=pixels.intercepts,
        group=chosen.kind,
        rejected_groups=tuple(group.kind for group in rejected),
        contrast=first.contrast,
        declared_thickness_mm=first.thickness_mm,
        declared_spacing_mm=first.declared_spacing_mm,
        patient_position=first.patient_position,
        interventions=_interventions(stack, options),
        series_uid=first.identity.series,
        frame_of_reference_uid=first.identity.frame_of_reference,
        patient_id=first.identity.patient,
        birth_date=first.identity.birth_date,
        slices=slices if stack.restack is None else (),
    )


def _give_spacing(scan: Scan, spacing_mm: tuple[float, float] | None) -> None:
    """Give the user's pixel spacing to slices that have none (G12)."""
    if spacing_mm is None:
        return
    stated = [spacing for h in scan.headers if (spacing := h.plane.pixel_spacing_mm)]
    given = f"{spacing_mm[0]:g} x {spacing_mm[1]:g} mm"
    for spacing in stated:
        if not np.allclose(spacing, spacing_mm, rtol=0.01):
            raise Refused.because(
                "G12",
                f"Pixel Spacing in the headers is {spacing[0]:g} x {spacing[1]:g} mm, "
                f"but `pixel_spacing_mm` is {given}: leave out the option, it is for "
                "images without Pixel Spacing.",
            )
    without = len(scan.headers) - len(stated)
    if not without:
        return
    for place, header in enumerate(scan.headers):
        if not header.plane.pixel_spacing_mm:
            plane = replace(header.plane, pixel_spacing_mm=spacing_mm)
            scan.headers[place] = replace(header, plane=plane)
    lack = f"{counted(without, 'image', ('has', 'have'))} no Pixel Spacing"
    message = f"{lack}; {given} is used, from `pixel_spacing_mm`."
    scan.note("G12", Outcome.WARNED, message)


def _interventions(stack: Stack, options: SeriesOptions) -> dict[str, Any]:
    """Return the permissions that were used, for the manifest."""
    done: dict[str, Any] = {}
    if options.pixel_spacing_mm is not None:
        done["pixel_spacing_mm"] = list(options.pixel_spacing_mm)
    if stack.headers[0].encoding.inverted:
        done["inverted_monochrome1"] = True
    if stack.headers[0].privately_scaled:
        done["private_scale_ignored"] = True
    if stack.overlap.others:
        how, stations = stack.overlap.how, stack.overlap.stations
        slices = sorted(stack.overlap.others)
        done["overlap"] = {"how": how, "stations": stations, "slices": slices}
    if stack.restack is not None:
        plane = stack.headers[0].plane
        columns, rows = stack.restack.shape[:2]
        done["resampled"] = {
            "slices_before": len(stack.headers),
            "heights_mm": [round(float(z), 6) for z in stack.restack.heights_mm],
            "interpolated_slices": list(stack.restack.interpolated),
            "widened_by": [columns - plane.columns, rows - plane.rows],
        }
    return done
