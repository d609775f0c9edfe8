"""Write the files of a predicted case, and recognise a case that is finished (N03).

The existence of a file proves nothing: a killed process leaves files of 0 and of 4
bytes, and nnU-Net's own resumption takes them as done. A case is finished if its record
matches the input and the model, every file in the record has its recorded hash, and the
labels can be read to their end, on the grid of the input.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_bridge.core.errors import BridgeError, InputError
from nnunet_bridge.core.findings import Finding, Refused, warning
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.core.records import NewerVersionError
from nnunet_bridge.core.scores import StructureVolume
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.dicom import SourceSlice
from nnunet_bridge.formats.dicom.segmentation import Algorithm, write_dicom_seg
from nnunet_bridge.formats.files import PARTIAL, sha256_of
from nnunet_bridge.formats.kept import files_unchanged, holds
from nnunet_bridge.formats.labels_file import CASE_LABELS, WHOLE_SCAN_LABELS
from nnunet_bridge.formats.nifti import read_labelmap, write_labelmap
from nnunet_bridge.formats.preview import write_preview
from nnunet_bridge.formats.slicer_write import write_labelmap_segmentation
from nnunet_bridge.formats.tables import read_volumes, write_volumes
from nnunet_bridge.ops.metrics import structure_volumes
from nnunet_bridge.ops.region import Region, put_back
from nnunet_bridge.pipeline.labels.mesh import MeshOptions, write_meshes
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.record import RECORD, PredictionRecord

CASE_SEGMENTATION = "labels.seg.nrrd"
CASE_DICOM_SEG = "labels.dcm"
CASE_PREVIEW = "preview.png"
CASE_VOLUMES = "volumes.csv"
CASE_MESHES = "meshes"


@dataclass(frozen=True, slots=True, eq=False)
class PredictedImage:
    """A prediction, with everything that its output files contain."""

    case_id: str
    seen: Labelmap  # on the slices that the network saw
    image: Volume  # on the same slices
    cut: Region | None  # which slices of the input these are; None for all of them
    region: Region | None
    """The slices that `convert` kept of the scan; None for all of them."""

    slices: tuple[SourceSlice, ...]
    """The files of the slices of a DICOM series; empty for other images."""

    algorithm: Algorithm

    def labelmap(self) -> Labelmap:
        """Return the prediction on the grid of the input."""
        return self.seen if self.cut is None else put_back(self.seen, self.cut)


@dataclass(frozen=True, slots=True)
class WrittenOutputs:
    """The files of a case, and what was found while they were written."""

    outputs: dict[str, str]  # file, relative to the folder of the case -> its SHA-256
    volumes: tuple[StructureVolume, ...]
    findings: tuple[Finding, ...]

    def as_json(self) -> JsonObject:
        """Return the hashes as ``prediction.json`` contains them."""
        named = {"labels_sha256": CASE_LABELS, "whole_scan_sha256": WHOLE_SCAN_LABELS}
        there = {key: name for key, name in named.items() if name in self.outputs}
        hashes = {key: self.outputs[name] for key, name in there.items()}
        return {**hashes, "outputs": self.outputs}


def write_outputs(
    case_dir: Path, predicted: PredictedImage, options: PredictionOptions
) -> WrittenOutputs:
    """Write all files of a predicted case but its record.

    Files of an earlier call that `options` no longer asks for are removed. A DICOM SEG
    that cannot refer to the image is `Refused` (N10).
    """
    labelmap = predicted.labelmap()
    volumes = structure_volumes(labelmap, case_id=predicted.case_id)
    shutil.rmtree(case_dir / CASE_MESHES, ignore_errors=True)
    for name in (CASE_SEGMENTATION, CASE_DICOM_SEG, WHOLE_SCAN_LABELS):
        (case_dir / name).unlink(missing_ok=True)
    write_labelmap(case_dir / CASE_LABELS, labelmap)
    write_volumes(case_dir / CASE_VOLUMES, volumes)
    # Without the case id: pixels cannot be searched for names, or rid of them.
    write_preview(case_dir / CASE_PREVIEW, predicted.image, predicted.seen)
    if options.seg_nrrd:
        write_labelmap_segmentation(case_dir / CASE_SEGMENTATION, labelmap)
    findings: tuple[Finding, ...] = ()
    if options.meshes:
        meshing = MeshOptions(smooth=options.smooth)
        for structure in write_meshes(labelmap, case_dir / CASE_MESHES, meshing):
            if structure.state == "refused":
                what = f"--smooth {options.smooth} changes the volume of"
                text = f"{what} {structure.structure} too much: it has no mesh."
                findings += (warning("M08", f"{text} Smooth less."),)
    if predicted.region is not None:
        labelmap = put_back(labelmap, predicted.region)
        write_labelmap(case_dir / WHOLE_SCAN_LABELS, labelmap)
    if options.dicom_seg:
        source = predicted.slices, predicted.algorithm
        findings += write_dicom_seg(case_dir / CASE_DICOM_SEG, labelmap, *source)
    return WrittenOutputs(_file_hashes(case_dir), volumes, findings)


def require_source_slices(slices: tuple[SourceSlice, ...]) -> None:
    """Refuse an image whose slices a DICOM SEG cannot refer to (N10)."""
    if not slices:
        raise Refused.because(
            "N10",
            "The image was resampled from its DICOM series, so DICOM SEG cannot refer "
            "to its slices: leave out --dicom-seg or --resample.",
        )


def finished_case(
    case_dir: Path, facts: JsonObject, labels: LabelTable, grid: Grid
) -> tuple[PredictionRecord, tuple[StructureVolume, ...]] | None:
    """Return record and volumes of a finished case; None if it must be predicted.

    The record must hold the same `facts`: hashes of input and model, and the options.
    `labels` are those of the model, `grid` is that of the input.

    Raises `NewerVersionError` if a newer version of this package predicted the case.
    """
    try:
        record = PredictionRecord.read(case_dir)
    except NewerVersionError:
        raise
    except InputError:
        return None
    if not {CASE_LABELS, CASE_VOLUMES} <= record.outputs.keys():
        return None
    if not holds(record.as_json(), facts):
        return None
    if not files_unchanged(case_dir, record.outputs):
        return None
    try:
        labelmap = read_labelmap(case_dir / CASE_LABELS, labels)
        volumes = read_volumes(case_dir / CASE_VOLUMES)
    except BridgeError:
        return None
    return (record, volumes) if labelmap.grid.matches(grid) else None


@dataclass(slots=True)
class CompletedLabelmaps:
    """Reads labelmaps from the folder of a process that is still writing there."""

    labels: LabelTable
    _sizes: dict[Path, int] = field(default_factory=dict)

    def poll(self, file: Path) -> Labelmap | None:
        """Return a labelmap once it is complete, else None.

        A file is complete if its size is that of the last call and it can be read to
        its end.
        """
        try:
            size = file.stat().st_size
            if self._sizes.get(file) == size:
                return read_labelmap(file, self.labels)
            self._sizes[file] = size
        except (OSError, Refused):
            pass
        return None


def _file_hashes(case_dir: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a case but its record."""
    files = sorted(file for file in case_dir.rglob("*") if file.is_file())
    kept = [f for f in files if f.name != RECORD and not f.name.endswith(PARTIAL)]
    return {file.relative_to(case_dir).as_posix(): sha256_of(file) for file in kept}
