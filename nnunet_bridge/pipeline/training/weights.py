"""What a training begins with: random weights, an encoder's, or a trained model's.

Weights from outside are judged before any training begins, in a process of its own
that writes a copy of what passed. The copies lie below the records of the dataset.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_bridge.core.errors import (
    BridgeError,
    EnvironmentFault,
    InputError,
    SecurityError,
    UsageError,
)
from nnunet_bridge.core.words import ModelName
from nnunet_bridge.formats.files import read_json, sha256_of
from nnunet_bridge.formats.folders import work_folder
from nnunet_bridge.nnunet.commands import (
    Beginning,
    Resources,
    encoder_command,
    nnunet_environment,
    run_to_end,
)
from nnunet_bridge.nnunet.methods import Method
from nnunet_bridge.nnunet.names import Run, Workspace
from nnunet_bridge.nnunet.runs import can_resume
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.training.pretrained import pretrained_model

RANDOM = "random"
DOWNLOADED = "imagenet"
_FAULTS: tuple[type[BridgeError], ...] = (InputError, SecurityError, EnvironmentFault)
_ONE_THREAD = Resources("cpu", threads=1, workers=1, loaders=0)


@dataclass(frozen=True, slots=True)
class Begun:
    """What every training of a command begins with, and how its record names it."""

    beginning: Beginning = field(default_factory=Beginning)
    origin: dict[str, str] = field(default_factory=dict)
    """Key of the record -> SHA-256 of the weights, or a word; only what was said."""


def check_options(method: Method, options: TrainingOptions) -> None:
    """Refuse options that do not fit the model or one another.

    Parameters
    ----------
    method : Method
    options : TrainingOptions

    Raises
    ------
    UsageError
        Naming the option.
    """
    asked = "--weights" if options.weights else ""
    asked = "--from-scratch" if options.from_scratch else asked
    if asked and not method.has_resnet:
        raise UsageError(f"{asked} is for --model resnet34, not {method.model}.")
    if options.weights and options.from_scratch:
        raise UsageError("--weights and --from-scratch exclude each other.")
    if options.pretrained and asked:
        raise UsageError(f"--pretrained and {asked} exclude each other.")
    if options.from_scratch and method.model == ModelName.RESNET_34_FROZEN:
        raise UsageError(
            "A frozen encoder learns nothing, so random weights stay random: give it "
            "--weights FILE, or train it too, without --freeze-encoder."
        )
    if options.gpus > 1:
        _check_one_process(method, options)


def _check_one_process(method: Method, options: TrainingOptions) -> None:
    """Refuse what nobody has tried in nnU-Net's processes on several GPUs."""
    reasons = {
        "--patience": options.patience is not None,
        f"--model {method.model}": method.report_network is not None,
    }
    for reason, given in reasons.items():
        if given:
            raise UsageError(f"{reason} needs one GPU a run: leave out --gpus.")


def begun_with(
    workspace: Workspace,
    method: Method,
    options: TrainingOptions,
    todo: Sequence[Run],
) -> Begun:
    """Return what trainings begin with, judged and copied where it is from outside.

    Parameters
    ----------
    workspace : Workspace
    method : Method
    options : TrainingOptions
    todo : sequence of Run
        What will be trained; those that can be resumed need no weights.

    Raises
    ------
    InputError, SecurityError
        If weights are not what they should be.
    EnvironmentFault
        If there are none, and the network does not give any.
    """
    beginning = Beginning(patience=options.patience)
    fresh = [r for r in todo if options.restart or not can_resume(r)]
    if options.pretrained and todo:
        model = pretrained_model(workspace, todo[0], options.pretrained, method.model)
        begin = replace(beginning, pretrained=model.checkpoint)
        return Begun(begin, {"pretrained": model.sha256})
    if not method.has_resnet or options.pretrained:
        return Begun(beginning)
    if options.from_scratch:
        return Begun(beginning, {"encoder_weights": RANDOM})
    if not fresh:
        given = (
            {"encoder_weights": sha256_of(options.weights)} if options.weights else {}
        )
        return Begun(beginning, given)
    file = _judged_encoder(workspace, fresh[0].dataset.name, options.weights)
    named = sha256_of(options.weights) if options.weights else DOWNLOADED
    return Begun(replace(beginning, encoder_weights=file), {"encoder_weights": named})


def _judged_encoder(workspace: Workspace, dataset: str, weights: Path | None) -> Path:
    """Return a copy of an encoder's weights that are known to fit."""
    if weights is not None and not weights.is_file():
        raise InputError(f"{weights} is not there, or is no file: name the weights.")
    folder = workspace.record_dir(dataset) / "weights"
    name = DOWNLOADED if weights is None else sha256_of(weights)
    final = folder / f"resnet34-{name}.pth"
    if final.is_file():
        return final
    with work_folder(folder, "weights") as work:
        out, answer = work / "encoder.pth", work / "answer.json"
        command = encoder_command(weights, out, answer, _ONE_THREAD)
        environment = nnunet_environment(workspace, _ONE_THREAD, os.environ)
        for _ in run_to_end(command, environment, work / "log", "read the weights"):
            pass
        told = read_json(answer)
        for kind in _FAULTS:
            if told["fault"] == kind.__name__:
                raise kind(told["message"])
        out.replace(final)
    return final
