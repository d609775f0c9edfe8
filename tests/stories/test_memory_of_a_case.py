"""What one case takes, from DICOM and four masks to the dataset (R8).

256 x 256 x 250 voxels by default; the full 512 x 512 x 1015 with
NNUNET_BRIDGE_LONG_TESTS=1. `python benchmarks/growth.py` shows the growth in between.
"""

import json
import subprocess
import sys
from math import prod
from pathlib import Path

GROWTH = Path(__file__).parents[2] / "benchmarks" / "growth.py"
MEBIBYTE = 1 << 20
PROGRAM_MIB = 200
"""The program itself with its libraries."""

BYTES_PER_VOXEL = 9
"""Two of the image, and what the masks and the labelmap need at once."""


def growth(*words):
    return subprocess.run(
        [sys.executable, GROWTH, "--point", *words],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def test_R8_a_case_is_converted_in_a_few_bytes_a_voxel(tmp_path, long_tests):
    shape = (512, 512, 1015) if long_tests else (256, 256, 250)
    growth("prepare", tmp_path, ",".join(map(str, shape)))

    peak_mib = json.loads(growth("convert", tmp_path, ""))["peak_mib"]

    assert peak_mib <= PROGRAM_MIB + BYTES_PER_VOXEL * prod(shape) / MEBIBYTE
    assert peak_mib <= 2560
