"""The record `planned.json`: what is planned, for which state of a dataset."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from nnunet_bridge.core.errors import SecurityError
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.records import to_record
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import PlannerName
from nnunet_bridge.formats.files import read_json, read_record, sha256_of, write_json
from nnunet_bridge.formats.kept import Content, contents_of
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.nnunet.plans import CASCADE, LOWRES, PLANNERS, STOCK_PLANS, resolved

Contents: TypeAlias = dict[str, Content]


@dataclass(frozen=True, slots=True)
class Planned:
    """Plans and preprocessed data of a dataset, or why planning failed."""

    dataset_state: str  # hash of the training data
    planners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Word of a planner -> the configurations that are preprocessed."""

    own_arguments: tuple[str, ...] = ()  # nnU-Net's own arguments, for all planners
    preprocessed: Mapping[str, Contents] = field(default_factory=dict)
    """nnU-Net's ``data_identifier`` -> contents of the files of that folder."""

    failure: str = ""  # why the last call failed; empty if it succeeded
    files: Mapping[str, str] | None = None
    """Plans and splits that planning wrote -> SHA-256; empty for a file or folder that
    a call without an end may have written. None in records of earlier versions."""

    adopted: tuple[str, ...] = ()
    """Preprocessed data that planning found and did not write."""

    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        """Refuse names that are paths: their folders may be removed (S10)."""
        for name in (*self.preprocessed, *(self.files or ()), *self.adopted):
            if Path(name).name != name or name in ("", ".."):
                text = (
                    f"planned.json is refused: {quoted(name)} is not the name of a file"
                )
                raise SecurityError(f"{text}: remove it and plan again.", code="S10")

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

    @property
    def pending(self) -> frozenset[str]:
        """Files and folders that a call without an end may have written."""
        return frozenset(name for name, sha in (self.files or {}).items() if not sha)


def wrote(dataset: Dataset, known: Planned | None, place: Path) -> bool:
    """Whether planning wrote what a file or folder holds now; also if it holds nothing.

    For a record of an earlier version, files that are older than the record are ours.
    """
    if not place.exists():
        return True
    if known is None or place.name in known.adopted:
        return False
    if place.name in known.pending:
        return True
    if place.is_dir():
        then = known.preprocessed.get(place.name, {})
        now = preprocessed_now(dataset, place.name, then)
        return all(
            name in then and then[name]["sha256"] == content["sha256"]
            for name, content in now.items()
        )
    if known.files is None:
        return place.stat().st_mtime_ns <= planned_file(dataset).stat().st_mtime_ns
    return known.files.get(place.name) == sha256_of(place)


def with_files(dataset: Dataset, known: Planned) -> Planned:
    """Return a record that names its plans and splits, also if it is an older one."""
    if known.files is not None:
        return known
    plans = [dataset.plans_file(PLANNERS[word].plans) for word in known.planners]
    ours = [file for file in (*plans, dataset.splits_file) if file.exists()]
    ours = [file for file in ours if wrote(dataset, known, file)]
    return replace(known, files={file.name: sha256_of(file) for file in ours})


def without_lost(dataset: Dataset, known: Planned) -> Planned:
    """Return the record without the configurations whose data were removed."""
    held = known.preprocessed.items()
    kept = {i: c for i, c in held if not c or (dataset.planned_dir / i).is_dir()}
    lost = known.preprocessed.keys() - kept.keys()

    def left(word: str, names: tuple[str, ...]) -> tuple[str, ...]:
        plans = PLANNERS[word].plans
        return tuple(n for n in names if identifier_of(dataset, plans, n) not in lost)

    if not lost:
        return known
    planners = {word: left(word, names) for word, names in known.planners.items()}
    adopted = tuple(name for name in known.adopted if name not in lost)
    return replace(known, planners=planners, preprocessed=kept, adopted=adopted)


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


def usual_identifiers(plans: str, configurations: Iterable[str]) -> set[str]:
    """Return the folders into which nnU-Net's planners let it preprocess.

    Planners share the data of ``2d`` and ``3d_fullres``.
    """
    return {
        f"{name}_{each}" for name in (STOCK_PLANS, plans) for each in configurations
    }


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
