"""Read DICOM segmentations (SEG) and structure sets (RTSTRUCT) as masks.

highdicom reads SEG, binary and labelmap, and gives its place in the patient. Contours
of a structure set are filled on the grid of the scan, by the even-odd rule: a contour
inside another one is a hole. PS3.3 A.51, A.86.1 (SEG); A.19, C.8.8.6 (RTSTRUCT).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nnunet_bridge.core.errors import BridgeError
from nnunet_bridge.core.findings import Finding, Refused, warning
from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.dicom.headers import Damaged, open_dicom, refuse_a_bomb
from nnunet_bridge.formats.mask_values import MaskValues, Meaning
from nnunet_bridge.formats.memory import ask_for_memory
from nnunet_bridge.formats.nifti import AGAIN, MAX_VOXELS, refused
from nnunet_bridge.formats.slicer import NamedValue, StructureMask, named_segments
from nnunet_bridge.ops.filling import filled_outlines
from nnunet_bridge.ops.regrid import SNAP_WITHIN

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from pydicom.dataset import Dataset

    from nnunet_bridge.formats.dicom.series import SeriesReading

_DRAWN_CLASS = re.compile(
    rb"(?:\x02\0\x02\0|\x08\0\x16\0)(?:UI..|....)"
    rb"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(?:66\.[47]|481\.3)(?![\d.])",
    re.DOTALL,
)
"""The SOP class of a SEG, binary or labelmap, or of an RTSTRUCT."""

_SNIFF_BYTES = 1024
_CONTOUR_DATA = 0x30060050
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_BYTES_PER_VOXEL = 10  # of memory, that highdicom takes to read a segment


@dataclass(frozen=True, slots=True)
class DrawnHeader:
    """The segments of a file, and the scan that they were drawn on."""

    names: tuple[str, ...]  # in the order of the file
    series: frozenset[str] = field(repr=False)  # UIDs of the series
    frame_of_reference: str = field(repr=False)  # its UID


def may_be_drawn(file: Path) -> bool:
    """Whether a file starts as a DICOM SEG or RTSTRUCT; a look of microseconds."""
    try:
        with file.open("rb") as stream:
            start = stream.read(_SNIFF_BYTES)
    except OSError:
        return False
    return _DRAWN_CLASS.search(start) is not None


def read_drawn_header(file: Path) -> DrawnHeader:
    """Read the names of the segments, and the scan that they were drawn on.

    Raises `Refused` if the file cannot be read (K19).
    """
    dataset = _dataset(file, whole=False)
    with _boundary(file):
        return _header(dataset)


def read_drawn(
    file: Path,
    names: Sequence[NamedValue],
    *,
    own_names: bool,
    grid: Grid,
    scan: SeriesReading | None,
    threshold: float | None = None,
) -> Iterator[StructureMask]:
    """Yield the segments of a DICOM SEG or RTSTRUCT, one structure at a time.

    Parameters
    ----------
    file : Path
        The file.
    names : sequence of NamedValue
        Names that go before the file's own, by the number of the segment, from 1.
    own_names : bool
        Whether segments that `names` leaves out go by their own names.
    grid : Grid
        The grid of the scan, on which contours are filled.
    scan : SeriesReading, optional
        The series of the scan; None if it is no DICOM series.
    threshold : float, optional
        The lowest probability that counts, in a fractional segmentation.

    Raises `Refused` if it cannot be read (K19), refers to another scan (K28), has no
    place (K11), or its contours do not lie in slices of the scan (K29).
    """
    dataset = _dataset(file)
    with _boundary(file):
        header = _header(dataset)
        findings = tuple(_about_scan(file, header, scan) if scan else ())
        numbered = [(name, n, 0) for n, name in enumerate(header.names)]
        chosen = named_segments(file.name, numbered, names, own_names=own_names)
        reader: _Outlines | _Segments
        if "StructureSetROISequence" in dataset:
            reader = _Outlines(file, dataset, grid)
        else:
            reader = _Segments(file, dataset, Meaning(threshold=threshold))
    for name, side, number, _ in chosen:
        with _boundary(file):
            mask = reader.mask(number, name, side, findings)
        yield mask


def _dataset(file: Path, *, whole: bool = True) -> Dataset:
    import pydicom

    with _boundary(file), open_dicom(file) as stream:
        if not may_be_drawn(file):
            raise refused("K08", file, "is neither a DICOM SEG nor an RTSTRUCT")
        refuse_a_bomb(stream, announced=True)
        stream.seek(0)
        ask_for_memory(2 * file.stat().st_size, quoted(file.name))
        return pydicom.dcmread(stream, stop_before_pixels=not whole)


def _header(dataset: Dataset) -> DrawnHeader:
    series = [
        item.SeriesInstanceUID for item in dataset.get("ReferencedSeriesSequence", ())
    ]
    frames = [str(dataset.get("FrameOfReferenceUID", ""))]
    for frame in dataset.get("ReferencedFrameOfReferenceSequence", ()):
        frames.append(str(frame.get("FrameOfReferenceUID", "")))
        for study in frame.get("RTReferencedStudySequence", ()):
            named = study.get("RTReferencedSeriesSequence", ())
            series += [item.SeriesInstanceUID for item in named]
    if "StructureSetROISequence" in dataset:
        names = [roi.get("ROIName") for roi in dataset.StructureSetROISequence]
    else:
        names = [one.get("SegmentLabel") for one in _described(dataset)]
    named = (str(name or f"Segment_{n}") for n, name in enumerate(names, start=1))
    uids = frozenset(map(str, series))
    return DrawnHeader(tuple(named), uids, max(frames, key=bool))


def _described(dataset: Dataset) -> list[Dataset]:
    """Return the descriptions of the segments; 0 is the background of a labelmap."""
    return [one for one in dataset.SegmentSequence if int(one.SegmentNumber) > 0]


def _about_scan(
    file: Path, header: DrawnHeader, scan: SeriesReading
) -> Iterator[Finding]:
    """Refuse the drawing of another scan; warn of one on another series (K28)."""
    if not header.series or scan.series_uid in header.series:
        return
    text = f"{quoted(file.name)} was drawn on another series than the one that is used"
    frame = header.frame_of_reference
    if not frame or frame != scan.frame_of_reference_uid:
        how = "pair it with its own scan; if only its UIDs differ, save it as .seg.nrrd"
        what = f"{text}, in another frame of reference: {how}."
        raise Refused.because("K28", what)
    yield warning("K28", f"{text}, in the same frame of reference: check its place.")


class _Segments:
    """The segments of a DICOM SEG."""

    def __init__(self, file: Path, dataset: Dataset, meaning: Meaning) -> None:
        from highdicom.seg import Segmentation

        self._file, self._meaning = file, meaning
        self._numbers = [int(one.SegmentNumber) for one in _described(dataset)]
        self._read: Segmentation = Segmentation.from_dataset(dataset, copy=False)
        geometry = self._read.get_volume_geometry(allow_missing_positions=True)
        if geometry is None:
            lack = "has frames that are not parallel and evenly spaced"
            raise refused("K11", file, f"{lack}: save it as .seg.nrrd in 3D Slicer")
        voxels = int(np.prod(geometry.spatial_shape, dtype=np.float64))
        if voxels > MAX_VOXELS:
            sizes = tuple(geometry.spatial_shape)
            raise refused("S07", file, f"spans a volume of {sizes} voxels")
        ask_for_memory(_BYTES_PER_VOXEL * voxels, quoted(file.name))

    def mask(
        self, number: int, name: str, side: str, findings: tuple[Finding, ...]
    ) -> StructureMask:
        """Return a segment, with its axes as `read_series` has them."""
        volume = self._read.get_volume(segment_numbers=[self._numbers[number]])
        values = volume.array[..., 0].transpose(2, 1, 0)
        affine = volume.affine[:, [2, 1, 0, 3]].copy()
        if np.linalg.det(affine[:3, :3]) < 0:
            values = values[:, :, ::-1]
            affine[:, 3] += (values.shape[2] - 1) * affine[:, 2]
            affine[:, 2] *= -1
        own = list(findings)
        reader = MaskValues(self._file.name, self._meaning, own)
        voxels, read_as = reader.read(np.asfortranarray(values))
        grid = Grid(cast("tuple[int, int, int]", values.shape), affine)
        place = name, side, grid, voxels, self._file.name
        return StructureMask(*place, tuple(own), read_as)


class _Outlines:
    """The contours of a structure set on the grid of its scan."""

    def __init__(self, file: Path, dataset: Dataset, grid: Grid) -> None:
        self._file, self._grid = file, grid
        self._numbers = [int(r.ROINumber) for r in dataset.StructureSetROISequence]
        self._contours = {
            int(one.ReferencedROINumber): one.get("ContourSequence") or ()
            for one in dataset.get("ROIContourSequence", ())
        }

    def mask(
        self, number: int, name: str, side: str, findings: tuple[Finding, ...]
    ) -> StructureMask:
        """Return the voxels inside the contours of a structure."""
        drawn = self._contours.get(self._numbers[number], ())
        closed = [one for one in drawn if one.get("ContourGeometricType") in _CLOSED]
        places = [self._grid.to_voxel(_points(one)) for one in closed]
        places = [one for one in places if len(one) > 2]  # noqa: PLR2004 - an area
        voxels = np.zeros(self._grid.shape, bool, order="F")
        ask_for_memory(2 * voxels.size, quoted(self._file.name))
        if places:
            axis, slices = self._slices(places)
            around = [n for n in range(3) if n != axis]
            size = np.array(self._grid.shape)
            planes = filled_outlines(
                cast("tuple[int, int, int]", tuple(size[[*around, axis]].tolist())),
                np.concatenate(places)[:, around],
                np.concatenate([np.roll(one, -1, axis=0) for one in places])[:, around],
                np.repeat(slices, [len(one) for one in places]),
            )
            voxels = np.moveaxis(planes, 2, axis)
        place = name, side, self._grid, voxels, self._file.name
        return StructureMask(*place, findings, read_as="contours")

    def _slices(self, places: Sequence[FloatArray]) -> tuple[int, Any]:
        """Return the axis across the contours, and the slice of each.

        Raises `Refused` if they lie between slices or across them (K29), or outside the
        image (K02).
        """
        spread = np.array([np.ptp(one, axis=0) for one in places]).max(axis=0)
        axis = int(spread.argmin())
        heights = np.array([np.median(one[:, axis]) for one in places])
        slices = np.rint(heights).astype(np.int64)
        between = int(np.count_nonzero(np.abs(heights - slices) > SNAP_WITHIN))
        where = f"{between} of {len(places)} contours between slices of the scan"
        if spread[axis] > SNAP_WITHIN:
            where = "contours that do not lie in slices of the scan"
        if between or spread[axis] > SNAP_WITHIN:
            how = "pair it with the series it was drawn on, or save it as .seg.nrrd"
            raise refused("K29", self._file, f"has {where}: {how}")
        size = np.array(self._grid.shape)
        beyond = sum(bool(((one < -1) | (one > size)).any()) for one in places)
        beyond += int(np.count_nonzero((slices < 0) | (slices >= size[axis])))
        if beyond:
            lie = f"has {min(beyond, len(places))} of {len(places)} contours of a"
            text = f"{lie} structure outside the image: check that it is of this scan"
            raise refused("K02", self._file, text)
        return axis, slices


def _points(contour: Dataset) -> FloatArray:
    """Return the (P, 3) points of a contour in mm, LPS+."""
    raw: Any = contour.get_item(_CONTOUR_DATA)
    stored = getattr(raw, "value", None)
    if isinstance(stored, bytes):  # not parsed yet, which is slow
        stored = stored.rstrip(b" \0").split(b"\\")
    points = np.array([float(number) for number in stored or ()]).reshape(-1, 3)
    if not np.isfinite(points).all():
        raise ValueError("a contour has points at infinite places")
    return points


@contextmanager
def _boundary(file: Path) -> Iterator[None]:
    """Turn anything that a parser raises about a file into a refusal (K19)."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except Damaged as error:
        raise refused(error.code, file, f"is damaged: {error}") from error
    except BridgeError:
        raise
    except OSError as error:
        raise refused("K19", file, f"cannot be read: {error.strerror}") from error
    except Exception as error:  # the boundary around one untrusted file
        what = "is not a readable DICOM SEG or RTSTRUCT"
        reason = f"{what} ({type(error).__name__}): {AGAIN}"
        raise refused("K19", file, reason) from error
