"""Find the training masks to check first, and write what is needed to correct them.

Each case gets a ``.seg.nrrd`` with its masks and their prediction. ``audit.json``
records every mask and file: so the next audit tells which masks were changed, and keeps
the files that somebody edited.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

from nnunet_bridge.core.audit import AuditedMask, AuditRecord
from nnunet_bridge.core.cases import CaseReport, CasesSummary, run_case
from nnunet_bridge.core.errors import BridgeError, InputError
from nnunet_bridge.core.findings import Finding, warning
from nnunet_bridge.core.image import Labelmap
from nnunet_bridge.core.progress import Progress, steps
from nnunet_bridge.core.records import to_record
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import format_instant
from nnunet_bridge.core.words import ALL_CASES
from nnunet_bridge.formats.files import read_record, sha256_of, write_json
from nnunet_bridge.formats.html.audit_page import ShownMask, write_audit_page
from nnunet_bridge.formats.pictures import PLANES
from nnunet_bridge.formats.slicer import SEGMENTATION_ENDING
from nnunet_bridge.formats.slicer_write import write_labelmap_segmentation
from nnunet_bridge.formats.sprites import SlicePicture, structure_picture
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.ops.audit import (
    LEAST_DICE,
    MeasuredMask,
    badly_predicted,
    measure_masks,
    rank_masks,
)
from nnunet_bridge.pipeline.models.choose import ModelRequest, choose_model
from nnunet_bridge.pipeline.models.run_facts import ModelRun, fold_run
from nnunet_bridge.pipeline.models.validation import ValidatedStudy

RECORD, PAGE = "audit.json", "index.html"
MOST_SHOWN, FEWEST_SHOWN = 40, 5  # masks with pictures
_PRINTED = 10
_SHAPE_ONLY = "Masks are judged by their shape, size and place alone"
_Pictures: TypeAlias = dict[tuple[str, str], Sequence[SlicePicture]]


@dataclass(frozen=True, slots=True)
class AuditSummary(CasesSummary):
    """The ranking, and the page that shows it."""

    record: AuditRecord
    page: Path

    def as_json(self) -> JsonObject:
        """Return the record without the files, then the cases and the page."""
        content, cases = to_record(self.record), [one.as_json() for one in self.cases]
        del content["schema"], content["files"]
        return {**content, "cases": cases, "page": str(self.page)}

    def as_text(self) -> str:
        """Return the first masks as a table, then cases with findings and notes."""
        masks, changes = self.record.masks, self.record.changes
        rows = [
            (m.case, m.structure, f"{m.suspicion:.1f}", m.worst)
            for m in masks[:_PRINTED]
        ]
        lines = self.table(("case", "structure", "suspicion", "worst figure"), rows)
        count = sum(mask.suspicious for mask in masks)
        lines.append(f"{count} of {len(masks)} masks are suspicious.")
        lines += [f"{len(changes)} masks changed."] if changes else []
        return "\n".join([*lines, *self.record.notes, f"Pictures: {self.page}"])


def audit_dataset(
    dataset: Dataset,
    out: Path,
    request: ModelRequest | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> AuditSummary:
    """Rank the training masks; write page, record and a file to correct for each case.

    They are compared with what the folds of `choose_model` predicted for the cases that
    they held out, or by their shape alone where no model has finished. With `force`,
    files that were edited since the last audit are replaced.

    Raises `InputError` if there are no training cases, or no model as requested.
    """
    raw = RawDataset.open(dataset.raw_dir)
    cases = raw.training_cases()
    if not cases:
        raise InputError(f"{dataset} has no training cases: run `convert` first.")
    runs, notes = _cross_validated(dataset, request or ModelRequest())
    audit = _Audit.of(ValidatedStudy.of(raw, runs), out, force=force)
    if runs and (without := set(cases) - set(audit.predictions)):
        names = ", ".join(sorted(without))
        notes = (*notes, f"{_SHAPE_ONLY} where no fold held the case out: {names}.")
    reports = []
    for case_id, _ in steps(progress, "audit", [(case, case) for case in cases]):
        report, findings = run_case(case_id, partial(audit.measure, case_id))
        reports.append(CaseReport(case_id, (*report.findings, *(findings or ()))))
    notes += tuple(
        f"{name}: its predictions are not compared, because their median Dice is "
        f"{dice:.2f}, below {LEAST_DICE}."
        for name, dice in badly_predicted(audit.measured).items()
    )
    masks = rank_masks(audit.measured)
    model = runs[0].name if runs else ""
    named = dataset.name, model, format_instant(), notes, masks
    record = AuditRecord(*named, files=audit.files)
    if (earlier := audit.earlier) is not None:
        refused = {report.case_id for report in reports if report.refused}
        new = (c for c in record.changes_since(earlier) if c.case not in refused)
        changes = tuple(new) or earlier.changes
        record = replace(record, changes=changes)
    write_audit_page(out / PAGE, record, list(audit.shown(masks)), raw.labels)
    write_json(out / RECORD, to_record(record))
    return AuditSummary(tuple(reports), record, out / PAGE)


@dataclass(slots=True)
class _Audit:
    """One call of `audit_dataset`."""

    study: ValidatedStudy
    predictions: dict[str, Path]  # case -> by the fold that held it out
    out: Path
    earlier: AuditRecord | None
    force: bool
    measured: dict[str, dict[str, MeasuredMask]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, study: ValidatedStudy, out: Path, *, force: bool) -> "_Audit":
        """Find the predictions, and the record of an earlier audit."""
        found = study.predictions().items()
        predictions = {case: file for case, by in found for file, *_ in by.values()}
        file, way_out = out / RECORD, "remove it and run `audit` again"
        earlier = read_record(file, AuditRecord, way_out) if file.is_file() else None
        return cls(study, predictions, out, earlier, force)

    def measure(self, case_id: str) -> list[Finding]:
        """Measure the masks of a case and write its file; return the findings."""
        findings: list[Finding] = []
        reference = self.study.reference(case_id)
        try:
            prediction = self._prediction(case_id)
            self.measured[case_id] = measure_masks(reference, prediction)
        except BridgeError as error:
            self.predictions.pop(case_id, None)
            prediction, self.measured[case_id] = None, measure_masks(reference)
            text = f"Its prediction cannot be used: {error} {_SHAPE_ONLY}."
            findings.append(warning(error.code, text))
        file = self._file(case_id)
        known = self.earlier.files.get(file.name, "") if self.earlier else ""
        if file.is_file() and sha256_of(file) != known and not self.force:
            self.files[file.name] = known
            text = f"{file.name} was edited and is kept: move it away, or replace it"
            findings.append(warning("F04", f"{text} with --force."))
        else:
            write_labelmap_segmentation(file, reference, prediction)
            self.files[file.name] = sha256_of(file)
        return findings

    def shown(self, ranked: Sequence[AuditedMask]) -> Iterator[ShownMask]:
        """Yield the masks that get pictures; the files of a case are read once."""
        few, more = ranked[:FEWEST_SHOWN], ranked[FEWEST_SHOWN:MOST_SHOWN]
        first = [*few, *(mask for mask in more if mask.suspicious)]
        pictures: _Pictures = {}
        for case_id in dict.fromkeys(mask.case for mask in first):
            names = [mask.structure for mask in first if mask.case == case_id]
            _, found = run_case(case_id, partial(self._pictures, case_id, names))
            pictures |= found or {}
        for mask in first:
            link = quote(self._file(mask.case).name)
            yield ShownMask(mask, pictures.get(mask.key, ()), link)

    def _pictures(self, case_id: str, names: Sequence[str]) -> _Pictures:
        """Return the pictures of some structures of a case; none without an image."""
        image = self.study.image(case_id)
        if image is None:
            return {}
        reference = self.study.reference(case_id).without_ignored()
        shown = partial(structure_picture, image, reference, self._prediction(case_id))
        return {
            (case_id, name): [
                shown(label=reference.labels[name], plane=plane) for plane in PLANES
            ]
            for name in names
        }

    def _prediction(self, case_id: str) -> Labelmap | None:
        file = self.predictions.get(case_id)
        return self.study.prediction(file) if file else None

    def _file(self, case_id: str) -> Path:
        return self.out / f"{case_id}{SEGMENTATION_ENDING}"


def _cross_validated(
    dataset: Dataset, request: ModelRequest
) -> tuple[tuple[ModelRun, ...], tuple[str, ...]]:
    """Return the folds to compare with, or why there are none."""
    try:
        model = choose_model(dataset, request)
    except InputError:
        if request != ModelRequest():
            raise
        return (), (f"{_SHAPE_ONLY}: no model has finished.",)
    states = [s for s in model.states if s.done and s.run.fold != ALL_CASES]
    if not states:
        return (), (f"{_SHAPE_ONLY}: {model.name} has no fold that held cases out.",)
    configuration = states[0].run.configuration
    return (ModelRun(model.name, configuration, tuple(map(fold_run, states))),), ()
