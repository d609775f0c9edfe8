"""Modules that nnU-Net imports but does not use are not loaded; those it uses work.

Each check is a process of its own: what is imported stays.
"""

import subprocess
import sys

import pytest

HEAVY = ["torch._dynamo", "sympy", "scipy.stats", "pandas", "seaborn", "sklearn"]


def answer_of(code):
    """Return what a new Python process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("task", ["prediction", "training"])
def test_a_task_on_a_cpu_loads_no_compiler_and_no_tables(task):
    code = f"""
import sys
from nnunet_bridge.nnunet.postponed import nothing_is_compiled, postponed
nothing_is_compiled()
with postponed():
    import nnunet_bridge.nnunet.inside.{task}
print(*(name for name in {HEAVY} if hasattr(sys.modules.get(name), "__file__")))
"""
    assert answer_of(code) == []


def test_postponed_functions_answer_as_those_of_the_module():
    code = """
import sys
from nnunet_bridge.nnunet.postponed import postponed
with postponed():
    from skimage.morphology import ball
    import pandas as before
print(hasattr(sys.modules.get("skimage.morphology"), "ball"))
import pandas
from skimage import morphology
print((ball(2) == morphology.ball(2)).all(), before.unique is pandas.unique)
with postponed():
    import seaborn, matplotlib.pyplot
print(seaborn.color_palette("deep", 1).as_hex()[0], matplotlib.pyplot.isinteractive())
"""
    assert answer_of(code) == ["False", "True", "True", "#4c72b0", "False"]


def test_where_code_may_be_compiled_the_compiler_is_loaded_among_postponed_modules():
    code = """
import sys
from nnunet_bridge.nnunet.postponed import postponed
with postponed():
    import nnunet_bridge.nnunet.inside.training
import torch
network = torch.compile(torch.nn.Linear(2, 1), backend="eager")
print(isinstance(network, sys.modules["torch._dynamo"].OptimizedModule))
print(*network(torch.ones(1, 2)).shape)
"""
    assert answer_of(code) == ["True", "1", "1"]


def test_an_optimiser_needs_no_compiler():
    code = """
import sys
from nnunet_bridge.nnunet.postponed import nothing_is_compiled
nothing_is_compiled()
import torch
weight = torch.nn.Parameter(torch.ones(3))
adam = torch.optim.AdamW([weight], lr=0.5, weight_decay=0)
for _ in range(2):
    adam.zero_grad()
    weight.sum().backward()
    adam.step()
print("torch._dynamo.config" in sys.modules, weight.requires_grad, weight[0].item())
"""
    compiled, learns, weight = answer_of(code)

    assert (compiled, learns) == ("False", "True")
    assert float(weight) == pytest.approx(0, abs=1e-6)  # two steps of Adam, 0.5 each


@pytest.mark.parametrize(
    "use",
    [
        "import torch._dynamo.config",
        "torch.compile(torch.nn.Linear(2, 1), backend='eager')(torch.ones(1, 2))",
    ],
)
def test_who_asks_more_of_the_compiler_gets_the_real_one(use):
    code = f"""
import sys
from nnunet_bridge.nnunet.postponed import nothing_is_compiled
nothing_is_compiled()
import torch
from torch._dynamo import OptimizedModule
assert not isinstance(torch.nn.Linear(2, 1), OptimizedModule)
{use}
import torch._dynamo, torch._dynamo.config as config
names = "torch._dynamo", "torch._dynamo.config", "torch._dynamo.eval_frame"
print(*(sys.modules[name].__spec__.origin is not None for name in names))
print(config is torch._dynamo.config, hasattr(torch._dynamo, "__file__"))
"""
    assert answer_of(code) == ["True"] * 5
