"""One DICOM series as one volume, with everything that was noticed on the way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_bridge.core.errors import GeometryError
from nnunet_bridge.core.findings import Finding, Outcome, Refused, worst
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume, VoxelArray
from nnunet_bridge.formats.dicom.folder import FileAccount, Scan, scan_folder
from nnunet_bridge.formats.dicom.groups import choose
from nnunet_bridge.formats.dicom.headers import Contrast
from nnunet_bridge.formats.dicom.options import SeriesOptions
from nnunet_bridge.formats.dicom.pixels import read_pixels
from nnunet_bridge.formats.dicom.stack import Stack, arrange
from nnunet_bridge.ops.restack import restacked


@dataclass(frozen=True, slots=True)
class SourceSlice:
    """Where one slice of a volume came from."""

    file: Path
    frame: int
    """0 in a single-frame file."""


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

    contrast: Contrast
    """Modality, image type and echo of what was read; tells no patient."""

    declared_thickness_mm: float | None
    declared_spacing_mm: float | None
    interventions: Mapping[str, Any]
    """What was done because a user allowed it, as JSON holds it; mostly empty."""

    series_uid: str = field(repr=False)
    """Identity: write it as a salted hash only."""

    frame_of_reference_uid: str = field(repr=False)
    """Identity: write it as a salted hash only."""

    patient_id: str = field(repr=False)
    """Identity: write it as a salted hash only."""

    slices: tuple[SourceSlice, ...] = field(default=(), repr=False)
    """Where slice k of the volume lies on the disk; empty if it was resampled."""


class SeriesRefused(Refused):
    """No volume could be read; carries the account of the files as well."""

    def __init__(self, findings: Iterable[Finding], files: FileAccount) -> None:
        super().__init__(findings)
        self.files = files


def read_series(folder: Path, options: SeriesOptions | None = None) -> SeriesReading:
    """Return the volume of the DICOM series in a folder.

    Parameters
    ----------
    folder : Path
        Searched with its subfolders; files are known by content, not by name.
    options : SeriesOptions, optional
        Which images are meant, and what may be done to them.

    Raises
    ------
    InputError
        If `folder` is no folder.
    SeriesRefused
        If there is not exactly one sound volume to read; with all findings.
    """
    scan = scan_folder(folder)
    try:
        return _reading(scan, options or SeriesOptions())
    except Refused as refused:
        findings = (*scan.findings, *refused.findings)
        raise SeriesRefused(findings, _nothing_used(scan)) from refused


def _reading(scan: Scan, options: SeriesOptions) -> SeriesReading:
    if not scan.headers and worst(scan.findings) is Outcome.REFUSED:
        raise Refused(())  # what was found in the files says it all
    _give_spacing(scan, options.pixel_spacing_mm)
    chosen, rejected = choose(scan, options)
    stack = arrange(chosen, whole_series=not rejected, options=options)
    if worst(scan.findings) is Outcome.REFUSED:
        raise Refused(stack.findings)
    pixels = read_pixels(stack.headers, stack.overlap)
    if stack.overlap.how == "first":
        scan.exclude(list(stack.overlap.headers), "another station holds its place")
    first = stack.headers[0]
    return SeriesReading(
        volume=_volume(stack, pixels.voxels),
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
        interventions=_interventions(stack, options),
        series_uid=first.identity.series,
        frame_of_reference_uid=first.identity.frame_of_reference,
        patient_id=first.identity.patient,
        slices=_slices(stack),
    )


def _slices(stack: Stack) -> tuple[SourceSlice, ...]:
    """Return the origin of every slice, if the volume has the slices of the series."""
    if stack.restack is not None:
        return ()
    return tuple(SourceSlice(header.file, header.frame) for header in stack.headers)


def _volume(stack: Stack, voxels: VoxelArray) -> Volume:
    """Return the voxels in their place, resampled if that was planned."""
    if stack.restack is not None:
        voxels = restacked(voxels, stack.restack)
    try:
        grid = Grid((voxels.shape[0], voxels.shape[1], voxels.shape[2]), stack.affine)
    except GeometryError as error:
        raise Refused.because("G11", str(error)) from error
    return Volume(grid, voxels)


def _give_spacing(scan: Scan, spacing_mm: tuple[float, float] | None) -> None:
    """Give the user's pixel spacing to slices that have none (G12)."""
    if spacing_mm is None:
        return
    without = [h for h in scan.headers if h.plane.pixel_spacing_mm is None]
    other = [
        stated
        for header in scan.headers
        if (stated := header.plane.pixel_spacing_mm) is not None
        and not np.allclose(stated, spacing_mm, rtol=0.01)
    ]
    if other:
        raise Refused.because(
            "G12",
            f"The headers say that Pixel Spacing is {other[0][0]:g} x {other[0][1]:g} "
            f"mm, `pixel_spacing_mm` says {spacing_mm[0]:g} x {spacing_mm[1]:g} mm: "
            "the option is for images that do not say it.",
        )
    if not without:
        return
    given = set(map(id, without))
    scan.headers = [
        replace(h, plane=replace(h.plane, pixel_spacing_mm=spacing_mm))
        if id(h) in given
        else h
        for h in scan.headers
    ]
    scan.findings.append(
        Finding(
            "G12",
            Outcome.WARNED,
            f"{len(without)} images have no Pixel Spacing; {spacing_mm[0]:g} x "
            f"{spacing_mm[1]:g} mm is used, as `pixel_spacing_mm` says.",
        )
    )


def _interventions(stack: Stack, options: SeriesOptions) -> dict[str, Any]:
    """Return what the manifest says of permissions that were used."""
    done: dict[str, Any] = {}
    if options.pixel_spacing_mm is not None:
        done["pixel_spacing_mm"] = list(options.pixel_spacing_mm)
    if stack.headers[0].encoding.inverted:
        done["inverted_monochrome1"] = True
    if stack.headers[0].privately_scaled:
        done["private_scale_ignored"] = True
    if stack.overlap.others:
        done["overlap"] = {
            "how": stack.overlap.how,
            "stations": stack.overlap.stations,
            "slices": sorted(stack.overlap.others),
        }
    if stack.restack is not None:
        done["resampled"] = {
            "slices_before": len(stack.headers),
            "heights_mm": [round(float(z), 6) for z in stack.restack.heights_mm],
            "interpolated_slices": list(stack.restack.interpolated),
            "widened_by": [
                new - old
                for new, old in zip(
                    stack.restack.shape[:2],
                    (stack.headers[0].plane.columns, stack.headers[0].plane.rows),
                    strict=True,
                )
            ],
        }
    return done


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
