"""The structures in the labels that a model was trained on: volumes, shapes, pieces.

They are measured once for a dataset and kept beside the records of its runs, with a
hash of the labels. An unpacked model brings its own.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from nnunet_bridge.core.errors import BridgeError, InputError
from nnunet_bridge.core.quality import TrainingStructures
from nnunet_bridge.formats.files import readable_object, sha256_of
from nnunet_bridge.formats.kept import Kept
from nnunet_bridge.formats.nifti import read_labelmap
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.nnunet.runs import ORIGIN_FILE
from nnunet_bridge.ops.quality import structure_figures, training_structures

STRUCTURES_FILE = "training_structures.json"
MEASURED_AS = 2
"""Increase it when `ops.quality` measures something else: kept results are then old."""


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
    facts = {"labels_sha256": digest.hexdigest()}
    kept = Kept(dataset.record_dir / STRUCTURES_FILE, facts)
    with contextlib.suppress(InputError):  # damaged: measured again
        if (content := kept.load()) is not None:
            return TrainingStructures.from_json(content)
    found = training_structures(
        structure_figures(
            read_labelmap(raw.label_file(case, "Tr"), raw.labels).without_ignored()
        )
        for case in cases
    )
    kept.save(found.as_json())
    return found
