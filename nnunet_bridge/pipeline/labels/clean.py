"""Clean labelmaps and account for every change.

Beside the results lies ``clean.json``: input, rule, result and changes of every case. A
case for which all of these still hold is not cleaned again (FAULTS R12).
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from nnunet_bridge.core.cases import CaseReport, CasesSummary, run_case
from nnunet_bridge.core.cleaning import CleaningRule
from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.core.progress import Progress, steps
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import number
from nnunet_bridge.core.words import Rule
from nnunet_bridge.formats.files import (
    readable_object,
    sha256_of,
    write_if_changed,
    write_json,
)
from nnunet_bridge.formats.images import NIFTI
from nnunet_bridge.formats.kept import holds
from nnunet_bridge.formats.labels_file import DATASET_FILE
from nnunet_bridge.formats.nifti import (
    is_changed,
    read_array,
    read_labelmap,
    write_labelmap,
)
from nnunet_bridge.ops.cleanup import clean_alike
from nnunet_bridge.pipeline.labels.folders import (
    label_files,
    table_file_for,
    table_for,
)

RECORD = "clean.json"
SOURCE_RULE = CleaningRule(Rule.SLICE)  # the rule of the source report


@dataclass(frozen=True, slots=True)
class CleanedCase(CaseReport):
    """The report of a case that was cleaned."""

    account: JsonObject = field(default_factory=dict)
    """Structures, contested voxels, rule and hashes; empty if refused."""

    def details(self) -> JsonObject:
        """Return the account of the changes."""
        return self.account


@dataclass(frozen=True, slots=True)
class CleanSummary(CasesSummary):
    """The changes that cleaning made in every case."""

    cases: tuple[CleanedCase, ...]
    rule: CleaningRule

    def as_json(self) -> JsonObject:
        """Return the rule, and the removed and filled volumes by case and structure."""
        return self.rule.as_json() | {"cases": [case.as_json() for case in self.cases]}

    def as_text(self) -> str:
        """Return a line per case and structure, then the cases with findings."""
        changes = ("removed_mm3", "filled_mm3")
        rows = [
            (case.case_id, name, *(number(change[key], 1) for key in changes))
            for case in self.cases
            for name, change in case.account.get("structures", {}).items()
        ]
        header = ("case", "structure", "removed (mm3)", "filled (mm3)")
        return "\n".join(self.table(header, rows))


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

    Raises `UsageError` if a result would replace its own input.
    """
    if labels.is_dir() and out.name.endswith(NIFTI):
        raise UsageError(f"{labels} is a folder: name a folder for OUT, not {out}.")
    files = label_files(labels, NIFTI)
    places = {case: _place(labels, file, out) for case, file in files.items()}
    for case_id, file in files.items():
        if file.resolve() == places[case_id].resolve():
            text = f"The result would replace its input {file}: name another OUT."
            raise UsageError(text)
    table_file = table_file_for([labels], labels_file)
    table = table_for(table_file, files.values())
    record = _record_file(labels, out)
    earlier = _earlier(record)
    cases = []
    for case_id, file in steps(progress, "clean", files.items()):
        known = None if force else earlier.get(case_id, {})
        work = partial(_account, file, places[case_id], rule, table, known)
        report, account = run_case(case_id, work)
        cases.append(CleanedCase(case_id, report.findings, account or {}))
    summary = CleanSummary(tuple(cases), rule)
    if labels.is_dir() and table_file is not None:
        write_if_changed(out / DATASET_FILE, table_file.read_bytes())
    if force or summary.as_json()["cases"] != list(earlier.values()):
        write_json(record, summary.as_json())
    return summary


def _account(
    file: Path,
    place: Path,
    rule: CleaningRule,
    table: LabelTable,
    known: JsonObject | None,
) -> JsonObject:
    """Clean one case, unless `known`, the record of an earlier call, still holds.

    A file that is there and is not on record is kept (F04), unless `known` is None.
    """
    try:
        source = sha256_of(file)
    except OSError as error:
        raise InputError(f"Cannot read {file}: {error.strerror}.") from error
    names = list(table.names)
    facts = {**rule.as_json(), "labels": names, "source_sha256": source}
    if (
        known is not None
        and place.is_file()
        and holds(known, {**facts, "sha256": sha256_of(place)})
    ):
        reported = CaseReport("").as_json()
        return {key: known[key] for key in known if key not in reported}
    cleaned = clean_alike(read_labelmap(file, table), rule)
    if (
        known is not None
        and is_changed(place, known.get("sha256", ""))
        and not np.array_equal(read_array(place)[1], cleaned.labelmap.voxels)
    ):
        raise Refused.because(
            "F04",
            f"{quoted(place.name)} is there and was not written by `clean`, or was "
            "changed since: name another OUT, or replace it with --force.",
        )
    write_labelmap(place, cleaned.labelmap)
    removed, filled = cleaned.removed_mm3, cleaned.filled_mm3
    return {
        **facts,
        "sha256": sha256_of(place),
        "file": place.name,
        "account": cleaned.rule,
        "contested_voxels": cleaned.contested_voxels,
        "structures": {
            name: {"removed_mm3": removed[name], "filled_mm3": filled[name]}
            for name in names
        },
    }


def _place(labels: Path, file: Path, out: Path) -> Path:
    """Return the file that the result of `file` is written to."""
    if labels.is_dir():
        return out / file.relative_to(labels)
    return out if out.name.endswith(NIFTI) else out / file.name


def _record_file(labels: Path, out: Path) -> Path:
    if labels.is_dir() or not out.name.endswith(NIFTI):
        return out / RECORD
    return out.with_name(f"{out.name}.{RECORD}")


def _earlier(record: Path) -> dict[str, JsonObject]:
    """Return the entries of an earlier record by case; none if it is damaged."""
    content, _ = readable_object(record)
    try:
        return {case["case"]: dict(case) for case in content.get("cases", [])}
    except (KeyError, TypeError, ValueError):
        return {}
