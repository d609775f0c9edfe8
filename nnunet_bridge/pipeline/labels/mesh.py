"""Labelmaps -> surfaces of every structure, in patient millimetres."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nnunet_bridge.core.aligned import aligned, number
from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.findings import Finding, Outcome, worst
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.core.mesh import Mesh
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.mesh_files import (
    FRAMES,
    MESH_FORMATS,
    MESH_NAMES,
    write_mesh_files,
)
from nnunet_bridge.formats.nifti import read_labelmap
from nnunet_bridge.ops.metrics import structure_volumes
from nnunet_bridge.ops.surface import (
    FEWEST_FACES,
    decimated,
    smoothed,
    surfaces_of,
)
from nnunet_bridge.pipeline.labels.folders import (
    CaseOutcome,
    attempted,
    exit_code_of,
    label_files,
    table_file_for,
    table_for,
)

SHRINKS_TOO_MUCH = 0.03
"""Smoothing that changes the volume of a mesh by more than this share is refused."""

DIFFERS_TOO_MUCH = 0.05
"""Beyond this share, a difference of mesh and voxel volume is worth a warning ..."""

LARGE_ENOUGH_VOXELS = 1000
"""... unless the structure is so small that it must differ."""


@dataclass(frozen=True, slots=True)
class MeshOptions:
    """How surfaces are made and written."""

    frame: str = "LPS"
    smooth: int = 0
    """Iterations of Taubin smoothing."""

    file_format: str = "ply"
    force: bool = False
    """Write a mesh even if smoothing changed its volume too much."""

    names: str = "labels"
    """``labels``, or ``opensim``: ``femur_l`` for ``femur_left``."""

    faces: int | None = None
    """How many faces a surface may have; None for all."""

    def __post_init__(self) -> None:
        """Refuse what no command could mean."""
        if self.frame not in FRAMES:
            raise UsageError(
                f"{self.frame!r} is no frame; choose {' or '.join(FRAMES)}."
            )
        if self.file_format not in MESH_FORMATS:
            raise UsageError(
                f"{self.file_format!r} is no mesh format; choose "
                f"{', '.join(MESH_FORMATS)}."
            )
        if self.names not in MESH_NAMES:
            raise UsageError(
                f"{self.names!r} is no way of naming meshes; choose "
                f"{' or '.join(MESH_NAMES)}."
            )
        if self.smooth < 0:
            raise UsageError(f"--smooth is 0 or more, not {self.smooth}.")
        if self.faces is not None and self.faces < FEWEST_FACES:
            raise UsageError(f"--faces is {FEWEST_FACES} or more, not {self.faces}.")


@dataclass(frozen=True, slots=True)
class MeshedStructure:
    """One structure: its surface in numbers, and its file if it has one."""

    structure: str
    volume_voxels_mm3: float
    mesh: Mesh | None
    """None where the labelmap does not hold the structure."""

    file: Path | None
    findings: tuple[Finding, ...]

    @property
    def state(self) -> str:
        """``written``, ``empty`` or ``refused``."""
        if self.mesh is None:
            return "empty"
        return "refused" if worst(self.findings) is Outcome.REFUSED else "written"

    def as_json(self) -> JsonObject:
        """Return the entry of `structures`."""
        mesh = self.mesh
        return {
            "state": self.state,
            "vertices": 0 if mesh is None else len(mesh.vertices_mm),
            "faces": 0 if mesh is None else len(mesh.faces),
            "watertight": None if mesh is None else mesh.watertight,
            "volume_mesh_mm3": None if mesh is None else mesh.volume_mm3,
            "volume_voxels_mm3": self.volume_voxels_mm3,
            "touches_border": None if mesh is None else mesh.touches_border,
            "file": None if self.file is None else str(self.file),
        }


@dataclass(frozen=True, slots=True)
class MeshedCase:
    """One case: what happened to it, and its structures."""

    outcome: CaseOutcome
    structures: tuple[MeshedStructure, ...]

    def as_json(self) -> JsonObject:
        """Return the entry of `cases`."""
        return {
            **self.outcome.as_json(),
            "structures": {one.structure: one.as_json() for one in self.structures},
        }


@dataclass(frozen=True, slots=True)
class MeshSummary:
    """The surfaces of all cases."""

    cases: tuple[MeshedCase, ...]
    frame: str

    @property
    def exit_code(self) -> int:
        """0; 4 if some cases were refused; 3 if all were."""
        return exit_code_of(case.outcome for case in self.cases)

    def as_json(self) -> JsonObject:
        """Return all cases; the structures of a single one also by themselves."""
        cases = [case.as_json() for case in self.cases]
        single = {"structures": cases[0]["structures"]} if len(cases) == 1 else {}
        return {"frame": self.frame, "unit": "mm", **single, "cases": cases}

    def as_text(self) -> str:
        """Return a line per case and structure, then the warnings."""
        rows = [_row(case, one) for case in self.cases for one in case.structures]
        header = (
            "case",
            "structure",
            "state",
            "faces",
            "mesh (mm3)",
            "voxels (mm3)",
            "closed",
            "touches border",
        )
        lines = [aligned(header, rows)] if rows else []
        lines += [
            case.outcome.as_text() for case in self.cases if case.outcome.findings
        ]
        return "\n".join(lines)


def mesh_labels(  # noqa: PLR0913 - the options of the command, by keyword
    labels: Path,
    out_dir: Path,
    *,
    labels_file: Path | None = None,
    frame: str = "LPS",
    smooth: int = 0,
    file_format: str = "ply",
    names: str = "labels",
    faces: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> MeshSummary:
    """Write the surface of every structure of a label file, or of a folder of them.

    Parameters
    ----------
    labels : Path
        A file; or a folder, whose cases get a folder each below `out_dir`.
    out_dir : Path
        Gets ``<structure>.<format>`` and ``all.<format>``.
    labels_file : Path, optional
        nnU-Net's ``dataset.json``; by default one beside the files.
    frame : {"LPS", "RAS"}
    smooth : int
        Iterations of Taubin smoothing.
    file_format : {"ply", "stl", "obj"}
    names : {"labels", "opensim"}
        ``opensim``: labels with a side end in ``_l`` or ``_r``.
    faces : int, optional
        How many faces a surface may have, at least 4.
    force : bool
        Write a mesh even if smoothing and decimation changed its volume by more than
        3 %.
    progress : Progress, optional

    Raises
    ------
    UsageError
        If an option makes no sense.
    InputError
        If there are no label files, or their labels are unknown.
    EnvironmentFault
        If `out_dir` cannot be written.
    """
    listener = progress or Silent()
    options = MeshOptions(frame, smooth, file_format, force, names, faces)
    files = label_files(labels)
    table = table_for(table_file_for([labels], labels_file), files.values())
    listener.stage("mesh", len(files))
    cases = []
    for done, (case_id, file) in enumerate(files.items(), start=1):
        folder = out_dir / case_id if labels.is_dir() else out_dir
        work = partial(_written_from_file, file, table, folder, options)
        outcome, structures = attempted(case_id, work)
        cases.append(_meshed(outcome, structures or ()))
        listener.advance(done, case_id)
    return MeshSummary(tuple(cases), frame)


def write_meshes(
    labelmap: Labelmap,
    out_dir: Path,
    *,
    frame: str = "LPS",
    smooth: int = 0,
    file_format: str = "ply",
    force: bool = False,
) -> tuple[MeshedStructure, ...]:
    """Write the surface of every structure of a labelmap that is at hand.

    Returns
    -------
    structures : tuple of MeshedStructure
        In the order of the labels; those that are absent have no file.
    """
    return _written(labelmap, out_dir, MeshOptions(frame, smooth, file_format, force))


def _written_from_file(
    file: Path, table: LabelTable, out_dir: Path, options: MeshOptions
) -> tuple[MeshedStructure, ...]:
    return _written(read_labelmap(file, table), out_dir, options)


def _written(
    labelmap: Labelmap, out_dir: Path, options: MeshOptions
) -> tuple[MeshedStructure, ...]:
    structures = tuple(_surfaces(labelmap, options))
    fit = [one.mesh for one in structures if one.mesh and one.state == "written"]
    files = write_mesh_files(
        out_dir,
        fit,
        frame=options.frame,
        file_format=options.file_format,
        names=options.names,
    )
    return tuple(
        MeshedStructure(
            structure=one.structure,
            volume_voxels_mm3=one.volume_voxels_mm3,
            mesh=one.mesh,
            file=files.get(one.structure) if one.state == "written" else None,
            findings=one.findings,
        )
        for one in structures
    )


def _surfaces(labelmap: Labelmap, options: MeshOptions) -> Iterator[MeshedStructure]:
    """Go through the surfaces of all structures, and what is to be said of each."""
    surfaces = surfaces_of(labelmap)
    for volume in structure_volumes(labelmap, case_id=""):
        rough = surfaces[volume.structure]
        mesh = None if rough is None else _finished(rough, options)
        findings = []
        if rough is not None and mesh is not None:
            if not options.force:
                findings += _shrinkage(rough, mesh)
            if volume.voxels > LARGE_ENOUGH_VOXELS:
                findings += _difference(mesh, volume.volume_mm3)
        yield MeshedStructure(
            volume.structure, volume.volume_mm3, mesh, None, tuple(findings)
        )


def _finished(rough: Mesh, options: MeshOptions) -> Mesh:
    """Return the voxel-exact surface, smoothed and thinned as asked."""
    mesh = smoothed(rough, options.smooth)
    return mesh if options.faces is None else decimated(mesh, options.faces)


def _shrinkage(rough: Mesh, mesh: Mesh) -> list[Finding]:
    """Return the refusal of a mesh that was distorted, if it was."""
    change = mesh.volume_mm3 / rough.volume_mm3 - 1.0
    if abs(change) <= SHRINKS_TOO_MUCH:
        return []
    return [
        Finding(
            "M08",
            Outcome.REFUSED,
            f"Smoothing and decimation changed the volume of {rough.label.name} by "
            f"{100 * change:+.1f} %: smooth less, keep more faces, or --force.",
        )
    ]


def _difference(mesh: Mesh, volume_mm3: float) -> list[Finding]:
    """Return the warning that a mesh encloses another volume than the voxels have."""
    change = mesh.volume_mm3 / volume_mm3 - 1.0
    if abs(change) <= DIFFERS_TOO_MUCH:
        return []
    return [
        Finding(
            "M06",
            Outcome.WARNED,
            f"The mesh of {mesh.label.name} encloses {100 * change:+.1f} % more than "
            "its voxels: the structure is thin; trust the voxels.",
        )
    ]


def _meshed(
    outcome: CaseOutcome, structures: tuple[MeshedStructure, ...]
) -> MeshedCase:
    """Return the case with the findings of its structures."""
    findings = (
        *outcome.findings,
        *(finding for one in structures for finding in one.findings),
    )
    gravest = max(outcome.outcome, worst(findings))
    return MeshedCase(CaseOutcome(outcome.case_id, gravest, findings), structures)


def _row(case: MeshedCase, one: MeshedStructure) -> tuple[str, ...]:
    mesh = one.mesh
    return (
        case.outcome.case_id,
        one.structure,
        one.state,
        "0" if mesh is None else str(len(mesh.faces)),
        number(None if mesh is None else mesh.volume_mm3, 1),
        number(one.volume_voxels_mm3, 1),
        "-" if mesh is None else _yes(mesh.watertight),
        "-" if mesh is None else _yes(mesh.touches_border),
    )


def _yes(value: bool) -> str:  # noqa: FBT001 - a word for a boolean
    return "yes" if value else "no"
