"""How many averages of two patients the check `edges` of the quality rating notices.

    python benchmarks/averaged_patients.py [FOLDER] [--quick]

FOLDER holds `train/msd_hippocampus` and `train/spine_vb_2mm` (images and labels as
nnU-Net has them); the phantom comes from the package. Some cases set the limits, as
training images do; the others are measured as they are, and averaged in pairs, with
their labels one upon the other. Kinds that played no part in choosing the measure: a
third of one patient and two thirds of another, three patients, a patient on itself
shifted by three voxels, a blur, brighter images, and noise.
"""

from __future__ import annotations

import os
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import ndimage

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.nifti import read_volume
from nnunet_bridge.ops.edges import edge_strength
from nnunet_bridge.ops.phantom import lower_limb
from nnunet_bridge.ops.quality import EDGES_AMBER_CHANCE, _spread, expected_volume_mm3

DATA = Path(
    os.environ.get("NNUNET_BRIDGE_TEST_DATA")
    or Path(__file__).parents[2] / "shared" / "data"
)
ONE = LabelTable.from_names(["structure"])
TRAINING = {"hippocampi": 12, "spines": 6, "phantoms": 8}
SETS = {"hippocampi": "msd_hippocampus", "spines": "spine_vb_2mm"}


def real_cases(folder):
    """Yield voxels, mask and spacing of every case of a raw dataset."""
    for part in ("Tr", "Ts"):
        for file in sorted((folder / f"labels{part}").glob("*.nii.gz")):
            image = read_volume(folder / f"images{part}" / file.name)
            mask = read_volume(file).voxels > 0
            yield scaled(image.voxels), mask, image.grid.spacing_mm


def phantoms(count):
    for seed in range(count):
        limb = lower_limb(9000 + seed)
        mask = np.any(list(limb.masks.values()), axis=0)
        yield scaled(limb.volume.voxels), mask, limb.volume.grid.spacing_mm


def scaled(voxels):
    low, high = np.percentile(voxels, (2, 98))
    return (voxels.astype(np.float32) - low) / (high - low)


def mixed(cases, weights):
    """Return the weighted mean of cases on the first one's voxels, and a mask of all.

    The centres of their masks lie on one another. The mask is that of the mean distance
    from their surfaces, as a network between all of them might draw it.
    """
    centres = [
        np.rint(ndimage.center_of_mass(mask)).astype(int) for _, mask, _ in cases
    ]
    below = np.min(centres, axis=0)
    sizes = [
        np.subtract(voxels.shape, c)
        for (voxels, *_), c in zip(cases, centres, strict=True)
    ]
    above = np.min(sizes, axis=0)
    image, distance = 0.0, 0.0
    for (voxels, mask, _), centre, weight in zip(cases, centres, weights, strict=True):
        box = tuple(
            slice(c - b, c + a) for c, b, a in zip(centre, below, above, strict=True)
        )
        image = image + weight * voxels[box]
        inside = ndimage.distance_transform_edt(mask[box])
        distance = distance + weight * (
            inside - ndimage.distance_transform_edt(~mask[box])
        )
    return image, distance > 0, cases[0][2]


def strength(voxels, mask, spacing_mm):
    grid = Grid(mask.shape, np.diag([*spacing_mm, 1.0]))
    labels = Labelmap(grid, mask.astype(np.uint8), ONE)
    return edge_strength(Volume(grid, np.ascontiguousarray(voxels)), labels) or 0.0


def kinds_of(cases, most, rng):
    """Return kind -> (indices of its cases, strength of its edges)."""
    pairs = list(combinations(range(len(cases)), 2))
    pairs = [pairs[n] for n in rng.permutation(len(pairs))[:most]]
    trios = [tuple(rng.choice(len(cases), 3, replace=False)) for _ in range(most // 2)]

    def means(groups, weights):
        return [(g, strength(*mixed([cases[n] for n in g], weights))) for g in groups]

    def changed(change):
        return [
            ((n,), strength(np.asarray(change(v), np.float32), mask, spacing))
            for n, (v, mask, spacing) in enumerate(cases)
        ]

    return {
        "as given": changed(lambda v: v),
        "average of two": means(pairs, (0.5, 0.5)),
        "one third and two thirds": means(pairs, (1 / 3, 2 / 3)),
        "average of three": means(trios, (1 / 3, 1 / 3, 1 / 3)),
        "on itself, 3 voxels beside": changed(lambda v: (v + np.roll(v, 3, 0)) / 2),
        "blurred by one voxel": changed(lambda v: ndimage.gaussian_filter(v, 1)),
        "three times as bright": changed(lambda v: 3 * v + 100),
        "with 3 % noise": changed(lambda v: v + rng.normal(0, 0.03, v.shape)),
    }


def shares(kinds, training, draws, rng):
    """Return kind -> mean share that is flagged, of cases that set no limit."""
    known = {n[0]: value for n, value in kinds["as given"]}
    found = {kind: [] for kind in kinds}
    for _ in range(draws):
        own = set(rng.permutation(len(known))[:training].tolist())
        spread = _spread([known[n] for n in own])
        limit, _ = expected_volume_mm3(spread, training, EDGES_AMBER_CHANCE)
        for kind, values in kinds.items():
            unseen = [value < limit for names, value in values if not own & set(names)]
            found[kind] += [np.mean(unseen)] if unseen else []
    return {kind: float(np.mean(each)) for kind, each in found.items()}


def cases_of(name, folder):
    if name == "phantoms":
        return list(phantoms(24))
    return list(real_cases(folder / "train" / SETS[name]))


def main(folder, *, quick):
    rng = np.random.default_rng(20261128)
    rows = {}
    for name, training in list(TRAINING.items())[: 1 if quick else None]:
        cases = cases_of(name, folder)
        kinds = kinds_of(cases, 40 if quick else 200, rng)
        rows[name] = len(cases), shares(kinds, training, 40, rng)
    kinds = next(iter(rows.values()))[1]
    print(
        "| flagged (%) | " + " | ".join(f"{n} ({c[0]})" for n, c in rows.items()) + " |"
    )
    print("|---|" + "---|" * len(rows))
    for kind in kinds:
        print(
            f"| {kind} | "
            + " | ".join(f"{100 * s[kind]:.0f}" for _, s in rows.values())
            + " |"
        )
    return rows


if __name__ == "__main__":
    places = [Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    main(*(places or [DATA]), quick="--quick" in sys.argv)
