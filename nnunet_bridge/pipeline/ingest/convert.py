"""DICOM scans and masks -> an nnU-Net raw dataset, one case in memory at a time.

`check_study` does everything but write. `convert_study` writes each case whole or not
at all, the manifest last, and on a second run only what is missing or has changed
(FAULTS R12, F09).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_bridge.core.cases import (
    CaseReport,
    codes_of,
    exit_code_of,
    findings_of_error,
    messages_of,
    outcome_counts,
)
from nnunet_bridge.core.errors import BridgeError, EnvironmentFault, InputError
from nnunet_bridge.core.findings import Finding, Outcome, worst
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.quoting import without_quotes
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import format_bytes
from nnunet_bridge.formats.dicom import FileAccount
from nnunet_bridge.formats.files import free_bytes, only_writer
from nnunet_bridge.formats.manifest import KEY_FOLDER, check_files
from nnunet_bridge.formats.recipe import Recipe
from nnunet_bridge.nnunet.names import dataset_folder_name
from nnunet_bridge.pipeline.ingest.cases import CaseRefused, assemble_case, input_files
from nnunet_bridge.pipeline.ingest.dataset_writer import DatasetWriter, case_bytes
from nnunet_bridge.pipeline.ingest.matching import CasePlan, StudyPlan, plan_study

_MARKS = {
    Outcome.ACCEPTED: "ok",
    Outcome.FIXED: "fixed",
    Outcome.WARNED: "warned",
    Outcome.REFUSED: "REFUSED",
}


@dataclass(frozen=True, slots=True)
class ConvertedCase(CaseReport):
    """The report of a case that was checked or converted."""

    split: str = "train"
    """``train`` or ``test``."""

    rewritten: bool = False
    """Whether this run wrote its files."""

    def details(self) -> JsonObject:
        """Return the split, and whether the files were written."""
        return {"split": self.split, "rewritten": self.rewritten}


@dataclass(frozen=True, slots=True)
class ConversionSummary:
    """What `check` and `convert` give back."""

    dataset: str
    """Such as ``Dataset001_Tibia``."""

    cases: tuple[ConvertedCase, ...]
    files: dict[str, int]
    """``found``, ``used``, ``excluded``, ``failed``; found is the sum of the others."""

    findings: tuple[Finding, ...]
    """About the study or the dataset as a whole."""

    dataset_dir: Path | None = field(default=None, compare=False)
    """Where the dataset lies; None after `check`."""

    @property
    def exit_code(self) -> int:
        """0 all cases done, 4 some refused, 3 all refused."""
        faulty = worst(self.findings) is Outcome.REFUSED
        return exit_code_of(self.cases) or (4 if faulty else 0)

    def as_json(self) -> JsonObject:
        """Return the one object that `--json` prints."""
        return {
            "dataset": self.dataset,
            "cases": [case.as_json() for case in self.cases],
            "files": dict(self.files),
            "codes": list(codes_of(self.findings)),
            "messages": list(messages_of(self.findings)),
        }

    def as_text(self) -> str:
        """Return one line a case, then what concerns all of them."""
        width = max((len(case.case_id) for case in self.cases), default=0)
        lines = [f"{self.dataset}:"]
        for case in self.cases:
            mark = f"{_MARKS[case.outcome]:<8}{case.split:<7}"
            lines.append(f"  {case.case_id:<{width}}  {mark}".rstrip())
            lines += [
                f"  {'':<{width}}    {line}"
                for text in _in_short(case.messages)
                for line in text.split("\n")
            ]
        lines += [f"  {finding}" for finding in self.findings]
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.files.items())
        lines.append(
            f"{len(self.cases)} cases: {outcome_counts(self.cases)}. Files: {kinds}."
        )
        return "\n".join(lines)


def _in_short(messages: Sequence[str]) -> list[str]:
    """Return one message for all that differ only in what they name."""
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
    progress: Progress | None = None,
) -> ConversionSummary:
    """Do everything that `convert_study` would do, without writing.

    Parameters
    ----------
    study : Path
        The study folder.
    recipe : Recipe
        How to read it.
    workspace_raw_dir : Path, optional
        nnU-Net's raw folder; if given, it is checked as well: whether it lies outside
        the study (F05), holds files of unknown origin (F04), and whether the dataset
        may fit on the disk (F06).
    progress : Progress, optional
        Hears of every case.

    Raises
    ------
    InputError
        If the study holds no scan that the recipe knows.
    """
    listener = progress or Silent()
    plan = plan_study(study, recipe)
    dataset = dataset_folder_name(recipe.spec())
    tally = _Tally(plan, _left_out(study, recipe, plan))
    listener.stage("check", len(plan.cases))
    for done, case_plan in enumerate(plan.cases, start=1):
        tally.add(_checked(case_plan, recipe, tally))
        listener.advance(done, case_plan.case_id)
    if workspace_raw_dir is not None:
        dataset_dir = workspace_raw_dir / dataset
        tally.findings += _about_the_workspace(study, dataset_dir, tally.bytes_needed)
    return tally.summary(dataset)


def convert_study(
    study: Path,
    recipe: Recipe,
    workspace_raw_dir: Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> ConversionSummary:
    """Convert a study folder into an nnU-Net raw dataset.

    Patients with masks in `masks.folder` become training cases (``imagesTr``,
    ``labelsTr``), those with masks in `masks.test` or without masks test cases
    (``imagesTs``, ``labelsTs``).

    Parameters
    ----------
    study : Path
        The study folder; nothing is written into it.
    recipe : Recipe
        How to read it.
    workspace_raw_dir : Path
        nnU-Net's raw folder; the dataset becomes a folder in it.
    force : bool, optional
        Whether to redo cases that are done.
    progress : Progress, optional
        Hears of every case.

    Raises
    ------
    InputError
        If the study holds no scan that the recipe knows, or the raw folder lies
        inside the study (F05).
    EnvironmentFault
        If the disk is full, the folder cannot be written, or another process converts
        the same dataset.
    """
    listener = progress or Silent()
    if _lies_inside(workspace_raw_dir, study):
        raise InputError(
            f"The workspace {workspace_raw_dir} lies inside the study {study}: choose "
            "a workspace outside, so that input and output never mix.",
            code="F05",
        )
    plan = plan_study(study, recipe)
    tally = _Tally(plan, _left_out(study, recipe, plan))
    dataset = dataset_folder_name(recipe.spec())
    lock = workspace_raw_dir.parent / KEY_FOLDER / "locks" / f"{dataset}.lock"
    with only_writer(lock, f"The dataset {dataset}"):
        writer = DatasetWriter(workspace_raw_dir, dataset, recipe, force=force)
        try:
            summary = _convert_all(tally, writer, listener)
        finally:
            writer.close()
    return summary


def _convert_all(
    tally: _Tally, writer: DatasetWriter, listener: Progress
) -> ConversionSummary:
    plans = tally.plan.cases
    listener.stage("convert", len(plans))
    for done, case_plan in enumerate(plans, start=1):
        kept = writer.kept(case_plan)
        if kept is None:
            report = _converted(case_plan, writer, tally)
        else:
            tally.files.update(kept.files)
            report = ConvertedCase(case_plan.case_id, kept.noticed(), case_plan.split)
        tally.add(report)
        listener.advance(done, case_plan.case_id)
    writer.finish({plan.case_id for plan in plans}, tally.left_out)
    tally.findings += check_files(writer.dataset_dir)
    return tally.summary(writer.dataset_dir.name, writer.dataset_dir)


@dataclass(slots=True)
class _Tally:
    """Reports and counts while case after case goes by."""

    plan: StudyPlan
    left_out: dict[str, str]
    """Files of the study that belong to no case, and why."""

    reports: list[ConvertedCase] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    bytes_needed: int = 0
    """Size of what would be written, uncompressed."""

    def __post_init__(self) -> None:
        self.findings += self.plan.findings
        self.files["excluded"] += len(self.left_out)

    def add(self, report: ConvertedCase) -> None:
        """Take the report of one case."""
        self.reports.append(report)

    def count(self, account: FileAccount, masks: int, *, used: bool) -> None:
        """Count the files of one case."""
        self.files["used"] += len(account.used) if used else 0
        self.files["excluded"] += len(account.excluded)
        self.files["excluded"] += 0 if used else len(account.used)
        self.files["failed"] += len(account.failed)
        self.files["used" if used else "excluded"] += masks

    def summary(
        self, dataset: str, dataset_dir: Path | None = None
    ) -> ConversionSummary:
        """Return the whole."""
        kinds = ("used", "excluded", "failed")
        found = sum(self.files[kind] for kind in kinds)
        return ConversionSummary(
            dataset,
            tuple(self.reports),
            {"found": found, **{kind: self.files[kind] for kind in kinds}},
            tuple(self.findings),
            dataset_dir,
        )


def _left_out(study: Path, recipe: Recipe, plan: StudyPlan) -> dict[str, str]:
    """Return the files in the recipe's folders that belong to no case, and why (R3)."""
    scans = {case.scan_dir for case in plan.cases}
    masks = {mask.path for case in plan.cases for mask in case.masks}
    left_out = {}
    for name in (recipe.scans.folder, *recipe.masks.folder, *recipe.masks.test):
        for file in _files_below(study / name, scans):
            if file not in masks:
                kind = "link" if file.is_symlink() else "file"
                left_out[file.relative_to(study).as_posix()] = f"{kind} of no case"
    return left_out


def _files_below(folder: Path, known: set[Path]) -> Iterator[Path]:
    """Go through the files below a folder, except below those that are known."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path in known:
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files_below(path, known)
        else:
            yield path


def _lies_inside(raw_dir: Path, study: Path) -> bool:
    return raw_dir.resolve().is_relative_to(study.resolve())


def _about_the_workspace(
    study: Path, dataset_dir: Path, bytes_needed: int
) -> list[Finding]:
    """Say what `convert` would meet where it is to write; nothing is written."""
    if _lies_inside(dataset_dir.parent, study):
        text = "The workspace lies inside the study: `convert` will refuse it. Choose"
        return [Finding("F05", Outcome.WARNED, f"{text} another with --workspace.")]
    findings = list(check_files(dataset_dir))
    free = free_bytes(dataset_dir)
    if not dataset_dir.exists() and free < bytes_needed:
        text = (
            f"The dataset may need up to {format_bytes(bytes_needed)}, but "
            f"{format_bytes(free)} are free: free some space."
        )
        findings.append(Finding("F06", Outcome.WARNED, text))
    return findings


def _checked(plan: CasePlan, recipe: Recipe, tally: _Tally) -> ConvertedCase:
    try:
        assembled = assemble_case(plan, recipe)
    except BridgeError as error:
        return _refused(plan, error, tally)[0]
    tally.count(assembled.files, len(plan.masks), used=True)
    tally.bytes_needed += case_bytes(assembled)
    return ConvertedCase(plan.case_id, assembled.findings, plan.split)


def _converted(plan: CasePlan, writer: DatasetWriter, tally: _Tally) -> ConvertedCase:
    try:
        assembled = assemble_case(plan, writer.recipe)
    except BridgeError as error:
        report, account = _refused(plan, error, tally)
        writer.drop(plan, report.findings, account)
        return report
    tally.count(assembled.files, len(plan.masks), used=True)
    writer.write(plan, assembled)
    return ConvertedCase(plan.case_id, assembled.findings, plan.split, rewritten=True)


def _refused(
    plan: CasePlan, error: BridgeError, tally: _Tally
) -> tuple[ConvertedCase, FileAccount]:
    """Return report and files of a refused case; let the machine's own faults pass."""
    if isinstance(error, EnvironmentFault):
        raise error
    account = error.files if isinstance(error, CaseRefused) else FileAccount()
    if account.found == 0:
        scans = [name for name in input_files(plan) if name.startswith("scan/")]
        names = [name.removeprefix("scan/") for name in scans]
        account = FileAccount(
            excluded=tuple((name, "the case was refused") for name in names)
        )
    tally.count(account, len(plan.masks), used=False)
    report = ConvertedCase(plan.case_id, findings_of_error(error), plan.split)
    return report, account
