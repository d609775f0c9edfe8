"""Write a raw dataset: whole cases, and a manifest that is true at any moment.

Whenever the process dies, the disk holds one of these: the manifest of a complete
dataset; a manifest that is marked as not complete, with a record of each finished case
beside it; or no manifest, then no case is finished. No record ever lists a file that
differs from it (FAULTS R6): the record of a case that is converted again is removed
before its files, and written again after they are verified.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_bridge.core.cases import findings_record
from nnunet_bridge.core.errors import EnvironmentFault, InputError
from nnunet_bridge.core.findings import Finding, Outcome, worst
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import VoxelArray
from nnunet_bridge.core.quoting import without_names
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import format_bytes, now
from nnunet_bridge.core.version import __version__, software_versions
from nnunet_bridge.formats.dicom import FileAccount, SeriesReading
from nnunet_bridge.formats.files import (
    free_bytes,
    pseudonym,
    readable_object,
    remove_stale_partials,
    sha256_of,
    write_json,
)
from nnunet_bridge.formats.labels_file import IGNORE, PARTLY_DRAWN
from nnunet_bridge.formats.manifest import (
    IMAGE_FOLDERS,
    KEPT_SINCE_SCHEMA,
    KEY_FOLDER,
    SCHEMA,
    CaseRecord,
    ContentRecord,
    Manifest,
    ManifestStore,
    MaskRecord,
    PersonRecord,
    RegionRecord,
    RescaleRecord,
    outputs_intact,
    salt_of,
)
from nnunet_bridge.formats.nifti import is_changed, write_labelmap, write_volume
from nnunet_bridge.formats.recipe import Recipe
from nnunet_bridge.nnunet.names import FILE_ENDING, image_name
from nnunet_bridge.ops.content import AS_GIVEN, ContentFit
from nnunet_bridge.ops.merge import Overlap
from nnunet_bridge.ops.people import PersonEvidence, people_of
from nnunet_bridge.pipeline.ingest.cases import AssembledCase
from nnunet_bridge.pipeline.ingest.inputs import ImageReading
from nnunet_bridge.pipeline.ingest.planned import CasePlan

_SPACE_FACTOR = 2
"""Free disk space required, in multiples of a case's uncompressed size (F06)."""

_FILE_LIBRARIES = ("pydicom", "python-gdcm", "nibabel", "isal", "pynrrd", "SimpleITK")


class DatasetWriter:
    """Writes the cases of one dataset, in nnU-Net's raw folder, and its manifest."""

    def __init__(
        self, raw_dir: Path, dataset: str, recipe: Recipe, *, force: bool
    ) -> None:
        self.recipe = recipe
        self.dataset_dir = raw_dir / dataset
        self._force = force
        self._started = now()
        self._salt = salt_of(raw_dir)
        self._store = ManifestStore(self.dataset_dir)
        old = self._store.manifest
        self._known = old.by_case()
        self._may_keep = not force and old.schema_version >= KEPT_SINCE_SCHEMA
        self._records: dict[CasePlan, CaseRecord] = {}
        self._hashes: dict[CasePlan, dict[str, str]] = {}
        self._intact: dict[str, bool] = {}
        self._folders = [self.dataset_dir / name for name in (*IMAGE_FOLDERS, ".")]
        for folder in (raw_dir.parent / KEY_FOLDER, *self._folders):
            remove_stale_partials(folder)

    def kept(self, plan: CasePlan) -> CaseRecord | None:
        """Return the old record of a case that is done and unchanged (R12, F09)."""
        known = self._known.get(plan.case_id)
        if (
            not self._may_keep
            or known is None
            or known.outcome == str(Outcome.REFUSED)
            or worst(plan.findings) is Outcome.REFUSED
            or known.recipe_sha256 != self._digest(plan)
            or known.patient != self.hashed(plan.patient)
            or known.version != __version__
            or known.split != plan.split
            or known.input_hashes
            != {self.hashed(name): sha for name, sha in self._hashes_of(plan).items()}
            or not self._is_intact(known)
        ):
            return None
        self._records[plan] = known
        return known

    def require_unchanged(self) -> None:
        """Refuse to replace files that were changed after `convert` wrote them (F04).

        A damaged file is written again.
        """
        changed = [
            output.file
            for record in self._known.values()
            if not self._is_intact(record)
            for output in record.outputs
            if is_changed(self.dataset_dir / output.file, output.sha256)
        ]
        if changed and not self._force:
            raise InputError(
                f"{', '.join(changed)} in {self.dataset_dir} changed after `convert` "
                "wrote it, and would be replaced. Nothing was written. Bring the "
                "change into the study, or let `convert --force` replace it.",
                code="F04",
            )

    def _is_intact(self, record: CaseRecord) -> bool:
        if record.case not in self._intact:
            self._intact[record.case] = outputs_intact(self.dataset_dir, record)
        return self._intact[record.case]

    def write(
        self, plan: CasePlan, assembled: AssembledCase, evidence: PersonEvidence
    ) -> None:
        """Write image and labelmap, or neither; `evidence` tells whose they are."""
        self._require_space(case_bytes(assembled))
        self._forget(plan.case_id)
        self._open()
        outputs = self._write_files(plan, assembled)
        # Both hashes in one, so that it changes if the pair is swapped (K17).
        hashes = "".join(str(output["voxels_sha256"]) for output in outputs)
        crop = self.recipe.region.crop
        partly = assembled.masks.partly
        content = {
            **self._record(plan, assembled.findings, assembled.reading.files),
            **_account(assembled, self.hashed),
            "evidence": PersonRecord.model_validate(evidence),
            "region": RegionRecord.of(assembled.region, crop=crop),
            **({"partly_drawn": partly.as_json()} if partly else {}),
            "outputs": outputs,
            "pair_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        }
        record = CaseRecord.model_validate(content)
        self._store.add(record)
        self._records[plan] = record

    def _write_files(
        self, plan: CasePlan, assembled: AssembledCase
    ) -> list[JsonObject]:
        """Write the files of a case; return their names and hashes."""
        labelmap = assembled.case.reference
        part = "Tr" if plan.split == "train" else "Ts"
        label_name = f"labels{part}/{plan.case_id}{FILE_ENDING}"
        images = {
            f"images{part}/{image_name(plan.case_id, channel)}": image
            for channel, image in enumerate(assembled.case.images)
        }
        written = {name: image.voxels for name, image in images.items()}
        try:
            for name, image in images.items():
                write_volume(self.dataset_dir / name, image)
            if labelmap is not None:
                write_labelmap(self.dataset_dir / label_name, labelmap)
                written[label_name] = labelmap.voxels
        except BaseException:
            for name in (*images, label_name):
                with contextlib.suppress(OSError):
                    (self.dataset_dir / name).unlink()
            raise
        hashes = {name: sha256_of(self.dataset_dir / name) for name in written}
        return [
            {"file": name, "sha256": hashes[name], "voxels_sha256": _voxel_hash(voxels)}
            for name, voxels in written.items()
        ]

    def drop(
        self, plan: CasePlan, findings: Sequence[Finding], files: FileAccount
    ) -> None:
        """Keep the account of a refused case; remove the files of an earlier run."""
        self._forget(plan.case_id)
        content = self._record(plan, findings, files)
        self._records[plan] = CaseRecord.model_validate(content)

    def finish(self, cases: set[str], left_out: Mapping[str, str]) -> None:
        """Remove all but these cases; write dataset.json and the manifest.

        `left_out` holds the files of the study that belong to no case, and why.
        """
        for case_id in set(self._known) - cases:
            self._forget(case_id)
        self._known = {}
        if not self._has_outputs():
            return
        description = _dataset_json(self.recipe, self._all_records())
        file = self.dataset_dir / "dataset.json"
        if readable_object(file)[0] != description:  # missing and damaged ones too
            self._open()
            write_json(file, description)
        unused = [
            {"name": self.hashed(name), "reason": reason}
            for name, reason in sorted(left_out.items())
        ]
        records = self._with_people(self._all_records())
        self._store.close(self._manifest(complete=True, unused=unused, cases=records))

    def _with_people(self, records: list[CaseRecord]) -> list[CaseRecord]:
        """Record who is one person, now that all cases are known (K25)."""
        person = people_of({r.case: evidence_in(r) for r in records if r.outputs})
        return [
            record.model_copy(update={"person": self.hashed(f"case {first}")})
            if (first := person.get(record.case))
            else record
            for record in records
        ]

    def close(self) -> None:
        """Remove the folders that hold no case."""
        if not self._has_outputs():
            self._store.discard()
            with contextlib.suppress(OSError):
                (self.dataset_dir / "dataset.json").unlink()
        for folder in (*self._folders, self.dataset_dir.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _has_outputs(self) -> bool:
        return any(record.outputs for record in self._all_records())

    def _all_records(self) -> list[CaseRecord]:
        """Return the new records, and the old ones of cases still to come."""
        new = {record.case for record in self._records.values()}
        old = [record for case, record in self._known.items() if case not in new]
        return sorted([*self._records.values(), *old], key=lambda one: one.case)

    def _open(self) -> None:
        if self._store.is_open:
            return
        done = [record for record in self._all_records() if record.outputs]
        self._store.open(self._manifest(complete=False), done)

    def _manifest(self, **content: Any) -> Manifest:  # noqa: ANN401 - fields of the model
        return Manifest(
            schema_version=SCHEMA,
            version=__version__,
            versions=software_versions(("numpy", "scipy", *_FILE_LIBRARIES)),
            command={"name": "convert", "force": self._force},
            started=self._started,
            ended=now() if content["complete"] else None,
            dataset=self.dataset_dir.name,
            options=self.recipe.decisions(),
            **content,
        )

    def _record(
        self, plan: CasePlan, findings: Sequence[Finding], files: FileAccount
    ) -> JsonObject:
        inputs = self._inputs(plan, files, refused=worst(findings) is Outcome.REFUSED)
        states = [entry["state"] for entry in inputs]
        return {
            "case": plan.case_id,
            "outcome": str(worst(findings)),
            "findings": findings_record(findings, _names_in(plan)),
            "split": plan.split,
            "channels": self.recipe.image_channels.names,
            "patient": self.hashed(plan.patient),
            **({"visit": self.hashed(plan.visit)} if plan.visit else {}),
            "recipe_sha256": self._digest(plan),
            "version": __version__,
            "inputs": inputs,
            "files": {key: states.count(key) for key in ("used", "excluded", "failed")},
        }

    def _inputs(
        self, plan: CasePlan, files: FileAccount, *, refused: bool
    ) -> list[JsonObject]:
        """Return the use of every file of a case (R3)."""
        use = ("excluded", "the case was refused") if refused else ("used", "")
        uses = {f"scan/{name}": use for name in files.used}
        uses |= {plan.mask_name(mask): use for mask in plan.masks}
        for state, named in (("excluded", files.excluded), ("failed", files.failed)):
            uses |= {f"scan/{name}": (state, reason) for name, reason in named}
        hashes, names = self._hashes_of(plan), _names_in(plan)
        return [
            {"name": self.hashed(name), "state": state}
            | ({"reason": without_names(reason, names)} if reason else {})
            | ({"sha256": hashes[name]} if name in hashes else {})
            for name, (state, reason) in sorted(uses.items())
        ]

    def _hashes_of(self, plan: CasePlan) -> dict[str, str]:
        if plan not in self._hashes:
            self._hashes[plan] = {}
            for name, file in plan.input_files().items():
                with contextlib.suppress(OSError):  # the check of the case names it
                    self._hashes[plan][name] = sha256_of(file)
        return self._hashes[plan]

    def _digest(self, plan: CasePlan) -> str:
        return self.recipe.digest(plan.case_id, plan.meaning)

    def hashed(self, value: str) -> str:
        """Return the keyed hash of a name."""
        return pseudonym(value, self._salt)

    def _forget(self, case_id: str) -> None:
        """Remove the files of an earlier run, after the manifest dropped the case."""
        record = self._known.pop(case_id, None)
        if record is None or not record.outputs:
            return
        self._open()
        self._store.remove(case_id)
        for output in record.outputs:
            (self.dataset_dir / output.file).unlink(missing_ok=True)

    def _require_space(self, size: int) -> None:
        """Refuse to start a case that may not fit on the disk (F06)."""
        needed = _SPACE_FACTOR * size
        free = free_bytes(self.dataset_dir)
        if free < needed:
            text = f"The next case may need {format_bytes(needed)}, but"
            left = f"{format_bytes(free)} are free for {self.dataset_dir}"
            raise EnvironmentFault(f"{text} {left}: free some space.", code="F06")


def evidence_in(record: CaseRecord) -> PersonEvidence:
    """Return what a record tells about whose a scan is."""
    return PersonEvidence(record.patient, **record.evidence.model_dump())


def case_bytes(assembled: AssembledCase) -> int:
    """Return the size of the files of a case if they were not compressed."""
    labelmap = assembled.case.reference
    images = sum(image.voxels.nbytes for image in assembled.case.images)
    return images + (labelmap.voxels.nbytes if labelmap else 0)


def _names_in(plan: CasePlan) -> list[str]:
    """Return the names of the files and folders of a case, for `without_names`."""
    masks = (mask.path.name for mask in plan.masks)
    scans = (plan.scan, *plan.scan.more) if plan.scan else ()
    places = (n for one in scans for n in (str(one.path.parent), one.path.name))
    return [*places, *masks]


def _account(assembled: AssembledCase, hashed: Callable[[str], str]) -> JsonObject:
    """Return geometry, pixels and masks of a case for its record."""
    masks, grid = assembled.masks, assembled.case.images[0].grid
    series = assembled.reading.series
    return {
        **(_series_account(series, hashed) if series else {}),
        **_other_channels(assembled.reading, hashed),
        "geometry": _geometry(grid, series),
        "masks": [_mask(mask, masks.overlaps, hashed) for mask in masks.accounts],
        "overlaps": masks.overlaps,
        "content": _content(masks.fit, assembled.reading.volume.grid),
        "ignored_share": masks.ignored_share,
    }


def _other_channels(reading: ImageReading, hashed: Callable[[str], str]) -> JsonObject:
    """Return the account of every channel but the first; nothing of a single one."""
    accounts = [
        {
            "name": channel.channel,
            "placed": channel.placed,
            "share_outside": channel.share_outside,
            **(_series_account(channel.series, hashed) if channel.series else {}),
        }
        for channel in reading.more
    ]
    return {"more_channels": accounts} if accounts else {}


def _series_account(series: SeriesReading, hashed: Callable[[str], str]) -> JsonObject:
    """Return what a DICOM series says about itself, without its identifiers."""
    plain = ("group", "rejected_groups", "contrast", "interventions")
    slopes, intercepts = series.rescale_slopes, series.rescale_intercepts
    return {
        **{name: getattr(series, name) for name in plain},
        "series": hashed(series.series_uid),
        "frame_of_reference": hashed(series.frame_of_reference_uid),
        "rescale": RescaleRecord(slopes=slopes, intercepts=intercepts),
    }


def _geometry(grid: Grid, series: SeriesReading | None) -> JsonObject:
    direction = grid.affine[:3, :3] / grid.spacing_mm
    declared = "declared_thickness_mm", "declared_spacing_mm", "patient_position"
    names = "max_position_error_mm", *declared
    return {
        "shape": grid.shape,
        "spacing_mm": grid.spacing_mm.tolist(),
        "direction": direction.T.ravel().tolist(),
        "origin_mm": grid.affine[:3, 3].tolist(),
        "frame": "LPS",
        **({name: getattr(series, name) for name in names} if series else {}),
    }


def _content(fit: ContentFit | None, grid: Grid) -> ContentRecord:
    """Return how the masks fit the image (K23); nothing without masks."""
    if fit is None:
        return ContentRecord()
    better = "" if fit.best == AS_GIVEN else fit.best.describe(grid)
    more = {"fits_better": better, "z": round(fit.z, 3)}
    return ContentRecord.model_validate(fit).model_copy(update=more)


def _mask(
    mask: MaskRecord, overlaps: Iterable[Overlap], hashed: Callable[[str], str]
) -> MaskRecord:
    """Return a mask without its file name, with the voxels that it shares."""
    own = {mask.structure, f"{mask.structure}_{mask.side}"}
    shared = {}
    for overlap in overlaps:
        others = set(overlap.structures) - own
        if len(others) == 1:
            shared[others.pop()] = overlap.voxels
    source = hashed(mask.source) if mask.source else ""
    return mask.model_copy(update={"source": source, "voxels_overlapping": shared})


def _dataset_json(recipe: Recipe, records: Iterable[CaseRecord]) -> JsonObject:
    """Return nnU-Net's description of the dataset."""
    spec = recipe.spec()
    written = [record for record in records if record.outputs]
    training = [record for record in written if record.split == "train"]
    partly = {r.case: r.partly_drawn for r in written if r.partly_drawn}
    labels = {label.name: label.value for label in spec.labels}
    if spec.labels.ignore_value is not None:
        labels[IGNORE] = spec.labels.ignore_value
    return {
        **recipe.image_channels.description(),
        "labels": {"background": 0, **labels},
        **({PARTLY_DRAWN: partly} if partly else {}),
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
