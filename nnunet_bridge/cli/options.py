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
        multiple=True,
        type=click.Choice(CONFIGURATIONS),
        metavar="NAME",
        group=group,
        help=f"{', '.join(CONFIGURATIONS)}. {meaning}",
    )


def folds_field(meaning: str = "Repeat for several.") -> Any:
    """Declare ``-f``, which may be repeated."""
    return option(
        "-f",
        "--fold",
        multiple=True,
        metavar="FOLD",
        help=f"Fold: 0, 1, ..., all5 (folds 0 to 4) or all (one model trained on all "
        f"cases). {meaning}",
    )


model_field = partial(
    option,
    "--model",
    type=click.Choice(MODELS),
    metavar="MODEL",
    default="nnunet",
    group=Group.MODEL,
    help=f"Network and trainer: {', '.join(MODELS)}.",
)


def models_field(meaning: str) -> Any:
    """Declare ``--model``, which may be repeated."""
    return option(
        "--model",
        multiple=True,
        type=click.Choice(MODELS),
        metavar="MODEL",
        group=Group.MODEL,
        help=f"{', '.join(MODELS)}. {meaning}",
    )


finished_model_field = partial(
    option,
    "--model",
    type=click.Choice([*MODELS, FOREIGN]),
    metavar="MODEL",
    group=Group.MODEL,
    help=f"Kind of trained model: {', '.join(MODELS)}, foreign (trained "
    "elsewhere). [default: nnunet, if one has finished]",
)

budget_field = partial(
    option,
    "--budget",
    type=click.Choice(BUDGETS),
    default="full",
    group=Group.MODEL,
    help="Training length. full: nnU-Net's own (needs a GPU). quick: 2 % of its "
    "steps. smoke: a small network that checks the pipeline on a CPU; its scores "
    "are not results.",
)

finished_budget_field = partial(
    option,
    "--budget",
    type=click.Choice(BUDGETS),
    group=Group.MODEL,
    help="Training length of the model. [default: the longest that has finished]",
)

device_field = partial(
    option,
    "--device",
    type=click.Choice(["auto", "cuda", "cpu", "mps"]),
    default="auto",
    group=Group.MACHINE,
    help="auto: a GPU if there is one.",
)

recipe_field = partial(
    option,
    "-r",
    "--recipe",
    required=True,
    metavar="RECIPE",
    help="A dataset.toml, or the name of a recipe that ships with the package.",
)

scans_recipe_field = partial(
    _series,
    "-r",
    "--recipe",
    metavar="RECIPE",
    help="Recipe whose table [scans] sets the options of this group that are not "
    "given.",
)


def force_field(meaning: str = "Redo finished work.") -> Any:
    """Declare ``--force``."""
    return option("--force", is_flag=True, group=Group.OUTPUT, help=meaning)


labels_file_field = partial(
    _input,
    "--labels",
    type=EXISTING,
    metavar="FILE",
    help="A dataset.json that names the labels. [default: the one beside the files]",
)

label_map_field = partial(
    _input,
    "--map",
    multiple=True,
    metavar="FILE|THEIRS=OURS",
    help="Map another tool's labels to ours, by name or value, e.g. "
    "femur_left=femur. Repeat for several.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanChoice:
    """The series to read and how; the names are those of the recipe's ``[scans]``."""

    series: str | None = _series("--series", help="Series number, description or UID.")
    image_type: str | None = _series(
        "--image-type",
        metavar="WORD",
        help="Contrast: a word of Image Type, e.g. WATER.",
    )
    echo: int | None = _series("--echo", type=int, metavar="N", help="Echo number.")
    repetition: str | None = _series(
        "--repetition",
        help="Acquisition to read where the same places were scanned several times, "
        "e.g. 2.",
    )
    overlap: str | None = _series(
        "--overlap",
        type=click.Choice(["refuse", "first", "mean"]),
        help="Join overlapping stations: the image of the lower one (first), or the "
        "mean. [default: refuse]",
    )
    invert_monochrome1: bool | None = _series(
        "--invert-monochrome1",
        is_flag=True,
        default=None,
        help="Invert a series whose smallest value is white.",
    )
    pixel_spacing_mm: tuple[float, float] | None = _series(
        "--pixel-spacing",
        type=click.FloatRange(0, min_open=True),
        nargs=2,
        metavar="ROWS COLUMNS",
        help="Pixel spacing in mm, for images without one.",
    )
    resample: str | None = _series(
        "--resample",
        type=click.Choice(["never", "uneven", "sheared", "any"]),
        help="Stacks to interpolate onto a regular, upright grid. [default: never]",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionChoice:
    """The slices to predict."""

    slices: str | None = _input(
        "--slices",
        metavar="A:B",
        help="Predict slices A to B-1 only, counted from 0. A: and :B are open.",
    )
    from_mm: float | None = _input(
        "--from-mm",
        type=float,
        metavar="Z",
        help="Predict from this height upwards: mm towards the head of axial slices.",
    )
    to_mm: float | None = _input(
        "--to-mm", type=float, metavar="Z", help="Predict up to this height."
    )
    auto: bool | None = _input(
        "--region",
        type=click.Choice(["auto"]),
        callback=lambda _context, _option, value: None if value is None else True,
        help="auto: find the region of the structures in a coarse first pass.",
    )
    margin_mm: float | None = _input(
        "--margin-mm",
        type=click.FloatRange(0),
        metavar="MM",
        help="With --region auto: margin around the region. [default: 20]",
    )
