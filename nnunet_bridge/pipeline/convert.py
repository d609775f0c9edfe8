"""DICOM scans and masks -> an nnU-Net raw dataset, one case in memory at a time.

`check_study` does everything but write. `convert_study` writes each case whole or not
at all, the manifest last, and on a second run only what is missing or has changed
(FAULTS R12, F09).
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_bridge.core.errors import BridgeError, EnvironmentFault, InputError
from nnunet_bridge.core.findings import Finding, Outcome, worst
from nnunet_bridge.core.image import VoxelArray
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.version import __version__
from nnunet_bridge.formats.dicom import FileAccount
from nnunet_bridge.formats.files import (
    only_writer,
    pseudonym,
    read_json,
    sha256_of,
    without_quotes,
    write_json,
)
from nnunet_bridge.formats.labels_file import IGNORE
from nnunet_bridge.formats.manifest import (
    KEY_FOLDER,
    MANIFEST,
    Record,
    check_files,
    outputs_intact,
    read_manifest,
    records_by_case,
    region_record,
    salt_of,
    write_manifest,
)
from nnunet_bridge.formats.nifti import write_labelmap, write_volume
from nnunet_bridge.formats.recipe import Recipe
from nnunet_bridge.nnunet.names import FILE_ENDING, dataset_folder_name
from nnunet_bridge.pipeline.cases import (
    AssembledCase,
    CaseRefused,
    assemble_case,
    input_files,
)
from nnunet_bridge.pipeline.matching import CasePlan, StudyPlan, plan_study

_SPACE_FACTOR = 2
"""Free disk space asked for, in multiples of a case's uncompressed size (F06)."""

_CASE_REFUSED = "the case was refused"
_MARKS = {
    Outcome.ACCEPTED: "ok",
    Outcome.FIXED: "fixed",
    Outcome.WARNED: "warned",
    Outcome.REFUSED: "REFUSED",
}


@dataclass(frozen=True, slots=True)
class CaseReport:
    """What happened to one case."""

    case_id: str
    outcome: Outcome
    codes: tuple[str, ...]
    messages: tuple[str, ...]
    split: str
    """``train`` or ``test``."""

    rewritten: bool = False
    """Whether this run wrote its files."""

    def as_json(self) -> JsonObject:
        """Return the object that `--json` lists."""
        return {
            "case": self.case_id,
            "outcome": str(self.outcome),
            "codes": list(self.codes),
            "messages": list(self.messages),
            "split": self.split,
            "rewritten": self.rewritten,
        }


@dataclass(frozen=True, slots=True)
class ConversionSummary:
    """What `check` and `convert` give back."""

    dataset: str
    """Such as ``Dataset001_Tibia``."""

    cases: tuple[CaseReport, ...]
    files: dict[str, int]
    """``found``, ``used``, ``excluded``, ``failed``; found is the sum of the others."""

    findings: tuple[Finding, ...]
    """About the study or the dataset as a whole."""

    dataset_dir: Path | None = field(default=None, compare=False)
    """Where the dataset lies; None after `check`."""

    @property
    def exit_code(self) -> int:
        """0 all cases done, 4 some refused, 3 all refused."""
        refused = sum(case.outcome is Outcome.REFUSED for case in self.cases)
        if refused and refused == len(self.cases):
            return 3
        return 4 if refused or worst(self.findings) is Outcome.REFUSED else 0

    def as_json(self) -> JsonObject:
        """Return the one object that `--json` prints."""
        return {
            "dataset": self.dataset,
            "cases": [case.as_json() for case in self.cases],
            "files": dict(self.files),
            "codes": [f.code for f in self.findings if f.code],
            "messages": [finding.message for finding in self.findings],
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
        counts = Counter(str(case.outcome) for case in self.cases)
        listed = ", ".join(
            f"{counts[str(kind)]} {kind}" for kind in Outcome if counts[str(kind)]
        )
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.files.items())
        lines.append(f"{len(self.cases)} cases: {listed}. Files: {kinds}.")
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
    study: Path, recipe: Recipe, *, progress: Progress | None = None
) -> ConversionSummary:
    """Do everything that `convert_study` would do, without writing.

    Parameters
    ----------
    study : Path
        The study folder.
    recipe : Recipe
        How to read it.
    progress : Progress, optional
        Hears of every case.

    Raises
    ------
    InputError
        If the study holds no scan that the recipe knows.
    """
    listener = progress or Silent()
    plan = plan_study(study, recipe)
    tally = _Tally(plan)
    listener.stage("check", len(plan.cases))
    for done, case_plan in enumerate(plan.cases, start=1):
        tally.add(_checked(case_plan, recipe, tally))
        listener.advance(done, case_plan.case_id)
    return tally.summary(dataset_folder_name(recipe.spec()))


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
    if workspace_raw_dir.resolve().is_relative_to(study.resolve()):
        raise InputError(
            f"The workspace {workspace_raw_dir} lies inside the study {study}: choose "
            "a workspace outside, so that input and output never mix.",
            code="F05",
        )
    plan = plan_study(study, recipe)
    dataset = dataset_folder_name(recipe.spec())
    lock = workspace_raw_dir.parent / KEY_FOLDER / "locks" / f"{dataset}.lock"
    with only_writer(lock, f"The dataset {dataset}"):
        writer = _DatasetWriter(workspace_raw_dir, dataset, recipe)
        try:
            summary = _convert_all(plan, writer, listener, force=force)
        finally:
            writer.remove_empty_folders()
    return summary


def _convert_all(
    plan: StudyPlan, writer: _DatasetWriter, listener: Progress, *, force: bool
) -> ConversionSummary:
    tally = _Tally(plan)
    listener.stage("convert", len(plan.cases))
    for done, case_plan in enumerate(plan.cases, start=1):
        report = writer.kept(case_plan, tally) if not force else None
        if report is None:
            report = _converted(case_plan, writer, tally)
        tally.add(report)
        listener.advance(done, case_plan.case_id)
    writer.finish({case_plan.case_id for case_plan in plan.cases})
    tally.findings += check_files(writer.dataset_dir)
    return tally.summary(writer.dataset_dir.name, writer.dataset_dir)


@dataclass(slots=True)
class _Tally:
    """Reports and counts while case after case goes by."""

    plan: StudyPlan
    reports: list[CaseReport] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.findings += self.plan.findings
        self.files["excluded"] += self.plan.unmatched_masks

    def add(self, report: CaseReport) -> None:
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


def _checked(plan: CasePlan, recipe: Recipe, tally: _Tally) -> CaseReport:
    try:
        assembled = assemble_case(plan, recipe)
    except BridgeError as error:
        report, _ = _refused(plan, error, tally)
        return report
    tally.count(assembled.files, len(plan.masks), used=True)
    return _report(plan, assembled.findings)


def _converted(plan: CasePlan, writer: _DatasetWriter, tally: _Tally) -> CaseReport:
    try:
        assembled = assemble_case(plan, writer.recipe)
    except BridgeError as error:
        report, account = _refused(plan, error, tally)
        writer.drop(plan, report, account)
        return report
    tally.count(assembled.files, len(plan.masks), used=True)
    report = _report(plan, assembled.findings, rewritten=True)
    writer.write(plan, assembled, report)
    return report


def _refused(
    plan: CasePlan, error: BridgeError, tally: _Tally
) -> tuple[CaseReport, FileAccount]:
    """Return report and files of a refused case; let the machine's own faults pass."""
    if isinstance(error, EnvironmentFault):
        raise error
    findings: Sequence[Finding] = [Finding(error.code, Outcome.REFUSED, str(error))]
    account = FileAccount()
    if isinstance(error, CaseRefused):
        findings, account = error.findings, error.files
    if account.found == 0:
        account = FileAccount(
            excluded=tuple(
                (name.removeprefix("scan/"), _CASE_REFUSED)
                for name in input_files(plan)
                if name.startswith("scan/")
            )
        )
    tally.count(account, len(plan.masks), used=False)
    return _report(plan, findings), account


def _report(
    plan: CasePlan, findings: Iterable[Finding], *, rewritten: bool = False
) -> CaseReport:
    ordered = sorted(findings, key=lambda finding: -finding.outcome)
    return CaseReport(
        plan.case_id,
        worst(ordered),
        tuple(dict.fromkeys(f.code for f in ordered if f.code)),
        tuple(dict.fromkeys(str(f) for f in ordered)),
        plan.split,
        rewritten,
    )


class _DatasetWriter:
    """Writes cases into one dataset folder and remembers them for the manifest."""

    def __init__(self, raw_dir: Path, dataset: str, recipe: Recipe) -> None:
        self.recipe = recipe
        self.dataset_dir = raw_dir / dataset
        self._salt = salt_of(raw_dir)
        self._old = read_manifest(self.dataset_dir)
        self._known = records_by_case(self._old)
        self._records: dict[str, Record] = {}
        self._inputs: dict[str, list[JsonObject]] = {}

    def kept(self, plan: CasePlan, tally: _Tally) -> CaseReport | None:
        """Return the old report of a case that is done and unchanged (R12)."""
        known = self._known.get(plan.case_id)
        if (
            known is None
            or known["outcome"] == str(Outcome.REFUSED)
            or worst(plan.findings) is Outcome.REFUSED
            or known.get("recipe_sha256") != self.recipe.digest()
            or known.get("version") != __version__
            or known["split"] != plan.split
            or known["inputs"] != self._inputs_of(plan)
            or not outputs_intact(self.dataset_dir, known)
        ):
            return None
        self._records[plan.case_id] = known
        for kind, number in known["files"].items():
            tally.files[kind] += number
        return CaseReport(
            plan.case_id,
            Outcome[known["outcome"].upper()],
            tuple(known["codes"]),
            tuple(known["messages"]),
            plan.split,
        )

    def write(
        self, plan: CasePlan, assembled: AssembledCase, report: CaseReport
    ) -> None:
        """Write image and labelmap, or neither."""
        image = assembled.case.images[0]
        labelmap = assembled.case.reference
        _ask_for_space(self.dataset_dir, image.voxels.nbytes + image.voxels.size)
        self._forget_outputs(plan.case_id)
        image_name = f"{plan.image_folder}/{plan.case_id}_0000{FILE_ENDING}"
        label_name = f"{plan.label_folder}/{plan.case_id}{FILE_ENDING}"
        outputs = [(image_name, image.voxels)]
        try:
            write_volume(self.dataset_dir / image_name, image)
            if labelmap is not None:
                write_labelmap(self.dataset_dir / label_name, labelmap)
                outputs.append((label_name, labelmap.voxels))
        except BaseException:
            for name in (image_name, label_name):
                with contextlib.suppress(OSError):
                    (self.dataset_dir / name).unlink()
            raise
        record = self._record(plan, report)
        record |= _account(assembled, self._hashed)
        record["region"] = {
            "crop": self.recipe.region.crop,
            **region_record(assembled.region),
        }
        record |= self._files(assembled.files, masks_used=len(plan.masks))
        record["outputs"] = [
            {
                "file": name,
                "sha256": sha256_of(self.dataset_dir / name),
                "voxels_sha256": _voxel_hash(voxels),
            }
            for name, voxels in outputs
        ]
        record["pair_sha256"] = _pair_hash(record["outputs"])
        self._records[plan.case_id] = record
        self._save(complete=False)

    def drop(self, plan: CasePlan, report: CaseReport, account: FileAccount) -> None:
        """Remember a refused case and remove what an earlier run wrote for it."""
        self._forget_outputs(plan.case_id)
        record = self._record(plan, report)
        unused = [(name, _CASE_REFUSED) for name in account.used]
        unused += [(f"mask/{mask.path.name}", _CASE_REFUSED) for mask in plan.masks]
        account = FileAccount((), (*account.excluded, *unused), account.failed)
        self._records[plan.case_id] = record | self._files(account)

    def finish(self, cases: set[str]) -> None:
        """Remove cases that are gone from the study; write dataset.json, manifest."""
        for case_id in set(self._known) - cases:
            self._forget_outputs(case_id)
        if not any(record.get("outputs") for record in self._records.values()):
            for name in ("dataset.json", MANIFEST):
                (self.dataset_dir / name).unlink(missing_ok=True)
            return
        self._save(complete=True)

    def remove_empty_folders(self) -> None:
        """Leave no empty folder behind where nothing was written."""
        for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs", "."):
            with contextlib.suppress(OSError):
                (self.dataset_dir / folder).rmdir()
        with contextlib.suppress(OSError):
            self.dataset_dir.parent.rmdir()

    def _save(self, *, complete: bool) -> None:
        """Write dataset.json and then the manifest, each only if it changes."""
        records = self._records if complete else {**self._known, **self._records}
        cases = [records[case] for case in sorted(records)]
        content = {
            "version": __version__,
            "complete": complete,
            "dataset": self.dataset_dir.name,
            "options": self.recipe.model_dump(mode="json"),
            "versions": _versions(),
            "cases": cases,
        }
        description = _dataset_json(self.recipe, cases)
        file = self.dataset_dir / "dataset.json"
        if not file.is_file() or read_json(file) != description:
            write_json(file, description)
        if {key: self._old.get(key) for key in content} != content:
            write_manifest(self.dataset_dir, content)
            self._old = dict(content)

    def _record(self, plan: CasePlan, report: CaseReport) -> Record:
        return {
            "case": plan.case_id,
            "outcome": str(report.outcome),
            "codes": list(report.codes),
            "messages": [self._anonymous(plan, text) for text in report.messages],
            "split": plan.split,
            "patient": self._hashed(plan.patient),
            "recipe_sha256": self.recipe.digest(),
            "version": __version__,
            "inputs": self._inputs_of(plan),
        }

    def _anonymous(self, plan: CasePlan, message: str) -> str:
        """Take every name of a file or folder of the user out of a message."""
        message = without_quotes(message)
        for name in (plan.scan_dir.name, *(mask.path.name for mask in plan.masks)):
            message = message.replace(name, "a file")
        return message.replace(str(plan.scan_dir.parent), "a folder")

    def _files(self, account: FileAccount, *, masks_used: int = 0) -> Record:
        """Return what became of every file, and why some were not used (R3)."""
        return {
            "files": {
                "used": len(account.used) + masks_used,
                "excluded": len(account.excluded),
                "failed": len(account.failed),
            },
            "not_used": [
                {
                    "name": self._hashed(
                        name if name.startswith("mask/") else f"scan/{name}"
                    ),
                    "state": state,
                    "reason": reason,
                }
                for state, files in (
                    ("excluded", account.excluded),
                    ("failed", account.failed),
                )
                for name, reason in files
            ],
        }

    def _inputs_of(self, plan: CasePlan) -> list[JsonObject]:
        if plan.case_id not in self._inputs:
            files = input_files(plan)
            self._inputs[plan.case_id] = [
                {"name": self._hashed(name), "sha256": sha256_of(file)}
                for name, file in sorted(files.items())
            ]
        return self._inputs[plan.case_id]

    def _hashed(self, value: str) -> str:
        return pseudonym(value, self._salt)

    def _forget_outputs(self, case_id: str) -> None:
        """Remove the files that an earlier run wrote for a case."""
        for output in self._known.get(case_id, {}).get("outputs", []):
            (self.dataset_dir / output["file"]).unlink(missing_ok=True)


def _account(assembled: AssembledCase, hashed: Callable[[str], str]) -> Record:
    """Return what the manifest says of a case's geometry, pixels and masks."""
    reading = assembled.reading
    grid = assembled.case.images[0].grid
    direction = grid.affine[:3, :3] / grid.spacing_mm
    return {
        "group": reading.group,
        "rejected_groups": list(reading.rejected_groups),
        "series": hashed(reading.series_uid),
        "frame_of_reference": hashed(reading.frame_of_reference_uid),
        "geometry": {
            "shape": list(grid.shape),
            "spacing_mm": _rounded(grid.spacing_mm),
            "direction": _rounded(direction.T.ravel()),
            "origin_mm": _rounded(grid.affine[:3, 3]),
            "frame": "LPS",
            "max_position_error_mm": round(reading.max_position_error_mm, 6),
            "declared_thickness_mm": reading.declared_thickness_mm,
            "declared_spacing_mm": reading.declared_spacing_mm,
        },
        "rescale": {
            "slopes": list(reading.rescale_slopes),
            "intercepts": list(reading.rescale_intercepts),
        },
        "interventions": dict(reading.interventions),
        "masks": [
            {**mask, "source": hashed(mask["source"]) if mask["source"] else ""}
            for mask in assembled.masks
        ],
        "overlaps": list(assembled.overlaps),
        "content": assembled.content,
        "ignored_share": round(assembled.ignored_share, 6),
    }


def _dataset_json(recipe: Recipe, records: Iterable[Record]) -> JsonObject:
    """Return what nnU-Net wants to know of the dataset."""
    spec = recipe.spec()
    training = [r for r in records if r.get("outputs") and r["split"] == "train"]
    labels = {label.name: label.value for label in spec.labels}
    if spec.labels.ignore_value is not None:
        labels[IGNORE] = spec.labels.ignore_value
    return {
        "channel_names": {str(n): name for n, name in enumerate(spec.channels)},
        "labels": {"background": 0, **labels},
        "numTraining": len(training),
        "file_ending": FILE_ENDING,
        "name": spec.name,
        "converted_by": f"nnunet-bridge {__version__}",
    }


def _ask_for_space(dataset_dir: Path, case_bytes: int) -> None:
    """Refuse to begin a case that may not fit on the disk (F06)."""
    needed = _SPACE_FACTOR * case_bytes
    folder = dataset_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EnvironmentFault(
            f"The next case may need {needed >> 20} MiB, but {folder} has "
            f"{free >> 20} MiB left: free some space.",
            code="F06",
        )


def _voxel_hash(voxels: VoxelArray) -> str:
    """Return the SHA-256 of the voxels in the order of the file."""
    digest = hashlib.sha256()
    for k in range(voxels.shape[2]):
        digest.update(np.asfortranarray(voxels[:, :, k]).tobytes(order="F"))
    return digest.hexdigest()


def _pair_hash(outputs: Iterable[JsonObject]) -> str:
    """Return one hash of image and labelmap: it tells an exchanged pair (K17)."""
    hashes = "".join(str(output["voxels_sha256"]) for output in outputs)
    return hashlib.sha256(hashes.encode()).hexdigest()


def _versions() -> JsonObject:
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "pydicom", "nibabel", "isal")}


def _rounded(numbers: Iterable[float]) -> list[float]:
    return [round(float(number), 6) + 0.0 for number in numbers]
