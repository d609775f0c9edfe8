"""Slices as pictures, the right way up, in millimetres.

Pictures follow the radiological convention: the patient's right is on the left of an
axial or coronal picture, the front on top of an axial and on the left of a sagittal
one, the head on top of a coronal and a sagittal one. A tilted image is shown by its own
rows and columns, each named after the nearest axis of the patient.

Slices are counted as array indices, from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import GeometryError, UsageError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume, VoxelArray
from nnunet_bridge.formats.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLANES = ("axial", "coronal", "sagittal")

LETTERS: Mapping[str, str] = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}
"""What lies on the left, right, top and bottom of a picture in each plane."""

WINDOW_PERCENTILES = (0.5, 99.5)
"""Intensities shown as black and white."""

_SEEN = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
"""Patient axes (x, y, z) that run across, down and through the pictures of a plane."""

_SHOWN_FORWARDS = (True, True, False)
"""Along x and y pictures follow LPS+ (to the left, to the back); along z they go
down."""


@dataclass(frozen=True, slots=True)
class View:
    """How the slices of a grid are laid out as pictures of one plane."""

    plane: str
    across: int
    """Array axis that runs from left to right."""

    down: int
    """Array axis that runs from top to bottom."""

    through: int
    """Array axis that one scrolls along."""

    flip_across: bool
    """Whether the array axis runs the other way."""

    flip_down: bool

    flip_through: bool
    """Whether the first slice of the array is the last to show."""

    pixel_mm: tuple[float, float]
    """Width and height of a pixel."""

    @property
    def letters(self) -> str:
        """Return what lies left, right, top and bottom, such as ``RLAP``."""
        return LETTERS[self.plane]

    def picture(self, voxels: VoxelArray, index: int) -> VoxelArray:
        """Return the (rows, columns) picture of one slice of an (I, J, K) array."""
        picture: VoxelArray = np.take(voxels, index, axis=self.through)
        if self.across < self.down:
            picture = picture.T
        if self.flip_down:
            picture = picture[::-1]
        return picture[:, ::-1] if self.flip_across else picture


def view_of(grid: Grid, plane: str) -> View:
    """Return how `plane` is shown on `grid`.

    Raises
    ------
    UsageError
        If the plane has no such name.

    Examples
    --------
    >>> view = view_of(Grid((4, 5, 6), np.diag([-0.5, 0.5, 3.0, 1.0])), "axial")
    >>> view.letters, view.through, view.flip_across, view.flip_down
    ('RLAP', 2, True, False)
    """
    if plane not in PLANES:
        raise UsageError(f"{plane!r} is no plane: choose one of {', '.join(PLANES)}.")
    axis_of, runs_forwards = grid.array_axes
    x_across, x_down, x_through = _SEEN[plane]
    flip = [
        runs != shown
        for runs, shown in zip(runs_forwards, _SHOWN_FORWARDS, strict=True)
    ]
    across, down = axis_of[x_across], axis_of[x_down]
    return View(
        plane=plane,
        across=across,
        down=down,
        through=axis_of[x_through],
        flip_across=flip[x_across],
        flip_down=flip[x_down],
        flip_through=flip[x_through],
        pixel_mm=(float(grid.spacing_mm[across]), float(grid.spacing_mm[down])),
    )


def most_labelled_slice(view: View, grid: Grid, labelmap: Labelmap | None) -> int:
    """Return the slice with the most labelled voxels; the middle one without any."""
    if labelmap is not None:
        others = tuple(axis for axis in range(3) if axis != view.through)
        counts = np.count_nonzero(labelmap.voxels, axis=others)
        if counts.any():
            return int(counts.argmax())
    return grid.shape[view.through] // 2


def write_panels(
    file: Path,
    volume: Volume,
    labelmap: Labelmap | None,
    *,
    plane: str = "axial",
    slice_index: int | None = None,
) -> int:
    """Write image, labels and overlay of one slice side by side, as PNG.

    Parameters
    ----------
    file : Path
        Where the picture goes; whole or absent.
    volume : Volume
        The image.
    labelmap : Labelmap or None
        On the same grid; without it there is one panel.
    plane : str
        ``axial``, ``coronal`` or ``sagittal``, by the nearest axes of the patient.
    slice_index : int, optional
        Index along the array, from 0; by default the slice with the most labels.

    Returns
    -------
    slice_index : int
        The slice that was drawn.

    Raises
    ------
    GeometryError
        If image and labels do not lie on the same grid.
    UsageError
        If there is no such plane or slice.
    """
    view = view_of(volume.grid, plane)
    check_same_grid(volume, labelmap)
    if slice_index is None:
        slice_index = most_labelled_slice(view, volume.grid, labelmap)
    size = volume.grid.shape[view.through]
    if not 0 <= slice_index < size:
        raise UsageError(
            f"There is no {plane} slice {slice_index}: they are 0 to {size - 1}."
        )
    image = windowed(view.picture(volume.voxels, slice_index), window(volume.voxels))
    panels = [("image", np.stack([image] * 3, axis=-1))]
    if labelmap is not None:
        shown = view.picture(labelmap.voxels, slice_index)
        colours = palette(labelmap.labels)[shown]
        panels += [
            ("labels", colours),
            ("overlay", blended(panels[0][1], colours, shown > 0)),
        ]
    figure = _panels_figure(
        view,
        panels,
        labelmap.labels if labelmap is not None else None,
        f"{plane}, slice {slice_index} of 0 to {size - 1}",
    )
    with whole_file(file) as temporary:
        figure.savefig(temporary, format="png", dpi=150, facecolor="black")
    return slice_index


def window(voxels: VoxelArray) -> tuple[float, float]:
    """Return the intensities to show as black and white."""
    sample = voxels.ravel(order="K")[:: max(1, voxels.size // 1_000_000)]
    low, high = np.percentile(sample, WINDOW_PERCENTILES)
    return float(low), float(max(high, low + 1e-6))


def windowed(picture: VoxelArray, limits: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Return a picture as grey values 0..255."""
    low, high = limits
    share = (picture.astype(np.float64) - low) / (high - low)
    grey: npt.NDArray[np.uint8] = (share.clip(0, 1) * 255).round().astype(np.uint8)
    return grey


def check_same_grid(volume: Volume, labelmap: Labelmap | None) -> None:
    """Refuse labels that do not lie where the image lies."""
    if labelmap is None or volume.grid.matches(labelmap.grid, tolerance_mm=0.1):
        return
    if volume.grid.shape != labelmap.grid.shape:
        raise GeometryError(
            f"The image has {volume.grid.shape} voxels, the labels "
            f"{labelmap.grid.shape}: put the labels on the grid of the image first."
        )
    raise GeometryError(
        "Image and labels have the same shape but lie "
        f"{volume.grid.displacement_mm(labelmap.grid):.2f} mm apart: put the labels on "
        "the grid of the image first."
    )


def palette(labels: LabelTable) -> npt.NDArray[np.uint8]:
    """Return the colour of every value: black, the labels', grey where unjudged."""
    rows = [(0, 0, 0), *(label.colour for label in labels)]
    if labels.has_ignore:
        rows.append((110, 110, 110))
    return np.array(rows, dtype=np.uint8)


def blended(
    image: npt.NDArray[np.uint8], colours: npt.NDArray[np.uint8], where: VoxelArray
) -> npt.NDArray[np.uint8]:
    """Return the image with half-transparent labels."""
    blend = image.copy()
    blend[where] = (0.55 * image[where] + 0.45 * colours[where]).astype(np.uint8)
    return blend


def _panels_figure(
    view: View,
    panels: Sequence[tuple[str, npt.NDArray[np.uint8]]],
    labels: LabelTable | None,
    title: str,
) -> Figure:
    """Return a black figure with one panel a picture."""
    from matplotlib.figure import Figure

    rows, columns = panels[0][1].shape[:2]
    width_mm, height_mm = columns * view.pixel_mm[0], rows * view.pixel_mm[1]
    tall = min(2.2, max(0.35, height_mm / width_mm))
    figure = Figure(figsize=(3.6 * len(panels), 3.6 * tall + 0.9), layout="constrained")
    for place, (name, picture) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        axes.imshow(picture, aspect=view.pixel_mm[1] / view.pixel_mm[0])
        axes.set_title(name, color="white", fontsize=10)
        axes.set_axis_off()
        _write_letters(axes, view.letters)
    figure.suptitle(title, color="white", fontsize=11)
    if labels is not None:
        _write_legend(figure, labels)
    return figure


def _write_letters(axes: Axes, letters: str) -> None:
    """Write what lies left, right, top and bottom at the edges of a panel."""
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
    sides = (
        ("left", "center"),
        ("right", "center"),
        ("center", "top"),
        ("center", "bottom"),
    )
    for letter, (x, y), (ha, va) in zip(letters, places, sides, strict=True):
        axes.text(
            x, y, letter, transform=axes.transAxes, ha=ha, va=va,
            color="#ffd166", fontsize=11, fontweight="bold",
        )  # fmt: skip


def _write_legend(figure: Figure, labels: LabelTable) -> None:
    """Name the colours below the panels."""
    from matplotlib.patches import Patch

    patches = [Patch(color=label.hex_colour, label=label.name) for label in labels]
    figure.legend(
        handles=patches,
        loc="outside lower center",
        ncols=min(6, len(patches)),
        frameon=False,
        labelcolor="white",
        fontsize=9,
    )
