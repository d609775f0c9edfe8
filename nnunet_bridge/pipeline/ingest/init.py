"""Write the recipe and the case table of a study folder, from what lies in it.

`survey` looks through the folder, `draft` pairs what it found. Nothing is typed, and
nothing is hidden: the table notes each guess, the result lists each file that was not
placed.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_bridge.core.case_table import DRAWN_ROLES, Role, Split, TableRow
from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.progress import Progress
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import counted
from nnunet_bridge.formats.case_table import add_rows, read_case_table, write_case_table
from nnunet_bridge.formats.files import clear_os_errors, write_text
from nnunet_bridge.formats.recipe import read_recipe
from nnunet_bridge.formats.recipe_labels import toml_key
from nnunet_bridge.formats.vocabulary import read_vocabulary
from nnunet_bridge.nnunet.names import DATASET_FOLDER
from nnunet_bridge.ops.naming import transliterated, words_of
from nnunet_bridge.ops.pairing import Drawing, ScanNames, pair_all
from nnunet_bridge.ops.patients import name_patients
from nnunet_bridge.ops.vocabulary import Vocabulary
from nnunet_bridge.pipeline.ingest.draft import CASE_ID, Draft, Unknown, draft_rows
from nnunet_bridge.pipeline.ingest.survey import Survey, look_through

TABLE = "cases.csv"
_MOST_LISTED = 12
_HIGHEST_ID = 999


@dataclass(frozen=True, slots=True)
class InitSummary:
    """The content of a study, and the files that were written."""

    recipe_file: Path
    table_file: Path
    cases: tuple[JsonObject, ...]
    structures: tuple[str, ...]
    unknown: tuple[Unknown, ...]
    unused: tuple[tuple[str, str], ...]  # file, and why
    to_do: tuple[str, ...]  # what a person has to add, in sentences

    @property
    def exit_code(self) -> int:
        """0 if everything found its place, else 4."""
        return 4 if self.unused or self.to_do else 0

    def as_json(self) -> JsonObject:
        """Return the one object that `--json` prints."""
        return {
            "recipe": str(self.recipe_file),
            "table": str(self.table_file),
            "cases": list(self.cases),
            "structures": list(self.structures),
            "unknown": [
                {"name": one.name, "nearest": one.nearest, "file": one.where}
                for one in self.unknown
            ],
            "unused": [{"file": file, "reason": why} for file, why in self.unused],
        }

    def as_text(self) -> str:
        """Return the content of the study and the next step."""
        drawn = sum(case["masks"] > 0 for case in self.cases)
        tests = sum(case["split"] == "test" for case in self.cases)
        cases = f"{counted(len(self.cases), 'case')}, {drawn} with masks"
        lines = [
            f"{self.recipe_file} and {self.table_file}: {cases}, {tests} for tests."
        ]
        lines += [f"  structures: {', '.join(self.structures) or 'none is named'}"]
        held = Counter(name for case in self.cases for name in set(case["structures"]))
        lines += [
            f"  {name} is drawn in {held[name]} of {drawn} cases: state why with "
            "`state` in the table, or `missing` in the recipe"
            for name in self.structures
            if 0 < held[name] < drawn
        ]
        unknown = [
            f"unknown name: {one.name!r} of {one.where}"
            + (f"; taken as {one.nearest}" if one.nearest else "")
            for one in self.unknown
        ]
        lines += _listed(unknown)
        lines += _listed([f"not placed: {file}: {why}" for file, why in self.unused])
        lines += [f"  {sentence}" for sentence in self.to_do]
        lines.append(
            f"Read {self.table_file.name} (column `note`), correct it, then run "
            "`nnunet-bridge check` with the recipe."
        )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class InitOptions:
    """Where `init` writes, and over what."""

    out: Path
    update: bool = False  # add new patients to a table that is there
    force: bool = False
    datasets: tuple[Path, ...] = ()
    """Folders with datasets of nnU-Net, whose numbers are taken."""


def write_recipe(
    study: Path, options: InitOptions, *, progress: Progress | None = None
) -> InitSummary:
    """Write the recipe and the case table of a study.

    Raises `UsageError` if one of the files exists, unless `force` or `update` is set;
    `InputError` if the folder holds no images or no masks, or the folders in it are
    studies.
    """
    table = options.out.with_name(TABLE)
    if not study.is_dir():
        raise InputError(f"{study} is not a folder.")
    if options.update and options.out.is_file():
        table = read_recipe(options.out).case_table or table
    update = options.update and table.exists()
    there = [file for file in (options.out, table) if file.exists()]
    if there and not (update or options.force):
        how = "add new patients with --update, or write it anew with --force"
        raise UsageError(f"{there[0]} exists: name another folder with -o, {how}.")
    vocabulary = read_vocabulary()
    survey = look_through(study, vocabulary, progress)
    hints = _look_at_level(study, survey, vocabulary)
    draft = draft_rows(study, survey, vocabulary, progress=progress)
    if update:
        return _update(options.out, table, draft)
    text = _text(study, draft, _free_number(study, options.datasets))
    with clear_os_errors(f"write {options.out}"):
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_case_table(draft.rows, table)
        write_text(options.out, text)
    return _summary(draft.rows, draft, options.out, table, hints)


def _look_at_level(
    study: Path, survey: Survey, vocabulary: Vocabulary
) -> tuple[str, ...]:
    """Refuse a folder of studies, or without images or masks; return other hints."""
    below = _studies_below(survey, vocabulary)
    commands = [f"`nnunet-bridge init {study / name}`" for name in list(below)[:3]]
    level = f"the level below looks like a study: try {' or '.join(commands)}."
    names = Counter(name for own in below.values() for name in own)
    if max(names.values(), default=0) > 1:
        same = f"{study} holds {len(below)} studies with patients of one name"
        raise InputError(f"{same}; {level}")
    reasons = "".join(f"\n  {file}: {why}" for file, why in survey.unused[:3])
    parent = study.parent if study.name.strip(".") else study / ".."
    above = f"If the others lie beside it, try `nnunet-bridge init {parent}`."
    drawings = counted(len(survey.drawings), "mask file")
    if not survey.images:
        kinds = "DICOM, NIfTI, NRRD or MetaImage"
        what = f"{study} holds no image ({kinds}), but {drawings}"
        raise InputError(f"{what}. {above}{reasons}")
    if not survey.drawings:
        images = counted(len(survey.images), "image")
        raise InputError(f"{study} holds {images}, but {drawings}. {above}{reasons}")
    return (f"All patients lie deeper than {study}: {level}",) if below else ()


def _studies_below(survey: Survey, vocabulary: Vocabulary) -> dict[str, set[str]]:
    """Return the folders that are studies, if most images lie so, and their patients.

    A folder for training or of a site is a part of a study.
    """
    names = sorted({image.parts[0] for image in survey.images if len(image.parts) > 1})
    apart = [n for n in names if not vocabulary.has_kind("group", words_of(n))]
    found = {name: _patients_in(name, survey, vocabulary) for name in apart}
    studies = {name: own for name, own in found.items() if len(own) > 1}
    return studies if 2 * len(studies) > len(names) else {}


def _patients_in(folder: str, survey: Survey, vocabulary: Vocabulary) -> set[str]:
    """Return the patients with masks in a folder that their names identify."""
    images = [i for i in survey.images if i.parts[0] == folder and len(i.parts) > 1]
    drawings = [d for d in survey.drawings if d.parts[0] == folder and len(d.parts) > 1]
    ids = {image.dicom.patient if image.dicom else image.file for image in images}
    if len(ids) < 2 or len(drawings) < 2:  # noqa: PLR2004 - several
        return set()
    named = name_patients([image.parts[1:] for image in images], vocabulary)
    scans = [
        ScanNames((image.parts[1:],), (image.place,), (image.folder[1:],))
        for image in images
    ]
    pairs = pair_all([Drawing(one.parts[1:], one.grid) for one in drawings], scans)
    found = {named[pair.scan] for pair in pairs if pair.scan is not None}
    return {whose.patient for whose in found if whose.named}


def _update(recipe: Path, table: Path, draft: Draft) -> InitSummary:
    """Add the patients that a table does not have; its rows stay as they are."""
    old = read_case_table(table)
    numbers = [int(m[1]) for row in old if (m := re.fullmatch(r"msk_(\d+)", row.case))]
    first = max(numbers, default=len({row.case or row.patient for row in old})) + 1
    known, images = {row.file for row in old}, {(row.file, row.series) for row in old}
    mine = {
        row.case
        for row in draft.rows
        if (row.file, row.series) in images
        or (row.role is not Role.IMAGE and row.file in known)
    }
    new = [row for row in draft.rows if row.case not in mine]
    renamed = {
        case: CASE_ID.format(index=number)
        for number, case in enumerate(dict.fromkeys(row.case for row in new), first)
    }
    new = [replace(row, case=renamed[row.case]) for row in new]
    unused = {file: why for file, why in draft.unused if file not in known}
    unused |= {
        row.file: f"{row.patient} is in the table already; add a row"
        for row in draft.rows
        if row.case in mine and row.file not in known and row.role in DRAWN_ROLES
    }
    to_do: tuple[str, ...] = ()
    has = read_recipe(recipe).structures if recipe.is_file() else draft.structures
    lack = {row.structure: None for row in new if row.structure not in ("", *has)}
    if lack:
        to_do = (f"{recipe.name} has no label {', '.join(lack)}: add it to [labels]",)
    if new:
        add_rows(new, table)
    draft = replace(draft, unused=tuple(unused.items()))
    return _summary((*old, *new), draft, recipe, table, to_do)


def _summary(
    rows: Sequence[TableRow],
    draft: Draft,
    recipe: Path,
    table: Path,
    to_do: tuple[str, ...],
) -> InitSummary:
    by_case: dict[str, list[TableRow]] = {}
    for row in rows:
        by_case.setdefault(row.case or row.patient, []).append(row)
    cases = tuple(_case(case, own) for case, own in by_case.items() if case)
    nameless = sum(row.role is Role.LABELMAP and not row.structure for row in rows)
    if nameless:
        values = f"{counted(nameless, 'value', ('has', 'have'))} no name in labelmaps"
        how = f"write the structure of each into {table.name}; its note describes it"
        to_do += (f"{values}: {how}",)
    names = dict.fromkeys(
        (*draft.structures, *(r.structure for r in rows if r.structure))
    )
    return InitSummary(
        recipe, table, cases, tuple(names), draft.unknown, draft.unused, to_do
    )


def _case(case: str, rows: Sequence[TableRow]) -> JsonObject:
    drawn = [row for row in rows if row.role in DRAWN_ROLES]
    test = any(row.split is Split.TEST for row in rows) or not drawn
    return {
        "case": case,
        "split": "test" if test else "train",
        "masks": len({row.file for row in drawn}),
        "structures": sorted({row.structure for row in drawn if row.structure}),
    }


def _listed(lines: Sequence[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:_MOST_LISTED])
    if len(lines) > _MOST_LISTED:
        yield f"  and {len(lines) - _MOST_LISTED} more"


def _free_number(study: Path, folders: Iterable[Path]) -> int:
    """Return the number of the dataset of this name, or the lowest that is free."""
    taken: dict[int, str] = {}
    for folder in folders:
        for place in sorted(folder.glob("Dataset[0-9][0-9][0-9]_*")):
            if match := DATASET_FOLDER.fullmatch(place.name):
                taken[int(match[1])] = match[2]
    name = _dataset_name(study)
    own = [number for number, other in taken.items() if other == name]
    free = (number for number in range(1, _HIGHEST_ID + 1) if number not in taken)
    return min(own, default=next(free, 1))


def _dataset_name(study: Path) -> str:
    """Return the name of a folder as a name of a dataset, with `ü` as `ue`."""
    name = study.resolve().name
    match = DATASET_FOLDER.fullmatch(name)
    words = re.findall(r"[A-Za-z0-9]+", transliterated(match[2] if match else name))
    return "".join(word[0].upper() + word[1:] for word in words) or "Study"


_RECIPE = """\
# Written by `nnunet-bridge init`. The files and their structures are in {table}:
# correct them there, then run `nnunet-bridge check`.

[dataset]
id = {number}                    # the lowest number that is free in the workspace
name = "{name}"
channel = "{channel}"
case = "{case}"    # ids of cases that the table does not name
table = "{table}"
{scans}
[labels]                  # the order is the value{guess}
{labels}

[merge]
sides = "merge"           # "separate": left and right are two labels
overlap = "background"
missing = "refuse"        # until you declare why a structure is not drawn

[region]
crop = "none"
"""


def _text(study: Path, draft: Draft, number: int) -> str:
    """Return the recipe as text; guesses are marked by comments."""
    scans = ""
    if draft.image_type:
        mixed = f"guessed: a series mixes {', '.join(draft.contrasts)}; for several"
        mixed += ", name `channels` in [dataset] instead"
        scans = f'\n[scans]\nimage_type = "{draft.image_type}"    # {mixed}\n'
    names, guess = draft.structures, ""
    if not names:
        most = len({row.value for row in draft.rows if row.role is Role.LABELMAP}) or 1
        names = tuple(f"label_{n}" for n in range(1, most + 1))
        guess = "; name the values in the table, then list these names here"
    return _RECIPE.format(
        table=TABLE,
        number=number,
        name=_dataset_name(study),
        channel="CT" if draft.modality == "CT" else "MRI",
        case=CASE_ID,
        scans=scans,
        guess=guess,
        labels="\n".join(
            f"{toml_key(name)} = {n}" for n, name in enumerate(names, start=1)
        ),
    )
