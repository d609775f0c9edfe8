"""HD95, ASSD and NSD of four bones; surface-distance, which defines them, is 1."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from limb import BONES, Limb
from race import Contender, Facts, Stage, within
from scipy import ndimage

from nnunet_bridge.core.image import BoolArray, Labelmap
from nnunet_bridge.ops.metrics import bone_scores

Pair: TypeAlias = tuple[Labelmap, Labelmap]
"""Prediction and reference."""

TOLERANCE_MM = 2.0
ALIKE_WITHIN = 1e-3


def _prediction(limb: Limb, _: Path) -> Pair:
    return limb.prediction, limb.reference


def _speckled(limb: Limb, _: Path) -> Pair:
    return limb.speckled, limb.reference


def _surface_distance(pair: Pair, _: Path) -> Facts:
    import surface_distance

    prediction, reference = pair
    found = {}
    for label in BONES:
        distances = surface_distance.compute_surface_distances(
            reference.mask(label), prediction.mask(label), reference.grid.spacing_mm
        )
        areas = [distances[f"surfel_areas_{which}"] for which in ("gt", "pred")]
        averages = surface_distance.compute_average_surface_distance(distances)
        found[label.name] = (
            surface_distance.compute_robust_hausdorff(distances, 95),
            np.average(averages, weights=[area.sum() for area in areas]),
            surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM),
        )
    return found


def _ours(pair: Pair, _: Path) -> Facts:
    scores = bone_scores(*pair, case_id="", tolerance_mm=TOLERANCE_MM)
    return {one.structure: (one.hd95_mm, one.assd_mm, one.nsd) for one in scores}


def _edt(pair: Pair, _: Path) -> Facts:
    import edt

    spacing_mm = tuple(pair[1].grid.spacing_mm.tolist())

    def far(border: BoolArray) -> npt.NDArray[Any]:
        distances: npt.NDArray[Any] = edt.edt(
            np.asfortranarray(~border), anisotropy=spacing_mm
        )
        return distances

    return _by_distance_maps(pair, far)


def _maurer(pair: Pair, _: Path) -> Facts:
    import SimpleITK as sitk  # noqa: N813 - its common name

    spacing_mm = pair[1].grid.spacing_mm.tolist()

    def far(border: BoolArray) -> npt.NDArray[Any]:
        image = sitk.GetImageFromArray(border.T.astype(np.uint8))
        image.SetSpacing(spacing_mm)
        distances = sitk.SignedMaurerDistanceMap(
            image, squaredDistance=False, useImageSpacing=True
        )
        return np.abs(sitk.GetArrayViewFromImage(distances)).T

    return _by_distance_maps(pair, far)


def _by_distance_maps(
    pair: Pair, far: Callable[[BoolArray], npt.NDArray[Any]]
) -> Facts:
    """Look the border voxels of each up in the other's map, on their common box."""
    boxes = [ndimage.find_objects(one.voxels.T) for one in pair]
    found = {}
    for label, *both in zip(BONES, *boxes, strict=True):
        box = tuple(
            slice(min(a.start, b.start), max(a.stop, b.stop))
            for a, b in zip(*both, strict=True)
        )[::-1]
        borders = [_border(one.voxels[box] == label.value) for one in pair]
        found[label.name] = _measures(
            [far(end)[start] for start, end in (borders, borders[::-1])]
        )
    return found


def _border(mask: BoolArray) -> BoolArray:
    padded = np.pad(mask, 1)
    border: BoolArray = padded & ~ndimage.binary_erosion(padded)
    return border[1:-1, 1:-1, 1:-1]


def _measures(distances_mm: list[npt.NDArray[Any]]) -> tuple[float, float, float]:
    both = np.concatenate(distances_mm)
    return (
        max(float(np.percentile(one, 95)) for one in distances_mm),
        float(both.mean()),
        float((both <= TOLERANCE_MM).mean()),
    )


_VOXELS_COUNTED = "counts voxels instead of area"
_MEASURES: dict[str, Any] = {
    "baseline": Contender("surface-distance", _surface_distance),
    "ours": Contender("nnunet-bridge", _ours),
    "others": (
        Contender("edt, cropped", _edt, needs=("edt",), differs=_VOXELS_COUNTED),
        Contender(
            "SimpleITK Maurer, cropped",
            _maurer,
            needs=("SimpleITK",),
            differs=_VOXELS_COUNTED,
        ),
    ),
    "facts": lambda found: found,
    "agree": within(ALIKE_WITHIN),
}

SURFACES = Stage(
    name="HD95, ASSD, NSD (surface-distance = 1)",
    prepare=_prediction,
    target=0.35,
    **_MEASURES,
)
SPECKLED = Stage(
    name="the same, speckled prediction",
    prepare=_speckled,
    target=0.1,
    most_rounds=3,
    **_MEASURES,
)
