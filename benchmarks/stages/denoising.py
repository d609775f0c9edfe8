"""Denoise four bones slice by slice, by the rule of the source report."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from limb import BONES, Limb
from race import Contender, Facts, Stage, equal, sha256
from scipy import ndimage

from nnunet_bridge.core.cleaning import CleaningRule
from nnunet_bridge.core.image import BoolArray, Labelmap
from nnunet_bridge.ops.cleanup import clean_alike

RATIO = 0.01


def _prepare(limb: Limb, _: Path) -> Labelmap:
    return limb.speckled


@dataclass(frozen=True, slots=True)
class _Masks:
    """What most contenders make: a mask a bone; they may share voxels."""

    noisy: Labelmap
    masks: list[npt.NDArray[Any]]
    """(K, J, I) each."""


def _source(labelmap: Labelmap, _: Path) -> _Masks:
    volumes = [np.where(label.value != labelmap.voxels.T, 0, 1) for label in BONES]
    return _Masks(labelmap, [_denoised(volume) for volume in volumes])


def _denoised(volume: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Look at each component of each slice on its own, as the source does."""
    cleaned = np.zeros_like(volume)
    for k, plane in enumerate(volume):
        limit = int(RATIO * np.sum(plane))
        for kind in (0, 1):
            components, count = ndimage.label(plane if kind else 1 - plane)
            for component in range(1, count + 1):
                if np.sum(components == component) < limit:
                    plane[components == component] = 1 - kind
        cleaned[k] = plane
    return cleaned


def _ours(labelmap: Labelmap, _: Path) -> Labelmap:
    return clean_alike(labelmap, CleaningRule(ratio=RATIO)).labelmap


def _every_slice(
    without_small: Callable[[BoolArray, int], BoolArray], labelmap: Labelmap, _: Path
) -> _Masks:
    masks = [labelmap.mask(label).T for label in BONES]
    for mask in masks:
        for plane in mask:
            limit = int(RATIO * np.count_nonzero(plane))
            if limit > 1:
                filled = ~without_small(~plane, limit)
                plane[:] = without_small(filled, limit)
    return _Masks(labelmap, masks)


def _by_cc3d(mask: BoolArray, limit: int) -> BoolArray:
    import cc3d

    kept: BoolArray = cc3d.dust(mask, threshold=limit, connectivity=4)
    return kept


def _by_skimage(mask: BoolArray, limit: int) -> BoolArray:
    from skimage.morphology import remove_small_objects

    kept: BoolArray = remove_small_objects(mask, max_size=limit - 1, connectivity=1)
    return kept


def _facts(result: Labelmap | _Masks) -> Facts:
    return {
        "voxels": sha256(
            _together(result) if isinstance(result, _Masks) else result.voxels
        )
    }


def _together(result: _Masks) -> npt.NDArray[np.uint8]:
    """Return one labelmap; a voxel of several masks keeps what it was, if it may."""
    before = result.noisy.voxels.T
    after, claimants = np.zeros_like(before), np.zeros_like(before)
    for label, mask in zip(BONES, result.masks, strict=True):
        claimed = mask != 0
        after[claimed & ((claimants == 0) | (before == label.value))] = label.value
        claimants += claimed
    after[(claimants > 1) & (after != before)] = 0
    return after.T


DENOISING = Stage(
    name="denoise, 4 bones",
    prepare=_prepare,
    baseline=Contender("source: component by component", _source),
    ours=Contender("nnunet-bridge", _ours),
    others=(
        Contender("cc3d, by slice", partial(_every_slice, _by_cc3d), needs=("cc3d",)),
        Contender("scikit-image, by slice", partial(_every_slice, _by_skimage)),
    ),
    target=0.06,
    facts=_facts,
    agree=equal,
)
