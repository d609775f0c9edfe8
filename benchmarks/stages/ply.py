"""Write coloured meshes as binary PLY; trimesh is 1."""

from pathlib import Path
from typing import TypeAlias

import numpy as np
from limb import Limb
from race import Contender, Facts, Stage, equal, sha256

from nnunet_bridge.core.mesh import Mesh
from nnunet_bridge.formats.mesh_files import write_ply
from nnunet_bridge.ops.surface import surfaces_of

Meshes: TypeAlias = list[Mesh]


def _prepare(limb: Limb, _: Path) -> Meshes:
    return [mesh for mesh in surfaces_of(limb.reference).values() if mesh]


def _trimesh(meshes: Meshes, folder: Path) -> list[Path]:
    import trimesh

    files = []
    for mesh in meshes:
        colours = np.empty((len(mesh.vertices_mm), 4), dtype=np.uint8)
        colours[:] = (*mesh.label.colour, 255)
        other = trimesh.Trimesh(
            mesh.vertices_mm, mesh.faces, vertex_colors=colours, process=False
        )
        files.append(folder / f"{mesh.label.name}.ply")
        other.export(files[-1])
    return files


def _ours(meshes: Meshes, folder: Path) -> list[Path]:
    files = []
    for mesh in meshes:
        files.append(folder / f"{mesh.label.name}.ply")
        write_ply(files[-1], [mesh])
    return files


def _plyfile(meshes: Meshes, folder: Path) -> list[Path]:
    import plyfile

    files = []
    for mesh in meshes:
        vertices = np.empty(
            len(mesh.vertices_mm),
            [(axis, "f4") for axis in "xyz"]
            + [(colour, "u1") for colour in ("red", "green", "blue")],
        )
        for column, axis in enumerate("xyz"):
            vertices[axis] = mesh.vertices_mm[:, column]
        for name, value in zip(
            ("red", "green", "blue"), mesh.label.colour, strict=True
        ):
            vertices[name] = value
        faces = np.empty(len(mesh.faces), [("vertex_indices", "i4", (3,))])
        faces["vertex_indices"] = mesh.faces
        elements = [
            plyfile.PlyElement.describe(vertices, "vertex"),
            plyfile.PlyElement.describe(faces, "face"),
        ]
        files.append(folder / f"{mesh.label.name}.ply")
        plyfile.PlyData(elements, byte_order="<").write(files[-1])
    return files


def _facts(files: list[Path]) -> Facts:
    """Return what trimesh reads back."""
    import trimesh

    found = {}
    for file in files:
        mesh = trimesh.load_mesh(file, process=False)
        found[file.name] = sha256(
            np.asarray(mesh.vertices, dtype="f4"),
            np.asarray(mesh.faces, dtype="i4"),
            np.asarray(mesh.visual.vertex_colors)[:, :3],
        )
    return found


PLY = Stage(
    name="PLY (trimesh = 1)",
    prepare=_prepare,
    baseline=Contender("trimesh, binary", _trimesh),
    ours=Contender("nnunet-bridge", _ours),
    others=(Contender("plyfile", _plyfile, needs=("plyfile",)),),
    target=0.3,
    facts=_facts,
    agree=equal,
)
