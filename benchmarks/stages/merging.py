"""Merge the masks of four bones into one labelmap."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from limb import BONES, Limb
from race import Contender, Facts, Stage, equal, sha256

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import BoolArray
from nnunet_bridge.ops.merge import MaskMerger

Inputs: TypeAlias = tuple[Grid, tuple[BoolArray, ...]]


def _prepare(limb: Limb, _: Path) -> Inputs:
    return limb.grid, limb.masks


def _source(inputs: Inputs, _: Path) -> npt.NDArray[np.float64]:
    grid, masks = inputs
    total = np.zeros(grid.shape, order="F")
    for label, mask in zip(BONES, masks, strict=True):
        total = total + np.where(mask != 0, float(label.value), 0.0)
    return np.where(np.isin(total, [label.value for label in BONES]), total, 0)


def _ours(inputs: Inputs, _: Path) -> npt.NDArray[Any]:
    grid, masks = inputs
    merger = MaskMerger(grid, BONES)
    for label, mask in zip(BONES, masks, strict=True):
        merger.add(label, mask)
    return merger.merged().labelmap.voxels


def _numexpr(inputs: Inputs, _: Path) -> npt.NDArray[Any]:
    import numexpr

    _, (tibia, femur, fibula, pelvis) = inputs
    return numexpr.evaluate(
        "where(1*t + 2*f + 3*b + 4*p <= 4, 1*t + 2*f + 3*b + 4*p, 0)",
        {
            name: mask.view(np.uint8)
            for name, mask in zip("tfbp", (tibia, femur, fibula, pelvis), strict=True)
        },
    )


def _facts(merged: npt.NDArray[Any]) -> Facts:
    return {"voxels": sha256(merged.astype(np.uint8))}


MERGING = Stage(
    name="merge 4 masks",
    prepare=_prepare,
    baseline=Contender("source: sum of encodings, float64", _source),
    ours=Contender("nnunet-bridge", _ours),
    others=(Contender("numexpr", _numexpr, needs=("numexpr",)),),
    target=0.02,
    facts=_facts,
    agree=equal,
)
