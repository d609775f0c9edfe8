"""What was planned for which state of a dataset: the record `planned.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import PlannerName
from nnunet_bridge.formats.files import read_json, write_json
from nnunet_bridge.formats.kept import Content, contents_of
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.nnunet.plans import CASCADE, LOWRES, PLANNERS, resolved

Contents: TypeAlias = dict[str, Content]


@dataclass(frozen=True, slots=True)
class Planned:
    """What planning and preprocessing have left behind, or why they failed."""

    dataset_state: str
    """Hash of the training data that it holds for."""

    planners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Word of a planner -> the configurations that are preprocessed."""

    own_arguments: tuple[str, ...] = ()
    """nnU-Net's own arguments, of all its planners."""

    preprocessed: Mapping[str, Contents] = field(default_factory=dict)
    """nnU-Net's ``data_identifier`` -> what the files of that folder hold."""

    failure: str = ""
    """Why the last call failed; empty if it did not."""

    @classmethod
    def read(cls, dataset: Dataset) -> Planned | None:
        """Return what is recorded; None where nothing was ever planned."""
        file = planned_file(dataset)
        if not file.exists():
            return None
        known = read_json(file)
        if "configurations" in known:
            known = _of_one_planner(known)
        planners = {word: tuple(names) for word, names in known["planners"].items()}
        return cls(
            known["dataset_state"],
            planners,
            tuple(known["own_arguments"]),
            known["preprocessed"],
            known["failure"],
        )

    def write(self, dataset: Dataset) -> None:
        """Record it."""
        write_json(
            planned_file(dataset),
            {
                "dataset_state": self.dataset_state,
                "planners": {
                    word: list(names) for word, names in self.planners.items()
                },
                "own_arguments": list(self.own_arguments),
                "failure": self.failure,
                "preprocessed": dict(self.preprocessed),
            },
        )

    def lacks(self, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
        """Return what is wanted and not there; planners that lack nothing are left out.

        Examples
        --------
        >>> known = Planned("a", {"default": ("2d",)})
        >>> known.lacks({"default": ("2d", "3d_lowres")})
        {'default': ['3d_lowres']}
        """
        missing = {
            word: [name for name in names if name not in self.planners.get(word, ())]
            for word, names in wanted.items()
        }
        return {word: names for word, names in missing.items() if names}


def _of_one_planner(known: JsonObject) -> JsonObject:
    """Return a record of the time when there was one planner in today's form."""
    files: dict[str, Contents] = {}
    for contents in known["preprocessed"].values():
        for name, content in contents.items():
            files.setdefault(name.partition("/")[0], {})[name] = content
    return {
        "dataset_state": known["dataset_state"],
        "planners": {PlannerName.DEFAULT: known["configurations"]},
        "own_arguments": [],
        "preprocessed": files,
        "failure": "",
    }


def planned_file(dataset: Dataset) -> Path:
    """Return the file of the record."""
    return dataset.record_dir / "planned.json"


def with_previous_stages(configurations: tuple[str, ...]) -> tuple[str, ...]:
    """Return the configurations with those that they build upon, in nnU-Net's order.

    Examples
    --------
    >>> ", ".join(with_previous_stages(("3d_cascade_fullres", "2d")))
    '3d_lowres, 3d_cascade_fullres, 2d'
    """
    expanded: list[str] = []
    for name in configurations:
        expanded += [LOWRES, name] if name == CASCADE else [name]
    return tuple(dict.fromkeys(expanded))


def not_planned(
    dataset: Dataset, wanted: Mapping[str, tuple[str, ...]]
) -> dict[str, list[str]]:
    """Return which of the configurations the plans of a planner do not hold."""
    missing: dict[str, list[str]] = {}
    for word, names in wanted.items():
        file = dataset.plans_file(PLANNERS[word].plans)
        held = read_json(file)["configurations"] if file.exists() else names
        absent = [name for name in names if name not in held]
        if absent:
            missing[word] = absent
    return missing


def identifier_of(dataset: Dataset, plans: str, configuration: str) -> str:
    """Return the folder of the data from which a configuration is trained."""
    content = read_json(dataset.plans_file(plans))
    return str(resolved(content, configuration)["data_identifier"])


def preprocessed_now(dataset: Dataset, identifier: str, known: Contents) -> Contents:
    """Return what the preprocessed cases of a folder hold now."""
    folder = dataset.planned_dir
    return contents_of(sorted((folder / identifier).glob("*")), folder, known)


def unfinished_cases(folder: Path, cases: list[str]) -> list[str]:
    """Return the cases that lack one of their preprocessed files, in nnU-Net's order.

    Parameters
    ----------
    folder : Path
        Of one ``data_identifier``.
    cases : list of str
        In the order in which nnU-Net hands them to its workers.
    """
    parts = (".b2nd", "_seg.b2nd", ".pkl")
    return [
        case
        for case in cases
        if not all((folder / f"{case}{part}").exists() for part in parts)
    ]
