"""A command says what it does before torch could be loaded: two CPU seconds or less.

The unit is what torch costs on the same machine, as machines differ by a factor of two.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in import DATASET, finished_workspace, image_with_bone

TICKS = os.sysconf("SC_CLK_TCK")


def family(process):
    """Yield a process and the living ones that it started."""
    yield process
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from family(child)


def cpu_seconds(process):
    """Return user and system seconds of a process, its living and its ended ones."""
    total = 0
    for one in family(process):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / TICKS


@pytest.fixture(scope="module")
def torch_s():
    """CPU seconds in which torch is loaded."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@pytest.mark.parametrize("command", ["doctor", "demo", "predict"])
def test_the_first_line_comes_before_torch_could_be_loaded(command, tmp_path, torch_s):
    words = [command, "-w", str(tmp_path)]
    if command == "demo":
        words.append(str(tmp_path / "demo"))
    if command == "predict":
        finished_workspace(tmp_path)
        image = image_with_bone(tmp_path / "leg.nii.gz", 20, 30)
        words += [DATASET, str(image), "-o", str(tmp_path / "out")]

    with subprocess.Popen(
        [sys.executable, "-m", "nnunet_bridge", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as running:
        line = running.stdout.readline()
        spent = cpu_seconds(running.pid)
        running.terminate()

    assert line.strip()
    assert b"Error" not in line
    assert spent < torch_s, line
