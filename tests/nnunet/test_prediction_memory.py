"""What a prediction takes is known before it begins."""

from dataclasses import replace
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import DATASET_JSON, golden_plans

from nnunet_bridge.nnunet.prediction_memory import (
    PlannedMember,
    host_bytes,
    planned_part,
    waiting_disk_bytes,
)

GIB = 1 << 30
BODY = (1015, 512, 512)
SPACING_MM = (1.5, 0.82, 0.82)


def member(configuration="3d_fullres", folds=1):
    plans = golden_plans()
    part = planned_part(plans, configuration)
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
