"""Labelmaps -> clean labelmaps, with an account of every change.

Beside the results lies a record: what was cleaned, by which rule, what changed. A case
whose input, rule and result are as the record says is not cleaned again (FAULTS R12).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_bridge.core.aligned import aligned, number
from nnunet_bridge.core.cleaning import CleaningRule
from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.files import (
    read_json,
    sha256_of,
    write_if_changed,
    write_json,
)
from nnunet_bridge.formats.labels_file import DATASET_FILE
from nnunet_bridge.formats.nifti import read_labelmap, write_labelmap
from nnunet_bridge.ops.cleanup import clean_alike
from nnunet_bridge.pipeline.labels.folders import (
    ENDINGS,
    CaseOutcome,
    attempted,
    exit_code_of,
    label_files,
    table_file_for,
    table_for,
)

RECORD = "clean.json"
SOURCE_RULE = CleaningRule("slice")
"""The rule of the source report."""


@dataclass(frozen=True, slots=True)
class CleanedCase:
    """One case: what happened to it, and the account of the changes."""

    outcome: CaseOutcome
    account: JsonObject
    """Structures, contested voxels, rule and hashes; empty if refused."""

    def as_json(self) -> JsonObject:
        """Return the entry of `cases`."""
        return {**self.outcome.as_json(), **self.account}


@dataclass(frozen=True, slots=True)
class CleanSummary:
    """What cleaning changed in every case."""

    rule: CleaningRule
    cases: tuple[CleanedCase, ...]

    @property
    def exit_code(self) -> int:
        """0; 4 if some cases were refused; 3 if all were."""
        return exit_code_of(case.outcome for case in self.cases)

    def as_json(self) -> JsonObject:
        """Return the rule, and per case and structure what was removed and filled."""
        return {
            **self.rule.as_json(),
            "cases": [case.as_json() for case in self.cases],
        }

    def as_text(self) -> str:
        """Return a line per case and structure, then what was refused."""
        rows = [
            (
                case.outcome.case_id,
                name,
                number(change["removed_mm3"], 1),
                number(change["filled_mm3"], 1),
            )
            for case in self.cases
            for name, change in case.account.get("structures", {}).items()
        ]
        header = ("case", "structure", "removed (mm3)", "filled (mm3)")
        lines = [aligned(header, rows)] if rows else []
        lines += [
            case.outcome.as_text() for case in self.cases if case.outcome.findings
        ]
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
    rule : CleaningRule
        For every structure; that of the source report by default.
    labels_file : Path, optional
        nnU-Net's ``dataset.json``; by default one beside the files.
    force : bool
        Clean again what is already there.
    progress : Progress, optional

    Raises
    ------
    UsageError
        If a result would replace its own input.
    InputError
        If there are no label files, or their labels are unknown.
    EnvironmentFault
        If `out` cannot be written.
    """
    listener = progress or Silent()
    if labels.is_dir() and out.name.endswith(ENDINGS):
        raise UsageError(f"{labels} is a folder, so {out} must be one, not a file.")
    files = label_files(labels)
    places = {case: _place(labels, file, out) for case, file in files.items()}
    _check_apart(files, places)
    table_file = table_file_for([labels], labels_file)
    story = _Story(rule, table_for(table_file, files.values()))
    record = _record_file(labels, out)
    earlier = {} if force else _earlier(record)
    listener.stage("clean", len(files))
    cases = []
    for done, (case_id, file) in enumerate(files.items(), start=1):
        known = earlier.get(case_id, {})
        cases.append(story.case(case_id, file, places[case_id], known))
        listener.advance(done, case_id)
    summary = CleanSummary(rule, tuple(cases))
    if labels.is_dir() and table_file is not None:
        write_if_changed(out / DATASET_FILE, table_file.read_bytes())
    if summary.as_json()["cases"] != list(earlier.values()):
        write_json(record, summary.as_json())
    return summary


@dataclass(frozen=True, slots=True)
class _Story:
    """How the cases of one call are cleaned."""

    rule: CleaningRule
    labels: LabelTable

    def case(
        self, case_id: str, file: Path, place: Path, known: JsonObject
    ) -> CleanedCase:
        """Clean one case, unless what is `known` of it still holds."""
        outcome, account = attempted(
            case_id, lambda: self._account(file, place, known.copy())
        )
        return CleanedCase(outcome, account or {})

    def _account(self, file: Path, place: Path, known: JsonObject) -> JsonObject:
        facts: JsonObject = {
            **self.rule.as_json(),
            "labels": list(self.labels.names),
            "source_sha256": _sha256(file),
        }
        same_job = place.is_file() and facts.items() <= known.items()
        if same_job and known.get("sha256") == sha256_of(place):
            return {key: known[key] for key in known if key not in _OUTCOME_KEYS}
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


_OUTCOME_KEYS = ("case", "outcome", "codes", "messages")


def _sha256(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from error


def _place(labels: Path, file: Path, out: Path) -> Path:
    """Return where the result of a file goes."""
    if labels.is_dir():
        return out / file.relative_to(labels)
    return out if out.name.endswith(ENDINGS) else out / file.name


def _record_file(labels: Path, out: Path) -> Path:
    if labels.is_dir() or not out.name.endswith(ENDINGS):
        return out / RECORD
    return out.with_name(f"{out.name}.{RECORD}")


def _check_apart(files: dict[str, Path], places: dict[str, Path]) -> None:
    for case_id, file in files.items():
        if file.resolve() == places[case_id].resolve():
            raise UsageError(f"{file} would be replaced by its own result.")


def _earlier(record: Path) -> dict[str, Any]:
    """Return the entries of an earlier record by case; none if it cannot be used."""
    try:
        cases = read_json(record)["cases"]
        return {case["case"]: dict(case) for case in cases}
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return {}
