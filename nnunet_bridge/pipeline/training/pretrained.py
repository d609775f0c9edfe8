"""A trained model that a training begins with: `train --pretrained MODEL`.

The model is a packed file, judged and copied as `unpack` does, or one of another
dataset of the workspace. Its network must be that of the training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.files import read_json, sha256_of
from nnunet_bridge.nnunet.methods import REPORT_NETWORK_OF
from nnunet_bridge.nnunet.models import DATASET_FILE, PLANS_FILE
from nnunet_bridge.nnunet.names import (
    DATASET_FOLDER,
    Dataset,
    Run,
    Workspace,
    find_dataset,
)
from nnunet_bridge.nnunet.runs import known_runs
from nnunet_bridge.pipeline.models.choose import Model, choose_model
from nnunet_bridge.pipeline.models.pack import unpack_model


@dataclass(frozen=True, slots=True)
class Pretrained:
    """The fold of a model whose weights are taken over."""

    checkpoint: Path
    sha256: str


def pretrained_model(
    workspace: Workspace, run: Run, model: str, kind: str
) -> Pretrained:
    """Return the best fold of a model, if a training can begin with it.

    Parameters
    ----------
    workspace : Workspace
    run : Run
        One of those that begin with it; its plans are written.
    model : str
        A packed file, or a dataset and perhaps a configuration: ``2:3d_fullres``.
    kind : str
        What `--model` calls the training's own.

    Raises
    ------
    InputError
        If there is no such model, or its network is another.
    SecurityError
        If a packed one is refused.
    UsageError
        If it was trained on the very dataset.
    """
    found = _found(workspace, run, model, kind)
    if found.dataset == run.dataset.name:
        raise UsageError(
            f"--pretrained {model} was trained on {run.dataset} itself and may know "
            "the cases that validate: name a model of another dataset."
        )
    found.check()
    best = max(found.states, key=lambda state: state.mean_dice or 0.0)
    model_dir = best.run.model_dir
    theirs = _network(
        best.run, read_json(model_dir / PLANS_FILE), read_json(model_dir / DATASET_FILE)
    )
    ours = _network(
        run,
        read_json(run.plans_file),
        read_json(run.dataset.raw_dir / DATASET_FILE),
    )
    differs = [key for key in ours if theirs.get(key) != ours[key]]
    if differs:
        key = differs[0]
        raise InputError(
            f"--pretrained {model} has another network ({best.run.configuration} of "
            f"{found.dataset}): its {key} is {theirs.get(key)}, here {ours[key]}."
        )
    file = best.run.checkpoint_file
    return Pretrained(file, sha256_of(file))


def _found(workspace: Workspace, run: Run, model: str, kind: str) -> Model:
    if Path(model).is_file():
        return _unpacked(run, Path(model))
    word, _, configuration = model.partition(":")
    dataset = find_dataset(workspace, word)
    wanted = configuration or run.configuration
    return choose_model(workspace, dataset, [wanted], kind=kind)


def _unpacked(run: Run, file: Path) -> Model:
    """Unpack a file where nothing but this training looks for it."""
    root = run.dataset.record_dir / "weights" / sha256_of(file)
    place = Workspace(*(root / name for name in ("raw", "planned", "results", "runs")))
    if not place.results_dir.is_dir():
        unpack_model(place, file)
    datasets = [f.name for f in place.results_dir.iterdir()]
    dataset = next(name for name in datasets if DATASET_FOLDER.fullmatch(name))
    states = tuple(known_runs(Dataset(place, dataset)))
    first = states[0]
    return Model(dataset, first.model, first.budget, states, "as packed")


def _network(run: Run, plans: JsonObject, dataset: JsonObject) -> JsonObject:
    """Return what must be equal for weights to be taken over."""
    report = REPORT_NETWORK_OF.get(run.trainer)
    network: JsonObject = {
        "number of channels": len(dataset["channel_names"]),
        "kind": report.suffix if report else "nnU-Net",
    }
    if report:
        written = plans["nnunet_bridge"][run.configuration]
        labels = [name for name in dataset["labels"] if name != "ignore"]
        network["number of labels"] = len(labels)
        return network | {key: written[key] for key in report.size}
    planned = plans["configurations"].get(run.configuration, {}).get("architecture", {})
    return network | {
        "network class": planned.get("network_class_name"),
        **planned.get("arch_kwargs", {}),
    }
