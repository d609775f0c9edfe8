"""The raw dataset, and our check of it before nnU-Net reads it.

nnU-Net's own check accepts a label that lies 5 mm beside its image, and a truncated
file (`docs/explanations/nnunet.md`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.errors import BridgeError, GeometryError, InputError
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.core.units import counted
from nnunet_bridge.formats.channels import Channels
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.formats.images import ENDINGS, read_labelmap, read_volume
from nnunet_bridge.formats.labels_file import PARTLY_DRAWN, read_label_table
from nnunet_bridge.nnunet.names import FILE_ENDING, image_name
from nnunet_bridge.ops.occupancy import label_boxes


@dataclass(frozen=True, slots=True)
class RawDataset:
    """A raw dataset on the disk, as its `dataset.json` describes it."""

    folder: Path
    labels: LabelTable
    channels: tuple[str, ...]
    ending: str = FILE_ENDING  # of the names of its files

    @classmethod
    def open(cls, folder: Path, *, regions: bool = False) -> RawDataset:
        """Read ``dataset.json``, which may have `regions` only where they are known.

        Raises `InputError` if it is missing, nnU-Net would not accept it, or its files
        are of a format that is not read.
        """
        file = folder / "dataset.json"
        if not file.is_file():
            raise InputError(f"{file} is missing: run `convert` first.")
        labels = read_label_table(file, regions=regions)
        described = read_json(file)
        channels = Channels.described_by(described).names
        ending = described.get("file_ending", FILE_ENDING)
        if ending not in ENDINGS:
            raise InputError(
                f"{file}: files that end in {ending} are not read, only "
                f"{', '.join(ENDINGS)} (`file_ending`): use nnU-Net's own commands."
            )
        return cls(folder, labels, channels, ending)

    def training_cases(self) -> list[str]:
        """Return the ids of the training cases."""
        return self._ids("labelsTr")

    def test_cases(self) -> list[str]:
        """Return the ids of the test cases, with or without labels."""
        return sorted(self._cases_of_images("imagesTs"))

    def image_files(self, case: str, part: str) -> list[Path]:
        """Return the file of every channel; `part` is ``Tr`` or ``Ts``."""
        folder = self.folder / f"images{part}"
        channels = range(len(self.channels))
        return [folder / image_name(case, number, self.ending) for number in channels]

    def label_file(self, case: str, part: str) -> Path:
        """Return the labelmap of a case; `part` is ``Tr`` or ``Ts``."""
        return self.folder / f"labels{part}" / f"{case}{self.ending}"

    def training_files(self) -> list[Path]:
        """Return the images and labels of the training cases, sorted in each folder."""
        folders = self.folder / "imagesTr", self.folder / "labelsTr"
        return [f for each in folders for f in sorted(each.glob(f"*{self.ending}"))]

    def check(self) -> dict[str, frozenset[str]]:
        """Return the structures of every training case; refuse a wrong dataset.

        Raises `InputError` with every fault, one a line (FAULTS N01).
        """
        cases = self.training_cases()
        faults = [] if cases else [f"{self.folder}/labelsTr holds no label."]
        images = self._cases_of_images("imagesTr")
        labels = set(cases)
        faults += [f"{case}: its label has no image." for case in labels - images]
        faults += [f"{case}: its image has no label." for case in images - labels]
        faults += self._faults_of_numbers(cases)
        holds: dict[str, frozenset[str]] = {}
        for case in sorted(labels & images):
            try:
                holds[case] = self._structures_of(case)
            except BridgeError as error:
                faults.append(f"{case}: {error}")
        if faults:
            raise InputError(
                f"{self.folder.name} cannot be planned:\n" + "\n".join(sorted(faults)),
                code="N01",
            )
        return holds

    def drawn(self) -> dict[str, frozenset[str]]:
        """Return the structures that were drawn in every training case.

        Empty if no case is partly drawn; then all were drawn in all.
        """
        partly, names = self.labels.partly_drawn, frozenset(self.labels.names)
        cases = self.training_cases()
        if not partly.keys() & set(cases):
            return {}
        open_in = {case: one.not_drawn for case, one in partly.items()}
        return {case: names - open_in.get(case, frozenset()) for case in cases}

    def warnings_of_drawn(
        self,
        holds: Mapping[str, Collection[str]],
        patients: Mapping[str, str],
        folds: int,
    ) -> Iterator[str]:
        """Yield a warning of every structure that some folds cannot validate (N12).

        `holds` maps the training cases to the structures of their labels. Raises
        `InputError` if a structure was drawn in none.
        """
        drawn = self.drawn()
        for name in self.labels.names if drawn else ():
            cases = [case for case in drawn if name in drawn[case]]
            found = {patients[case] for case in cases if name in holds[case]}
            if len(cases) == len(drawn):
                continue
            if not found:
                raise InputError(
                    f"{name} was drawn in no training case, so nothing can learn it: "
                    "draw it in two patients or more, or remove the label.",
                    code="N12",
                )
            if len(found) < folds:
                yield (
                    f"[N12] {name} was drawn in {counted(len(found), 'patient')}, and "
                    f"there are {folds} folds: not every fold can validate it. Draw it "
                    "in more, or plan with fewer --folds."
                )

    def _faults_of_numbers(self, cases: list[str]) -> list[str]:
        """Return the differences between ``dataset.json`` and the folders."""
        faults = []
        described = read_json(self.folder / "dataset.json")
        if "dataset" in described:
            faults.append(
                "dataset.json names files itself (`dataset`): remove the entry."
            )
        announced = described.get("numTraining")
        if announced != len(cases):
            faults.append(
                f"dataset.json announces {announced} training cases (`numTraining`), "
                f"the folders hold {len(cases)}."
            )
        for case in cases:
            files = self.image_files(case, "Tr")
            lacking = [file.name for file in files if not file.is_file()]
            if lacking and len(lacking) < len(files):
                faults.append(f"{case}: {', '.join(lacking)} is missing.")
        return faults

    def _structures_of(self, case: str) -> frozenset[str]:
        """Return what the label of a case holds, if its images lie where it lies."""
        label = read_labelmap(self.label_file(case, "Tr"), self.labels)
        for file in self.image_files(case, "Tr"):
            grid = read_volume(file).grid
            if grid.shape != label.grid.shape:
                raise GeometryError(
                    f"its image has {grid.shape} voxels, its label {label.grid.shape}."
                )
            if not grid.matches(label.grid):
                apart_mm = grid.displacement_mm(label.grid)
                raise GeometryError(f"image and label lie {apart_mm:.3f} mm apart.")
        boxes = zip(self.labels, label_boxes(label), strict=True)
        held = frozenset(one.name for one, box in boxes if box is not None)
        partly = self.labels.partly_drawn.get(case)
        if partly and (both := held & partly.not_drawn):
            named = " and ".join(sorted(both))
            raise InputError(
                f"{PARTLY_DRAWN} says {named} not drawn, its label has it."
            )
        return held

    def _ids(self, name: str) -> list[str]:
        folder = self.folder / name
        if not folder.is_dir():
            return []
        return sorted(
            entry.name.removesuffix(self.ending)
            for entry in folder.iterdir()
            if entry.name.endswith(self.ending) and not entry.name.startswith(".")
        )

    def _cases_of_images(self, name: str) -> set[str]:
        return {image[: -len("_0000")] for image in self._ids(name)}
