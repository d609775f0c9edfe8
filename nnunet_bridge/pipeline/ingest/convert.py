"""Convert DICOM scans and masks to an nnU-Net raw dataset, case by case.

`check_study` does everything but write. `convert_study` writes each case whole or not
at all, the manifest last, and on a second run only what is missing or has changed
(FAULTS R12, F09).
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nnunet_bridge.core.cases import (
    CaseReport,
    codes_of,
    exit_code_of,
    findings_of_error,
    memory_errors_refused,
    messages_of,
    outcome_counts,
    unexpected,
)
from nnunet_bridge.core.errors import BridgeError, EnvironmentFault, InputError
from nnunet_bridge.core.findings import Finding, Outcome, warning, worst
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.progress import Progress, steps
from nnunet_bridge.core.quoting import without_quotes
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import counted, format_bytes
from nnunet_bridge.formats.dicom import FileAccount
from nnunet_bridge.formats.files import free_bytes, only_writer, pseudonym
from nnunet_bridge.formats.manifest import KEY_FOLDER, check_files, require_own
from nnunet_bridge.formats.recipe import Recipe
from nnunet_bridge.nnunet.names import DATASET_FOLDER, dataset_folder_name, number_of
from nnunet_bridge.ops.people import PersonEvidence
from nnunet_bridge.pipeline.ingest.cases import (
    AssembledCase,
    CaseRefused,
    assemble_case,
)
from nnunet_bridge.pipeline.ingest.dataset_writer import (
    DatasetWriter,
    case_bytes,
    evidence_in,
)
from nnunet_bridge.pipeline.ingest.matching import planned_study
from nnunet_bridge.pipeline.ingest.mixture import Look, mixture_findings
from nnunet_bridge.pipeline.ingest.people import evidence_of, people_findings
from nnunet_bridge.pipeline.ingest.planned import CasePlan, StudyPlan
from nnunet_bridge.pipeline.ingest.unused import unused_masks

_MARKS = {Outcome.ACCEPTED: "ok", Outcome.REFUSED: "REFUSED"}
"""Other outcomes are their own mark."""


@dataclass(frozen=True, slots=True)
class ConvertedCase(CaseReport):
    """The report of a case that was checked or converted."""

    split: str = "train"  # ``train`` or ``test``
    rewritten: bool = False  # whether this run wrote its files

    def details(self) -> JsonObject:
        """Return the split, and whether the files were written."""
        return {"split": self.split, "rewritten": self.rewritten}


@dataclass(frozen=True, slots=True)
class ConversionSummary:
    """The result of `check` or `convert`."""

    dataset: str  # full name, such as ``Dataset001_Tibia``
    cases: tuple[ConvertedCase, ...]
    files: dict[str, int]
    """``found``, ``used``, ``excluded``, ``failed``; found is the sum of the others."""

    findings: tuple[Finding, ...]  # about the study or the dataset as a whole
    dataset_dir: Path | None = field(default=None, compare=False)
    """Folder of the dataset; None after `check`."""

    @property
    def exit_code(self) -> int:
        """0 all cases done, 4 some refused, 3 all refused."""
        faulty = worst(self.findings) is Outcome.REFUSED
        return exit_code_of(self.cases) or (4 if faulty else 0)

    @property
    def outcome(self) -> Outcome:
        """The outcome of the study as a whole; each case has its own."""
        return worst(self.findings)

    def split_counts(self) -> dict[str, int]:
        """Return how many usable cases train a model, and how many test it."""
        splits = Counter(case.split for case in self.cases if not case.refused)
        return {split: splits[split] for split in ("train", "test")}

    def as_json(self) -> JsonObject:
        """Return the one object that `--json` prints."""
        return {
            "dataset": self.dataset,
            "outcome": str(self.outcome),
            **self.split_counts(),
            "cases": [case.as_json() for case in self.cases],
            "files": dict(self.files),
            "codes": list(codes_of(self.findings)),
            "messages": list(messages_of(self.findings)),
        }

    def as_text(self) -> str:
        """Return one line per case, then findings about all of them."""
        width = max((len(case.case_id) for case in self.cases), default=0)
        lines = [f"{self.dataset}:"]
        for case in self.cases:
            outcome = _MARKS.get(case.outcome, str(case.outcome))
            mark = f"{outcome:<8}{case.split:<7}"
            lines.append(f"  {case.case_id:<{width}}  {mark}".rstrip())
            texts = [t for text in _shortened(case.messages) for t in text.split("\n")]
            lines += [f"  {'':<{width}}    {text}" for text in texts]
        lines += [f"  {finding}" for finding in self.findings]
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.files.items())
        counts, splits = outcome_counts(self.cases), self.split_counts()
        many = f"{counted(len(self.cases), 'case')}: {counts}"
        parts = f"{splits['train']} for training, {splits['test']} for testing"
        lines.append(f"{many}. {parts}. Files: {kinds}.")
        return "\n".join(lines)


def _shortened(messages: Sequence[str]) -> list[str]:
    """Return one message for all that differ only in the names of files."""
    alike: dict[str, list[str]] = {}
    for message in messages:
        alike.setdefault(without_quotes(message), []).append(message)
    return [
        f"{first} (The same for {len(others)} more.)" if others else first
        for first, *others in alike.values()
    ]


def check_study(
    study: Path,
    recipe: Recipe,
    workspace_raw_dir: Path | None = None,
    *,
    other_places: Sequence[Path] = (),
    pictures_dir: Path | None = None,
    progress: Progress | None = None,
) -> ConversionSummary:
    """Do everything that `convert_study` would do, without writing.

    Only a picture of every midline is written, into `pictures_dir`. With nnU-Net's raw
    folder, check as well whether it lies outside the study (F05), holds files of
    unknown origin (F04), and has space for the dataset (F06).
    """
    study_plan, recipe = planned_study(study, recipe, workspace_raw_dir)
    dataset = dataset_folder_name(recipe.spec())
    _require_free_number(dataset, [*filter(None, [workspace_raw_dir]), *other_places])
    tally = _Tally(study_plan, partial(pseudonym, key=secrets.token_bytes()))
    if pictures_dir is not None and not _lies_inside(pictures_dir, study):
        tally.pictures_dir = pictures_dir / dataset / "midlines"
    for _, case_plan in steps(progress, "check", tally.plans):
        _process(case_plan, recipe, tally)
    tally.look_at_study(study, recipe)
    if workspace_raw_dir is not None:
        dataset_dir = workspace_raw_dir / dataset
        tally.findings += _workspace_findings(study, dataset_dir, tally.bytes_needed)
    return tally.summary(dataset)


def convert_study(
    study: Path,
    recipe: Recipe,
    workspace_raw_dir: Path,
    *,
    other_places: Sequence[Path] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> ConversionSummary:
    """Convert a study folder into a dataset in nnU-Net's raw folder.

    Patients with masks in `masks.folder` become training cases (``imagesTr``,
    ``labelsTr``), those with masks in `masks.test` or without masks test cases
    (``imagesTs``, ``labelsTs``). Nothing is written into the study. With `force`,
    finished cases are converted again. `other_places` are further folders of nnU-Net,
    where no other dataset may have the number either.

    Raises
    ------
    InputError
        If no scan of the study fits the recipe, no case has a mask although the study
        holds some, the raw folder lies inside the study (F05), or another dataset has
        the number (N07).
    EnvironmentFault
        If the disk is full, the folder cannot be written, or another process converts
        the same dataset.
    """
    if _lies_inside(workspace_raw_dir, study):
        text = (
            f"The workspace {workspace_raw_dir} lies inside the study {study}: choose"
        )
        rest = "a workspace outside the study, so that input and output never mix."
        raise InputError(f"{text} {rest}", code="F05")
    plan, recipe = planned_study(study, recipe, workspace_raw_dir)
    dataset = dataset_folder_name(recipe.spec())
    _require_free_number(dataset, [workspace_raw_dir, *other_places])
    lock = workspace_raw_dir.parent / KEY_FOLDER / "locks" / f"{dataset}.lock"
    with only_writer(lock, f"The dataset {dataset}"):
        require_own(workspace_raw_dir / dataset)
        writer = DatasetWriter(workspace_raw_dir, dataset, recipe, force=force)
        writer.require_unchanged()
        tally = _Tally(plan, writer.hashed)
        try:
            return _convert_all(study, tally, writer, progress)
        finally:
            writer.close()


def _convert_all(
    study: Path, tally: _Tally, writer: DatasetWriter, progress: Progress | None
) -> ConversionSummary:
    for _, plan in steps(progress, "convert", tally.plans):
        kept = writer.kept(plan)
        if kept is None:
            _process(plan, writer.recipe, tally, writer)
        else:
            tally.files.update(kept.files)
            if kept.geometry is not None:
                grid, position = kept.geometry.grid(), kept.geometry.patient_position
                tally.see(plan.case_id, grid, position)
            tally.add(plan, kept.noticed)
            tally.people[plan.case_id] = evidence_in(kept)
    tally.look_at_study(study, writer.recipe)
    writer.finish({case_id for case_id, _ in tally.plans}, tally.plan.left_out)
    tally.findings += check_files(writer.dataset_dir)
    return tally.summary(writer.dataset_dir.name, writer.dataset_dir)


@dataclass(slots=True)
class _Tally:
    """The reports and counts of the cases so far."""

    plan: StudyPlan
    hashed: Callable[[str], str]
    cases: list[ConvertedCase] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    bytes_needed: int = 0  # uncompressed size of all images and labelmaps
    looks: dict[str, Look] = field(default_factory=dict)
    people: dict[str, PersonEvidence] = field(default_factory=dict)
    pictures_dir: Path | None = None  # for a picture of every midline
    grids: list[Grid] = field(default_factory=list)  # the different grids of the images

    def __post_init__(self) -> None:
        self.findings += self.plan.findings
        self.files["excluded"] += len(self.plan.left_out)

    @property
    def plans(self) -> list[tuple[str, CasePlan]]:
        return [(case.case_id, case) for case in self.plan.cases]

    def add(
        self, plan: CasePlan, findings: tuple[Finding, ...], *, rewritten: bool = False
    ) -> None:
        """Add the report of one case."""
        self.cases.append(ConvertedCase(plan.case_id, findings, plan.split, rewritten))

    def count(self, account: FileAccount, masks: int, *, used: bool) -> None:
        """Count the files of one case."""
        self.files["used" if used else "excluded"] += len(account.used) + masks
        self.files["excluded"] += len(account.excluded)
        self.files["failed"] += len(account.failed)

    def see(self, case_id: str, grid: Grid, patient_position: str) -> None:
        """Keep how an image lies, and its grid unless one like it is kept already."""
        self.looks[case_id] = Look(grid.axis_letters, patient_position)
        if not any(grid.matches(known) for known in self.grids):
            self.grids.append(grid)

    def look_at_study(self, study: Path, recipe: Recipe) -> None:
        """Name masks that belong to no case, and folders whose names mislead."""
        self.findings += unused_masks(study, self.plan, recipe, self.grids)
        self.findings += people_findings(self.people, self.plan.cases, study)

    def summary(self, dataset: str, folder: Path | None = None) -> ConversionSummary:
        """Return the report of all cases."""
        kinds = {kind: self.files[kind] for kind in ("used", "excluded", "failed")}
        files = {"found": sum(kinds.values()), **kinds}
        cases = tuple(self.cases)
        findings = (*self.findings, *mixture_findings(self.looks))
        return ConversionSummary(dataset, cases, files, findings, folder)


def _require_free_number(dataset: str, places: Sequence[Path]) -> None:
    """Refuse a dataset whose number belongs to another one (N07)."""
    there = [
        path.name for place in places if place.is_dir() for path in place.iterdir()
    ]
    by_number: dict[int, str] = {}
    for name in filter(DATASET_FOLDER.fullmatch, sorted(there)):
        if name != dataset:
            by_number.setdefault(number_of(name), name)
    other = by_number.get(number_of(dataset))
    if other:
        free = min(set(range(1, 1000)) - by_number.keys())
        text = (
            f"The number {number_of(dataset)} belongs to {other} already: write a free"
        )
        rest = f"one into `dataset.id` of the recipe, such as {free}."
        raise InputError(f"{text} {rest}", code="N07")


def _lies_inside(raw_dir: Path, study: Path) -> bool:
    return raw_dir.resolve().is_relative_to(study.resolve())


def _workspace_findings(
    study: Path, dataset_dir: Path, bytes_needed: int
) -> list[Finding]:
    """Return what `convert` would refuse in the workspace; nothing is written."""
    if _lies_inside(dataset_dir.parent, study):
        text = "The workspace lies inside the study: `convert` will refuse it. Choose"
        return [warning("F05", f"{text} another with --workspace.")]
    try:
        require_own(dataset_dir)
    except InputError as error:
        return [warning("F04", str(error))]
    findings = list(check_files(dataset_dir))
    free = free_bytes(dataset_dir)
    if not dataset_dir.exists() and free < bytes_needed:
        text = f"The dataset may need up to {format_bytes(bytes_needed)}, but"
        rest = f"{format_bytes(free)} are free: free some space."
        findings.append(warning("F06", f"{text} {rest}"))
    return findings


def _assembled(plan: CasePlan, recipe: Recipe) -> AssembledCase:
    """Assemble a case; whatever its files hold, other cases go on (F15)."""
    try:
        with memory_errors_refused(plan.case_id):
            return assemble_case(plan, recipe)
    except BridgeError:
        raise
    except Exception as error:  # the boundary around the files of one case
        raise unexpected(error) from error


def _process(
    plan: CasePlan, recipe: Recipe, tally: _Tally, writer: DatasetWriter | None = None
) -> None:
    """Assemble and count one case; `writer` writes it, or drops what it wrote before.

    A fault of the machine is raised: it would affect every case.
    """
    try:
        assembled = _assembled(plan, recipe)
    except EnvironmentFault:
        raise
    except BridgeError as error:
        account = error.files if isinstance(error, CaseRefused) else FileAccount()
        if account.found == 0:
            names = (n for n in plan.input_files() if n.startswith("scan/"))
            why = "the case was refused"
            excluded = tuple((name.removeprefix("scan/"), why) for name in names)
            account = FileAccount(excluded=excluded)
        findings = findings_of_error(error)
        tally.count(account, plan.mask_count, used=False)
        tally.add(plan, findings)
        if writer:
            writer.drop(plan, findings, account)
        return
    tally.count(assembled.reading.files, plan.mask_count, used=True)
    grid, series = assembled.reading.volume.grid, assembled.reading.series
    tally.see(plan.case_id, grid, series.patient_position if series else "")
    tally.bytes_needed += case_bytes(assembled)
    whose = evidence_of(plan, assembled.reading, tally.hashed)
    tally.people[plan.case_id] = whose
    if writer:
        writer.write(plan, assembled, whose)
    findings = (*assembled.findings, *_midline_picture(assembled, tally.pictures_dir))
    tally.add(plan, findings, rewritten=writer is not None)


def _midline_picture(
    assembled: AssembledCase, folder: Path | None
) -> Iterator[Finding]:
    """Write a picture of the midline of a case, if it has one, and name it (K31)."""
    case, partly = assembled.case, assembled.masks.partly
    if folder is None or case.reference is None or not (partly and partly.midline):
        return
    from nnunet_bridge.formats.preview import write_midline

    file = folder / f"{case.case_id}.png"
    write_midline(file, case.images[0], case.reference, partly)
    yield Finding("K31", Outcome.ACCEPTED, f"Look at the midline in {file}.")
