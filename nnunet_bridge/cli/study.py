"""`compare`, `run` and `demo`: the answer, and the whole way to it."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from nnunet_bridge.cli.options import (
    BOTH,
    EXISTING,
    FOLDER,
    MODELS,
    budget_option,
    configurations_option,
    dataset_argument,
    device_option,
    finished_budget_option,
    folds_option,
    force_option,
    label_map_option,
    model_option,
    recipe_option,
)
from nnunet_bridge.cli.session import Session, bridge_command
from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.summary import Summary


@click.command()
@dataset_argument
@configurations_option
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice(MODELS),
    help="Once for each. [default: nnunet]",
)
@finished_budget_option
@click.option("-o", "--out", type=FOLDER, required=True, help="For index.html.")
@click.option(
    "--margin",
    "margins",
    multiple=True,
    metavar="METRIC=SIZE",
    help="A difference too small to matter, e.g. dice=0.01; once for each metric.",
)
@click.option("--latex", is_flag=True, help="Also write comparison.tex.")
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="NAME=FOLDER",
    help="Labels of another tool, as one more model; once for each.",
)
@label_map_option
@bridge_command
def compare(
    session: Session,
    dataset: str,
    configurations: tuple[str, ...],
    models: tuple[str, ...],
    budget: str | None,
    out: Path,
    margins: tuple[str, ...],
    baselines: tuple[str, ...],
    map_words: tuple[str, ...],
    *,
    latex: bool,
) -> Summary:
    """Test one configuration against another on the same validation cases.

    With --margin, each pair is answered for: better, worse, equivalent or undecided.

    Example:  nnunet-bridge compare 1 -c 2d -c 3d_fullres -o comparison

    Example:  nnunet-bridge compare 1 -o comparison --margin dice=0.01 --latex
    """
    from nnunet_bridge.core.comparison import margins_from
    from nnunet_bridge.nnunet.names import Workspace, find_dataset
    from nnunet_bridge.pipeline.comparison.baseline import baseline_of
    from nnunet_bridge.pipeline.comparison.compare import compare_dataset

    if map_words and not baselines:
        raise UsageError("--map tells what the labels of a --baseline mean: name one.")

    workspace = Workspace.at(session.root)
    with session.progress() as progress:
        return compare_dataset(
            workspace,
            find_dataset(workspace, dataset),
            configurations or BOTH,
            out,
            models=models or MODELS[:1],
            budget=budget,
            margins=margins_from(margins),
            latex=latex,
            baselines=[baseline_of(word) for word in baselines],
            map_words=map_words,
            progress=progress,
        )


@click.command()
@click.argument("study", type=EXISTING)
@recipe_option
@model_option
@budget_option
@configurations_option
@folds_option
@device_option
@force_option
@bridge_command
def run(
    session: Session,
    study: Path,
    recipe_name: str,
    model: str,
    budget: str,
    configurations: tuple[str, ...],
    folds: tuple[str, ...],
    device: str,
    *,
    force: bool,
) -> Summary:
    """Convert, plan, train, predict, clean, score, mesh and compare a study.

    Example:  nnunet-bridge run knee_study -r dataset.toml -w /data/work --budget smoke
    """
    from nnunet_bridge.formats.recipe import read_recipe
    from nnunet_bridge.nnunet.methods import method_of
    from nnunet_bridge.nnunet.names import Workspace
    from nnunet_bridge.pipeline.study import StudyOptions, run_study

    method = method_of(model, budget)
    options = StudyOptions(
        method,
        configurations or method.usual_configurations,
        folds or ("0",),
        device,
        force,
    )
    workspace = Workspace.at(session.root)
    with session.progress() as progress:
        return run_study(
            study, read_recipe(recipe_name), workspace, options, progress=progress
        )


@click.command()
@click.argument("folder", type=FOLDER, default="demo", metavar="[DIR]")
@click.option(
    "--patients",
    type=click.IntRange(4),
    default=10,
    show_default=True,
    help="Synthetic patients, the unseen ones among them.",
)
@device_option
@bridge_command
def demo(session: Session, folder: Path, patients: int, device: str) -> Summary:
    """Make a synthetic lower limb in DIR and take it all the way, on a CPU.

    Proves the chain in about ten minutes; it is a smoke run, not a result. DIR/study
    gets the synthetic patients, DIR/work is the workspace.

    Example:  nnunet-bridge demo
    """
    from nnunet_bridge.pipeline.demo import run_demo

    with session.progress() as progress:
        return run_demo(folder, patients=patients, device=device, progress=progress)
