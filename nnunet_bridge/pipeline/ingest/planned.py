"""The files of a study's cases, before any of them is opened.

A recipe's patterns (`matching`) and a case table (`table_plan`) make the same values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_bridge.core.case_table import Role
from nnunet_bridge.core.findings import Finding, refusal
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.files import is_folder, is_regular
from nnunet_bridge.formats.slicer import NamedValue
from nnunet_bridge.formats.voxel_files import with_voxel_file
from nnunet_bridge.ops.naming import composed
from nnunet_bridge.pipeline.ingest.inputs import channel_prefixes, files_of


@dataclass(frozen=True, slots=True)
class ScanFiles:
    """The image of a case: a file, or a folder of DICOM files."""

    path: Path
    series: str = ""  # number, description or UID of the series in a DICOM folder
    others: frozenset[Path] = frozenset()
    """Files and folders below a DICOM folder that belong to other rows of the table."""

    more: tuple[ScanFiles, ...] = ()
    """Further channels, where they are not series of the same folder."""

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield name and path of every file, sorted; links are left out."""
        places = (self, *self.more)
        prefixes = channel_prefixes([place.path for place in places])
        for place, prefix in zip(places, prefixes, strict=True):
            for name, file in files_of(place.path):
                if place.others.isdisjoint((file, *file.parents)):
                    yield prefix + name, file


@dataclass(frozen=True, slots=True)
class MaskFile:
    """One mask file of a case."""

    path: Path
    structure: str | None  # None for a file that holds several structures
    side: str
    role: Role = Role.MASK
    names: tuple[NamedValue, ...] = ()
    """What the values of the file, or the numbers of its segments, mean."""

    own_names: bool = True
    """Whether segments that `names` leaves out go by their own names."""


@dataclass(frozen=True, slots=True)
class CasePlan:
    """The files of one case."""

    case_id: str
    scan: ScanFiles | None  # None for a case without an image; it is refused
    masks: tuple[MaskFile, ...]
    split: str  # ``train`` or ``test``
    patient: str = field(repr=False)
    """Scans of one patient share it; written as a salted hash only."""

    findings: tuple[Finding, ...] = ()
    visit: str = field(default="", repr=False)
    """Which of several scans of the patient; written as a salted hash only."""

    meaning: str = ""
    """What a case table says about the files; the case is written again if it changes.
    """

    def with_findings(self, *findings: Finding) -> CasePlan:
        """Return the case with further findings."""
        return replace(self, findings=(*self.findings, *findings))

    def input_files(self) -> dict[str, Path]:
        """Return all input files that exist, by their name in the manifest."""
        scans = self.scan.files() if self.scan else ()
        named = {f"scan/{name}": file for name, file in scans}
        for mask in (mask for mask in self.masks if is_regular(mask.path)):
            name = self.mask_name(mask)
            for file in with_voxel_file(mask.path):
                named[name if file == mask.path else f"{name}+voxels"] = file
        return named

    @property
    def mask_count(self) -> int:
        """Number of mask files."""
        return len({mask.path for mask in self.masks})

    def mask_name(self, mask: MaskFile) -> str:
        """Return the name of a mask in the manifest; masks of one name are numbered."""
        alike = [one for one in self.masks if one.path.name == mask.path.name]
        number = alike.index(mask)
        return f"mask/{mask.path.name}" + (f"#{number}" if number else "")


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """All cases of a study, and findings about files that belong to none."""

    cases: tuple[CasePlan, ...]
    findings: tuple[Finding, ...]  # about the study as a whole
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Files of the study that belong to no case, by their name in it, and why."""

    ignored: frozenset[Path] = frozenset()
    """Files and folders that are left out on purpose."""


def comparable(text: str | None) -> str:
    """Return a number, code or name for comparison: 06 is 6, and 9b is 9B."""
    known = composed((text or "").strip()).casefold()
    return str(int(known)) if known.isascii() and known.isdigit() else known


def places_of(plan: CasePlan) -> Iterator[Path]:
    """Yield the files and folders of a case."""
    if plan.scan:
        yield from (scan.path for scan in (plan.scan, *plan.scan.more))
    for mask in plan.masks:
        yield from with_voxel_file(mask.path)


def files_below(folder: Path, known: Collection[Path]) -> Iterator[Path]:
    """Yield the files below a folder, except known ones and those in known folders."""
    inside = is_folder(folder) and folder not in known
    for path in sorted(folder.iterdir()) if inside else ():
        if is_folder(path) and not path.is_symlink() and path not in known:
            yield from files_below(path, known)
        elif path not in known:
            yield path


def without_collisions(plans: list[CasePlan]) -> list[CasePlan]:
    """Refuse cases that would write the same files (F02)."""
    by_name: dict[str, list[CasePlan]] = defaultdict(list)
    for plan in plans:
        by_name[plan.case_id.casefold()].append(plan)
    return [_alone(plan, by_name[plan.case_id.casefold()]) for plan in plans]


def _alone(plan: CasePlan, twins: list[CasePlan]) -> CasePlan:
    if len(twins) == 1:
        return plan
    names = " and ".join(quoted(twin.scan.path.name) for twin in twins if twin.scan)
    return plan.with_findings(
        refusal(
            "F02",
            f"{names} would both be case {plan.case_id}: give them different numbers, "
            "or use {code} in `dataset.case`.",
        ),
    )
