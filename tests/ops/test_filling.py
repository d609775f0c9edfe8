"""Surfaces become voxels: held against closed forms, and against membership itself."""

import laws
import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.ops.filling import filled, filled_outlines

SOLIDS = {
    "sphere": (trimesh.creation.icosphere(5, radius=25), 4 / 3 * np.pi * 25**3),
    "ellipsoid": (
        trimesh.creation.icosphere(5, radius=1).apply_scale([15, 22, 34]),
        4 / 3 * np.pi * 15 * 22 * 34,
    ),
    "torus": (
        trimesh.creation.torus(25, 11, major_sections=128, minor_sections=128),
        2 * np.pi**2 * 25 * 11**2,
    ),
    "cylinder": (
        trimesh.creation.cylinder(18, 60, sections=256),
        np.pi * 18**2 * 60,
    ),
    "box": (trimesh.creation.box([24, 36, 60]), 24 * 36 * 60),
}
ANY_TURN = st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3)
# A face that lies in the plane of a slice moves the volume by a whole slice, rightly;
# examples that are drawn at random never have one, examples made smaller do.
CHANCE = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).random(9))
PLACES = st.tuples(*[st.floats(-3, 3)] * 3)


def turn(numbers):
    return trimesh.transformations.random_rotation_matrix(np.array(numbers))


def grid_of(spacing, turned, around):
    affine = turn(turned) @ np.diag([*spacing, 1])
    size = np.ceil(96 / np.array(spacing)).astype(int)
    affine[:3, 3] = around - affine[:3, :3] @ ((size - 1) / 2)
    return Grid(tuple(int(n) for n in size), affine)


@pytest.mark.parametrize(
    ("spacing", "within"),
    [((1, 1, 1), 0.005), ((1, 1, 3), 0.02), ((0.9, 0.9, 3), 0.02)],
)
@pytest.mark.parametrize("name", SOLIDS)
@laws.examples(8)
@given(chance=CHANCE)
def test_the_volume_is_that_of_the_closed_form(name, spacing, within, chance):
    solid, volume = SOLIDS[name]
    grid = grid_of(spacing, chance[:3], [-40, 30, 900])
    points = trimesh.transform_points(solid.vertices, turn(chance[3:6]))
    places = grid.to_voxel(points + [-40, 30, 900] + chance[6:] * 6 - 3)

    filling = filled(grid.shape, places, solid.faces)

    assert filling.twisted == 0
    assert filling.count == np.count_nonzero(filling.voxels)
    assert filling.count * grid.voxel_volume_mm3 == pytest.approx(volume, rel=within)


@laws.examples(20)
@given(oblique=ANY_TURN, off=PLACES, inwards=st.booleans())
def test_every_centre_is_on_the_side_that_its_distance_says(oblique, off, inwards):
    solid, _ = SOLIDS["sphere"]
    grid = grid_of((1.5, 2, 3), oblique, [0, 0, 0])
    faces = solid.faces[:, ::-1] if inwards else solid.faces

    filling = filled(grid.shape, grid.to_voxel(solid.vertices + np.array(off)), faces)

    indices = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    distance = np.linalg.norm(grid.to_patient(indices) - off, axis=-1) - 25
    sure = np.abs(distance) > 0.05  # the triangles lie up to 0.02 mm inside the sphere
    np.testing.assert_array_equal(filling.voxels[sure], distance[sure] < 0)
    assert filling.voxels.flags.f_contiguous


@laws.examples(40)
@given(low=st.integers(-4, 6), size=st.integers(1, 12), axis=st.integers(0, 2))
def test_bodies_that_share_a_face_through_voxel_centres_share_no_voxel(low, size, axis):
    box = trimesh.creation.box(bounds=[[0, 0, 0], [4, 4, 4]])
    first = np.array(box.vertices)
    first[:, axis] = low + first[:, axis] / 4 * size
    second = first.copy()
    second[:, axis] += size

    one, other = (filled((20, 20, 20), v, box.faces) for v in (first, second))

    assert one.count == other.count == 4 * 4 * size
    assert not (one.voxels & other.voxels).any()


def test_a_cavity_is_empty_and_a_part_beyond_the_image_is_counted():
    outer, inner = trimesh.creation.icosphere(4, 9), trimesh.creation.icosphere(4, 5)
    points = np.concatenate([outer.vertices, inner.vertices])
    hole = inner.faces[:, ::-1] + len(outer.vertices)
    faces = np.concatenate([outer.faces, hole])

    filling = filled((20, 20, 10), points + 9.3, faces)

    assert not filling.voxels[9, 9, 9]
    assert filling.voxels[2, 9, 9]
    assert filling.twisted == 0
    volume = 4 / 3 * np.pi * (9**3 - 5**3)
    assert filling.count == pytest.approx(volume, rel=0.02)
    assert np.count_nonzero(filling.voxels) < 0.6 * filling.count


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("begin", "end"), [(-3.5, 6.5), (1.5, 8.5), (1.5, 11.5)])
def test_a_body_that_reaches_beyond_the_image_fills_it_to_its_edge(axis, begin, end):
    low, high = np.full(3, 1.5), np.full(3, 6.5)
    low[axis], high[axis] = begin, end
    box = trimesh.creation.box(bounds=[low, high])

    filling = filled((9, 9, 9), box.vertices, box.faces)

    expected = np.zeros((9, 9, 9), bool)
    within = [slice(2, 7)] * 3
    within[axis] = slice(max(0, round(begin + 0.5)), round(end + 0.5))
    expected[tuple(within)] = True
    np.testing.assert_array_equal(filling.voxels, expected)
    assert filling.count == 5 * 5 * (end - begin)


def test_spheres_that_cross_and_tubes_turned_inside_out_are_noticed():
    ball = trimesh.creation.icosphere(3, 8)
    points = np.concatenate([ball.vertices, ball.vertices + np.array([9, 0, 0])])
    crossing = np.concatenate([ball.faces, ball.faces + len(ball.vertices)])

    both = filled((40, 30, 30), points + 12, crossing)
    dented = ball.vertices * np.where(ball.vertices[:, :1] > 4, [-1.8, 1, 1], 1)

    assert both.twisted > 100
    assert filled((30, 30, 30), dented + 14, ball.faces).twisted > 20


def test_a_surface_of_countless_layers_is_refused_before_it_is_filled():
    faces = np.tile([[0, 1, 2], [0, 2, 1]], (40_000, 1))
    points = np.array([[0.5, 0, 0], [0.5, 90, 0], [0.5, 0, 90]])

    with pytest.raises(InputError, match="layers"):
        filled((100, 100, 100), points, faces)


@laws.examples(40)
@given(
    centre=st.tuples(*[st.floats(18, 22)] * 2),
    radius=st.floats(6, 15),
    hole=st.floats(0.2, 0.7),
)
def test_outlines_fill_even_odd_and_rings_have_holes(centre, radius, hole):
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rings = [circle * radius + centre, circle[::-1] * radius * hole + centre]
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])

    inside = filled_outlines((40, 40, 3), starts, ends, np.full(400, 1))

    i, j = np.meshgrid(np.arange(40), np.arange(40), indexing="ij")
    away = np.hypot(i - centre[0], j - centre[1])
    sure = (np.abs(away - radius) > 0.01) & (np.abs(away - hole * radius) > 0.01)
    expected = (away < radius) & (away > hole * radius)
    np.testing.assert_array_equal(inside[:, :, 1][sure], expected[sure])
    assert not inside[:, :, [0, 2]].any()
