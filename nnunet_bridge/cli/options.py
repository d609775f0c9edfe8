"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

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


BOTH = ("2d", "3d_fullres")
"""What is trained and compared unless something else is asked for."""


CONFIGURATIONS = (*BOTH, "3d_lowres", "3d_cascade_fullres")
"""As `nnunet.plans` has them; a test holds one against the other."""

PLANNERS = ("default", "resenc-m", "resenc-l", "resenc-xl")
"""As `nnunet.planners` has them; a test holds one against the other."""


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
    type=click.Choice(["full", "quick", "smoke"]),
    default="full",
    show_default=True,
    help="full: nnU-Net untouched (a GPU). quick: 2 % of its steps. smoke: a small "
    "network for a trial on a CPU, not a result.",
)

finished_budget_option = click.option(
    "--budget",
    type=click.Choice(["full", "quick", "smoke"]),
    default=None,
    help="Which finished models. [default: the largest budget that has some]",
)

MODELS = (
    *("nnunet", "unet2d", "resnet34", "resnet34-frozen", "report-augmentation"),
    *("resenc-m", "resenc-l"),
)
"""As `nnunet.methods` has them; a test holds one against the other."""

model_option = click.option(
    "--model",
    type=click.Choice(MODELS),
    default="nnunet",
    show_default=True,
    help="Which network and trainer.",
)

finished_model_option = click.option(
    "--model",
    type=click.Choice([*MODELS, "foreign"]),
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
    def run(**words: Any) -> None:  # noqa: ANN401 - each command has its own
        asked = {name: words.pop(name) for name in options}
        given = {name: value for name, value in asked.items() if value is not None}
        command(**words, **{word: given})

    for option in reversed(list(options.values())):
        option(run)
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
