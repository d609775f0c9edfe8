"""What `run.json` holds: all that is needed to repeat a training, and how it ended.

No host, no user and no folder stands in it, so that it may be passed on: the command is
spelt from what was asked for, not copied from the terminal.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence

from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import now
from nnunet_bridge.core.version import software_versions
from nnunet_bridge.formats.files import read_json, sha256_of
from nnunet_bridge.formats.manifest import read_patient_groups
from nnunet_bridge.nnunet.machine import hardware
from nnunet_bridge.nnunet.methods import Method
from nnunet_bridge.nnunet.names import ON_ALL_CASES, Run
from nnunet_bridge.nnunet.runs import read_record, write_record
from nnunet_bridge.nnunet.splits import Splits
from nnunet_bridge.nnunet.training_options import SEED, TrainingOptions

_PACKAGES = (
    *("nnunet-bridge", "nnunetv2", "torch", "numpy", "SimpleITK"),
    *("batchgeneratorsv2", "dynamic-network-architectures"),
)
UNKNOWN_END = "killed, or the machine went down"


def origin_of(run: Run, dataset_state: str) -> dict[str, str]:
    """Return hashes of what a training is made from."""
    return {
        "dataset_state": dataset_state,
        "plans_sha256": sha256_of(run.plans_file),
        "splits_sha256": sha256_of(run.dataset.splits_file),
    }


def note_start(
    run: Run,
    method: Method,
    options: TrainingOptions,
    **more: object,
) -> None:
    """Write down what is trained, on what, and that it begins now.

    `more` is what else belongs into the record, such as `origin_of`.
    """
    attempts = _attempts(read_record(run))
    started = now()
    write_record(
        run,
        **_facts(run, method, options),
        **more,
        state="running",
        reason="",
        exit="",
        started=started,
        ended=None,
        seconds=None,
        attempts=[*attempts, {"started": started, "epoch": time.time()}],
    )


def note_end(run: Run, state: str, reason: str) -> None:
    """Write down how a training ended: ``done``, ``failed`` or ``stopped``."""
    attempts = _attempts(read_record(run))
    last = attempts[-1] if attempts else {}
    begun = last.get("epoch")
    seconds = round(time.time() - begun, 1) if isinstance(begun, float) else None
    word = {"done": "finished", "stopped": "interrupted"}.get(state, state)
    last |= {"ended": now(), "seconds": seconds, "exit": word}
    write_record(
        run,
        state=state,
        reason=reason,
        exit=word,
        ended=last["ended"],
        seconds=seconds,
        attempts=attempts,
    )


def _attempts(record: JsonObject) -> list[JsonObject]:
    """Return the starts so far; one that told no end was killed."""
    known = record.get("attempts")
    attempts: Sequence[object] = known if isinstance(known, list) else ()
    return [
        {"exit": UNKNOWN_END, **attempt}
        for attempt in attempts
        if isinstance(attempt, dict)
    ]


def _facts(run: Run, method: Method, options: TrainingOptions) -> JsonObject:
    """Return what a reader needs to repeat the training."""
    versions = software_versions(_PACKAGES)
    return {
        "command": [
            *("nnunet-bridge", "train", run.dataset.name, "-c", run.configuration),
            *("-f", str(run.fold), "--model", method.model),
            *("--budget", method.budget.name, *options.without_paths().words()),
        ],
        "dataset": run.dataset.name,
        "configuration": run.configuration,
        "fold": run.fold,
        "trainer": run.trainer,
        "plans": run.plans,
        "model": method.model,
        "budget": method.budget.name,
        "patients": _patients_trained_on(run),
        "seeds": {"python": SEED, "numpy": SEED, "torch": SEED},
        "versions": versions,
        "python": versions.pop("python"),
        "system": platform.system(),
        "hardware": hardware(),
    }


def _patients_trained_on(run: Run) -> int:
    """Return of how many patients the cases are that a run learns from."""
    splits: Splits = read_json(run.dataset.splits_file)
    if run.fold == ON_ALL_CASES:
        cases = {case for fold in splits for case in (*fold["train"], *fold["val"])}
    else:
        cases = set(splits[int(run.fold)]["train"])
    groups = read_patient_groups(run.dataset.raw_dir)
    return len({groups.get(case, case) for case in cases})
