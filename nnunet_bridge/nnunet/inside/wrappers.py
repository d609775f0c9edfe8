"""What torch wraps around a network: compilation, and several GPUs."""

import os
from typing import Any

import torch

_OLDEST_COMPILED = (7, 0)  # lowest compute capability that torch's compiler supports


def plain_network(network: torch.nn.Module) -> Any:  # noqa: ANN401 - a module of any kind
    """Return a network without its wrappers for compilation and several GPUs."""
    inner = getattr(network, "module", network)
    return getattr(inner, "_orig_mod", inner)


def compile_where_it_works(trainer: Any, gpus: int) -> None:  # noqa: ANN401 - nnU-Net's types
    """Turn compilation off, in this process, for a trainer that would fail with it."""
    capability = _OLDEST_COMPILED
    if trainer.device.type == "cuda" and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
    batch = trainer.configuration_manager.batch_size
    if compilation_fails(batch, gpus, capability):
        os.environ["nnUNet_compile"] = "false"  # noqa: SIM112 - nnU-Net's name


def compilation_fails(batch: int, gpus: int, capability: tuple[int, int]) -> bool:
    """Whether a compiled training would fail.

    nnU-Net warns that the validation may, after a training on several GPUs with one
    patch each; torch's compiler needs compute capability 7.0.
    """
    return (gpus > 1 and batch // gpus <= 1) or capability < _OLDEST_COMPILED
