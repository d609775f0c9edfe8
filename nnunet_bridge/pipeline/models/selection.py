"""The choice among finished models, kept on the disk until one of them changes.

`choice.json` names every checkpoint that was weighed. It speaks only while exactly
these are there: a fold trained since, or trained anew, makes it out of date.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.files import readable_object, sha256_of
from nnunet_bridge.nnunet.methods import METHODS
from nnunet_bridge.nnunet.names import (
    ON_ALL_CASES,
    Dataset,
    Workspace,
)
from nnunet_bridge.nnunet.runs import RunState, known_runs

CHOICE_FILE = "choice.json"


@dataclass(frozen=True, slots=True)
class KeptChoice:
    """What `select` chose."""

    model: str
    """As `--model` calls it."""

    budget: str
    configurations: tuple[str, ...]
    reason: str


def choice_file(workspace: Workspace, dataset: str) -> Path:
    """Return where the choice of a dataset is kept."""
    return workspace.record_dir(dataset) / CHOICE_FILE


def current_choice(
    workspace: Workspace, dataset: str, budget: str | None = None
) -> tuple[KeptChoice | None, str]:
    """Return the choice, or None and why it does not speak.

    The reason is empty where nothing was ever chosen for this budget.
    """
    content, damage = readable_object(choice_file(workspace, dataset))
    if not content or damage:
        return None, damage
    states = weighable(known_runs(Dataset(workspace, dataset)), budget)
    if not states or content.get("budget") != states[0].budget:
        return None, ""
    if content.get("checkpoints") != checkpoints_of(states):
        return None, "the choice is out of date, `select` makes it anew"
    chosen = content.get("chosen") or {}
    return (
        KeptChoice(
            str(chosen.get("model")),
            states[0].budget,
            tuple(chosen.get("configurations") or ()),
            str(content.get("reason")),
        ),
        "",
    )


def weighable(states: Sequence[RunState], budget: str | None = None) -> list[RunState]:
    """Return the numbered folds that are done, of one budget.

    Without a budget, of the largest that has some.
    """
    done = [s for s in states if s.done and s.run.fold != ON_ALL_CASES]
    for name in dict.fromkeys(name for _, name in METHODS):
        found = [s for s in done if s.budget == name]
        if found and budget in (None, name):
            return found
    return []


def checkpoints_of(states: Sequence[RunState]) -> JsonObject:
    """Return a hash of every checkpoint, by the folder that holds it."""
    return {
        f"{state.run.model_dir.name}/fold_{state.run.fold}": fingerprint(
            state.run.checkpoint_file
        )
        for state in states
    }


def fingerprint(checkpoint: Path) -> str:
    """Return a hash of a checkpoint by the checksums of its parts, unread.

    A checkpoint is a zip, whose directory holds a CRC-32 and the size of every tensor:
    enough to notice another training, and a thousandth of the reading.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            parts = [(p.filename, p.CRC, p.file_size) for p in archive.infolist()]
    except (OSError, zipfile.BadZipFile):
        return sha256_of(checkpoint) if checkpoint.is_file() else ""
    return hashlib.sha256(repr(sorted(parts)).encode()).hexdigest()
