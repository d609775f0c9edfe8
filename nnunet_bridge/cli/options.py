"""Options that several commands share, declared as fields (see `cli.fields`)."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rich_click as click

from nnunet_bridge.cli.fields import Group, argument, option
from nnunet_bridge.core import words

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


class _Existing(click.Path):
    """A file or a folder; a pipe would be waited for without end."""

    def convert(self, value: Any, *place: Any) -> Any:
        """Return the path, or end with a usage error."""
        path: Path = super().convert(value, *place)  # type: ignore[assignment] # by `path_type`
        if not (path.is_file() or path.is_dir()):
            self.fail(f"{value} is a pipe or a device, not a file or a folder.", *place)
        return path


EXISTING = _Existing(path_type=Path, exists=True)
EXISTING_FILE = _Existing(path_type=Path, exists=True, dir_okay=False)
COUNT = click.IntRange(1)
NOT_NEGATIVE = click.FloatRange(0)
POSITIVE = click.FloatRange(0, min_open=True)


class _Model(click.Choice[str]):
    """A model of ours, or any by its trainer and plans."""

    def convert(self, value: Any, *place: Any) -> Any:
        """Return the word, or end with a usage error."""
        if isinstance(value, str) and _TRAINER_AND_PLANS.fullmatch(value):
            return value
        return super().convert(value, *place)


_TRAINER_AND_PLANS = re.compile("[A-Za-z][A-Za-z0-9_]*__[A-Za-z][A-Za-z0-9_]*")

BOTH = tuple(map(str, words.ALWAYS_PLANNED))  # trained and compared by default
CONFIGURATIONS = tuple(map(str, words.Configuration))
PLANNERS = tuple(map(str, words.PlannerName))
MODELS = tuple(map(str, words.ModelName))
BUDGETS = tuple(map(str, words.BudgetName))

input_option = partial(option, group=Group.INPUT)
series_option = partial(option, group=Group.SERIES)
model_option = partial(option, group=Group.MODEL)
output_option = partial(option, group=Group.OUTPUT)
machine_option = partial(option, group=Group.MACHINE)

_BOTH_BY_DEFAULT = "Repeat for several. [default: 2d and 3d_fullres]"
_recipe = partial(option, "-r", "--recipe", metavar="RECIPE")
_budget = partial(model_option, "--budget", choices=BUDGETS)

dataset_field = partial(argument, metavar="DATASET")


def configurations_field(
    meaning: str = _BOTH_BY_DEFAULT, *, group: Group = Group.USUAL
) -> Any:
    """Declare ``-c``: one configuration, or several where the field is a tuple."""
    text, names = f"{', '.join(CONFIGURATIONS)}. {meaning}", CONFIGURATIONS
    flags = "-c", "--configuration"
    return option(*flags, text, choices=names, metavar="NAME", group=group)


def folds_field(meaning: str = "Repeat for several. [default: 0]") -> Any:
    """Declare ``-f``, which may be repeated."""
    text = (
        "Fold: 0, 1, ..., all5 (folds 0 to 4) or all (one model trained on all cases)."
    )
    return option("-f", "--fold", f"{text} {meaning}", metavar="FOLD")


_model = partial(model_option, "--model", metavar="MODEL", type=_Model(MODELS))
_OTHERS = "or TRAINER__PLANS for any other"

model_field = partial(
    _model,
    f"Network and trainer: {', '.join(MODELS)}, {_OTHERS}.",
    default="nnunet",
)


def models_field(meaning: str) -> Any:
    """Declare ``--model``, which may be repeated."""
    return _model(f"{', '.join(MODELS)}, {_OTHERS}. {meaning}")


finished_model_field = partial(
    _model,
    f"Kind of trained model: {', '.join(MODELS)}, {_OTHERS}. "
    "[default: nnunet, if one has finished]",
)
budget_field = partial(
    _budget,
    "Training length. full: nnU-Net's own (needs a GPU). standard: a quarter of its "
    "epochs, for a quarter of the cost. quick: 2 % of its steps. smoke: a small "
    "network that checks the pipeline on a CPU; its scores "
    "are not results.",
)
finished_budget_field = partial(
    _budget, "Training length of the model. [default: the longest that has finished]"
)
seed_field = partial(
    model_option,
    "--seed",
    "Training of each fold: 0 is the first, 1 and higher the further ones.",
    type=click.IntRange(0),
    default=0,
)
device_field = partial(
    machine_option,
    "--device",
    "auto: a GPU if there is one.",
    choices=("auto", "cuda", "cpu", "mps"),
)
recipe_field = partial(
    _recipe,
    "A dataset.toml, or the name of a recipe that ships with the package. [default: "
    "the dataset.toml of the study, the current folder or the workspace]",
)
scans_recipe_field = partial(
    _recipe,
    "Recipe whose tables [scans] and [channels] choose what no option of this group "
    "does.",
    group=Group.SERIES,
)
yes_field = partial(
    machine_option, "--yes", "Do not ask before a training that takes days on a CPU."
)
slurm_recipe_field = partial(
    _recipe,
    "Recipe whose table [slurm] sets the resources of a job.",
    group=Group.MACHINE,
)
force_field = partial(output_option, "--force")
channel_field = partial(
    output_option,
    "--channel",
    "Channel in the pictures, of images with several. [default: the first]",
    metavar="NAME",
)
labels_file_field = partial(
    input_option,
    "--labels",
    "A dataset.json that names the labels. [default: the one beside the files]",
    type=EXISTING,
)
label_map_field = partial(
    input_option,
    "--map",
    "Map another tool's labels to those of the dataset, by name or value, e.g. "
    "femur_left=femur. Repeat for several.",
    metavar="FILE|THEIRS=OURS",
)


def tolerance_field(meaning: str) -> Any:
    """Declare ``--tolerance-mm``."""
    flag, kind = "--tolerance-mm", NOT_NEGATIVE
    return option(flag, meaning, type=kind, default=1.0, metavar="MM")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanChoice:
    """The series to read and how; the names are those of the recipe's ``[scans]``."""

    series: str | None = series_option("--series", "Series number, description or UID.")
    image_type: str | None = series_option(
        "--image-type", "Contrast: a word of Image Type, e.g. WATER.", metavar="WORD"
    )
    echo: int | None = series_option(
        "--echo", "Echo number; counted by rising time where the headers have none."
    )
    echo_time_ms: float | None = series_option(
        "--echo-time", "Echo time in ms, e.g. 4.92.", type=POSITIVE, metavar="MS"
    )
    repetition: str | None = series_option(
        "--repetition",
        "Acquisition to read where positions were scanned several times, e.g. 2.",
    )
    overlap: str | None = series_option(
        "--overlap",
        "Join overlapping stations: the image of the lower one (first), or the "
        "mean. [default: refuse]",
        choices=("refuse", "first", "mean"),
    )
    invert_monochrome1: bool | None = series_option(
        "--invert-monochrome1", "Invert a series whose smallest value is white."
    )
    pixel_spacing_mm: tuple[float, float] | None = series_option(
        "--pixel-spacing",
        "Pixel spacing in mm, for images without one.",
        type=POSITIVE,
        nargs=2,
        metavar="ROWS COLUMNS",
    )
    resample: str | None = series_option(
        "--resample",
        "Stacks to interpolate onto a regular, upright grid. [default: never]",
        choices=("never", "uneven", "sheared", "any"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionChoice:
    """The slices to predict."""

    slices: str | None = input_option(
        "--slices",
        "Predict slices A to B-1 only, counted from 0. A: and :B are open.",
        metavar="A:B",
    )
    from_mm: float | None = input_option(
        "--from-mm",
        "Predict from this height upwards: mm towards the head of axial slices.",
        metavar="Z",
    )
    to_mm: float | None = input_option(
        "--to-mm", "Predict up to this height.", metavar="Z"
    )
    auto: bool | None = input_option(
        "--region",
        "auto: find the region of the structures in a coarse first pass.",
        choices=("auto",),
        callback=lambda _context, _option, value: None if value is None else True,
    )
    margin_mm: float | None = input_option(
        "--margin-mm",
        "With --region auto: margin around the region. [default: 20]",
        type=NOT_NEGATIVE,
        metavar="MM",
    )
