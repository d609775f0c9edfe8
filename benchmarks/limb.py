"""The volumes of the benchmarks: a synthetic leg at any size, made in seconds.

The phantom of the package is drawn once, small. Its bones are then enlarged by linear
interpolation, each in its own box, so that they keep smooth surfaces; its image is
enlarged voxel by voxel and gets new noise, which is what a compressor has to store.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import (
    BoolArray,
    LabelArray,
    Labelmap,
    LabelTable,
    Volume,
)
from nnunet_bridge.ops.phantom import STRUCTURES, Phantom, lower_limb

BONES = LabelTable.from_names(list(STRUCTURES))
SIDE = "right"
"""One leg, as in the masks of the source report."""

FIELD_MM = (480.0, 480.0, 1060.0)
DRAWN = (96, 96, 126)
"""Voxels of the small phantom."""

NOISE = 17.0
ROUGHNESS = 0.25
"""How far the border of a prediction strays, as a share of a voxel of the phantom."""

SPECKLE = 2e-4
"""Share of the background that a speckled prediction takes for bone."""

HOLES = 2e-3
"""Share of the bone that it takes for background."""


@dataclass(frozen=True)
class Limb:
    """One leg at one size."""

    shape: tuple[int, int, int]
    """Columns, rows and slices; the field of view stays the same."""

    @property
    def grid(self) -> Grid:
        """A plain grid over the field of view."""
        spacing_mm = np.array(FIELD_MM) / self.shape
        return Grid(self.shape, np.diag([*spacing_mm, 1.0]))

    @cached_property
    def reference(self) -> Labelmap:
        """The bones as they are."""
        return self._labelmap(roughness=0.0)

    @cached_property
    def prediction(self) -> Labelmap:
        """The bones with borders that stray, as those of a good model do."""
        return self._labelmap(roughness=ROUGHNESS)

    @cached_property
    def speckled(self) -> Labelmap:
        """The prediction with wrong voxels everywhere, and holes in the bones."""
        rng = np.random.default_rng(3)
        voxels = self.prediction.voxels.copy(order="K")
        flat = voxels.reshape(-1, order="F")
        bone, empty = np.flatnonzero(flat), flat.size - np.count_nonzero(flat)
        places = rng.integers(flat.size, size=int(empty * SPECKLE))
        places = places[flat[places] == 0]
        flat[places] = rng.integers(1, len(BONES) + 1, places.size)
        flat[rng.choice(bone, int(bone.size * HOLES), replace=False)] = 0
        return self.reference.with_voxels(voxels)

    @cached_property
    def masks(self) -> tuple[BoolArray, ...]:
        """A mask a bone; those of femur and pelvis share a few voxels."""
        masks = {label.name: self.reference.mask(label) for label in BONES}
        grown = ndimage.binary_dilation(masks["pelvis"], iterations=2)
        masks["pelvis"] |= grown & masks["femur"]
        return tuple(masks.values())

    @cached_property
    def image(self) -> Volume:
        """An MR image, int16, Fortran-ordered."""
        rng = np.random.default_rng(2)
        drawn = _drawn().volume.voxels
        along_i, along_j, along_k = (
            np.arange(size) * small // size
            for size, small in zip(self.shape, DRAWN, strict=True)
        )
        voxels = np.empty(self.shape, dtype=np.int16, order="F")
        for k, source in enumerate(along_k):
            signal = drawn[along_i[:, None], along_j, source]
            real, imaginary = NOISE * rng.standard_normal((2, *signal.shape), "f4")
            voxels[:, :, k] = np.hypot(signal + real, imaginary)
        return Volume(self.grid, voxels)

    def _labelmap(self, *, roughness: float) -> Labelmap:
        voxels: LabelArray = np.zeros(self.shape, dtype=np.uint8, order="F")
        for label, (box, share) in zip(BONES, self._shares(roughness), strict=True):
            here = voxels[box]
            here[(share > 0.5) & (here == 0)] = label.value
        return Labelmap(self.grid, voxels, BONES)

    def _shares(
        self, roughness: float
    ) -> Iterator[tuple[tuple[slice, ...], npt.NDArray[np.float32]]]:
        """Go through the bones: a box and how much of each voxel is bone there."""
        rng = np.random.default_rng(1)
        for label in BONES:
            mask = _drawn().masks[label.name, SIDE]
            (small_box,) = ndimage.find_objects(ndimage.binary_dilation(mask) * 1)
            small = mask[small_box].astype(np.float32)
            small += (
                roughness
                * rng.standard_normal(small.shape, "f4")
                * (ndimage.uniform_filter(small, 3) > 0)
            )
            box = tuple(
                slice(along.start * size // drawn, along.stop * size // drawn)
                for along, size, drawn in zip(small_box, self.shape, DRAWN, strict=True)
            )
            sizes = [along.stop - along.start for along in box]
            factors = np.array(sizes) / small.shape
            yield (
                box,
                ndimage.zoom(small, factors, order=1, grid_mode=True, mode="nearest"),
            )


@cache
def _drawn() -> Phantom:
    spacing_mm = np.array(FIELD_MM) / DRAWN
    return lower_limb(1, shape=DRAWN, spacing_mm=tuple(spacing_mm.tolist()))
