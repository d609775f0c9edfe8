"""The manifest: how a dataset came about, without telling whose it is.

`manifest.json` lies beside `dataset.json`. Names of inputs, patients and UIDs stand in
it only as salted hashes; the key lies outside the dataset, readable by its owner alone
(FAULTS F13). It is written after everything that it describes.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from nnunet_bridge.core.cases import findings_in
from nnunet_bridge.core.errors import EnvironmentFault, InputError
from nnunet_bridge.core.findings import Finding, Outcome
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.files import (
    PARTIAL,
    clear_os_errors,
    read_json,
    sha256_of,
    temporary_name,
    write_json,
)
from nnunet_bridge.ops.region import Region

MANIFEST = "manifest.json"
SCHEMA = 3
OF_THE_RUN = frozenset({"version", "versions", "command", "started", "ended"})
"""Fields that tell of the run which last changed the dataset, not of the dataset."""

KEY_FOLDER = ".nnunet_bridge"
_KEY_BYTES = 32
_IMAGE_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_OUTPUT = re.compile(r"(?:images|labels)T[rs]/[A-Za-z0-9][A-Za-z0-9._-]*")
"""What an output may be called; whoever edits a manifest cannot make us remove more."""

Record: TypeAlias = dict[str, Any]
"""What the manifest says of one case, as JSON holds it."""


def read_manifest(dataset_dir: Path) -> Record:
    """Return the manifest of a dataset; an empty one where there is none.

    Raises
    ------
    InputError
        If it is damaged, or of a newer version of this package.
    """
    file = dataset_dir / MANIFEST
    if not file.is_file():
        return {"cases": []}
    try:
        content: Record = read_json(file)
        schema = int(content["schema"])
        names = [
            output["file"]
            for record in content["cases"]
            for output in record.get("outputs", [])
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is damaged: remove it and run `convert` again."
        ) from error
    if schema > SCHEMA:
        raise InputError(
            f"{file} has the schema {schema}, this version knows {SCHEMA}: update the "
            "package, or convert into a new folder."
        )
    if not all(_OUTPUT.fullmatch(str(name)) for name in names):
        raise InputError(
            f"{file} names files outside its dataset: it was not written by `convert`. "
            "Remove it and run `convert` again."
        )
    return content


def write_manifest(dataset_dir: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest; whole, or not at all."""
    write_json(dataset_dir / MANIFEST, {"schema": SCHEMA, **content})


def records_by_case(manifest: Mapping[str, Any]) -> dict[str, Record]:
    """Return the records of a manifest by case id."""
    return {record["case"]: record for record in manifest["cases"]}


def read_patient_groups(dataset_dir: Path) -> dict[str, str]:
    """Return the patient of every case, as a salted hash; empty without a manifest.

    Two scans of one patient share their hash, so that a split can keep them together.
    """
    cases = records_by_case(read_manifest(dataset_dir))
    return {case: str(record["patient"]) for case, record in cases.items()}


def region_record(region: Region) -> JsonObject:
    """Return what a manifest says of the slices that were kept of a scan."""
    return {
        "first_slice": region.first,
        "end_slice": region.end,
        "slices_before": region.whole.shape[2],
        "shape_before": list(region.whole.shape),
        "affine_before": region.whole.affine.tolist(),
    }


def recorded_region(image_file: Path) -> Region | None:
    """Return the region that an image of a raw dataset was cropped to.

    Returns
    -------
    region : Region or None
        None if the file is no image of a converted dataset, is not as `convert` wrote
        it, or was not cropped.
    """
    dataset_dir = image_file.absolute().parent.parent
    name = f"{image_file.absolute().parent.name}/{image_file.name}"
    if not (dataset_dir / MANIFEST).is_file():
        return None
    for record in read_manifest(dataset_dir)["cases"]:
        known = {out["file"]: out["sha256"] for out in record.get("outputs", [])}
        if name in known:
            return region_in(record) if sha256_of(image_file) == known[name] else None
    return None


def region_in(record: Mapping[str, Any], key: str = "region") -> Region | None:
    """Return the slices that a record says were kept; None if all of them were."""
    kept = record.get(key, {})
    if "affine_before" not in kept:
        return None
    size_i, size_j, size_k = kept["shape_before"]
    whole = Grid((size_i, size_j, size_k), np.array(kept["affine_before"]))
    region = Region(kept["first_slice"], kept["end_slice"], whole)
    return None if region.is_everything else region


def findings_of(record: Record) -> tuple[Finding, ...]:
    """Return what was noticed about a case, without the names of its files."""
    return findings_in(record["findings"])


def require_sound(dataset_dir: Path) -> None:
    """Refuse a dataset that is not what its manifest says.

    Raises
    ------
    InputError
        If its conversion did not reach its end (F07), a file is there that nobody
        converted, or one is missing (F04). A dataset without a manifest is not ours to
        judge.
    """
    manifest = read_manifest(dataset_dir)
    if not manifest.get("complete", True):
        raise InputError(
            f"The conversion of {dataset_dir.name} was interrupted: run `convert` "
            "again; cases that are done stay.",
            code="F07",
        )
    faults = check_files(dataset_dir) if "complete" in manifest else ()
    if faults:
        raise InputError("\n".join(map(str, faults)), code="F04")


def outputs_intact(dataset_dir: Path, record: Record) -> bool:
    """Whether every file that a case wrote is still there, byte for byte."""
    return bool(record.get("outputs")) and all(
        (dataset_dir / output["file"]).is_file()
        and sha256_of(dataset_dir / output["file"]) == output["sha256"]
        for output in record["outputs"]
    )


def check_files(dataset_dir: Path) -> tuple[Finding, ...]:
    """Compare the files of a dataset with its manifest (F04).

    Returns
    -------
    findings : tuple of Finding
        A refusal for each file that nnU-Net would take for a case although nobody
        converted it, and for each that is missing.
    """
    expected = {
        output["file"]
        for record in read_manifest(dataset_dir)["cases"]
        for output in record.get("outputs", [])
    }
    found = set(_files_that_count(dataset_dir))
    strays = [
        Finding(
            "F04",
            Outcome.REFUSED,
            f"{quoted(name)} was not written by `convert`, but nnU-Net would take it "
            "for a case: move it away.",
        )
        for name in sorted(found - expected)
    ]
    lost = [
        Finding("F04", Outcome.REFUSED, f"{name} is missing: run `convert` again.")
        for name in sorted(expected - found)
    ]
    return (*strays, *lost)


def _files_that_count(dataset_dir: Path) -> Iterator[str]:
    for folder in _IMAGE_FOLDERS:
        if (dataset_dir / folder).is_dir():
            for file in (dataset_dir / folder).iterdir():
                if not file.name.endswith(PARTIAL):
                    yield f"{folder}/{file.name}"


def salt_of(raw_dir: Path) -> bytes:
    """Return the key of the salted hashes of a workspace; made on first use.

    Raises
    ------
    EnvironmentFault
        If it can be neither read nor made, or is damaged.
    """
    file = raw_dir.parent / KEY_FOLDER / "key"
    with clear_os_errors(f"make {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            _make_key(file)
        key = file.read_bytes()
    if len(key) != _KEY_BYTES:
        raise EnvironmentFault(
            f"{file} is damaged, so that names could not be hashed safely: remove it; "
            "the hashes in new manifests will be others.",
            code="F13",
        )
    return key


def _make_key(file: Path) -> None:
    """Make a key that appears whole, and only once, whoever else tries."""
    temporary = file.with_name(temporary_name(file.name))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
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
