"""The record of a training as a page: what a lab would otherwise keep by hand.

`runs/<dataset>/<model>/fold_<n>/index.html` shows the curves, the score of every case
held out, the worst slice of all of them and a slice drawn by lot, the settings and the
versions. It is written when the training has ended; if that fails, the training has
not.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap
from nnunet_bridge.core.progress import Progress
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.units import format_instant
from nnunet_bridge.formats.html.run_page import RunContent, ShownSlice, write_run_page
from nnunet_bridge.formats.pictures import PLANES, View, view_of
from nnunet_bridge.formats.sprites import disagreement, slice_picture
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.names import ON_ALL_CASES, Workspace
from nnunet_bridge.nnunet.plans import BUDGETS
from nnunet_bridge.nnunet.runs import RunState
from nnunet_bridge.ops.metrics import bone_scores
from nnunet_bridge.pipeline.comparison.facts import (
    cost_table,
    settings_of,
    versions_of,
)
from nnunet_bridge.pipeline.models.run_facts import (
    ModelRun,
    costs_of,
    curves_of,
    fold_run,
)
from nnunet_bridge.pipeline.models.validation import ValidatedStudy

_SAME_SPACING = 1.05
"""Slices count as thicker than pixels from this ratio on."""


def write_run_records(
    workspace: Workspace, dataset: str, states: Sequence[RunState], progress: Progress
) -> list[str]:
    """Write the page of every finished run that has none, or an older one.

    Returns
    -------
    notes : list of str
        One sentence for each page that could not be written.
    """
    due = [state for state in states if state.done and _is_due(state)]
    notes = []
    if due:
        progress.stage("record", len(due))
    for done, state in enumerate(due, start=1):
        try:
            write_run_record(workspace, dataset, state)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training is done
            notes.append(
                f"The record of {state.run.configuration} fold {state.run.fold} could "
                f"not be written ({error}); the training itself is complete."
            )
        progress.advance(done, f"{state.run.configuration} fold {state.run.fold}")
    return notes


def write_run_record(workspace: Workspace, dataset: str, state: RunState) -> Path:
    """Write the page of one finished training; return its place.

    Raises
    ------
    BridgeError
        If its predictions or their references cannot be read, or the page cannot be
        written.
    """
    raw = RawDataset.open(workspace.dataset_dir(dataset))
    run = ModelRun(state.run.configuration, state.run.configuration, (fold_run(state),))
    study = ValidatedStudy(
        (run,), raw.folder / "labelsTr", raw.folder / "imagesTr", raw.labels
    )
    held_out = _look_at_cases(study, seed=f"{dataset} {run.name} {state.run.fold}")
    curves = curves_of([run])
    file = state.run.page_file
    write_run_page(
        file,
        RunContent(
            model=run.name,
            fold=str(state.run.fold),
            dataset=dataset,
            created=format_instant(),
            caveat=BUDGETS[state.budget].caveat,
            scores=held_out.scores,
            curve=curves[0] if curves else None,
            slices=held_out.slices(study),
            settings=settings_of([run]),
            costs=cost_table(costs_of([run])),
            versions=versions_of([run]),
            colours=tuple((label.name, label.hex_colour) for label in raw.labels),
            notes=_notes(state),
            tolerance_mm=study.tolerance_mm,
        ),
    )
    return file


def _is_due(state: RunState) -> bool:
    page = state.run.page_file
    summary = state.run.validation_dir / "summary.json"
    return not page.exists() or page.stat().st_mtime < summary.stat().st_mtime


def _notes(state: RunState) -> tuple[str, ...]:
    if state.run.fold != ON_ALL_CASES:
        return ()
    return ("Fold “all” trains on every case, so its validation is no test.",)


@dataclass(frozen=True, slots=True)
class _Slice:
    """A slice of a case, and how much of it is wrong."""

    case_id: str
    plane: str
    index: int
    wrong_mm2: float


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """What one reading of all cases held out found."""

    scores: tuple[BoneScore, ...]
    worst: _Slice | None
    by_lot: _Slice | None

    def slices(self, study: ValidatedStudy) -> tuple[ShownSlice, ...]:
        """Return the worst slice and the one drawn by lot, with their pictures."""
        reasons = {
            "worst slice": "The slice with the largest area that differs from the "
            "reference, of all cases held out",
            "slice drawn by lot": "One slice of all that hold labels, the same at "
            "every writing of this page",
        }
        found = zip(reasons.items(), (self.worst, self.by_lot), strict=True)
        return tuple(
            shown
            for (title, reason), place in found
            if place is not None
            for shown in _shown(study, place, title, reason)
        )


def _look_at_cases(study: ValidatedStudy, *, seed: str) -> _HeldOut:
    """Score every case, and choose the slices to show; one case at a time."""
    chance = random.Random(seed)  # noqa: S311 - a choice, not a secret
    predictions = study.predictions()
    drawn = chance.choice(sorted(predictions)) if predictions else ""
    scores: list[BoneScore] = []
    worst, by_lot = None, None
    for case_id, by_model in predictions.items():
        reference = study.reference(case_id)
        ((model, files),) = by_model.items()
        prediction = study.prediction(files[0])
        scores += bone_scores(
            prediction,
            reference,
            case_id=case_id,
            configuration=model,
            tolerance_mm=study.tolerance_mm,
        )
        slices = _labelled_slices(case_id, reference, prediction)
        worst = max([*slices, *filter(None, [worst])], key=_wrong, default=None)
        if case_id == drawn and slices:
            by_lot = chance.choice(slices)
    return _HeldOut(tuple(scores), worst, by_lot)


def _wrong(found: _Slice) -> float:
    return found.wrong_mm2


def _labelled_slices(
    case_id: str, reference: Labelmap, prediction: Labelmap
) -> list[_Slice]:
    """Return every slice with a label of either, in the plane of acquisition."""
    reference = reference.without_ignored()
    view = acquired_view(reference.grid)
    others = tuple(axis for axis in range(3) if axis != view.through)
    wrong = np.count_nonzero(disagreement(reference, [prediction]), axis=others)
    labelled = (reference.voxels > 0) | (prediction.voxels > 0)
    pixel_mm2 = view.pixel_mm[0] * view.pixel_mm[1]
    return [
        _Slice(case_id, view.plane, int(index), float(wrong[index]) * pixel_mm2)
        for index in np.flatnonzero(labelled.any(axis=others))
    ]


def acquired_view(grid: Grid) -> View:
    """Return the plane whose slices are thickest; axial where none stands out.

    Examples
    --------
    >>> acquired_view(Grid((9, 9, 9), np.diag([3.0, 0.5, 0.5, 1.0]))).plane
    'sagittal'
    """
    thickest = int(np.argmax(grid.spacing_mm))
    if grid.spacing_mm[thickest] < _SAME_SPACING * float(np.median(grid.spacing_mm)):
        return view_of(grid, "axial")
    views = [view_of(grid, plane) for plane in PLANES]
    return next(view for view in views if view.through == thickest)


def _shown(
    study: ValidatedStudy, place: _Slice, title: str, reason: str
) -> list[ShownSlice]:
    """Return the slice with its picture; nothing where the image is gone."""
    image = study.image(place.case_id)
    if image is None:
        return []
    ((_, (file, *_)),) = study.predictions()[place.case_id].items()
    picture = slice_picture(
        image,
        study.reference(place.case_id).without_ignored(),
        study.prediction(file),
        plane=place.plane,
        index=place.index,
    )
    area = f"{place.wrong_mm2:.0f} mm\u00b2 differ"
    return [ShownSlice(place.case_id, title, f"{reason}: {area}.", picture)]
