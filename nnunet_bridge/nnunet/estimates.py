"""Estimates of memory, disk and work, from plans and image sizes alone (F10).

Training: the need of a network grows with its feature maps, the numbers that its
convolutions put out for one patch. nnU-Net's planners choose patch and batch by that
figure, against a reference that filled 8 GB of a GPU; the same reference serves here.
The need of a CPU was measured (`docs/explanations/memory-and-time.md`).

Prediction: the figures follow what `inside` does, nnU-Net's own preprocessing of the
whole image and then sums of windows as deep as a patch. The benchmark
`large_prediction.py` compares them with measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_bridge.nnunet.plans import Plans, resolved

Shape = Sequence[int]
_Triple = tuple[int, int, int]

GIB = 1 << 30

STEP = 0.5
"""Distance of neighbouring windows, as a share of the patch (nnU-Net's default)."""

FAST_STEP = 0.75
"""The same with ``predict --fast``."""

_REFERENCE_GPU_BYTES = 8 * GIB
_REFERENCE_NUMBERS = {
    ("PlainConvUNet", 2): 85_000_000 * 12,
    ("PlainConvUNet", 3): 560_000_000 * 2,
    ("ResidualEncoderUNet", 2): 135_000_000 * 12,
    ("ResidualEncoderUNet", 3): 680_000_000 * 2,
}
"""Feature maps of a batch that fill the reference GPU: nnU-Net 2.8's planners."""

_TRAINING_PROCESS_BYTES = 1792 << 20
"""A process that has loaded torch and nnU-Net and trains a tiny network."""

_WORKER_BYTES = 640 << 20  # a worker that has loaded torch and does nothing yet
CPU_OPERATIONS_PER_S = 60e9
"""Floating-point operations a second of one core in training: between what the stock
networks in 2D and 3D reached on an AVX-512 server (`docs/reference/budgets.md`)."""

FULL_EPOCHS = 1000  # epochs of nnU-Net's own trainer
FULL_ITERATIONS = FULL_EPOCHS * (250 + 50 / 3)
"""Of nnU-Net's own trainer; a validation iteration has no backward pass."""

_CPU_BYTES_PER_NUMBER = 22
"""A number of a feature map on a CPU: value, gradient, and PyTorch's own."""

_PREDICTION_PROCESS_BYTES = 1000 << 20
"""A process that has imported torch, nnU-Net and OpenVINO and loaded no model."""

_CUDA_BYTES = 1400 << 20  # CUDA, cuDNN and torch's compiler, on the host, beside it
_FLOAT, _DOUBLE, _HALF = 4, 8, 2
_SEPARATE_ABOVE = 3.0
"""Ratio of spacings from which nnU-Net treats the longest axis on its own."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory that something needs at its peak."""

    host_bytes: int
    gpu_bytes: int  # where it runs on a GPU; then the host needs less than `host_bytes`


def feature_map_size(configuration: dict[str, Any], classes: int) -> int | None:
    """Return how many numbers the convolutions of a network put out for one patch.

    It equals nnU-Net's own ``compute_conv_feature_map_size``; None for a network that
    is none of its planners'. `configuration` is `plans.resolved`; `classes` count the
    background.
    """
    known = configuration.get("architecture", {}).get("arch_kwargs", {})
    counts = known.get("n_conv_per_stage") or known.get("n_blocks_per_stage")
    if counts is None or "n_conv_per_stage_decoder" not in known:
        return None
    residual = _network_of(configuration) == "ResidualEncoderUNet"
    features = known["features_per_stage"]
    size = [int(edge) for edge in configuration["patch_size"]]
    total = features[0] * math.prod(size) if residual else 0
    before, sizes = features[0], []
    for width, stride, count in zip(features, known["strides"], counts, strict=True):
        size = [edge // step for edge, step in zip(size, stride, strict=True)]
        sizes.append(size)
        maps = 2 * count if residual else count
        if residual and (width != before or max(stride) > 1):
            maps += 1
        total += maps * width * math.prod(size)
        before = width
    for number, count in enumerate(known["n_conv_per_stage_decoder"]):
        skip = len(sizes) - 2 - number
        total += (count + 1) * features[skip] * math.prod(sizes[skip])
    return total + classes * math.prod(sizes[0])


def training_memory(
    plans: Plans, configuration: str, classes: int, *, loaders: int = 0, gpus: int = 1
) -> Footprint | None:
    """Return what a training needs; None for a network that is not known.

    `classes` count the background; `loaders` are the processes that prepare the data.
    The batch is divided among the GPUs, and the figure is that of each.
    """
    planned = resolved(plans, configuration)
    size = feature_map_size(planned, classes)
    kind = (_network_of(planned), len(planned["patch_size"]))
    if size is None or kind not in _REFERENCE_NUMBERS:
        return None
    batch = size * math.ceil(int(planned["batch_size"]) / gpus)
    processes = _TRAINING_PROCESS_BYTES + loaders * _WORKER_BYTES
    on_gpu = _REFERENCE_GPU_BYTES * batch // _REFERENCE_NUMBERS[kind]
    return Footprint(processes + _CPU_BYTES_PER_NUMBER * batch, GIB // 2 + on_gpu)


def patch_multiply_adds(configuration: dict[str, Any], channels: int) -> int | None:
    """Return the products of the convolutions for one patch; None if unknown.

    `configuration` is `plans.resolved`.
    """
    layers = _convolutions(configuration, channels)
    return None if layers is None else sum(math.prod(layer) for layer in layers)


def checkpoint_bytes(configuration: dict[str, Any], channels: int) -> int | None:
    """Return the size of a checkpoint; None for a network that is not known.

    It holds each weight and at most two numbers of the optimiser for it (Adam's; SGD
    has one). `configuration` is `plans.resolved`.
    """
    layers = _convolutions(configuration, channels)
    if layers is None:
        return None
    known = configuration["architecture"]["arch_kwargs"]
    widths, strides = known["features_per_stage"], known["strides"][1:]
    upwards = zip(widths, widths[1:], strides, strict=False)
    weights = sum(one * next_one * math.prod(s) for one, next_one, s in upwards)
    weights += sum(weights for _, weights in layers)
    return int(3 * _FLOAT * weights)


def _convolutions(
    configuration: dict[str, Any], channels: int
) -> list[tuple[int, int]] | None:
    """Return the positions and the weights of the convolutions of each stage.

    Without those that enlarge, and biases. None if the network is not known.
    """
    known = configuration.get("architecture", {}).get("arch_kwargs", {})
    counts = known.get("n_conv_per_stage") or known.get("n_blocks_per_stage")
    if counts is None or not {"kernel_sizes", "n_conv_per_stage_decoder"} <= set(known):
        return None
    per_block = 2 if _network_of(configuration) == "ResidualEncoderUNet" else 1
    size = [int(edge) for edge in configuration["patch_size"]]
    stages: list[tuple[int, int, int]] = []
    found: list[tuple[int, int]] = []
    before = channels
    layers = known["features_per_stage"], known["strides"], known["kernel_sizes"]
    for width, stride, kernel, count in zip(*layers, counts, strict=True):
        size = [edge // step for edge, step in zip(size, stride, strict=True)]
        positions, each = math.prod(size), math.prod(kernel) * width
        stages.append((positions, each, width))
        found.append((positions, each * (before + (per_block * count - 1) * width)))
        before = width
    skips = zip(stages[-2::-1], known["n_conv_per_stage_decoder"], strict=True)
    found += ((size, each * width * (n + 1)) for (size, each, width), n in skips)
    return found


def full_training_seconds(
    configuration: dict[str, Any],
    channels: int,
    cores: int,
    iterations: float = FULL_ITERATIONS,
) -> float | None:
    """Return about how long nnU-Net's 1000 epochs take on a CPU; None if unknown.

    Convolutions are counted, three times for forward and backward, and two operations
    each. `configuration` is `plans.resolved`; for another training give its iterations,
    a third of those of the validation included.
    """
    products = patch_multiply_adds(configuration, channels)
    if products is None:
        return None
    operations: int = 2 * 3 * products * int(configuration["batch_size"])
    return operations * iterations / CPU_OPERATIONS_PER_S / cores


def prediction_multiply_adds(
    plans: Plans, dataset: Mapping[str, Any], configuration: str, folds: int
) -> float | None:
    """Return the multiply-adds of predicting the median case of the training data.

    With the first stage of a cascade, and every window mirrored. None for a network
    that is not in the plans, such as those of the source report.
    """
    try:
        planned = resolved(plans, configuration)
        own = plans.get("nnunet_bridge", {}).get(configuration, {})
        member = PlannedMember.of(plans, dataset, planned, folds)
        products = patch_multiply_adds(planned, member.channels)
        first, *_ = plans["original_median_shape_after_transp"]
        seen = [first, *planned["median_image_size_in_voxels"]][-3:]
    except KeyError:
        return None
    if products is None or {"features", "decoder"} & set(own):
        return None
    previous = planned.get("previous_stage")
    before = previous and prediction_multiply_adds(plans, dataset, previous, folds)
    passes = member.windows(seen) * folds * 2 ** len(member.patch)
    return float(products * passes + (before or 0))


def _network_of(configuration: dict[str, Any]) -> str:
    name: str = configuration.get("architecture", {}).get("network_class_name", "")
    return name.rpartition(".")[2]


def resampled_shape(
    shape: Shape,
    spacing_mm: Sequence[float],
    axes: Sequence[int],
    target_mm: Sequence[float],
) -> _Triple:
    """Return the shape of an image at the spacing of a configuration.

    It is in the order of the plans, if nothing is cropped.

    Parameters
    ----------
    shape, spacing_mm : (3,) sequence
        Of the file, in the order of nnU-Net's reader (slice, row, column).
    axes : (3,) sequence
        ``transpose_forward`` of the plans.
    target_mm : (2,) or (3,) sequence
        ``spacing`` of the configuration; 2d has two and leaves the first axis alone.
    """
    lengths = [spacing_mm[axis] for axis in axes]
    target = [lengths[0], *target_mm][-3:]
    first, second, third = (
        max(1, round(shape[axis] * length / aim))
        for axis, length, aim in zip(axes, lengths, target, strict=True)
    )
    return first, second, third


def preprocessing_memory_bytes(original: Shape, resampled: Shape, channels: int) -> int:
    """Return what one worker needs to preprocess a case.

    Image and label in float32, before and after cropping and resampling; float64 on
    the way there.
    """
    voxels, final = math.prod(original), math.prod(resampled)
    held = (channels + 1) * (2 * _FLOAT * voxels + _FLOAT * final)
    return _WORKER_BYTES + held + 2 * _DOUBLE * max(voxels, final)


@dataclass(frozen=True, slots=True)
class PlannedMember:
    """One configuration that predicts, as its plans describe it."""

    patch: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    """Spacing that the network sees; a 2D one has the two axes in the plane."""

    axes: _Triple  # which axis of the file is nnU-Net's first, second and third
    channels: int
    heads: int  # classes, background included
    features: tuple[int, ...]  # features of every stage of the network
    folds: int
    weights_bytes: int  # size of the weights of all folds

    @classmethod
    def of(
        cls,
        plans: Mapping[str, Any],
        dataset: Mapping[str, Any],
        planned: Mapping[str, Any],
        folds: int,
        weights_bytes: int = 0,
    ) -> PlannedMember:
        """Read a configuration from ``plans.json`` and ``dataset.json``.

        `planned` is its part of the plans, as `plans.resolved` returns it.
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

    def seen_shape(self, shape: Shape, spacing_mm: Sequence[float]) -> _Triple:
        """Return the shape of an image as the network sees it."""
        return resampled_shape(shape, spacing_mm, self.axes, self.spacing_mm)

    def windows(self, seen: Sequence[int], step: float = STEP) -> int:
        """Return how many windows cover a volume: `step` of a patch apart at most."""
        count = math.prod(seen[: 3 - len(self.patch)])
        for size, edge in zip(seen[-len(self.patch) :], self.patch, strict=True):
            count *= math.ceil(max(size - edge, 0) / (edge * step)) + 1
        return count

    def work(
        self, shape: Sequence[int], spacing_mm: Sequence[float], step: float, forms: int
    ) -> float:
        """Return how many voxels pass through the networks.

        `step` as in `windows`; `forms` of a window are computed, mirrored ones too.
        """
        windows = self.windows(self.seen_shape(shape, spacing_mm), step)
        return float(windows * math.prod(self.patch) * self.folds * forms)

    def preparing_bytes(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> int:
        """Return what the preprocessing of an image holds at its height."""
        voxels, seen = math.prod(shape), self.seen_shape(shape, spacing_mm)
        read = voxels * (self.channels * 2 * _FLOAT + 2)
        if seen == tuple(shape[axis] for axis in self.axes):
            return read + voxels * self.channels * _FLOAT
        seen_voxels, planes = math.prod(seen), shape[self.axes[0]]
        resampled = seen_voxels * (self.channels * _FLOAT + 1)
        working = seen_voxels * _DOUBLE
        if seen[0] != planes:
            working += voxels * seen[0] // planes * _DOUBLE
            if max(spacing_mm) / min(spacing_mm) > _SEPARATE_ABOVE:
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
        depth = self.patch[0] if len(self.patch) == len(seen) else 1
        in_plane = math.prod(map(max, seen[1:], self.patch[-2:]))
        sums = depth * in_plane * (self.folds * self.heads + 1) * _HALF
        plane = in_plane * self.heads * _DOUBLE * 8
        maps = 7 * self.features[0] + 4 * self.heads  # of one window in one network
        return held + sums + plane + math.prod(self.patch) * _FLOAT * maps


def host_bytes(
    members: Sequence[PlannedMember],
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    *,
    on_gpu: bool,
    ahead: bool = False,
) -> int:
    """Return the most host memory that the prediction of one image takes.

    The members predict one after the other; all their weights are held. `shape` and
    `spacing_mm` are (3,), of the file, slices first (the order of its bytes); `on_gpu`
    for windows and their sums on a GPU; `ahead` if an image of that size is prepared at
    the same time.
    """
    preparing = max(m.preparing_bytes(shape, spacing_mm) for m in members)
    predicting = max(
        m.predicting_bytes(shape, spacing_mm, on_gpu=on_gpu) for m in members
    )
    height = preparing + predicting if ahead else max(preparing, predicting)
    # OpenVINO keeps two copies.
    weights = sum(member.weights_bytes for member in members) * (1 if on_gpu else 2)
    return _PREDICTION_PROCESS_BYTES + on_gpu * _CUDA_BYTES + weights + height


def waiting_disk_bytes(members: Sequence[PlannedMember], shape: Sequence[int]) -> int:
    """Return the disk that one image takes while the members' mean is formed.

    All members but the last leave their logits there, two bytes a class and voxel.
    """
    return sum(math.prod(shape) * member.heads * _HALF for member in members[:-1])
