"""How long `init` looks at a study of 200 patients with 300 DICOM files each.

    python benchmarks/init.py              200 patients of 300 files, 8 masks each
    python benchmarks/init.py --quick      5 patients of 30 files: does it work?

Ten scans are written; the folders of the other patients hold hard links to their files.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.dicom.write import write_series
from nnunet_bridge.formats.nifti import write_volume
from nnunet_bridge.pipeline.ingest.init import InitOptions, write_recipe

LIMIT_CPU_S = 20.0
BONES = ("tibia", "femur", "fibula", "pelvis")
SOURCES = 10  # different scans; the others are hard links to one of them


def write_study(study: Path, patients: int, slices: int) -> None:
    """Write scans as DICOM folders and one mask a bone and side."""
    for number in range(min(SOURCES, patients)):
        affine = np.diag([1.0, 1.0, 3.0, 1.0])
        affine[:3, 3] = number, -number, 10 * number
        grid = Grid((16, 16, slices), affine)
        voxels = np.full(grid.shape, 100 + number, np.int16)
        source = study.parent / "sources" / str(number)
        words = {"patient_id": f"ID{number}", "description": "synthetic"}
        words |= {"image_type": ("ORIGINAL", "PRIMARY", "M", "WATER")}
        write_series(source / "scan", Volume(grid, voxels), series_number=1, **words)
        mask = Volume(grid, (voxels > 0).astype(np.uint8))
        write_volume(source / "mask.nii.gz", mask)
    for number in range(patients):
        source = study.parent / "sources" / str(number % SOURCES)
        folder = study / "scans" / f"P{number + 1:03d}"
        folder.mkdir(parents=True)
        for file in (source / "scan").iterdir():
            os.link(file, folder / file.name)
        masks = study / "masks"
        masks.mkdir(exist_ok=True)
        for bone in BONES:
            for side in "LR":
                name = f"P{number + 1:03d}_{bone}_{side}.nii.gz"
                os.link(source / "mask.nii.gz", masks / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    patients, slices = (5, 30) if parser.parse_args().quick else (200, 300)
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        write_study(study, patients, slices)
        begin = time.perf_counter(), time.process_time()
        summary = write_recipe(study, InitOptions(Path(folder) / "dataset.toml"))
        wall_s, cpu_s = time.perf_counter() - begin[0], time.process_time() - begin[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print("| patients | files | cases | exit code | CPU s | wall s | peak MiB |")
    print("|---|---|---|---|---|---|---|")
    files = patients * (slices + 2 * len(BONES))
    figures = f"{cpu_s:.1f} | {wall_s:.1f} | {peak}"
    cases = len(summary.cases)
    print(f"| {patients} | {files} | {cases} | {summary.exit_code} | {figures} |")
    if cpu_s > LIMIT_CPU_S:
        raise SystemExit(f"more than {LIMIT_CPU_S:g} CPU s")


if __name__ == "__main__":
    main()
