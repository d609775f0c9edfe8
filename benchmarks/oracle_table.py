"""Print, for every case of a converted study, whether it equals the study's oracle.

    python benchmarks/oracle_table.py STUDY RAW_DATASET

Arrays are brought to one order of axes by flips only (nibabel's closest canonical)
and compared by the SHA-256 of their voxels; places by the largest displacement of a
corner. nibabel reads both sides, so this shares no code with the conversion.
"""

import hashlib
import itertools
import json
import sys
from pathlib import Path

import nibabel
import numpy as np

TOLERANCE_MM = 1e-3


def voxels_and_place(file: Path):
    image = nibabel.as_closest_canonical(nibabel.load(file))
    return np.asarray(image.dataobj), image.affine


def sha256(voxels) -> str:
    whole = np.asfortranarray(np.round(voxels).astype("<i4"))
    return hashlib.sha256(whole.tobytes(order="F")).hexdigest()


def displacement_mm(shape, first, second) -> float:
    corners = itertools.product(*((0, size - 1) for size in shape))
    points = np.array([(*corner, 1) for corner in corners])
    apart = (points @ (first - second).T)[:, :3]
    return float(np.linalg.norm(apart, axis=1).max())


def main(study: Path, dataset: Path) -> int:
    oracle = study / "oracle"
    cases = json.loads((oracle / "cases.json").read_text())
    different = 0
    for name in sorted(cases, key=lambda case: int(case.split("_")[0])):
        index = int(name.split("_")[0])
        (image,) = dataset.glob(f"images*/*_{index:03d}_0000.nii.gz")
        (label,) = dataset.glob(f"labels*/*_{index:03d}.nii.gz")
        for ours, kind in ((image, "image"), (label, "label")):
            voxels, affine = voxels_and_place(ours)
            expected, place = voxels_and_place(oracle / name / f"{kind}.nii.gz")
            apart = displacement_mm(voxels.shape, affine, place)
            same = sha256(voxels) == sha256(expected) and apart <= TOLERANCE_MM
            different += not same
            print(
                f"{name:8} {kind}  {sha256(voxels)[:16]}  {sha256(expected)[:16]}  "
                f"{apart:.1e} mm  {'equal' if same else 'DIFFERENT'}"
            )
    print(f"{2 * len(cases)} volumes, {different} different")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
