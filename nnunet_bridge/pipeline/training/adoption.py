"""Plans, data and splits in the planning folder that `plan` did not write (FAULTS N11).

Examples are plans made or edited by hand, data that nnU-Net's own commands
preprocessed, and the splits of finished runs. Planning adopts them if they are complete
and belong to the present cases, else it refuses. Only ``--force`` replaces them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import some_of
from nnunet_bridge.formats.files import read_json, readable_object, sha256_of
from nnunet_bridge.nnunet import planned
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.models import ModelFolder, judged
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.nnunet.plans import PLANNERS, resolved
from nnunet_bridge.nnunet.runs import can_resume, known_runs
from nnunet_bridge.nnunet.splits import cases_of, read_splits, splits_in


@dataclass(slots=True)
class Adoption:
    """The content of the planning folder: what is adopted, and what is refused."""

    dataset: Dataset
    patients: Mapping[str, str]  # training case -> patient
    faults: list[str] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    """Names of files and folders that stay as they are."""

    warnings: list[str] = field(default_factory=list)

    def extended(
        self, known: planned.Planned, wanted: Mapping[str, Sequence[str]]
    ) -> planned.Planned:
        """Return the record with everything wanted that is there and not on it.

        `known` holds what still holds of the present state of the dataset.
        """
        for word, names in wanted.items():
            file = self.dataset.plans_file(PLANNERS[word].plans)
            if word in known.planners or not planned.wrote(self.dataset, known, file):
                known = self._with_planner(known, word, names)
            else:
                usual = planned.usual_identifiers(file.stem, names)
                self._refuse_foreign(known, usual - known.preprocessed.keys())
        if self.adopted:
            self._compare_with_cases()
        return known

    def keep_splits(self) -> None:
        """Note the splits that are there; refuse those of other cases."""
        file = self.dataset.splits_file
        splits = splits_in(file)
        strangers = sorted(cases_of(splits or []) - self.patients.keys())
        if splits is None:
            self.faults.append(f"{file.name} holds no splits.")
        elif strangers:
            self.faults.append(f"{file.name} names {some_of(strangers)}, not a case.")
        else:
            self.adopted.append(file.name)
            try:
                read_splits(file, self.patients)
            except InputError as error:
                self.warnings.append(str(error))

    def refuse_replacing(
        self, known: planned.Planned | None, wanted: Mapping[str, Sequence[str]]
    ) -> None:
        """Refuse plans and data that planning would replace and did not write."""
        for word, names in wanted.items():
            file = self.dataset.plans_file(PLANNERS[word].plans)
            if not planned.wrote(self.dataset, known, file):
                self.faults.append(f"{file.name} was not written by `plan`.")
            usual = planned.usual_identifiers(file.stem, names)
            self._refuse_foreign(known, usual)

    def refuse_other_splits(
        self, known: planned.Planned | None, *, asked: bool
    ) -> None:
        """Refuse to replace splits of other origin, or those of finished runs.

        Splits that `plan` wrote are replaced where others are `asked` for.
        """
        file = self.dataset.splits_file
        if not planned.wrote(self.dataset, known, file):
            self.faults.append(f"{file.name} was not written by `plan`.")
            return
        states = known_runs(self.dataset)
        runs = [state for state in states if can_resume(state.run)]
        if runs and file.exists() and not asked:
            trained = some_of([state.name for state in runs])
            self.faults.append(f"{file.name} holds the folds of {trained}.")

    def require_nothing_lost(self) -> None:
        """Raise an `InputError` with every fault (N11)."""
        if self.faults:
            name = self.dataset.name
            raise InputError(
                f"Planning {name} would replace work that is not its own:\n"
                + "\n".join(dict.fromkeys(self.faults))
                + f"\nNothing was changed. Move these away from "
                f"{self.dataset.planned_dir}, or replace them with `nnunet-bridge plan "
                f"{name} --force`.",
                code="N11",
            )

    def report(self) -> list[str]:
        """Return the warnings, and the sentence on what was adopted."""
        if not self.adopted:
            return self.warnings
        names = ", ".join(dict.fromkeys(self.adopted))
        sentence = f"Adopted as they are, not written by `plan`: {names}."
        return [sentence, *self.warnings]

    def _with_planner(
        self, known: planned.Planned, word: str, names: Sequence[str]
    ) -> planned.Planned:
        """Add the plans of a planner, and its data that are whole."""
        file = self.dataset.plans_file(PLANNERS[word].plans)
        content, _ = readable_object(file)
        if not _is_described(content, names):
            self.faults.append(f"{file.name} is damaged, or of an older nnU-Net.")
            return known
        judged(file, ModelFolder(self.dataset.name, "", file.stem, ""))
        if word not in known.planners:
            self.adopted.append(file.name)
        have = list(known.planners.get(word, ()))
        for name in names:
            if name in have or name not in content["configurations"]:
                continue
            identifier = str(resolved(content, name)["data_identifier"])
            if identifier not in known.preprocessed:
                folder = self.dataset.planned_dir / identifier
                if planned.wrote(self.dataset, known, folder) or not _files(folder):
                    continue
                if not self._is_whole(folder):
                    continue
                self.adopted.append(identifier)
                present = planned.preprocessed_now(self.dataset, identifier, {})
                data = {**known.preprocessed, identifier: present}
                adopted = (*known.adopted, identifier)
                known = replace(known, preprocessed=data, adopted=adopted)
            have.append(name)
        return replace(known, planners={**known.planners, word: tuple(have)})

    def _is_whole(self, folder: Path) -> bool:
        """Whether a folder holds exactly the present cases; note what differs."""
        cases = {file.name.removesuffix(".pkl") for file in folder.glob("*.pkl")}
        lost = planned.unfinished_cases(folder, sorted(self.patients))
        strangers = sorted(cases - self.patients.keys())
        if lost:
            self.faults.append(f"{folder.name} lacks {some_of(lost)}.")
        if strangers:
            self.faults.append(f"{folder.name} holds {some_of(strangers)}, not a case.")
        return not lost and not strangers

    def _compare_with_cases(self) -> None:
        """Refuse plans and data of other labels than those of the dataset."""
        raw, planned_dir = (
            RawDataset.open(self.dataset.raw_dir),
            self.dataset.planned_dir,
        )
        known, _ = readable_object(planned_dir / "dataset.json")
        labels = read_json(raw.folder / "dataset.json")["labels"]
        if known and known.get("labels") != labels:
            self.faults.append("Its dataset.json has other labels than the dataset.")
        copies = planned_dir / "gt_segmentations"
        changed = [
            case
            for case in sorted(self.patients)
            if (copy := copies / f"{case}{raw.ending}").is_file()
            and sha256_of(copy) != sha256_of(raw.label_file(case, "Tr"))
        ]
        if changed:
            self.faults.append(f"The label of {some_of(changed)} has changed since.")

    def _refuse_foreign(
        self, known: planned.Planned | None, identifiers: set[str]
    ) -> None:
        for name in sorted(identifiers):
            folder = self.dataset.planned_dir / name
            if _files(folder) and not planned.wrote(self.dataset, known, folder):
                self.faults.append(
                    f"{name}/ was not written by `plan`, or was changed."
                )


def _is_described(content: JsonObject, names: Sequence[str]) -> bool:
    """Whether plans describe their networks as this version of nnU-Net does."""
    try:
        held = [resolved(content, n) for n in names if n in content["configurations"]]
        return all(
            each["data_identifier"]
            and each["architecture"]["arch_kwargs"].keys()
            >= {"n_stages", "features_per_stage"}
            for each in held
        )
    except (KeyError, TypeError, AttributeError, RecursionError):
        return False


def _files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
