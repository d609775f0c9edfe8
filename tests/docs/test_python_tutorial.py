"""The Python tutorial runs as it stands, block after block."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_bridge

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(PAGE.read_text("utf-8"))


def test_the_tutorial_uses_every_public_function():
    text = PAGE.read_text("utf-8")

    assert [n for n in nnunet_bridge.__all__ if n[0].islower() and n not in text] == []


@pytest.mark.training
@pytest.mark.usefixtures("few_steps")
def test_the_tutorial_runs_and_leaves_what_it_says(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join(BLOCKS)],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": f"{PAGE.parents[2]}:{os.environ['PYTHONPATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )

    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "tibia: Dice 0.90, HD95 1.0 mm" in ran.stdout
    (case,) = (tmp_path / "python_tutorial" / "out").glob("*/prediction.json")
    files = {file.name for file in case.parent.iterdir()}
    assert files >= {"labels.nii.gz", "labels.seg.nrrd", "preview.png", "volumes.csv"}
    assert (tmp_path / "python_tutorial" / "scores" / "scores.csv").stat().st_size
