"""Masks find their scans by grid, then by folder, then by names."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.formats.vocabulary import read_vocabulary
from nnunet_bridge.ops.pairing import Drawing, Place, ScanNames, pair_all

SHAPE = (8, 6, 4)


def grid(number=0, shape=SHAPE):
    affine = np.diag([1.0, 1.5, 3.0, 1.0])
    affine[:3, 3] = 10 * number, -5, 2
    return Grid(shape, affine)


def scan(path, number=0):
    parts = tuple(path.split("/"))
    return ScanNames((parts,), (Place.of_grid(grid(number)),), (parts,))


def paired(masks, scans):
    drawings = [Drawing(tuple(path.split("/")), own) for path, own in masks]
    split = read_vocabulary().identifying_words
    return [pair.scan for pair in pair_all(drawings, scans, split)]


def test_a_grid_of_its_own_decides_before_the_names():
    scans = [scan("scans/P01", 1), scan("scans/P02", 2)]

    assert paired([("masks/P01_femur", grid(2))], scans) == [1]


def test_a_scan_is_told_apart_by_its_grid_only_where_there_are_others():
    drawings = [Drawing(("masks", "P01_femur"), grid(1))]
    scans, split = [scan("s/P01", 1), scan("s/P02", 2)], read_vocabulary()

    (alone,) = pair_all(drawings, scans[:1], split.identifying_words)
    (among,) = pair_all(drawings, scans, split.identifying_words)

    assert (alone.why, among.why) == ("the only scan", "same grid")


def test_a_grid_that_all_scans_share_is_no_evidence():
    scans = [scan("scans/P01"), scan("scans/P02")]

    assert paired([("masks/P02_femur", grid())], scans) == [1]
    assert paired([("masks/femur", grid())], scans) == [None]


def test_the_folder_of_a_patient_goes_before_names():
    scans = [scan("P01/dicom"), scan("P02/dicom")]

    assert paired([("P01/femur_2", grid())], scans) == [0]


def test_a_stray_scan_in_the_folder_of_all_masks_does_not_attract_them():
    stray = ScanNames((("masks", "anna"),), (None,), (("masks",),))
    scans = [scan("scans/P01"), scan("scans/P02"), stray]

    assert paired([("masks/P01_femur", None), ("masks/P02_femur", None)], scans) == [
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("scans", "masks"),
    [
        (("P01", "P02"), ("p1", "p002")),
        (("KNEE-101", "KNEE-102"), ("leftFemurKnee101", "leftFemurKnee102")),
        (("sub-01_ses-2", "sub-02_ses-1"), ("sub-1_ses-02", "sub-2_ses-01")),
        (("anna", "bert"), ("Femur_Anna", "Femur_Bert")),
        (("Patient 1/T1 Dixon", "Patient 2/T1 Dixon"), ("P01", "P02")),
        (("1_X_650_1B", "8_X_650_1B"), ("1_L2_1B", "8_L2_1B")),
        (("2_X_3D", "3_X_2D"), ("2_femur_3D", "3_femur_2D")),
    ],
)
def test_numbers_and_words_of_names_are_compared(scans, masks):
    found = paired(
        [(f"masks/{name}", None) for name in masks], [scan(f"s/{s}") for s in scans]
    )

    assert found == [0, 1]


def test_K17_a_name_with_half_of_a_scan_and_half_of_another_is_not_placed():
    scans = [scan(f"s/{n}_X_{n}{code}") for n, code in enumerate("ABCD", start=1)]
    whole = [(f"m/{n}_femur_{n}{code}", None) for n, code in enumerate("ABCD", start=1)]

    assert paired([*whole, ("m/2_tibia_3C", None)], scans)[-1] is None


@examples(100)
@given(
    axes=st.permutations(range(3)),
    flips=st.tuples(*[st.booleans()] * 3),
    slices=st.booleans(),
    away=st.sampled_from([0.0, 0.02, 0.6, 1.0]),
)
def test_slices_lie_on_a_grid_in_any_order_of_its_axes(axes, flips, slices, away):
    """The same voxels, stored in another order; or moved by a part of a voxel."""
    whole = grid()
    affine, shape = whole.affine.copy(), list(whole.shape)
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
            affine[:3, axis] *= -1
    order = list(axes)
    affine[:, :3] = affine[:, order]
    affine[:3, 3] += away * affine[:3, 0]
    stored = Grid(tuple(shape[axis] for axis in order), affine)
    corners = [[[0, 0, k], [SHAPE[0] - 1, SHAPE[1] - 1, k]] for k in range(SHAPE[2])]
    place = Place(SHAPE[:2], SHAPE[2] * slices, whole.to_patient(corners))

    assert place.lies_on(stored) == (away < 0.1)


def test_a_stack_of_another_length_is_another_grid():
    corners = grid().to_patient([[[0, 0, 1], [7, 5, 1]]])

    assert Place(SHAPE[:2], SHAPE[2], corners).lies_on(grid())
    assert not Place(SHAPE[:2], SHAPE[2], corners).lies_on(grid(shape=(8, 6, 5)))
    assert not Place(SHAPE[:2], SHAPE[2] - 1, corners).lies_on(grid())
