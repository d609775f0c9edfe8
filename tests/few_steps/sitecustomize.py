"""Smoke trainings of a few steps, for tests of everything but what a network learns.

Python reads this file at its start where PYTHONPATH names the folder; the fixture
`few_steps` names it. A network then has a few thousand weights, an epoch two steps.
With SMALL_PATCHES a smoke test keeps its networks, and they learn, from smaller patches
and in fewer epochs.
"""

import math
import os

from nnunet_bridge.nnunet.methods import Method
from nnunet_bridge.nnunet.plans import patch_within

FEATURES = [4, 8, 8]
LARGEST_PATCH = {2: 64 * 64, 3: 24 * 24 * 24}
LEARNING_PATCH = {2: 48 * 64, 3: 96_000}
LEARNING_BATCH = {2: 8, 3: 2}
LEARNING_EPOCHS = {"2d": 12, "3d_fullres": 8}
REPORT_NETWORKS = {"features": [4, 6, 8, 10, 12], "decoder": [16, 8, 8, 4, 4]}

plans_from = Method.plans_from


def few_steps(method, stock):
    """Return the plans of a method, shrunk where its budget is `smoke`."""
    plans = plans_from(method, stock)
    if method.budget.name != "smoke":
        return plans
    small = "SMALL_PATCHES" in os.environ
    for configuration in plans["configurations"].values():
        if "architecture" in configuration and not method.report_network:
            (_shrink_patch if small else _shrink)(configuration)
    if small:
        for name, epochs in LEARNING_EPOCHS.items():
            plans["nnunet_bridge"][name]["epochs"] = epochs
        return plans
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
    _shrink_patch(configuration, LARGEST_PATCH, {2: 2, 3: 2})


def _shrink_patch(configuration, largest=LEARNING_PATCH, batch=LEARNING_BATCH):
    strides = configuration["architecture"]["arch_kwargs"]["strides"]
    divisors = [math.prod(steps) for steps in zip(*strides, strict=True)]
    patch = configuration["patch_size"]
    edges = len(patch)
    configuration["patch_size"] = patch_within(largest[edges], patch, divisors)
    configuration["batch_size"] = batch[edges]


Method.plans_from = few_steps
