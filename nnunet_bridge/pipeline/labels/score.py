"""Score predictions against references: by structure and case, and their means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_bridge.core.cases import (
    CaseReport,
    CasesSummary,
    exit_code_of,
    run_case,
)
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.findings import Finding
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.core.progress import Progress, steps
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import number
from nnunet_bridge.core.words import ScoreState
from nnunet_bridge.formats.images import read_labelmap
from nnunet_bridge.formats.tables import score_row, write_scores, write_scores_json
from nnunet_bridge.ops.means import StructureMean, mean_scores
from nnunet_bridge.ops.metrics import SURFACE_DEFINITION, bone_scores, tolerance_remark
from nnunet_bridge.pipeline.labels.folders import label_files, table_file_for, table_for

if TYPE_CHECKING:
    from nnunet_bridge.formats.label_map import LabelMap

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

    configuration: str = ""  # the model that made the predictions; empty if unknown
    tolerance_mm: float = 1.0  # distance within which surfaces count as equal


@dataclass(frozen=True, slots=True)
class ScoredCase(CaseReport):
    """The report of a case and its scores; none if it was refused."""

    scores: tuple[BoneScore, ...] = ()
    left_out: tuple[str, ...] = ()
    """Labels of another tool that the map does not mention."""

    largest_edge_mm: float = 0.0  # of a voxel of the reference

    def details(self) -> JsonObject:
        """Return a row per structure."""
        return {"structures": [score_row(score) for score in self.scores]}


@dataclass(frozen=True, slots=True)
class ScoreSummary(CasesSummary):
    """The scores of all cases that have a prediction and a reference."""

    cases: tuple[ScoredCase, ...]
    without_reference: tuple[str, ...]
    """Predicted cases without a reference; not in the means."""

    without_prediction: tuple[str, ...]
    """Reference cases without a prediction; not in the means."""

    configuration: str
    tolerance_mm: float

    @property
    def exit_code(self) -> int:
        """0; 4 if a case was refused or has no prediction; 3 if all were refused."""
        code = exit_code_of(self.cases)
        return 4 if not code and self.without_prediction else code

    @property
    def left_out(self) -> tuple[str, ...]:
        """Labels of another tool that the map does not mention."""
        return tuple(sorted({label for case in self.cases for label in case.left_out}))

    @property
    def largest_edge_mm(self) -> float:
        """The largest edge of a voxel of any reference."""
        return max((case.largest_edge_mm for case in self.cases), default=0.0)

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
            "largest_voxel_edge_mm": self.largest_edge_mm,
            "configuration": self.configuration,
            "mean": {mean.structure: mean.as_json() for mean in self.mean},
            "cases": [case.as_json() for case in self.cases],
            "without_reference": list(self.without_reference),
            "without_prediction": list(self.without_prediction),
            "labels_left_out": list(self.left_out),
        }

    def as_text(self) -> str:
        """Return the means as a table, then cases and labels that are not in it."""
        nsd = f"nsd ({self.tolerance_mm:g} mm)"
        distances = ("hd95 (mm)", "assd (mm)", nsd, "volume error (cm3)", "(%)")
        found = {state for mean in self.mean for state, n in mean.states.items() if n}
        states = [state for state in ScoreState if state in {*found, *_ALWAYS}]
        words = (str(state).replace("_", " ") for state in states)
        header = ("structure", "n", "dice", *distances, "median hd95", *words)
        lines = self.table(header, [_row(mean, states) for mean in self.mean])
        remark = tolerance_remark(self.tolerance_mm, self.largest_edge_mm)
        lines += [remark] if remark else []
        if any(mean.n_failed for mean in self.mean):
            lines.append(FAILURES_NOTE)
        missing = {
            "No reference for": self.without_reference,
            "No prediction for": self.without_prediction,
            "Labels left out by the map": self.left_out,
        }
        at = 1 if self.scores else 0
        lines[at:at] = [f"{k}: {', '.join(v)}." for k, v in missing.items() if v]
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
    table, options = _labels(pairs.values(), [references, predictions], options)
    cases = tuple(
        _score(case_id, files, table, options)
        for case_id, files in steps(progress, "score", pairs.items())
    )
    summary = ScoreSummary(
        cases,
        without_reference=tuple(case for case in predicted if case not in drawn),
        without_prediction=tuple(case for case in drawn if case not in predicted),
        configuration=options.configuration,
        tolerance_mm=options.tolerance_mm,
    )
    write_scores(out / SCORES_TABLE, summary.scores)
    write_scores_json(out / SCORES_JSON, summary.as_json())
    return summary


def score_case(
    prediction: Path, reference: Path, case_id: str, labels_file: Path | None = None
) -> ScoredCase:
    """Score one prediction; nothing is written.

    `labels_file` is a ``dataset.json``; by default the one beside either file. Raises
    `InputError` if the labels are unknown.
    """
    files = prediction, reference
    beside = [reference.parent, prediction.parent]
    table, options = _labels([files], beside, ScoreOptions(labels_file))
    return _score(case_id, files, table, options)


def _score(
    case_id: str, files: tuple[Path, Path], table: LabelTable, options: ScoreOptions
) -> ScoredCase:
    """Score one case; a file that cannot be trusted refuses it."""

    def work() -> tuple[tuple[BoneScore, ...], tuple[str, ...], float]:
        prediction, reference = files
        drawn = read_labelmap(reference, table, findings)
        left_out: tuple[str, ...] = ()
        if options.label_map is None:
            predicted = _turned_onto(
                read_labelmap(prediction, table, findings), drawn.grid
            )
        else:
            from nnunet_bridge.pipeline.labels.other_tools import mapped_labels

            label_map = options.label_map
            predicted, left_out = mapped_labels(
                prediction, drawn.grid, table, label_map
            )
        scores = bone_scores(
            predicted,
            drawn,
            case_id=case_id,
            configuration=options.configuration,
            tolerance_mm=options.tolerance_mm,
        )
        return scores, left_out, float(drawn.grid.spacing_mm.max())

    findings: list[Finding] = []
    report, found = run_case(case_id, work)
    return ScoredCase(case_id, (*findings, *report.findings), *(found or ()))


def _turned_onto(labelmap: Labelmap, grid: Grid) -> Labelmap:
    """Return a labelmap in the axis order of a grid, if it lies on the same voxels."""
    if labelmap.grid.matches(grid):
        return labelmap
    from nnunet_bridge.ops.turn import Turn

    turn = Turn.onto(labelmap.grid, grid)
    if not turn.grid(labelmap.grid).matches(grid):
        return labelmap  # other grids are refused when they are compared (M02)
    return Labelmap(grid, turn.voxels(labelmap.voxels), labelmap.labels)


def _labels(
    pairs: Iterable[tuple[Path, Path]], folders: Sequence[Path], options: ScoreOptions
) -> tuple[LabelTable, ScoreOptions]:
    """Read the labels of both sides; prove that a label map fits them."""
    predicted, drawn = zip(*pairs, strict=True)
    if options.label_map is None:
        table_file = table_file_for(folders, options.labels_file)
        files = [*drawn, *predicted]
        return table_for(table_file, files, regions=True), options
    from nnunet_bridge.formats.label_map import read_names_beside

    table = table_for(table_file_for(folders[:1], options.labels_file), drawn)
    label_map = options.label_map.with_values(read_names_beside(predicted))
    label_map.by_value(table)
    return table, replace(options, label_map=label_map)


_DIGITS = {"dice": 4, "hd95_mm": 2, "assd_mm": 3, "nsd": 4} | {
    "volume_error_cm3": 2,
    "volume_error_percent": 1,
}
_ALWAYS = tuple(ScoreState)[:4]  # states that always have a column
FAILURES_NOTE = (
    "A missed or invented structure counts as Dice, IoU and NSD 0. It has no distance, "
    "so there is no mean of one; the median ranks it as the worst."
)


def _row(mean: StructureMean, states: Sequence[ScoreState]) -> tuple[str, ...]:
    measures = [number(getattr(mean, name), _DIGITS[name]) for name in _DIGITS]
    median = number(mean.median["hd95_mm"], 2)
    counts = [str(mean.states[state]) for state in states]
    return (mean.structure, str(mean.n), *measures, median, *counts)


def _first_names(cases: Iterable[str]) -> str:
    names = list(cases)
    shown = ", ".join(names[:_SHOWN_CASES])
    return shown if len(names) <= _SHOWN_CASES else f"{shown}, ..."
