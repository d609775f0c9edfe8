"""Images and labelmaps: arrays with their position in the patient.

Arrays are indexed ``[i, j, k]`` along the columns of the grid's affine, whatever
their order in memory (most are Fortran-ordered, because files are).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import GeometryError, InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.partly import CasesPartlyDrawn
from nnunet_bridge.core.words import Side, checked_word

BoolArray: TypeAlias = npt.NDArray[np.bool_]
LabelArray: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
VoxelArray: TypeAlias = npt.NDArray[Any]

Colour: TypeAlias = tuple[int, int, int]  # red, green and blue, each 0..255

_BLOCK_VOXELS = 1 << 22
"""NumPy counts in eight bytes a voxel: counting in blocks limits the memory."""


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a read-only view of `array`."""
    view = array.view()
    view.setflags(write=False)
    return view


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A scalar image in the patient."""

    grid: Grid
    voxels: VoxelArray  # (I, J, K), read-only, real and finite

    def __post_init__(self) -> None:
        """Refuse an array that does not fit the grid, or that is not a real image."""
        _check_shape(self.grid, self.voxels)
        if self.voxels.dtype.kind not in "iuf":
            raise InputError(f"An image needs real numbers, not {self.voxels.dtype}.")
        if self.voxels.dtype.kind == "f" and not np.isfinite(self.voxels).all():
            raise InputError(
                "The image holds NaN or infinite values: export it again.", code="P11"
            )
        object.__setattr__(self, "voxels", read_only(self.voxels))

    def with_voxels(self, voxels: VoxelArray) -> Volume:
        """Return another image on the same grid."""
        return Volume(self.grid, voxels)


@dataclass(frozen=True, slots=True)
class Label:
    """One structure that a labelmap can hold."""

    value: int  # its voxels hold this number; 0 is the background and no label
    name: str  # name of the structure, such as ``tibia`` or ``tibia_left``
    colour: Colour
    side: Side = Side.MERGED

    @property
    def hex_colour(self) -> str:
        """Return the colour as a web page writes it, such as ``#e65546``."""
        return "#{:02x}{:02x}{:02x}".format(*self.colour)

    def __post_init__(self) -> None:
        """Refuse the background value and an unknown side."""
        if self.value < 1:
            text = f"Label {self.name!r} needs a value from 1, not {self.value}."
            raise InputError(text)
        object.__setattr__(self, "side", checked_word(Side, self.side, "side"))


@dataclass(frozen=True, slots=True)
class LabelRegion:
    """A structure of several labels, as nnU-Net's regions are."""

    name: str
    values: tuple[int, ...]  # of the labels that it unites


@dataclass(frozen=True, slots=True)
class LabelTable:
    """The structures of a dataset, in the order of their values 1..n."""

    labels: tuple[Label, ...]
    has_ignore: bool = False
    """Whether the value after the last label marks voxels without a reference."""

    regions: tuple[LabelRegion, ...] = ()
    """What is scored instead of the labels, which may be parts of several regions."""

    partly_drawn: CasesPartlyDrawn = field(default_factory=dict, compare=False)
    """The references in which some of the structures were not drawn."""

    def __post_init__(self) -> None:
        """Refuse gaps and repetitions: nnU-Net needs values 1..n."""
        values = [label.value for label in self.labels]
        if values != list(range(1, len(values) + 1)):
            raise InputError(f"Label values must be 1, 2, ... without gap: {values}.")
        names = [label.name for label in self.labels]
        if len(set(names)) != len(names):
            raise InputError(f"Label names must differ: {', '.join(names)}.")

    @classmethod
    def from_names(cls, names: list[str], *, has_ignore: bool = False) -> LabelTable:
        """Return a table with the given names, values 1..n and default colours."""
        labels = (
            Label(value, name, default_colour(value), side_of(name))
            for value, name in enumerate(names, start=1)
        )
        return cls(tuple(labels), has_ignore)

    def __iter__(self) -> Iterator[Label]:
        """Yield the labels in the order of their values."""
        return iter(self.labels)

    def __len__(self) -> int:
        """Return the number of labels, background not counted."""
        return len(self.labels)

    def __getitem__(self, name: str) -> Label:
        """Return the label of that name; KeyError if there is none."""
        for label in self.labels:
            if label.name == name:
                return label
        raise KeyError(name)

    @property
    def ignore_value(self) -> int | None:
        """Value of nnU-Net's ignore label, or None."""
        return len(self.labels) + 1 if self.has_ignore else None

    @property
    def highest_value(self) -> int:
        """The highest value that a labelmap may hold."""
        return len(self.labels) + self.has_ignore

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the values."""
        return tuple(label.name for label in self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Labelmap:
    """The structure of every voxel."""

    grid: Grid
    voxels: LabelArray  # (I, J, K) uint8 or uint16, read-only; 0 is background
    labels: LabelTable

    def __post_init__(self) -> None:
        """Refuse an array that does not fit the grid or the table."""
        _check_shape(self.grid, self.voxels)
        if self.voxels.dtype not in (np.uint8, np.uint16):
            kind = self.voxels.dtype
            raise InputError(f"A labelmap holds uint8 or uint16, not {kind}.")
        highest = int(self.voxels.max(initial=0))
        if highest > self.labels.highest_value:
            raise InputError(
                f"The labelmap holds the value {highest}, but the table ends at "
                f"{self.labels.highest_value} ({', '.join(self.labels.names)})."
            )
        object.__setattr__(self, "voxels", read_only(self.voxels))

    def mask(self, label: Label) -> BoolArray:
        """Return the (I, J, K) mask of one structure."""
        mask: BoolArray = self.voxels == label.value
        return mask

    def only(self, region: LabelRegion) -> Labelmap:
        """Return the labelmap of a region alone, with what is ignored."""
        table = LabelTable.from_names([region.name], has_ignore=self.labels.has_ignore)
        voxels = np.isin(self.voxels, region.values).astype(np.uint8)
        if self.labels.ignore_value is not None and table.ignore_value is not None:
            voxels[self.voxels == self.labels.ignore_value] = table.ignore_value
        return Labelmap(self.grid, voxels, table)

    def with_voxels(self, voxels: LabelArray) -> Labelmap:
        """Return another labelmap on the same grid with the same table."""
        return Labelmap(self.grid, voxels, self.labels)

    def judged(self, case_id: str) -> Labelmap:
        """Return the labelmap where the reference of a case says what is right.

        What was not drawn there becomes background: structures, and those beyond the
        midline of the side that was drawn.
        """
        partly = self.labels.partly_drawn.get(case_id)
        if partly is None:
            return self
        values = {label.name: label.value for label in self.labels}
        kept = np.arange(self.labels.highest_value + 1, dtype=self.voxels.dtype)
        kept[[values[name] for name in partly.not_drawn]] = 0
        voxels = kept[self.voxels]
        if partly.midline is not None:
            sided = [values[name] for name in values if name not in partly.on_both]
            affine, shape = self.grid.affine, self.grid.shape
            far = partly.midline.beyond(partly.side, affine, shape)
            voxels[far & np.isin(voxels, sided)] = 0
        return self.with_voxels(voxels)

    def without_ignored(self) -> Labelmap:
        """Return the labelmap with its ignored voxels as background."""
        if self.labels.ignore_value is None:
            return self
        voxels = self.voxels.copy(order="K")
        voxels[voxels == self.labels.ignore_value] = 0
        return self.with_voxels(voxels)

    def counts(self) -> npt.NDArray[np.int64]:
        """Return the number of voxels of every value, from 0 to the highest."""
        counts = np.zeros(self.labels.highest_value + 1, np.int64)
        flat = self.voxels.ravel(order="K")
        for start in range(0, flat.size, _BLOCK_VOXELS):
            block = flat[start : start + _BLOCK_VOXELS]
            counts += np.bincount(block, minlength=counts.size)
        return counts

    def volumes_mm3(self) -> dict[str, float]:
        """Return the volume of every structure: its voxels times the voxel volume."""
        counts, voxel_mm3 = self.counts()[1:].tolist(), self.grid.voxel_volume_mm3
        return {
            name: float(count) * voxel_mm3
            for name, count in zip(self.labels.names, counts, strict=False)
        }


PALETTE: tuple[Colour, ...] = (
    *((230, 85, 70), (80, 180, 105), (75, 130, 230), (240, 200, 65), (170, 100, 210)),
    *((60, 190, 200), (240, 140, 50), (225, 120, 170), (150, 120, 90), (140, 165, 60)),
)
"""Colours that stand out on a grey image; the first four follow the source report:
red, green, blue, yellow."""


def default_colour(value: int) -> Colour:
    """Return the colour of label `value`; colours repeat after the palette's end."""
    return PALETTE[(value - 1) % len(PALETTE)]


def side_of(name: str) -> Side:
    """Return the side that a label name ends with.

    Examples
    --------
    >>> side_of("tibia_left"), side_of("tibia")
    (<Side.LEFT: 'left'>, <Side.MERGED: ''>)
    """
    ending = name.rpartition("_")[2]
    return Side(ending) if "_" in name and ending in tuple(Side) else Side.MERGED


def _check_shape(grid: Grid, voxels: VoxelArray) -> None:
    if voxels.shape != grid.shape:
        raise GeometryError(
            f"An array of {voxels.shape} voxels does not fit a grid of {grid.shape}."
        )
