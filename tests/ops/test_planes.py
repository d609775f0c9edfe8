"""FAULTS 3.2 on plain numbers: from positions to an affine."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnunet_bridge.core.errors import GeometryError
from nnunet_bridge.core.findings import Outcome
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.ops.planes import common_orientation, place_stack

AXIAL = [1, 0, 0, 0, 1, 0]
millimetres = st.floats(0.2, 10)
positions = arrays(np.float64, 3, elements=st.floats(-500, 500))


@given(spacing=st.tuples(millimetres, millimetres), step=millimetres, start=positions)
def test_first_voxel_of_slice_k_lies_at_the_position_dicom_gives_it(
    spacing, step, start
):
    stack = start + np.outer(range(5), [0, 0, step])

    grid = Grid((7, 6, 5), place_stack(AXIAL, spacing, stack).affine)

    np.testing.assert_allclose(
        grid.to_patient([[0, 0, k] for k in range(5)]), stack, atol=1e-9
    )


def test_columns_are_spaced_by_the_second_pixel_spacing_value():
    affine = place_stack(AXIAL, [0.7, 0.5], [[0, 0, 0], [0, 0, 3]]).affine

    np.testing.assert_allclose(Grid((9, 9, 2), affine).spacing_mm, [0.5, 0.7, 3.0])


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_G03_a_missing_slice_is_refused_and_named(missing):
    stack = [[0, 0, z] for z in (0, 3, 6, 9, 12) if z != 3 * missing]

    (finding,) = place_stack(AXIAL, [1, 1], stack).findings

    assert f"Slices {missing - 1} and {missing} are 6.00 mm" in finding.message
    assert (finding.code, finding.outcome) == ("G03", Outcome.REFUSED)


def test_G03_several_gaps_are_counted():
    heights = [z for z in range(0, 60, 3) if z not in (9, 30, 33)]

    (finding,) = place_stack(AXIAL, [1, 1], [[0, 0, z] for z in heights]).findings

    assert finding.code == "G03"
    assert "3 slices are missing" in finding.message
    assert "1 more such gap" in finding.message


def test_G06_a_drift_too_small_to_see_in_any_one_gap_is_noticed():
    heights = np.cumsum(np.linspace(3.000, 3.010, 100))

    findings = place_stack(AXIAL, [1, 1], np.outer(heights, [0, 0, 1])).findings

    assert "the spacing varies" in findings[0].message


def test_D15_a_single_slice_is_not_a_volume():
    with pytest.raises(GeometryError, match="at least two slices"):
        place_stack(AXIAL, [1, 1], [[0, 0, 0]])


def test_the_common_orientation_is_orthonormal():
    orientation, findings = common_orientation([[1.0002, 0.0003, 0, 0, 1, 0]] * 3)

    row, column = orientation[:3], orientation[3:]
    np.testing.assert_allclose(
        [row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-12
    )
    assert [finding.code for finding in findings] == ["G11"]


def test_the_error_of_a_fit_is_the_distance_of_the_worst_slice():
    stack = [[0, 0, 0], [0, 0, 3.05], [0, 0, 6]]

    assert place_stack(AXIAL, [1, 1], stack).max_error_mm == pytest.approx(0.05)


def test_G06_jitter_is_named_by_its_slices_its_gap_and_the_spacing_of_the_grid():
    heights = [0.0, 3.0, 6.0, 9.2, 12.0, 15.0, 18.0]

    placement = place_stack(AXIAL, [1, 1], np.outer(heights, [0, 0, 1]))

    (finding,) = placement.findings
    assert finding.code == "G06"
    assert "Slices 2 and 3 are 3.20 mm apart, most others 3.00 mm" in finding.message
    assert "a regular grid of 3.000 mm misplaces a slice by 0.20 mm" in finding.message
    assert placement.max_error_mm == pytest.approx(0.2)


def along_z(*heights):
    return np.outer(heights, [0, 0, 1.0])


def codes(stack, pixel_spacing_mm=(1, 1)):
    placement = place_stack(AXIAL, pixel_spacing_mm, stack)
    return [finding.code for finding in placement.findings]


@pytest.mark.parametrize(
    ("spacing", "found"),
    [
        ((0.05, 0.05), []),
        ((10, 10), []),
        ((0.049, 1), ["G13"]),
        ((1, 0.049), ["G13"]),
        ((10.1, 1), ["G13"]),
        ((1, 10.1), ["G13"]),
    ],
)
def test_G13_pixels_measure_a_twentieth_of_a_millimetre_to_a_centimetre(spacing, found):
    assert codes(along_z(0, 3, 6), spacing) == found


@pytest.mark.parametrize(
    ("step", "found"), [(0.1, []), (20, []), (0.09, ["G13"]), (20.1, ["G13"])]
)
def test_G13_slices_lie_a_tenth_of_a_millimetre_to_two_centimetres_apart(step, found):
    assert codes(along_z(0, step)) == found


def test_G17_slices_at_one_place_have_no_order():
    assert codes(along_z(5, 5, 5)) == ["G17"]


@pytest.mark.parametrize(("slices", "found"), [(3, []), (4, ["G07"])])
def test_G07_a_shear_counts_over_the_whole_stack(slices, found):
    """Tolerated are 0.06 mm at slices of 3 mm; each lies 0.025 beside the one below."""
    stack = [[0.025 * k, 0, 3.0 * k] for k in range(slices)]

    assert codes(stack) == found


def test_G07_a_shear_is_told_by_its_step_angle_and_whole_length():
    (finding,) = place_stack(AXIAL, [1, 1], [[k, 0, 3 * k] for k in range(5)]).findings

    assert finding.code == "G07"
    assert "1.000 mm beside the one before (18.4 degrees, 4.00 mm" in finding.message


@pytest.mark.parametrize(
    ("code", "heights"),
    [
        ("G06", [0, 2, 4, 7, 9, 11]),  # a gap of one and a half
        ("G03", [0, 2, 4, 7.1, 9.1, 11.1]),
        ("G03", [0, 3, 6, 12, 15, 18, 21, 27, 30]),  # a quarter of holes
        ("G06", [0, 3, 9, 12, 18, 21, 27]),
        ("G03", [0, 10, 20, 31, 51]),  # gaps beside a hole may differ by a tenth
        ("G06", [0, 10, 20, 31.1, 51.1]),
    ],
)
def test_G03_G06_a_stack_has_holes_or_is_uneven(code, heights):
    assert codes(along_z(*heights)) == [code]


def test_D10_two_stacks_that_overlap_off_one_grid_are_named():
    lower, upper = np.arange(0, 45, 4.0), np.arange(31, 75, 4.0)

    assert codes(along_z(*sorted([*lower, *upper]))) == ["D10"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (0.9e-4, []),
        (1.5e-4, [("G10", Outcome.WARNED)]),
        (1.9e-3, [("G10", Outcome.WARNED)]),
        (2.1e-3, [("G10", Outcome.REFUSED)]),
    ],
)
def test_G10_slices_are_as_parallel_as_their_cosines_are_equal(change, found):
    turned = [np.cos(change), np.sin(change), 0, -np.sin(change), np.cos(change), 0]

    _, findings = common_orientation([AXIAL, AXIAL, turned])

    assert [(f.code, f.outcome) for f in findings] == found


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (0.9e-5, []),
        (1.1e-5, [Outcome.FIXED]),
        (0.9e-3, [Outcome.FIXED]),
        (1.1e-3, [Outcome.REFUSED]),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 3, 4])
def test_G11_cosines_are_corrected_if_they_are_nearly_directions(place, error, found):
    skewed = np.array(AXIAL, float)
    skewed[place] += error

    _, findings = common_orientation([skewed] * 3)

    assert [f.outcome for f in findings if f.code == "G11"] == found


def test_G06_the_usual_gap_is_the_median_and_of_two_the_smaller():
    def usual(*gaps):
        stack = along_z(*np.cumsum([0, *gaps]))
        (finding,) = place_stack(AXIAL, [1, 1], stack).findings
        return finding.message.partition("most others ")[2][:7]

    assert usual(2.8, 2.8, 3.0, 3.2, 3.4) == "3.00 mm"
    assert usual(2.8, 3.0, 3.2, 3.4) == "3.00 mm"
