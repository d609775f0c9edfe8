"""`compare`, `describe`, `audit`: a dataset in numbers; `run`, `demo`: all steps."""

from dataclasses import dataclass
from pathlib import Path

import rich_click as click

from nnunet_bridge.cli import options as shared
from nnunet_bridge.cli.fields import argument, option
from nnunet_bridge.cli.session import Session, command
from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.summary import Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compare:
    dataset: str | None = shared.dataset_field(required=False)
    configurations: tuple[str, ...] = shared.configurations_field()
    out: Path = option(
        "-o", "--out", "Folder of index.html and the tables.", type=shared.FOLDER
    )
    margins: tuple[str, ...] = option(
        "--margin",
        "Difference too small to matter, e.g. dice=0.01. Repeat for several metrics.",
        metavar="METRIC=SIZE",
    )
    baselines: tuple[str, ...] = shared.input_option(
        "--baseline",
        "Labels of another tool, as one more model. Repeat for several.",
        metavar="NAME=FOLDER",
    )
    map_words: tuple[str, ...] = shared.label_map_field()
    tables: tuple[str, ...] = shared.input_option(
        "--scores",
        "Instead of a dataset: a table with the columns of scores.csv. Repeat for "
        "each.",
        metavar="NAME=FILE",
    )
    patients: Path | None = shared.input_option(
        "--patients",
        "With --scores: a table with the columns case, patient. [default: each case "
        "is a patient]",
        type=shared.FILE,
    )
    models: tuple[str, ...] = shared.models_field(
        "Repeat for several. [default: nnunet]"
    )
    budget: str | None = shared.finished_budget_field()
    latex: bool = shared.output_option("--latex", "Also write comparison.tex.")
    channel: str | None = shared.channel_field()


@command(_Compare)
def compare(session: Session, asked: _Compare) -> Summary:
    """Compare configurations on the same validation cases.

    With --margin, each pair gets an answer: better, worse, equivalent or undecided.

    Example:  nnunet-bridge compare 1 -c 2d -c 3d_fullres -o comparison

    Example:  nnunet-bridge compare 1 -o comparison --margin dice=0.01 --latex

    Example:  nnunet-bridge compare --scores a=a.csv --scores b=b.csv -o comparison
    """
    if asked.tables:
        return _compare_tables(asked)
    if asked.dataset is None or asked.patients:
        raise UsageError("Name a DATASET, or tables with --scores NAME=FILE.")
    from nnunet_bridge.core.comparison import margins_from
    from nnunet_bridge.pipeline.comparison.baseline import baseline_of
    from nnunet_bridge.pipeline.comparison.compare import (
        ComparisonOptions,
        compare_dataset,
    )

    if asked.map_words and not asked.baselines:
        raise UsageError("--map maps the labels of a --baseline: give one.")
    options = ComparisonOptions(
        asked.configurations or shared.BOTH,
        asked.models or shared.MODELS[:1],
        asked.budget,
        margins_from(asked.margins),
        asked.latex,
        [baseline_of(word) for word in asked.baselines],
        asked.map_words,
        asked.channel,
    )
    dataset = session.dataset(asked.dataset)
    with session.progress() as progress:
        return compare_dataset(dataset, asked.out, options, progress=progress)


def _compare_tables(asked: _Compare) -> Summary:
    from nnunet_bridge.core.comparison import margins_from
    from nnunet_bridge.pipeline.comparison.score_tables import (
        TableOptions,
        compare_tables,
        table_of,
    )

    others = asked.configurations, asked.baselines, asked.models, asked.map_words
    if asked.dataset or asked.budget or asked.channel or any(others):
        raise UsageError(
            "--scores compares tables: omit DATASET and the options of models."
        )
    tables = [table_of(word) for word in asked.tables]
    margins = margins_from(asked.margins)
    options = TableOptions(tables, asked.patients, margins, asked.latex)
    return compare_tables(asked.out, options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Describe:
    dataset: str = shared.dataset_field()
    comparison: Path | None = option(
        "--comparison",
        "Folder of `compare`, for statistics and results.",
        type=shared.FOLDER,
    )


@command(_Describe)
def describe(session: Session, asked: _Describe) -> Summary:
    """Write a methods paragraph from the files of a dataset, to correct in a paper.

    It states data, splits, settings, versions and results, and lists what the files do
    not say.

    Example:  nnunet-bridge describe 1 --comparison comparison
    """
    from nnunet_bridge.pipeline.comparison.describe import describe_dataset

    return describe_dataset(session.dataset(asked.dataset), asked.comparison)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Audit:
    dataset: str = shared.dataset_field()
    out: Path = option(
        "-o",
        "--out",
        "Folder of index.html, audit.json and a .seg.nrrd for each case.",
        type=shared.FOLDER,
    )
    configuration: str | None = shared.configurations_field(
        "Its validation predictions are compared. [default: the one with the higher "
        "validation Dice]"
    )
    model: str | None = shared.finished_model_field()
    budget: str | None = shared.finished_budget_field()
    force: bool = shared.force_field(
        "Replace .seg.nrrd files that were edited since the last audit."
    )


@command(_Audit)
def audit(session: Session, asked: _Audit) -> Summary:
    """Find the training masks to check first, and write files to correct them.

    Compares each mask with the same structure in the other cases, and with the
    prediction of the fold that held the case out, if a model has finished.

    Example:  nnunet-bridge audit 1 -o audit
    """
    from nnunet_bridge.pipeline.models.audit import audit_dataset
    from nnunet_bridge.pipeline.models.choose import ModelRequest

    configurations = (asked.configuration,) if asked.configuration else ()
    request = ModelRequest(configurations, budget=asked.budget, kind=asked.model)
    words = session.dataset(asked.dataset), asked.out, request
    with session.progress() as progress:
        return audit_dataset(*words, force=asked.force, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    study: Path = argument(type=shared.EXISTING)
    recipe: str | None = shared.recipe_field()
    configurations: tuple[str, ...] = shared.configurations_field()
    folds: tuple[str, ...] = shared.folds_field()
    model: str = shared.model_field()
    budget: str = shared.budget_field()
    force: bool = shared.force_field("Redo finished work.")
    device: str = shared.device_field()
    yes: bool = shared.yes_field()


@command(_Run)
def run(session: Session, asked: _Run) -> Summary:
    """Convert, plan, train, predict, clean, score, mesh and compare a study.

    Example:  nnunet-bridge run knee_study -r dataset.toml -w /data/work --budget smoke
    """
    from nnunet_bridge.nnunet.methods import method_named
    from nnunet_bridge.pipeline.study import StudyOptions, run_study

    method = method_named(asked.model, asked.budget)
    options = StudyOptions(
        method,
        asked.configurations or method.usual_configurations,
        asked.folds or ("0",),
        asked.device,
        asked.force,
    )
    recipe = session.recipe(asked.recipe, asked.study)
    study = asked.study, recipe, session.new_workspace, options
    with session.progress() as progress:
        consent = session.consent(progress, yes=asked.yes)
        return run_study(*study, progress=progress, consent=consent)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Demo:
    folder: Path = argument(type=shared.FOLDER, default="demo", metavar="[DIR]")
    patients: int = option(
        "--patients",
        "Synthetic patients; the last two are kept for testing.",
        type=click.IntRange(4),
        default=10,
    )
    only_study: bool = option(
        "--only-study", "Write DIR/study with its recipe, and stop."
    )
    device: str = shared.device_field()


@command(_Demo)
def demo(session: Session, asked: _Demo) -> Summary:
    """Run all steps on synthetic lower limbs, on a CPU, in about ten minutes.

    Checks the installation; its scores are not results. DIR/study gets the synthetic
    patients, DIR/work is the workspace.

    Example:  nnunet-bridge demo
    """
    from nnunet_bridge.pipeline.demo import run_demo, write_demo_study

    with session.progress() as progress:
        if asked.only_study:
            folder, patients = asked.folder, asked.patients
            return write_demo_study(folder, patients=patients, progress=progress)
        return run_demo(
            asked.folder,
            patients=asked.patients,
            device=asked.device,
            progress=progress,
        )
