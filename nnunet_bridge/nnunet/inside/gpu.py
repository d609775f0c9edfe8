"""Report what torch can compute on."""

import argparse
import json

import torch


def add_arguments(_gpu: argparse.ArgumentParser) -> None:
    """Declare the arguments of the task: none."""


def report(_asked: argparse.Namespace) -> None:
    """Print the facts of `machine.TorchBuild` as one line of JSON."""
    facts = {
        "version": torch.__version__,
        "cuda": torch.version.cuda or "",
        "architectures": torch.cuda.get_arch_list(),
        "mps": torch.backends.mps.is_available(),
        "error": _error_of_gpu() if torch.version.cuda else "",
    }
    print(json.dumps(facts))  # noqa: T201 - the answer


def _error_of_gpu() -> str:
    """Return the error of a computation on the first GPU; empty if it works."""
    try:
        image = torch.ones(1, 1, 8, 8, device="cuda")
        torch.nn.functional.conv2d(image, image[..., :3, :3]).sum().item()
    except Exception as error:  # noqa: BLE001 - whatever a driver can do
        return str(error).partition("\n")[0].rstrip(".")
    return ""
