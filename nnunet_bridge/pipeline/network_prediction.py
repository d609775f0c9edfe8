"""Images in a folder -> nnU-Net's labelmaps, by one model or the mean of several."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from nnunet_bridge.nnunet.commands import (
    Resources,
    ensemble_command,
    nnunet_environment,
    predict_command,
    run_to_end,
)
from nnunet_bridge.nnunet.machine import this_machine
from nnunet_bridge.nnunet.names import FILE_ENDING, Workspace
from nnunet_bridge.nnunet.plans import CASCADE, LOWRES
from nnunet_bridge.pipeline.estimates import require_memory_for_prediction
from nnunet_bridge.pipeline.models import Model

IMAGES = "images"
"""Folder of the work folder with ``<case>_0000.nii.gz``."""


def predict_folder(
    workspace: Workspace,
    model: Model,
    work: Path,
    resources: Resources,
    *,
    advanced: Callable[[float], None],
) -> Path:
    """Predict every image of a folder; return the folder of ``<case>.nii.gz``.

    Parameters
    ----------
    workspace : Workspace
    model : Model
        Judged before nnU-Net is called with it.
    work : Path
        Holds the images in `IMAGES`; gets the predictions.
    resources : Resources
    advanced : callable
        Told which share of the work is done, 0..1.

    Raises
    ------
    EnvironmentFault
        If a case cannot fit into memory (F10).
    SecurityError
        If the model holds what could do harm (FAULTS S01, S02, S07-S10).
    NnUNetError
        If nnU-Net fails.
    """
    model.check(workspace)
    environment = nnunet_environment(workspace, resources, os.environ)
    log_file = workspace.record_dir(model.dataset) / "predict.log"
    members = model.members()
    several = len(members) > 1
    images = sorted((work / IMAGES).glob(f"*{FILE_ENDING}"))
    count = len(images)
    for configuration, states in members.items():
        require_memory_for_prediction(
            workspace.model_dir(states[0].run), configuration, images, this_machine()
        )
    folders = []
    for number, (configuration, states) in enumerate(members.items()):
        folder = work / configuration
        previous = None
        if configuration == CASCADE:
            previous = _first_stage(workspace, model, work, resources, log_file)
        command = predict_command(
            workspace.model_dir(states[0].run),
            [state.run.fold for state in states],
            work / IMAGES,
            folder,
            resources,
            probabilities=several,
            previous_dir=previous,
        )
        task = f"predict {configuration}"
        for _ in run_to_end(command, environment, log_file, task):
            done = number * count + len(list(folder.glob(f"*{FILE_ENDING}")))
            advanced(done / count / len(members))
        folders.append(folder)
    if not several:
        return folders[0]
    command = ensemble_command(folders, work / "mean", resources)
    for _ in run_to_end(command, environment, log_file, "ensemble"):
        pass
    return work / "mean"


def _first_stage(
    workspace: Workspace, model: Model, work: Path, resources: Resources, log_file: Path
) -> Path:
    """Predict what the cascade begins with; return the folder."""
    folder = work / f"{LOWRES}_for_{CASCADE}"
    command = predict_command(
        workspace.model_dir(model.previous[0].run),
        [state.run.fold for state in model.previous],
        work / IMAGES,
        folder,
        resources,
        probabilities=False,
    )
    environment = nnunet_environment(workspace, resources, os.environ)
    for _ in run_to_end(command, environment, log_file, f"predict {LOWRES}"):
        pass
    return folder
