"""Initial weights of a ResNet34 encoder: read, checked and fitted.

A state dict, as torchvision and segmentation-models-pytorch write one. torch loads it
by an allow-list of types; names and shapes are compared with the encoder before any
training starts, in a process of its own, so that a wrong file costs seconds.
"""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nnunet_bridge.core.errors import (
    BridgeError,
    EnvironmentFault,
    InputError,
    SecurityError,
)
from nnunet_bridge.formats.files import write_json

COLOURS = 3
FIRST = "conv1.weight"
CLASSIFIER = ("fc.weight", "fc.bias")  # weights of the classifier of whole images
COUNTER = ".num_batches_tracked"
"""Counter of batch normalisation; files of torch 0.4 and older lack it, unused here."""

Weights = dict[str, torch.Tensor]


def add_arguments(encoder: argparse.ArgumentParser) -> None:
    """Declare the arguments of the task."""
    encoder.add_argument("--weights", type=Path)
    encoder.add_argument("--out", type=Path, required=True)
    encoder.add_argument("--answer", type=Path, required=True)


def prepare_encoder(asked: argparse.Namespace) -> None:
    """Write a checked copy of the weights, or the fault as the answer."""
    try:
        found = read_state_dict(asked.weights) if asked.weights else downloaded()
        torch.save(fitted(found, _encoder().state_dict()), asked.out)
        answer: dict[str, str | None] = {"fault": None}
    except BridgeError as error:
        answer = {"fault": type(error).__name__, "message": str(error)}
    write_json(asked.answer, answer)


def read_state_dict(file: Path) -> Weights:
    """Return the tensors of a file.

    Raises `InputError` if it holds no state dict or is damaged, `SecurityError` if it
    holds more than tensors and plain values.
    """
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SecurityError(
            f"{file} is refused: it holds more than tensors, or is no torch file.",
            code="S01",
        ) from error
    except Exception as error:  # the boundary around a file from outside
        raise InputError(f"{file} is not a state dict that torch can read.") from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor)
        for name, value in found.items()
    ):
        raise InputError(f"{file} holds no state dict (names of weights with tensors).")
    return dict(found)


def fitted(found: Mapping[str, torch.Tensor], known: Mapping[str, Any]) -> Weights:
    """Return weights for an encoder, with the first convolution fitted to its channels.

    The classifier of whole images in `found` is left behind; `known` is the encoder's
    own state dict.

    Raises `InputError` with the first weight that is missing, unexpected or of another
    shape.
    """
    weights = {name: value for name, value in found.items() if name not in CLASSIFIER}
    for name in known:
        if name.endswith(COUNTER):
            weights.setdefault(name, known[name])
    missing = [name for name in known if name not in weights]
    foreign = [name for name in weights if name not in known]
    other = "The weights are not those of a ResNet34's encoder"
    if missing or foreign:
        what = f"lack {missing[0]}" if missing else f"hold {foreign[0]}"
        raise InputError(f"{other}: they {what}.")
    channels = known[FIRST].shape[1]
    if weights[FIRST].ndim == known[FIRST].ndim:
        weights[FIRST] = for_channels(weights[FIRST], channels)
    for name, value in weights.items():
        has, must = tuple(value.shape), tuple(known[name].shape)
        if has != must:
            raise InputError(f"{other}: {name} has the shape {has}, not {must}.")
    return weights


def for_channels(first: torch.Tensor, channels: int) -> torch.Tensor:
    """Return a first convolution that treats grey channels as a grey RGB image.

    (F, 3, H, W) becomes (F, channels, H, W): of one channel, the sum over the colours;
    of several, as much for each.
    """
    if first.shape[1] != COLOURS or channels == COLOURS:
        return first
    summed = first.sum(1, keepdim=True) / channels
    return summed.repeat(1, channels, 1, 1)


def downloaded() -> Weights:
    """Download ImageNet's weights with the library.

    Raises `EnvironmentFault` if there is no connection.
    """
    try:
        found: Weights = _encoder("imagenet").state_dict()
    except Exception as error:  # whatever a network can do
        raise EnvironmentFault(
            "The ImageNet weights of the encoder could not be downloaded: give a file "
            "with --weights FILE, or train it from random weights with --from-scratch."
        ) from error
    return found


def _encoder(weights: str | None = None) -> Any:  # noqa: ANN401 - the library's type
    import segmentation_models_pytorch as smp

    return smp.encoders.get_encoder("resnet34", in_channels=COLOURS, weights=weights)
