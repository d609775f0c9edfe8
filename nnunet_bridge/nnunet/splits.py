"""Cross-validation by patient: the training and validation cases of each fold.

nnU-Net splits by case and needs five of them. Here all scans of a patient are in one
fold, two patients are enough, and every training part has each structure that two
patients have.
"""

import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.formats.files import read_json

Splits: TypeAlias = list[dict[str, list[str]]]
"""Content of nnU-Net's ``splits_final.json``: ``train`` and ``val`` of every fold."""

FOLDS = 5
SPLIT_SEED = 12345


@dataclass(frozen=True, slots=True)
class Splitting:
    """The way to split a dataset."""

    folds: int = FOLDS  # most folds; 0 for one a patient
    seed: int = SPLIT_SEED
    file: Path | None = None  # splits of the user, instead of `folds` and `seed`

    def splits(
        self,
        patients: Mapping[str, str],
        holds: Mapping[str, Collection[str]],
        drawn: Mapping[str, Collection[str]] | None = None,
    ) -> Splits:
        """Return the folds; see `patient_splits` and `read_splits`."""
        if self.file is not None:
            return read_splits(self.file, patients)
        how: dict[str, int] = {"folds": self.folds, "seed": self.seed}
        return patient_splits(patients, holds, drawn, **how)


def patient_splits(
    patients: Mapping[str, str],
    holds: Mapping[str, Collection[str]] | None = None,
    drawn: Mapping[str, Collection[str]] | None = None,
    *,
    folds: int = FOLDS,
    seed: int = SPLIT_SEED,
) -> Splits:
    """Return a cross-validation in which no patient is on both sides of a fold.

    Every case is validated once; case ids are sorted. The same `seed` and cases give
    the same splits.

    Parameters
    ----------
    patients : mapping
        Case id to patient.
    holds : mapping, optional
        Case id to the structures of its reference. No fold validates all patients that
        have a structure, if there are two or more, so that every training part has it.
    drawn : mapping, optional
        Case id to the structures that were drawn, where some cases are partly drawn:
        each structure is spread over the folds.
    folds : int
        Most folds; 0 for one a patient.

    Raises `InputError` if all cases are of one patient.

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
    groups: list[list[str]] = [[] for _ in range(min(folds or len(order), len(order)))]
    with_it = _patients_with(cases_of, drawn or {})
    for patient, structure in _rarest_first(order, with_it):
        own = with_it.get(structure, set())
        smallest = min(
            groups,
            key=lambda g: (len(own & set(g)), sum(len(cases_of[p]) for p in g)),
        )
        smallest.append(patient)
    _spread(groups, _holders(cases_of, holds or {}), cases_of)
    validated = [{case for who in group for case in cases_of[who]} for group in groups]
    every = set(patients)
    return [{"train": sorted(every - val), "val": sorted(val)} for val in validated]


def _patients_with(
    cases_of: Mapping[str, list[str]], structures_of: Mapping[str, Collection[str]]
) -> dict[str, set[str]]:
    """Return the patients of every structure."""
    patients: dict[str, set[str]] = defaultdict(set)
    for patient, cases in cases_of.items():
        for case in cases:
            for structure in structures_of.get(case, ()):
                patients[structure].add(patient)
    return patients


def _rarest_first(
    order: Sequence[str], with_it: Mapping[str, set[str]]
) -> Iterator[tuple[str, str]]:
    """Yield every patient and the structure by which to place it, empty for none.

    The structure that the fewest of the patients still to be placed have is dealt out
    first (Sechidis et al., *On the Stratification of Multi-Label Data*, 2011).
    """
    left = list(order)
    while left:
        counts = {
            name: len(found.intersection(left)) for name, found in with_it.items()
        }
        some = [name for name in sorted(counts) if counts[name]]
        rarest = min(some, key=counts.__getitem__, default="")
        for patient in [p for p in left if not rarest or p in with_it[rarest]]:
            left.remove(patient)
            yield patient, rarest


def _holders(
    cases_of: Mapping[str, list[str]], holds: Mapping[str, Collection[str]]
) -> list[frozenset[str]]:
    """Return the patients of every structure that several have, rare ones first."""
    patients = _patients_with(cases_of, holds)
    several = {frozenset(found) for found in patients.values() if len(found) > 1}
    return sorted(several, key=lambda found: (len(found), sorted(found)))


def _spread(
    groups: list[list[str]],
    holders: list[frozenset[str]],
    cases_of: Mapping[str, list[str]],
) -> None:
    """Exchange patients until no fold validates all holders of a structure.

    Of the exchanges that do not gather another structure instead, take the one that
    changes the sizes of the folds least; without any, leave the folds as they are.
    """
    for together in holders:
        home = next((group for group in groups if together <= set(group)), None)
        if home is None:
            continue
        exchanges = [
            (abs(len(cases_of[one]) - len(cases_of[other])), one, other, group)
            for one in sorted(together)
            for group in groups
            if group is not home
            for other in group
        ]
        for _, one, other, group in sorted(exchanges, key=lambda e: e[:3]):
            before = _together((home, group), holders)
            _exchange(home, one, group, other)
            if _together((home, group), holders) < before:
                break
            _exchange(home, other, group, one)


def _together(groups: Collection[list[str]], holders: list[frozenset[str]]) -> int:
    """Return the number of structures with all holders in one of the groups."""
    return sum(found <= set(group) for group in groups for found in holders)


def _exchange(home: list[str], one: str, group: list[str], other: str) -> None:
    home[home.index(one)], group[group.index(other)] = other, one


def read_splits(file: Path, patients: Mapping[str, str]) -> Splits:
    """Return the splits of a file in nnU-Net's format, once they are fair.

    Raises `InputError` if a fold names an unknown case, lacks a side, or has a case or
    a patient on both sides; with every fault, one a line.
    """
    try:
        splits = read_json(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as JSON: {error}") from error
    if not _has_the_form(splits):
        raise InputError(
            f'{file} holds no splits: expected [{{"train": ["case", ...], "val": '
            "[...]}, ...], a fold each."
        )
    faults: list[str] = []
    for number, fold in enumerate(splits):
        faults += [f"fold {number}: {fault}" for fault in _faults(fold, patients)]
    if faults:
        raise InputError(f"{file} has unfair splits:\n" + "\n".join(faults))
    return [{side: sorted(fold[side]) for side in ("train", "val")} for fold in splits]


def splits_in(file: Path) -> Splits | None:
    """Return the content of a file of splits; None if it holds none."""
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return None
    return content if _has_the_form(content) else None


def cases_of(splits: Splits) -> set[str]:
    """Return every case of the folds."""
    return {case for fold in splits for side in fold.values() for case in side}


def splits_fit(file: Path, patients: Mapping[str, str]) -> bool:
    """Whether the splits in a file are fair and of exactly these cases."""
    try:
        return cases_of(read_splits(file, patients)) == set(patients)
    except InputError:
        return False


def _has_the_form(splits: object) -> bool:
    from pydantic import TypeAdapter, ValidationError

    try:
        folds = TypeAdapter(Splits).validate_python(splits, strict=True)
    except ValidationError:
        return False
    return bool(folds) and all(set(fold) == {"train", "val"} for fold in folds)


def _faults(fold: Mapping[str, list[str]], patients: Mapping[str, str]) -> list[str]:
    """Return the faults of one fold."""
    train, validated = set(fold["train"]), set(fold["val"])
    faults = [f"`{side}` names no case." for side in fold if not fold[side]]
    if unknown := sorted((train | validated) - set(patients)):
        faults.append(f"there is no case {', '.join(unknown)}.")
    if both := sorted(train & validated):
        faults.append(f"{', '.join(both)} is trained on and validated.")
    who = {patients[case]: case for case in sorted(train & set(patients))}
    others = sorted((validated & set(patients)) - train)
    leaks = ((case, who[patients[case]]) for case in others if patients[case] in who)
    same = "{} is of the same patient as {}, which is trained on."
    return [*faults, *(same.format(*leak) for leak in leaks)]
