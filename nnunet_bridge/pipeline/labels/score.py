"""Score predictions against references: by structure and case, and their means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.aligned import aligned, number
from nnunet_bridge.core.cases import CaseReport, exit_code_of, run_case
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.core.progress import Progress, steps
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import ScoreState
from nnunet_bridge.formats.label_map import LabelMap, read_names_beside
from nnunet_bridge.formats.nifti import read_labelmap
from nnunet_bridge.formats.tables import score_row, write_scores, write_scores_json
from nnunet_bridge.ops.means import StructureMean, mean_scores
from nnunet_bridge.ops.metrics import SURFACE_DEFINITION, bone_scores
from nnunet_bridge.pipeline.labels.folders import (
    label_files,
    table_file_for,
    table_for,
    unpaired,
)
from nnunet_bridge.pipeline.labels.other_tools import mapped_labels

SCORES_TABLE = "scores.csv"
SCORES_JSON = "scores.json"
_SHOWN_CASES = 3


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """How predictions are scored."""

    labels_file: Path | None = None
    """nnU-Net's ``dataset.json``; None for one that lies beside the references or the
    predictions, else unnamed labels for the values found."""

    label_map: LabelMap | None = None
    """Maps the labels of another tool to ours; such predictions may lie on another
    grid of the same image."""

    configuration: str = ""
    """The model that made the predictions; empty if unknown."""

    tolerance_mm: float = 1.0
    """Distance within which surfaces count as equal."""


@dataclass(frozen=True, slots=True)
class ScoredCase(CaseReport):
    """The report of a case and its scores; none if it was refused."""

    scores: tuple[BoneScore, ...] = ()
    left_out: tuple[str, ...] = ()
    """Labels of another tool that the map does not mention."""

    def details(self) -> JsonObject:
        """Return a row per structure."""
        return {"structures": [score_row(score) for score in self.scores]}


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """The scores of all cases that have a prediction and a reference."""

    cases: tuple[ScoredCase, ...]
    without_reference: tuple[str, ...]
    """Predicted cases without a reference; not in the means."""

    without_prediction: tuple[str, ...]
    """Reference cases without a prediction; not in the means."""

    configuration: str
    tolerance_mm: float

    @property
    def left_out(self) -> tuple[str, ...]:
        """Labels of another tool that the map does not mention."""
        return tuple(sorted({label for case in self.cases for label in case.left_out}))

    @property
    def exit_code(self) -> int:
        """0; 4 if some cases were refused; 3 if all were."""
        return exit_code_of(self.cases)

    @property
    def scores(self) -> tuple[BoneScore, ...]:
        """The scores of all cases, one after the other."""
        return tuple(score for case in self.cases for score in case.scores)

    @property
    def mean(self) -> tuple[StructureMean, ...]:
        """The means per structure."""
        return mean_scores(self.scores)

    def as_json(self) -> JsonObject:
        """Return the content of ``scores.json`` and of `--json`."""
        return {
            "definition": SURFACE_DEFINITION,
            "tolerance_mm": self.tolerance_mm,
            "configuration": self.configuration,
            "mean": {mean.structure: mean.as_json() for mean in self.mean},
            "cases": [case.as_json() for case in self.cases],
            "without_reference": list(self.without_reference),
            "without_prediction": list(self.without_prediction),
            "labels_left_out": list(self.left_out),
        }

    def as_text(self) -> str:
        """Return the means as a table, then cases and labels that are not in it."""
        lines = [_table_of(self.mean, self.tolerance_mm)] if self.scores else []
        if self.without_reference:
            lines.append(f"No reference for: {', '.join(self.without_reference)}.")
        if self.without_prediction:
            lines.append(f"No prediction for: {', '.join(self.without_prediction)}.")
        if self.left_out:
            lines.append(f"Labels left out by the map: {', '.join(self.left_out)}.")
        lines += [case.as_text() for case in self.cases if case.findings]
        return "\n".join(lines)


def score_folders(
    predictions: Path,
    references: Path,
    out: Path,
    options: ScoreOptions | None = None,
    *,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Score every case that both folders hold; write ``scores.csv`` and ``.json``.

    Parameters
    ----------
    predictions, references : Path
        Folders of ``<case>.nii.gz`` or ``<case>/labels.nii.gz``, or one file each.
    out : Path
        Folder for both tables.

    Raises
    ------
    InputError
        If no case has both a prediction and a reference, or the labels are unknown.
    """
    options = options or ScoreOptions()
    predicted, drawn = label_files(predictions), label_files(references)
    pairs = {
        case: (predicted[case], drawn[case]) for case in drawn if case in predicted
    }
    if not pairs:
        raise InputError(
            f"No case has both: {predictions} holds {_first_names(predicted)}; "
            f"{references} holds {_first_names(drawn)}. Use one file name for both."
        )
    scorer = _scorer(list(pairs.values()), [references, predictions], options)
    cases = tuple(
        scorer.score(case_id, *files)
        for case_id, files in steps(progress, "score", pairs.items())
    )
    summary = ScoreSummary(
        cases=cases,
        without_reference=unpaired(predicted, drawn),
        without_prediction=unpaired(drawn, predicted),
        configuration=options.configuration,
        tolerance_mm=options.tolerance_mm,
    )
    write_scores(out / SCORES_TABLE, summary.scores)
    write_scores_json(out / SCORES_JSON, summary.as_json())
    return summary


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Scores the cases of one call."""

    labels: LabelTable
    label_map: LabelMap | None
    options: ScoreOptions

    def score(self, case_id: str, prediction: Path, reference: Path) -> ScoredCase:
        """Score one case; a file that cannot be trusted refuses it."""
        report, found = run_case(
            case_id, lambda: self._scores(case_id, prediction, reference)
        )
        return ScoredCase(case_id, report.findings, *(found or ()))

    def _scores(
        self, case_id: str, prediction: Path, reference: Path
    ) -> tuple[tuple[BoneScore, ...], tuple[str, ...]]:
        """Return the scores of a case, and the labels that the map leaves out."""
        drawn = read_labelmap(reference, self.labels)
        left_out: tuple[str, ...] = ()
        if self.label_map is None:
            predicted = read_labelmap(prediction, self.labels)
        else:
            predicted, left_out = mapped_labels(
                prediction, drawn.grid, self.labels, self.label_map
            )
        scores = bone_scores(
            predicted,
            drawn,
            case_id=case_id,
            configuration=self.options.configuration,
            tolerance_mm=self.options.tolerance_mm,
        )
        return scores, left_out


def _scorer(
    pairs: Sequence[tuple[Path, Path]], folders: Sequence[Path], options: ScoreOptions
) -> _Scorer:
    """Read the labels of both sides; prove that a label map fits them."""
    predicted, drawn = zip(*pairs, strict=True)
    if options.label_map is None:
        table_file = table_file_for(folders, options.labels_file)
        return _Scorer(table_for(table_file, [*drawn, *predicted]), None, options)
    table = table_for(table_file_for(folders[:1], options.labels_file), drawn)
    label_map = options.label_map.with_values(read_names_beside(predicted))
    label_map.by_value(table)
    return _Scorer(table, label_map, options)


def _table_of(means: Iterable[StructureMean], tolerance_mm: float) -> str:
    header = (
        "structure",
        "n",
        "dice",
        "hd95 (mm)",
        "assd (mm)",
        f"nsd ({tolerance_mm:g} mm)",
        "volume error (cm3)",
        "(%)",
        "scored",
        "missed",
        "invented",
        "both empty",
    )
    rows = [
        (
            mean.structure,
            str(mean.n),
            number(mean.dice, 4),
            number(mean.hd95_mm, 2),
            number(mean.assd_mm, 3),
            number(mean.nsd, 4),
            number(mean.volume_error_cm3, 2),
            number(mean.volume_error_percent, 1),
            str(mean.states[ScoreState.SCORED]),
            str(mean.states[ScoreState.MISSED]),
            str(mean.states[ScoreState.INVENTED]),
            str(mean.states[ScoreState.BOTH_EMPTY]),
        )
        for mean in means
    ]
    return aligned(header, rows)


def _first_names(cases: Iterable[str]) -> str:
    names = list(cases)
    shown = ", ".join(names[:_SHOWN_CASES])
    return shown if len(names) <= _SHOWN_CASES else f"{shown}, ..."
