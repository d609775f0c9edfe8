"""What memory training and prediction take: nnU-Net's own figure, and sane laws."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_bridge.nnunet.estimates import (
    feature_map_size,
    prediction_memory,
    prediction_memory_bytes,
    preprocessing_memory_bytes,
    shape_at,
    training_memory,
)
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.plans import resolved

GOLDEN = Path(__file__).parents[1] / "golden"
PLANS = ("nnUNetPlans", "nnUNetResEncUNetMPlans")
edges = st.integers(8, 200)
shapes = st.tuples(edges, edges, edges)


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


def test_F10_the_largest_images_of_the_tables_are_told_in_figures():
    """266 million voxels: 2.5 GiB of float16 logits for 5 classes, 8.4 for 17."""
    shape = (1015, 512, 512)
    voxels = math.prod(shape)

    five, seventeen = (prediction_memory_bytes(shape, n) for n in (5, 17))

    assert five > 2 * 5 * voxels + 4 * voxels
    assert seventeen - five == 2 * 12 * voxels
    resampled = prediction_memory_bytes((508, 256, 256), 5, original=shape)
    assert resampled > 2 * 5 * voxels + 8 * voxels


@given(shape=shapes, classes=st.integers(2, 20))
def test_F10_more_voxels_classes_folds_or_probabilities_never_need_less(shape, classes):
    larger = (shape[0] + 1, *shape[1:])

    least = prediction_memory_bytes(shape, classes)

    assert prediction_memory_bytes(larger, classes) > least
    assert prediction_memory_bytes(shape, classes + 1) > least
    assert prediction_memory_bytes(shape, classes, folds=2) >= least
    assert prediction_memory_bytes(shape, classes, probabilities=True) > least
    assert preprocessing_memory_bytes(larger, shape, 1) > preprocessing_memory_bytes(
        shape, shape, 1
    )


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


def test_a_case_on_another_grid_needs_more_than_on_its_own():
    plans = golden("nnUNetPlans")
    same = prediction_memory(
        plans, "2d", original=(64,) * 3, resampled=(64,) * 3, classes=5
    )
    other = prediction_memory(
        plans, "2d", original=(65,) * 3, resampled=(64,) * 3, classes=5
    )

    assert other.host_bytes > same.host_bytes
