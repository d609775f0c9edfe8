"""The one writer of a raw dataset: whole cases, and a manifest that is always true.

Whenever the process dies, what lies on the disk is one of these: the manifest of a
complete dataset; a manifest that says it is not complete and lists the cases that are
done; or no manifest, then nothing is done. No manifest ever lists a file that is not
there as it says (FAULTS R6): a case that is written anew leaves the manifest before
its files go, and comes back after they are proven.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunet_bridge.core.cases import findings_record
from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.core.findings import Finding, Outcome, worst
from nnunet_bridge.core.image import VoxelArray
from nnunet_bridge.core.quoting import without_names
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import format_bytes, now
from nnunet_bridge.core.version import __version__, software_versions
from nnunet_bridge.formats.dicom import FileAccount
from nnunet_bridge.formats.files import (
    free_bytes,
    pseudonym,
    read_json,
    remove_stale_partials,
    sha256_of,
    write_json,
)
from nnunet_bridge.formats.labels_file import IGNORE
from nnunet_bridge.formats.manifest import (
    KEY_FOLDER,
    MANIFEST,
    OF_THE_RUN,
    SCHEMA,
    Record,
    outputs_intact,
    read_manifest,
    records_by_case,
    region_record,
    salt_of,
    write_manifest,
)
from nnunet_bridge.formats.nifti import write_labelmap, write_volume
from nnunet_bridge.formats.recipe import Recipe
from nnunet_bridge.nnunet.names import FILE_ENDING
from nnunet_bridge.pipeline.ingest.cases import AssembledCase, input_files
from nnunet_bridge.pipeline.ingest.matching import CasePlan

_SPACE_FACTOR = 2
"""Free disk space asked for, in multiples of a case's uncompressed size (F06)."""

_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", ".")
_LIBRARIES = (
    *("numpy", "pydicom", "nibabel", "isal", "pynrrd", "SimpleITK", "scipy"),
    "python-gdcm",
)


class DatasetWriter:
    """Writes cases into one dataset folder and remembers them for the manifest.

    Parameters
    ----------
    raw_dir : Path
        nnU-Net's raw folder.
    dataset : str
        Name of the dataset's folder in it.
    recipe : Recipe
        How the study is read.
    force : bool
        Whether cases that are done are done again.
    """

    def __init__(
        self, raw_dir: Path, dataset: str, recipe: Recipe, *, force: bool
    ) -> None:
        self.recipe = recipe
        self.dataset_dir = raw_dir / dataset
        self._force = force
        self._started = now()
        self._salt = salt_of(raw_dir)
        self._old = read_manifest(self.dataset_dir)
        self._known = records_by_case(self._old)
        self._records: dict[Path, Record] = {}
        self._hashes: dict[Path, dict[str, str]] = {}
        for folder in (raw_dir.parent / KEY_FOLDER, *self._folders()):
            remove_stale_partials(folder)

    def kept(self, plan: CasePlan) -> Record | None:
        """Return the old record of a case that is done and unchanged (R12, F09)."""
        known = self._known.get(plan.case_id)
        if (
            self._force
            or known is None
            or self._old.get("schema") != SCHEMA
            or known["outcome"] == str(Outcome.REFUSED)
            or worst(plan.findings) is Outcome.REFUSED
            or known.get("recipe_sha256") != self.recipe.digest()
            or known.get("version") != __version__
            or known["split"] != plan.split
            or _hashes_in(known) != self._named_hashes(plan)
            or not outputs_intact(self.dataset_dir, known)
        ):
            return None
        self._records[plan.scan_dir] = known
        return known

    def write(self, plan: CasePlan, assembled: AssembledCase) -> None:
        """Write image and labelmap, or neither."""
        image = assembled.case.images[0]
        labelmap = assembled.case.reference
        self._ask_for_space(case_bytes(assembled))
        self._forget(plan.case_id)
        self._open()
        image_name = f"{plan.image_folder}/{plan.case_id}_0000{FILE_ENDING}"
        label_name = f"{plan.label_folder}/{plan.case_id}{FILE_ENDING}"
        outputs = [(image_name, image.voxels)]
        try:
            write_volume(self.dataset_dir / image_name, image)
            if labelmap is not None:
                write_labelmap(self.dataset_dir / label_name, labelmap)
                outputs.append((label_name, labelmap.voxels))
        except BaseException:
            for name in (image_name, label_name):
                with contextlib.suppress(OSError):
                    (self.dataset_dir / name).unlink()
            raise
        record = self._record(plan, assembled.findings, assembled.files)
        record |= _account(assembled, self._hashed)
        record["region"] = {
            "crop": self.recipe.region.crop,
            **region_record(assembled.region),
        }
        record["outputs"] = [
            {
                "file": name,
                "sha256": sha256_of(self.dataset_dir / name),
                "voxels_sha256": _voxel_hash(voxels),
            }
            for name, voxels in outputs
        ]
        record["pair_sha256"] = _pair_hash(record["outputs"])
        self._records[plan.scan_dir] = record
        self._save(complete=False)

    def drop(
        self, plan: CasePlan, findings: Sequence[Finding], files: FileAccount
    ) -> None:
        """Remember a refused case and remove what an earlier run wrote for it."""
        self._forget(plan.case_id)
        self._records[plan.scan_dir] = self._record(plan, findings, files)

    def finish(self, cases: set[str], left_out: Mapping[str, str]) -> None:
        """Remove cases that are gone from the study; write dataset.json, manifest.

        Parameters
        ----------
        cases : set of str
            The ids of all cases of the study.
        left_out : mapping
            Files of the study that belong to no case, and why.
        """
        for case_id in set(self._known) - cases:
            self._forget(case_id)
        self._known = {}
        if not self._has_outputs():
            return
        description = _dataset_json(self.recipe, self._all_records())
        file = self.dataset_dir / "dataset.json"
        if not file.is_file() or read_json(file) != description:
            self._open()
            write_json(file, description)
        unused = [
            {"name": self._hashed(name), "reason": reason}
            for name, reason in sorted(left_out.items())
        ]
        self._save(complete=True, unused=unused)

    def close(self) -> None:
        """Leave nothing behind where no case is."""
        if not self._has_outputs():
            for name in ("dataset.json", MANIFEST):
                with contextlib.suppress(OSError):
                    (self.dataset_dir / name).unlink()
        for folder in (*self._folders(), self.dataset_dir.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _folders(self) -> list[Path]:
        return [self.dataset_dir / name for name in _FOLDERS]

    def _has_outputs(self) -> bool:
        return any(record.get("outputs") for record in self._all_records())

    def _all_records(self) -> list[Record]:
        """Return the records that hold: new ones, and old ones not yet looked at."""
        new = {record["case"] for record in self._records.values()}
        old = [record for case, record in self._known.items() if case not in new]
        return sorted([*self._records.values(), *old], key=lambda r: str(r["case"]))

    def _open(self) -> None:
        """Say on the disk that the dataset is not complete, before it is changed."""
        if self._old.get("complete", True):
            self._save(complete=False)

    def _save(self, *, complete: bool, unused: Sequence[JsonObject] = ()) -> None:
        """Write the manifest, unless it would say nothing new."""
        content: Record = {
            "version": __version__,
            "versions": software_versions(_LIBRARIES),
            "command": {"name": "convert", "force": self._force},
            "started": self._started,
            "ended": now() if complete else None,
            "complete": complete,
            "dataset": self.dataset_dir.name,
            "options": self.recipe.decisions(),
            "unused": list(unused),
            "cases": self._all_records(),
        }
        said = {key: value for key, value in content.items() if key not in OF_THE_RUN}
        if {key: self._old.get(key) for key in said} != said:
            write_manifest(self.dataset_dir, content)
            self._old = {"schema": SCHEMA, **content}

    def _record(
        self, plan: CasePlan, findings: Sequence[Finding], files: FileAccount
    ) -> Record:
        inputs = self._inputs(plan, files, refused=worst(findings) is Outcome.REFUSED)
        states = [entry["state"] for entry in inputs]
        return {
            "case": plan.case_id,
            "outcome": str(worst(findings)),
            "findings": findings_record(findings, _names_in(plan)),
            "split": plan.split,
            "patient": self._hashed(plan.patient),
            "recipe_sha256": self.recipe.digest(),
            "version": __version__,
            "inputs": inputs,
            "files": {
                state: states.count(state) for state in ("used", "excluded", "failed")
            },
        }

    def _inputs(
        self, plan: CasePlan, files: FileAccount, *, refused: bool
    ) -> list[JsonObject]:
        """Return what became of every file of a case (R3)."""
        of_masks = ("excluded", "the case was refused") if refused else ("used", "")
        of_scans = of_masks
        fates = {f"scan/{name}": of_scans for name in files.used}
        fates |= {f"mask/{mask.path.name}": of_masks for mask in plan.masks}
        for state, named in (("excluded", files.excluded), ("failed", files.failed)):
            fates |= {f"scan/{name}": (state, reason) for name, reason in named}
        hashes = self._hashes_of(plan)
        inputs: list[JsonObject] = []
        for name, (state, reason) in sorted(fates.items()):
            entry: JsonObject = {"name": self._hashed(name), "state": state}
            if reason:
                entry["reason"] = without_names(reason, _names_in(plan))
            if name in hashes:
                entry["sha256"] = hashes[name]
            inputs.append(entry)
        return inputs

    def _named_hashes(self, plan: CasePlan) -> dict[str, str]:
        """Return the SHA-256 of every input of a case by the hash of its name."""
        hashes = self._hashes_of(plan)
        return {self._hashed(name): sha256 for name, sha256 in hashes.items()}

    def _hashes_of(self, plan: CasePlan) -> dict[str, str]:
        if plan.scan_dir not in self._hashes:
            self._hashes[plan.scan_dir] = {
                name: sha256_of(file) for name, file in input_files(plan).items()
            }
        return self._hashes[plan.scan_dir]

    def _hashed(self, value: str) -> str:
        return pseudonym(value, self._salt)

    def _forget(self, case_id: str) -> None:
        """Remove what an earlier run wrote for a case, after the manifest forgot it."""
        record = self._known.pop(case_id, None)
        if record is None or not record.get("outputs"):
            return
        self._save(complete=False)
        for output in record["outputs"]:
            (self.dataset_dir / output["file"]).unlink(missing_ok=True)

    def _ask_for_space(self, size: int) -> None:
        """Refuse to begin a case that may not fit on the disk (F06)."""
        needed = _SPACE_FACTOR * size
        free = free_bytes(self.dataset_dir)
        if free < needed:
            raise EnvironmentFault(
                f"The next case may need {format_bytes(needed)}, but "
                f"{format_bytes(free)} are free for {self.dataset_dir}: free "
                "some space.",
                code="F06",
            )


def case_bytes(assembled: AssembledCase) -> int:
    """Return the size of the files of a case if they were not compressed."""
    image, labelmap = assembled.case.images[0], assembled.case.reference
    return image.voxels.nbytes + (labelmap.voxels.nbytes if labelmap else 0)


def _names_in(plan: CasePlan) -> list[str]:
    """Return the names of the files and folders of a case, for `without_names`."""
    masks = (mask.path.name for mask in plan.masks)
    return [str(plan.scan_dir.parent), plan.scan_dir.name, *masks]


def _hashes_in(record: Record) -> dict[str, str]:
    return {
        entry["name"]: entry["sha256"]
        for entry in record["inputs"]
        if "sha256" in entry
    }


def _account(assembled: AssembledCase, hashed: Callable[[str], str]) -> Record:
    """Return what the manifest says of a case's geometry, pixels and masks."""
    reading = assembled.reading
    grid = assembled.case.images[0].grid
    direction = grid.affine[:3, :3] / grid.spacing_mm
    return {
        "group": reading.group,
        "rejected_groups": list(reading.rejected_groups),
        "contrast": {
            "modality": reading.contrast.modality,
            "image_type": list(reading.contrast.image_type),
            "echo_time_ms": reading.contrast.echo_time_ms,
        },
        "series": hashed(reading.series_uid),
        "frame_of_reference": hashed(reading.frame_of_reference_uid),
        "geometry": {
            "shape": list(grid.shape),
            "spacing_mm": _rounded(grid.spacing_mm),
            "direction": _rounded(direction.T.ravel()),
            "origin_mm": _rounded(grid.affine[:3, 3]),
            "frame": "LPS",
            "max_position_error_mm": round(reading.max_position_error_mm, 6),
            "declared_thickness_mm": reading.declared_thickness_mm,
            "declared_spacing_mm": reading.declared_spacing_mm,
        },
        "rescale": {
            "slopes": list(reading.rescale_slopes),
            "intercepts": list(reading.rescale_intercepts),
        },
        "interventions": dict(reading.interventions),
        "masks": [
            {
                **mask,
                "source": hashed(mask["source"]) if mask["source"] else "",
                "voxels_overlapping": _overlapping(mask, assembled.overlaps),
            }
            for mask in assembled.masks
        ],
        "overlaps": list(assembled.overlaps),
        "content": assembled.content,
        "ignored_share": round(assembled.ignored_share, 6),
    }


def _overlapping(mask: JsonObject, overlaps: Iterable[JsonObject]) -> dict[str, int]:
    """Return how many voxels a mask shares with every other structure."""
    own = {mask["structure"], f"{mask['structure']}_{mask['side']}"}
    shared = {}
    for overlap in overlaps:
        others = [name for name in overlap["structures"] if name not in own]
        if len(others) == 1:
            shared[others[0]] = overlap["voxels"]
    return shared


def _dataset_json(recipe: Recipe, records: Iterable[Record]) -> JsonObject:
    """Return what nnU-Net wants to know of the dataset."""
    spec = recipe.spec()
    training = [r for r in records if r.get("outputs") and r["split"] == "train"]
    labels = {label.name: label.value for label in spec.labels}
    if spec.labels.ignore_value is not None:
        labels[IGNORE] = spec.labels.ignore_value
    return {
        "channel_names": {str(n): name for n, name in enumerate(spec.channels)},
        "labels": {"background": 0, **labels},
        "numTraining": len(training),
        "file_ending": FILE_ENDING,
        "name": spec.name,
        "converted_by": f"nnunet-bridge {__version__}",
    }


def _voxel_hash(voxels: VoxelArray) -> str:
    """Return the SHA-256 of the voxels in the order of the file."""
    digest = hashlib.sha256()
    for k in range(voxels.shape[2]):
        digest.update(np.asfortranarray(voxels[:, :, k]).T.data)
    return digest.hexdigest()


def _pair_hash(outputs: Iterable[JsonObject]) -> str:
    """Return one hash of image and labelmap: it tells an exchanged pair (K17)."""
    hashes = "".join(str(output["voxels_sha256"]) for output in outputs)
    return hashlib.sha256(hashes.encode()).hexdigest()


def _rounded(numbers: Iterable[float]) -> list[float]:
    return [round(float(number), 6) + 0.0 for number in numbers]
