"""Draw the pictures of the docs from the synthetic lower limb.

    python benchmarks/pictures.py docs/images

`cleaning.png`: one slice before and after the two rules. `meshes.png`: the bones.
`drawing.png`, `export.png`: how masks are drawn and exported, with usual mistakes.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy import ndimage

from nnunet_bridge.core.cleaning import CleaningRule
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.ops.cleanup import clean_alike
from nnunet_bridge.ops.phantom import STRUCTURES, lower_limb
from nnunet_bridge.ops.surface import smoothed, surfaces_of

mpl.use("agg")
from matplotlib import pyplot as plt

TABLE = LabelTable.from_names(list(STRUCTURES))
SPECKS, HOLES = 2500, 400


def drawn_limb(shape, spacing_mm):
    limb = lower_limb(4, shape=shape, spacing_mm=spacing_mm)
    voxels = np.zeros(shape, np.uint8, order="F")
    for (structure, _), mask in limb.masks.items():
        voxels[mask] = TABLE[structure].value
    return Labelmap(limb.volume.grid, voxels, TABLE)


def spoilt(labelmap, seed=1):
    """Return the labelmap with specks of bone in the flesh and holes in the bone."""
    rng = np.random.default_rng(seed)
    voxels = labelmap.voxels.copy(order="K")
    bone = np.argwhere(voxels > 0)
    near = bone[rng.integers(len(bone), size=SPECKS)] + rng.integers(
        -12, 13, (SPECKS, 3)
    )
    near = np.clip(near, 0, np.array(voxels.shape) - 1)
    voxels[tuple(near.T)] = rng.integers(1, len(TABLE) + 1, size=SPECKS)
    voxels[tuple(bone[rng.integers(len(bone), size=HOLES)].T)] = 0
    return labelmap.with_voxels(voxels)


def draw_cleaning(file: Path):
    before = spoilt(drawn_limb((192, 96, 64), (2.0, 2.0, 12.0)))
    panels = {
        "prediction with specks and holes": before,
        "slice (the source's rule)": clean_alike(before, CleaningRule()).labelmap,
        "volume (pieces below 500 mm3 go)": clean_alike(
            before, CleaningRule("volume", min_volume_mm3=500.0)
        ).labelmap,
    }
    colours = np.array([(20, 20, 24), *(label.colour for label in TABLE)]) / 255
    femur = (before.voxels == TABLE["femur"].value).sum(axis=(0, 1))
    k = int(np.argmax(femur)) + 2  # above the condyles, whose end is open
    shown = before.voxels[:, :, k]
    i, j = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    around = np.s_[i[0] - 4 : i[-1] + 5, j[0] - 4 : j[-1] + 5, k]
    figure, axes = plt.subplots(1, 3, figsize=(15, 3.2), facecolor="white")
    for axis, (title, labelmap) in zip(axes, panels.items(), strict=True):
        axis.imshow(colours[labelmap.voxels[around].T], interpolation="nearest")
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(file, dpi=80)


def draw_meshes(file: Path):
    limb = drawn_limb((192, 96, 128), (2.0, 2.0, 6.0))
    figure = plt.figure(figsize=(6, 8), facecolor="white")
    axis = figure.add_axes((0, 0, 1, 1), projection="3d")
    for mesh in surfaces_of(limb).values():
        fair = smoothed(mesh, 10)
        colour = np.array(mesh.label.colour) / 255
        axis.plot_trisurf(
            *fair.vertices_mm.T, triangles=fair.faces, color=colour, shade=True
        )
    axis.view_init(elev=8, azim=-70)
    axis.set_box_aspect(np.ptp(_corners(limb.grid), axis=0), zoom=0.95)
    axis.set_axis_off()
    figure.savefig(file, dpi=80)


def panels(file, image, masks, aspect):
    """Draw masks over one slice, two in a row, with a title and a verdict each."""
    figure, axes = plt.subplots(2, 2, figsize=(8.4, 8.4 * 0.98), facecolor="white")
    for axis, (title, verdict, drawn) in zip(axes.flat, masks, strict=True):
        good = verdict == "right"
        axis.imshow(image.T, cmap="gray", aspect=aspect)
        coloured = np.zeros((*drawn.T.shape, 4))
        for value, rgb in ((1, (0.25, 0.65, 1)), (2, (1, 0.65, 0.1))):
            coloured[value == drawn.T] = (*rgb, 0.55)
        axis.imshow(coloured, aspect=aspect, interpolation="nearest")
        axis.set_title(title, fontsize=13, loc="left")
        axis.text(
            0.02, 0.03, verdict, transform=axis.transAxes, fontsize=12, color="white",
            bbox={"facecolor": "#1a7f37" if good else "#b3261e", "edgecolor": "none"},
        )  # fmt: skip
        axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(file, dpi=90)


def draw_drawing(file: Path):
    """Draw one femur in an axial slice: its whole bone, and three mistakes."""
    limb = lower_limb(4, shape=(288, 144, 40), spacing_mm=(1.5, 1.5, 20.0))
    femur = limb.masks["femur", "left"]
    slices = np.flatnonzero(femur.any(axis=(0, 1)))
    k = slices[len(slices) // 4]
    i, j = np.argwhere(femur[:, :, k]).mean(axis=0).round().astype(int)
    near = np.s_[i - 34 : i + 34, j - 28 : j + 28]
    whole = femur[:, :, k][near]
    moved = np.roll(whole, 4, axis=0)
    masks = [
        ("The whole bone, to its outer edge", "right", whole),
        ("Marrow only", "wrong", ndimage.binary_erosion(whole, iterations=3)),
        ("Into the muscle", "wrong", ndimage.binary_dilation(whole, iterations=3)),
        ("Drawn on another series", "wrong", moved),
    ]
    panels(file, limb.volume.voxels[:, :, k][near], masks, 1)


def draw_export(file: Path):
    """Draw both femurs in a coronal slice: as exported, and three mistakes."""
    limb = lower_limb(4, shape=(192, 96, 64), spacing_mm=(2.0, 2.0, 6.0))
    left, right = limb.masks["femur", "left"], limb.masks["femur", "right"]
    j = int(np.argmax((left | right).sum(axis=(0, 2))))
    both = (left[:, j] * 1 + right[:, j] * 2)[:, ::-1]  # the head is at the top
    gaps = both.copy()
    gaps[:, np.arange(both.shape[1]) % 3 > 0] = 0
    masks = [
        ("Exported with the scan as reference", "right", both),
        ("Position lost", "refused: K05", np.roll(both, (-45, 17), axis=(0, 1))),
        ("Left and right exchanged", "refused: K13", np.where(both, 3 - both, 0)),
        ("Only every third slice drawn", "warned: K22", gaps),
    ]
    panels(file, limb.volume.voxels[:, j, ::-1], masks, 3)


def _corners(grid: Grid):
    return grid.to_patient([[0, 0, 0], np.array(grid.shape) - 1])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    draw_cleaning(folder / "cleaning.png")
    draw_meshes(folder / "meshes.png")
    draw_drawing(folder / "drawing.png")
    draw_export(folder / "export.png")
