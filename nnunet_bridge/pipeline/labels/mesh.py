"""Write the surface of every structure of labelmaps, in patient millimetres."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from nnunet_bridge.core.cases import CaseReport, CasesSummary, run_case
from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.findings import Finding, Outcome, refusal, warning, worst
from nnunet_bridge.core.image import Labelmap
from nnunet_bridge.core.mesh import Mesh
from nnunet_bridge.core.progress import Progress, steps
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import number
from nnunet_bridge.formats.images import read_labelmap
from nnunet_bridge.formats.mesh_files import MeshFileOptions, write_mesh_files
from nnunet_bridge.ops.metrics import structure_volumes
from nnunet_bridge.ops.surface import FEWEST_FACES, decimated, smoothed, surfaces_of
from nnunet_bridge.pipeline.labels.folders import label_files, table_file_for, table_for

SHRINKS_TOO_MUCH = 0.03
"""Smoothing that changes the volume of a mesh by more than this share is refused."""

DIFFERS_TOO_MUCH = 0.05
"""Mesh and voxel volumes that differ by more than this share cause a warning."""

LARGE_ENOUGH_VOXELS = 1000
"""Volumes of smaller structures are not compared: they differ by discretisation."""


@dataclass(frozen=True, slots=True)
class MeshOptions(MeshFileOptions):
    """How surfaces are made and written."""

    smooth: int = 0  # iterations of Taubin smoothing
    faces: int | None = None
    """The largest number of faces of a surface; None for no limit."""

    force: bool = False
    """Write a mesh even if its volume changed by more than `SHRINKS_TOO_MUCH`."""

    labels_file: Path | None = None
    """nnU-Net's ``dataset.json``; None for the one beside the label files."""

    def __post_init__(self) -> None:
        """Refuse values that no command accepts."""
        MeshFileOptions.__post_init__(self)
        if self.smooth < 0:
            raise UsageError(f"--smooth must be 0 or more, not {self.smooth}.")
        if self.faces is not None and self.faces < FEWEST_FACES:
            raise UsageError(
                f"--faces must be {FEWEST_FACES} or more, not {self.faces}."
            )


@dataclass(frozen=True, slots=True)
class MeshedStructure:
    """The surface of one structure, and its file if it was written."""

    structure: str
    volume_voxels_mm3: float
    mesh: Mesh | None  # None where the labelmap does not hold the structure
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
class MeshedCase(CaseReport):
    """The report of a case and its surfaces."""

    structures: tuple[MeshedStructure, ...] = ()

    def details(self) -> JsonObject:
        """Return the surfaces by structure."""
        return {"structures": {one.structure: one.as_json() for one in self.structures}}


@dataclass(frozen=True, slots=True)
class MeshSummary(CasesSummary):
    """The surfaces of all cases."""

    cases: tuple[MeshedCase, ...]
    frame: str

    def as_json(self) -> JsonObject:
        """Return all cases; the structures of a single one also by themselves."""
        cases = [case.as_json() for case in self.cases]
        single = {"structures": cases[0]["structures"]} if len(cases) == 1 else {}
        return {"frame": self.frame, "unit": "mm", **single, "cases": cases}

    def as_text(self) -> str:
        """Return a line per case and structure, then the cases with findings."""
        rows = [_row(case.case_id, o) for case in self.cases for o in case.structures]
        volumes = ("mesh (mm3)", "voxels (mm3)")
        header = ("case", "structure", "state", "faces", *volumes, *_YES_OR_NO)
        return "\n".join(self.table(header, rows))


def mesh_labels(
    labels: Path,
    out_dir: Path,
    options: MeshOptions | None = None,
    *,
    progress: Progress | None = None,
) -> MeshSummary:
    """Write the surface of every structure of a label file, or of a folder of them.

    `out_dir` gets ``<structure>.<format>`` and ``all.<format>``; with a folder of label
    files, each case gets a folder of its own below it.
    """
    options = options or MeshOptions()
    files = label_files(labels)
    table = table_for(table_file_for([labels], options.labels_file), files.values())

    def work(file: Path, folder: Path) -> tuple[MeshedStructure, ...]:
        return write_meshes(read_labelmap(file, table), folder, options)

    cases = []
    for case_id, file in steps(progress, "mesh", files.items()):
        folder = out_dir / case_id if labels.is_dir() else out_dir
        report, structures = run_case(case_id, partial(work, file, folder))
        found = [finding for one in structures or () for finding in one.findings]
        cases.append(MeshedCase(case_id, (*report.findings, *found), structures or ()))
    return MeshSummary(tuple(cases), options.frame)


def write_meshes(
    labelmap: Labelmap, out_dir: Path, options: MeshOptions | None = None
) -> tuple[MeshedStructure, ...]:
    """Write the surface of every structure of a labelmap; absent ones have no file."""
    options = options or MeshOptions()
    structures = tuple(_surfaces(labelmap, options))
    fit = [one.mesh for one in structures if one.mesh and one.state == "written"]
    files = write_mesh_files(out_dir, fit, options)
    return tuple(
        replace(one, file=files.get(one.structure)) if one.state == "written" else one
        for one in structures
    )


def _surfaces(labelmap: Labelmap, options: MeshOptions) -> Iterator[MeshedStructure]:
    """Yield the surface of every structure with its findings."""
    surfaces = surfaces_of(labelmap)
    for volume in structure_volumes(labelmap, case_id=""):
        name, volume_mm3 = volume.structure, volume.volume_mm3
        mesh, findings = surfaces[name], []
        if mesh is not None:
            rough_mm3 = mesh.volume_mm3
            mesh = smoothed(mesh, options.smooth)
            if options.faces is not None:
                mesh = decimated(mesh, options.faces)
            change = mesh.volume_mm3 / rough_mm3 - 1.0
            if abs(change) > SHRINKS_TOO_MUCH and not options.force:
                text = f"Smoothing and decimation changed the volume of {name} by"
                way_out = "smooth less, keep more faces, or --force."
                findings.append(
                    refusal("M08", f"{text} {100 * change:+.1f} %: {way_out}")
                )
            change = mesh.volume_mm3 / volume_mm3 - 1.0
            large = volume.voxels > LARGE_ENOUGH_VOXELS
            if abs(change) > DIFFERS_TOO_MUCH and large:
                text = "more than its voxels: the structure is thin; trust the voxels."
                more = f"The mesh of {name} encloses {100 * change:+.1f} % {text}"
                findings.append(warning("M06", more))
        yield MeshedStructure(name, volume_mm3, mesh, None, tuple(findings))


_YES_OR_NO = {"closed": "watertight", "touches border": "touches_border"}
"""Column of the table -> field of the JSON."""


def _row(case_id: str, one: MeshedStructure) -> tuple[str, ...]:
    facts = one.as_json()
    numbers = [number(facts[f"volume_{kind}_mm3"], 1) for kind in ("mesh", "voxels")]
    words = {None: "-", True: "yes", False: "no"}
    answers = [words[facts[name]] for name in _YES_OR_NO.values()]
    return (case_id, one.structure, one.state, str(facts["faces"]), *numbers, *answers)
