"""The manifest: how a dataset came about, without the identity of its patients.

`manifest.json` lies beside `dataset.json`. It contains names of inputs, patients and
UIDs only as salted hashes; the key lies outside the dataset, readable by its owner only
(FAULTS F13).

While a conversion runs, ``complete`` is false, and the record of every finished case is
a file of its own in ``manifest.cases``; at the end they are joined. So what is written
grows with the number of cases, and at any moment manifest and records list only files
that are in the dataset, byte for byte (FAULTS R6).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from nnunet_bridge.core.cases import findings_in
from nnunet_bridge.core.errors import EnvironmentFault, InputError
from nnunet_bridge.core.findings import Finding, refusal
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import counted
from nnunet_bridge.formats.files import (
    PARTIAL,
    clear_os_errors,
    read_record,
    readable_object,
    remove_stale_partials,
    sha256_of,
    temporary_name,
    write_json,
)
from nnunet_bridge.formats.kept import files_unchanged
from nnunet_bridge.formats.system import BINARY

if TYPE_CHECKING:
    from nnunet_bridge.ops.region import Region

MANIFEST = "manifest.json"
RECORDS = "manifest.cases"
"""Folder of the records of finished cases while a conversion is not complete."""

SCHEMA = 4
KEPT_SINCE_SCHEMA = 3  # cases in older manifests are converted again
_WAY_OUT = "remove it and run `convert` again"
OF_THE_RUN = frozenset({"version", "versions", "command", "started", "ended"})
"""Fields about the run that last changed the dataset, not about the dataset."""

KEY_FOLDER = ".nnunet_bridge"
_KEY_BYTES = 32
IMAGE_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_OUTPUT = r"(?:images|labels)T[rs]/[A-Za-z0-9][A-Za-z0-9._-]*"
"""Names that outputs may have; an edited manifest cannot make us remove other files."""

Rounded = Annotated[float, AfterValidator(lambda number: round(number, 6) + 0.0)]
"""A number with six decimals, and no negative zero."""


def _output_name(name: str) -> str:
    if not re.fullmatch(_OUTPUT, name):
        raise ValueError("names files outside its dataset")
    return name


class Part(BaseModel):
    """A part of a record; objects with fields of the same names are read as well."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, from_attributes=True
    )

    def as_json(self) -> JsonObject:
        """Return the fields that were given, as JSON holds them."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class InputRecord(Part):
    """The use of one input file."""

    name: str  # salted hash
    state: str  # ``used``, ``excluded`` or ``failed``
    reason: str = ""
    sha256: str = ""


class FindingRecord(Part):
    """A finding, without the names of the user's files."""

    code: str
    outcome: str
    message: str


class OutputRecord(Part):
    """A file of the dataset and its hashes."""

    file: Annotated[str, AfterValidator(_output_name)]
    sha256: str = ""
    voxels_sha256: str = ""


class ContrastRecord(Part):
    """The contrast of the series that was read."""

    modality: str | None = None
    image_type: tuple[str, ...] = ()
    echo_time_ms: float | None = None


class GeometryRecord(Part):
    """The grid of the image in LPS+ millimetres, and what the headers declare."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[Rounded, Rounded, Rounded]
    direction: tuple[Rounded, ...]  # nine numbers: unit vectors along i, j and k
    origin_mm: tuple[Rounded, Rounded, Rounded]
    frame: str = "LPS"
    max_position_error_mm: Rounded | None = None
    declared_thickness_mm: float | None = None
    declared_spacing_mm: float | None = None
    patient_position: str = ""  # *Patient Position*, such as ``HFS``

    def grid(self) -> Grid:
        """Return the grid, as exactly as it is recorded."""
        affine = np.eye(4)
        directions = np.array(self.direction).reshape(3, 3).T
        affine[:3, :3] = directions * np.array(self.spacing_mm)
        affine[:3, 3] = self.origin_mm
        return Grid(self.shape, affine)


class RescaleRecord(Part):
    """Smallest and largest *Rescale Slope* and *Rescale Intercept* of the slices."""

    slopes: tuple[float, ...] = ()
    intercepts: tuple[float, ...] = ()


class MaskRecord(Part):
    """A mask, and how it was read and placed; or a structure without a mask."""

    structure: str
    side: str = ""
    source: str = ""  # salted hash of the file's name; empty without a mask
    state: str = ""  # ``labelled``, ``empty``, ``absent`` or ``unlabelled``
    read_as: str = ""
    method: str = ""
    voxels_before: int = 0
    voxels_after: int = 0
    voxels_outside: int = 0
    volume_change: Rounded = 0.0
    voxels_overlapping: dict[str, int] = Field(default_factory=dict)
    """By other structure."""


class OverlapRecord(Part):
    """Two structures that claim the same voxels."""

    structures: tuple[str, str]
    voxels: int
    volume_cm3: Rounded
    percent_of_smaller: Rounded


class ContentRecord(Part):
    """How well the masks fit the image (K23); nothing is set without masks."""

    judged: bool = False
    blocks: int = 0
    contrast: Rounded = 0.0
    fits_better: str = ""  # where the masks would fit better; empty: they fit as given
    best_contrast: Rounded = 0.0
    z: float = 0.0


class RegionRecord(Part):
    """The slices that were kept of a scan."""

    crop: str = "none"
    first_slice: int = 0
    end_slice: int = 0
    slices_before: int = 0
    shape_before: tuple[int, int, int] | None = None
    affine_before: tuple[tuple[float, ...], ...] | None = None

    @classmethod
    def of(cls, region: Region, **more: object) -> Self:
        """Return the record of a region, and `more` fields."""
        slices = {"first_slice": region.first, "end_slice": region.end}
        whole = {
            "slices_before": region.whole.shape[2],
            "shape_before": region.whole.shape,
            "affine_before": region.whole.affine.tolist(),
        }
        return cls.model_validate({**more, **slices, **whole})

    def region(self) -> Region | None:
        """Return the region; None if all slices were kept or the record has none."""
        if self.shape_before is None or self.affine_before is None:
            return None
        from nnunet_bridge.ops.region import Region

        whole = Grid(self.shape_before, np.array(self.affine_before))
        region = Region(self.first_slice, self.end_slice, whole)
        return None if region.is_everything else region


class ChannelRecord(Part):
    """The account of a channel after the first."""

    name: str
    placed: str = ""
    """On the grid of the first channel: ``as it is``, ``turned`` or ``resampled``."""

    share_outside: Rounded = 0.0  # of that grid's voxels, which it does not cover
    group: str = ""
    rejected_groups: tuple[str, ...] = ()
    contrast: ContrastRecord | None = None
    series: str = ""
    frame_of_reference: str = ""
    rescale: RescaleRecord = RescaleRecord()
    interventions: JsonObject = Field(default_factory=dict)


class PersonRecord(Part):
    """What tells whose a scan is, as salted hashes; empty where unknown."""

    patient_id: str = ""
    birth: str = ""  # of *Patient ID* and birth date together
    pixels: str = ""


class CaseRecord(Part):
    """The account of one case; a refused one has only the fields up to `files`."""

    case: str
    outcome: str = ""
    findings: tuple[FindingRecord, ...] = ()
    split: str = ""
    patient: str = ""  # salted hash; scans of one patient share it
    evidence: PersonRecord = PersonRecord()
    person: str = ""  # salted hash by names, headers and pixels; empty in old manifests
    visit: str | None = None  # salted hash: which of several scans of the patient
    channels: tuple[str, ...] | None = None
    """Names of the channels of the image; what follows is about the first."""

    more_channels: tuple[ChannelRecord, ...] = ()

    partly_drawn: JsonObject | None = None
    """What was drawn, as ``dataset.json`` has it; None for everything."""

    recipe_sha256: str = ""
    version: str = ""
    inputs: tuple[InputRecord, ...] = ()
    files: dict[str, int] = Field(default_factory=dict)
    """``used``, ``excluded``, ``failed``."""

    group: str = ""
    rejected_groups: tuple[str, ...] = ()
    contrast: ContrastRecord | None = None
    series: str = ""
    frame_of_reference: str = ""
    geometry: GeometryRecord | None = None
    rescale: RescaleRecord = RescaleRecord()
    interventions: JsonObject = Field(default_factory=dict)
    masks: tuple[MaskRecord, ...] = ()
    overlaps: tuple[OverlapRecord, ...] = ()
    content: ContentRecord = ContentRecord()
    ignored_share: Rounded = 0.0
    region: RegionRecord | None = None
    outputs: tuple[OutputRecord, ...] = ()
    pair_sha256: str = ""

    @model_validator(mode="before")
    @classmethod
    def _contrast_of_schema_2(cls, raw: Any) -> Any:  # noqa: ANN401 - pydantic judges it next
        """Read the contrast from the group's text, where schema 2 has it."""
        if not isinstance(raw, dict) or raw.get("contrast") or not raw.get("group"):
            return raw
        image_type, _, rest = str(raw["group"]).partition(", ")
        echo = re.search(r"TE ([0-9.]+) ms", rest)
        time_ms = float(echo[1]) if echo else None
        contrast = {"image_type": image_type.split("\\"), "echo_time_ms": time_ms}
        return {**raw, "contrast": contrast}

    @property
    def noticed(self) -> tuple[Finding, ...]:
        """The findings of the case."""
        return findings_in(finding.as_json() for finding in self.findings)

    @property
    def input_hashes(self) -> dict[str, str]:
        """SHA-256 of every input that has one, by the hash of its name."""
        return {one.name: one.sha256 for one in self.inputs if one.sha256}


class Manifest(Part):
    """The manifest of a dataset; see docs/reference/files.md for the fields."""

    schema_version: int = Field(alias="schema", ge=1, le=SCHEMA)
    version: str = ""
    versions: JsonObject = Field(default_factory=dict)
    command: JsonObject = Field(default_factory=dict)
    started: str | None = None
    ended: str | None = None
    complete: bool | None = None  # None if there is no manifest, or one of schema 1
    dataset: str = ""
    options: JsonObject = Field(default_factory=dict)
    unused: tuple[JsonObject, ...] = ()
    cases: tuple[CaseRecord, ...] = ()

    def by_case(self) -> dict[str, CaseRecord]:
        """Return the records by case id."""
        return {record.case: record for record in self.cases}

    def says_the_same(self, other: Manifest) -> bool:
        """Whether all fields are equal but those about the run."""
        names = Manifest.model_fields.keys() - OF_THE_RUN
        return all(getattr(self, name) == getattr(other, name) for name in names)


def read_manifest(dataset_dir: Path) -> Manifest:
    """Return the manifest of a dataset; an empty one where there is none.

    Of a conversion that is not complete, the finished cases are read as well.

    Raises `InputError` if it is damaged, or of a newer version of this package.
    """
    return _joined(dataset_dir, _manifest_alone(dataset_dir))


def _joined(dataset_dir: Path, manifest: Manifest) -> Manifest:
    """Add the records of finished cases to a manifest that is not complete."""
    if manifest.complete is not False:
        return manifest
    records = manifest.by_case()
    files = sorted((dataset_dir / RECORDS).glob("*.json"))
    done = (read_record(file, CaseRecord, _WAY_OUT) for file in files)
    records |= {one.case: one for one in done}
    cases = tuple(record for record in records.values() if record.outputs)
    return manifest.model_copy(update={"cases": cases})


def _manifest_alone(dataset_dir: Path) -> Manifest:
    file = dataset_dir / MANIFEST
    if not file.is_file():
        return Manifest(schema_version=SCHEMA)
    return read_record(file, Manifest, _WAY_OUT)


def write_manifest(dataset_dir: Path, content: Mapping[str, Any]) -> None:
    """Write a manifest; whole, or not at all."""
    write_json(dataset_dir / MANIFEST, {"schema": SCHEMA, **content})


class ManifestStore:
    """The manifest on the disk while cases are added and removed.

    No other process writes to the folder while the store is used: see `only_writer`.
    """

    def __init__(self, dataset_dir: Path) -> None:
        on_disk = _manifest_alone(dataset_dir)
        self.manifest = _joined(dataset_dir, on_disk)
        self._dataset_dir = dataset_dir
        self._records_dir = dataset_dir / RECORDS
        self.is_open = on_disk.complete is False and not on_disk.cases
        if self.is_open:
            remove_stale_partials(self._records_dir)
        else:
            self._remove_records()

    def open(self, header: Manifest, records: Iterable[CaseRecord]) -> None:
        """State on the disk that the dataset is not complete, before it is changed.

        `records` are those of the cases that are in the dataset.
        """
        for record in records:
            self.add(record)
        running = {"complete": False, "ended": None, "cases": (), "unused": ()}
        started = header.model_copy(update=running)
        write_manifest(self._dataset_dir, started.as_json())
        self.is_open = True

    def add(self, record: CaseRecord) -> None:
        """Keep the record of a case whose files are in the dataset."""
        write_json(self._records_dir / f"{record.case}.json", record.as_json())

    def remove(self, case_id: str) -> None:
        """Remove the record of a case, before its files change."""
        self.add(CaseRecord(case=case_id))

    def close(self, manifest: Manifest) -> None:
        """Join all records into the manifest, unless it holds the same already."""
        if self.is_open or not self.manifest.says_the_same(manifest):
            write_manifest(self._dataset_dir, manifest.as_json())
        self._remove_records()
        self.manifest, self.is_open = manifest, False

    def discard(self) -> None:
        """Remove the manifest of a dataset without cases."""
        with contextlib.suppress(OSError):
            (self._dataset_dir / MANIFEST).unlink()
        self._remove_records()

    def _remove_records(self) -> None:
        shutil.rmtree(self._records_dir, ignore_errors=True)


def patients_of(dataset_dir: Path, cases: Iterable[str]) -> dict[str, str]:
    """Return the patient of each case, as a salted hash; without a record, the case.

    Two scans of one patient share their hash, so that a split can keep them together.
    """
    records = read_manifest(dataset_dir).cases
    known = {one.case: one.person or one.patient for one in records}
    return {case: known.get(case) or case for case in cases}


def counted_by_case(dataset_dir: Path) -> str:
    """Return a sentence if the patients of a dataset are unknown; else nothing."""
    if read_manifest(dataset_dir).cases:
        return ""
    return (
        "The patients of this dataset are unknown (it has no manifest of `convert`): "
        "each case is counted as a patient. If a person has several cases, folds leak "
        "and intervals are too narrow."
    )


def recorded_region(image_file: Path) -> Region | None:
    """Return the region that an image of a raw dataset was cropped to.

    None if the file does not belong to a converted dataset, differs from what `convert`
    wrote, or was not cropped.
    """
    dataset_dir = image_file.absolute().parent.parent
    name = f"{image_file.absolute().parent.name}/{image_file.name}"
    for record in read_manifest(dataset_dir).cases:
        known = {output.file: output.sha256 for output in record.outputs}
        if name in known and record.region is not None:
            same = sha256_of(image_file) == known[name]
            return record.region.region() if same else None
    return None


def require_sound(dataset_dir: Path) -> None:
    """Refuse a dataset that differs from its manifest.

    Raises `InputError` if its conversion was interrupted (F07), or a file was not
    written by `convert` or is missing (F04). A dataset without a manifest is not
    checked.
    """
    manifest = read_manifest(dataset_dir)
    if manifest.complete is False:
        text = f"The conversion of {dataset_dir.name} was interrupted: run `convert`"
        raise InputError(f"{text} again; finished cases are kept.", code="F07")
    faults = () if manifest.complete is None else check_files(dataset_dir)
    if faults:
        raise InputError("\n".join(map(str, faults)), code="F04")


def require_own(dataset_dir: Path) -> None:
    """Refuse a dataset that `convert` did not write (F04)."""
    description, _ = readable_object(dataset_dir / "dataset.json")
    if (dataset_dir / MANIFEST).is_file() or "converted_by" in description:
        return
    folders = [dataset_dir / name for name in IMAGE_FOLDERS]
    files = [file for folder in folders for file in folder.glob("[!.]*")]
    if files or description:
        raise InputError(
            f"{dataset_dir} holds a dataset that `convert` did not write "
            f"({counted(len(files), 'file')}): give the recipe another number and "
            "name, or move that folder away.",
            code="F04",
        )


def outputs_intact(dataset_dir: Path, record: CaseRecord) -> bool:
    """Whether every file that a case wrote is still there, byte for byte."""
    hashes = {output.file: output.sha256 for output in record.outputs}
    return bool(hashes) and files_unchanged(dataset_dir, hashes)


def check_files(dataset_dir: Path) -> tuple[Finding, ...]:
    """Compare the files of a dataset with its manifest (F04).

    Return a refusal for each file that nnU-Net would take for a case although `convert`
    did not write it, and for each that is missing.
    """
    cases = read_manifest(dataset_dir).cases
    expected = {output.file for record in cases for output in record.outputs}
    found = {
        f"{folder}/{file.name}"
        for folder in IMAGE_FOLDERS
        for file in (dataset_dir / folder).glob("*")
        if not file.name.endswith(PARTIAL)
    }
    stray = "was not written by `convert`, but nnU-Net would take it for a case: move"
    messages = [f"{quoted(name)} {stray} it away." for name in sorted(found - expected)]
    lost = sorted(expected - found)
    messages += [f"{name} is missing: run `convert` again." for name in lost]
    return tuple(refusal("F04", message) for message in messages)


def salt_of(raw_dir: Path) -> bytes:
    """Return the key of the salted hashes of a workspace; made on first use.

    Raises `EnvironmentFault` if it can be neither read nor made, or is damaged.
    """
    file = raw_dir.parent / KEY_FOLDER / "key"
    with clear_os_errors(f"make {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            _make_key(file)
        key = file.read_bytes()
    if len(key) != _KEY_BYTES:
        text = f"{file} is damaged, so names cannot be hashed safely: remove it; new"
        raise EnvironmentFault(f"{text} manifests will have other hashes.", code="F13")
    return key


def _make_key(file: Path) -> None:
    """Make a key that is whole from the start, and once for all processes."""
    temporary = file.with_name(temporary_name(file.name))
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o600
    )
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(_KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, file)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            if not file.exists():
                temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
