"""Plan the cases of a study from its case table.

Rows are joined to cases by `case`, or by `patient` and `visit`. A mistake in the form
of a row stops the study, and all mistakes are reported at once; a file that is missing
or cannot be used refuses its case alone.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from nnunet_bridge.core.case_table import DRAWN_ROLES, Drawing, Role, Split, TableRow
from nnunet_bridge.core.dataset import checked_case_id
from nnunet_bridge.core.errors import BridgeError
from nnunet_bridge.core.findings import Finding, Outcome, refusal
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.words import Side
from nnunet_bridge.formats.case_table import read_case_table, table_faults
from nnunet_bridge.formats.files import is_there, pseudonym
from nnunet_bridge.formats.folders import named_below
from nnunet_bridge.formats.manifest import CaseRecord
from nnunet_bridge.formats.recipe import Recipe
from nnunet_bridge.formats.slicer import NamedValue
from nnunet_bridge.formats.surfaces import SURFACE_ENDINGS, is_surface
from nnunet_bridge.pipeline.ingest.planned import (
    CasePlan,
    MaskFile,
    ScanFiles,
    StudyPlan,
    comparable,
    files_below,
    places_of,
    without_collisions,
)

NO_MASK = "The case has no mask: it goes to imagesTs, for testing."


@dataclass(frozen=True, slots=True)
class KnownCases:
    """The cases of a dataset that exists already."""

    ids: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Salted hashes of patient and visit -> id."""

    salt: bytes = b""

    @classmethod
    def of(cls, records: Iterable[CaseRecord], salt: bytes) -> KnownCases:
        """Return the cases of a manifest; patients with two in one visit are none."""
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        for record in records:
            found[record.patient, record.visit or ""].append(record.case)
        return cls({key: ids[0] for key, ids in found.items() if len(ids) == 1}, salt)

    def id_of(self, patient: str, visit: str) -> str:
        """Return the id of a patient's case; empty if there is none."""
        hashes = (
            pseudonym(text, self.salt) if text else "" for text in (patient, visit)
        )
        return self.ids.get(tuple(hashes), "")  # type: ignore[arg-type] # two texts


@dataclass(slots=True)
class _Rows:
    """The rows of one case."""

    case_id: str
    patient: str
    visit: str
    rows: list[TableRow] = field(default_factory=list)

    def of(self, *roles: Role) -> list[TableRow]:
        """Return the rows of these roles that name a file."""
        return [row for row in self.rows if row.role in roles and row.file]


def plan_from_table(
    study: Path, table: Path, recipe: Recipe, known: KnownCases
) -> tuple[StudyPlan, Recipe]:
    """Return the cases of a table, and the recipe with the states that it declares.

    A case without an id keeps that of `known`, or gets the next number that is free.

    Raises `RecipeError` if the table has mistakes, with their lines.
    """
    rows = read_case_table(table)
    plans, files, recipe = _planned(study, table, rows, recipe, known)
    left_out = dict(_left_out(study, plans, files, recipe.own_files))
    plan = StudyPlan(tuple(plans), (), left_out, files.ignored)
    return plan, recipe


def plan_rows(
    study: Path, table: Path, rows: Sequence[TableRow], recipe: Recipe
) -> tuple[Sequence[CasePlan], Recipe]:
    """Return the cases of some rows, and the recipe, as `plan_from_table`.

    Other files of the study are not looked at.
    """
    plans, _, recipe = _planned(study, table, rows, recipe, KnownCases())
    return plans, recipe


def _planned(
    study: Path,
    table: Path,
    rows: Sequence[TableRow],
    recipe: Recipe,
    known: KnownCases,
) -> tuple[Sequence[CasePlan], _Files, Recipe]:
    faults = [f"line {r.line}: {fault}" for r in rows for fault in _faults(r, recipe)]
    cases = _joined(rows, recipe, known, faults)
    if not cases and not faults:
        faults.append("it names no image: add a row with the role image for each")
    if faults:
        raise table_faults(table, faults)
    files = _Files(study, rows)
    channels = recipe.image_channels.names
    plans = without_collisions([_plan(case, files, channels) for case in cases])
    states = {case.case_id: _states(case, recipe) for case in cases}
    other = {Side.LEFT: Side.RIGHT, Side.RIGHT: Side.LEFT}
    undrawn = [(case, _undrawn_side(row)) for case in cases for row in case.rows]
    sides = {case.case_id: str(other[side]) for case, side in undrawn if side}
    recipe = recipe.with_drawn_sides(sides)
    recipe = recipe.with_cases({c: own for c, own in states.items() if own})
    return plans, files, recipe


def _faults(row: TableRow, recipe: Recipe) -> Iterator[str]:
    """Yield what is wrong with a row by itself."""
    drawn = row.state is Drawing.DRAWN
    if row.role is not Role.IGNORE and not (row.case or row.patient):
        yield "it needs a case or a patient"
    if not row.file and (drawn or row.role not in DRAWN_ROLES):
        yield "file is empty; only a structure that was not drawn may have none"
    if row.file and not _inside(row.file):
        yield f"{quoted(row.file)} lies outside the study; give a path inside it"
    channels = recipe.image_channels.names
    if row.channel and row.channel not in channels:
        known = ", ".join(map(quoted, channels))
        yield f"channel {quoted(row.channel)} is unknown; the recipe has {known}"
    if drawn:
        yield from _faults_of_mask(row)
    elif row.role not in DRAWN_ROLES or not (row.structure or _undrawn_side(row)):
        yield f"state {row.state} needs the role mask and a structure"
    else:
        words = row.structure or recipe.structures[0], row.side
        yield from _faults_by(recipe.structure_of, *words)
    if row.case:
        yield from _faults_by(checked_case_id, row.case)


def _faults_of_mask(row: TableRow) -> Iterator[str]:
    """Yield what a row lacks to say which structure was drawn where."""
    named = (Role.MASK, Role.LABELMAP, Role.SURFACE)
    if row.role in named and not row.structure:
        yield "structure is empty; name what was drawn, or write the role ignore"
    if row.role is Role.LABELMAP and row.value is None:
        yield "value is empty; write the value of the structure in the labelmap"
    if row.value == 0:
        yield "value 0 is the background; write the value of the structure"
    if row.role is Role.SEGMENTATION and (row.value is None) != (not row.structure):
        yield "write a structure and the number of its segment, from 1, or neither"


def _faults_by(check: Callable[..., object], *words: str) -> Iterator[str]:
    """Yield why a check refuses words; nothing if it does not."""
    try:
        check(*words)
    except BridgeError as error:
        yield str(error)


def _inside(file: str) -> bool:
    return not file.startswith("/") and os.path.normpath(file).split("/")[0] != ".."


def _joined(
    rows: Sequence[TableRow], recipe: Recipe, known: KnownCases, faults: list[str]
) -> list[_Rows]:
    """Return the rows by case, in the order of the table; generate missing ids."""
    rows = [row for row in rows if row.role is not Role.IGNORE]
    case_of = _CaseIds(rows, recipe, known)
    cases: dict[str, _Rows] = {}
    for row in rows:
        ids = case_of.ids(row)
        if len(ids) > 1:
            twins = " and ".join(sorted(ids))
            faults.append(f"line {row.line}: the patient has {twins}; name the case")
        case_id = min(ids)
        case = cases.setdefault(case_id, _Rows(case_id, "", ""))
        patient, visit = _patient(row)
        if patient and case.patient and (case.patient, case.visit) != (patient, visit):
            text = f"case {case_id} has another patient or visit in a line above"
            faults.append(f"line {row.line}: {text}; a case is one scan")
        if patient:
            case.patient, case.visit = patient, visit
        case.rows.append(row)
    return list(cases.values())


class _CaseIds:
    """Finds the case of a row, by its id or by its patient and visit."""

    def __init__(
        self, rows: Sequence[TableRow], recipe: Recipe, known: KnownCases
    ) -> None:
        self._ids: dict[tuple[str, str], set[str]] = defaultdict(set)
        for row in rows:
            if row.case and row.patient:
                self._ids[_patient(row)].add(row.case)
        self._written = {row.case for row in rows if row.case}
        self._known = known
        used = {case.casefold() for case in (*known.ids.values(), *self._written)}
        numbered = map(recipe.numbered_id, count(1))
        self._free = (case_id for case_id in numbered if case_id.casefold() not in used)

    def ids(self, row: TableRow) -> set[str]:
        """Return the id of a row's case; several if the table leaves it open."""
        if row.case:
            return {row.case}
        key = _patient(row)
        if key not in self._ids:
            old_id = self._known.id_of(*key)
            usable = old_id and old_id not in self._written
            self._ids[key] = {old_id if usable else next(self._free)}
        return self._ids[key]


def _patient(row: TableRow) -> tuple[str, str]:
    return comparable(row.patient), comparable(row.visit)


class _Files:
    """The files that a table names, found in the study."""

    def __init__(self, study: Path, rows: Iterable[TableRow]) -> None:
        self._study = study
        named = [row for row in rows if row.file]
        self._paths = {row.file: _found(study, row.file) for row in named}
        self._all = frozenset(self._paths.values())
        unused = [row for row in named if _is_unused(row)]
        used = {self._paths[row.file] for row in named if not _is_unused(row)}
        ignored = (self._paths[row.file] for row in unused if row.value is None)
        self.ignored = frozenset(ignored) - used
        self._values: dict[Path, list[NamedValue]] = defaultdict(list)
        for row in unused:
            if row.value is not None:
                self._values[self._paths[row.file]].append(NamedValue(row.value, ""))

    def path(self, row: TableRow) -> Path:
        """Return the path of a row's file."""
        return self._paths[row.file]

    def values_left_out(self, row: TableRow) -> list[NamedValue]:
        """Return the values of a row's file that are left out on purpose."""
        return self._values.get(self._paths.get(row.file, Path()), [])

    def scan(self, row: TableRow) -> ScanFiles:
        """Return the image of a row, without what other rows name below its folder."""
        path = self.path(row)
        below = frozenset(p for p in self._all if path in p.parents)
        return ScanFiles(path, row.series, below)

    def faults(self, rows: Iterable[TableRow]) -> Iterator[Finding]:
        """Yield the files that are missing, or links out of the study (F01)."""
        root = self._study.resolve()
        for row in rows:
            path, name = self.path(row), quoted(row.file)
            line = f"{name} (line {row.line} of the case table)"
            if not is_there(path):
                text = f"{line} does not exist: correct the row, or remove it."
                yield refusal("K15" if row.role in DRAWN_ROLES else "", text)
            elif not path.resolve().is_relative_to(root):
                text = f"{line} is a link out of the study: put a copy in its place."
                yield refusal("F01", text)


def _undrawn_side(row: TableRow) -> Side:
    """Return the side on which a row says that nothing was drawn; `MERGED` for none."""
    whole = row.state is Drawing.UNLABELLED and not (row.structure or row.file)
    sides = row.side in (Side.LEFT, Side.RIGHT) and row.role in DRAWN_ROLES
    return Side(row.side) if whole and sides else Side.MERGED


def _is_unused(row: TableRow) -> bool:
    """Whether a row names what is left out: by its role, or as not drawn."""
    return row.role is Role.IGNORE or row.state is not Drawing.DRAWN


def _found(study: Path, file: str) -> Path:
    """Return the path of a file, also if a spreadsheet wrote it in another way."""
    ways = [file, file.strip(), file.strip().replace("\\", "/")]
    inside = filter(_inside, ways)
    paths = [named_below(study, os.path.normpath(way)) for way in inside]
    return next((path for path in paths if is_there(path)), paths[0])


def _plan(case: _Rows, files: _Files, channels: Sequence[str]) -> CasePlan:
    images, drawn = case.of(Role.IMAGE), case.of(*DRAWN_ROLES)
    drawn = [row for row in drawn if row.state is Drawing.DRAWN]
    findings = [*files.faults([*images, *drawn]), *_about_masks(drawn, files)]
    findings += _about_images(images, channels)
    images.sort(key=lambda row: channels.index(row.channel) if row.channel else -1)
    scans = [files.scan(row) for row in images]
    usable = len(scans) in (1, len(channels))
    masks = tuple(_masks(drawn, files))
    wanted = {row.split for row in case.rows} - {None}
    if len(wanted) > 1:
        text = "Some rows of the case say train and others test: choose one."
        findings.append(refusal("K21", text))
    if Split.TRAIN in wanted and not masks:
        text = "The table says train, but the case has no mask: add one, or write test."
        findings.append(refusal("K15", text))
    if not drawn and not wanted:
        findings.append(Finding("", Outcome.ACCEPTED, NO_MASK))
    split = min(wanted, default=Split.TRAIN if masks else Split.TEST, key=str)
    return CasePlan(
        case_id=case.case_id,
        scan=replace(scans[0], more=tuple(scans[1:])) if usable else None,
        masks=masks,
        split=str(split),
        patient=case.patient or case.case_id,
        findings=tuple(findings),
        visit=case.visit,
        meaning=_meaning(case, files),
    )


def _about_images(
    images: Sequence[TableRow], channels: Sequence[str]
) -> Iterator[Finding]:
    """Refuse a case without an image, or with images that are not its channels."""
    if not images:
        text = "The case has masks, but no row with the role image: add its scan."
        yield refusal("K21", text)
        return
    named = [row.channel for row in images]
    if len(channels) > 1 and any(named):
        yield from _about_channels(images, channels)
    elif len(images) > 1:
        names = ", ".join(quoted(row.file) for row in images)
        reads, rest = "reads one", "the role ignore for the others, or give each its"
        if len(channels) > 1:
            reads = f"reads {' and '.join(channels)}"
            rest = "the channel of each into its row, or give each its"
        text = f"The case has {len(images)} images ({names}), and a model {reads}:"
        yield refusal("N08", f"{text} write {rest} own case or visit.")


def _about_channels(
    images: Sequence[TableRow], channels: Sequence[str]
) -> Iterator[Finding]:
    """Refuse a case that lacks a channel, or has one twice (D17)."""
    rows = {name: [r for r in images if r.channel == name] for name in channels}
    if unnamed := [quoted(row.file) for row in images if not row.channel]:
        text = f"{', '.join(unnamed)} has no channel, but other images of the case have"
        yield refusal("D17", f"{text} one: write {' or '.join(channels)}.")
    for name, own in rows.items():
        if not own:
            text = f"The case has no image of the channel {name}: add its row, or leave"
            yield refusal("D17", f"{text} the case out (role ignore).")
        elif len(own) > 1:
            twins = " and ".join(quoted(row.file) for row in own)
            text = f"{twins} are both the channel {name}: write the role ignore for one"
            yield refusal("D17", f"{text} of them.")


def _about_masks(rows: Sequence[TableRow], files: _Files) -> Iterator[Finding]:
    """Refuse folders as masks, surfaces in other formats, and contradicting rows."""
    valued = {row.file for row in rows if row.value is not None}
    for row in rows:
        name, several = quoted(row.file), row.role is Role.SEGMENTATION
        if row.role is Role.SURFACE and not is_surface(row.file):
            text = f"{name} is no surface that is read ({', '.join(SURFACE_ENDINGS)}):"
            yield refusal("K08", f"{text} save it in one of these formats.")
        elif files.path(row).is_dir():
            text = f"{name} is a folder, but its role is {row.role}: name a file in it."
            yield refusal("K08", text)
        elif row.value is None and row.file in valued and not several:
            text = f"Some rows of {name} have a value and others none: write one into"
            yield refusal("K06", f"{text} each.")


def _masks(rows: Sequence[TableRow], files: _Files) -> Iterator[MaskFile]:
    """Yield the mask files of a case; rows of one file are joined."""
    by_file: dict[Path, list[TableRow]] = defaultdict(list)
    for row in rows:
        by_file[files.path(row)].append(row)
    for path, own in by_file.items():
        valued = [row for row in own if row.value is not None]
        names = [NamedValue(r.value or 0, r.structure, r.side) for r in valued]
        named = (*names, *files.values_left_out(own[0]))
        if own[0].role is Role.SEGMENTATION:
            role, others = Role.SEGMENTATION, len(valued) < len(own)
            yield MaskFile(path, None, "", role, named, own_names=others)
        elif valued:
            yield MaskFile(path, None, "", Role.LABELMAP, named)
        else:
            role = Role.SURFACE if own[0].role is Role.SURFACE else Role.MASK
            yield from (MaskFile(path, row.structure, row.side, role) for row in own)


def _meaning(case: _Rows, files: _Files) -> str:
    """Return what the rows say about the files, in the order of their names."""
    rows = sorted(case.rows, key=lambda row: (row.file, row.value or 0, row.structure))
    fields = ["role", "structure", "side", "value", "state", "series"]
    if len(case.of(Role.IMAGE)) > 1:
        fields.append("channel")
    facts = [[getattr(row, name) for name in fields] for row in rows]
    left_out = [[one.value for one in files.values_left_out(row)] for row in rows]
    return json.dumps([facts, left_out] if any(left_out) else facts)


def _states(case: _Rows, recipe: Recipe) -> dict[str, str]:
    """Return the declared states of a case, as ``[cases.ID]`` of a recipe has them."""
    words = {Drawing.ABSENT: "absent", Drawing.UNLABELLED: recipe.unlabelled}
    states = {}
    for row in case.rows:
        if row.state is not Drawing.DRAWN and row.structure:
            structure, side = recipe.structure_of(row.structure, row.side)
            apart = side and recipe.merge.sides == "separate"
            states[f"{structure}_{side}" if apart else structure] = words[row.state]
    return states


def _left_out(
    study: Path, plans: Sequence[CasePlan], files: _Files, own: Iterable[Path]
) -> Iterator[tuple[str, str]]:
    """Yield the files of the study that belong to no case, and why (R3)."""
    used = {place for plan in plans for place in places_of(plan)}
    on_purpose = "left out by the case table"
    left_out = dict.fromkeys(files_below(study, used), "no row of the case table")
    for ignored in files.ignored:
        below = files_below(ignored, used) if ignored.is_dir() else [ignored]
        left_out |= dict.fromkeys(below, on_purpose)
    own_files = {file.resolve() for file in own}
    for path, why in left_out.items():
        if path.resolve() not in own_files and path not in used:
            yield path.relative_to(study).as_posix(), why
