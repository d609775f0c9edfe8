"""Clean labelmaps and account for every change.

Beside the results lies ``clean.json``: input, rule, result and changes of every case. A
case for which all of these still hold is not cleaned again (FAULTS R12).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_bridge.core.aligned import aligned, number
from nnunet_bridge.core.cases import CaseReport, exit_code_of, run_case
from nnunet_bridge.core.cleaning import CleaningRule
from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.core.progress import Progress, steps
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import Rule
from nnunet_bridge.formats.files import (
    readable_object,
    sha256_of,
    write_if_changed,
    write_json,
)
from nnunet_bridge.formats.kept import holds
from nnunet_bridge.formats.labels_file import DATASET_FILE
from nnunet_bridge.formats.nifti import read_labelmap, write_labelmap
from nnunet_bridge.ops.cleanup import clean_alike
from nnunet_bridge.pipeline.labels.folders import (
    ENDINGS,
    label_files,
    table_file_for,
    table_for,
)

RECORD = "clean.json"
SOURCE_RULE = CleaningRule(Rule.SLICE)
"""The rule of the source report."""


@dataclass(frozen=True, slots=True)
class CleanedCase(CaseReport):
    """The report of a case that was cleaned."""

    account: JsonObject = field(default_factory=dict)
    """Structures, contested voxels, rule and hashes; empty if refused."""

    def details(self) -> JsonObject:
        """Return the account of the changes."""
        return self.account


@dataclass(frozen=True, slots=True)
class CleanSummary:
    """The changes that cleaning made in every case."""

    rule: CleaningRule
    cases: tuple[CleanedCase, ...]

    @property
    def exit_code(self) -> int:
        """0; 4 if some cases were refused; 3 if all were."""
        return exit_code_of(self.cases)

    def as_json(self) -> JsonObject:
        """Return the rule, and the removed and filled volumes by case and structure."""
        return {**self.rule.as_json(), "cases": [case.as_json() for case in self.cases]}

    def as_text(self) -> str:
        """Return a line per case and structure, then the cases with findings."""
        rows = [
            (
                case.case_id,
                name,
                number(change["removed_mm3"], 1),
                number(change["filled_mm3"], 1),
            )
            for case in self.cases
            for name, change in case.account.get("structures", {}).items()
        ]
        header = ("case", "structure", "removed (mm3)", "filled (mm3)")
        lines = [aligned(header, rows)] if rows else []
        lines += [case.as_text() for case in self.cases if case.findings]
        return "\n".join(lines)


def clean_labels(
    labels: Path,
    out: Path,
    *,
    rule: CleaningRule = SOURCE_RULE,
    labels_file: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> CleanSummary:
    """Clean a label file, or every label file of a folder.

    Parameters
    ----------
    labels : Path
        A file, or a folder of ``<case>.nii.gz`` or ``<case>/labels.nii.gz``.
    out : Path
        A folder, which gets files of the same names; or a file, if `labels` is one.
    labels_file : Path, optional
        nnU-Net's ``dataset.json``; by default one beside the files.
    force : bool
        Clean cases again whose results still hold.

    Raises
    ------
    UsageError
        If a result would replace its own input.
    """
    if labels.is_dir() and out.name.endswith(ENDINGS):
        raise UsageError(f"{labels} is a folder: name a folder for OUT, not {out}.")
    files = label_files(labels)
    places = {case: _place(labels, file, out) for case, file in files.items()}
    _check_apart(files, places)
    table_file = table_file_for([labels], labels_file)
    cleaner = _Cleaner(rule, table_for(table_file, files.values()))
    record = _record_file(labels, out)
    earlier = _earlier(record)
    cases = []
    for case_id, file in steps(progress, "clean", files.items()):
        known = {} if force else earlier.get(case_id, {})
        cases.append(cleaner.clean(case_id, file, places[case_id], known))
    summary = CleanSummary(rule, tuple(cases))
    if labels.is_dir() and table_file is not None:
        write_if_changed(out / DATASET_FILE, table_file.read_bytes())
    if force or summary.as_json()["cases"] != list(earlier.values()):
        write_json(record, summary.as_json())
    return summary


@dataclass(frozen=True, slots=True)
class _Cleaner:
    """Cleans the cases of one call by one rule."""

    rule: CleaningRule
    labels: LabelTable

    def clean(
        self, case_id: str, file: Path, place: Path, known: JsonObject
    ) -> CleanedCase:
        """Clean one case, unless the record of an earlier call still holds."""
        report, account = run_case(case_id, lambda: self._account(file, place, known))
        return CleanedCase(case_id, report.findings, account or {})

    def _account(self, file: Path, place: Path, known: JsonObject) -> JsonObject:
        facts: JsonObject = {
            **self.rule.as_json(),
            "labels": list(self.labels.names),
            "source_sha256": _sha256(file),
        }
        if place.is_file() and holds(known, {**facts, "sha256": sha256_of(place)}):
            return {key: known[key] for key in known if key not in _REPORT_KEYS}
        cleaned = clean_alike(read_labelmap(file, self.labels), self.rule)
        write_labelmap(place, cleaned.labelmap)
        return {
            **facts,
            "sha256": sha256_of(place),
            "file": place.name,
            "account": cleaned.rule,
            "contested_voxels": cleaned.contested_voxels,
            "structures": {
                name: {
                    "removed_mm3": cleaned.removed_mm3[name],
                    "filled_mm3": cleaned.filled_mm3[name],
                }
                for name in self.labels.names
            },
        }


_REPORT_KEYS = frozenset(CaseReport("").as_json())


def _sha256(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from error


def _place(labels: Path, file: Path, out: Path) -> Path:
    """Return the file that the result of `file` is written to."""
    if labels.is_dir():
        return out / file.relative_to(labels)
    return out if out.name.endswith(ENDINGS) else out / file.name


def _record_file(labels: Path, out: Path) -> Path:
    if labels.is_dir() or not out.name.endswith(ENDINGS):
        return out / RECORD
    return out.with_name(f"{out.name}.{RECORD}")


def _check_apart(files: Mapping[str, Path], places: Mapping[str, Path]) -> None:
    for case_id, file in files.items():
        if file.resolve() == places[case_id].resolve():
            raise UsageError(
                f"The result would replace its input {file}: name another OUT."
            )


def _earlier(record: Path) -> dict[str, JsonObject]:
    """Return the entries of an earlier record by case; none if it is damaged."""
    content, _ = readable_object(record)
    try:
        return {case["case"]: dict(case) for case in content.get("cases", [])}
    except (KeyError, TypeError, ValueError):
        return {}
