"""Memory of training and prediction: nnU-Net's own figures, and laws."""

import json
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import DATASET_JSON, golden_plans

from nnunet_bridge.nnunet.estimates import (
    FAST_STEP,
    PlannedMember,
    checkpoint_bytes,
    feature_map_size,
    full_training_seconds,
    host_bytes,
    resampled_shape,
    training_memory,
    waiting_disk_bytes,
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

    def at(factor, configuration="3d_fullres"):
        coarse = [factor * mm for mm in spacing]
        seen = plans["configurations"][configuration]["spacing"]
        return resampled_shape(shape, coarse, order, seen)

    assert at(1) == tuple(shape[axis] for axis in order)
    assert at(2) == tuple(2 * shape[axis] for axis in order)
    assert at(2, "2d") == (shape[order[0]], *at(2)[1:])


GIB = 1 << 30
BODY = (1015, 512, 512)
SPACING_MM = (1.5, 0.82, 0.82)


def member(configuration="3d_fullres", folds=1):
    plans = golden_plans()
    part = resolved(plans, configuration)
    return PlannedMember.of(plans, DATASET_JSON, part, folds=folds, weights_bytes=0)


def test_plans_say_what_a_network_sees():
    found = member("2d", folds=5)

    assert (found.heads, found.channels, found.folds) == (3, 1, 5)
    assert found.patch == (512, 512)
    assert found.seen_shape((100, 512, 512), (3.0, 1.64, 0.82)) == (100, 1024, 512)


def test_a_second_stage_also_sees_the_labels_of_the_first():
    assert member("3d_cascade_fullres").channels == 1 + 2


@given(
    size=st.integers(1, 600),
    edge=st.integers(1, 20),
    configuration=st.just("3d_fullres"),
)
def test_windows_are_half_a_patch_apart_at_most(size, edge, configuration):
    patch = 2 * edge
    planned = replace(member(configuration), patch=(patch, patch, patch))

    count = planned.windows((size, 1, 1))

    assert patch + (count - 1) * edge >= size
    assert count == 1 or patch + (count - 2) * edge < size


@given(size=st.integers(1, 600), edge=st.integers(1, 40))
def test_windows_of_the_fast_way_are_counted_as_nnunet_lays_them(size, edge):
    patch = 4 * edge
    planned = replace(member("3d_fullres"), patch=(patch, patch, patch))

    count = planned.windows((size, 1, 1), FAST_STEP)

    assert patch + (count - 1) * 3 * edge >= size
    assert count == 1 or patch + (count - 2) * 3 * edge < size


def test_a_plane_is_a_window_of_a_2d_network():
    assert member("2d").windows((40, 512, 512)) == 40
    assert member("2d").windows((40, 513, 512)) == 80


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_longer_image_needs_no_more_room_for_sums(configuration):
    planned = member(configuration, folds=5)

    def sums(slices):
        shape = (slices, 512, 512)
        predicting = planned.predicting_bytes(shape, SPACING_MM, on_gpu=False)
        return predicting - 9 * prod(shape)  # the image, its mask and labels

    assert sums(1015) == sums(501)


def test_nothing_of_a_full_body_is_held_for_every_class():
    many = replace(member(folds=5), heads=17)

    more = host_bytes([many], BODY, SPACING_MM, on_gpu=False)

    of_all_logits = 17 * prod(BODY) * 2 * 2  # nnU-Net: the folds' sum and the next one
    assert more < of_all_logits


def test_preparing_ahead_takes_memory_of_its_own():
    one = host_bytes([member()], BODY, SPACING_MM, on_gpu=True)
    two = host_bytes([member()], BODY, SPACING_MM, on_gpu=True, ahead=True)

    assert two > one + GIB


def test_of_several_members_all_but_the_last_leave_logits_on_the_disk():
    planned = member()

    assert waiting_disk_bytes([planned], BODY) == 0
    assert waiting_disk_bytes([planned, planned], BODY) == 3 * prod(BODY) * 2


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.filterwarnings("ignore")
def test_operations_and_checkpoints_of_a_training_are_those_of_its_convolutions(
    name, configuration
):
    """The oracle runs the network on shapes alone; it counts products and weights."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    planned = resolved(golden(name), configuration)
    architecture = planned["architecture"]
    with torch.device("meta"):
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            1,
            5,
            deep_supervision=True,
        )
    products = 0

    def count(layer, _inputs, out):
        nonlocal products
        products += out[0].numel() * prod(layer.weight.shape[1:])

    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Conv3d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 1, *planned["patch_size"], device="meta"))

    numbers = 3 * sum(weight.numel() for weight in network.parameters())  # with Adam's
    assert checkpoint_bytes(planned, 1) == pytest.approx(4 * numbers, rel=0.01)
    iterations = 1000 * (250 + 50 / 3)
    operations = 2 * 3 * products * planned["batch_size"] * iterations
    assert full_training_seconds(planned, 1, 2) == pytest.approx(
        operations / 60e9 / 2, rel=0.1
    )
    assert full_training_seconds(planned, 1, 1) == pytest.approx(
        2 * full_training_seconds(planned, 1, 2)
    )
