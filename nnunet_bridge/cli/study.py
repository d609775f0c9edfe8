"""`compare`, `run` and `demo`: a comparison, and all steps up to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import rich_click as click

from nnunet_bridge.cli.fields import Group, argument, option
from nnunet_bridge.cli.options import (
    BOTH,
    EXISTING,
    FOLDER,
    MODELS,
    budget_field,
    configurations_field,
    dataset_field,
    device_field,
    finished_budget_field,
    folds_field,
    force_field,
    label_map_field,
    model_field,
    models_field,
    recipe_field,
)
from nnunet_bridge.cli.session import Session, command
from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.summary import Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compare:
    dataset: str = dataset_field()
    configurations: tuple[str, ...] = configurations_field(
        "Repeat for several. [default: 2d and 3d_fullres]"
    )
    out: Path = option(
        "-o", "--out", "Folder of index.html and the tables.", type=FOLDER
    )
    margins: tuple[str, ...] = option(
        "--margin",
        "Difference too small to matter, e.g. dice=0.01. Repeat for several metrics.",
        metavar="METRIC=SIZE",
    )
    baselines: tuple[str, ...] = option(
        "--baseline",
        "Labels of another tool, as one more model. Repeat for several.",
        metavar="NAME=FOLDER",
        group=Group.INPUT,
    )
    map_words: tuple[str, ...] = label_map_field()
    models: tuple[str, ...] = models_field("Repeat for several. [default: nnunet]")
    budget: str | None = finished_budget_field()
    latex: bool = option("--latex", "Also write comparison.tex.", group=Group.OUTPUT)


@command(_Compare)
def compare(session: Session, asked: _Compare) -> Summary:
    """Compare configurations on the same validation cases.

    With --margin, each pair gets an answer: better, worse, equivalent or undecided.

    Example:  nnunet-bridge compare 1 -c 2d -c 3d_fullres -o comparison

    Example:  nnunet-bridge compare 1 -o comparison --margin dice=0.01 --latex
    """
    from nnunet_bridge.core.comparison import margins_from
    from nnunet_bridge.pipeline.comparison.baseline import baseline_of
    from nnunet_bridge.pipeline.comparison.compare import (
        ComparisonOptions,
        compare_dataset,
    )

    if asked.map_words and not asked.baselines:
        raise UsageError("--map maps the labels of a --baseline: give one.")
    options = ComparisonOptions(
        asked.configurations or BOTH,
        asked.models or MODELS[:1],
        asked.budget,
        margins_from(asked.margins),
        asked.latex,
        [baseline_of(word) for word in asked.baselines],
        asked.map_words,
    )
    dataset = session.dataset(asked.dataset)
    with session.progress() as progress:
        return compare_dataset(dataset, asked.out, options, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    study: Path = argument(type=EXISTING)
    recipe: str = recipe_field()
    configurations: tuple[str, ...] = configurations_field(
        "Repeat for several. [default: 2d and 3d_fullres]"
    )
    folds: tuple[str, ...] = folds_field("Repeat for several. [default: 0]")
    model: str = model_field()
    budget: str = budget_field()
    force: bool = force_field()
    device: str = device_field()


@command(_Run)
def run(session: Session, asked: _Run) -> Summary:
    """Convert, plan, train, predict, clean, score, mesh and compare a study.

    Example:  nnunet-bridge run knee_study -r dataset.toml -w /data/work --budget smoke
    """
    from nnunet_bridge.formats.recipe import read_recipe
    from nnunet_bridge.nnunet.methods import method_of
    from nnunet_bridge.pipeline.study import StudyOptions, run_study

    method = method_of(asked.model, asked.budget)
    options = StudyOptions(
        method,
        asked.configurations or method.usual_configurations,
        asked.folds or ("0",),
        asked.device,
        asked.force,
    )
    workspace, recipe = session.workspace, read_recipe(asked.recipe)
    with session.progress() as progress:
        return run_study(asked.study, recipe, workspace, options, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Demo:
    folder: Path = argument(type=FOLDER, default="demo", metavar="[DIR]")
    patients: int = option(
        "--patients",
        "Synthetic patients; the last two are kept for testing.",
        type=click.IntRange(4),
        default=10,
    )
    device: str = device_field()


@command(_Demo)
def demo(session: Session, asked: _Demo) -> Summary:
    """Run all steps on synthetic lower limbs, on a CPU, in about ten minutes.

    Checks the installation; its scores are not results. DIR/study gets the synthetic
    patients, DIR/work is the workspace.

    Example:  nnunet-bridge demo
    """
    from nnunet_bridge.pipeline.demo import run_demo

    with session.progress() as progress:
        return run_demo(
            asked.folder,
            patients=asked.patients,
            device=asked.device,
            progress=progress,
        )
