"""What one case takes, from DICOM and four masks to the dataset (R8).

256 x 256 x 250 voxels; 512 x 512 x 1015 in the long form. `python
benchmarks/growth.py` shows the growth in between.
"""

import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((256, 256, 250), id="short"),
        pytest.param((512, 512, 1015), id="full body", marks=pytest.mark.long),
    ],
)
def test_R8_a_case_is_converted_in_a_few_bytes_a_voxel(tmp_path, shape):
    growth("prepare", tmp_path, ",".join(map(str, shape)))

    peak_mib = json.loads(growth("convert", tmp_path, ""))["peak_mib"]

    assert peak_mib <= PROGRAM_MIB + BYTES_PER_VOXEL * prod(shape) / MEBIBYTE
    assert peak_mib <= 2560
