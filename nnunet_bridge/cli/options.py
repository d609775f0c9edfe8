"""Options that several commands share, declared as fields (see `cli.fields`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rich_click as click

from nnunet_bridge.cli.fields import Group, argument, option
from nnunet_bridge.core.words import (
    ALWAYS_PLANNED,
    FOREIGN,
    BudgetName,
    Configuration,
    ModelName,
    PlannerName,
)

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
EXISTING = click.Path(path_type=Path, exists=True)

BOTH = tuple(map(str, ALWAYS_PLANNED))
"""Trained and compared by default."""

CONFIGURATIONS = tuple(map(str, Configuration))
PLANNERS = tuple(map(str, PlannerName))
MODELS = tuple(map(str, ModelName))
BUDGETS = tuple(map(str, BudgetName))

_input = partial(option, group=Group.INPUT)
_series = partial(option, group=Group.SERIES)


dataset_field = partial(argument, metavar="DATASET")


def configurations_field(meaning: str, *, group: Group = Group.USUAL) -> Any:
    """Declare ``-c``, which may be repeated."""
    return option(
        "-c",
        "--configuration",
        f"{', '.join(CONFIGURATIONS)}. {meaning}",
        choices=CONFIGURATIONS,
        metavar="NAME",
        group=group,
    )


def folds_field(meaning: str = "Repeat for several.") -> Any:
    """Declare ``-f``, which may be repeated."""
    return option(
        "-f",
        "--fold",
        f"Fold: 0, 1, ..., all5 (folds 0 to 4) or all (one model trained on all "
        f"cases). {meaning}",
        metavar="FOLD",
    )


model_field = partial(
    option,
    "--model",
    f"Network and trainer: {', '.join(MODELS)}.",
    choices=MODELS,
    metavar="MODEL",
    default="nnunet",
    group=Group.MODEL,
)


def models_field(meaning: str) -> Any:
    """Declare ``--model``, which may be repeated."""
    return option(
        "--model",
        f"{', '.join(MODELS)}. {meaning}",
        choices=MODELS,
        metavar="MODEL",
        group=Group.MODEL,
    )


finished_model_field = partial(
    option,
    "--model",
    f"Kind of trained model: {', '.join(MODELS)}, foreign (trained "
    "elsewhere). [default: nnunet, if one has finished]",
    choices=(*MODELS, FOREIGN),
    metavar="MODEL",
    group=Group.MODEL,
)

budget_field = partial(
    option,
    "--budget",
    "Training length. full: nnU-Net's own (needs a GPU). quick: 2 % of its "
    "steps. smoke: a small network that checks the pipeline on a CPU; its scores "
    "are not results.",
    choices=BUDGETS,
    group=Group.MODEL,
)

finished_budget_field = partial(
    option,
    "--budget",
    "Training length of the model. [default: the longest that has finished]",
    choices=BUDGETS,
    group=Group.MODEL,
)

device_field = partial(
    option,
    "--device",
    "auto: a GPU if there is one.",
    choices=("auto", "cuda", "cpu", "mps"),
    group=Group.MACHINE,
)

recipe_field = partial(
    option,
    "-r",
    "--recipe",
    "A dataset.toml, or the name of a recipe that ships with the package.",
    metavar="RECIPE",
)

scans_recipe_field = partial(
    _series,
    "-r",
    "--recipe",
    "Recipe whose table [scans] sets the options of this group that are not given.",
    metavar="RECIPE",
)


def force_field(meaning: str = "Redo finished work.") -> Any:
    """Declare ``--force``."""
    return option("--force", meaning, group=Group.OUTPUT)


labels_file_field = partial(
    _input,
    "--labels",
    "A dataset.json that names the labels. [default: the one beside the files]",
    type=EXISTING,
)

label_map_field = partial(
    _input,
    "--map",
    "Map another tool's labels to ours, by name or value, e.g. "
    "femur_left=femur. Repeat for several.",
    metavar="FILE|THEIRS=OURS",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanChoice:
    """The series to read and how; the names are those of the recipe's ``[scans]``."""

    series: str | None = _series("--series", "Series number, description or UID.")
    image_type: str | None = _series(
        "--image-type", "Contrast: a word of Image Type, e.g. WATER.", metavar="WORD"
    )
    echo: int | None = _series("--echo", "Echo number.")
    repetition: str | None = _series(
        "--repetition",
        "Acquisition to read where the same places were scanned several times, e.g. 2.",
    )
    overlap: str | None = _series(
        "--overlap",
        "Join overlapping stations: the image of the lower one (first), or the "
        "mean. [default: refuse]",
        choices=("refuse", "first", "mean"),
    )
    invert_monochrome1: bool | None = _series(
        "--invert-monochrome1", "Invert a series whose smallest value is white."
    )
    pixel_spacing_mm: tuple[float, float] | None = _series(
        "--pixel-spacing",
        "Pixel spacing in mm, for images without one.",
        type=click.FloatRange(0, min_open=True),
        nargs=2,
        metavar="ROWS COLUMNS",
    )
    resample: str | None = _series(
        "--resample",
        "Stacks to interpolate onto a regular, upright grid. [default: never]",
        choices=("never", "uneven", "sheared", "any"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionChoice:
    """The slices to predict."""

    slices: str | None = _input(
        "--slices",
        "Predict slices A to B-1 only, counted from 0. A: and :B are open.",
        metavar="A:B",
    )
    from_mm: float | None = _input(
        "--from-mm",
        "Predict from this height upwards: mm towards the head of axial slices.",
        metavar="Z",
    )
    to_mm: float | None = _input("--to-mm", "Predict up to this height.", metavar="Z")
    auto: bool | None = _input(
        "--region",
        "auto: find the region of the structures in a coarse first pass.",
        choices=("auto",),
        callback=lambda _context, _option, value: None if value is None else True,
    )
    margin_mm: float | None = _input(
        "--margin-mm",
        "With --region auto: margin around the region. [default: 20]",
        type=click.FloatRange(0),
        metavar="MM",
    )
