"""Predictions against references: one score per structure and case, and their means.

What happens after a prediction is told in three places: here it is scored, in
`pipeline.clean` cleaned, and in `pipeline.mesh` turned into surfaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.aligned import aligned, number
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.label_map import LabelMap
from nnunet_bridge.formats.nifti import read_labelmap
from nnunet_bridge.formats.tables import score_row, write_scores, write_scores_json
from nnunet_bridge.ops.means import StructureMean, mean_scores
from nnunet_bridge.ops.metrics import SURFACE_DEFINITION, bone_scores
from nnunet_bridge.pipeline.labels.folders import (
    CaseOutcome,
    attempted,
    exit_code_of,
    label_files,
    table_file_for,
    table_for,
    unpaired,
)
from nnunet_bridge.pipeline.labels.other_tools import mapped_labels, read_map

SCORES_TABLE = "scores.csv"
SCORES_JSON = "scores.json"


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """What the scores of a folder have in common."""

    labels: LabelTable
    label_map: LabelMap | None = None
    """What the labels of the predictions mean, if another tool made them."""

    configuration: str = ""
    """Which model made the predictions; empty when unknown."""

    tolerance_mm: float = 1.0
    """Distance within which surfaces count as equal."""


@dataclass(frozen=True, slots=True)
class ScoredCase:
    """One case: what happened to it, and its scores if it was not refused."""

    outcome: CaseOutcome
    scores: tuple[BoneScore, ...] = ()
    left_out: tuple[str, ...] = ()
    """Labels of another tool that have no place in the map."""

    def as_json(self) -> JsonObject:
        """Return the entry of `cases`."""
        return {
            **self.outcome.as_json(),
            "structures": [score_row(score) for score in self.scores],
        }


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """The scores of all cases that have a prediction and a reference."""

    cases: tuple[ScoredCase, ...]
    without_reference: tuple[str, ...]
    """Cases that were predicted only; they are in no mean."""

    without_prediction: tuple[str, ...]
    """Cases that were drawn only; they are in no mean."""

    configuration: str
    tolerance_mm: float

    @property
    def left_out(self) -> tuple[str, ...]:
        """Labels of another tool that have no place in the map."""
        return tuple(sorted({label for case in self.cases for label in case.left_out}))

    @property
    def exit_code(self) -> int:
        """0; 4 if some cases were refused; 3 if all were."""
        return exit_code_of(case.outcome for case in self.cases)

    @property
    def scores(self) -> tuple[BoneScore, ...]:
        """The scores of all cases, one after the other."""
        return tuple(score for case in self.cases for score in case.scores)

    @property
    def mean(self) -> tuple[StructureMean, ...]:
        """The means per structure."""
        return mean_scores(self.scores)

    def as_json(self) -> JsonObject:
        """Return what ``scores.json`` and `--json` hold."""
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
        """Return the means as a table, and by name what is not in them."""
        lines = [_table_of(self.mean, self.tolerance_mm)] if self.scores else []
        if self.without_reference:
            lines.append(f"No reference for: {', '.join(self.without_reference)}.")
        if self.without_prediction:
            lines.append(f"No prediction for: {', '.join(self.without_prediction)}.")
        if self.left_out:
            lines.append(f"Labels left out by the map: {', '.join(self.left_out)}.")
        lines += [
            case.outcome.as_text() for case in self.cases if case.outcome.findings
        ]
        return "\n".join(lines)


def score_folders(  # noqa: PLR0913 - the options of the command, by keyword
    predictions: Path,
    references: Path,
    out: Path,
    *,
    labels: Path | None = None,
    tolerance_mm: float = 1.0,
    configuration: str = "",
    map_words: Sequence[str] = (),
    progress: Progress | None = None,
) -> ScoreSummary:
    """Score every case that both folders hold; write ``scores.csv`` and ``.json``.

    Parameters
    ----------
    predictions, references : Path
        Folders of ``<case>.nii.gz`` or ``<case>/labels.nii.gz``, or one file each.
    out : Path
        Folder for both tables.
    labels : Path, optional
        nnU-Net's ``dataset.json``; by default one that lies beside the references or
        the predictions, else unnamed labels for the values found.
    tolerance_mm : float
        Distance within which surfaces count as equal.
    configuration : str
        Which model made the predictions, for ``scores.json``.
    map_words : sequence of str
        If another tool made the predictions: files with a label map, or words such as
        ``femur_left=femur``. They may lie on another grid of the same image.
    progress : Progress, optional

    Raises
    ------
    InputError
        If no case has both a prediction and a reference, or the labels are unknown.
    EnvironmentFault
        If `out` cannot be written.
    """
    listener = progress or Silent()
    predicted, drawn = label_files(predictions), label_files(references)
    pairs = [
        (case, predicted[case], drawn[case]) for case in drawn if case in predicted
    ]
    if not pairs:
        raise InputError(
            f"No case has both: {predictions} holds {_some(predicted)}; {references} "
            f"holds {_some(drawn)}. Name files of the same case alike."
        )
    options = ScoreOptions(
        *_meaning(pairs, [references, predictions], labels, map_words),
        configuration,
        tolerance_mm,
    )
    listener.stage("score", len(pairs))
    cases = []
    for done, (case_id, prediction, reference) in enumerate(pairs, start=1):
        cases.append(score_case(case_id, prediction, reference, options))
        listener.advance(done, case_id)
    summary = ScoreSummary(
        cases=tuple(cases),
        without_reference=unpaired(predicted, drawn),
        without_prediction=unpaired(drawn, predicted),
        configuration=configuration,
        tolerance_mm=tolerance_mm,
    )
    write_scores(out / SCORES_TABLE, summary.scores)
    write_scores_json(out / SCORES_JSON, summary.as_json())
    return summary


def score_case(
    case_id: str, prediction: Path, reference: Path, options: ScoreOptions
) -> ScoredCase:
    """Score one case; a file that cannot be trusted refuses it."""
    outcome, found = attempted(
        case_id, lambda: _scores(case_id, prediction, reference, options)
    )
    return ScoredCase(outcome, *(found or ()))


def _scores(
    case_id: str, prediction: Path, reference: Path, options: ScoreOptions
) -> tuple[tuple[BoneScore, ...], tuple[str, ...]]:
    """Return the scores of a case, and the labels that had no place in the map."""
    drawn = read_labelmap(reference, options.labels)
    left_out: tuple[str, ...] = ()
    if options.label_map is None:
        predicted = read_labelmap(prediction, options.labels)
    else:
        predicted, left_out = mapped_labels(
            prediction, drawn.grid, options.labels, options.label_map
        )
    scores = bone_scores(
        predicted,
        drawn,
        case_id=case_id,
        configuration=options.configuration,
        tolerance_mm=options.tolerance_mm,
    )
    return scores, left_out


def _meaning(
    pairs: Sequence[tuple[str, Path, Path]],
    folders: Sequence[Path],
    labels: Path | None,
    map_words: Sequence[str],
) -> tuple[LabelTable, LabelMap | None]:
    """Return our structures, and what the labels of another tool are among them."""
    drawn = [reference for _, _, reference in pairs]
    if not map_words:
        files = [file for _, *both in pairs for file in both]
        return table_for(table_file_for(folders, labels), files), None
    table = table_for(table_file_for(folders[:1], labels), drawn)
    label_map = read_map(map_words, [prediction for _, prediction, _ in pairs])
    label_map.by_value(table)
    return table, label_map


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
            str(mean.states["scored"]),
            str(mean.states["missed"]),
            str(mean.states["invented"]),
            str(mean.states["both_empty"]),
        )
        for mean in means
    ]
    return aligned(header, rows)


def _some(cases: Iterable[str]) -> str:
    """Return the first few cases by name."""
    names = list(cases)
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}, ..."  # noqa: PLR2004 - a few
