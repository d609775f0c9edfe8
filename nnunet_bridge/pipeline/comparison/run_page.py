"""Write the page of a training run: the lab record of the run.

`runs/<dataset>/<model>/fold_<n>/index.html` shows the curves, the score of every
validation case, the worst slice of all of them and a random slice, the settings and the
versions. It is written when the run ends. A page that cannot be written does not fail
the run.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.units import format_instant
from nnunet_bridge.core.words import ALL_CASES
from nnunet_bridge.formats.html import run_page as html
from nnunet_bridge.formats.pictures import PLANES, View, view_of
from nnunet_bridge.formats.sprites import disagreement, slice_picture
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.plans import BUDGETS
from nnunet_bridge.nnunet.runs import RunState
from nnunet_bridge.pipeline.comparison.facts import cost_table, settings_of, versions_of
from nnunet_bridge.pipeline.models import run_facts
from nnunet_bridge.pipeline.models.validation import ValidatedStudy

_SAME_SPACING = 1.05  # slices count as thicker than pixels from this ratio on


def write_run_page(state: RunState) -> Path:
    """Write the page of one finished run; return its place.

    Raises a `BridgeError` if files of the run cannot be read, or the page not written.
    """
    run, dataset = state.run, state.run.dataset
    raw = RawDataset.open(dataset.raw_dir)
    model = run_facts.ModelRun(
        run.configuration, run.configuration, (run_facts.fold_run(state),)
    )
    study = ValidatedStudy.of(raw, [model])
    found = _read_cases(study, seed=f"{dataset} {model.name} {run.fold}")
    html.write_run_page(
        run.page_file,
        html.RunContent(
            model=model.name,
            fold=str(run.fold),
            dataset=dataset.name,
            created=format_instant(),
            caveat=BUDGETS[state.budget].caveat,
            scores=found.scores,
            curve=next(iter(run_facts.curves_of([model])), None),
            slices=found.slices(study),
            settings=settings_of([model]),
            costs=cost_table(run_facts.costs_of([model])),
            versions=versions_of([model]),
            colours=tuple((label.name, label.hex_colour) for label in raw.labels),
            notes=(f"F{run_facts.TRAINED_ON_ALL[1:]}",)
            if run.fold == ALL_CASES
            else (),
            tolerance_mm=study.tolerance_mm,
        ),
    )
    return run.page_file


def write_run_pages(
    states: Sequence[RunState],
    progress: Progress | None = None,
    *,
    write: Callable[[RunState], Path] = write_run_page,
) -> list[str]:
    """Write the page of every finished run that has none, or an older one.

    Return one sentence for each page that could not be written.
    """
    progress = progress or Silent()
    due = [state for state in states if state.done and _is_due(state)]
    notes = []
    if due:
        progress.stage("record", len(due))
    for done, state in enumerate(due, start=1):
        try:
            write(state)
        except Exception as error:  # noqa: BLE001 - the training itself has succeeded
            notes.append(
                f"The page of {state.run.title} could not be written ({error}). The "
                "training is complete: run `train` again to write the page."
            )
        progress.advance(done, state.run.title)
    return notes


def _is_due(state: RunState) -> bool:
    page = state.run.page_file
    summary = state.run.validation_dir / "summary.json"
    return not page.exists() or page.stat().st_mtime < summary.stat().st_mtime


@dataclass(frozen=True, slots=True)
class _Slice:
    """A slice of a case, and the area that differs from the reference."""

    case_id: str
    plane: str
    index: int
    wrong_mm2: float


@dataclass(frozen=True, slots=True)
class _Found:
    """Scores of the validation cases, and the slices to show."""

    scores: tuple[BoneScore, ...]
    worst: _Slice | None
    random: _Slice | None

    def slices(self, study: ValidatedStudy) -> tuple[html.ShownSlice, ...]:
        """Return the worst slice and the random one, with their pictures."""
        reasons = {
            "worst slice": "The slice of all validation cases with the largest area "
            "that differs from the reference",
            "random slice": "A random slice with labels, always the same for this run",
        }
        found = zip(reasons.items(), (self.worst, self.random), strict=True)
        shown = [_shown(study, place, *words) for words, place in found if place]
        return tuple(filter(None, shown))


def _read_cases(study: ValidatedStudy, *, seed: str) -> _Found:
    """Score every case and choose the slices to show; one case at a time."""
    chance = random.Random(seed)  # noqa: S311 - a choice, not a secret
    predictions = study.predictions()
    drawn = chance.choice(sorted(predictions)) if predictions else ""
    scores: list[BoneScore] = []
    worst, drawn_slice = None, None
    for case_id, by_model in predictions.items():
        reference = study.reference(case_id)
        ((model, files),) = by_model.items()
        prediction = study.prediction(files[0])
        scores += study.scored(prediction, reference, case_id, model)
        slices = _labelled_slices(case_id, reference, prediction)
        candidates = [*slices, *filter(None, [worst])]
        worst = max(candidates, key=attrgetter("wrong_mm2"), default=None)
        if case_id == drawn and slices:
            drawn_slice = chance.choice(slices)
    return _Found(tuple(scores), worst, drawn_slice)


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
) -> html.ShownSlice | None:
    """Return the slice with its picture; None if the image is missing."""
    image = study.image(place.case_id)
    if image is None:
        return None
    ((_, (file, *_)),) = study.predictions()[place.case_id].items()
    reference = study.reference(place.case_id).without_ignored()
    both = reference, study.prediction(file)
    picture = slice_picture(image, *both, plane=place.plane, index=place.index)
    area = f"{place.wrong_mm2:.0f} mm\u00b2 differ"
    return html.ShownSlice(place.case_id, title, f"{reason}: {area}.", picture)
