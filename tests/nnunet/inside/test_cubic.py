"""Images are resampled as scikit-image does, and labels that nobody needs are not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from nnunet_bridge.nnunet.inside.cubic import resized

OPTIONS = {"mode": "edge", "anti_aliasing": False}
SIZES = st.integers(1, 24)


@given(
    sizes=st.lists(st.tuples(SIZES, SIZES), min_size=2, max_size=3),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-3, 1.0, 4000.0]),
)
@settings(max_examples=150, deadline=None)
def test_a_resized_image_equals_that_of_scikit_image(sizes, seed, scale):
    shape, wanted = zip(*sizes, strict=True)
    image = scale * np.random.default_rng(seed).normal(size=shape)

    ours, theirs = (f(image, wanted, 3, **OPTIONS) for f in (resized, resize))

    np.testing.assert_allclose(
        ours, theirs, rtol=0, atol=1e-13 * np.ptp(image) + 1e-300
    )
    assert ours.min() >= image.min()  # a cubic overshoots at edges
    assert ours.max() <= image.max()


def test_in_single_precision_hardly_a_voxel_differs():
    image = np.random.default_rng(0).normal(size=(60, 90, 70)).astype(np.float32)

    ours, theirs = (
        f(image.astype(float), (53, 101, 62), 3, **OPTIONS).astype(np.float32)
        for f in (resized, resize)
    )

    assert np.count_nonzero(ours != theirs) <= 1


@pytest.mark.parametrize(("order", "mode"), [(1, "edge"), (0, "edge"), (3, "reflect")])
def test_other_rules_are_those_of_scikit_image(order, mode):
    image = np.random.default_rng(0).normal(size=(9, 8, 7))

    found = resized(image, (5, 12, 7), order, mode=mode, anti_aliasing=False)

    whole = resize(image, (5, 12, 7), order, mode=mode, anti_aliasing=False)
    assert np.array_equal(found, whole)
