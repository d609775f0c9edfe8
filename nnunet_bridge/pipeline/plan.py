"""Verify, plan and preprocess a dataset, and split it by patient.

What was planned is noted beside our records together with the state of the dataset, so
that a second call does nothing, and a changed dataset is never trained on old plans.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from nnunet_bridge.core.errors import EnvironmentFault, InputError, UsageError
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.contents import Content, contents_of
from nnunet_bridge.formats.files import (
    clear_os_errors,
    only_writer,
    read_json,
    write_json,
)
from nnunet_bridge.formats.manifest import read_patient_groups, require_sound
from nnunet_bridge.nnunet.commands import (
    nnunet_environment,
    plan_command,
    run_to_end,
    shared_among,
)
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.machine import this_machine
from nnunet_bridge.nnunet.names import FILE_ENDING, Workspace
from nnunet_bridge.nnunet.plans import STOCK_PLANS
from nnunet_bridge.nnunet.runs import known_runs
from nnunet_bridge.nnunet.splits import Splits, Splitting

Contents: TypeAlias = dict[str, Content]


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What was planned."""

    dataset: str
    plans: str
    configurations: dict[str, JsonObject]
    folds: int
    already_done: bool
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return the object that `plan --json` prints."""
        return {
            "dataset": self.dataset,
            "plans": self.plans,
            "configurations": self.configurations,
            "folds": self.folds,
        }

    def as_text(self) -> str:
        """Return one line a configuration."""
        done = " (nothing had changed)" if self.already_done else ""
        lines = [f"{self.dataset}: planned for {self.folds} folds{done}."]
        for name, facts in self.configurations.items():
            patch = " x ".join(str(edge) for edge in facts["patch_size"])
            lines.append(
                f"  {name:12} patch {patch}, batch {facts['batch_size']}, "
                f"{facts['stages']} stages up to {facts['features']} features"
            )
        return "\n".join(lines)


def plan_dataset(
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str],
    *,
    splitting: Splitting | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> PlanSummary:
    """Verify, plan and preprocess a dataset, and split it by patient.

    Parameters
    ----------
    workspace : Workspace
    dataset : str
        Full name.
    configurations : sequence of str
    splitting : Splitting, optional
        By default five folds by patient; where the dataset is planned already, the
        splits that are there.
    force : bool
        Plan again what is planned.
    progress : Progress, optional

    Raises
    ------
    InputError
        If our check, or nnU-Net's, finds the dataset wrong.
    NnUNetError
        If nnU-Net fails.
    EnvironmentFault
        If another process works on the dataset, or the disk refuses.
    """
    shown = progress or Silent()
    raw = RawDataset.open(workspace.dataset_dir(dataset))
    state = dataset_state(workspace, raw)
    planned = _is_planned(workspace, dataset, configurations, state)
    if planned and not force and splitting is None:
        return _plan_summary(workspace, dataset, configurations, already_done=True)
    cases = raw.training_cases()
    shown.stage("plan", 1 + len(cases) * len(configurations))
    require_sound(raw.folder)
    holds = raw.check()
    splits = (splitting or Splitting()).splits(_patients(raw), holds)
    planned_dir = workspace.planned_dir(dataset)
    with only_writer(workspace.dataset_lock(dataset), f"Dataset {dataset}"):
        _require_no_training(workspace, dataset)
        kept = [] if force else _planned_before(workspace, dataset, state)
        if not kept:
            _forget_plan(workspace, dataset)
        with clear_os_errors(f"write {planned_dir}"):
            planned_dir.mkdir(parents=True, exist_ok=True)
        if splitting is not None or not kept:
            write_json(workspace.splits_file(dataset), splits)
        shown.advance(1)
        new = [name for name in configurations if name not in kept]
        if new:
            _plan_and_preprocess(workspace, dataset, new, shown)
        before = _left_behind(workspace, dataset) if kept else {}
        write_json(
            _marker(workspace, dataset),
            {
                "dataset_state": state,
                "configurations": [*kept, *new],
                "preprocessed": {
                    name: _preprocessed(workspace, dataset, name, before.get(name, {}))
                    for name in (*kept, *new)
                },
            },
        )
    return _plan_summary(workspace, dataset, configurations, already_done=False)


def _plan_and_preprocess(
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str],
    progress: Progress,
) -> None:
    # nnU-Net's planner takes the number of loaders as a number of threads: never 0.
    resources = replace(shared_among(1, "cpu", this_machine()), loaders=1)
    log_file = workspace.record_dir(dataset) / "plan.log"
    log_file.unlink(missing_ok=True)
    planned_dir = workspace.planned_dir(dataset)
    for _ in run_to_end(
        plan_command(dataset, configurations, resources),
        nnunet_environment(workspace, resources, os.environ),
        log_file,
        f"plan {dataset}",
    ):
        progress.advance(1 + len(list(planned_dir.glob("*/*.pkl"))))
    log = log_file.read_text(encoding="utf-8", errors="replace")
    for warning in ("Origin mismatch", "Direction mismatch"):
        if warning in log:
            raise InputError(
                f"nnU-Net reports '{warning}' for {dataset}: an image and its label "
                f"do not lie in the same place. See {log_file}.",
                code="N01",
            )


def require_plan(
    workspace: Workspace, dataset: str, configurations: Sequence[str]
) -> str:
    """Return the planned state of the dataset; refuse one that is not planned.

    Raises
    ------
    InputError
        If it was never planned, or changed since (FAULTS N06); or what planning made
        of it is damaged (N04).
    """
    raw = RawDataset.open(workspace.dataset_dir(dataset))
    marker = _marker(workspace, dataset)
    if not marker.exists():
        raise InputError(
            f"{dataset} is not planned: run `nnunet-bridge plan {dataset}` first."
        )
    state = dataset_state(workspace, raw)
    if not _is_planned(workspace, dataset, configurations, state):
        raise InputError(
            f"{dataset} has changed since it was planned, or lacks one of "
            f"{', '.join(configurations)}: run `nnunet-bridge plan {dataset}` again.",
            code="N06",
        )
    _require_whole(workspace, dataset, configurations)
    return state


def _require_no_training(workspace: Workspace, dataset: str) -> None:
    """Refuse to remove the data under a training (FAULTS F08)."""
    running = [s for s in known_runs(workspace, dataset) if s.state == "running"]
    if running:
        names = ", ".join(f"{s.run.configuration} fold {s.run.fold}" for s in running)
        raise EnvironmentFault(
            f"{dataset} is being trained ({names}): wait for it to end, or stop it.",
            code="F08",
        )


def _planned_before(workspace: Workspace, dataset: str, state: str) -> list[str]:
    """Return the configurations that are planned for this very state."""
    marker = _marker(workspace, dataset)
    if not marker.exists() or not _is_planned(workspace, dataset, [], state):
        return []
    return list(read_json(marker)["configurations"])


def _is_planned(
    workspace: Workspace, dataset: str, configurations: Sequence[str], state: str
) -> bool:
    marker = _marker(workspace, dataset)
    plans_file = workspace.plans_file(dataset, STOCK_PLANS)
    if not (marker.exists() and plans_file.exists()):
        return False
    known = read_json(marker)
    return (
        known["dataset_state"] == state
        and set(configurations) <= set(known["configurations"])
        and workspace.splits_file(dataset).exists()
    )


def _forget_plan(workspace: Workspace, dataset: str) -> None:
    """Remove what nnU-Net would take over from an older version of the dataset."""
    _marker(workspace, dataset).unlink(missing_ok=True)
    planned_dir = workspace.planned_dir(dataset)
    for stale in ("dataset_fingerprint.json", f"{STOCK_PLANS}.json", "dataset.json"):
        (planned_dir / stale).unlink(missing_ok=True)
    for folder in (
        "gt_segmentations",
        *(f.name for f in planned_dir.glob("nnUNetPlans_*")),
    ):
        shutil.rmtree(planned_dir / folder, ignore_errors=True)


def _plan_summary(
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str],
    *,
    already_done: bool,
) -> PlanSummary:
    plans = read_json(workspace.plans_file(dataset, STOCK_PLANS))
    facts: dict[str, JsonObject] = {}
    for name in configurations:
        if name not in plans["configurations"]:
            raise UsageError(
                f"nnU-Net plans no {name} for {dataset}; it plans "
                f"{', '.join(plans['configurations'])}."
            )
        planned = plans["configurations"][name]
        architecture = planned["architecture"]["arch_kwargs"]
        facts[name] = {
            "patch_size": planned["patch_size"],
            "batch_size": planned["batch_size"],
            "spacing_mm": planned["spacing"],
            "stages": architecture["n_stages"],
            "features": architecture["features_per_stage"][-1],
        }
    splits: Splits = read_json(workspace.splits_file(dataset))
    return PlanSummary(dataset, STOCK_PLANS, facts, len(splits), already_done)


def _patients(raw: RawDataset) -> dict[str, str]:
    """Return the patient of every training case; by default a case is its own."""
    known = read_patient_groups(raw.folder)
    return {case: known.get(case, case) for case in raw.training_cases()}


def dataset_state(workspace: Workspace, raw: RawDataset) -> str:
    """Return a hash that changes when the training data do (FAULTS F09, N06)."""
    cache = workspace.record_dir(raw.folder.name) / "files.json"
    known = read_json(cache) if cache.exists() else {}
    files = [
        file
        for folder in ("imagesTr", "labelsTr")
        for file in sorted((raw.folder / folder).glob(f"*{FILE_ENDING}"))
    ]
    found = contents_of(files, raw.folder, known)
    if found != known:
        write_json(cache, found)
    hashes = {name: content["sha256"] for name, content in found.items()}
    content = [hashes, read_json(raw.folder / "dataset.json")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _preprocessed(
    workspace: Workspace, dataset: str, configuration: str, known: Contents
) -> Contents:
    """Return what the preprocessed cases of a configuration hold now."""
    planned_dir = workspace.planned_dir(dataset)
    plans = read_json(workspace.plans_file(dataset, STOCK_PLANS))
    folder = planned_dir / plans["configurations"][configuration]["data_identifier"]
    return contents_of(sorted(folder.glob("*")), planned_dir, known)


def _left_behind(workspace: Workspace, dataset: str) -> dict[str, Contents]:
    """Return what the preprocessed cases of every configuration held after planning."""
    left: dict[str, Contents] = read_json(_marker(workspace, dataset))["preprocessed"]
    return left


def _require_whole(
    workspace: Workspace, dataset: str, configurations: Sequence[str]
) -> None:
    """Refuse preprocessed cases that are not as planning left them (FAULTS N04).

    Raises
    ------
    InputError
        Naming the files.
    """
    left = _left_behind(workspace, dataset)
    for configuration in configurations:
        then = left.get(configuration, {})
        now = _preprocessed(workspace, dataset, configuration, then)
        damaged = sorted(
            name
            for name in then
            if name not in now or now[name]["sha256"] != then[name]["sha256"]
        )
        if damaged:
            more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""  # noqa: PLR2004 - a few names tell enough
            raise InputError(
                f"Preprocessed data of {dataset} {configuration} are missing or "
                f"changed ({', '.join(damaged[:3])}{more}): run `nnunet-bridge plan "
                f"{dataset} --force`.",
                code="N04",
            )


def _marker(workspace: Workspace, dataset: str) -> Path:
    return workspace.record_dir(dataset) / "planned.json"
