"""Surfaces: in the right place, closed, turned outwards, on any grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy import ndimage
from skimage.measure import marching_cubes

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.core.mesh import Mesh
from nnunet_bridge.ops.surface import (
    decimated,
    is_watertight,
    smoothed,
    surface_in,
    surfaces_of,
)

TABLE = LabelTable.from_names(["tibia", "femur"])
TIBIA, FEMUR = TABLE


def surface_of(labelmap, label):
    return surfaces_of(labelmap)[label.name]


def oblique(seed, *, mirrored=False):
    """Return an affine turned at random, with 0.8 x 0.9 x 2 mm voxels."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn[:, 0] *= np.sign(np.linalg.det(turn)) * (-1 if mirrored else 1)
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.8, 0.9, 2.0]
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    return affine


def ellipsoid(shape=(40, 36, 30)):
    i, j, k = np.indices(shape)
    inside = ((i - 19) / 12) ** 2 + ((j - 16) / 10) ** 2 + ((k - 14) / 9) ** 2 < 1
    return inside.astype(np.uint8)


def labelmap(voxels, affine=None):
    grid = Grid(voxels.shape, np.eye(4) if affine is None else affine)
    return Labelmap(grid, voxels.astype(np.uint8), TABLE)


@examples(200)
@given(seed=st.integers(0, 10_000), mirrored=st.booleans())
def test_M05_faces_turn_outwards_on_every_grid(seed, mirrored):
    rng = np.random.default_rng(seed)
    voxels = rng.random((6, 5, 4)) < rng.uniform(0.05, 0.9)
    one = labelmap(voxels, oblique(seed, mirrored=mirrored))

    mesh = surface_of(one, TIBIA)

    if voxels.any():
        assert mesh.volume_mm3 > 0
    else:
        assert mesh is None


@pytest.mark.parametrize("signs", list(np.ndindex(2, 2, 2)))
def test_M05_all_eight_combinations_of_signs_enclose_the_same_volume(signs):
    affine = np.diag([*(np.array([0.8, 0.9, 2.0]) * (1 - 2 * np.array(signs))), 1.0])

    mesh = surface_of(labelmap(ellipsoid(), affine), TIBIA)

    assert mesh.volume_mm3 == pytest.approx(
        surface_of(labelmap(ellipsoid(), abs(affine)), TIBIA).volume_mm3
    )


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_middle_of_a_mesh_is_that_of_its_voxels(seed, mirrored):
    trimesh = pytest.importorskip("trimesh")
    voxels = ellipsoid()
    one = labelmap(voxels, oblique(seed, mirrored=mirrored))
    mesh = surface_of(one, TIBIA)

    body = trimesh.Trimesh(mesh.vertices_mm, mesh.faces, process=False)

    expected = one.grid.to_patient(np.argwhere(voxels).mean(axis=0))
    assert np.linalg.norm(body.center_mass - expected) < 0.05
    assert body.is_watertight
    assert mesh.watertight
    assert mesh.volume_mm3 == pytest.approx(body.volume)


@pytest.mark.parametrize("order", ["C", "F"])
def test_M07_the_surface_of_the_box_is_bit_for_bit_that_of_the_volume(order):
    rng = np.random.default_rng(0)
    voxels = ndimage.gaussian_filter(rng.normal(size=(50, 40, 30)), 2) > 0.05
    voxels = np.pad(voxels, ((40, 3), (0, 20), (9, 1))).copy(order=order)
    affine = oblique(3)
    one = labelmap(voxels, affine)

    mesh = surface_of(one, TIBIA)

    vertices, faces, _, _ = marching_cubes(np.pad(voxels, 1).astype(np.float32), 0.5)
    whole = one.grid.to_patient(vertices.astype(np.float64) - 1)
    np.testing.assert_array_equal(mesh.vertices_mm, whole)
    np.testing.assert_array_equal(mesh.faces, faces[:, ::-1])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 10, 10), (5, 5, 5)])
def test_M04_a_structure_that_fills_its_image_is_closed_and_says_that_it_may_go_on(
    shape,
):
    mesh = surface_of(labelmap(np.ones(shape)), TIBIA)

    assert mesh.watertight
    assert mesh.touches_border


def test_a_structure_inside_does_not_touch_the_border():
    assert not surface_of(labelmap(ellipsoid()), TIBIA).touches_border


def test_M03_a_structure_that_is_absent_has_no_surface():
    assert surface_of(labelmap(ellipsoid()), FEMUR) is None
    assert surfaces_of(labelmap(np.zeros((3, 3, 3)))) == {"tibia": None, "femur": None}


def test_a_box_of_another_structure_is_refused():
    with pytest.raises(InputError, match="femur"):
        surface_in(labelmap(ellipsoid()), FEMUR, (slice(0, 5),) * 3)


def test_a_sphere_has_the_volume_of_a_sphere():
    distance = np.sqrt(((np.indices((50, 50, 50)) - 24.5) ** 2).sum(axis=0))

    mesh = surface_of(labelmap(distance < 20), TIBIA)

    assert mesh.volume_mm3 == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.03)


def test_smoothing_is_taubins_and_keeps_the_volume_within_two_percent():
    trimesh = pytest.importorskip("trimesh")
    mesh = surface_of(labelmap(ellipsoid(), oblique(1)), TIBIA)
    body = trimesh.Trimesh(mesh.vertices_mm.copy(), mesh.faces, process=False)
    trimesh.smoothing.filter_taubin(body, lamb=0.5, nu=0.53, iterations=20)

    smooth = smoothed(mesh, 10)

    np.testing.assert_allclose(smooth.vertices_mm, body.vertices, atol=1e-9)
    assert smooth.volume_mm3 == pytest.approx(mesh.volume_mm3, rel=0.02)
    assert smooth.watertight == mesh.watertight


def test_no_iteration_of_smoothing_changes_nothing():
    mesh = surface_of(labelmap(ellipsoid()), TIBIA)

    assert smoothed(mesh, 0) is mesh
    with pytest.raises(InputError):
        smoothed(mesh, -1)


@pytest.mark.parametrize("seed", range(40))
def test_watertight_means_that_every_edge_has_two_faces(seed):
    rng = np.random.default_rng(seed)
    mesh = surface_of(labelmap(rng.random((6, 6, 6)) < rng.uniform(0.1, 0.9)), TIBIA)
    faces = mesh.faces[rng.permutation(len(mesh.faces))[: len(mesh.faces) - seed % 3]]
    edges = np.sort(
        np.concatenate([faces[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    )
    _, counts = np.unique(edges, axis=0, return_counts=True)

    assert is_watertight(faces) == bool((counts == 2).all())


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("faces", [400, 1000])
def test_a_decimated_surface_stays_closed_and_in_its_place(faces, mirrored):
    whole = surface_of(labelmap(ellipsoid(), oblique(3, mirrored=mirrored)), TIBIA)

    thin = decimated(whole, faces)

    assert len(thin.faces) <= faces < len(whole.faces)
    assert thin.watertight
    assert thin.volume_mm3 == pytest.approx(whole.volume_mm3, rel=0.03)
    centre, thinned = whole.vertices_mm.mean(axis=0), thin.vertices_mm.mean(axis=0)
    assert np.linalg.norm(centre - thinned) < 0.5


def test_a_surface_with_few_faces_is_left_as_it_is():
    whole = surface_of(labelmap(ellipsoid()), TIBIA)

    assert decimated(whole, len(whole.faces)) is whole


def test_a_closed_surface_has_at_least_four_faces():
    with pytest.raises(InputError, match="at least 4 faces, not 3"):
        decimated(surface_of(labelmap(ellipsoid()), TIBIA), 3)


def test_a_structure_has_the_surface_of_its_own_voxels():
    voxels = np.zeros((12, 10, 8), np.uint8)
    voxels[2:4, 2:4, 2:4], voxels[6:9, 5:8, 3:6] = 1, 2
    both = labelmap(voxels)

    for label, middle in ((TIBIA, 2.5), (FEMUR, 7.0)):
        mesh = surface_of(both, label)
        assert mesh.label is label
        assert mesh.vertices_mm[:, 0].mean() == pytest.approx(middle)
        alone = surface_of(labelmap(np.where(voxels == label.value, voxels, 0)), label)
        np.testing.assert_array_equal(mesh.vertices_mm, alone.vertices_mm)


def test_an_open_surface_is_smoothed_by_the_neighbours_along_its_edges():
    """A square of two triangles: its corners have two or three neighbours."""
    corners = np.array([[0, 0, 0], [4, 0, 0], [4, 4, 1], [0, 4, 0]], float)
    square = Mesh(
        corners, np.array([[0, 1, 2], [0, 2, 3]], np.int32), TIBIA,
        watertight=False, touches_border=True,
    )  # fmt: skip
    neighbours = {0: [1, 2, 3], 1: [0, 2], 2: [0, 1, 3], 3: [0, 2]}
    expected = corners
    for step in (0.5, -0.53):
        means = np.array([expected[neighbours[n]].mean(axis=0) for n in range(4)])
        expected = expected + step * (means - expected)

    np.testing.assert_allclose(smoothed(square, 1).vertices_mm, expected)
