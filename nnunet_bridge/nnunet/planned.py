"""The record `planned.json`: what is planned, for which state of a dataset."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from nnunet_bridge.core.records import to_record
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import PlannerName
from nnunet_bridge.formats.files import read_json, read_record, write_json
from nnunet_bridge.formats.kept import Content, contents_of
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.nnunet.plans import CASCADE, LOWRES, PLANNERS, resolved

Contents: TypeAlias = dict[str, Content]


@dataclass(frozen=True, slots=True)
class Planned:
    """Plans and preprocessed data of a dataset, or why planning failed."""

    dataset_state: str
    """Hash of the training data."""

    planners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Word of a planner -> the configurations that are preprocessed."""

    own_arguments: tuple[str, ...] = ()
    """nnU-Net's own arguments, for all planners."""

    preprocessed: Mapping[str, Contents] = field(default_factory=dict)
    """nnU-Net's ``data_identifier`` -> contents of the files of that folder."""

    failure: str = ""
    """Why the last call failed; empty if it succeeded."""

    schema: Literal[1] = 1

    @classmethod
    def read(cls, dataset: Dataset) -> Planned | None:
        """Return the record; None if nothing was ever planned.

        Raises `InputError` if the record is damaged, or of a newer version.
        """
        file = planned_file(dataset)
        if not file.exists():
            return None
        way_out = f"plan {dataset} again with --force"
        return read_record(file, cls, way_out, _in_todays_form)

    def write(self, dataset: Dataset) -> None:
        """Write the record."""
        write_json(planned_file(dataset), to_record(self))

    def lacks(self, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
        """Return what is wanted and missing, without planners that lack nothing.

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


def _in_todays_form(known: JsonObject) -> JsonObject:
    """Return a record, also one of the time with one planner, in today's form."""
    if "configurations" not in known:
        return known
    files: dict[str, Contents] = {}
    for contents in known["preprocessed"].values():
        for name, content in contents.items():
            files.setdefault(name.partition("/")[0], {})[name] = content
    planners = {PlannerName.DEFAULT: known["configurations"]}
    state = known["dataset_state"]
    return {"dataset_state": state, "planners": planners, "preprocessed": files}


def planned_file(dataset: Dataset) -> Path:
    """Return the file of the record."""
    return dataset.record_dir / "planned.json"


def with_previous_stages(configurations: tuple[str, ...]) -> tuple[str, ...]:
    """Return the configurations with their first stages, in nnU-Net's order.

    Examples
    --------
    >>> ", ".join(with_previous_stages(("3d_cascade_fullres", "2d")))
    '3d_lowres, 3d_cascade_fullres, 2d'
    """
    stages = ([LOWRES, name] if name == CASCADE else [name] for name in configurations)
    return tuple(dict.fromkeys(itertools.chain.from_iterable(stages)))


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
    """Return the cases that lack a file in the folder of one ``data_identifier``."""

    def finished(case: str) -> bool:
        files = (f"{case}{part}" for part in (".b2nd", "_seg.b2nd", ".pkl"))
        return all((folder / file).exists() for file in files)

    return [case for case in cases if not finished(case)]
