"""The images and labels that a model was trained on, as ranges.

Of the images: spacings, sizes, contrasts. Of the labels: volumes, shapes, pieces,
measured once for a dataset and kept beside the records of its runs, with a hash of the
labels. An unpacked model brings its own.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_bridge.core.errors import BridgeError, InputError
from nnunet_bridge.core.quality import TrainingStructures
from nnunet_bridge.formats.files import read_json, readable_object, sha256_of
from nnunet_bridge.formats.images import read_grid, read_labelmap, read_volume
from nnunet_bridge.formats.kept import Kept
from nnunet_bridge.formats.manifest import CaseRecord, read_manifest
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.names import FILE_ENDING, Dataset, images_by_case
from nnunet_bridge.nnunet.runs import ORIGIN_FILE
from nnunet_bridge.nnunet.schemas import TrainingRange
from nnunet_bridge.ops.edges import edge_strength
from nnunet_bridge.ops.quality import structure_figures, training_structures
from nnunet_bridge.pipeline.models.likeness import WORD, contrast_words

FINGERPRINT_FILE = "dataset_fingerprint.json"
STRUCTURES_FILE = "training_structures.json"
MEASURED_AS = 3
"""Increase it when `ops.quality` measures something else: kept results are then old."""

_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def training_range(model_dir: Path, dataset_dir: Path) -> TrainingRange | None:
    """Return the range of a model's training images, or None if it is unknown.

    The folder of the model holds nnU-Net's fingerprint of the training cases, or the
    description that a packed model carried; the manifest of the raw dataset names
    orientations and contrasts. Without a manifest, its images tell the orientations.
    """
    origins = sorted(model_dir.glob(f"fold_*/{ORIGIN_FILE}"))
    try:
        if origins:
            known = read_json(origins[0])["training_range"]
            return TrainingRange.model_validate(known) if known else None
        records = _training_records(dataset_dir)
        sizes = _of_fingerprint(model_dir / FINGERPRINT_FILE) or _of_records(records)
        if sizes is None:
            return None
        looks = _looks_of(records) or _orientations_in(dataset_dir)
        return TrainingRange.model_validate(sizes | looks)
    except _MALFORMED:
        return None


def _training_records(dataset_dir: Path) -> list[CaseRecord]:
    try:
        records = read_manifest(dataset_dir).cases
    except InputError:
        return []
    return [r for r in records if r.outputs and r.split == "train"]


def _of_fingerprint(file: Path) -> dict[str, Any] | None:
    """Return the spacings and shapes that nnU-Net recorded, as i, j and k."""
    if not file.is_file():
        return None
    content = read_json(file)
    return _sizes(
        [row[::-1] for row in content["spacings"]],
        [row[::-1] for row in content["shapes_after_crop"]],
    )


def _of_records(records: Sequence[CaseRecord]) -> dict[str, Any] | None:
    places = [record.geometry for record in records if record.geometry]
    if not places:
        return None
    return _sizes([p.spacing_mm for p in places], [p.shape for p in places])


def _sizes(
    spacings_mm: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]
) -> dict[str, Any]:
    sizes: dict[str, Any] = {"cases": len(spacings_mm)}
    for name, rows in (("spacing_mm", spacings_mm), ("shape", shapes)):
        axes = list(zip(*rows, strict=True))
        sizes[f"smallest_{name}"] = list(map(min, axes))
        sizes[f"largest_{name}"] = list(map(max, axes))
    return sizes


def _looks_of(records: Sequence[CaseRecord]) -> dict[str, Any]:
    """Return the orientations and contrasts that the manifest names."""
    if not records:
        return {}
    contrasts = [record.contrast for record in records if record.contrast]
    modalities = {c.modality for c in contrasts if c.modality}
    kinds = {tuple(contrast_words(c.image_type)) for c in contrasts}
    echoes = [c.echo_time_ms for c in contrasts if c.echo_time_ms]
    geometries = [record.geometry for record in records if record.geometry]
    return {
        "orientations": sorted(
            {geometry.grid().axis_letters for geometry in geometries}
        ),
        "modalities": sorted(filter(WORD.fullmatch, modalities)) or None,
        "image_types": [list(kind) for kind in sorted(kinds)],
        "echo_times_ms": [min(echoes), max(echoes)] if echoes else None,
    }


def _orientations_in(dataset_dir: Path) -> dict[str, Any]:
    """Return the orientations of the training images of a raw dataset."""
    described, _ = readable_object(dataset_dir / "dataset.json")
    ending = str(described.get("file_ending", FILE_ENDING))
    images = images_by_case(dataset_dir / "imagesTr", ending).values()
    try:
        letters = {read_grid(files[0]).axis_letters for files in images}
    except BridgeError:
        return {}
    return {"orientations": sorted(letters)} if letters else {}


def known_structures(dataset: Dataset, model_dir: Path) -> TrainingStructures | None:
    """Return the ranges of a model's training labels; None where they are unknown."""
    origins = sorted(model_dir.glob(f"fold_*/{ORIGIN_FILE}"))
    try:
        if not origins:
            return _measured(dataset)
        content = readable_object(origins[0])[0].get("training_structures")
        return TrainingStructures.from_json(content) if content else None
    except BridgeError:  # the raw dataset is gone, or a file cannot be read
        return None


def _measured(dataset: Dataset) -> TrainingStructures | None:
    """Return the ranges of a dataset's labels; read them only if they are new."""
    raw = RawDataset.open(dataset.raw_dir)
    cases = raw.training_cases()
    if not cases:
        return None
    digest = hashlib.sha256(f"{MEASURED_AS} {raw.labels.names}".encode())
    for case in cases:
        digest.update(sha256_of(raw.label_file(case, "Tr")).encode())
        image = raw.image_files(case, "Tr")[0]
        size = image.stat().st_size if image.is_file() else 0
        digest.update(str(size).encode())
    facts = {"labels_sha256": digest.hexdigest()}
    kept = Kept(dataset.record_dir / STRUCTURES_FILE, facts)
    with contextlib.suppress(InputError):  # damaged: measured again
        if (content := kept.load()) is not None:
            return TrainingStructures.from_json(content)
    figures, edges = [], []
    for case in cases:
        labels = read_labelmap(raw.label_file(case, "Tr"), raw.labels)
        figures.append(structure_figures(labels.without_ignored()))
        image = raw.image_files(case, "Tr")[0]
        if image.is_file():
            edges.append(edge_strength(read_volume(image), labels))
    found = training_structures(figures, edges)
    kept.save(found.as_json())
    return found
