"""Scores of a prediction against a reference, structure by structure.

Surface measures are **area-weighted**, as google-deepmind/surface-distance defines
them: a surface element sits at every corner of the voxel lattice whose eight voxels
are not all alike, and weighs as much as the triangles that marching cubes would put
there. Counting voxels instead gives 53 % too much on voxels of 3 x 1 x 1 mm.

Unlike that package, which computes distance maps of the whole volume, only the elements
that the other surface lacks are looked up, in a k-d tree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import GeometryError, InputError
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.image import BoolArray, Label, Labelmap
from nnunet_bridge.core.scores import BoneScore, StructureVolume
from nnunet_bridge.core.words import ScoreState
from nnunet_bridge.ops.occupancy import (
    Box,
    CountArray,
    label_boxes,
    label_counts,
    pair_counts,
)

SURFACE_DEFINITION = (
    "Surface elements weighted by their area in mm2 (google-deepmind surface-distance "
    "0.1). hd95_mm: the larger of the two directed 95th percentiles. hd_mm: the "
    "largest distance of any element. assd_mm: mean distance over the elements of both "
    "surfaces together. nsd: share of the area of both surfaces that lies within the "
    "tolerance of the other."
)
"""Definition of the surface measures, kept beside every table of them."""

ROBUST_PERCENT = 95.0
EQUAL_DISTANCES = 1e-4
"""Distances that differ by less than this share of the smallest spacing are equal: an
affine is read with seven digits, which must not decide what is within a tolerance."""

SAME_PLACE_WITHIN = 0.01
"""Largest distance of voxel centres of equal grids, as a share of the smallest spacing:
files round positions, and a hundredth of a voxel changes no score."""

_UNIFORM = 255  # code of a corner whose eight voxels all lie inside


def bone_scores(
    prediction: Labelmap,
    reference: Labelmap,
    *,
    case_id: str,
    configuration: str = "",
    tolerance_mm: float = 1.0,
) -> tuple[BoneScore, ...]:
    """Score every label or region of the label table; see `SURFACE_DEFINITION`.

    Dice, IoU and volumes count voxels; the volume of a voxel is ``|det affine|``.
    Ignored voxels of the reference count as background in both; a structure without a
    voxel in a reference that has some is not drawn, whatever the prediction; nor are
    those that the table of the reference names for this case.

    The normalised surface Dice counts surfaces as equal up to `tolerance_mm`;
    `case_id` and `configuration` are copied into every score.

    Raises
    ------
    GeometryError
        If the grids differ (M02); the message gives the distance in mm.
    InputError
        If the label tables differ, or the tolerance is not a distance.
    """
    _check_comparable(prediction, reference)
    if not 0 <= tolerance_mm < np.inf:
        raise InputError(f"The tolerance must be 0 mm or more, not {tolerance_mm}.")
    pairs = [(prediction, reference)]
    if regions := reference.labels.regions:  # each alone: they may share voxels
        pairs = [(prediction.only(one), reference.only(one)) for one in regions]
    return tuple(
        score
        for pair in pairs
        for score in _label_scores(*pair, case_id, configuration, tolerance_mm)
    )


def _label_scores(
    prediction: Labelmap,
    reference: Labelmap,
    case_id: str,
    configuration: str,
    tolerance_mm: float,
) -> list[BoneScore]:
    """Score every label of the table."""
    ignored = reference.labels.ignore_value
    some_ignored = ignored is not None and bool((reference.voxels == ignored).any())
    partly = reference.labels.partly_drawn.get(case_id)
    left_open = partly.not_drawn if partly else frozenset[str]()
    prediction, reference = _without_ignored(prediction, reference)
    if partly:
        prediction = replace(prediction, labels=reference.labels).judged(case_id)
        reference = reference.judged(case_id)
    counts = pair_counts(prediction, reference)
    voxel_mm3 = reference.grid.voxel_volume_mm3
    predicted, drawn = label_boxes(prediction), label_boxes(reference)
    weights = _areas_of_codes(reference.grid.spacing_mm)
    scores = []
    for label in reference.labels:
        overlap = _Overlap.of(label, counts)
        not_drawn = (some_ignored and not overlap.drawn) or label.name in left_open
        state = ScoreState.NOT_DRAWN if not_drawn else overlap.state
        dice, iou = (None, None) if not_drawn else (overlap.dice, overlap.iou)
        box, reference_box = predicted[label.value - 1], drawn[label.value - 1]
        surface = _SurfaceScore(None, None, None, dice)  # 0 where one side is empty
        if box is not None and reference_box is not None:
            surface = _SurfaceScore.between(
                _surface(prediction, label, box, weights),
                _surface(reference, label, reference_box, weights),
                spacing_mm=reference.grid.spacing_mm,
                tolerance_mm=tolerance_mm,
            )
        scores.append(
            BoneScore(
                case_id=case_id,
                structure=label.name,
                configuration=configuration,
                state=state,
                dice=dice,
                hd95_mm=surface.hd95_mm,
                assd_mm=surface.assd_mm,
                nsd=surface.nsd,
                volume_reference_mm3=overlap.drawn * voxel_mm3,
                volume_prediction_mm3=overlap.predicted * voxel_mm3,
                iou=iou,
                hd_mm=surface.hd_mm,
            )
        )
    return scores


def tolerance_remark(tolerance_mm: float, largest_edge_mm: float) -> str:
    """Return a warning about a tolerance below the voxel size; empty if it is not."""
    if tolerance_mm >= largest_edge_mm * (1 - EQUAL_DISTANCES):
        return ""
    return (
        f"The tolerance of the NSD ({tolerance_mm:g} mm) is below the largest voxel "
        f"edge ({largest_edge_mm:.3g} mm): a shift by one voxel counts as an error."
    )


def structure_volumes(
    labelmap: Labelmap, *, case_id: str
) -> tuple[StructureVolume, ...]:
    """Return the volume of every structure of the table, absent ones included."""
    counts = label_counts(labelmap)
    return tuple(
        StructureVolume(
            case_id=case_id,
            structure=label.name,
            side=label.side,
            voxels=int(counts[label.value]),
            volume_mm3=int(counts[label.value]) * labelmap.grid.voxel_volume_mm3,
        )
        for label in labelmap.labels
    )


def _without_ignored(
    prediction: Labelmap, reference: Labelmap
) -> tuple[Labelmap, Labelmap]:
    """Return both with background in the ignored voxels of the reference."""
    if reference.labels.ignore_value is None:
        return prediction, reference
    kept = prediction.voxels.copy(order="K")
    kept[reference.voxels == reference.labels.ignore_value] = 0
    return prediction.with_voxels(kept), reference.without_ignored()


def _check_comparable(prediction: Labelmap, reference: Labelmap) -> None:
    if prediction.labels.names != reference.labels.names:
        raise InputError(
            "Prediction and reference have different labels "
            f"({', '.join(prediction.labels.names)}; "
            f"{', '.join(reference.labels.names)}). Score labels of the same meaning.",
            code="M02",
        )
    theirs, ours = prediction.grid, reference.grid
    tolerance_mm = SAME_PLACE_WITHIN * float(ours.spacing_mm.min())
    if not ours.matches(theirs, tolerance_mm=tolerance_mm):
        raise GeometryError(
            f"Prediction ({' x '.join(map(str, theirs.shape))} voxels) and reference "
            f"({' x '.join(map(str, ours.shape))}) lie on different grids: voxels of "
            f"the same index are up to {ours.displacement_mm(theirs):.3f} mm apart. "
            "Put both on the grid of the image.",
            code="M02",
        )


@dataclass(frozen=True, slots=True)
class _Overlap:
    """Voxels of one structure in the prediction, the reference, and both."""

    predicted: int
    drawn: int
    common: int

    @classmethod
    def of(cls, label: Label, counts: CountArray) -> _Overlap:
        """Read the overlap of `label` from the table of pairs."""
        value = label.value
        return cls(
            predicted=int(counts[value].sum()),
            drawn=int(counts[:, value].sum()),
            common=int(counts[value, value]),
        )

    @property
    def state(self) -> ScoreState:
        if self.predicted and self.drawn:
            return ScoreState.SCORED
        if self.drawn:
            return ScoreState.MISSED
        return ScoreState.INVENTED if self.predicted else ScoreState.BOTH_EMPTY

    @property
    def dice(self) -> float | None:
        """Twice the common voxels by the sum of both; None if both are empty."""
        total = self.predicted + self.drawn
        return 2.0 * self.common / total if total else None

    @property
    def iou(self) -> float | None:
        """Common voxels by those of the union; None if both are empty."""
        either = self.predicted + self.drawn - self.common
        return self.common / either if either else None


@dataclass(frozen=True, slots=True, eq=False)
class _Surface:
    """The surface elements of one mask, sorted by corner: k, then j, then i."""

    corners: npt.NDArray[np.int64]
    """(3, N) lattice corners; corner (i, j, k) touches the eight voxels from
    (i-1, j-1, k-1) to (i, j, k)."""

    areas_mm2: FloatArray  # (N,) area of the surface around each corner


@dataclass(frozen=True, slots=True, eq=False)
class _Directed:
    """Distances of the elements of one surface from the other, nearest first."""

    distances_mm: FloatArray
    areas_mm2: FloatArray

    def percentile_mm(self, percent: float) -> float:
        """Return the distance within which `percent` of the area lies."""
        share = np.cumsum(self.areas_mm2) / np.sum(self.areas_mm2)
        index = int(np.searchsorted(share, percent / 100.0))
        return float(self.distances_mm[min(index, len(share) - 1)])

    @property
    def largest_mm(self) -> float:
        """Distance of the furthest element."""
        return float(self.distances_mm[-1])

    def area_within_mm2(self, tolerance_mm: float) -> float:
        """Return the area at a distance of at most `tolerance_mm`."""
        return float(np.sum(self.areas_mm2[self.distances_mm <= tolerance_mm]))


@dataclass(frozen=True, slots=True)
class _SurfaceScore:
    """The surface measures of one structure."""

    hd_mm: float | None
    hd95_mm: float | None
    assd_mm: float | None
    nsd: float | None

    @classmethod
    def between(
        cls,
        prediction: _Surface,
        reference: _Surface,
        *,
        spacing_mm: FloatArray,
        tolerance_mm: float,
    ) -> _SurfaceScore:
        """Measure in both directions."""
        within_mm = tolerance_mm + EQUAL_DISTANCES * float(spacing_mm.min())
        both = (
            _directed(reference, prediction, spacing_mm=spacing_mm),
            _directed(prediction, reference, spacing_mm=spacing_mm),
        )
        area_mm2 = sum(float(np.sum(one.areas_mm2)) for one in both)
        weighted = sum(float(np.sum(one.distances_mm * one.areas_mm2)) for one in both)
        return cls(
            hd_mm=max(one.largest_mm for one in both),
            hd95_mm=max(one.percentile_mm(ROBUST_PERCENT) for one in both),
            assd_mm=weighted / area_mm2,
            nsd=sum(one.area_within_mm2(within_mm) for one in both) / area_mm2,
        )


def _directed(start: _Surface, end: _Surface, *, spacing_mm: FloatArray) -> _Directed:
    """Return the distance of each element of `start` from the nearest of `end`.

    Elements on a corner of both surfaces have the distance 0; only the others are
    looked up. The distance is computed from whole corners, so that equal distances are
    equal to the last bit, and sorted with the area as second key, so that the order of
    the elements does not change a percentile.
    """
    distances_mm = np.zeros(len(start.areas_mm2))
    apart = ~_also_in(start.corners, end.corners)
    if apart.any():
        from scipy.spatial import KDTree

        away = start.corners[:, apart]
        steps_mm = spacing_mm[:, np.newaxis]
        tree = KDTree(
            (end.corners * steps_mm).T, balanced_tree=False, compact_nodes=False
        )
        _, nearest = tree.query((away * steps_mm).T)
        x, y, z = (away - end.corners[:, nearest]) * steps_mm
        distances_mm[apart] = np.sqrt(x * x + y * y + z * z)
    nearest_first = np.lexsort((start.areas_mm2, distances_mm))
    return _Directed(distances_mm[nearest_first], start.areas_mm2[nearest_first])


def _also_in(
    corners: npt.NDArray[np.int64], others: npt.NDArray[np.int64]
) -> BoolArray:
    """Return which (3, N) `corners` are among the `others`, both sorted.

    Each corner becomes one number; a binary search finds it among those of the others.
    """
    shape = tuple(np.maximum(corners.max(axis=1), others.max(axis=1)) + 1)
    codes = np.ravel_multi_index(tuple(corners), shape, order="F")
    other_codes = np.ravel_multi_index(tuple(others), shape, order="F")
    places = np.searchsorted(other_codes, codes).clip(max=len(other_codes) - 1)
    found: BoolArray = other_codes[places] == codes
    return found


def _surface(
    labelmap: Labelmap, label: Label, box: Box, weights: FloatArray
) -> _Surface:
    """Return the surface elements of the structure in its `box`.

    A corner is on the surface unless its eight voxels are all outside or all inside.
    """
    codes = _corner_codes(labelmap.voxels[box] == label.value)
    flat = codes.ravel(order="F")
    places = np.flatnonzero((flat != 0) & (flat != _UNIFORM))
    corners = np.stack(np.unravel_index(places, codes.shape, order="F"))
    lowest = np.array([[along.start] for along in box])
    return _Surface(corners + lowest, weights[flat[places]])


def _corner_codes(mask: BoolArray) -> npt.NDArray[np.uint8]:
    """Return the (I + 1, J + 1, K + 1) codes of the corners of an (I, J, K) mask.

    The voxel (i-1+a, j-1+b, k-1+c) of corner (i, j, k) sets the bit of weight
    ``128 >> (4 a + 2 b + c)``: the code of surface-distance's lookup table.
    """
    # Start with the last voxel of each corner (bit 1), then double the neighbourhood
    # along each axis: a shift by one voxel moves the bits of the previous voxels up.
    codes = np.zeros([size + 1 for size in mask.shape], dtype=np.uint8, order="F")
    codes[:-1, :-1, :-1] = mask
    codes[:, :, 1:] |= codes[:, :, :-1] << 1
    codes[:, 1:] |= codes[:, :-1] << 2
    codes[1:] |= codes[:-1] << 4
    return codes


def _areas_of_codes(spacing_mm: FloatArray) -> FloatArray:
    """Return the (256,) area in mm2 of the surface around a corner, by its code."""
    face_areas = spacing_mm.prod() / spacing_mm  # of the voxel, by the normal's axis
    return np.array(
        [np.linalg.norm(found * face_areas, axis=1).sum() for found in _code_normals()]
    )


@cache
def _code_normals() -> tuple[FloatArray, ...]:
    """Return the area vectors of the triangles around a corner, by its code.

    They are those of marching cubes at half height (W. E. Lorensen and H. E. Cline,
    SIGGRAPH 1987), for voxels of 1 mm. Where a face of the cube is ambiguous, the
    smaller of inside and outside is cut apart; so a code and its complement have the
    same surface, as in the table of surface-distance.
    """
    from skimage import measure

    marching_cubes: Any = measure.marching_cubes  # its stub has no types
    normals = [np.zeros((0, 3))] * 256
    for code in range(1, 255):
        smaller = code if code.bit_count() <= 4 else 255 - code  # noqa: PLR2004 - half of 8
        inside = np.unpackbits(np.uint8(smaller)).reshape(2, 2, 2).astype(np.float32)
        vertices, faces, _, _ = marching_cubes(inside, 0.5, method="lorensen")
        a, b, c = np.moveaxis(vertices[faces].astype(np.float64), 1, 0)
        normals[code] = np.cross(b - a, c - a) / 2
    return tuple(normals)
