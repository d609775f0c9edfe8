"""The record of a run, `run.json`: how to repeat the training, and how it ended.

It names no host, user or folder, so that you can pass it on: the command is built from
the options, not copied from the terminal.
"""

import platform
import time
from collections.abc import Iterable, Mapping

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import now
from nnunet_bridge.core.version import software_versions
from nnunet_bridge.core.words import ALL_CASES, RunStatus
from nnunet_bridge.formats.files import read_json, sha256_of
from nnunet_bridge.formats.kept import differences
from nnunet_bridge.formats.manifest import patients_of
from nnunet_bridge.nnunet import runs
from nnunet_bridge.nnunet.machine import hardware
from nnunet_bridge.nnunet.names import Run
from nnunet_bridge.nnunet.splits import Splits
from nnunet_bridge.nnunet.training_options import SEED, TrainingOptions
from nnunet_bridge.pipeline.training.request import TrainingRequest

_PACKAGES = (
    *("nnunet-bridge", "nnunetv2", "torch", "numpy", "SimpleITK"),
    *("batchgeneratorsv2", "dynamic-network-architectures"),
)
KILLED = "killed, or the machine went down"
_EXIT_WORDS = {RunStatus.DONE: "finished", RunStatus.STOPPED: "interrupted"}
_ORIGINS = {
    "dataset_state": "the dataset",
    "plans_sha256": "the plans",
    "splits_sha256": "the splits",
    "own_arguments": "nnU-Net's own arguments",
    "encoder_weights": "the initial weights of its encoder",
    "pretrained": "the model that it started from",
}
"""Key of the record -> what it stands for in a message."""


def origin_of(run: Run, dataset_state: str) -> dict[str, str]:
    """Return hashes of what a training is made from."""
    return {
        "dataset_state": dataset_state,
        "plans_sha256": sha256_of(run.plans_file),
        "splits_sha256": sha256_of(run.dataset.splits_file),
    }


def record_start(run: Run, request: TrainingRequest, **more: object) -> None:
    """Record what is trained, that it starts now, and `more`, such as `origin_of`."""
    attempts = _attempts(runs.read_record(run).attempts)
    started = now()
    runs.write_record(
        run,
        **_facts(run, request),
        **more,
        state=RunStatus.RUNNING,
        reason="",
        exit="",
        started=started,
        ended=None,
        seconds=None,
        attempts=[*attempts, {"started": started, "epoch": time.time()}],
    )


def record_end(run: Run, status: RunStatus, reason: str) -> None:
    """Record how a training ended: ``done``, ``failed`` or ``stopped``."""
    attempts = _attempts(runs.read_record(run).attempts)
    last = attempts[-1] if attempts else {}
    start = last.get("epoch")
    seconds = round(time.time() - start, 1) if isinstance(start, float) else None
    word = _EXIT_WORDS.get(status, str(status))
    last |= {"ended": now(), "seconds": seconds, "exit": word}
    runs.write_record(
        run,
        state=status,
        reason=reason,
        exit=word,
        ended=last["ended"],
        seconds=seconds,
        attempts=attempts,
    )


def origins_of(
    requested: Iterable[Run], dataset_state: str, options: TrainingOptions
) -> dict[Run, dict[str, object]]:
    """Return the origin that each run would have now."""
    more: dict[str, object] = {}
    if options.own_arguments is not None:
        more["own_arguments"] = list(options.own_arguments)
    return {run: {**origin_of(run, dataset_state), **more} for run in requested}


def require_same_origin(origins: Mapping[Run, Mapping[str, object]]) -> None:
    """Refuse runs that were trained on something else; name what changed (N06)."""
    faults = []
    for run, origin in origins.items():
        name = run.title
        if not run.record_file.exists() or not runs.can_resume(run):
            continue
        record, damage = runs.readable_record(run)
        if damage:
            lost = "The training data of this run cannot be verified."
            faults.append(f"{name}: {damage} {lost}")
        recorded = {"own_arguments": [], **record.content}
        changed = [_ORIGINS[key] for key in differences(recorded, origin)]
        if changed:
            faults.append(f"{name}: changed since its start: {', '.join(changed)}.")
    if faults:
        way_out = "Train again with --restart, or restore what it was trained on."
        raise InputError("\n".join([*faults, way_out]), code="N06")


def require_own_folders(todo: Iterable[Run]) -> None:
    """Refuse to train beside unpacked folds: nnU-Net would change their plans."""
    for model_dir in {run.model_dir for run in todo}:
        if any(model_dir.glob(f"fold_*/{runs.ORIGIN_FILE}")):
            raise InputError(
                f"{model_dir} holds an unpacked model: train in another workspace, or "
                "remove that folder first."
            )


def _attempts(attempts: Iterable[JsonObject]) -> list[JsonObject]:
    """Return the starts so far; one without an end was killed."""
    return [{"exit": KILLED, **attempt} for attempt in attempts]


def _facts(run: Run, request: TrainingRequest) -> JsonObject:
    """Return the facts that are needed to repeat the training."""
    model, budget = request.method.model, request.method.budget.name
    versions = software_versions(_PACKAGES)
    command = (
        f"nnunet-bridge train {run.dataset} -c {run.configuration} -f {run.fold} "
        f"--model {model} --budget {budget}"
    )
    return {
        "command": [*command.split(), *request.options.without_paths().words()],
        "dataset": run.dataset.name,
        "configuration": run.configuration,
        "fold": run.fold,
        "trainer": run.trainer,
        "plans": run.plans,
        "model": model,
        "budget": budget,
        "patients": _patients_trained_on(run),
        "seeds": {"python": SEED, "numpy": SEED, "torch": SEED},
        "versions": versions,
        "python": versions.pop("python"),
        "system": platform.system(),
        "hardware": hardware(),
    }


def _patients_trained_on(run: Run) -> int:
    """Return the number of patients in the training cases of a run."""
    splits: Splits = read_json(run.dataset.splits_file)
    if run.fold == ALL_CASES:
        cases = {case for fold in splits for case in (*fold["train"], *fold["val"])}
    else:
        cases = set(splits[int(run.fold)]["train"])
    return len(set(patients_of(run.dataset.raw_dir, cases).values()))
