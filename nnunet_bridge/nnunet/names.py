"""nnU-Net's names of folders, files and environment variables, and ours beside them.

No other module spells them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_bridge.core.dataset import DatasetSpec
from nnunet_bridge.core.errors import EnvironmentFault, InputError, UsageError
from nnunet_bridge.core.words import ALL_CASES, Fold

FILE_ENDING = ".nii.gz"
CHECKPOINT_FINAL = "checkpoint_final.pth"
CHECKPOINT_LATEST = "checkpoint_latest.pth"
CHECKPOINT_BEST = "checkpoint_best.pth"
CHECKPOINT_PREVIOUS = "checkpoint_previous.pth"
"""Ours: the one before the latest, in case that is damaged."""

NOT_IN_PLACE = ("checkpoint_*.pth", "splits_final.json")
"""Files of nnU-Net's folders that are only read, or replaced by renaming another."""

PARENT_VARIABLE = "NNUNET_BRIDGE_PARENT"
"""Ours: the id of the process with which nnU-Net's ends."""

EXT_TRAINERS = "nnUNet_extTrainer"
"""nnU-Net's folders of trainers; it imports every module in them to find one."""

TRUSTED_VARIABLE = "NNUNET_BRIDGE_EXT_TRAINER"
"""Ours: the user's `EXT_TRAINERS`, of which a process has no use unless a command named
a trainer of others."""

ALL_NUMBERED = "all5"  # word of `-f` for every numbered fold
SEED_PART = "_seed_"
"""In the name of the folder of a repeated training: ``fold_0_seed_1``."""

BETWEEN = "__"
"""Between trainer, plans and configuration in the name of a model's folder."""

DATASET_FOLDER = re.compile(r"Dataset(\d{3})_(.+)")
_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True, slots=True)
class Workspace:
    """The four folders of all data."""

    raw_dir: Path
    preprocessed_dir: Path
    results_dir: Path
    runs_dir: Path

    @classmethod
    def at(
        cls,
        root: Path,
        environment: Mapping[str, str] | None = None,
        *,
        may_be_new: bool = False,
    ) -> Workspace:
        """Return the workspace in `root`; nnU-Net's variables override its folders.

        Raises `EnvironmentFault` if `root` is not a folder, unless it
        `may_be_new`.
        """
        variables = os.environ if environment is None else environment
        if not root.is_dir() and (root.exists() or not may_be_new):
            raise EnvironmentFault(
                f"The workspace {root} is not a folder: make it, or name another with "
                "-w or NNUNET_BRIDGE_WORKSPACE."
            )

        dirs = (Path(variables.get(name) or root / name) for name in _VARIABLES)
        raw, preprocessed, results = (folder.absolute() for folder in dirs)
        return cls(raw, preprocessed, results, root.absolute() / "runs")

    @property
    def nnunet_dirs(self) -> tuple[Path, Path, Path]:
        """nnU-Net's own folders."""
        return self.raw_dir, self.preprocessed_dir, self.results_dir

    def environment(self) -> dict[str, str]:
        """Return the variables by which nnU-Net finds its folders."""
        return dict(zip(_VARIABLES, map(str, self.nnunet_dirs), strict=True))


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset in a workspace: every folder and file that belongs to it."""

    workspace: Workspace
    name: str  # full name, such as ``Dataset001_Tibia``

    def __str__(self) -> str:
        """Return the full name."""
        return self.name

    @classmethod
    def all(cls, workspace: Workspace) -> list[Dataset]:
        """Return the datasets of a workspace by name."""
        dirs = [folder for folder in workspace.nnunet_dirs if folder.is_dir()]
        entries = (entry for folder in dirs for entry in folder.iterdir())
        folders = {entry.name for entry in entries if entry.is_dir()}
        names = sorted(filter(DATASET_FOLDER.fullmatch, folders))
        return [cls(workspace, name) for name in names]

    @classmethod
    def find(cls, workspace: Workspace, asked: str) -> Dataset:
        """Return the dataset given by number or full name.

        Raises `UsageError` if there is none, `InputError` if two folders have the same
        number (N07).
        """
        found = [dataset.name for dataset in cls.all(workspace)]
        number = int(asked) if asked.isdigit() else None
        wanted = [name for name in found if asked == name or number == number_of(name)]
        if not wanted:
            others = f", or name one of {', '.join(found)}" if found else ""
            raise UsageError(
                f"There is no dataset {asked} in {workspace.raw_dir}: run `convert` "
                f"first{others}."
            )
        twins = [name for name in found if number_of(name) == number_of(wanted[0])]
        if len(twins) > 1:
            raise InputError(
                f"{' and '.join(twins)} bear the same number, which confuses nnU-Net: "
                "give one of them another.",
                code="N07",
            )
        return cls(workspace, wanted[0])

    @property
    def number(self) -> int:
        """The number in its name."""
        return number_of(self.name)

    @property
    def raw_dir(self) -> Path:
        """The folder of the raw dataset."""
        return self.workspace.raw_dir / self.name

    @property
    def planned_dir(self) -> Path:
        """The folder of plans, splits and preprocessed cases."""
        return self.workspace.preprocessed_dir / self.name

    @property
    def results_dir(self) -> Path:
        """The folder of the trained models."""
        return self.workspace.results_dir / self.name

    @property
    def record_dir(self) -> Path:
        """The folder of our own records."""
        return self.workspace.runs_dir / self.name

    @property
    def splits_file(self) -> Path:
        """The file that lists the cases of each fold."""
        return self.planned_dir / "splits_final.json"

    @property
    def lock_file(self) -> Path:
        """The lock that a process holds while it changes or plans the dataset."""
        locks = self.workspace.raw_dir.parent / ".nnunet_bridge" / "locks"
        return locks / f"{self.name}.lock"

    def plans_file(self, plans: str) -> Path:
        """Return the file that holds the plans of that name."""
        return self.planned_dir / f"{plans}.json"


@dataclass(frozen=True, slots=True)
class Run:
    """One training: a model's configuration on one part of the cases of a dataset."""

    dataset: Dataset
    configuration: str
    """``2d``, ``3d_fullres``, ...; a model from elsewhere may name its own."""

    fold: Fold
    trainer: str  # name of nnU-Net's trainer class
    plans: str  # name of the plans, such as ``nnUNetPlans``

    repeat: int = 0
    """0 for the first training of the fold; others have other seeds, and all their
    files in `run_dir`."""

    def __post_init__(self) -> None:
        """Refuse an empty name and a fold that nnU-Net does not know."""
        names = (self.dataset.name, self.configuration, self.trainer, self.plans)
        if not all(names):
            raise InputError(f"A training needs four names: {names}.")
        if not (type(self.fold) is int and self.fold >= 0) and self.fold != ALL_CASES:
            raise InputError(
                f"Unknown fold {self.fold!r}. Give a number from 0, or {ALL_CASES!r}."
            )

    @property
    def title(self) -> str:
        """Configuration and fold, such as ``2d fold 0``."""
        seed = f" seed {self.repeat}" if self.repeat else ""
        return f"{self.configuration} fold {self.fold}{seed}"

    @property
    def workspace(self) -> Workspace:
        """The workspace, with the results of this training."""
        if not self.repeat:
            return self.dataset.workspace
        return replace(self.dataset.workspace, results_dir=self.run_dir / "results")

    @property
    def model_dir(self) -> Path:
        """The folder of all folds of the model."""
        return self.workspace.results_dir / self.dataset.name / self._model

    @property
    def fold_dir(self) -> Path:
        """The folder in which nnU-Net keeps this fold."""
        return self.model_dir / f"fold_{self.fold}"

    @property
    def run_dir(self) -> Path:
        """The folder of our own record."""
        seed = f"{SEED_PART}{self.repeat}" if self.repeat else ""
        return self.dataset.record_dir / self._model / f"fold_{self.fold}{seed}"

    @property
    def trainer_and_plans(self) -> str:
        """How `--model` names a model by its trainer and plans."""
        return f"{self.trainer}{BETWEEN}{self.plans}"

    @property
    def _model(self) -> str:
        return f"{self.trainer_and_plans}{BETWEEN}{self.configuration}"

    @property
    def plans_file(self) -> Path:
        """The plans that it is trained from."""
        return self.dataset.plans_file(self.plans)

    @property
    def checkpoint_file(self) -> Path:
        """The final checkpoint; it exists once training has ended."""
        return self.fold_dir / CHECKPOINT_FINAL

    @property
    def validation_dir(self) -> Path:
        """The folder of the predictions of the held-out cases."""
        return self.fold_dir / "validation"

    @property
    def events_file(self) -> Path:
        """The file to which the training writes one line an epoch."""
        return self.run_dir / "events.jsonl"

    @property
    def record_file(self) -> Path:
        """The record of how the training was started and how it ended."""
        return self.run_dir / "run.json"

    @property
    def page_file(self) -> Path:
        """The page of a finished training: its curves, scores and slices."""
        return self.run_dir / "index.html"

    @property
    def lock_file(self) -> Path:
        """The file whose lock the parent of the training process holds."""
        return self.run_dir / "lock"


def image_name(case_id: str, channel: int = 0, ending: str = FILE_ENDING) -> str:
    """Return the file name of a channel of a case, as nnU-Net reads it."""
    return f"{case_id}_{channel:04d}{ending}"


def trainer_in(word: str) -> str:
    """Return the trainer of ``TRAINER__PLANS``; empty for a model of ours."""
    trainer, between, _ = word.partition(BETWEEN)
    return trainer if between else ""


def images_by_case(folder: Path, ending: str = FILE_ENDING) -> dict[str, list[Path]]:
    """Return the images of every case in a folder, in the order of their channels."""
    cases: dict[str, list[Path]] = {}
    for file in sorted(folder.glob(f"*_[0-9][0-9][0-9][0-9]{ending}")):
        cases.setdefault(file.name[: -len(f"_0000{ending}")], []).append(file)
    return cases


ENGINE_FILE = "engine.json"
"""Beside predicted labelmaps, if OpenVINO was asked for: what computed them."""


def agreement_file(folder: Path, case_id: str) -> Path:
    """Return the file beside a predicted labelmap that says how sure the model is."""
    return folder / f"{case_id}.agreement.json"


def dataset_folder_name(spec: DatasetSpec) -> str:
    """Return nnU-Net's folder name of a dataset."""
    return f"Dataset{spec.number:03d}_{spec.name}"


def number_of(dataset: str) -> int:
    """Return the number in a dataset's full name."""
    match = DATASET_FOLDER.fullmatch(dataset)
    if match is None:
        raise UsageError(f"{dataset!r} is no dataset name such as Dataset001_Tibia.")
    return int(match[1])
