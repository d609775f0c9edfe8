"""How much memory training and prediction will take, from the plans alone (F10).

A network's need grows with its feature maps: the numbers that its convolutions put out
for one patch. nnU-Net's planners choose patch and batch by that figure, against a
reference that filled 8 GB of a GPU; the same reference serves here. What a CPU needs
was measured (`docs/explanations/memory-and-time.md`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.nnunet.plans import Plans, resolved

Shape = Sequence[int]

GIB = 1 << 30

_REFERENCE_GPU_BYTES = 8 * GIB
_REFERENCE_NUMBERS = {
    ("PlainConvUNet", 2): 85_000_000 * 12,
    ("PlainConvUNet", 3): 560_000_000 * 2,
    ("ResidualEncoderUNet", 2): 135_000_000 * 12,
    ("ResidualEncoderUNet", 3): 680_000_000 * 2,
}
"""Feature maps of a batch that fill the reference GPU: nnU-Net 2.8's planners."""

_PROCESS_BYTES = 1792 << 20
"""Of a process that has loaded torch and nnU-Net and trains something tiny."""

_WORKER_BYTES = 640 << 20
"""Of a worker that has loaded torch and does nothing yet."""

_CPU_BYTES_PER_NUMBER = 22
"""Of a feature map on a CPU: the value, its gradient, and what PyTorch keeps for it."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory that something needs at its peak."""

    host_bytes: int
    gpu_bytes: int
    """Where it runs on a GPU; then the host needs less than `host_bytes`."""

    def as_json(self) -> JsonObject:
        """Return the figures."""
        return {"host_bytes": self.host_bytes, "gpu_bytes": self.gpu_bytes}


def feature_map_size(configuration: dict[str, Any], classes: int) -> int | None:
    """Return how many numbers the convolutions of a network put out for one patch.

    Parameters
    ----------
    configuration : dict
        Of the plans, with what it inherits.
    classes : int
        With the background.

    Returns
    -------
    size : int or None
        What nnU-Net's own ``compute_conv_feature_map_size`` says; None for a network
        that is none of its planners'.
    """
    architecture = configuration.get("architecture", {})
    network = architecture.get("network_class_name", "").rpartition(".")[2]
    known = architecture.get("arch_kwargs", {})
    counts = known.get("n_conv_per_stage") or known.get("n_blocks_per_stage")
    if counts is None or "n_conv_per_stage_decoder" not in known:
        return None
    residual = network == "ResidualEncoderUNet"
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
    plans: Plans, configuration: str, classes: int, *, loaders: int = 0
) -> Footprint | None:
    """Return what a training needs; None for a network that is not known.

    Parameters
    ----------
    plans : dict
    configuration : str
        One of them.
    classes : int
        With the background.
    loaders : int
        Processes that prepare the data.
    """
    planned = resolved(plans, configuration)
    size = feature_map_size(planned, classes)
    reference = _reference(planned)
    if size is None or reference is None:
        return None
    batch = size * int(planned["batch_size"])
    return Footprint(
        host_bytes=_PROCESS_BYTES
        + _CPU_BYTES_PER_NUMBER * batch
        + loaders * _WORKER_BYTES,
        gpu_bytes=GIB // 2 + _REFERENCE_GPU_BYTES * batch // reference,
    )


def _reference(configuration: dict[str, Any]) -> int | None:
    name = configuration["architecture"]["network_class_name"].rpartition(".")[2]
    return _REFERENCE_NUMBERS.get((name, len(configuration["patch_size"])))


def shape_at(
    shape: Shape, spacing_mm: Sequence[float], plans: Plans, configuration: str
) -> tuple[int, ...]:
    """Return how large an image is when it is resampled for a configuration.

    Parameters
    ----------
    shape, spacing_mm : (3,) sequence
        Of the image, in the order of nnU-Net's reader (slice, row, column).
    plans : dict
    configuration : str

    Returns
    -------
    shape : (3,) tuple
        In the order of the plans.
    """
    order = plans["transpose_forward"]
    target = list(resolved(plans, configuration)["spacing"])
    spacings = [spacing_mm[axis] for axis in order]
    target = spacings[: 3 - len(target)] + target  # 2d leaves the first axis alone
    return tuple(
        max(1, round(shape[axis] * old / new))
        for axis, old, new in zip(order, spacings, target, strict=True)
    )


def preprocessing_memory_bytes(original: Shape, resampled: Shape, channels: int) -> int:
    """Return what one worker needs to preprocess a case.

    Image and label in float32, before and after cropping and resampling; float64 on
    the way there.
    """
    voxels, final = math.prod(original), math.prod(resampled)
    return (
        _WORKER_BYTES
        + (channels + 1) * (8 * voxels + 4 * final)
        + 16 * max(voxels, final)
    )
