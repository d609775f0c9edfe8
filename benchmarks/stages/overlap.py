"""Dice and volume error of four bones."""

from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from limb import BONES, Limb
from race import Contender, Facts, Stage, within

from nnunet_bridge.core.image import Labelmap
from nnunet_bridge.ops.occupancy import pair_counts

Pair: TypeAlias = tuple[Labelmap, Labelmap]
"""Prediction and reference."""


def _prepare(limb: Limb, _: Path) -> Pair:
    return limb.prediction, limb.reference


def _source(pair: Pair, _: Path) -> Facts:
    prediction, reference = pair
    voxel_mm3 = reference.grid.voxel_volume_mm3
    found = {}
    for label in BONES:
        predicted = np.where(prediction.voxels != label.value, 0, 1)
        drawn = np.where(reference.voxels != label.value, 0, 1)
        found[label.name] = (
            _dice(np.asarray(drawn).astype(bool), np.asarray(predicted).astype(bool)),
            abs(np.count_nonzero(drawn) - np.count_nonzero(predicted))
            * voxel_mm3
            * 0.001,
        )
    return found


def _dice(drawn: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]) -> float:
    common = np.logical_and(drawn, predicted)
    return float(2.0 * common.sum() / (drawn.sum() + predicted.sum()))


def _ours(pair: Pair, _: Path) -> Facts:
    counts = pair_counts(*pair)
    predicted, drawn = counts.sum(axis=1), counts.sum(axis=0)
    voxel_mm3 = pair[1].grid.voxel_volume_mm3
    return {
        label.name: (
            2.0 * counts[label.value, label.value] / (drawn + predicted)[label.value],
            abs(int(drawn[label.value] - predicted[label.value])) * voxel_mm3 * 0.001,
        )
        for label in BONES
    }


def _simpleitk(pair: Pair, _: Path) -> Facts:
    import SimpleITK as sitk  # noqa: N813 - its common name

    prediction, reference = (sitk.GetImageFromArray(one.voxels.T) for one in pair)
    measured = sitk.LabelOverlapMeasuresImageFilter()
    measured.Execute(reference, prediction)
    shapes = []
    for image in (reference, prediction):
        counted = sitk.LabelShapeStatisticsImageFilter()
        counted.ComputePerimeterOff()
        counted.Execute(image)
        shapes.append(counted)
    voxel_mm3 = pair[1].grid.voxel_volume_mm3
    return {
        label.name: (
            measured.GetDiceCoefficient(label.value),
            abs(int(np.diff([s.GetNumberOfPixels(label.value) for s in shapes])[0]))
            * voxel_mm3
            * 0.001,
        )
        for label in BONES
    }


OVERLAP = Stage(
    name="Dice and volumes, 4 bones",
    prepare=_prepare,
    baseline=Contender("source: a mask a bone", _source),
    ours=Contender("nnunet-bridge", _ours),
    others=(Contender("SimpleITK", _simpleitk, needs=("SimpleITK",)),),
    target=0.02,
    facts=lambda found: found,
    agree=within(1e-9),
)
