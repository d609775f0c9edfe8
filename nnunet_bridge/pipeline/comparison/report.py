"""Write the report of a comparison: page, JSON, CSV and, on request, LaTeX.

`index.html` is for people, `comparison.json` for programs, `comparison.csv` for
spreadsheets; all three have the same numbers. `comparison.tex` is the table for a
thesis.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from nnunet_bridge.core.comparison import (
    ALL_STRUCTURES,
    METRICS,
    Comparison,
    PairedDifference,
    Setting,
    Verdict,
)
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.core.units import format_instant
from nnunet_bridge.core.version import __version__
from nnunet_bridge.core.words import ALL_CASES, Configuration
from nnunet_bridge.formats.comparison_files import (
    Evidence,
    comparison_csv,
    comparison_json,
    evidence_json,
)
from nnunet_bridge.formats.files import write_json, write_text
from nnunet_bridge.formats.html.content import ModelCard, PageContent
from nnunet_bridge.formats.html.page import write_page
from nnunet_bridge.nnunet.plans import BUDGETS
from nnunet_bridge.ops.comparison import compare_models
from nnunet_bridge.ops.metrics import tolerance_remark
from nnunet_bridge.ops.outcomes import Outcomes
from nnunet_bridge.ops.paired import FEWEST_FOR_AN_INTERVAL, RESAMPLES, p_words
from nnunet_bridge.ops.verdict import verdict
from nnunet_bridge.pipeline.comparison.case_views import case_views
from nnunet_bridge.pipeline.comparison.facts import cost_table, settings_of, versions_of
from nnunet_bridge.pipeline.models.run_facts import TRAINED_ON_ALL, costs_of, curves_of
from nnunet_bridge.pipeline.models.validation import ValidatedStudy, validation_scores


@dataclass(frozen=True, slots=True)
class ComparisonSummary:
    """The result of a comparison, and the folder of its files."""

    folder: Path
    comparison: Comparison
    verdict: Verdict
    notes: tuple[str, ...]
    page_bytes: int
    test: Comparison | None = None
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return the output of `--json`: the comparison and the place of the page."""
        return {
            "report": str(self.folder / "index.html"),
            "page_bytes": self.page_bytes,
            **comparison_json(self.comparison),
            "verdict": {**json_of(self.verdict), "winner": self.verdict.winner or None},
            "notes": list(self.notes),
            "test": comparison_json(self.test) if self.test else None,
        }

    def as_text(self) -> str:
        """Return the findings and the place of the page."""
        return f"{self.findings_as_text()}\n\nPage: {self.folder / 'index.html'}"

    def findings_as_text(self) -> str:
        """Return the verdict, the Dice table, and the notes."""
        lines = [*self.verdict.sentences, ""]
        rows = [row for row in self.comparison.rows if row.metric.key == "dice"]
        lines += [*map(_dice_line, rows), "", *self.notes]
        return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip()


METHODS = {
    "difference": "second minus first, of the same case",
    "interval_95": f"bootstrap over patients, {RESAMPLES} samples, percentiles",
    "p": "Wilcoxon's signed-rank test, two-sided, exact, one difference a patient",
    "p_holm": "Holm's correction over every row of every metric",
    "effect": "matched-pairs rank-biserial correlation",
}
"""How the figures of a comparison are made; see docs/explanations/comparison.md."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """Title and settings of a report."""

    title: str
    dataset: str = ""
    budget: str = "full"
    margins: Mapping[str, float] = field(default_factory=dict)
    """Metric -> size of a difference too small to matter."""

    latex: bool = False  # whether ``comparison.tex`` is written, too
    notes: tuple[str, ...] = ()
    """Sentences about the data that precede those about the scores."""

    test_scores: Mapping[str, Sequence[BoneScore]] | None = None
    """Model -> scores on the test set."""

    @property
    def caveat(self) -> str:
        """Why scores of this budget are not results; empty if they are."""
        return BUDGETS[self.budget].caveat


def write_comparison(
    out_dir: Path,
    study: ValidatedStudy,
    patients: Mapping[str, str],
    options: ReportOptions,
    *,
    scores: Mapping[str, Sequence[BoneScore]] | None = None,
    progress: Progress | None = None,
) -> ComparisonSummary:
    """Score the validation predictions of all models, compare them, write the report.

    A difference is a later model minus an earlier one. Without images the page has no
    slices.

    Parameters
    ----------
    out_dir : Path
        Gets ``index.html``, ``comparison.csv`` and ``comparison.json``, each whole or
        absent.
    patients : mapping
        Case id -> patient.
    scores : mapping, optional
        Model -> scores, where they are known; by default the predictions are scored.

    Raises `InputError` if nothing can be scored, or a case was validated twice by one
    model.
    """
    progress = progress or Silent()
    if scores is None:
        scores = validation_scores(study, progress)
    evidence = Evidence(
        compare_models(scores, patients=patients, margins=options.margins),
        scores,
        test=_test_comparison(patients, options),
        test_scores=options.test_scores,
        costs=costs_of(study.runs),
        settings=settings_of(study.runs),
        versions=versions_of(study.runs),
        curves=curves_of(study.runs),
    )
    content = _page_content(study, evidence, options, progress)
    size = write_page(out_dir / "index.html", content)
    found = evidence.comparison, content.verdict, content.notes
    summary = ComparisonSummary(out_dir, *found, size, evidence.test)
    _write_tables(summary, evidence, options, study.tolerance_mm)
    return summary


def _page_content(
    study: ValidatedStudy,
    evidence: Evidence,
    options: ReportOptions,
    progress: Progress,
) -> PageContent:
    comparison = evidence.comparison
    cases, profiles = case_views(study, _case_dice(evidence), progress)
    cases = tuple(
        replace(case, failures=tuple(_case_failures(case.case_id, evidence)))
        for case in cases
    )
    return PageContent(
        title=options.title,
        dataset=options.dataset,
        created=format_instant(),
        caveat=options.caveat,
        verdict=verdict(comparison, caveat=options.caveat),
        comparison=comparison,
        models=tuple(
            ModelCard(run.name, run.configuration, run.fold_names) for run in study.runs
        ),
        colours=tuple((label.name, label.hex_colour) for label in study.labels),
        curves=evidence.curves,
        cases=cases,
        profiles=profiles,
        test=evidence.test,
        settings=evidence.settings,
        costs=cost_table(evidence.costs, _quality(comparison)),
        versions=evidence.versions,
        notes=(*options.notes, *_notes(study, comparison)),
        tolerance_mm=study.tolerance_mm,
    )


def _write_tables(
    summary: ComparisonSummary,
    evidence: Evidence,
    options: ReportOptions,
    tolerance_mm: float | None,
) -> None:
    """Write the numbers of the page for programs and spreadsheets."""
    write_text(summary.folder / "comparison.csv", comparison_csv(evidence))
    write_json(
        summary.folder / "comparison.json",
        {
            "title": options.title,
            "dataset": options.dataset,
            "budget": options.budget,
            "tolerance_mm": tolerance_mm,
            "margins": dict(options.margins),
            "version": __version__,
            "methods": METHODS,
            **summary.as_json(),
            "report": "index.html",  # the folder may be moved, and its path is private
            **evidence_json(evidence),
        },
    )
    if options.latex:
        from nnunet_bridge.formats.comparison_latex import comparison_latex

        table = comparison_latex(summary.comparison, caveat=options.caveat)
        write_text(summary.folder / "comparison.tex", table)


def _quality(comparison: Comparison) -> tuple[Setting, ...]:
    """Return the means over all structures, as rows of the table of costs."""
    rows = []
    for metric in (metric for metric in METRICS if metric.better != "zero"):
        key, models = metric.key, comparison.models
        means = [comparison.mean(model, ALL_STRUCTURES, key).mean for model in models]
        cells = ["" if m is None else f"{m:.{metric.decimals}f}" for m in means]
        rows.append(Setting(f"{metric.heading}, all structures", tuple(cells)))
    return tuple(rows)


def _test_comparison(
    patients: Mapping[str, str], options: ReportOptions
) -> Comparison | None:
    """Compare on the test set; a case without a patient is its own patient."""
    test_scores = options.test_scores
    if not test_scores or not any(test_scores.values()):
        return None
    cases = {score.case_id for found in test_scores.values() for score in found}
    known = {case_id: patients.get(case_id, case_id) for case_id in cases}
    return compare_models(test_scores, patients=known, margins=options.margins)


def _case_dice(evidence: Evidence) -> dict[str, dict[str, float]]:
    """Return case -> model -> mean Dice over the structures that have one."""
    outcomes, models = Outcomes.of(evidence.scores), evidence.comparison.models
    table = outcomes.table("dice", models, outcomes.structures)
    return {
        c: dict(zip(models, map(float, row), strict=True)) for c, row in table.items()
    }


_MIRRORING = (
    "Labels keep left and right apart: nnU-Net's 2d is never mirrored in training or "
    "prediction, 3d may be along its other axes."
)


def _case_failures(case_id: str, evidence: Evidence) -> Iterator[str]:
    """Yield which model missed or invented which structure of a case."""
    for model, scores in evidence.scores.items():
        for score in scores:
            if score.case_id == case_id and score.state.failed:
                yield f"{model} {score.state} {score.structure}"


def _notes(study: ValidatedStudy, comparison: Comparison) -> tuple[str, ...]:
    """Return what limits the numbers, one sentence each."""
    notes = [
        f"{run.name}: {TRAINED_ON_ALL}"
        for run in study.runs
        if any(fold.fold == ALL_CASES for fold in run.folds)
    ]
    flat = {run.configuration == Configuration.TWO_D for run in study.runs}
    from nnunet_bridge.nnunet.sides import has_sided_labels

    if len(flat) > 1 and has_sided_labels(study.labels.names):
        notes.append(_MIRRORING)
    if len(comparison.models) > 1 and comparison.patients < FEWEST_FOR_AN_INTERVAL:
        notes.append(
            f"{_count(comparison.patients, 'patient')}: too few for a 95 % interval "
            f"(at least {FEWEST_FOR_AN_INTERVAL}) and for a p below 0.05."
        )
    for model in comparison.models:
        only = [case_id for case_id, having in comparison.left_out if having == model]
        if only:
            notes.append(
                f"Not compared, because not every model predicted them: "
                f"{', '.join(only)} (only in {model})."
            )
    notes += _failures(comparison)
    if study.tolerance_mm is not None:
        remark = tolerance_remark(study.tolerance_mm, study.largest_edge_mm())
        notes += [remark] if remark else []
    return tuple(notes)


def _failures(comparison: Comparison) -> Iterator[str]:
    for miss in comparison.misses:
        if miss.missed:
            cases = _count(miss.missed, "case")
            yield f"{miss.model} missed {miss.structure} in {cases}."
        if miss.invented:
            where = f"in {_count(miss.invented, 'case')} where the reference has none"
            yield f"{miss.model} segmented {miss.structure} {where}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _dice_line(row: PairedDifference) -> str:
    """Return one line of the table in the terminal."""
    if row.median_difference is None:
        return f"{row.structure:<20} no case with a Dice in both models"
    interval = ""
    if row.interval_95 is not None:
        low, high = row.interval_95
        interval = f"  [{low:+z.3f}, {high:+z.3f}]"
    p = ""
    if row.p is not None and row.p_holm is not None:
        p = f"  p {p_words(row.p)}, Holm {p_words(row.p_holm)}"
    first, second = fmean(row.first_values), fmean(row.second_values)
    return (
        f"{row.structure:<20} {row.first} {first:.3f}  {row.second} {second:.3f}  "
        f"difference {row.median_difference:+z.3f}{interval}{p}  n = {row.n}"
        f"{f'  {row.answer}' if row.answer else ''}"
    )
