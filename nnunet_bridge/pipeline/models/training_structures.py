"""What the labels that a model learnt from say of its structures.

Of a dataset that lies here, it is measured once and kept beside the records of its
trainings, with a hash of the labels: other labels are measured anew. A model from
elsewhere brings it along.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from nnunet_bridge.core.errors import BridgeError, InputError
from nnunet_bridge.core.quality import TrainingStructures
from nnunet_bridge.formats.files import read_json, sha256_of, write_json
from nnunet_bridge.formats.nifti import read_labelmap
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.names import Workspace
from nnunet_bridge.nnunet.runs import ORIGIN_FILE
from nnunet_bridge.ops.quality import structure_figures, training_structures

STRUCTURES_FILE = "training_structures.json"
MEASURED_AS = 1
"""Raise it when `ops.quality` measures something else: what is kept is then old."""


def known_structures(
    workspace: Workspace, dataset: str, model_dir: Path
) -> TrainingStructures | None:
    """Return the ranges of a model's training labels, or None where nobody knows them.

    Parameters
    ----------
    workspace : Workspace
    dataset : str
        Its full name.
    model_dir : Path
        The folder of the model's folds.
    """
    origins = sorted(model_dir.glob(f"fold_*/{ORIGIN_FILE}"))
    if origins:
        return _brought_along(origins[0])
    folder = workspace.dataset_dir(dataset)
    try:
        return _measured(RawDataset.open(folder), workspace.record_dir(dataset))
    except BridgeError:  # no raw dataset any more, or one that nobody can read
        return None


def _brought_along(origin: Path) -> TrainingStructures | None:
    try:
        content = read_json(origin).get("training_structures")
        return TrainingStructures.from_json(content) if content else None
    except (InputError, ValueError, AttributeError):
        return None


def _measured(raw: RawDataset, record_dir: Path) -> TrainingStructures | None:
    """Return what the labels of a dataset say; read them only if they are new."""
    cases = raw.training_cases()
    if not cases:
        return None
    state = _state_of(raw, cases)
    file = record_dir / STRUCTURES_FILE
    kept = _kept(file, state)
    if kept is not None:
        return kept
    found = training_structures(
        structure_figures(
            read_labelmap(raw.label_file(case, "Tr"), raw.labels).without_ignored()
        )
        for case in cases
    )
    write_json(file, {"labels_sha256": state, **found.as_json()})
    return found


def _kept(file: Path, state: str) -> TrainingStructures | None:
    try:
        content = read_json(file)
        same = content["labels_sha256"] == state
        return TrainingStructures.from_json(content) if same else None
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None


def _state_of(raw: RawDataset, cases: list[str]) -> str:
    """Return a hash of all training labels and their names."""
    digest = hashlib.sha256(f"{MEASURED_AS} {raw.labels.names}".encode())
    for case in cases:
        digest.update(sha256_of(raw.label_file(case, "Tr")).encode())
    return digest.hexdigest()
