"""The recipe `dataset.toml`: how a study folder becomes a dataset.

All mistakes of a recipe are reported at once, each with its place, such as
``merge.priority``. A recipe that was read is valid: its patterns compile, its names
exist, its label values have no gap.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import string
import threading
import tomllib
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
)

from nnunet_bridge.core.dataset import DatasetSpec, checked_case_id
from nnunet_bridge.core.errors import BridgeError, RecipeError, UsageError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.image import Label, LabelTable, default_colour, side_of
from nnunet_bridge.core.partly import PARTIAL
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import counted
from nnunet_bridge.core.words import Side
from nnunet_bridge.formats.channels import Channels, ChannelSeries
from nnunet_bridge.formats.key_texts import describe_keys, one_or_several
from nnunet_bridge.formats.labels_file import IGNORE
from nnunet_bridge.formats.system import processor_time_limit
from nnunet_bridge.ops.naming import composed

RECIPE_FILE = "dataset.toml"
MIXED_STATES = (
    '"ignore" leaves out every voxel where "partial" would teach: write one of the two '
    "for all structures of a case"
)
MATCH_S = 1.0  # processor time that one name may take to match a pattern
_MOST_RECIPE_BYTES = 1 << 20
_LONGEST_PATTERN = 1000
_MOST_LABELS = 255  # nnU-Net stores labels in one byte, and 0 is the background
_HINTS = 20  # unknown names for which a similar one is searched
_CASE_FORMAT = re.compile(r"[<>^=+-]?0?[0-9]{0,2}[ds]?")
SIDE_WORDS = {
    "l": "left", "left": "left", "r": "right", "right": "right",
    "m": "middle", "middle": "middle",
}  # fmt: skip


def match_name(pattern: str, name: str, flags: int = 0) -> re.Match[str] | None:
    """Return the match of a whole name, as `re.fullmatch`, in bounded time.

    Some patterns, such as ``(a+)+b``, take years for a name of 40 letters. A timer of
    the processor time ends them; threads but the main one, and Windows, have none.

    Raises `RecipeError` after `MATCH_S` seconds.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise RecipeError(
            f"The pattern {pattern[:80]!r} of the recipe takes more than {MATCH_S:g} s "
            f"for the name {quoted(name)}: repeat nothing that is repeated already."
        )

    if threading.current_thread() is not threading.main_thread():
        return re.fullmatch(pattern, name, flags)
    with processor_time_limit(MATCH_S, stop):
        return re.fullmatch(pattern, name, flags)


def _pattern_with(*needs: str) -> AfterValidator:
    """Check that a regular expression compiles and has these named groups."""

    def checked(pattern: str) -> str:
        if len(pattern) > _LONGEST_PATTERN:
            raise ValueError(f"has more than {_LONGEST_PATTERN} characters")
        try:
            groups = re.compile(pattern).groupindex
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        if missing := [name for name in needs if name not in groups]:
            raise ValueError(f"needs a named group (?P<{missing[0]}>...)")
        return pattern

    return AfterValidator(checked)


def _as_several(value: Any) -> Any:  # noqa: ANN401 - pydantic judges it next
    return (value,) if isinstance(value, str | int) else value


Millimetres: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Texts: TypeAlias = Annotated[
    tuple[str, ...], BeforeValidator(_as_several), one_or_several("string")
]
Values: TypeAlias = Annotated[
    tuple[int, ...], BeforeValidator(_as_several), one_or_several("integer")
]

Groups: TypeAlias = Mapping[str, str | None]
"""The named groups of a pattern that matched a name."""

_SHIPPED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class _Part(BaseModel):
    """A table of the recipe; the string below a key describes it in docs and schema."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra=describe_keys
    )


ChannelName: TypeAlias = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9 _-]{0,30}[A-Za-z0-9])?$")
]


class DatasetPart(_Part):
    """``[dataset]``: number, name, channels and the form of case ids."""

    id: int = Field(ge=1, le=999)
    """Number of the dataset in nnU-Net."""

    name: str = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$")
    """Letters, digits, inner `_` and `-`: `Tibia` becomes `Dataset001_Tibia`."""

    channel: str = Field(default="MRI", min_length=1)
    """Name of the channel; `"CT"` selects nnU-Net's CT normalisation."""

    channels: tuple[ChannelName, ...] = Field(default=(), max_length=16)
    """Names of several channels, in place of `channel`, in nnU-Net's order."""

    resample_channels: bool = False
    """Interpolate channels on another grid onto that of the first (G21)."""

    case: str = "case_{index:03d}"
    """Form of case ids, of the named groups of `scans.pattern`. With a table: only of
    `index`, by default `"msk_{index:03d}"`."""

    table: str | None = Field(default=None, min_length=1)
    """The case table, relative to the recipe. `[scans]` and `[masks]` then need no
    folders and patterns."""


class ScansPart(_Part):
    """``[scans]``: one folder per patient, and the series to read."""

    folder: str = "Raw DICOM MRI Scans"
    """Holds one folder for each scan."""

    pattern: Annotated[str, _pattern_with("index")] = (
        r"(?P<index>\d+)_.*_(?P<code>[^_]+)"
    )
    """Regular expression for the whole name of a scan folder; needs the group
    `index`. With a group `code`, equal codes mean the same patient."""

    image_type: str | None = None
    """A word of DICOM's *Image Type*, such as `"WATER"`."""

    series: str | None = None
    """Number, description or UID of the series, if a folder holds several."""

    echo: int | None = None
    """Echo number, if a series holds several; counted by rising echo time where the
    headers lack numbers."""

    echo_time_ms: float | None = Field(default=None, gt=0)
    """Echo time in ms, if a series holds several."""

    repetition: str | None = None
    """Which of several acquisitions of the same positions: `"acquisition 2"`, or
    `"2"`; `"set 2"` where only the instance numbers tell images apart."""

    overlap: Literal["refuse", "first", "mean"] = "refuse"
    """Overlapping stations on one grid: `"first"` takes the image of the lower
    station, `"mean"` averages. Stations may be series of their own; on different grids
    they are always refused."""

    invert_monochrome1: bool = False
    """Invert series whose smallest value is white."""

    pixel_spacing_mm: tuple[Millimetres, Millimetres] | None = None
    """`[between rows, between columns]`, for images without it; images with another
    value are refused."""

    resample: Literal["never", "uneven", "sheared", "any"] = "never"
    """Interpolate `"uneven"` or `"sheared"` stacks, or `"any"` of both, onto a
    regular grid. The manifest lists the interpolated slices."""


class MasksPart(_Part):
    """``[masks]``: the folders of masks and the meaning of their names."""

    folder: Texts = (
        "Raw NIFITI Segmentation Masks (3D Slicer Output)",
        "Raw NIFTI Segmentation Masks (3D Slicer Output)",
    )
    """One folder of masks, or a list."""

    pattern: Annotated[str, _pattern_with("index", "structure")] = (
        r"(?P<index>\d+)_(?:(?P<side>[LRM])_)?(?P<structure>[^_]+)_(?P<code>[^_.]+)"
    )
    """For the file name of a mask or surface without extension; needs `index` and
    `structure`. `side` is L, R or M (or left, right, middle)."""

    segmentation: Annotated[str, _pattern_with("index")] = (
        r"(?P<index>\d+)_(?P<code>[^_.]+)\.seg\.nrrd"
    )
    """For files with one segment for each structure, `.seg.nrrd` or DICOM; needs
    `index`."""

    test: Texts = ()
    """Folder or folders with masks of test patients."""

    values: dict[str, Values] = Field(default_factory=dict)
    """`values.tibia = [3, 7]`: the values of the structure, in mask files with several
    values (K06)."""

    threshold: float | None = Field(default=None, gt=0, lt=1)
    """Lowest probability that counts, in mask files with fractions (K07)."""

    slices: tuple[int, int] | dict[str, tuple[int, int]] | None = None
    """`[first, end]`, or `{ msk_004 = [400, -1] }` for single cases: the slices of
    masks saved without a position (K20)."""

    ignore_place: Texts = ()
    """Ids of cases whose masks have the voxels of the image although their files
    state another position (K05)."""

    leave_out: Texts = ()
    """Names of structures or segments that are not used, such as
    `["Segment_3"]` (K21)."""

    frame: Literal["LPS", "RAS"] | None = None
    """Coordinates of surfaces. Without it, their comment or the image decides (K27)."""


class MergePart(_Part):
    """``[merge]``: sides, overlaps, and structures that are not drawn."""

    sides: Literal["merge", "separate"] = "merge"
    """`"merge"`: one label for left and right. `"separate"`: two labels, `tibia_left`
    and `tibia_right`; one, `pelvis_middle`, for masks in the middle only."""

    overlap: Literal["background", "priority", "refuse"] = "background"
    """Label of a voxel that belongs to two structures: `"background"`, `"priority"`
    (the higher priority wins), or `"refuse"`."""

    priority: tuple[str, ...] = ()
    """Highest priority first, for `overlap = "priority"`. By default the order of
    the values."""

    overlap_limit_percent: float = Field(default=0.5, ge=0, le=100)
    """Largest overlap in percent of the smaller structure; above it the case is
    refused (K16)."""

    missing: Literal["refuse", "absent", "ignore", "partial"] = "refuse"
    """What a structure that is not drawn means."""


class DrawnPart(_Part):
    """``[drawn]``: the side of the body on which was drawn, for all and by case."""

    side: Literal["both", "left", "right"] = "both"
    """The side of the body on which was drawn."""

    cases: dict[str, Literal["both", "left", "right"]] = Field(default_factory=dict)
    """The same for single cases: `drawn.cases.msk_004 = "both"`."""

    def side_of(self, case_id: str) -> Side:
        """Return the only side that was drawn; `MERGED` for both."""
        word = self.cases.get(case_id, self.side)
        return Side.MERGED if word == "both" else Side(word)


class RegionPart(_Part):
    """``[region]``: which slices of a scan are kept."""

    crop: Literal["none", "labels", "slices"] = "none"
    """`"labels"`: from the first to the last labelled slice. `"slices"`: those in
    `region.slices`."""

    slices: tuple[int, int] | None = None
    """`[first, end]`, counted from 0 along the stack, end exclusive."""


SlurmWord: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,+@-]*$")]


def _known_to_slurm(option: str) -> str:
    """Refuse options that set variables, run programs or name files of a job."""
    name, equals, value = option.removeprefix("--").partition("=")
    if name not in _SLURM_OPTIONS.split() or not option.startswith("--"):
        known = f"one of the options {_SLURM_OPTIONS.replace(' ', ', ')}"
        raise ValueError(f"{option[:80]!r} is not {known}")
    if equals and not _SLURM_VALUE.fullmatch(value):
        raise ValueError(f"the value in {option[:80]!r} has forbidden characters")
    return option


SlurmOption: TypeAlias = Annotated[str, AfterValidator(_known_to_slurm)]
_SLURM_VALUE = re.compile(r"[A-Za-z0-9_.,:@%&|*+=()\[\]-]+")
_SLURM_OPTIONS = (
    "begin cluster-constraint clusters comment constraint contiguous core-spec "
    "cores-per-socket cpus-per-gpu deadline delay-boot dependency distribution exclude "
    "exclusive gpu-bind gpu-freq gpus gpus-per-node gpus-per-task gres-flags hint hold "
    "kill-on-invalid-dep licenses mail-type mail-user mem-bind mem-per-cpu mem-per-gpu "
    "mincpus network nice no-kill nodelist nodes ntasks ntasks-per-node oversubscribe "
    "prefer priority qos quiet reservation sockets-per-node spread-job switches "
    "thread-spec threads-per-core time-min tmp use-min-nodes verbose wckey"
)
"""Not, for example, ``export`` (variables can run code), ``output`` and ``chdir``."""


class SlurmPart(_Part):
    """``[slurm]``: the resources that a training requests from a cluster."""

    partition: SlurmWord | None = None
    """Partition of the jobs."""

    account: SlurmWord | None = None
    """Account that the jobs are charged to."""

    time: str = Field(
        default="1-00:00:00", pattern=r"^([0-9]{1,3}-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}$"
    )
    """Time limit of one job, as `days-hours:minutes:seconds`. A training may take
    several jobs."""

    gpus: int = Field(default=1, ge=0, le=64)
    """GPUs of a job; 0 for a partition without GPUs."""

    cpus: int = Field(default=8, ge=1, le=1024)
    """CPU cores of a job."""

    memory_gb: int = Field(default=32, ge=1, le=16384)
    """Memory of a job in GB."""

    at_once: int | None = Field(default=None, ge=1)
    """Jobs that run at the same time; no limit without it."""

    options: tuple[SlurmOption, ...] = ()
    """Other options of `sbatch`; not those that set variables or name files."""


def _label_name(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise ValueError("a label needs a name of printable characters")
    return name


LabelName: TypeAlias = Annotated[
    str, Field(max_length=100), AfterValidator(_label_name)
]


def _as_written(schema: dict[str, Any], model: type) -> None:
    """Describe a recipe as the file has it, with its aliases among the labels."""
    describe_keys(schema, model)
    labels = schema["properties"]["labels"]
    labels["properties"] = {"aliases": schema["properties"].pop("aliases")}
    labels["maxProperties"] += 1


class Recipe(_Part):
    """A whole recipe; see `read_recipe`."""

    model_config = ConfigDict(json_schema_extra=_as_written)

    dataset: DatasetPart
    scans: ScansPart = ScansPart()
    masks: MasksPart = MasksPart()
    labels: dict[LabelName, int] = Field(min_length=1, max_length=_MOST_LABELS)
    """Structure = value, 1, 2, ... without gaps."""

    aliases: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Other names of a structure, as `[labels.aliases]`: `femur = ["thigh bone"]`.
    Case and surrounding spaces do not count."""

    merge: MergePart = MergePart()
    region: RegionPart = RegionPart()
    drawn: DrawnPart = DrawnPart()
    slurm: SlurmPart = SlurmPart()
    channels: dict[str, ChannelSeries] = Field(default_factory=dict)
    """`[channels.NAME]`: which series of a folder is the channel NAME."""

    cases: dict[str, dict[str, Literal["absent", "ignore", "partial"]]] = Field(
        default_factory=dict
    )
    """`[cases.ID]`: structures that are not drawn in one case, such as
    `fibula = "absent"`."""

    _file: Path = PrivateAttr(default=Path(RECIPE_FILE))

    @property
    def case_table(self) -> Path | None:
        """The case table, which goes before the patterns; None without one."""
        return self._file.parent / self.dataset.table if self.dataset.table else None

    @property
    def own_files(self) -> tuple[Path, ...]:
        """The recipe's file and its case table."""
        return (self._file, *filter(None, [self.case_table]))

    @cached_property
    def structures(self) -> tuple[str, ...]:
        """The structures without sides, in the order of their label values."""
        return tuple(dict.fromkeys(map(self._without_side, self._by_value)))

    @cached_property
    def table(self) -> LabelTable:
        """The labels of the dataset, values 1..n."""
        names: list[str] = []
        for name in self._by_value:
            whole = self.merge.sides == "merge" or side_of(name)
            names += [name] if whole else [f"{name}_left", f"{name}_right"]
        labels = (
            Label(value, name, default_colour(value), self._side_of(name))
            for value, name in enumerate(names, start=1)
        )
        return LabelTable(tuple(labels), has_ignore=self.uses_ignore)

    @property
    def uses_ignore(self) -> bool:
        """Whether cases may have ignored voxels."""
        declared = (IGNORE in states.values() for states in self.cases.values())
        return self.merge.missing == IGNORE or any(declared)

    @property
    def unlabelled(self) -> str:
        """What the state ``unlabelled`` of a case table means, as [cases.ID] has it."""
        return PARTIAL if self.merge.missing == PARTIAL else IGNORE

    def with_scans(self, **words: Any) -> Recipe:  # noqa: ANN401 - as `ScansPart` has them
        """Return a recipe with other values in ``[scans]``, or raise `RecipeError`."""
        try:
            scans = ScansPart.model_validate(self.scans.model_dump() | words)
        except ValidationError as error:
            faults = [f"scans.{_described(fault)}" for fault in error.errors()]
            raise RecipeError("\n".join(faults)) from error
        return self.model_copy(update={"scans": scans})

    def with_cases(self, states: Mapping[str, Mapping[str, str]]) -> Recipe:
        """Return a recipe that declares more structures of cases as not drawn."""
        joined: dict[str, dict[str, str]] = {c: {**o} for c, o in self.cases.items()}
        for case, own in states.items():
            joined[case] = {**joined.get(case, {}), **own}
        return self._changed(cases=joined)

    def with_drawn_sides(self, sides: Mapping[str, str]) -> Recipe:
        """Return a recipe that knows more cases of which one side was drawn."""
        cases = self.drawn.cases | dict(sides)
        return self._changed(drawn=self.drawn.model_copy(update={"cases": cases}))

    def with_middle(self, structures: Collection[str]) -> Recipe:
        """Return a recipe in which these structures have one label, in the middle.

        Only separate sides know a middle; a structure whose sides [labels] names stays.
        """
        if self.merge.sides == "merge" or not structures:
            return self
        middle = f"_{Side.MIDDLE}"
        names = {n: f"{n}{middle}" if n in structures else n for n in self.labels}
        return self._changed(labels={names[n]: v for n, v in self.labels.items()})

    def with_label(self, name: str) -> Recipe:
        """Return a recipe with one more label, which has the next value."""
        return self._changed(labels={**self.labels, name: len(self.labels) + 1})

    def _changed(self, **parts: object) -> Recipe:
        """Return a copy; what was derived from the old parts is derived again."""
        changed = self.model_copy(update=parts)
        for name in ("structures", "table", "_by_value", "_names"):
            changed.__dict__.pop(name, None)
        return changed

    @property
    def image_channels(self) -> Channels:
        """The channels of every image, and the series that each one is."""
        part = self.dataset
        names = part.channels or (part.channel,)
        return Channels(names, self.channels, part.resample_channels)

    def spec(self) -> DatasetSpec:
        """Return name, channels and labels of the dataset."""
        part = self.dataset
        return DatasetSpec(part.id, part.name, self.image_channels.names, self.table)

    def case_id(self, groups: Groups) -> str:
        """Return the id of the case with these groups (F02, F03: no file name)."""
        texts = {key: value or "" for key, value in groups.items()}
        values = {
            key: int(text) if text.isascii() and text.isdigit() else text
            for key, text in texts.items()
        }
        return checked_case_id(self.dataset.case.format(**values))

    def numbered_id(self, number: int) -> str:
        """Return the id of a case of the table that names none itself."""
        own = "case" in self.dataset.model_fields_set
        form = self.dataset.case if own else "msk_{index:03d}"
        return checked_case_id(form.format(index=number))

    def structure_of(self, written: str, side: str = "") -> tuple[str, str]:
        """Return the structure and the side that a written name means.

        Names are compared case-folded and trimmed; a known `side` wins over the name.

        Raises `Refused` if the name is unknown; the message has the nearest known one
        (K21).
        """
        name = folded(written)
        if name in self._names:
            return self._names[name], side or split_side(name)[1]
        bare, found_side = split_side(name)
        if found_side and bare in self._names:
            return self._names[bare], side or found_side
        near = difflib.get_close_matches(bare, map(folded, self.structures), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        known = f"the recipe has {', '.join(self.structures)}.{hint}"
        text = f"Unknown structure {quoted(written)}; {known} Rename it, add it to"
        how = "[labels.aliases], or leave it out by its name: `masks.leave_out`."
        raise Refused.because("K21", f"{text} {how}")

    def leaves_out(self, written: str) -> bool:
        """Whether masks and segments of this name are left out on purpose."""
        return folded(written) in map(folded, self.masks.leave_out)

    def label_of(self, structure: str, side: str) -> Label:
        """Return the label of a structure on a side.

        Raises `Refused` if left and right are separate labels and the side is unknown
        (K21).
        """
        names = {label.name for label in self.table}
        for name in (f"{structure}_{side or 'middle'}", structure):
            if name in names:
                return self.table[name]
        own = sorted(name for name in names if self._without_side(name) == structure)
        raise Refused.because(
            "K21",
            f"A mask of {structure} says {side or 'no side'}, but the dataset has "
            f'{", ".join(own)}: name its side, or set `sides = "merge"`.',
        )

    def values_of(self, written: str) -> tuple[int, ...]:
        """Return the values of a structure in its mask; () for any value (K06)."""
        try:
            structure, _ = self.structure_of(written)
        except Refused:
            return ()  # `structure_of` refuses it when the mask is placed
        return self.masks.values.get(structure, ())

    def slices_of(self, case_id: str) -> tuple[int, int] | None:
        """Return the slices that masks without a position cover, if stated (K20)."""
        stated = self.masks.slices
        return stated.get(case_id) if isinstance(stated, dict) else stated

    def decisions(self) -> JsonObject:
        """Return every entry that affects a case, as JSON."""
        content = self.model_dump(mode="json", exclude={"slurm"})
        del content["dataset"]["table"]  # the plan of a case has what its rows say
        for word in ("leave_out", "frame"):  # as in recipes before there were these
            if not content["masks"][word]:
                del content["masks"][word]
        if self.drawn == DrawnPart():
            del content["drawn"]
        if self.scans.echo_time_ms is None:  # likewise
            del content["scans"]["echo_time_ms"]
        for word in ("channels", "resample_channels"):
            if not content["dataset"][word]:
                del content["dataset"][word]
        if not self.channels:
            del content["channels"]
        return content

    def digest(self, case_id: str | None = None, more: str = "") -> str:
        """Return a hash of the `decisions`, or of those about a case and `more`."""
        content = self.decisions()
        if case_id is not None:
            own = content["cases"].get(case_id, {})
            content["cases"] = {case_id: own} if own else {}
            content["drawn"] = str(self.drawn.side_of(case_id))
            if not content["drawn"]:
                del content["drawn"]
        resolved = json.dumps(content, sort_keys=True) + more
        return hashlib.sha256(resolved.encode()).hexdigest()

    @cached_property
    def _by_value(self) -> list[str]:
        return sorted(self.labels, key=self.labels.__getitem__)

    @cached_property
    def _names(self) -> dict[str, str]:
        """Every folded name and alias, and the structure it means."""
        names = {folded(name): name for name in self.structures}
        for structure, others in self.aliases.items():
            names |= {folded(other): structure for other in others}
        return names

    def _without_side(self, name: str) -> str:
        side = self._side_of(name)
        return name.removesuffix(f"_{side}") if side else name

    def _side_of(self, name: str) -> Side:
        return side_of(name) if self.merge.sides == "separate" else Side.MERGED


def read_recipe(source: str | Path) -> Recipe:
    """Return the recipe in a file, or a shipped one by its name.

    Raises `RecipeError` if there is no such recipe, or it is not valid; the message has
    all mistakes.
    """
    file = _recipe_file(source)
    try:
        size = file.stat().st_size
        if size > _MOST_RECIPE_BYTES:
            raise RecipeError(f"{file.name} has {size} bytes: it is not a recipe.")
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"Cannot read {file}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{file.name} is not valid TOML: {error}.") from error
    recipe = recipe_from(raw, name=file.name)
    recipe._file = file  # noqa: SLF001 - only this function knows it
    return recipe


def find_recipe(*folders: Path) -> Path:
    """Return the recipe in the first of the folders that has one.

    Raises `UsageError` if none has.
    """
    for folder in folders:
        if (folder / RECIPE_FILE).is_file():
            return folder / RECIPE_FILE
    raise UsageError(
        f"There is no {RECIPE_FILE} in the study, the current folder or the workspace: "
        "run `nnunet-bridge init` to write one, or name one with -r."
    )


def recipe_from(raw: Mapping[str, Any], *, name: str = "the recipe") -> Recipe:
    """Return the recipe of parsed TOML.

    Raises `RecipeError` with every mistake and its place.
    """
    parts = dict(raw)
    labels = parts.get("labels")
    if isinstance(labels, dict):
        parts["labels"] = {k: v for k, v in labels.items() if k != "aliases"}
        parts["aliases"] = labels.get("aliases", {})
    faults = [] if "aliases" not in raw else ["aliases: belongs in [labels.aliases]"]
    recipe = None
    try:
        recipe = Recipe.model_validate(parts)
    except ValidationError as error:
        faults += [_described(fault) for fault in error.errors()]
    if len(_table(parts, "labels")) <= _MOST_LABELS:
        faults += _contradictions(parts)
    if faults or recipe is None:
        lines = "\n  ".join([f"{name} has {counted(len(faults), 'mistake')}:", *faults])
        raise RecipeError(lines)
    return recipe


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes of this package by name."""
    package = Path(__file__).parents[1]
    return {
        file.parent.name: file
        for root in (package.parent / "datasets", package / "datasets")
        for file in sorted(root.glob("*/dataset.toml"))
    }


def _recipe_file(source: str | Path) -> Path:
    file = Path(source)
    if file.is_dir():
        file /= RECIPE_FILE
    if file.is_file():
        return file
    shipped = shipped_recipes()
    if _SHIPPED_NAME.fullmatch(str(source)) and str(source) in shipped:
        return shipped[str(source)]
    names = ", ".join(sorted(shipped))
    text = f"There is no recipe {source}: name a file, or a recipe of this package"
    raise RecipeError(f"{text} ({names}).")


def _described(fault: Any) -> str:  # noqa: ANN401 - pydantic's own dictionary
    place = ".".join(str(step) for step in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{place}: unknown entry"
    return f"{place}: {str(fault['msg']).removeprefix('Value error, ')}"


def _contradictions(raw: Mapping[str, Any]) -> list[str]:
    """Return the mistakes that involve several entries; ignore others."""
    labels = {k: v for k, v in _table(raw, "labels").items() if isinstance(v, int)}
    faults, values = [], sorted(labels.values())
    if values != list(range(1, len(labels) + 1)):
        text = "labels: the values must be 1, 2, ... without gap, not"
        faults.append(f"{text} {values}")
    reserved = [name for name in labels if name in ("background", IGNORE)]
    faults += [f"labels.{name}: nnU-Net reserves this name" for name in reserved]
    return [
        *faults,
        *_unknown_names(raw, labels),
        *_unclear_aliases(raw, labels),
        *_mixed_states(raw),
        *_case_faults(raw),
        *_region_faults(raw),
        *_channel_faults(raw),
    ]


def _unknown_names(raw: Mapping[str, Any], labels: Mapping[str, int]) -> list[str]:
    """Return the uses of structures that [labels] does not have."""
    bare = (name.removesuffix(f"_{side_of(name)}") for name in labels if side_of(name))
    known = {*labels, *bare}
    cases = _table(raw, "cases")
    uses = {
        "labels.aliases": _table(raw, "aliases"),
        "masks.values": _table(_table(raw, "masks"), "values"),
        "merge.priority": _table(raw, "merge").get("priority", []),
        **{f"cases.{case}": _table(cases, case) for case in cases},
    }
    faults: list[str] = []
    for place, names in uses.items():
        for name in names if isinstance(names, dict | list) else ():
            if isinstance(name, str) and known and name not in known:
                few = sorted(known) if len(faults) < _HINTS else []
                near = difflib.get_close_matches(name, few, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                faults.append(f"{place}: unknown label {name!r}{hint}")
    return faults


def _unclear_aliases(raw: Mapping[str, Any], labels: Mapping[str, int]) -> list[str]:
    meanings: dict[str, str] = {folded(name): name for name in labels}
    faults = []
    if len(meanings) < len(labels):
        faults.append("labels: two names differ only in case or spaces")
    for structure, others in _table(raw, "aliases").items():
        for other in others if isinstance(others, list) else []:
            meant = meanings.setdefault(folded(str(other)), structure)
            if meant != structure:
                place = f"labels.aliases.{structure}"
                faults.append(f"{place}: {other!r} already means {meant}")
    return faults


def _mixed_states(raw: Mapping[str, Any]) -> list[str]:
    """Return the cases that ignore one structure and have another partly drawn."""
    cases = _table(raw, "cases")
    return [
        f"cases.{case}: {MIXED_STATES}"
        for case in cases
        if {IGNORE, PARTIAL} <= set(map(str, _table(cases, case).values()))
    ]


def _case_faults(raw: Mapping[str, Any]) -> list[str]:
    """Check the form of case ids against the groups of the pattern."""
    form = _table(raw, "dataset").get("case", "")
    pattern = _table(raw, "scans").get("pattern", ScansPart().pattern)
    if _table(raw, "dataset").get("table"):
        pattern = "(?P<index>)"  # cases of a table are numbered
    if not isinstance(form, str) or not isinstance(pattern, str) or not form:
        return []
    try:
        known = set(re.compile(pattern).groupindex)
    except (re.error, RecursionError, OverflowError):
        return []  # the pattern is named already
    try:
        text = _fault_of_form(form, known)
    except (BridgeError, ValueError) as error:
        text = str(error)
    return [f"dataset.case: {text}"] if text else []


def _fault_of_form(form: str, known: set[str]) -> str:
    """Return what is wrong with the form of case ids; empty if nothing."""
    parts = list(string.Formatter().parse(form))
    used = {field for _, field, _, _ in parts if field}
    if unknown := sorted(used - known):
        groups = ", ".join(sorted(known)) or "it has none"
        return f"{{{unknown[0]}}} is not a named group of scans.pattern ({groups})"
    if not used:
        return "all cases would get one id; use {index:03d}"
    specs = [spec or "" for *_, spec, _ in parts]
    if odd := [spec for spec in specs if not _CASE_FORMAT.fullmatch(spec)]:
        return f"unknown format {odd[0][:80]!r}; use one such as 03d"
    checked_case_id(form.format(**dict.fromkeys(used, 1)))
    return ""


def _region_faults(raw: Mapping[str, Any]) -> list[str]:
    region = _table(raw, "region")
    slices = region.get("slices")
    if region.get("crop") == "slices" and slices is None:
        return ['region.slices: `crop = "slices"` needs the first and the last one']
    numbers = isinstance(slices, list) and all(isinstance(s, int) for s in slices)
    if numbers and slices and not 0 <= slices[0] < slices[-1]:
        return ["region.slices: needs [first, end] with 0 <= first < end"]
    return []


def _channel_faults(raw: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with several channels as a whole."""
    dataset, own = _table(raw, "dataset"), _table(raw, "channels")
    names = dataset.get("channels")
    names = list(map(str, names)) if isinstance(names, list) else []
    faults = [
        f"channels.{name}: unknown channel; `dataset.channels` has"
        f" {', '.join(names) or 'none'}"
        for name in own
        if name not in names
    ]
    if len({name.casefold() for name in names}) < len(names):
        faults.append("dataset.channels: two channels have one name")
    if names and "channel" in dataset:
        faults.append("dataset.channel: leave it out beside `channels`")
    if len(names) > 1 and _table(raw, "scans").get("image_type"):
        faults.append("scans.image_type: write it into [channels.NAME] of a channel")
    if dataset.get("resample_channels") and len(names) < 2:  # noqa: PLR2004 - several
        faults.append("dataset.resample_channels: needs several `channels`")
    return faults


def _table(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def folded(name: str) -> str:
    """Return a name for comparison: case-folded, with single spaces."""
    return " ".join(composed(name).casefold().split())


def split_side(name: str) -> tuple[str, str]:
    """Return a folded name without a side at its end or start, and that side.

    Examples
    --------
    >>> split_side("femur l"), split_side("left femur"), split_side("l1")
    (('femur', 'left'), ('femur', 'left'), ('l1', ''))
    """
    words = [word for word in re.split(r"[\s_,.-]+", name) if word]
    for place in (-1, 0):
        if len(words) > 1 and words[place] in SIDE_WORDS:
            side = SIDE_WORDS[words.pop(place)]
            return " ".join(words), side
    return name, ""
