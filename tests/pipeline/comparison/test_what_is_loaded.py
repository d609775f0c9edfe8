"""A command loads what it needs: `compare` and `score` not the whole product."""

import os
import subprocess
import sys

import pytest

COUNTED = """
import sys, importlib
importlib.import_module(sys.argv[1])
own = sorted(name for name in sys.modules if name.split(".")[0] == "nnunet_bridge")
print("\\n".join(own))
"""


def modules_loaded_by(module):
    found = subprocess.run(
        [sys.executable, "-c", COUNTED, f"nnunet_bridge.pipeline.{module}"],
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.split()


@pytest.mark.parametrize(
    ("module", "most"), [("comparison.compare", 77), ("labels.score", 36)]
)
def test_a_command_loads_few_of_our_modules(module, most):
    loaded = modules_loaded_by(module)

    assert len(loaded) <= most, "\n".join(loaded)


@pytest.mark.parametrize("module", ["comparison.compare", "labels.score"])
def test_neither_dicom_nor_training_is_loaded(module):
    rooms = ("formats.dicom", "pipeline.ingest", "pipeline.training")

    loaded = modules_loaded_by(module)

    assert [name for name in loaded if name[14:].startswith(rooms)] == []


@pytest.mark.parametrize("module", ["labels.score", "models.select"])
def test_scores_and_tables_of_a_comparison_need_no_page(module):
    loaded = modules_loaded_by(module)

    assert [name for name in loaded if "html" in name or "sprites" in name] == []
