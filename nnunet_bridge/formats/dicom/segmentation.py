"""Write a labelmap as DICOM SEG, tied to the series that it was made from.

Every structure is a binary segment, which every viewer reads; its number is the value
of the structure in the label table. Frames without a voxel are left out. The file holds
patient and study of its source, as an archive needs them, and no other identifier.

PS3.3 A.51 (Segmentation IOD), C.8.20.2 (Segmentation Image Module).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_bridge.core.findings import Finding, Refused, warning
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Label, LabelArray, Labelmap
from nnunet_bridge.core.version import __version__
from nnunet_bridge.formats.dicom.series import SourceSlice
from nnunet_bridge.formats.files import open_to_write, whole_file
from nnunet_bridge.formats.terminology import SCHEME, Concept, find_terms

if TYPE_CHECKING:
    from highdicom import PixelMeasuresSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.dataset import Dataset
    from pydicom.sr.coding import Code
    from pydicom.tag import BaseTag

TOLERANCE_MM = 0.01  # largest distance of a voxel from its place in the labelmap
_SERIES_NUMBER_ABOVE = 1000  # the segmentation of series 6 is series 1006
_MOST_SEGMENTS = 65535

_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)
"""Type 2 of the modules Patient and General Study, PS3.3 C.7.1.1 and C.7.2.1."""

_TEXTS = frozenset({"LO", "SH", "LT", "ST", "UT", "UC", "PN", "SQ"})
_REQUIRED_TEXTS = frozenset(
    {
        *("PatientID", "PatientName", "AccessionNumber", "StudyID"),
        *("ReferringPhysicianName", "PositionReferenceIndicator"),
        *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
        *("DimensionIndexSequence", "DimensionOrganizationSequence"),
    }
)
"""Texts that the modules Patient, General Study and Frame of Reference require, and
sequences of a multi-frame source; comments, other names and descriptions stay behind.
"""

_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
"""References of a segmentation to its source, PS3.3 C.12.4 and C.7.2.1."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """The model that predicted the segments."""

    model: str  # such as ``3d_fullres, nnunet, full``
    model_sha256: str


def write_dicom_seg(
    file: Path, labelmap: Labelmap, slices: Sequence[SourceSlice], algorithm: Algorithm
) -> tuple[Finding, ...]:
    """Write a labelmap as DICOM SEG, and read it back before it gets its name.

    The file is not written, and removed, if the labelmap is empty. The labelmap is on
    the grid of the series, (column, row, slice); `slices` are the sources of its
    slices, whose headers are read again. Returns warnings for the user of the file.

    Raises `Refused` if the labelmap does not lie on the slices of the series, the
    series lacks attributes that a DICOM SEG needs, or the file reads back differently
    (N10).
    """
    if len(slices) != labelmap.grid.shape[2]:
        raise Refused.because(
            "N10",
            "The labels do not lie on the slices of the DICOM series (it was resampled "
            "or cropped), so a DICOM SEG cannot refer to them: leave out --dicom-seg.",
        )
    labelled = labelmap.without_ignored()
    if not labelled.voxels.any():
        file.unlink(missing_ok=True)
        empty = "No structure was found, and a DICOM SEG cannot be empty"
        return (warning("N10", f"{empty}: {file.name} was not written."),)
    # Headers may break rules that do not matter here; ignore the warnings about them.
    with warnings.catch_warnings(action="ignore"):
        sources, findings = _sources(slices, labelled.grid)
        frames = _frames(labelled.voxels, sources, slices)
        with _boundary("cannot be described as DICOM SEG"):
            segmentation = _segmentation(labelled, frames, sources, algorithm)
        with whole_file(file) as temporary:
            with (
                _boundary("cannot be written as DICOM SEG"),
                open_to_write(temporary) as stream,
            ):
                segmentation.save_as(stream, enforce_file_format=True)
            with _boundary("cannot be read back from the DICOM SEG"):
                written = read_dicom_seg(temporary, labelled.grid)
            if not np.array_equal(written, labelled.voxels):
                raise Refused.because(
                    "N10",
                    "The DICOM SEG does not hold the voxels of the labelmap: report "
                    "this, with the manufacturer of the series.",
                )
    return findings


def read_dicom_seg(file: Path, grid: Grid) -> LabelArray:
    """Read the segment numbers of a DICOM SEG as (I, J, K) voxels of a grid.

    Segments must not overlap. Voxels without a segment are 0. Raises `Refused` if a
    frame does not lie on a slice of the grid (N10).
    """
    import highdicom as hd

    segmentation = hd.seg.segread(file)
    volume = segmentation.get_volume(combine_segments=True, dtype=np.uint16)
    if volume.affine[:3, 0] @ grid.affine[:3, 2] < 0:
        volume = volume.flip_spatial(0)
    block: Any = volume.array.transpose(2, 1, 0)
    affine = volume.affine[:, [2, 1, 0, 3]]
    # The block must lie inside the grid, its first voxel on a voxel of the grid.
    first = np.rint(np.linalg.solve(grid.affine, affine[:, 3])[:3]).astype(int)
    last = first + block.shape
    expected = grid.affine.copy()
    expected[:3, 3] = grid.to_patient(first)
    fits = (first >= 0).all() and (last <= grid.shape).all()
    if not fits or not Grid(block.shape, affine).matches(
        Grid(block.shape, expected), tolerance_mm=TOLERANCE_MM
    ):
        raise Refused.because(
            "N10", "The frames of the DICOM SEG do not lie on the slices of its source."
        )
    voxels = np.zeros(grid.shape, np.uint16, order="F")
    inside = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    voxels[inside] = block
    return voxels


def _sources(
    slices: Sequence[SourceSlice], grid: Grid
) -> tuple[list[Dataset], tuple[Finding, ...]]:
    """Return the completed headers of the files, and a warning if one was completed."""
    from pydicom import dcmread
    from pydicom.uid import generate_uid

    files = list(dict.fromkeys(source.file for source in slices))
    with _boundary("cannot be read again"):
        sources: list[Dataset] = [
            dcmread(file, stop_before_pixels=True, force=True) for file in files
        ]
    missing = [key for key in _NEEDED if not all(s.get(key) for s in sources)]
    if missing:
        raise Refused.because(
            "N10",
            f"The DICOM series has no {', '.join(missing)}, which a DICOM SEG needs: "
            "leave out --dicom-seg for it.",
        )
    for source in sources:
        _complete(source, grid)
    if all(source.get("FrameOfReferenceUID") for source in sources):
        return sources, ()
    made_up = generate_uid(entropy_srcs=["frame", str(sources[0].SeriesInstanceUID)])
    for source in sources:
        source.FrameOfReferenceUID = made_up
    derived = "the one in the DICOM SEG is derived from the UID of the series"
    about = warning("N10", f"The series has no Frame of Reference UID; {derived}.")
    return sources, (about,)


def _complete(source: Dataset, grid: Grid) -> None:
    """Complete a header with the attributes that highdicom copies into a DICOM SEG."""
    import highdicom as hd
    from pydicom.datadict import dictionary_has_tag

    for tag in list(source.keys()):
        free = not tag.is_private and dictionary_has_tag(tag) and _is_free_text(tag)
        if tag.is_private or free:
            del source[tag]
    for keyword in _MAY_BE_EMPTY:
        source.setdefault(keyword, None)
    measures = _measures(source, grid)
    if "NumberOfFrames" not in source:
        source.SliceThickness = measures[0].SliceThickness
        source.PixelSpacing = measures[0].PixelSpacing
        return
    shared = source.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence = measures
    row, column = grid.affine[:3, 0], grid.affine[:3, 1]
    cosines = [*(row / np.linalg.norm(row)), *(column / np.linalg.norm(column))]
    shared.PlaneOrientationSequence = hd.PlaneOrientationSequence(
        hd.CoordinateSystemNames.PATIENT, cosines
    )


def _is_free_text(tag: BaseTag) -> bool:
    """Whether a DICOM SEG does not need an element in which anything may stand."""
    from pydicom.datadict import dictionary_VR, keyword_for_tag

    if dictionary_VR(tag) not in _TEXTS:
        return False
    return keyword_for_tag(tag) not in _REQUIRED_TEXTS


def _measures(source: Dataset, grid: Grid) -> PixelMeasuresSequence:
    """Return the size of the voxels of the grid."""
    import highdicom as hd

    column_mm, row_mm, slice_mm = (float(mm) for mm in grid.spacing_mm)
    return hd.PixelMeasuresSequence(
        pixel_spacing=(row_mm, column_mm),
        slice_thickness=float(source.get("SliceThickness") or slice_mm),
        spacing_between_slices=slice_mm,
    )


def _frames(
    voxels: LabelArray, sources: Sequence[Dataset], slices: Sequence[SourceSlice]
) -> LabelArray:
    """Return the labels as (frame, row, column), in the order of the source frames."""
    stacked = voxels.transpose(2, 1, 0)
    if "NumberOfFrames" not in sources[0]:
        return np.ascontiguousarray(stacked)
    shape = (int(sources[0].NumberOfFrames), *stacked.shape[1:])
    frames = np.zeros(shape, voxels.dtype)
    frames[[source.frame for source in slices]] = stacked
    return frames


def _segmentation(
    labelmap: Labelmap,
    frames: LabelArray,
    sources: Sequence[Dataset],
    algorithm: Algorithm,
) -> Segmentation:
    import highdicom as hd

    series_uid, instance_uid = _uids(labelmap, sources, algorithm)
    number = int(sources[0].get("SeriesNumber") or 0) + _SERIES_NUMBER_ABOVE
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(one, algorithm) for one in labelmap.labels],
        series_instance_uid=series_uid,
        series_number=number,
        sop_instance_uid=instance_uid,
        instance_number=1,
        manufacturer="nnunet-bridge",
        manufacturer_model_name="nnunet-bridge",
        software_versions=__version__,
        device_serial_number=algorithm.model_sha256[:16],
        specific_character_set="ISO_IR 192",
        content_label="SEGMENTATION",
        content_description="Predicted by a neural network; not reviewed",
        series_description=f"Segmentation ({algorithm.model})"[:64],
        pixel_measures=_measures(sources[0], labelmap.grid),
    )


def _description(label: Label, algorithm: Algorithm) -> SegmentDescription:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    terms = find_terms(label.name)
    model = {"model": algorithm.model, "model_sha256": algorithm.model_sha256}
    described = hd.seg.SegmentDescription(
        segment_number=label.value,
        segment_label=label.name[:64],
        segmented_property_category=_code(terms.category),
        segmented_property_type=_code(terms.kind),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="nnunet-bridge",
            family=codes.DCM.ArtificialIntelligence,
            version=__version__,
            parameters=model,
        ),
        display_color=hd.color.CIELabColor.from_rgb(*label.colour),
    )
    if terms.side is not None:
        (kind,) = described.SegmentedPropertyTypeCodeSequence
        kind.SegmentedPropertyTypeModifierCodeSequence = [
            hd.sr.CodedConcept.from_code(_code(terms.side))
        ]
    return described


def _code(concept: Concept) -> Code:
    from pydicom.sr.coding import Code

    return Code(concept.value, SCHEME, concept.meaning)


def _uids(
    labelmap: Labelmap, sources: Sequence[Dataset], algorithm: Algorithm
) -> tuple[str, str]:
    """Derive the UIDs of series and instance from the content of the file."""
    from pydicom.uid import generate_uid

    in_file_order: Any = np.asfortranarray(labelmap.voxels).ravel(order="K")
    voxels = hashlib.sha256(memoryview(in_file_order).cast("B")).hexdigest()
    about = [
        *(str(source.SOPInstanceUID) for source in sources),
        *(__version__, algorithm.model_sha256, voxels, *labelmap.labels.names),
    ]
    series = generate_uid(entropy_srcs=["series", *about])
    return str(series), str(generate_uid(entropy_srcs=["instance", *about]))


@contextmanager
def _boundary(what: str) -> Iterator[None]:
    """Turn any exception of a library about foreign headers into a refusal."""
    try:
        yield
    except (Refused, OSError):
        raise
    except Exception as error:  # the boundary around foreign headers
        raise Refused.because(
            "N10",
            f"The DICOM series {what} ({type(error).__name__}: {error}): leave out "
            "--dicom-seg for it.",
        ) from error
