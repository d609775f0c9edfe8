"""Compare finished models of a dataset: choose their folds, write the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from nnunet_bridge.core.dataset import case_id_of
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.progress import Progress
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.formats.manifest import read_patient_groups
from nnunet_bridge.formats.nifti import read_array
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.methods import DEFAULT_MODEL, trained_in
from nnunet_bridge.nnunet.names import FILE_ENDING, ON_ALL_CASES, Dataset, Workspace
from nnunet_bridge.nnunet.plans import BUDGETS
from nnunet_bridge.pipeline.comparison.baseline import Baseline, baseline_run
from nnunet_bridge.pipeline.comparison.report import ComparisonSummary, write_comparison
from nnunet_bridge.pipeline.labels.folders import label_files
from nnunet_bridge.pipeline.labels.other_tools import read_map
from nnunet_bridge.pipeline.models.choose import Model, ModelRequest, choose_model
from nnunet_bridge.pipeline.models.run_facts import ModelRun, fold_run


def compare_dataset(  # noqa: PLR0913 - the words of the command
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str],
    out_dir: Path,
    *,
    models: Sequence[str] = (DEFAULT_MODEL,),
    budget: str | None = None,
    margins: Mapping[str, float] | None = None,
    latex: bool = False,
    test_scores: Mapping[str, Sequence[BoneScore]] | None = None,
    baselines: Sequence[Baseline] = (),
    map_words: Sequence[str] = (),
    progress: Progress | None = None,
) -> ComparisonSummary:
    """Compare models and configurations on the validation cases that they share.

    Parameters
    ----------
    workspace : Workspace
    dataset : str
        Full name.
    configurations : sequence of str
        Those of every model that can be trained in them.
    out_dir : Path
    models : sequence of str
        As `--model` calls them.
    budget : str, optional
        By default the largest for which every one of them has finished folds.
    baselines : sequence of Baseline
        Labels that other tools made for the training cases, each one more model.
    map_words : sequence of str
        What their labels mean, as `score_folders` takes it; empty if they are ours.
    margins, latex, test_scores, progress
        As `write_comparison` takes them.

    Raises
    ------
    InputError
        If one of them has no finished fold.
    """
    compared, budget = _compared(workspace, dataset, configurations, models, budget)
    raw = RawDataset.open(workspace.dataset_dir(dataset))
    runs = [
        ModelRun(
            model.name,
            model.configurations[0],
            tuple(
                fold_run(state)
                for state in model.states
                if state.run.fold != ON_ALL_CASES
            ),
        )
        for model in compared
    ]
    if not all(run.folds for run in runs):
        raise InputError(
            "Fold `all` validates nothing, so there is nothing to compare: train "
            "numbered folds."
        )
    runs += _baseline_runs(raw, baselines, map_words, out_dir)
    groups = read_patient_groups(raw.folder)
    cases = [*raw.training_cases(), *raw.test_cases()]
    return write_comparison(
        out_dir,
        title=f"{dataset}: {' against '.join(run.name for run in runs)}",
        runs=runs,
        references_dir=raw.folder / "labelsTr",
        images_dir=raw.folder / "imagesTr",
        labels=raw.labels,
        patients={case: groups.get(case, case) for case in cases},
        budget=budget,
        test_scores=test_scores,
        progress=progress,
        dataset=dataset,
        margins=margins,
        latex=latex,
    )


def _baseline_runs(
    raw: RawDataset,
    baselines: Sequence[Baseline],
    map_words: Sequence[str],
    out_dir: Path,
) -> list[ModelRun]:
    """Return other tools as models; their labels lie beside the page."""
    references = raw.folder / "labelsTr"
    grids = {
        case: partial(_grid_of, references / f"{case}{FILE_ENDING}")
        for case in raw.training_cases()
    }
    names = [baseline.name for baseline in baselines]
    if len(set(names)) < len(names):
        raise InputError(f"Two baselines have one name: {', '.join(names)}.")
    return [
        baseline_run(
            baseline,
            read_map(map_words, list(label_files(baseline.folder).values()))
            if map_words
            else None,
            out_dir / "baselines" / case_id_of(Path(baseline.name)),
            raw.labels,
            grids,
        )
        for baseline in baselines
    ]


def _grid_of(file: Path) -> Grid:
    return read_array(file)[0]


def _compared(
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str],
    models: Sequence[str],
    budget: str | None,
) -> tuple[list[Model], str]:
    """Return what is compared, and the one budget that all of it was trained with."""
    asked = [
        (kind, configuration)
        for kind in models
        for configuration in configurations
        if configuration in trained_in(kind)
    ]
    budgets = [budget] if budget else list(BUDGETS)
    for name in budgets:
        try:
            found = [
                choose_model(
                    Dataset(workspace, dataset),
                    ModelRequest((configuration,), budget=name, kind=kind),
                )
                for kind, configuration in asked
            ]
        except InputError:
            if name == budgets[-1]:
                raise
        else:
            return found, name
    raise AssertionError("there is no budget")
