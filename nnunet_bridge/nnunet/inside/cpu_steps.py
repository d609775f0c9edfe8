"""What makes the steps of a smoke training on a CPU take less time (decision 0006).

Only training computes so: what a network predicts is as without it, bit for bit.
"""

import ctypes
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.backends.cpu import get_cpu_capability as cpu_capability
from torch.nn.functional import conv3d, group_norm
from torch.nn.modules.instancenorm import _InstanceNorm

Forward = Callable[[torch.Tensor], torch.Tensor]
"""The `forward` of a module."""


def speed_up_steps(network: torch.nn.Module) -> None:
    """Change how a network computes while it trains on this CPU."""
    speed_up_norms(network)
    if cpu_has_bfloat16():
        train_in_bfloat16(network)
    elif cpu_capability() == "AVX2":
        speed_up_gradients(network)


def keep_freed_memory() -> bool:
    """Let this process keep the memory of small tensors; return whether it does.

    glibc gives freed memory back to the system, which has to clear it before the next
    step gets it again. Tensors of a smoke network are smaller than 32 MiB, the highest
    limit on a 64-bit system (mallopt(3)); larger ones are given back as before. Other
    libraries have no such limits.
    """
    if sys.platform != "linux":
        return False
    set_limit = getattr(ctypes.CDLL(None), "mallopt", None)
    trim, mmap = (-1, 2**31 - 1), (-3, 2**25)  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    return set_limit is not None and all(set_limit(*one) for one in (trim, mmap))


def speed_up_norms(network: torch.nn.Module) -> None:
    """Normalise instances as groups of one channel: the same but for rounding.

    torch's function for instances repeats the weights for each image of a batch and
    takes three times as long.
    """
    for module in network.modules():
        if isinstance(module, _InstanceNorm) and not module.track_running_stats:
            _train_by(partial(_normalised, module), module)


def _normalised(module: _InstanceNorm, images: torch.Tensor) -> torch.Tensor:
    scale = module.weight, module.bias
    return group_norm(images, module.num_features, *scale, module.eps)


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself; where it does not, it is slower."""
    facts: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(facts.get("avx512_bf16") or facts.get("amx_bf16"))


def train_in_bfloat16(network: torch.nn.Module) -> None:
    """Compute the steps of a training on a CPU in mixed precision, as on a GPU.

    The outputs, and so the loss, are float32; so is all of every prediction.
    """
    _train_by(partial(_mixed, network.forward), network)


def _mixed(forward: Forward, images: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return forward(images).float()


def speed_up_gradients(network: torch.nn.Module) -> None:
    """Compute the gradients of 3D convolutions in less time; they differ by rounding.

    With the channels in front of the voxels, as everywhere in nnU-Net, oneDNN takes two
    to four times as long for those of large volumes as with the channels last, on a CPU
    with AVX2. All else is faster with the channels in front. So only the gradients are
    computed from copies with the channels last.

    Convolutions of one channel or of one voxel gain nothing and stay as they are.
    """
    for module in network.modules():
        if (
            isinstance(module, torch.nn.Conv3d)
            and module.in_channels > 1
            and max(module.kernel_size) > 1
            and (module.groups, module.dilation) == (1, (1, 1, 1))
            and (module.padding_mode, type(module.padding)) == ("zeros", tuple)
        ):
            _train_by(partial(_convolved, module), module)


def _convolved(module: torch.nn.Conv3d, images: torch.Tensor) -> torch.Tensor:
    steps = module.stride, module.padding
    found: torch.Tensor
    found = _Convolution.apply(images, module.weight, module.bias, *steps)
    return found


def _train_by(way: Forward, module: torch.nn.Module) -> None:
    """Compute the outputs of a module in another way while it trains, and only then."""
    module.forward = partial(_forward, module, module.forward, way)


def _forward(
    module: torch.nn.Module, plain: Forward, way: Forward, images: torch.Tensor
) -> torch.Tensor:
    return way(images) if module.training else plain(images)


class _Convolution(torch.autograd.Function):
    """A convolution with (batch, channel, z, y, x) images, forward and backward."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> torch.Tensor:  # noqa: ANN401 - torch's
        images, weight, _, *ctx.steps = given
        ctx.save_for_backward(images, weight)
        return conv3d(*given)

    @staticmethod
    def backward(ctx: Any, of_output: torch.Tensor) -> Any:  # noqa: ANN401 - torch's
        images, weight = ctx.saved_tensors
        of_output, images = (
            one.contiguous(memory_format=torch.channels_last_3d)
            for one in (of_output, images)
        )
        of_images, *of_weights = torch.ops.aten.convolution_backward(
            *(of_output, images, weight, [len(weight)], *ctx.steps),
            *((1, 1, 1), False, (0, 0, 0), 1, ctx.needs_input_grad[:3]),
        )
        if of_images is not None:
            of_images = of_images.contiguous()
        return of_images, *of_weights, None, None
