"""Check a model from elsewhere before nnU-Net reads it.

A model is a folder: its name selects trainer, plans and configuration, its files
everything else. This module checks names, `schemas` the JSON files and `checkpoints`
the pickles (FAULTS S02-S05, S07-S10).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import Configuration, Fold, fold_named
from nnunet_bridge.nnunet.checkpoints import check_checkpoint
from nnunet_bridge.nnunet.methods import METHODS, REPORT_NETWORK_OF
from nnunet_bridge.nnunet.names import CHECKPOINT_FINAL, Dataset, Run, Workspace
from nnunet_bridge.nnunet.report_plans import CONFIGURATION as REPORT_CONFIGURATION
from nnunet_bridge.nnunet.schemas import (
    DATASET_NAME,
    LONGEST_VALUE,
    MOST_ACTIVATIONS,
    Card,
    DatasetFile,
    PlansFile,
    refuse,
    validated,
)

PLANS_FILE = "plans.json"
DATASET_FILE = "dataset.json"
CARD_FILE = "model.json"
CLEANING_FILE = "cleaning.json"
TEXT_FILES = (PLANS_FILE, DATASET_FILE, CARD_FILE, CLEANING_FILE)
MOST_JSON_BYTES = 4 << 20

TRAINERS = frozenset(
    {
        *(method.trainer for method in METHODS.values()),
        *("nnUNetTrainerNoMirroring", "nnUNetTrainerNoDA", "nnUNetTrainerDA5"),
        *("nnUNetTrainerDiceLoss", "nnUNetTrainerCELoss", "nnUNetTrainerAdam"),
        *("nnUNetTrainerCosAnneal", "nnUNetTrainer_warmup"),
        *(f"nnUNetTrainer_{epochs}epochs" for epochs in (5, 10, 20, 50, 100, 250)),
        *(f"nnUNetTrainer_{epochs}epochs" for epochs in (500, 750, 2000, 4000, 8000)),
        *("nnUNetTrainer_1epoch", "nnUNetTrainer_250epochs_NoMirroring"),
    }
)
"""Ours, and those of nnU-Net that change nothing but the training."""

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
_FOLD = re.compile(r"fold_(all|0|[1-9][0-9]?)")
_DANGEROUS = re.compile(r"^-|[^A-Za-z0-9._-]")
_PICKLES = (".pkl", ".pickle", ".pck", ".joblib", ".npy", ".npz")
_LEFT_BEHIND = re.compile(
    r"dataset_fingerprint\.json|fold_(all|0|[1-9][0-9]?)/(checkpoint_(best|latest)\.pth"
    r"|progress\.png|debug\.json|network_architecture\.pdf|validation/summary\.json)"
)
"""Files that nnU-Net exports with a model; they are not unpacked."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The entries of a packed model, by purpose."""

    name: ModelFolder
    checkpoints: dict[str, str]  # fold -> entry of its final checkpoint
    texts: dict[str, str]
    """``plans.json``, ``dataset.json`` and, if present, our own files -> entry."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The parts of the name of a model's folder below ``nnUNet_results``."""

    dataset: str
    trainer: str
    plans: str
    configuration: str  # empty for all configurations of the plans

    @classmethod
    def from_folders(cls, dataset: str, folder: str, trusted: str = "") -> ModelFolder:
        """Parse the names of two folders; the trainer `trusted` is known, too.

        Raises `SecurityError`. S10: a name that a program could take for an option or a
        command. S09: an unknown trainer. S04: not the folder of a model.

        Examples
        --------
        >>> ModelFolder.from_folders("Dataset001_A", "nnUNetTrainer__nnUNetPlans__2d")
        ModelFolder(dataset='Dataset001_A', trainer='nnUNetTrainer',
            plans='nnUNetPlans', configuration='2d')
        """
        for name in (dataset, folder):
            if _DANGEROUS.search(name):
                refuse(f"the name {_short(name)} is no model's", "S10")
        parts = folder.split("__")
        if not re.fullmatch(DATASET_NAME, dataset) or len(parts) != 3:  # noqa: PLR2004 - trainer, plans, configuration
            refuse(f"{_short(f'{dataset}/{folder}')} is no model's folder", "S04")
        trainer, plans, configuration = parts
        if trainer != trusted:
            check_trainer(trainer)
        if not _WORD.fullmatch(plans) or configuration not in tuple(Configuration):
            refuse(f"{_short(folder)} is no model's folder", "S04")
        return cls(dataset, trainer, plans, configuration)

    @classmethod
    def of(cls, run: Run) -> ModelFolder:
        """Return the name of the model of which a run is a fold."""
        return cls(run.dataset.name, run.trainer, run.plans, run.configuration)

    @property
    def folder(self) -> str:
        """Name of the folder that holds the folds."""
        return f"{self.trainer}__{self.plans}__{self.configuration}"

    @property
    def path(self) -> str:
        """Dataset and folder, as in nnU-Net's own exports."""
        return f"{self.dataset}/{self.folder}"

    def run(self, workspace: Workspace, fold: str) -> Run:
        """Return one fold of this model in a workspace."""
        dataset = Dataset(workspace, self.dataset)
        number = fold_named(fold)
        return Run(dataset, self.configuration, number, self.trainer, self.plans)


def sorted_contents(entries: Sequence[str]) -> Contents:
    """Sort the entries of an archive, which must be exactly one model.

    Their names are as ``Dataset001_X/trainer__plans__2d/fold_0/checkpoint_final.pth``,
    which is also how nnU-Net exports a model.

    Raises `SecurityError`. S03: a pickle. S04: an unexpected or missing file. S05:
    files of another model. S09, S10: a forbidden name.
    """
    pickles = [entry for entry in entries if entry.lower().endswith(_PICKLES)]
    if pickles:
        refuse(f"{_short(pickles[0])} is a pickle, which could run anything", "S03")
    places = {tuple(entry.split("/")[:2]) for entry in entries if entry.count("/") > 1}
    loose = [entry for entry in entries if entry.count("/") <= 1]
    if loose or not places:
        refuse(f"{_short((loose or [''])[0])} lies in no model's folder", "S04")
    names = [ModelFolder.from_folders(*place) for place in sorted(places)]
    if len(names) > 1:
        both = " and ".join(_short(name.path) for name in names[:2])
        refuse(f"it holds files of {both}; one model a file", "S05")
    contents = _by_purpose(names[0], entries)
    for missing in {PLANS_FILE, DATASET_FILE} - contents.texts.keys():
        refuse(f"its {missing} is missing", "S04")
    if not contents.checkpoints:
        refuse(f"it has no fold with a {CHECKPOINT_FINAL}", "S04")
    return contents


def _by_purpose(name: ModelFolder, entries: Sequence[str]) -> Contents:
    contents = Contents(name, {}, {})
    for entry in entries:
        file = entry.removeprefix(f"{name.path}/")
        fold, _, rest = file.partition("/")
        if _FOLD.fullmatch(fold) and rest == CHECKPOINT_FINAL:
            contents.checkpoints[fold.removeprefix("fold_")] = entry
        elif file in TEXT_FILES:
            contents.texts[file] = entry
        elif not _LEFT_BEHIND.fullmatch(file):
            refuse(f"{_short(entry)} is no file of a model", "S04")
    return contents


def _short(name: str) -> str:
    """Return a name, safe and short enough for a message."""
    return quoted(name[:LONGEST_VALUE] + ("..." if len(name) > LONGEST_VALUE else ""))


def require_trusted(trainer: str, plans: str, trusted: str) -> None:
    """Refuse a trainer of others, unless the command named it (FAULTS S09)."""
    if trainer in TRAINERS or trainer == trusted:
        return
    model = _short(f"{trainer}__{plans}")
    refuse(
        f"its trainer {_short(trainer)} is not on the list of known trainers, so code "
        f"of others may run. If you trust it, name the model ({model}) with --model, "
        "and the folder of its code in the variable nnUNet_extTrainer",
        "S09",
    )


def check_trainer(name: str) -> None:
    """Refuse a trainer that is not on the list (FAULTS S09)."""
    if name not in TRAINERS:
        shown = _short(name)
        refuse(f"its trainer {shown} is not on the list of known trainers", "S09")


def parsed(content: bytes, file: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return the content of a JSON file from elsewhere.

    Raises `SecurityError`. S07: larger than any model needs. S08: damaged, or nested
    too deep.
    """
    if len(content) > MOST_JSON_BYTES:
        refuse(f"{file} has {len(content)} bytes", "S07")
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = str(error)[:LONGEST_VALUE]
        refuse(f"{file} is damaged or nested too deep ({reason})", "S08")


def checked_plans(content: Any, name: ModelFolder) -> JsonObject:  # noqa: ANN401 - judged here
    """Return the content of a ``plans.json`` after a check of every word and number.

    Raises `SecurityError`. S02: an unknown class, function or key, or plans of another
    model. S07: an absurd number.
    """
    plans = validated(PlansFile, content, PLANS_FILE)
    names = {"dataset": plans.dataset_name, "plans": plans.plans_name}
    for what, named in names.items():
        must = getattr(name, what)
        if named != must:
            refuse(f"{PLANS_FILE} names the {what} {named}, its folder {must}", "S02")
    if name.configuration and name.configuration not in plans.configurations:
        refuse(f"{PLANS_FILE} has no configuration {name.configuration}", "S02")
    result: JsonObject = content
    _check_report_network(result, name)
    return result


def _check_report_network(plans: JsonObject, name: ModelFolder) -> None:
    """Refuse a network of the report without its size, or with an absurd one."""
    network = REPORT_NETWORK_OF.get(name.trainer)
    if network is None:
        return
    steps = (plans.get("nnunet_bridge") or {}).get(REPORT_CONFIGURATION) or {}
    sizes = [steps.get(key) or [] for key in network.size]
    if name.configuration != REPORT_CONFIGURATION or not all(sizes):
        refuse(f"{PLANS_FILE} lacks the size of a {network.suffix}", "S02")
    patch = plans["configurations"][REPORT_CONFIGURATION]["patch_size"]
    widest = max(features for size in sizes for features in size)
    if math.prod(patch) * widest > MOST_ACTIVATIONS:
        refuse(f"{PLANS_FILE}: a patch of this size is absurd", "S07")


def checked_dataset(content: Any) -> JsonObject:  # noqa: ANN401 - judged here
    """Return the part of a ``dataset.json`` that prediction needs; see `validated`."""
    return validated(DatasetFile, content, DATASET_FILE).model_dump(exclude_none=True)


def checked_card(content: Any) -> JsonObject:  # noqa: ANN401 - judged here
    """Return the content of a ``model.json`` in our form; see `validated`."""
    return validated(Card, content, CARD_FILE).model_dump()


def check_model_folder(
    model_dir: Path, folds: Sequence[Fold], trusted: str = ""
) -> None:
    """Refuse a model folder that could do harm.

    It takes a few milliseconds, so every prediction starts with it, whatever the origin
    of the folder. `trusted` is a trainer of others that the user named.

    Raises `SecurityError` with the id of the fault.
    """
    judged_texts(model_dir, trusted)
    for fold in folds:
        check_checkpoint(model_dir / f"fold_{fold}" / CHECKPOINT_FINAL)


def judged_texts(model_dir: Path, trusted: str = "") -> dict[str, JsonObject]:
    """Return plans and description of a model by file name; see `judged`."""
    name = ModelFolder.from_folders(model_dir.parent.name, model_dir.name, trusted)
    return {f: judged(model_dir / f, name) for f in (PLANS_FILE, DATASET_FILE)}


def check_planned(run: Run) -> None:
    """Refuse a run whose plans or description could do harm; see `judged`."""
    name = ModelFolder.of(run)
    for file in (run.plans_file, run.dataset.planned_dir / DATASET_FILE):
        if not file.is_file():
            text = f"{file} is missing: run `nnunet-bridge plan {run.dataset.name}`."
            raise InputError(text, code="N04")
        judged(file, name)


def judged(file: Path, name: ModelFolder) -> JsonObject:
    """Return the plans or the description of a model, as they passed the check.

    nnU-Net's process takes them from here: a file may change after it was checked.

    Raises `SecurityError` with the id of the fault.
    """
    content: JsonObject = _read(file)
    if file.name == DATASET_FILE:
        checked_dataset(content)
        content.pop("dataset", None)  # files anywhere, which nnU-Net would use instead
        return content
    return checked_plans(content, name)


def _read(file: Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    with file.open("rb") as stream:
        return parsed(stream.read(MOST_JSON_BYTES + 1), file.name)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")
