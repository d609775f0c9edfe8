"""Trained models and their validation predictions -> scores, comparison, page.

The folder that `write_comparison` fills holds `index.html` for people,
`comparison.json` for programs and `comparison.csv` for spreadsheets; all three carry
the same numbers. `comparison.tex`, on request, is the table for a thesis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import format_instant
from nnunet_bridge.core.version import __version__
from nnunet_bridge.formats.comparison_files import (
    Evidence,
    comparison_csv,
    comparison_json,
    evidence_json,
)
from nnunet_bridge.formats.comparison_latex import comparison_latex
from nnunet_bridge.formats.files import write_json, write_text
from nnunet_bridge.formats.html.content import CaseView, MeshSet, ModelCard, PageContent
from nnunet_bridge.formats.html.page import write_page
from nnunet_bridge.formats.pictures import PLANES
from nnunet_bridge.formats.sprites import slice_stack
from nnunet_bridge.nnunet.names import ON_ALL_CASES
from nnunet_bridge.nnunet.plans import BUDGETS
from nnunet_bridge.ops.comparison import compare_models
from nnunet_bridge.ops.paired import FEWEST_FOR_AN_INTERVAL, p_words
from nnunet_bridge.ops.surface import surfaces_of
from nnunet_bridge.ops.verdict import verdict
from nnunet_bridge.pipeline.comparison.facts import (
    cost_table,
    settings_of,
    versions_of,
)
from nnunet_bridge.pipeline.models.run_facts import ModelRun, costs_of, curves_of
from nnunet_bridge.pipeline.models.validation import (
    Scores,
    ValidatedStudy,
    validation_scores,
)


@dataclass(frozen=True, slots=True)
class ComparisonSummary:
    """What a comparison found, and where it stands."""

    folder: Path
    comparison: Comparison
    verdict: Verdict
    notes: tuple[str, ...]
    page_bytes: int
    test: Comparison | None = None

    @property
    def exit_code(self) -> int:
        """Return 0: whoever gets a summary has a report."""
        return 0

    def as_json(self) -> JsonObject:
        """Return what `--json` prints: the comparison, and where the files are."""
        return {
            "report": str(self.folder / "index.html"),
            "page_bytes": self.page_bytes,
            **comparison_json(self.comparison),
            "verdict": {
                "winner": self.verdict.winner or None,
                "answer": self.verdict.answer,
                "sentences": list(self.verdict.sentences),
            },
            "notes": list(self.notes),
            "test": comparison_json(self.test) if self.test else None,
        }

    def as_text(self) -> str:
        """Return the findings, and where to look."""
        return f"{self.findings_as_text()}\n\nPage: {self.folder / 'index.html'}"

    def findings_as_text(self) -> str:
        """Return the verdict, the Dice table, and the notes."""
        lines = [*self.verdict.sentences, ""]
        rows = [row for row in self.comparison.rows if row.metric.key == "dice"]
        lines += [_dice_line(row) for row in rows]
        lines += ["", *self.notes]
        return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip()


def write_comparison(  # noqa: PLR0913 - the inputs of a report; each is one thing
    out_dir: Path,
    *,
    title: str,
    runs: Sequence[ModelRun],
    references_dir: Path,
    images_dir: Path,
    labels: LabelTable,
    patients: Mapping[str, str],
    budget: str = "full",
    test_scores: Mapping[str, Sequence[BoneScore]] | None = None,
    progress: Progress | None = None,
    dataset: str = "",
    tolerance_mm: float = 1.0,
    margins: Mapping[str, float] | None = None,
    latex: bool = False,
) -> ComparisonSummary:
    """Score the validation predictions of all models, compare them, write the report.

    Parameters
    ----------
    out_dir : Path
        Gets ``index.html``, ``comparison.csv`` and ``comparison.json``, each whole or
        absent.
    title : str
        Heading of the page.
    runs : sequence of ModelRun
        The models; a difference is a later one minus an earlier one.
    references_dir, images_dir : Path
        ``labelsTr`` with ``<case>.nii.gz``, ``imagesTr`` with ``<case>_0000.nii.gz``.
        Without images the page has no slices.
    labels : LabelTable
        What the values of all labelmaps mean.
    patients : mapping
        Case id -> patient.
    budget : str
        ``full``, ``quick`` or ``smoke``.
    test_scores : mapping, optional
        Model -> scores on the cases kept for testing.
    progress : Progress, optional
        Told how far it is.
    dataset : str
        Name of the dataset, for the page.
    tolerance_mm : float
        Of the normalised surface Dice.
    margins : mapping, optional
        Metric -> size of a difference too small to matter.
    latex : bool
        Also write ``comparison.tex``.

    Raises
    ------
    InputError
        If nothing can be scored, or a case was validated twice by one model.
    """
    progress = progress or Silent()
    study = ValidatedStudy(
        tuple(runs), references_dir, images_dir, labels, tolerance_mm
    )
    scores = validation_scores(study, progress)
    comparison = compare_models(scores, patients=patients, margins=margins)
    found = verdict(comparison, caveat=BUDGETS[budget].caveat)
    evidence = Evidence(
        comparison,
        scores,
        test=_test_comparison(test_scores, patients, margins),
        test_scores=test_scores,
        costs=costs_of(runs),
        settings=settings_of(runs),
        versions=versions_of(runs),
        curves=curves_of(runs),
    )
    notes = _notes(study, comparison)
    progress.stage("page", 1)
    content = PageContent(
        title=title,
        dataset=dataset,
        created=format_instant(),
        caveat=BUDGETS[budget].caveat,
        verdict=found,
        comparison=comparison,
        models=tuple(_card(run) for run in runs),
        colours=tuple((label.name, label.hex_colour) for label in labels),
        curves=evidence.curves,
        cases=tuple(_case_views(study, scores, comparison.case_ids)),
        test=evidence.test,
        settings=evidence.settings,
        costs=cost_table(evidence.costs, _quality(comparison)),
        versions=evidence.versions,
        notes=notes,
        tolerance_mm=tolerance_mm,
    )
    page_bytes = write_page(out_dir / "index.html", content)
    summary = ComparisonSummary(
        out_dir, comparison, found, notes, page_bytes, evidence.test
    )
    write_text(out_dir / "comparison.csv", comparison_csv(evidence))
    write_json(
        out_dir / "comparison.json",
        {
            "title": title,
            "dataset": dataset,
            "budget": budget,
            "tolerance_mm": tolerance_mm,
            "margins": dict(margins or {}),
            "version": __version__,
            **summary.as_json(),
            **evidence_json(evidence),
        },
    )
    if latex:
        table = comparison_latex(comparison, caveat=BUDGETS[budget].caveat)
        write_text(out_dir / "comparison.tex", table)
    progress.advance(1)
    return summary


def _quality(comparison: Comparison) -> tuple[Setting, ...]:
    """Return what the costs stand beside: the means over all structures."""
    return tuple(
        Setting(
            f"{metric.heading}, all structures",
            tuple(
                "" if mean is None else f"{mean:.{metric.decimals}f}"
                for model in comparison.models
                for mean in [comparison.mean(model, ALL_STRUCTURES, metric.key).mean]
            ),
        )
        for metric in METRICS
        if metric.better != "zero"
    )


def _test_comparison(
    test_scores: Mapping[str, Sequence[BoneScore]] | None,
    patients: Mapping[str, str],
    margins: Mapping[str, float] | None,
) -> Comparison | None:
    """Compare on the test set; a case of an unnamed patient is its own patient."""
    if not test_scores or not any(test_scores.values()):
        return None
    cases = {score.case_id for found in test_scores.values() for score in found}
    known = {case_id: patients.get(case_id, case_id) for case_id in cases}
    return compare_models(test_scores, patients=known, margins=margins)


def _case_views(
    study: ValidatedStudy, scores: Scores, case_ids: Sequence[str]
) -> Iterator[CaseView]:
    """Return the worst and the median case by the mean Dice of all models."""
    dice = _case_dice(scores, case_ids)
    ranked = sorted(dice, key=lambda case_id: fmean(dice[case_id].values()))
    if not ranked:
        return
    chosen = {ranked[len(ranked) // 2]: "median case", ranked[0]: "worst case"}
    if len(ranked) == 1:
        chosen = {ranked[0]: "the case"}
    predictions = study.predictions()
    for case_id, reason in reversed(chosen.items()):
        yield _case_view(
            study, case_id, reason, dice=dice[case_id], files=predictions[case_id]
        )


def _case_view(
    study: ValidatedStudy,
    case_id: str,
    reason: str,
    *,
    dice: Mapping[str, float],
    files: Mapping[str, Sequence[Path]],
) -> CaseView:
    reference = study.reference(case_id).without_ignored()
    predicted = {model: study.prediction(found[0]) for model, found in files.items()}
    image = study.image(case_id)
    stacks = (
        tuple(slice_stack(image, reference, predicted, plane=plane) for plane in PLANES)
        if image is not None
        else ()
    )
    meshes = [
        MeshSet(name, tuple(mesh for mesh in surfaces_of(found).values() if mesh))
        for name, found in {"reference": reference, **predicted}.items()
    ]
    return CaseView(
        case_id=case_id,
        reason=reason,
        dice=tuple(dice.items()),
        stacks=stacks,
        meshes=tuple(found for found in meshes if found.meshes),
    )


def _case_dice(scores: Scores, case_ids: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return case -> model -> mean Dice over the structures that have one."""
    values: dict[str, dict[str, list[float]]] = {}
    for model, found in scores.items():
        for score in found:
            if score.dice is not None and score.case_id in case_ids:
                of_case = values.setdefault(score.case_id, {})
                of_case.setdefault(model, []).append(score.dice)
    return {
        case_id: {model: fmean(dice) for model, dice in by_model.items()}
        for case_id, by_model in values.items()
    }


def _notes(study: ValidatedStudy, comparison: Comparison) -> tuple[str, ...]:
    """Return what a reader has to know before trusting the numbers."""
    notes = [
        f"{run.name}: fold “all” trains on every case, so its validation is no test."
        for run in study.runs
        if any(fold.fold == ON_ALL_CASES for fold in run.folds)
    ]
    few = comparison.patients
    if len(comparison.models) > 1 and few < FEWEST_FOR_AN_INTERVAL:
        notes.append(
            f"{few} {'patient' if few == 1 else 'patients'}: too few for a 95 % "
            f"interval, which needs {FEWEST_FOR_AN_INTERVAL}, and for any p below 0.05."
        )
    for model in comparison.models:
        only = [case_id for case_id, having in comparison.left_out if having == model]
        if only:
            notes.append(
                f"Not compared, because not every model predicted them: "
                f"{', '.join(only)} (in {model})."
            )
    for miss in comparison.misses:
        for count, word in ((miss.missed, "missed"), (miss.invented, "invented")):
            if count:
                notes.append(
                    f"{miss.model} {word} the structure {miss.structure} in {count} "
                    f"{'case' if count == 1 else 'cases'}."
                )
    return tuple(notes)


def _card(run: ModelRun) -> ModelCard:
    return ModelCard(
        run.name, run.configuration, tuple(fold.fold for fold in run.folds)
    )


def _dice_line(row: PairedDifference) -> str:
    """Return one line of the table that the terminal shows."""
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
