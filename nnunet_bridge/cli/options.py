"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
EXISTING = click.Path(path_type=Path, exists=True)

dataset_argument = click.argument("dataset", metavar="DATASET")

own_arguments_argument = click.argument(
    "own_arguments",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="[-- NNUNET_ARGUMENT...]",
)
"""nnU-Net's own arguments, after ``--``."""

recipe_option = click.option(
    "-r",
    "--recipe",
    "recipe_name",
    required=True,
    metavar="RECIPE",
    help="A dataset.toml, or the name of a recipe that ships with the package.",
)

scans_recipe_option = click.option(
    "-r",
    "--recipe",
    "recipe_name",
    default=None,
    metavar="RECIPE",
    help="Take what is not said here about series from its [scans].",
)

force_option = click.option(
    "--force", is_flag=True, help="Do anew what is already done."
)


BOTH = tuple(map(str, ALWAYS_PLANNED))
"""Trained and compared by default."""

CONFIGURATIONS = tuple(map(str, Configuration))
PLANNERS = tuple(map(str, PlannerName))
MODELS = tuple(map(str, ModelName))
BUDGETS = tuple(map(str, BudgetName))


def _configurations(meaning: str) -> Callable[[Decorated], Decorated]:
    return click.option(
        "-c",
        "--configuration",
        "configurations",
        multiple=True,
        type=click.Choice(CONFIGURATIONS),
        help=meaning,
    )


configurations_option = _configurations(
    "Once for each. [default: 2d and 3d_fullres]",
)

predicting_configurations_option = _configurations(
    "Several give their mean. [default: what `select` chose, else the better one on "
    "its own validation]",
)

weighed_configurations_option = _configurations(
    "Once for each. [default: all that have finished folds]",
)

folds_option = click.option(
    "-f",
    "--fold",
    "folds",
    multiple=True,
    metavar="FOLD",
    help="0, 1, ... once for each; all5 for every fold; all to train on every case.",
)

budget_option = click.option(
    "--budget",
    type=click.Choice(BUDGETS),
    default="full",
    show_default=True,
    help="full: nnU-Net untouched (a GPU). quick: 2 % of its steps. smoke: a small "
    "network for a trial on a CPU, not a result.",
)

finished_budget_option = click.option(
    "--budget",
    type=click.Choice(BUDGETS),
    default=None,
    help="Which finished models. [default: the largest budget that has some]",
)

model_option = click.option(
    "--model",
    type=click.Choice(MODELS),
    default="nnunet",
    show_default=True,
    help="Which network and trainer.",
)

finished_model_option = click.option(
    "--model",
    type=click.Choice([*MODELS, FOREIGN]),
    default=None,
    help="Which finished models. [default: nnunet, if it has some]",
)

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "cpu", "mps"]),
    default="auto",
    show_default=True,
    help="auto takes a GPU if there is one.",
)

_SCAN_OPTIONS = {
    "series": click.option(
        "--series", default=None, help="Which series: number, description or UID."
    ),
    "image_type": click.option(
        "--image-type", default=None, metavar="WORD", help="Which contrast: WATER."
    ),
    "echo": click.option("--echo", type=int, default=None, help="Which echo."),
    "repetition": click.option(
        "--repetition", default=None, help="Which of several acquisitions of a place."
    ),
    "overlap": click.option(
        "--overlap",
        type=click.Choice(["refuse", "first", "mean"]),
        default=None,
        help="Join stations that overlap on one grid. [default: refuse]",
    ),
    "invert_monochrome1": click.option(
        "--invert-monochrome1",
        is_flag=True,
        default=None,
        help="Turn over a series whose smallest value is white.",
    ),
    "pixel_spacing_mm": click.option(
        "--pixel-spacing",
        "pixel_spacing_mm",
        type=click.FloatRange(0, min_open=True),
        nargs=2,
        default=None,
        metavar="ROWS COLUMNS",
        help="In mm, for images that do not say it.",
    ),
    "resample": click.option(
        "--resample",
        type=click.Choice(["never", "uneven", "sheared", "any"]),
        default=None,
        help="Interpolate such a stack onto a regular grid. [default: never]",
    ),
}


_REGION_OPTIONS = {
    "slices": click.option(
        "--slices",
        default=None,
        metavar="A:B",
        help="Predict slices A to B-1 only, counted from 0; A: and :B are open.",
    ),
    "from_mm": click.option(
        "--from-mm",
        type=float,
        default=None,
        metavar="Z",
        help="Predict only from this height on: mm towards the head of axial slices.",
    ),
    "to_mm": click.option(
        "--to-mm",
        type=float,
        default=None,
        metavar="Z",
        help="Predict only up to this height.",
    ),
    "auto": click.option(
        "--region",
        "auto",
        type=click.Choice(["auto"]),
        default=None,
        callback=lambda _context, _option, value: None if value is None else True,
        help="auto: find in a first, coarse pass where the structures are.",
    ),
    "margin_mm": click.option(
        "--margin-mm",
        type=click.FloatRange(0),
        default=None,
        help="With --region auto: kept beyond what was found. [default: 20]",
    ),
}


def scan_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command what `[scans]` decides about series, as the word `scans`.

    It holds only what was asked for; the names are those of the recipe.
    """
    return _as_one_word("scans", _SCAN_OPTIONS, command)


def region_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command what decides which slices are predicted, as the word `region`.

    It holds only what was asked for.
    """
    return _as_one_word("region", _REGION_OPTIONS, command)


def _as_one_word(
    word: str,
    options: Mapping[str, Callable[[Callable[..., None]], Callable[..., None]]],
    command: Callable[..., None],
) -> Callable[..., None]:
    """Give a command several options as one mapping of what was asked for."""

    @functools.wraps(command)
    def run(**words: Any) -> None:
        asked = {name: words.pop(name) for name in options}
        given = {name: value for name, value in asked.items() if value is not None}
        command(**words, **{word: given})

    for each in reversed(list(options.values())):
        each(run)
    return run


label_map_option = click.option(
    "--map",
    "map_words",
    multiple=True,
    metavar="FILE|THEIRS=OURS",
    help="What another tool's labels are among ours, by name or value.",
)
labels_option = click.option(
    "--labels",
    "labels_file",
    type=EXISTING,
    default=None,
    help="A dataset.json that names the labels. [default: the one beside the files]",
)


# What follows declares the same as fields (see `cli.fields`), for commands that take
# one value. The decorators above go when no command uses them.


def dataset_field() -> Any:
    """Declare the dataset, by number or name."""
    return argument(metavar="DATASET")


def configurations_field(meaning: str, *, group: Group = Group.USUAL) -> Any:
    """Declare ``-c``, which may be repeated."""
    return option(
        "-c",
        "--configuration",
        multiple=True,
        type=click.Choice(CONFIGURATIONS),
        metavar="NAME",
        group=group,
        help=f"{_listed(CONFIGURATIONS)}. {meaning}",
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


def model_field() -> Any:
    """Declare ``--model``: the network and trainer of a new training."""
    return option(
        "--model",
        type=click.Choice(MODELS),
        metavar="MODEL",
        default="nnunet",
        group=Group.MODEL,
        help=f"Network and trainer: {_listed(MODELS)}.",
    )


def models_field(meaning: str) -> Any:
    """Declare ``--model``, which may be repeated."""
    return option(
        "--model",
        multiple=True,
        type=click.Choice(MODELS),
        metavar="MODEL",
        group=Group.MODEL,
        help=f"{_listed(MODELS)}. {meaning}",
    )


def finished_model_field() -> Any:
    """Declare ``--model``: the kind of a model that has finished training."""
    return option(
        "--model",
        type=click.Choice([*MODELS, FOREIGN]),
        metavar="MODEL",
        default=None,
        group=Group.MODEL,
        help=f"Kind of trained model: {_listed([*MODELS, FOREIGN])} (trained "
        "elsewhere). [default: nnunet, if one has finished]",
    )


def budget_field() -> Any:
    """Declare ``--budget``: the length of a new training."""
    return option(
        "--budget",
        type=click.Choice(BUDGETS),
        default="full",
        group=Group.MODEL,
        help="Training length. full: nnU-Net's own (needs a GPU). quick: 2 % of its "
        "steps. smoke: a small network that checks the pipeline on a CPU; its scores "
        "are not results.",
    )


def finished_budget_field() -> Any:
    """Declare ``--budget``: the training length of a finished model."""
    return option(
        "--budget",
        type=click.Choice(BUDGETS),
        default=None,
        group=Group.MODEL,
        help="Training length of the model. [default: the longest that has finished]",
    )


def device_field() -> Any:
    """Declare ``--device``."""
    return option(
        "--device",
        type=click.Choice(["auto", "cuda", "cpu", "mps"]),
        default="auto",
        group=Group.MACHINE,
        help="auto: a GPU if there is one.",
    )


def recipe_field() -> Any:
    """Declare the recipe of a study."""
    return option(
        "-r",
        "--recipe",
        required=True,
        metavar="RECIPE",
        help="A dataset.toml, or the name of a recipe that ships with the package.",
    )


def scans_recipe_field() -> Any:
    """Declare a recipe that is read for its table ``[scans]`` only."""
    return option(
        "-r",
        "--recipe",
        default=None,
        metavar="RECIPE",
        group=Group.SERIES,
        help="Recipe whose table [scans] sets the options of this group that are not "
        "given.",
    )


def force_field(meaning: str = "Redo finished work.") -> Any:
    """Declare ``--force``."""
    return option("--force", is_flag=True, group=Group.OUTPUT, help=meaning)


def labels_file_field() -> Any:
    """Declare the file that names the labels."""
    return option(
        "--labels",
        type=EXISTING,
        default=None,
        metavar="FILE",
        group=Group.INPUT,
        help="A dataset.json that names the labels. [default: the one beside the "
        "files]",
    )


def label_map_field() -> Any:
    """Declare ``--map``, which may be repeated."""
    return option(
        "--map",
        multiple=True,
        metavar="FILE|THEIRS=OURS",
        group=Group.INPUT,
        help="Map another tool's labels to ours, by name or value, e.g. "
        "femur_left=femur. Repeat for several.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanChoice:
    """The series to read and how; the names are those of the recipe's ``[scans]``."""

    series: str | None = option(
        "--series",
        default=None,
        group=Group.SERIES,
        help="Series number, description or UID.",
    )
    image_type: str | None = option(
        "--image-type",
        default=None,
        metavar="WORD",
        group=Group.SERIES,
        help="Contrast: a word of Image Type, e.g. WATER.",
    )
    echo: int | None = option(
        "--echo",
        type=int,
        default=None,
        metavar="N",
        group=Group.SERIES,
        help="Echo number.",
    )
    repetition: str | None = option(
        "--repetition",
        default=None,
        group=Group.SERIES,
        help="Acquisition to read where the same places were scanned several times, "
        "e.g. 2.",
    )
    overlap: str | None = option(
        "--overlap",
        type=click.Choice(["refuse", "first", "mean"]),
        default=None,
        group=Group.SERIES,
        help="Join overlapping stations: the image of the lower one (first), or the "
        "mean. [default: refuse]",
    )
    invert_monochrome1: bool | None = option(
        "--invert-monochrome1",
        is_flag=True,
        default=None,
        group=Group.SERIES,
        help="Invert a series whose smallest value is white.",
    )
    pixel_spacing_mm: tuple[float, float] | None = option(
        "--pixel-spacing",
        type=click.FloatRange(0, min_open=True),
        nargs=2,
        default=None,
        metavar="ROWS COLUMNS",
        group=Group.SERIES,
        help="Pixel spacing in mm, for images without one.",
    )
    resample: str | None = option(
        "--resample",
        type=click.Choice(["never", "uneven", "sheared", "any"]),
        default=None,
        group=Group.SERIES,
        help="Stacks to interpolate onto a regular, upright grid. [default: never]",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionChoice:
    """The slices to predict."""

    slices: str | None = option(
        "--slices",
        default=None,
        metavar="A:B",
        group=Group.INPUT,
        help="Predict slices A to B-1 only, counted from 0. A: and :B are open.",
    )
    from_mm: float | None = option(
        "--from-mm",
        type=float,
        default=None,
        metavar="Z",
        group=Group.INPUT,
        help="Predict from this height upwards: mm towards the head of axial slices.",
    )
    to_mm: float | None = option(
        "--to-mm",
        type=float,
        default=None,
        metavar="Z",
        group=Group.INPUT,
        help="Predict up to this height.",
    )
    auto: bool | None = option(
        "--region",
        type=click.Choice(["auto"]),
        default=None,
        callback=lambda _context, _option, value: None if value is None else True,
        group=Group.INPUT,
        help="auto: find the region of the structures in a coarse first pass.",
    )
    margin_mm: float | None = option(
        "--margin-mm",
        type=click.FloatRange(0),
        default=None,
        metavar="MM",
        group=Group.INPUT,
        help="With --region auto: margin around the region. [default: 20]",
    )


def _listed(words: Iterable[str]) -> str:
    """Return the words of a choice as a list for the help."""
    return ", ".join(words)
