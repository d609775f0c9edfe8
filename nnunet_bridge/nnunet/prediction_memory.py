"""What a prediction takes: memory, disk and work, known before it begins (FAULTS F10).

Pure arithmetic on plans and the size of an image; nothing is opened here. The figures
follow what `inside` does: nnU-Net's own preprocessing of the whole image, then sums of
windows as deep as a patch. Each part is the most that it was seen to take, and the
benchmark `large_prediction.py` sets the estimate beside what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROCESS_BYTES = 1200 << 20
"""Of a process that has imported torch and nnU-Net, before it has loaded a model."""

CUDA_BYTES = 1200 << 20
"""What CUDA and cuDNN take on top, on the host."""

_FLOAT, _DOUBLE, _HALF = 4, 8, 2
_SEPARATE_ABOVE = 3.0
"""Ratio of spacings from which nnU-Net treats the longest axis on its own."""

_Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class PlannedMember:
    """One configuration that predicts, as its plans describe it."""

    patch: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    """Of what the network sees; of the two axes in the plane for a 2-D one."""

    axes: _Triple
    """Which axis of the file is nnU-Net's first, second and third."""

    channels: int
    heads: int
    """Classes, background included."""

    features: tuple[int, ...]
    """Of every stage of the network."""

    folds: int
    weights_bytes: int
    """Of all folds."""

    @classmethod
    def of(
        cls,
        plans: Mapping[str, Any],
        dataset: Mapping[str, Any],
        planned: Mapping[str, Any],
        *,
        folds: int,
        weights_bytes: int,
    ) -> PlannedMember:
        """Return what ``plans.json`` and ``dataset.json`` say of a configuration.

        `planned` is its part of the plans, as `planned_part` returns it.
        """
        heads = len([name for name in dataset["labels"] if name != "ignore"])
        previous = heads - 1 if planned.get("previous_stage") else 0
        first, second, third = plans["transpose_forward"]
        return cls(
            tuple(planned["patch_size"]),
            tuple(planned["spacing"]),
            (first, second, third),
            len(dataset["channel_names"]) + previous,
            heads,
            tuple(planned["architecture"]["arch_kwargs"]["features_per_stage"]),
            folds,
            weights_bytes,
        )

    def seen_shape(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> _Triple:
        """Return the shape of an image as the network sees it, if nothing is cropped.

        Parameters
        ----------
        shape, spacing_mm : (3,) sequence
            Of the file, slices first (the order of its bytes).
        """
        sizes = [shape[axis] for axis in self.axes]
        lengths = [spacing_mm[axis] for axis in self.axes]
        aims = [lengths[0], *self.spacing_mm][-3:]
        first, second, third = (
            max(1, round(size * length / aim))
            for size, length, aim in zip(sizes, lengths, aims, strict=True)
        )
        return first, second, third

    def windows(self, seen: Sequence[int]) -> int:
        """Return how many windows cover a volume: half a patch apart at most."""
        count = math.prod(seen[: 3 - len(self.patch)])
        for size, edge in zip(seen[-len(self.patch) :], self.patch, strict=True):
            count *= math.ceil(max(size - edge, 0) / (edge / 2)) + 1
        return count

    def work(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
        """Return how much the networks have to do, to compare images and members."""
        voxels = self.windows(self.seen_shape(shape, spacing_mm)) * math.prod(
            self.patch
        )
        kernel: int = 3 ** len(self.patch)
        return float(voxels * self.folds * 2 ** len(self.patch) * kernel)

    def preparing_bytes(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> int:
        """Return what nnU-Net's preprocessing of an image holds at its height."""
        voxels, seen = math.prod(shape), self.seen_shape(shape, spacing_mm)
        read = voxels * (self.channels * 2 * _FLOAT + 2)
        if seen == tuple(shape[axis] for axis in self.axes):
            return read + voxels * self.channels * _FLOAT
        seen_voxels = math.prod(seen)
        resampled = seen_voxels * (self.channels * _FLOAT + 1)
        working = (voxels + seen_voxels) * 2 * _DOUBLE
        separate = max(spacing_mm) / min(spacing_mm) > _SEPARATE_ABOVE
        if separate and seen[0] != shape[self.axes[0]]:
            working += seen_voxels * 9 * _DOUBLE
        return read + resampled + voxels * self.channels * _DOUBLE + working

    def predicting_bytes(
        self, shape: Sequence[int], spacing_mm: Sequence[float], *, on_gpu: bool
    ) -> int:
        """Return what is held while windows pass through the networks."""
        seen = self.seen_shape(shape, spacing_mm)
        held = math.prod(seen) * (self.channels * _FLOAT + 1) + 4 * math.prod(shape)
        if on_gpu:
            return held
        return held + self._sums_bytes(seen) + self._forward_bytes()

    def _sums_bytes(self, seen: _Triple) -> int:
        """Return the size of the sums of the windows, and of a plane on its way."""
        depth = self.patch[0] if len(self.patch) == len(seen) else 1
        in_plane = math.prod(
            max(size, edge)
            for size, edge in zip(seen[1:], self.patch[-2:], strict=True)
        )
        plane = in_plane * self.heads * _DOUBLE * 8
        return depth * in_plane * (self.folds * self.heads + 1) * _HALF + plane

    def _forward_bytes(self) -> int:
        """Return what one window takes on its way through one network."""
        return math.prod(self.patch) * _FLOAT * (7 * self.features[0] + 4 * self.heads)


def planned_part(plans: Mapping[str, Any], configuration: str) -> Mapping[str, Any]:
    """Return what plans say of a configuration, with what it inherits from another."""
    planned: Mapping[str, Any] = plans["configurations"][configuration]
    base = planned.get("inherits_from")
    return {**plans["configurations"][base], **planned} if base else planned


def host_bytes(
    members: Sequence[PlannedMember],
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    *,
    on_gpu: bool,
    ahead: bool = False,
) -> int:
    """Return the most host memory that the prediction of one image takes.

    Parameters
    ----------
    members : sequence of PlannedMember
        One after the other; all their weights are held.
    shape, spacing_mm : (3,) sequence
        Of the file, slices first (the order of its bytes).
    on_gpu : bool
        Whether windows and their sums live on a GPU.
    ahead : bool
        Whether an image of that size is prepared at the same time.
    """
    preparing = max(m.preparing_bytes(shape, spacing_mm) for m in members)
    predicting = max(
        m.predicting_bytes(shape, spacing_mm, on_gpu=on_gpu) for m in members
    )
    height = preparing + predicting if ahead else max(preparing, predicting)
    weights = sum(member.weights_bytes for member in members)
    return PROCESS_BYTES + on_gpu * CUDA_BYTES + weights + height


def waiting_disk_bytes(members: Sequence[PlannedMember], shape: Sequence[int]) -> int:
    """Return the disk that one image takes while the members' mean is formed.

    All members but the last leave their logits there, two bytes a class and voxel.
    """
    return sum(math.prod(shape) * member.heads * _HALF for member in members[:-1])
