"""The raw dataset and its splits: checked by us before nnU-Net sees them.

nnU-Net's own check passes a label that lies 5 mm beside its image, and a truncated
file (`docs/explanations/nnunet.md`); ours does not. Its splits know no patients and
need five cases; ours keep a patient's scans together and work with two.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from nnunet_bridge.core.errors import BridgeError, InputError
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.formats.labels_file import read_label_table
from nnunet_bridge.formats.nifti import read_labelmap, read_volume
from nnunet_bridge.nnunet.names import FILE_ENDING

Splits: TypeAlias = list[dict[str, list[str]]]

FOLDS = 5
SPLIT_SEED = 12345


@dataclass(frozen=True, slots=True)
class RawDataset:
    """A raw dataset on disk, as its `dataset.json` describes it."""

    folder: Path
    labels: LabelTable
    channels: tuple[str, ...]

    @classmethod
    def open(cls, folder: Path) -> RawDataset:
        """Read ``dataset.json``.

        Raises
        ------
        InputError
            If it is missing or not one that nnU-Net would take.
        """
        file = folder / "dataset.json"
        if not file.is_file():
            raise InputError(f"{file} is missing: run `convert` first.")
        labels = read_label_table(file)
        try:
            channels = tuple(read_json(file)["channel_names"].values())
        except (KeyError, AttributeError) as error:
            raise InputError(f"{file} names no channels (`channel_names`).") from error
        return cls(folder, labels, channels)

    def training_cases(self) -> list[str]:
        """Return the ids of the cases that have a label for training."""
        return _ids(self.folder / "labelsTr")

    def test_cases(self) -> list[str]:
        """Return the ids of the cases kept for testing, with labels or without."""
        return sorted(
            {_without_channel(name) for name in _ids(self.folder / "imagesTs")}
        )

    def image_files(self, case: str, part: str) -> list[Path]:
        """Return one file a channel; `part` is ``Tr`` or ``Ts``."""
        folder = self.folder / f"images{part}"
        return [
            folder / f"{case}_{channel:04d}{FILE_ENDING}"
            for channel in range(len(self.channels))
        ]

    def label_file(self, case: str, part: str) -> Path:
        """Return the labelmap of a case; `part` is ``Tr`` or ``Ts``."""
        return self.folder / f"labels{part}" / f"{case}{FILE_ENDING}"

    def check(self) -> None:
        """Refuse a dataset that nnU-Net would train on and should not (FAULTS N01).

        Raises
        ------
        InputError
            With every fault found, one a line.
        """
        cases = self.training_cases()
        faults = [] if cases else [f"{self.folder}/labelsTr holds no label."]
        images = {_without_channel(name) for name in _ids(self.folder / "imagesTr")}
        faults += [
            f"{case}: its label has no image." for case in cases if case not in images
        ]
        faults += [
            f"{case}: its image has no label." for case in sorted(images - set(cases))
        ]
        for case in set(cases) & images:
            faults += self._faults_of(case)
        if faults:
            raise InputError(
                f"{self.folder.name} cannot be planned:\n" + "\n".join(sorted(faults)),
                code="N01",
            )

    def _faults_of(self, case: str) -> list[str]:
        try:
            label = read_labelmap(self.label_file(case, "Tr"), self.labels)
            for file in self.image_files(case, "Tr"):
                grid = read_volume(file).grid
                if grid.shape != label.grid.shape:
                    sizes = f"{grid.shape} voxels, its label {label.grid.shape}"
                    return [f"{case}: its image has {sizes}."]
                if not grid.matches(label.grid):
                    apart_mm = grid.displacement_mm(label.grid)
                    return [f"{case}: image and label lie {apart_mm:.3f} mm apart."]
        except BridgeError as error:
            return [f"{case}: {error}"]
        return []


def patient_splits(patients: Mapping[str, str], *, seed: int = SPLIT_SEED) -> Splits:
    """Return a cross-validation in which no patient is on both sides of a fold.

    Parameters
    ----------
    patients : mapping
        Case id to patient; the cases to split.
    seed : int
        The same seed and cases give the same splits.

    Returns
    -------
    splits : list of dict
        At most five, one for each patient if there are fewer; ``train`` and ``val``
        hold sorted case ids. Every case is validated exactly once.

    Raises
    ------
    InputError
        If all cases are of one patient.

    Examples
    --------
    >>> patient_splits({"a": "p", "b": "q", "c": "p"})
    [{'train': ['b'], 'val': ['a', 'c']}, {'train': ['a', 'c'], 'val': ['b']}]
    """
    cases_of: dict[str, list[str]] = defaultdict(list)
    for case in sorted(patients):
        cases_of[patients[case]].append(case)
    if len(cases_of) < 2:  # noqa: PLR2004 - one side to train on, one to validate
        raise InputError(
            f"A cross-validation needs two patients; there is {len(cases_of)}. Convert "
            "more patients, or train with `-f all` (which validates nothing)."
        )
    order = sorted(cases_of)
    random.Random(seed).shuffle(order)  # noqa: S311 - repeatable, not secret
    order.sort(key=lambda patient: -len(cases_of[patient]))
    folds: list[list[str]] = [[] for _ in range(min(FOLDS, len(order)))]
    for patient in order:
        min(folds, key=len).extend(cases_of[patient])
    return [
        {
            "train": sorted(case for case in patients if case not in fold),
            "val": sorted(fold),
        }
        for fold in folds
    ]


def _ids(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(
        entry.name.removesuffix(FILE_ENDING)
        for entry in folder.iterdir()
        if entry.name.endswith(FILE_ENDING) and not entry.name.startswith(".")
    )


def _without_channel(name: str) -> str:
    return name[: -len("_0000")]
