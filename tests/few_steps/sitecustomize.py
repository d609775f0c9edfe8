"""Smoke trainings of a few steps, for tests of everything but what a network learns.

Python reads this file at its start where PYTHONPATH names the folder; the fixture
`few_steps` names it. A network then has a few thousand weights, an epoch two steps.
With FEWER_EPOCHS a smoke test keeps its networks, and they learn to find large bones.
With EPOCH_S an epoch takes at least so many seconds, so that a test can stop a training
before its end, however fast the machine is.
"""

import math
import os
import time
from pathlib import Path

from nnunet_bridge.formats import files
from nnunet_bridge.nnunet.methods import Method
from nnunet_bridge.nnunet.plans import patch_within

FEATURES = [4, 8, 8]
LARGEST_PATCH = {2: 64 * 64, 3: 24 * 24 * 24}
LEARNING = {"2d": (8, 16_384), "3d_fullres": (7, 56_000)}
"""Epochs of a training that learns, and the most voxels of its patch."""
REPORT_NETWORKS = {"features": [4, 6, 8, 10, 12], "decoder": [16, 8, 8, 4, 4]}

plans_from = Method.plans_from
open_to_write = files.open_to_write


def few_steps(method, stock):
    """Return the plans of a method, shrunk where its budget is `smoke`."""
    plans = plans_from(method, stock)
    if method.budget.name != "smoke":
        return plans
    if "FEWER_EPOCHS" in os.environ:
        for name, (epochs, largest) in LEARNING.items():
            plans["nnunet_bridge"][name]["epochs"] = epochs
            _cut_patch(plans["configurations"][name], largest)
        return plans
    for configuration in plans["configurations"].values():
        if "architecture" in configuration and not method.report_network:
            _shrink(configuration)
    for steps in plans["nnunet_bridge"].values():
        steps["epochs"] = int(os.environ.get("FEW_EPOCHS", "2"))
        steps |= {"iterations": 2, "validation_iterations": 1}
        steps |= {key: REPORT_NETWORKS[key] for key in steps.keys() & REPORT_NETWORKS}
    return plans


def _shrink(configuration):
    network = configuration["architecture"]["arch_kwargs"]
    stages = int(os.environ.get("FEW_STAGES", "2"))
    for key in ("kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage"):
        if key in network:
            network[key] = network[key][:stages]
    network |= {"n_stages": stages, "features_per_stage": FEATURES[:stages]}
    network["n_conv_per_stage_decoder"] = network["n_conv_per_stage_decoder"][
        : stages - 1
    ]
    _cut_patch(configuration, LARGEST_PATCH[len(configuration["patch_size"])])
    configuration["batch_size"] = 2


def _cut_patch(configuration, largest):
    strides = configuration["architecture"]["arch_kwargs"]["strides"]
    divisors = [math.prod(steps) for steps in zip(*strides, strict=True)]
    patch = patch_within(largest, configuration["patch_size"], divisors)
    configuration["patch_size"] = patch


Method.plans_from = few_steps


def open_slowly(file, *arguments, **options):
    """Wait before the events of a training are written: each epoch ends with one."""
    if Path(file).name == "events.jsonl":
        time.sleep(float(os.environ["EPOCH_S"]))
    return open_to_write(file, *arguments, **options)


if "EPOCH_S" in os.environ:
    files.open_to_write = open_slowly
