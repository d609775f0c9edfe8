"""Compare finished models of a dataset: choose their folds, write the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_bridge.core.dataset import case_id_of
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.progress import Progress
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.words import ALL_CASES
from nnunet_bridge.formats.images import read_grid
from nnunet_bridge.formats.manifest import counted_by_case, patients_of
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.methods import DEFAULT_MODEL, trained_in
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.nnunet.plans import BUDGETS
from nnunet_bridge.nnunet.runs import known_runs
from nnunet_bridge.pipeline.comparison.report import (
    ComparisonSummary,
    ReportOptions,
    write_comparison,
)
from nnunet_bridge.pipeline.labels.folders import label_files
from nnunet_bridge.pipeline.models.choose import Model, ModelRequest, choose_model
from nnunet_bridge.pipeline.models.run_facts import ModelRun, fold_run
from nnunet_bridge.pipeline.models.validation import ValidatedStudy

if TYPE_CHECKING:
    from nnunet_bridge.pipeline.comparison.baseline import Baseline


@dataclass(frozen=True, slots=True)
class ComparisonOptions:
    """The models to compare, and the contents of the report."""

    configurations: Sequence[str]  # each for every model that can be trained in it
    models: Sequence[str] = (DEFAULT_MODEL,)  # as `--model` names them
    budget: str | None = None
    """By default the largest for which all of them have finished folds."""

    margins: Mapping[str, float] = field(default_factory=dict)
    """Metric -> size of a difference too small to matter."""

    latex: bool = False  # whether ``comparison.tex`` is written, too
    baselines: Sequence[Baseline] = ()
    """Labels of other tools for the training cases, each one more model."""

    map_words: Sequence[str] = ()
    """The label map of the baselines; empty if their labels are ours."""

    channel: str | None = None  # the one in pictures; None for the first


def compare_dataset(
    dataset: Dataset,
    out_dir: Path,
    options: ComparisonOptions,
    *,
    test_scores: Mapping[str, Sequence[BoneScore]] | None = None,
    progress: Progress | None = None,
) -> ComparisonSummary:
    """Compare models and configurations on the validation cases that they share.

    `out_dir` gets the page and the tables; `test_scores` are those on the test set, by
    model.

    Raises `InputError` if one of the models has no finished fold.
    """
    models, budget = _finished_models(dataset, options)
    raw = RawDataset.open(dataset.raw_dir, regions=True)
    runs = list(map(_model_run, models))
    if options.baselines:
        runs += _baseline_runs(raw, options, out_dir)
    cases = [*raw.training_cases(), *raw.test_cases()]
    title = f"{dataset}: {' against '.join(run.name for run in runs)}"
    notes = tuple(filter(None, [*map(_steps, models), counted_by_case(raw.folder)]))
    report = ReportOptions(
        title, dataset.name, budget, options.margins, options.latex, notes, test_scores
    )
    from nnunet_bridge.formats.channels import Channels

    channel = Channels(raw.channels).index(options.channel)
    study = replace(ValidatedStudy.of(raw, runs), channel=channel)
    patients = patients_of(raw.folder, cases)
    return write_comparison(out_dir, study, patients, report, progress=progress)


def _model_run(model: Model) -> ModelRun:
    """Return the numbered folds of a model, with all their trainings."""
    numbered = [state for state in model.states if state.run.fold != ALL_CASES]
    if not numbered:
        raise InputError(
            f"{model.name} has only the fold `all`, which has no validation cases: "
            "train numbered folds."
        )
    firsts = {state.run for state in numbered}
    repeats = [
        state
        for state in known_runs(model.dataset)
        if state.done and state.run.repeat and replace(state.run, repeat=0) in firsts
    ]
    folds = tuple(map(fold_run, [*numbered, *repeats]))
    return ModelRun(model.name, model.configurations[0], folds)


def _steps(model: Model) -> str:
    """Return how long a model of others was trained; empty for one of ours."""
    others = (s for s in model.states if s.model == s.run.trainer_and_plans)
    steps = [state.steps for state in others if state.steps is not None]
    return f"{model.name} was trained for {min(steps):,} steps." if steps else ""


def _baseline_runs(
    raw: RawDataset, options: ComparisonOptions, out_dir: Path
) -> list[ModelRun]:
    """Return other tools as models; their labels are written beside the page."""
    from nnunet_bridge.pipeline.comparison.baseline import baseline_run
    from nnunet_bridge.pipeline.labels.other_tools import read_map

    names = [baseline.name for baseline in options.baselines]
    if len(set(names)) < len(names):
        same = ", ".join(names)
        raise InputError(f"Two baselines have the same name: {same}. Rename one.")
    references = {case: raw.label_file(case, "Tr") for case in raw.training_cases()}
    grids = {case: partial(read_grid, file) for case, file in references.items()}
    runs = []
    for baseline in options.baselines:
        files = list(label_files(baseline.folder).values())
        label_map = read_map(options.map_words, files) if options.map_words else None
        folder = out_dir / "baselines" / case_id_of(Path(baseline.name))
        runs.append(baseline_run(baseline, label_map, folder, raw.labels, grids))
    return runs


def _finished_models(
    dataset: Dataset, options: ComparisonOptions
) -> tuple[list[Model], str]:
    """Return the models to compare, and the one budget that all were trained with."""
    wanted = [
        (kind, configuration)
        for kind in options.models
        for configuration in options.configurations
        if configuration in trained_in(kind)
    ]
    *longer, last = [options.budget] if options.budget else list(BUDGETS)

    def finished(budget: str | None) -> list[Model]:
        asked = [ModelRequest((name,), (), budget, kind) for kind, name in wanted]
        return [choose_model(dataset, request) for request in asked]

    for budget in (*longer, last):
        with suppress(InputError):
            return finished(budget), budget
    each = finished(options.budget)  # refuses one that has not finished at all
    raise InputError(
        "The models have no budget in common ("
        + ", ".join(f"{model.name}: {model.budget}" for model in each)
        + "): compare trainings of similar length."
    )
