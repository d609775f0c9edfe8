"""The surfaces of four bones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from limb import BONES, Limb
from race import Contender, Facts, Stage, equal, sha256

from nnunet_bridge.core.image import Labelmap
from nnunet_bridge.ops.occupancy import label_boxes
from nnunet_bridge.ops.surface import surfaces_of

Surface: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Vertices in mm and faces."""

LEVEL = 0.5
"""The source takes 0, where a vertex lies on the outer voxel: then nothing compares."""

OTHER_TRIANGLES = "another table of triangles"


@dataclass(frozen=True, slots=True)
class _Inputs:
    labelmap: Labelmap
    in_index_order: npt.NDArray[np.uint8]
    """The same voxels as the source holds them: last axis fastest."""


def _prepare(limb: Limb, _: Path) -> _Inputs:
    return _Inputs(limb.reference, np.ascontiguousarray(limb.reference.voxels))


def _source(inputs: _Inputs, _: Path) -> list[Surface]:
    from skimage.measure import marching_cubes

    grid, surfaces = inputs.labelmap.grid, []
    for label in BONES:
        mask = np.where(inputs.in_index_order != label.value, 0, 1)
        vertices, faces, _, _ = marching_cubes(mask, level=LEVEL)
        surfaces.append((grid.to_patient(vertices), faces[:, ::-1]))
    return surfaces


def _ours(inputs: _Inputs, _: Path) -> list[Surface]:
    meshes = [mesh for mesh in surfaces_of(inputs.labelmap).values() if mesh]
    return [(mesh.vertices_mm, mesh.faces) for mesh in meshes]


def _pymcubes(inputs: _Inputs, _: Path) -> list[Surface]:
    import mcubes

    labelmap, surfaces = inputs.labelmap, []
    boxes = label_boxes(labelmap)
    for label, box in zip(BONES, boxes, strict=True):
        if box is None:
            continue
        mask = np.pad(labelmap.voxels[box] == label.value, 1)
        vertices, faces = mcubes.marching_cubes(mask.astype(np.float32), LEVEL)
        lowest = [along.start - 1 for along in box]
        surfaces.append((labelmap.grid.to_patient(vertices + lowest), faces))
    return surfaces


def _zmesh(inputs: _Inputs, _: Path) -> list[Surface]:
    import zmesh

    labelmap = inputs.labelmap
    mesher = zmesh.Mesher(tuple(labelmap.grid.spacing_mm.tolist()))
    mesher.mesh(labelmap.voxels, close=True)
    meshes = [
        mesher.get(label.value, normals=False, reduction_factor=0) for label in BONES
    ]
    return [(mesh.vertices, mesh.faces) for mesh in meshes]


def _facts(surfaces: list[Surface]) -> Facts:
    return {
        label.name: sha256(vertices.astype("f8"), faces.astype("i4"))
        for label, (vertices, faces) in zip(BONES, surfaces, strict=True)
    } | {"faces": sum(len(faces) for _, faces in surfaces)}


MESHES = Stage(
    name="meshes, 4 bones",
    prepare=_prepare,
    baseline=Contender("source: scikit-image, full volume", _source),
    ours=Contender("nnunet-bridge", _ours),
    others=(
        Contender(
            "PyMCubes, cropped",
            _pymcubes,
            needs=("mcubes",),
            differs=OTHER_TRIANGLES,
        ),
        Contender("zmesh", _zmesh, needs=("zmesh",), differs=OTHER_TRIANGLES),
    ),
    target=0.11,
    facts=_facts,
    agree=equal,
    remark=lambda _, ours: f"{ours['faces']} faces",
)
