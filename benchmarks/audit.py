"""How well `audit` finds masks that were damaged on purpose, on two real studies.

    python benchmarks/audit.py train WORK [--minutes 5] [--plantings 10]
    python benchmarks/audit.py report WORK [--plantings 10]
    python benchmarks/audit.py report --quick

A planting damages one tenth of the masks of a study, in five ways in turn: shifted by
three voxels, one slice missing, dilated by two voxels, on the wrong side (mirrored in
the middle of the image), two structures of a case exchanged. Dilated and moved masks
leave the voxels of other structures alone.

`train` trains two folds of 2d at the smoke budget, on the undamaged labels and on those
of each planting, and keeps what they predict for the cases held out. After so many
minutes it starts no further training; called again, it goes on with those that are
missing. `report` ranks the masks of all plantings: by their shape alone, with the
predictions of the undamaged study, and with their own where they have been trained. It
prints the AUROC of damaged against undamaged masks, pooled over the plantings with
SciPy's bootstrap interval over them, and by kind of damage; the numbers behind it go
into WORK/report.json. `--quick` does so for synthetic bones, whose predictions are the
undamaged masks with a wavy border.

Data: the 30 training cases of the hippocampus and all ten spines in the folder `train`
of NNUNET_BRIDGE_TEST_DATA.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage, stats

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.formats.nifti import LPS_FROM_RAS, read_labelmap
from nnunet_bridge.ops.audit import measure_masks, rank_masks

DATA = Path(
    os.environ.get("NNUNET_BRIDGE_TEST_DATA")
    or Path(__file__).parents[2] / "shared" / "data"
)
STUDIES = {
    "hippocampus": ("msd_hippocampus", ("Tr",), ("anterior", "posterior")),
    "spine": ("spine_vb_2mm", ("Tr", "Ts"), ("L1", "L2", "L3", "L4", "L5")),
}
"""Name -> folder, parts, and structures in the order of their values."""

UNDAMAGED = "undamaged"  # in place of the number of a planting
PHANTOM = "synthetic bones"
BONES = ("femur", "tibia", "fibula")

SHARE, FOLDS = 0.1, 2
DATASET = "Dataset001_Audit"


def files_of(study):
    """Return case -> its image and its labels."""
    folder, parts, _ = STUDIES[study]
    found = {}
    for part in parts:
        for file in sorted((DATA / "train" / folder / f"labels{part}").glob("*.gz")):
            case = file.name.removesuffix(".nii.gz")
            found[case] = file.parents[1] / f"images{part}" / file.name, file
    return found


def put(labels, value, mask):
    """Return labels with the mask of a value replaced; others keep their voxels."""
    free = (labels == 0) | (labels == value)
    return np.where(mask & free, value, np.where(labels == value, 0, labels))


def shifted(labels, value, _sagittal, rng):
    axis, way = rng.integers(3), rng.choice([-3, 3])
    moved = ndimage.shift(labels == value, way * np.eye(3)[axis], order=0)
    return put(labels, value, moved), (value,)


def without_a_slice(labels, value, _sagittal, rng):
    """Remove one slice, not one of the two at either end."""
    mask, axis = labels == value, 2
    held = np.flatnonzero(mask.any(axis=(0, 1)))
    mask[(*(slice(None),) * axis, rng.choice(held[2:-2]))] = False
    return put(labels, value, mask), (value,)


def dilated(labels, value, _sagittal, _rng):
    mask = ndimage.binary_dilation(labels == value, iterations=2)
    return put(labels, value, mask), (value,)


def mirrored(labels, value, sagittal, _rng):
    return put(labels, value, np.flip(labels == value, axis=sagittal)), (value,)


def exchanged(labels, value, _sagittal, rng):
    other = rng.choice([v for v in range(1, labels.max() + 1) if v != value])
    new = labels.copy()
    new[labels == value], new[labels == other] = other, value
    return new, (value, int(other))


KINDS = {
    "shifted by 3 voxels": shifted,
    "a slice missing": without_a_slice,
    "dilated by 2": dilated,
    "wrong side": mirrored,
    "bones exchanged": exchanged,
}


def names_of(study):
    return BONES if study == PHANTOM else STUDIES[study][2]


def bones(number):
    """Return the labels of one synthetic patient: three ellipsoids."""
    rng = np.random.default_rng([7, number])
    size, voxels = rng.uniform(0.9, 1.1), np.zeros((48, 36, 24), np.uint8)
    places = np.moveaxis(np.indices(voxels.shape), 0, -1) * [1, 1, 3]
    for value, (middle, radii) in enumerate(
        (
            ((20, 16, 50), (8, 8, 18)),
            ((20, 16, 20), (7, 7, 14)),
            ((33, 20, 20), (4, 4, 13)),
        ),
        start=1,
    ):
        off = places - np.array(middle) - rng.normal(0, 0.7, 3)
        inside = np.linalg.norm(off / (np.array(radii) * size), axis=-1) < 1
        voxels[inside & (voxels == 0)] = value
    return voxels


def wavy(voxels, number):
    """Return labels as a network may predict them: with a wavy border."""
    noise = np.random.default_rng([8, number]).normal(size=(3, *voxels.shape))
    waves = [8 * ndimage.gaussian_filter(part, 2) for part in noise]
    places = np.indices(voxels.shape) + np.round(waves)
    return ndimage.map_coordinates(voxels, places, order=0)


def labels_of(study):
    """Return case -> affine and labels, undamaged."""
    if study == PHANTOM:
        affine = np.diag([-1.0, -1.0, 3.0, 1.0])
        return {f"bones_{n:02d}": (affine, bones(n)) for n in range(20)}
    labels = {}
    for case, (_, file) in files_of(study).items():
        image = nib.load(file)
        labels[case] = image.affine, np.asarray(image.dataobj).astype(np.uint8)
    return labels


def planted(study, number):
    """Return case -> affine and labels; and (case, structure) -> kind of its damage."""
    rng = np.random.default_rng([number, len(study)])
    names, labels, damage = names_of(study), labels_of(study), {}
    wanted = round(SHARE * len(labels) * len(names))
    kinds, turn = list(KINDS), wanted * number
    for case in rng.permutation(sorted(labels)):
        if len(damage) >= wanted:
            break
        affine, voxels = labels[case]
        kind, value = kinds[turn % len(kinds)], 1 + int(rng.integers(len(names)))
        sagittal = nib.io_orientation(affine)[:, 0].tolist().index(0)
        new, values = KINDS[kind](voxels, value, sagittal, rng)
        labels[case] = affine, new.astype(np.uint8)
        damage |= {(str(case), names[value - 1]): kind for value in values}
        turn += 1
    return labels, damage


def write_dataset(study, number, work):
    """Write the damaged study as a raw dataset of nnU-Net."""
    raw = work / "nnUNet_raw" / DATASET
    labels = labels_of(study) if number == UNDAMAGED else planted(study, number)[0]
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for case, (image, _) in files_of(study).items():
        shutil.copy(image, raw / "imagesTr" / f"{case}_0000.nii.gz")
        affine, voxels = labels[case]
        nib.save(nib.Nifti1Image(voxels, affine), raw / "labelsTr" / f"{case}.nii.gz")
    names = names_of(study)
    content = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0} | {n: v for v, n in enumerate(names, start=1)},
        "numTraining": len(labels),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(content))


def bridge(work, *words):
    command = [sys.executable, "-m", "nnunet_bridge", *words, "-w", str(work), "-q"]
    subprocess.run(command, check=True)


def train(study, number, kept, until):
    """Predict every case by the fold that held it out; return whether that is done."""
    out, work = kept / f"{study}_{number}", kept / f"{study}_{number}.work"
    if out.is_dir():
        return True
    if not (work / "planned").exists():
        shutil.rmtree(work, ignore_errors=True)
        write_dataset(study, number, work)
        bridge(work, "plan", "1", "-c", "2d", "--folds", str(FOLDS))
        (work / "planned").touch()
    for fold in range(FOLDS):
        if time.monotonic() > until:
            return False
        smoke = ("-c", "2d", "-f", str(fold), "--budget", "smoke", "--device", "cpu")
        bridge(work, "train", "1", *smoke)
    files = (work / "nnUNet_results").glob("*/*/fold_*/validation/*.nii.gz")
    new = out.with_suffix(".partial")
    new.mkdir(exist_ok=True)
    for file in files:
        shutil.copy(file, new / file.name)
    new.rename(out)
    shutil.rmtree(work)
    return True


def ranked(study, number, predicted):
    """Return [kind of damage or None, suspicion] of every mask of a planting.

    `predicted` is the folder of predictions; None to rank the masks by shape alone.
    """
    table = LabelTable.from_names(list(names_of(study)))
    labels, damage = planted(study, number)
    cases = {}
    for place, (case, (affine, voxels)) in enumerate(labels.items()):
        grid = Grid(voxels.shape, LPS_FROM_RAS @ affine)
        prediction = None
        if predicted and study == PHANTOM:
            prediction = Labelmap(grid, wavy(bones(place), place), table)
        elif predicted:
            prediction = read_labelmap(predicted / f"{case}.nii.gz", table)
        cases[case] = measure_masks(Labelmap(grid, voxels, table), prediction)
    return [[damage.get(mask.key), mask.suspicion] for mask in rank_masks(cases)]


WAYS = {
    "shape alone": "",
    "with predictions, trained on undamaged masks": UNDAMAGED,
    "with predictions": "{}",
}
"""How masks are ranked -> the folder of predictions, after the study."""


def auroc(masks, kind=None):
    """Return the AUROC of masks with damage, of one kind or any, against the others."""
    found = [size for own, size in masks if own and kind in (None, own)]
    sound = [size for own, size in masks if not own]
    if not found:
        return float("nan")
    return stats.mannwhitneyu(found, sound).statistic / (len(found) * len(sound))


def report(studies, numbers, kept):
    """Print a line for each study and way of ranking; return the numbers behind it."""
    print(
        "| study | ranked by | plantings | AUROC (95 %) | " + " | ".join(KINDS) + " |"
    )
    print("|---|---|---|---|" + "---|" * len(KINDS))
    found = {}
    for study in studies:
        for way, named in WAYS.items():
            if study == PHANTOM and named == UNDAMAGED:
                continue
            folders = {n: kept / f"{study}_{named.format(n)}" for n in numbers}
            each = [
                ranked(study, number, folder if named else None)
                for number, folder in folders.items()
                if not named or folder.is_dir() or study == PHANTOM
            ]
            if each:
                found[f"{study}, {way}"] = each
                print(line(study, way, each), flush=True)
    return found


def line(study, way, plantings):
    def pooled(chosen, kind=None):
        return auroc([mask for n in chosen for mask in plantings[n]], kind)

    every, interval = np.arange(len(plantings)), "one planting"
    if len(every) > 1:
        low, high = stats.bootstrap(
            (every,), pooled, vectorized=False, method="percentile", n_resamples=2000,
            rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
        interval = f"{low:.3f} to {high:.3f}"
    cells = []
    for kind in KINDS:
        count = sum(own == kind for masks in plantings for own, _ in masks)
        cells.append(f"{pooled(every, kind):.2f} (n = {count})")
    numbers = f"{len(every)} | {pooled(every):.3f} ({interval})"
    return f"| {study} | {way} | {numbers} | {' | '.join(cells)} |"


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train", "report"))
    parser.add_argument("work", type=Path, nargs="?", default=Path("audit_work"))
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--plantings", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args(words)
    numbers = range(asked.first, asked.first + asked.plantings)
    if asked.quick:
        report([PHANTOM], numbers, asked.work)
        return
    asked.work.mkdir(parents=True, exist_ok=True)
    if asked.what == "report":
        found = report(STUDIES, numbers, asked.work)
        (asked.work / "report.json").write_text(json.dumps(found))
        return
    until = time.monotonic() + 60 * asked.minutes
    for number, study in product((UNDAMAGED, *numbers), STUDIES):
        start = time.monotonic()
        done = train(study, number, asked.work, until)
        took = time.monotonic() - start
        print(f"{study} {number}: {took:.0f} s, done: {done}", flush=True)
        if not done:
            return


if __name__ == "__main__":
    main()
