"""The initial weights of a training: random, an encoder's, or those of a trained model.

Weights from outside are checked before any training starts, in a process of its own
that writes a copy of what passed. The copies lie below the records of the dataset.
`train --pretrained MODEL` takes a packed file, checked and copied as `unpack` does, or
a model of another dataset of the workspace; its network must be that of the training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_bridge.core import errors
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.files import read_json, sha256_of
from nnunet_bridge.formats.folders import work_folder
from nnunet_bridge.nnunet.checkpoints import check_checkpoint
from nnunet_bridge.nnunet.commands import TrainingStart, encoder_command
from nnunet_bridge.nnunet.host import ONE_THREAD, Host
from nnunet_bridge.nnunet.methods import REPORT_NETWORK_OF
from nnunet_bridge.nnunet.models import DATASET_FILE, PLANS_FILE
from nnunet_bridge.nnunet.names import DATASET_FOLDER, Dataset, Run, Workspace
from nnunet_bridge.nnunet.runs import can_resume, known_runs
from nnunet_bridge.pipeline.models.choose import Model, ModelRequest, choose_model
from nnunet_bridge.pipeline.models.pack import unpack_model
from nnunet_bridge.pipeline.training.request import TrainingRequest

RANDOM = "random"
DOWNLOADED = "imagenet"
_FAULTS = errors.InputError, errors.SecurityError, errors.EnvironmentFault
CHECKPOINT_SUFFIX = ".pth"


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """The initial weights of every run of a command, and how its record names them."""

    start: TrainingStart = field(default_factory=TrainingStart)
    origin: dict[str, str] = field(default_factory=dict)
    """Key of the record -> SHA-256 of the weights, or a word; empty by default."""


def load_initial_weights(
    dataset: Dataset, request: TrainingRequest, todo: Sequence[Run], host: Host
) -> InitialWeights:
    """Return the initial weights; check and copy them where they come from outside.

    Runs of `todo` that can be resumed need no weights.

    Raises `InputError` or `SecurityError` if weights are refused, `EnvironmentFault` if
    there are none and the download fails.
    """
    options, method = request.options, request.method
    start = TrainingStart(patience=options.patience)
    if options.pretrained and todo:
        file = pretrained_checkpoint(todo[0], options.pretrained, method.model)
        begin = replace(start, pretrained=file)
        return InitialWeights(begin, {"pretrained": sha256_of(file)})
    if not method.has_resnet or options.pretrained:
        return InitialWeights(start)
    if options.from_scratch:
        return InitialWeights(start, {"encoder_weights": RANDOM})
    given = options.weights
    if any(options.restart or not can_resume(r) for r in todo):
        encoder = _checked_encoder(dataset, given, host)
        start = replace(start, encoder_weights=encoder)
        named = sha256_of(given) if given else DOWNLOADED
        return InitialWeights(start, {"encoder_weights": named})
    named_now = {"encoder_weights": sha256_of(given)} if given else {}
    return InitialWeights(start, named_now)


def _checked_encoder(dataset: Dataset, weights: Path | None, host: Host) -> Path:
    """Return a copy of an encoder's weights that are known to fit."""
    if weights is not None and not weights.is_file():
        raise errors.InputError(
            f"{weights} is not a file: name the file of the weights."
        )
    folder = dataset.record_dir / "weights"
    name = DOWNLOADED if weights is None else sha256_of(weights)
    final = folder / f"resnet34-{name}.pth"
    if final.is_file():
        return final
    with work_folder(folder, "weights") as work:
        out, answer_file = work / "encoder.pth", work / "answer.json"
        command = encoder_command(weights, out, answer_file, ONE_THREAD)
        process = host.launch(dataset.workspace, command, ONE_THREAD, work / "log")
        host.finish(process, "read the weights")
        answer = read_json(answer_file)
        for kind in _FAULTS:
            if answer["fault"] == kind.__name__:
                raise kind(answer["message"])
        out.replace(final)
    return final


def pretrained_checkpoint(run: Run, model: str, kind: str) -> Path:
    """Return the checkpoint of the best fold of a model with the same network.

    `model` is a packed file, a checkpoint, or a dataset with or without a
    configuration: ``2:3d_fullres``. `run` starts from it, and its plans are written;
    `kind` is its word of `--model`.

    Raises
    ------
    InputError
        If there is no such model, or its network is another.
    SecurityError
        If a packed one is refused.
    UsageError
        If it was trained on the same dataset.
    """
    file = Path(model)
    if file.suffix == CHECKPOINT_SUFFIX:
        if not file.is_file():
            raise errors.InputError(f"{file} is not a file: name the checkpoint.")
        check_checkpoint(file)  # nnU-Net compares its network with that of the training
        return file
    found = _found(run, model, kind)
    if found.dataset.name == run.dataset.name:  # also where a file was unpacked
        raise errors.UsageError(
            f"--pretrained {model} was trained on {run.dataset} itself and may have "
            "seen the validation cases: name a model of another dataset."
        )
    found.check()
    best = max(found.states, key=lambda state: state.mean_dice or 0.0)
    model_dir = best.run.model_dir
    theirs = _network(best.run, model_dir / PLANS_FILE, model_dir / DATASET_FILE)
    ours = _network(run, run.plans_file, run.dataset.raw_dir / DATASET_FILE)
    differs = [key for key in ours if theirs.get(key) != ours[key]]
    if differs:
        key = differs[0]
        raise errors.InputError(
            f"--pretrained {model} has another network ({best.run.configuration} of "
            f"{found.dataset}): its {key} is {theirs.get(key)}, here {ours[key]}."
        )
    return best.run.checkpoint_file


def _found(run: Run, model: str, kind: str) -> Model:
    if Path(model).is_file():
        return _unpacked(run, Path(model))
    word, _, configuration = model.partition(":")
    request = ModelRequest((configuration or run.configuration,), kind=kind)
    return choose_model(Dataset.find(run.dataset.workspace, word), request)


def _unpacked(run: Run, file: Path) -> Model:
    """Unpack a file into a workspace that only this training uses."""
    root = run.dataset.record_dir / "weights" / sha256_of(file)
    place = Workspace(*(root / name for name in ("raw", "planned", "results", "runs")))
    if not place.results_dir.is_dir():
        unpack_model(place, file)
    datasets = [f.name for f in place.results_dir.iterdir()]
    dataset = next(name for name in datasets if DATASET_FOLDER.fullmatch(name))
    states = tuple(known_runs(Dataset(place, dataset)))
    first = states[0]
    return Model(first.model, first.budget, states, "as packed")


def _network(run: Run, plans_file: Path, dataset_file: Path) -> JsonObject:
    """Return the properties in which two networks must agree to share weights."""
    plans, dataset = read_json(plans_file), read_json(dataset_file)
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
