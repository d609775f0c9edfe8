"""Compare score tables of any origin: raters, other tools, last year's model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.formats.tables import read_patients, read_scores
from nnunet_bridge.pipeline.comparison.report import (
    ComparisonSummary,
    ReportOptions,
    write_comparison,
)
from nnunet_bridge.pipeline.models.run_facts import ModelRun
from nnunet_bridge.pipeline.models.validation import ValidatedStudy


@dataclass(frozen=True, slots=True)
class TableOptions:
    """The tables to compare, and the contents of the report."""

    tables: Sequence[tuple[str, Path]]  # name in the comparison, and file
    patients: Path | None = None
    """Table with `case` and `patient`; by default a case is a patient."""

    margins: Mapping[str, float] = field(default_factory=dict)
    latex: bool = False


def table_of(word: str) -> tuple[str, Path]:
    """Return name and file of the option ``NAME=FILE``."""
    name, equals, file = word.partition("=")
    if not (equals and name.strip() and file) or not name.strip().isprintable():
        raise UsageError(f"Invalid --scores {word!r}. Write NAME=FILE.")
    return name.strip(), Path(file)


def compare_tables(out_dir: Path, options: TableOptions) -> ComparisonSummary:
    """Compare score tables; `out_dir` gets the page and the tables.

    Raises `InputError` if a table cannot be read, two have the same name, or the
    patient of a case is missing.
    """
    names = [name for name, _ in options.tables]
    if len(set(names)) < len(names):
        raise InputError(f"Two tables have the same name: {', '.join(names)}.")
    scores = {name: read_scores(file, name) for name, file in options.tables}
    cases = {score.case_id: score.case_id for own in scores.values() for score in own}
    patients = cases if options.patients is None else read_patients(options.patients)
    structures = {score.structure: None for own in scores.values() for score in own}
    runs = tuple(ModelRun(name, "score table", ()) for name in names)
    nowhere = out_dir / "no images"
    study = ValidatedStudy(
        runs, nowhere, nowhere, LabelTable.from_names(list(structures)), None
    )
    title = " against ".join(names)
    report = ReportOptions(title, margins=options.margins, latex=options.latex)
    return write_comparison(out_dir, study, patients, report, scores=scores)
