"""Mesh files: read back by others as they were, in the frame that they name."""

import re
from pathlib import Path

import numpy as np
import pytest
import trimesh

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Label, Labelmap, LabelTable
from nnunet_bridge.core.mesh import Mesh
from nnunet_bridge.core.version import __version__
from nnunet_bridge.formats.mesh_files import (
    MeshFileOptions,
    file_stems,
    write_mesh_files,
    write_obj,
    write_ply,
    write_stl,
)
from nnunet_bridge.ops.surface import surfaces_of

TABLE = LabelTable.from_names(["tibia", "femur"])
WRITERS = {"ply": write_ply, "stl": write_stl, "obj": write_obj}


@pytest.fixture
def meshes():
    """Return the surfaces of two bodies on an oblique grid."""
    voxels = np.zeros((20, 18, 16), np.uint8)
    voxels[3:9, 4:12, 2:9] = 1
    voxels[11:18, 5:9, 3:14] = 2
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.8, 0.9, 2.0]
    affine[:3, 3] = [-120.0, 45.0, -900.0]
    return list(
        surfaces_of(Labelmap(Grid(voxels.shape, affine), voxels, TABLE)).values()
    )


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("frame", "signs"), [("LPS", (1, 1, 1)), ("RAS", (-1, -1, 1))])
def test_another_reader_finds_the_same_surface(tmp_path, meshes, kind, frame, signs):
    file = tmp_path / f"one.{kind}"
    WRITERS[kind](file, meshes[:1], frame=frame)

    body = trimesh.load_mesh(file, process=False)

    ours = meshes[0].vertices_mm * signs
    np.testing.assert_allclose(
        body.triangles, ours[meshes[0].faces], atol=1e-3 if kind == "obj" else 1e-4
    )
    assert body.volume == pytest.approx(meshes[0].volume_mm3, rel=1e-4)


def test_a_ply_reads_back_with_vertices_faces_and_colours(tmp_path, meshes):
    write_ply(tmp_path / "all.ply", meshes)

    body = trimesh.load_mesh(tmp_path / "all.ply", process=False)

    first = len(meshes[0].vertices_mm)
    np.testing.assert_array_equal(
        body.vertices[:first], meshes[0].vertices_mm.astype(np.float32)
    )
    np.testing.assert_array_equal(
        body.faces[len(meshes[0].faces) :] - first, meshes[1].faces
    )
    colours = body.visual.vertex_colors[:, :3]
    assert (colours[:first] == TABLE["tibia"].colour).all()
    assert (colours[first:] == TABLE["femur"].colour).all()
    assert len(body.split()) == 2


@pytest.mark.parametrize("kind", WRITERS)
def test_M09_a_file_names_frame_unit_structure_and_software_and_nothing_else(
    tmp_path, meshes, kind
):
    WRITERS[kind](tmp_path / f"x.{kind}", meshes[:1], frame="RAS")

    head = (tmp_path / f"x.{kind}").read_bytes()[:300].decode("latin-1")

    remarks = {
        "ply": re.findall(r"^comment (.*)$", head, re.MULTILINE),
        "obj": re.findall(r"^# (.*)$", head, re.MULTILINE),
        "stl": head[:80].rstrip("\0 ").split("; "),  # not "solid": that would be text
    }
    software = f"nnunet-bridge {__version__}"
    assert remarks[kind] == [software, "frame RAS", "unit mm", "structure tibia"]


def test_every_structure_has_a_file_and_all_have_one_together(tmp_path, meshes):
    files = write_mesh_files(tmp_path, meshes)

    assert {path.name for path in tmp_path.iterdir()} == {
        "tibia.ply",
        "femur.ply",
        "all.ply",
    }
    assert files["femur"] == tmp_path / "femur.ply"


def test_opensim_calls_sides_by_one_letter(tmp_path, meshes):
    names = ["femur_left", "femur_right", "pelvis", "sacrum_middle"]
    named = [
        Mesh(meshes[0].vertices_mm, meshes[0].faces, label, True, False)
        for label in LabelTable.from_names(names)
    ]

    files = write_mesh_files(
        tmp_path, named, MeshFileOptions(names="opensim", file_format="stl")
    )

    assert [files[name].name for name in names] == [
        "femur_l.stl",
        "femur_r.stl",
        "pelvis.stl",
        "sacrum_middle.stl",
    ]


def test_names_that_become_the_same_in_opensim_get_different_files(tmp_path, meshes):
    named = [
        Mesh(meshes[0].vertices_mm, meshes[0].faces, label, True, False)
        for label in LabelTable.from_names(["femur_left", "femur_l"])
    ]

    files = write_mesh_files(tmp_path, named, MeshFileOptions(names="opensim"))

    assert files["femur_left"] != files["femur_l"]


def test_nothing_is_written_for_no_mesh(tmp_path):
    assert write_mesh_files(tmp_path / "meshes", []) == {}
    assert not (tmp_path / "meshes").exists()


def test_writing_again_leaves_the_files_alone(tmp_path, meshes):
    files = write_mesh_files(tmp_path, meshes)
    before = {name: path.stat().st_mtime_ns for name, path in files.items()}

    write_mesh_files(tmp_path, meshes)

    assert {n: p.stat().st_mtime_ns for n, p in files.items()} == before


def test_a_name_that_points_elsewhere_stays_in_the_folder(tmp_path, meshes):
    evil = Label(1, "../../evil\nend_header", (1, 2, 3))
    mesh = Mesh(meshes[0].vertices_mm, meshes[0].faces, evil, True, False)

    files = write_mesh_files(tmp_path / "out", [mesh])

    assert all(path.parent == tmp_path / "out" for path in files.values())
    body = trimesh.load_mesh(files[evil.name], process=False)
    assert len(body.faces) == len(mesh.faces)


def test_names_that_one_file_system_takes_for_the_same_get_different_files():
    stems = file_stems(["tibia", "Tibia", "tib/ia", "tib ia", "", "all"])

    assert len({stem.lower() for stem in stems}) == 6
    assert "all" not in stems


@pytest.mark.parametrize(
    "options", [{"frame": "LAS"}, {"file_format": "vtk"}, {"names": "stapl"}]
)
def test_unknown_words_are_refused(options):
    with pytest.raises(UsageError, match="choose"):
        MeshFileOptions(**options)


def test_a_file_that_cannot_be_compared_is_written(tmp_path, meshes, monkeypatch):
    file = tmp_path / "tibia.ply"
    write_ply(file, meshes[:1])
    before = file.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", _denied)
        write_ply(file, meshes[:1])

    assert file.stat().st_mtime_ns != before


def _denied(file):
    raise PermissionError(13, "Permission denied", str(file))


@pytest.mark.parametrize("kind", ["ply", "stl", "obj"])
def test_meshio_reads_the_same_points_and_triangles(tmp_path, meshes, kind):
    """A second reader that shares no code with trimesh."""
    import meshio

    files = write_mesh_files(tmp_path, meshes, MeshFileOptions(file_format=kind))

    for mesh in meshes:
        read = meshio.read(files[mesh.label.name])
        corners = read.points[read.cells_dict["triangle"]][..., :3]  # then colours
        expected = mesh.vertices_mm[mesh.faces]
        np.testing.assert_allclose(corners, expected, atol=1e-3)
