"""A turn moves no voxel in the patient, and back loses none; nibabel is the oracle."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.spatial.transform import Rotation

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.ops.turn import Turn, turn_towards

ORDERS = [
    "".join(order)
    for axes in permutations(["LR", "PA", "SI"])
    for order in product(*axes)
]
LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def image_of(order, *, tilt=(0, 0, 0), shape=(5, 6, 7)):
    """Return an image whose axes run as `order` says, tilted a little."""
    columns = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1)}
    columns |= {"S": (2, 1), "I": (2, -1)}
    affine = np.eye(4)
    for n, letter in enumerate(order):
        axis, sign = columns[letter]
        affine[:3, n] = 0.0
        affine[axis, n] = sign * (0.7, 0.9, 3.0)[n]
    affine[:3, :3] = Rotation.from_rotvec(tilt).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = (-40.0, 11.0, 25.0)
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    return Volume(Grid(shape, affine), voxels)


@examples(100)
@given(
    st.sampled_from(ORDERS),
    st.sampled_from(ORDERS),
    st.tuples(*[st.floats(-0.3, 0.3)] * 3),
)
def test_a_turned_image_is_the_one_that_nibabel_reorients(order, wanted, tilt):
    image = image_of(order, tilt=tilt)
    assert image.grid.axis_letters == order

    turned = Turn.between(order, wanted).volume(image)

    before = nib.Nifti1Image(image.voxels, LPS_OF_RAS @ image.grid.affine)
    codes = wanted.translate(str.maketrans("LRPASI", "LRPASI"))
    change = nib.orientations.ornt_transform(
        nib.io_orientation(before.affine), nib.orientations.axcodes2ornt(codes)
    )
    expected = before.as_reoriented(change)
    np.testing.assert_array_equal(turned.voxels, expected.get_fdata())
    np.testing.assert_allclose(LPS_OF_RAS @ turned.grid.affine, expected.affine)
    assert turned.grid.axis_letters == wanted


HALF = np.pi / 4


@examples(200)
@given(
    st.sampled_from(list(permutations(range(3)))),
    st.sets(st.integers(0, 2)),
    st.tuples(*[st.sampled_from([0.0, 1.0, HALF, -HALF]) | st.floats(-3, 3)] * 3),
)
def test_a_turn_onto_another_grid_undoes_any_order_of_axes_at_any_tilt(
    axes, flips, tilt
):
    """Also where two axes are as near to the same axis of the patient as each other."""
    image = image_of("LPS", tilt=tilt)
    swap = np.zeros((4, 4))
    swap[3, 3] = 1
    for n, axis in enumerate(axes):
        swap[axis, n] = -1 if n in flips else 1
        swap[axis, 3] = (image.grid.shape[axis] - 1) * (n in flips)
    voxels = np.flip(image.voxels.transpose(axes), tuple(flips))
    other = Volume(Grid(voxels.shape, image.grid.affine @ swap), voxels)

    turn = Turn.onto(other.grid, image.grid)

    np.testing.assert_array_equal(turn.voxels(other.voxels), image.voxels)
    assert turn.grid(other.grid).displacement_mm(image.grid) < 1e-9
    assert turn.is_none == (axes == (0, 1, 2) and not flips)


@examples(100)
@given(st.sampled_from(ORDERS), st.sampled_from(ORDERS))
def test_back_is_the_image_again(order, wanted):
    image, turn = image_of(order), Turn.between(order, wanted)

    np.testing.assert_array_equal(
        turn.voxels_back(turn.volume(image).voxels), image.voxels
    )


@pytest.mark.parametrize(
    ("order", "trained", "nearest"),
    [
        ("LPS", ["LPS"], None),
        ("LPS", ["LIP", "LPS"], None),
        ("RAS", None, None),
        ("RAS", ["LPS"], "LPS"),
        ("RAS", ["LIP", "RPS"], "RPS"),
        ("RAI", ["LIP", "PIL"], "LIP"),
    ],
)
def test_the_nearest_order_of_the_training_cases_is_taken(order, trained, nearest):
    turn = turn_towards(image_of(order).grid, trained)

    assert turn == (nearest and Turn.between(order, nearest))
