"""Solids in closed form: their distances where geometry gives them exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_bridge.ops.solids import FAR_MM, Loft, ball, tube, union, within

RNG = np.random.default_rng(3)
POINTS = RNG.uniform(-60, 60, (200, 3))
CYLINDER = Loft((-20, 0, 40), (5, 5, 5), (-3, -3, -3), (9, 9, 9), (9, 9, 9))
distances = st.floats(-30, 30)


def test_the_distance_to_a_sphere_is_that_to_its_centre_less_the_radius():
    found = ball(POINTS, (4, -2, 7), 15.0)

    expected = np.linalg.norm(POINTS - [4, -2, 7], axis=1) - 15
    np.testing.assert_allclose(found, expected)


def test_an_ellipsoid_has_distance_0_on_its_surface_and_slope_1_across_it():
    radii = np.array([10.0, 20.0, 5.0])
    unit = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
    normals = unit / radii
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)

    np.testing.assert_allclose(ball(unit * radii, 0, radii), 0, atol=1e-9)
    outside = ball(unit * radii + 1e-4 * normals, 0, radii)
    np.testing.assert_allclose(outside, 1e-4, rtol=1e-3)


def test_a_straight_tube_is_a_capsule_whatever_number_of_stations_it_has():
    start, end = np.array([0.0, 0, -30]), np.array([6.0, 8, 30])
    along = (end - start) / np.linalg.norm(end - start)
    height = np.clip((POINTS - start) @ along, 0, np.linalg.norm(end - start))
    axis = start + height[:, None] * along
    expected = np.linalg.norm(POINTS - axis, axis=1) - 4

    found = tube(POINTS, [[*start, 4], [*end, 4]])

    np.testing.assert_allclose(found, expected)


def test_the_radius_of_a_tube_changes_evenly_between_two_stations():
    beside = np.array([[20.0, 0, 0], [20, 0, 5], [20, 0, 10]])

    found = tube(beside, [[0, 0, 0, 2], [0, 0, 10, 6]])

    np.testing.assert_allclose(found, [18, 16, 14])


@given(one=distances, other=distances, blend_mm=st.floats(0.5, 20))
def test_a_union_is_the_nearest_part_with_a_fillet_where_both_are_as_near(
    one, other, blend_mm
):
    (found,) = union((np.array([one]), np.array([other])), blend_mm=blend_mm)

    assert min(one, other) - blend_mm / 4 <= found + 1e-9
    assert found <= min(one, other)
    if abs(one - other) >= blend_mm:
        assert found == min(one, other)


def test_a_fillet_is_deepest_between_the_parts_and_a_quarter_of_it_half_way_out():
    parts = np.array([0.0, 0.0]), np.array([0.0, 4.0])

    np.testing.assert_allclose(union(parts, blend_mm=8.0), [-2, -0.5])


def test_a_loft_of_equal_circles_is_a_cylinder_with_flat_ends():
    from_axis = np.linalg.norm(POINTS[:, :2] - [5, -3], axis=1) - 9
    beyond = np.abs(POINTS[:, 2] - 10) - 30

    found = CYLINDER.distance(POINTS)

    np.testing.assert_allclose(found, np.maximum(from_axis, beyond))


@pytest.mark.parametrize("power", [2.0, 4.0])
def test_the_section_of_a_loft_is_a_superellipse(power):
    loft = Loft((-9, 9), (0, 0), (0, 0), (12, 12), (6, 6), squareness=power)
    angles = np.linspace(0, 2 * np.pi, 40)
    x = 12 * np.sign(np.cos(angles)) * np.abs(np.cos(angles)) ** (2 / power)
    y = 6 * np.sign(np.sin(angles)) * np.abs(np.sin(angles)) ** (2 / power)

    found = loft.distance(np.stack([x, y, np.zeros(40)], axis=1))

    np.testing.assert_allclose(found, 0, atol=1e-9)


def test_a_crest_has_three_edges_of_which_one_points_forwards():
    loft = Loft((-9, 9), (0, 0), (0, 0), (10, 10), (10, 10), crest=0.2)
    angles = np.radians([0, 120, 240, 60, 180, 300])
    forwards = np.stack([np.sin(angles), -np.cos(angles), 0 * angles], axis=1)

    radii = np.array([12.0, 12, 12, 8, 8, 8])

    np.testing.assert_allclose(loft.distance(forwards * radii[:, None]), 0, atol=1e-9)


def test_a_solid_is_asked_only_inside_its_box():
    box = [[-10, -20, -30], [10, 20, 30]]
    inside = (np.abs(POINTS) < [10, 20, 30]).all(axis=1)

    found = within(lambda points: points[:, 2], POINTS, box)

    np.testing.assert_array_equal(found, np.where(inside, POINTS[:, 2], FAR_MM))
    assert inside.any()
