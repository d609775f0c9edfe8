"""Copy from a checkpoint what prediction needs; leave every path and name behind."""

import argparse
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from nnunet_bridge.formats.files import read_json, write_json
from nnunet_bridge.formats.system import limit_memory

_COPIES_IN_MEMORY = 3
_SPARE_BYTES = 1 << 30
"""Memory that a checkpoint may take beyond three times its size: 1 GiB."""

_LONGEST_NAME = 300


def add_arguments(checkpoint: argparse.ArgumentParser) -> None:
    """Declare the arguments of the task."""
    checkpoint.add_argument(
        "--copy", nargs=2, type=Path, action="append", required=True
    )
    checkpoint.add_argument("--fits", nargs=3, metavar=("DIR", "TRAINER", "NAME"))


def strip_checkpoints(asked: argparse.Namespace) -> None:
    """Copy what prediction needs of each checkpoint; write its facts beside it as JSON.

    The optimiser, the logs and the arguments of the training are left behind, and with
    them every path and name. With ``--fits`` the weights must be those of the network
    that the checked plans and labels in a folder describe.
    """
    expected = _expected_shapes(*asked.fits) if asked.fits else None
    for source, target in asked.copy:
        limit_memory(_COPIES_IN_MEMORY * source.stat().st_size + _SPARE_BYTES)
        found = torch.load(source, map_location="cpu", weights_only=True)
        kept = _for_prediction(found)
        torch.save(kept, target)
        facts = {
            "trainer": kept["trainer_name"],
            "configuration": kept["init_args"]["configuration"],
            "parameters": sum(t.numel() for t in kept["network_weights"].values()),
            "fault": _fault_of(kept, expected),
        }
        write_json(target.with_suffix(".json"), facts)


def _expected_shapes(folder: str, trainer: str, name: str) -> dict[str, torch.Size]:
    """Return the shape of every weight as `predict` will need them; builds no weight.

    `folder` holds plans and description; `name` is the configuration.
    """
    from nnunetv2.inference import predict_from_raw_data as nnunet

    plans, dataset = (
        read_json(Path(folder, f"{n}.json")) for n in ("plans", "dataset")
    )
    manager = nnunet.PlansManager(plans)
    planned = manager.get_configuration(name)
    channels = nnunet.determine_num_input_channels(manager, planned, dataset)
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    kind: Any = nnunet.recursive_find_trainer_class_by_name(trainer)
    if "plans_manager" in signature(kind.build_network_architecture).parameters:
        parts: tuple[Any, ...] = (manager, planned)
    else:
        parts = (
            planned.network_arch_class_name,
            planned.network_arch_init_kwargs,
            planned.network_arch_init_kwargs_req_import,
        )
    with torch.device("meta"):
        network = kind.build_network_architecture(
            *parts, channels, heads, enable_deep_supervision=False
        )
    return {name: weight.shape for name, weight in network.state_dict().items()}


def _fault_of(
    kept: Mapping[str, Any], expected: Mapping[str, torch.Size] | None
) -> str:
    """Return why `predict` could not use a checkpoint; empty if it can."""
    dimensions = 2 if kept["init_args"]["configuration"] == "2d" else 3
    axes = kept["inference_allowed_mirroring_axes"] or ()
    if len(axes) > len(set(axes) & set(range(dimensions))):
        return f"mirrors images along the axes {str(axes)[:80]}"
    weights = kept["network_weights"]
    if not weights:
        return "has no weights"
    held = {name: weight.shape for name, weight in weights.items()}
    if expected is None or held == expected:
        return ""
    odd = min(name for name, _ in held.items() ^ expected.items())
    has, needs = (tuple(of.get(odd, ())) for of in (held, expected))
    return f"does not fit its plans and labels: {odd} has the shape {has}, not {needs}"


def _for_prediction(found: Any) -> dict[str, Any]:  # noqa: ANN401 - judged here
    """Return the entries that prediction reads, each of the expected type.

    Raises `TypeError` if an entry is of another type.
    """
    axes = found.get("inference_allowed_mirroring_axes")
    if axes is not None:
        axes = tuple(int(axis) for axis in axes)
    epoch = found.get("current_epoch", 0)
    return {
        "network_weights": _plain_tensors(found["network_weights"]),
        "trainer_name": _text(found["trainer_name"]),
        "inference_allowed_mirroring_axes": axes,
        "current_epoch": int(epoch),
        "init_args": {"configuration": _text(found["init_args"]["configuration"])},
    }


def _plain_tensors(weights: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 - judged here
    """Return copies of the tensors without the rest of their storage.

    A view keeps the whole storage alive, which may hold other data. Tensors that share
    their numbers share them in the copy too.
    """
    copies: dict[Any, torch.Tensor] = {}
    plain = {}
    for name, tensor in weights.items():
        ordinary = isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided
        if not ordinary or tensor.is_quantized or tensor.is_complex():
            raise TypeError(f"{_text(name)} is not an ordinary tensor")
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in copies:
            copies[place] = tensor.detach().clone(memory_format=torch.contiguous_format)
        plain[_text(name)] = copies[place]
    return plain


def _text(value: Any) -> str:  # noqa: ANN401 - judged here
    """Return a short printable text; refuse anything else."""
    if type(value) is not str or not value.isprintable() or len(value) > _LONGEST_NAME:
        raise TypeError("a name in the checkpoint is not a short text")
    return value
