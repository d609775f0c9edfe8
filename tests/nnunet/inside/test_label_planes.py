"""Labels of resampled logits are nnU-Net's, which resamples all of them first."""

import warnings
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch and nnU-Net warn while they are imported
    import torch
    from nnunetv2.preprocessing.resampling.default_resampling import (
        resample_data_or_seg_to_shape,
    )

    from nnunet_bridge.nnunet.inside import label_planes
    from nnunet_bridge.nnunet.inside.resampling import Resampling

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and nnU-Net
CLASSES = 20
OPTIONS = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
NNUNETS = partial(resample_data_or_seg_to_shape, **OPTIONS)

sizes = st.integers(1, 10)
shapes = st.tuples(sizes, sizes, sizes)
lengths = st.sampled_from([0.4, 0.8, 1.0, 3.0])
spacings = st.tuples(lengths, lengths, lengths)


def labels_of_nnunet(logits, wanted, seen_mm, wanted_mm):
    return NNUNETS(logits, wanted, seen_mm, wanted_mm).argmax(0)


def labels_by_plane(logits, wanted, seen_mm, wanted_mm):
    planes = iter(torch.from_numpy(logits).unbind(1))
    labels = Resampling(NNUNETS, wanted, seen_mm, wanted_mm).labels(
        planes, logits.shape[1:]
    )
    found = np.stack(list(labels))
    assert list(planes) == []
    return found


@st.composite
def many_logits(draw):
    """Structures with even logits and noise, rounded so that many are equal."""
    shape = draw(shapes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    places = np.ix_(*(rng.integers(0, 2, size) for size in shape))
    logits = rng.normal(size=(CLASSES, 2, 2, 2))[:, *places]
    noise = draw(st.sampled_from([0.0, 0.01, 1.0]))
    step = draw(st.sampled_from([1e-6, 0.01, 1.0]))
    logits = np.round((logits + noise * rng.normal(size=logits.shape)) / step)
    largest = draw(st.sampled_from([1e-7, 1e-4, 1.0, 30.0, 6e4]))
    logits *= largest / np.abs(logits).max(initial=1.0)
    return logits.astype(draw(st.sampled_from([np.float16, np.float32])))


@examples(120)
@given(logits=many_logits(), wanted=shapes, seen_mm=spacings, wanted_mm=spacings)
def test_labels_are_those_of_the_logits_that_nnunet_resamples(
    logits, wanted, seen_mm, wanted_mm
):
    """Equal logits, subnormal ones, and ones that are equal only after rounding."""
    found = labels_by_plane(logits, wanted, seen_mm, wanted_mm)

    expected = labels_of_nnunet(logits, wanted, seen_mm, wanted_mm)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_logits_are_computed_only_beside_a_surface(axis, monkeypatch):
    """Two halves that meet between the fourth and the fifth of eight voxels."""
    logits = np.zeros((2, 8, 8, 8), dtype=np.float16)
    halves = np.moveaxis(logits[1], axis, 0)
    halves[:4], halves[4:] = -5, 5
    computed = []
    labels_at = label_planes.Between._labels_at

    def counted(plane, seen, rows, columns):
        computed.append(len(rows))
        return labels_at(plane, seen, rows, columns)

    monkeypatch.setattr(label_planes.Between, "_labels_at", counted)

    labels = labels_by_plane(logits, (16, 16, 16), (1, 1, 1), (0.5, 0.5, 0.5))

    expected = np.moveaxis(np.zeros((16, 16, 16), dtype=np.uint8), axis, 0)
    expected[8:] = 1
    np.testing.assert_array_equal(np.moveaxis(labels, axis, 0), expected)
    assert sum(computed) <= 2 * 16 * 16  # those between the two voxels


def test_where_all_logits_are_equal_the_lowest_label_is_right():
    logits = np.ones((3, 2, 3, 3), dtype=np.float16)

    labels = labels_by_plane(logits, (2, 5, 5), (3, 1, 1), (3, 0.6, 0.6))

    assert labels.max() == 0
