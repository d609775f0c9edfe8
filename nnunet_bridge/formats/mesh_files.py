"""Write meshes as PLY, STL or OBJ, in patient millimetres.

None of these formats has a field for the coordinate system. A comment in every file
states the frame (LPS or RAS), the unit, the structure and the version of this software,
and nothing about the patient or the case (FAULTS M05, M09).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.image import Label
from nnunet_bridge.core.mesh import Mesh
from nnunet_bridge.formats.files import write_if_changed

FRAMES = {"LPS": (1.0, 1.0, 1.0), "RAS": (-1.0, -1.0, 1.0)}
"""Factors from LPS+ to the frame of the file. Both frames are right-handed, so faces
keep their orientation."""

MESH_NAMES = ("labels", "opensim")
TOGETHER = "all"  # stem of the file that holds all structures
_ROW = np.dtype("V12")
"""Three little-endian numbers of four bytes; one item of 12 is copied faster."""

_VERTEX = np.dtype([("position", _ROW), ("colour", "V3")])
_FACE = np.dtype([("corners", "u1"), ("vertices", _ROW)])

_STL_FACE = np.dtype(
    [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("spare", "<u2")]
)
_STL_HEADER_BYTES = 80


@dataclass(frozen=True, slots=True)
class MeshFileOptions:
    """How mesh files are written."""

    frame: str = "LPS"  # ``LPS`` or ``RAS``
    file_format: str = "ply"  # ``ply``, ``stl`` or ``obj``
    names: str = "labels"  # ``labels``, or ``opensim``: ``femur_l`` for ``femur_left``

    def __post_init__(self) -> None:
        """Refuse a frame, format or naming that does not exist."""
        for kind, word, known in (
            ("frame", self.frame, tuple(FRAMES)),
            ("mesh format", self.file_format, MESH_FORMATS),
            ("mesh naming", self.names, MESH_NAMES),
        ):
            if word not in known:
                choices = f"{', '.join(known[:-1])} or {known[-1]}"
                raise UsageError(f"Unknown {kind} {word!r}: choose {choices}.")


def write_mesh_files(
    out_dir: Path, meshes: Sequence[Mesh], options: MeshFileOptions | None = None
) -> dict[str, Path]:
    """Write one file for each structure and one with all of them.

    Meshes need distinct label names. The result has the files by label name, and the
    joint file by `TOGETHER`; without meshes nothing is written.
    """
    options = options or MeshFileOptions()
    frame, file_format = options.frame, options.file_format
    write = _WRITERS[file_format]
    labels = [mesh.label for mesh in meshes]
    opensim = options.names == "opensim"
    stems = file_stems(opensim_name(one) if opensim else one.name for one in labels)
    named = zip(labels, stems, strict=True)
    files = {label.name: out_dir / f"{stem}.{file_format}" for label, stem in named}
    for mesh in meshes:
        write(files[mesh.label.name], [mesh], frame=frame)
    if meshes:
        together = out_dir / f"{TOGETHER}.{file_format}"
        write(together, meshes, frame=frame)
        files.setdefault(TOGETHER, together)
    return files


def file_stems(names: Iterable[str]) -> list[str]:
    """Return distinct file names for structures, safe on every system.

    Label names may come from outside: ``../x`` must not lead out of the folder.

    Examples
    --------
    >>> file_stems(["tibia", "../../etc", "Tibia", "all"])
    ['tibia', 'etc', 'Tibia_3', 'all_4']
    """
    taken = {TOGETHER}
    stems = []
    for place, name in enumerate(names, start=1):
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:63] or "structure"
        while stem.lower() in taken:
            stem = f"{stem}_{place}"
        taken.add(stem.lower())
        stems.append(stem)
    return stems


def opensim_name(label: Label) -> str:
    """Return the name of a bone in OpenSim's models: its side is one letter.

    A label without a side, or in the middle, keeps its name.

    Examples
    --------
    >>> from nnunet_bridge.core.image import LabelTable
    >>> table = LabelTable.from_names(["femur_left", "pelvis"])
    >>> [opensim_name(label) for label in table]
    ['femur_l', 'pelvis']
    """
    if label.side not in ("left", "right"):
        return label.name
    return f"{label.name.removesuffix(f'_{label.side}')}_{label.side[0]}"


def write_ply(file: Path, meshes: Sequence[Mesh], *, frame: str = "LPS") -> None:
    """Write meshes into one binary PLY file, every vertex in its structure's colour."""
    header = _ply_header(meshes, frame)
    vertices_end = len(header) + _vertex_count(meshes) * _VERTEX.itemsize
    faces_end = vertices_end + _face_count(meshes) * _FACE.itemsize
    content = np.empty(faces_end, dtype=np.uint8)
    content[: len(header)] = np.frombuffer(header, dtype=np.uint8)
    vertices = content[len(header) : vertices_end].view(_VERTEX)
    faces = content[vertices_end:].view(_FACE)
    faces["corners"] = 3
    for part in _parts(meshes, frame):
        vertices["position"][part.vertices] = _as_items(part.vertices_mm)
        vertices["colour"][part.vertices] = np.void(bytes(part.label.colour))
        faces["vertices"][part.faces] = _as_items(part.corners)
    _write_file(file, content.data)


def write_stl(file: Path, meshes: Sequence[Mesh], *, frame: str = "LPS") -> None:
    """Write meshes into one binary STL file; the format has no colours."""
    faces = np.zeros(_face_count(meshes), dtype=_STL_FACE)
    for part in _parts(meshes, frame):
        corners_mm = part.vertices_mm[part.corners - part.vertices.start]
        first, second, third = corners_mm.transpose(1, 0, 2)
        normals = np.cross(second - first, third - first)
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        faces["normal"][part.faces] = normals / np.where(lengths > 0, lengths, 1.0)
        faces["corners"][part.faces] = corners_mm
    header = "; ".join(_remarks(meshes, frame)).encode("ascii")[:_STL_HEADER_BYTES]
    count = np.array(len(faces), dtype="<u4")
    parts = (header.ljust(_STL_HEADER_BYTES), count.tobytes(), faces.tobytes())
    _write_file(file, b"".join(parts))


def write_obj(file: Path, meshes: Sequence[Mesh], *, frame: str = "LPS") -> None:
    """Write meshes into one OBJ file, each as an object with coloured vertices."""
    lines = [f"# {line}\n" for line in _remarks(meshes, frame)]
    for part in _parts(meshes, frame):
        red, green, blue = (channel / 255.0 for channel in part.label.colour)
        vertex = f"v %.6g %.6g %.6g {red:.4f} {green:.4f} {blue:.4f}\n"
        lines.append(f"o {_printable(part.label.name)}\n")
        lines.append(_repeated(vertex, part.vertices_mm))
        lines.append(_repeated("f %d %d %d\n", part.corners + 1))  # OBJ counts from 1
    _write_file(file, "".join(lines).encode("ascii"))


# No write waits for the disk: the next run replaces a damaged mesh.
_write_file = partial(write_if_changed, to_disk=False)

_WRITERS: dict[str, Callable[..., None]]
_WRITERS = {"ply": write_ply, "stl": write_stl, "obj": write_obj}
MESH_FORMATS = tuple(_WRITERS)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One mesh of a file, and the places of its vertices and faces in that file."""

    label: Label
    vertices: slice
    faces: slice
    vertices_mm: npt.NDArray[np.float32]  # (V, 3) in the frame of the file
    corners: npt.NDArray[np.int32]  # (F, 3) indices of vertices in the file


def _parts(meshes: Sequence[Mesh], frame: str) -> Iterator[_Part]:
    first_vertex, first_face = 0, 0
    for mesh in meshes:
        vertices_mm = mesh.vertices_mm.astype("<f4")
        for axis, factor in enumerate(FRAMES[frame]):
            if factor != 1.0:
                vertices_mm[:, axis] *= factor
        corners = mesh.faces.astype("<i4", copy=False)
        if first_vertex:
            corners = corners + np.int32(first_vertex)
        vertices_end = first_vertex + len(vertices_mm)
        faces_end = first_face + len(corners)
        vertices = slice(first_vertex, vertices_end)
        faces = slice(first_face, faces_end)
        yield _Part(mesh.label, vertices, faces, vertices_mm, corners)
        first_vertex, first_face = vertices_end, faces_end


def _vertex_count(meshes: Sequence[Mesh]) -> int:
    return sum(len(mesh.vertices_mm) for mesh in meshes)


def _face_count(meshes: Sequence[Mesh]) -> int:
    return sum(len(mesh.faces) for mesh in meshes)


def _as_items(
    rows: npt.NDArray[np.float32] | npt.NDArray[np.int32],
) -> npt.NDArray[np.void]:
    """Return the (N, 3) rows as N items of 12 bytes, without a copy."""
    return rows.view(_ROW).reshape(len(rows))


def _ply_header(meshes: Sequence[Mesh], frame: str) -> bytes:
    lines = (
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment {line}" for line in _remarks(meshes, frame)),
        f"element vertex {_vertex_count(meshes)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {channel}" for channel in ("red", "green", "blue")),
        f"element face {_face_count(meshes)}",
        "property list uchar int vertex_indices",
        "end_header\n",
    )
    return "\n".join(lines).encode("ascii")


def _remarks(meshes: Sequence[Mesh], frame: str) -> tuple[str, ...]:
    from nnunet_bridge.core.version import __version__

    structures = (f"structure {_printable(mesh.label.name)}" for mesh in meshes)
    return (f"nnunet-bridge {__version__}", f"frame {frame}", "unit mm", *structures)


def _printable(name: str) -> str:
    """Replace characters that could end a line of the header."""
    return re.sub(r"[^ -~]", "_", name)


def _repeated(line: str, rows: npt.NDArray[Any]) -> str:
    """Format (N, 3) rows, one line each: one call of ``%`` for all is the fastest."""
    return (line * len(rows)) % tuple(rows.ravel().tolist())
