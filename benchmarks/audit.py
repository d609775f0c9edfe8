"""How well `audit` finds masks that were damaged on purpose, on two real studies.

    python benchmarks/audit.py train WORK [--minutes 5] [--plantings 10]
    python benchmarks/audit.py report WORK [--plantings 10]

A planting damages one tenth of the masks of a study, in five ways in turn: shifted by
three voxels, one slice missing, dilated by two voxels, on the wrong side (mirrored in
the middle of the image), two structures of a case exchanged. Dilated and moved masks
leave the voxels of other structures alone. `train` trains two folds of 2d on the
damaged labels, at the smoke budget, and keeps what they predict for the cases held out;
it ends after so many minutes and goes on where it ended when it is called again.
`report` ranks the masks, by their shape alone and with those predictions, and prints
the AUROC of damaged against undamaged masks: pooled over all plantings, and by kind.
The interval is SciPy's bootstrap over plantings. Data: the 30 training cases of the
hippocampus and all ten spines below NNUNET_BRIDGE_TEST_DATA/train.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

DATA = Path(
    os.environ.get("NNUNET_BRIDGE_TEST_DATA")
    or Path(__file__).parents[2] / "shared" / "data"
)
STUDIES = {
    "hippocampus": ("msd_hippocampus", ("Tr",), ("anterior", "posterior")),
    "spine": ("spine_vb_2mm", ("Tr", "Ts"), ("L1", "L2", "L3", "L4", "L5")),
}
"""Name -> folder, parts, and structures in the order of their values."""

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


def planted(study, number):
    """Return case -> affine and labels; and (case, structure) -> kind of its damage."""
    rng = np.random.default_rng([number, len(study)])
    names, labels, damage = STUDIES[study][2], {}, {}
    for case, (_, file) in files_of(study).items():
        image = nib.load(file)
        labels[case] = image.affine, np.asarray(image.dataobj).astype(np.uint8)
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
    labels, _ = planted(study, number)
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for case, (image, _) in files_of(study).items():
        shutil.copy(image, raw / "imagesTr" / f"{case}_0000.nii.gz")
        affine, voxels = labels[case]
        nib.save(nib.Nifti1Image(voxels, affine), raw / "labelsTr" / f"{case}.nii.gz")
    names = STUDIES[study][2]
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


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train", "report"))
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--plantings", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args(words)
    numbers = range(asked.first, asked.first + asked.plantings)
    asked.work.mkdir(parents=True, exist_ok=True)
    if asked.what == "train":
        until = time.monotonic() + 60 * asked.minutes
        for number in numbers:
            for study in STUDIES:
                start = time.monotonic()
                done = train(study, number, asked.work, until)
                took = time.monotonic() - start
                print(f"{study} {number}: {took:.0f} s, done: {done}", flush=True)
                if not done:
                    return


if __name__ == "__main__":
    main()
