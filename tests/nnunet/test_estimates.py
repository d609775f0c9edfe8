"""What memory training and prediction take: nnU-Net's own figure, and sane laws."""

import json
from pathlib import Path

import pytest

from nnunet_bridge.nnunet.estimates import (
    feature_map_size,
    shape_at,
    training_memory,
)
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.plans import resolved

GOLDEN = Path(__file__).parents[1] / "golden"
PLANS = ("nnUNetPlans", "nnUNetResEncUNetMPlans")


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def networks():
    for name in PLANS:
        for configuration in golden(name)["configurations"]:
            yield golden(name), configuration, f"{name} {configuration}"
    smoke = method_of("nnunet", "smoke").plans_from(golden("nnUNetPlans"))
    for configuration in smoke["configurations"]:
        yield smoke, configuration, f"smoke {configuration}"


@pytest.mark.parametrize(
    ("plans", "configuration"),
    [pytest.param(*case[:2], id=case[2]) for case in networks()],
)
@pytest.mark.filterwarnings("ignore")
def test_F10_feature_maps_are_counted_as_nnunet_counts_them(plans, configuration):
    """The oracle builds the network and asks it."""
    from nnunetv2.experiment_planning.experiment_planners import (
        default_experiment_planner as nnunet,
    )

    planned = resolved(plans, configuration)
    architecture = planned["architecture"]
    expected = nnunet.ExperimentPlanner.static_estimate_VRAM_usage(
        planned["patch_size"],
        1,
        5,
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
    )

    assert feature_map_size(planned, 5) == expected


@pytest.mark.parametrize("name", PLANS)
def test_F10_what_nnunet_plans_for_8_gb_needs_at_most_about_that(name):
    """Its planners fill 8 GB and no more; small images leave room."""
    plans = golden(name)
    for configuration in plans["configurations"]:
        need = training_memory(plans, configuration, 5)

        assert 0.5 * 2**30 < need.gpu_bytes <= 9.0 * 2**30


def test_F10_a_network_that_is_not_nnunets_own_has_no_estimate():
    plans = golden("nnUNetPlans")
    for planned in plans["configurations"].values():
        planned["architecture"] = {"network_class_name": "a.B", "arch_kwargs": {}}

    assert training_memory(plans, "2d", 5) is None


def test_F10_loaders_are_counted():
    plans = golden("nnUNetPlans")

    none, four = (training_memory(plans, "2d", 5, loaders=n) for n in (0, 4))

    assert four.host_bytes - none.host_bytes > 4 * 0.5 * 2**30


def test_an_image_at_the_spacing_of_the_plans_keeps_its_shape():
    plans = golden("nnUNetPlans")
    order = plans["transpose_forward"]
    target = plans["configurations"]["3d_fullres"]["spacing"]
    spacing = [0.0] * 3
    for axis, size in zip(order, target, strict=True):
        spacing[axis] = size
    shape = (30, 40, 50)

    assert shape_at(shape, spacing, plans, "3d_fullres") == tuple(
        shape[axis] for axis in order
    )
    doubled = shape_at(shape, [2 * mm for mm in spacing], plans, "3d_fullres")
    assert doubled == tuple(2 * shape[axis] for axis in order)
    flat = shape_at(shape, [2 * mm for mm in spacing], plans, "2d")
    assert flat[0] == shape[order[0]]
    assert flat[1:] == doubled[1:]
