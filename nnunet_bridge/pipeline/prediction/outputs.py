"""What a predicted case is given out as: labels, meshes, and what else is asked for."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.findings import Finding, Refused
from nnunet_bridge.core.image import Labelmap, Volume
from nnunet_bridge.formats.dicom import SourceSlice
from nnunet_bridge.formats.dicom.segmentation import Algorithm, write_dicom_seg
from nnunet_bridge.formats.files import sha256_of
from nnunet_bridge.formats.labels_file import CASE_LABELS, WHOLE_SCAN_LABELS
from nnunet_bridge.formats.nifti import write_labelmap
from nnunet_bridge.formats.preview import write_preview
from nnunet_bridge.formats.slicer_write import write_labelmap_segmentation
from nnunet_bridge.formats.tables import write_volumes
from nnunet_bridge.ops.metrics import structure_volumes
from nnunet_bridge.ops.region import Region, put_back
from nnunet_bridge.pipeline.labels.mesh import write_meshes
from nnunet_bridge.pipeline.prediction.finished_case import file_hashes

CASE_SEGMENTATION = "labels.seg.nrrd"
CASE_DICOM_SEG = "labels.dcm"
CASE_PREVIEW = "preview.png"
CASE_VOLUMES = "volumes.csv"
CASE_MESHES = "meshes"


@dataclass(frozen=True, slots=True)
class WantedOutputs:
    """Which files a case gets beside its labels, volumes and preview."""

    meshes: bool = False
    seg_nrrd: bool = False
    """3D Slicer's segmentation."""

    dicom_seg: bool = False
    """DICOM SEG; the image must be a DICOM series."""


@dataclass(frozen=True, slots=True, eq=False)
class PredictedImage:
    """A prediction, and all that its files tell of it."""

    case_id: str
    seen: Labelmap
    """On the slices that the network saw."""

    image: Volume
    """On the same slices."""

    cut: Region | None
    """Which slices of the input these are; None if they are all."""

    region: Region | None
    """What the input was cropped from when it was converted; None if nothing was."""

    slices: tuple[SourceSlice, ...]
    """Where the slices of a DICOM series lie on the disk; empty for other images."""

    algorithm: Algorithm

    def labelmap(self) -> Labelmap:
        """Return the prediction on the grid of the input."""
        return self.seen if self.cut is None else put_back(self.seen, self.cut)


@dataclass(frozen=True, slots=True)
class WrittenOutputs:
    """What a case was given out as."""

    hashes: dict[str, str]
    """``labels_sha256`` and, with a region, ``whole_scan_sha256``."""

    outputs: dict[str, str]
    """File, relative to the folder of the case -> its SHA-256."""

    findings: tuple[Finding, ...]


def write_outputs(
    case_dir: Path, predicted: PredictedImage, wanted: WantedOutputs
) -> WrittenOutputs:
    """Write everything that a predicted case is given out as.

    Files of an earlier call that are no longer asked for are removed.

    Parameters
    ----------
    case_dir : Path
        The folder of the case.
    predicted : PredictedImage
    wanted : WantedOutputs

    Raises
    ------
    Refused
        If a DICOM SEG is asked for that cannot refer to the image (N10).
    """
    labelmap = predicted.labelmap()
    labels_file = case_dir / CASE_LABELS
    shutil.rmtree(case_dir / CASE_MESHES, ignore_errors=True)
    write_labelmap(labels_file, labelmap)
    hashes = {"labels_sha256": sha256_of(labels_file)}
    hashes |= write_whole_scan(case_dir, labelmap, predicted.region)
    volumes = structure_volumes(labelmap, case_id=predicted.case_id)
    write_volumes(case_dir / CASE_VOLUMES, volumes)
    write_preview(
        case_dir / CASE_PREVIEW,
        predicted.image,
        predicted.seen,
        title=predicted.case_id,
    )
    findings: tuple[Finding, ...] = ()
    (case_dir / CASE_SEGMENTATION).unlink(missing_ok=True)
    (case_dir / CASE_DICOM_SEG).unlink(missing_ok=True)
    if wanted.seg_nrrd:
        write_labelmap_segmentation(case_dir / CASE_SEGMENTATION, labelmap)
    if wanted.dicom_seg:
        whole = labelmap
        if predicted.region is not None:
            whole = put_back(labelmap, predicted.region)
        findings = write_dicom_seg(
            case_dir / CASE_DICOM_SEG, whole, predicted.slices, predicted.algorithm
        )
    if wanted.meshes:
        write_meshes(labelmap, case_dir / CASE_MESHES)
    return WrittenOutputs(hashes, file_hashes(case_dir), findings)


def refuse_without_slices(slices: tuple[SourceSlice, ...]) -> None:
    """Refuse an image whose DICOM series a DICOM SEG cannot refer to.

    Raises
    ------
    Refused
        N10.
    """
    if not slices:
        raise Refused.because(
            "N10",
            "The image was resampled from its DICOM series, so that no DICOM SEG can "
            "refer to the slices: leave out --dicom-seg or --resample.",
        )


def write_whole_scan(
    case_dir: Path, labelmap: Labelmap, region: Region | None
) -> dict[str, str]:
    """Write a prediction on the grid of the scan that its image was cropped from.

    Parameters
    ----------
    case_dir : Path
        The folder of the case.
    labelmap : Labelmap
        On the grid of the image.
    region : Region or None
        What `convert` kept of the scan; None if it kept everything, and then a file of
        an earlier call is removed.

    Returns
    -------
    hashes : dict
        ``whole_scan_sha256`` of the file, if there is one.
    """
    file = case_dir / WHOLE_SCAN_LABELS
    if region is None:
        file.unlink(missing_ok=True)
        return {}
    write_labelmap(file, put_back(labelmap, region))
    return {"whole_scan_sha256": sha256_of(file)}
