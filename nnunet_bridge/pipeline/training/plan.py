"""Verify, plan and preprocess a dataset, and split it by patient.

What was planned is noted beside our records together with the state of the dataset, so
that a second call does nothing, and a changed dataset is never trained on old plans.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_bridge.core.errors import (
    EnvironmentFault,
    InputError,
    NnUNetError,
    UsageError,
    WorkerKilled,
)
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import PlannerName
from nnunet_bridge.formats.contents import contents_of
from nnunet_bridge.formats.files import (
    clear_os_errors,
    only_writer,
    read_json,
    write_json,
)
from nnunet_bridge.formats.manifest import read_patient_groups, require_sound
from nnunet_bridge.nnunet.commands import (
    PlanTask,
    Resources,
    nnunet_environment,
    plan_command,
    run_to_end,
    shared_among,
)
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.machine import this_machine
from nnunet_bridge.nnunet.names import FILE_ENDING, Dataset, Workspace
from nnunet_bridge.nnunet.planned import (
    Planned,
    identifier_of,
    not_planned,
    planned_file,
    preprocessed_now,
    unfinished_cases,
    with_previous_stages,
)
from nnunet_bridge.nnunet.plans import (
    CASCADE,
    LOWRES,
    PLANNERS,
    STOCK_PLANS,
    plan_words,
    resolved,
)
from nnunet_bridge.nnunet.runs import known_runs
from nnunet_bridge.nnunet.splits import Splits, Splitting
from nnunet_bridge.pipeline.training.memory import (
    PlanEstimates,
    estimates_of,
    preprocessing_bytes,
)


@dataclass(frozen=True, slots=True)
class PlanningOptions:
    """How a dataset is planned, beside which configurations."""

    planners: tuple[str, ...] = (PlannerName.DEFAULT,)
    """Words of `--planner`."""

    splitting: Splitting | None = None
    """By default five folds by patient; where the dataset is planned already, the
    splits that are there."""

    own_arguments: tuple[str, ...] | None = None
    """nnU-Net's own, for every planner; by default those of the plans already there."""

    force: bool = False
    """Plan again what is planned."""


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What was planned."""

    dataset: str
    planners: Mapping[str, Mapping[str, JsonObject]]
    """Word of a planner -> configuration -> its facts."""

    folds: int
    already_done: bool
    estimates: PlanEstimates
    warnings: tuple[str, ...] = ()
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return the object that `plan --json` prints."""
        first = next(iter(self.planners))
        return {
            "dataset": self.dataset,
            "plans": PLANNERS[first].plans,
            "configurations": dict(self.planners[first]),
            "folds": self.folds,
            "planners": {
                word: {"plans": PLANNERS[word].plans, "configurations": dict(facts)}
                for word, facts in self.planners.items()
            },
            "estimates": self.estimates.as_json(),
            "warnings": list(self.warnings),
        }

    def as_text(self) -> str:
        """Return one line a configuration, then what each will take."""
        done = " (nothing had changed)" if self.already_done else ""
        lines = [f"{self.dataset}: planned for {self.folds} folds{done}."]
        for word, configurations in self.planners.items():
            if len(self.planners) > 1 or word != PlannerName.DEFAULT:
                lines.append(f" planner {word}:")
            for name, facts in configurations.items():
                patch = " x ".join(str(edge) for edge in facts["patch_size"])
                lines.append(
                    f"  {name:18} patch {patch}, batch {facts['batch_size']}, "
                    f"{facts['stages']} stages up to {facts['features']} features"
                )
        return "\n".join([*lines, *self.warnings, *self.estimates.as_lines()])


def plan_dataset(
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str],
    options: PlanningOptions | None = None,
    *,
    progress: Progress | None = None,
) -> PlanSummary:
    """Verify, plan and preprocess a dataset, and split it by patient.

    A planner or configuration that is planned stays planned when another is added;
    what several of them share is preprocessed once. ``3d_cascade_fullres`` brings the
    ``3d_lowres`` that it builds upon.

    Parameters
    ----------
    workspace : Workspace
    dataset : str
        Full name.
    configurations : sequence of str
    options : PlanningOptions, optional
    progress : Progress, optional

    Raises
    ------
    InputError
        If our check, or nnU-Net's, finds the dataset wrong.
    UsageError
        If nnU-Net plans no such configuration: its images are too small.
    NnUNetError
        If nnU-Net fails; `WorkerKilled` if one of its processes was killed, also with
        half the workers (F11).
    EnvironmentFault
        If another process works on the dataset, or the disk refuses.
    """
    shown, wishes = progress or Silent(), options or PlanningOptions()
    raw = RawDataset.open(workspace.dataset_dir(dataset))
    state = dataset_state(workspace, raw)
    wanted = dict.fromkeys(wishes.planners, with_previous_stages(tuple(configurations)))
    kept = _kept(workspace, dataset, state, wishes)
    if kept is not None:
        _require_planned(workspace, dataset, wanted, kept)
        if wishes.splitting is None and not kept.lacks(wanted):
            return _plan_summary(workspace, dataset, wanted, already_done=True)
    job = _Planning(workspace, raw, state, wishes, kept, wanted)
    warnings = job.do(shown)
    _require_planned(workspace, dataset, wanted, None)
    summary = _plan_summary(workspace, dataset, wanted, already_done=False)
    return replace(summary, warnings=tuple(warnings))


@dataclass(frozen=True, slots=True)
class _Planning:
    """One call of nnU-Net's planner and what goes with it."""

    workspace: Workspace
    raw: RawDataset
    state: str
    wishes: PlanningOptions
    kept: Planned | None
    """What holds still."""

    wanted: Mapping[str, tuple[str, ...]]
    """Word of a planner -> configurations."""

    @property
    def dataset(self) -> str:
        return self.raw.folder.name

    def do(self, progress: Progress) -> list[str]:
        """Check, split, plan and preprocess what is missing; return warnings."""
        known = self.kept or Planned(
            self.state, own_arguments=self.wishes.own_arguments or ()
        )
        lacking = known.lacks(self.wanted)
        units = sum(len(names) for names in lacking.values())
        progress.stage("plan", 1 + len(self.raw.training_cases()) * units)
        require_sound(self.raw.folder)
        holds = self.raw.check()
        splitting = self.wishes.splitting or Splitting()
        splits = splitting.splits(_patients(self.raw), holds)
        lock = self.workspace.dataset_lock(self.dataset)
        with only_writer(lock, f"Dataset {self.dataset}"):
            _require_no_training(self.workspace, self.dataset)
            self._make_room(splits)
            progress.advance(1)
            warnings = []
            if lacking:
                warnings = self._call_nnunet(known, lacking, progress)
            self._record(known)
        return warnings

    def _make_room(self, splits: Splits) -> None:
        """Remove what no longer holds, and write the splits."""
        planned_dir = self.workspace.planned_dir(self.dataset)
        if self.kept is None:
            _forget_plan(self.workspace, self.dataset)
        with clear_os_errors(f"write {planned_dir}"):
            planned_dir.mkdir(parents=True, exist_ok=True)
        if self.wishes.splitting is not None or self.kept is None:
            write_json(self.workspace.splits_file(self.dataset), splits)

    def _call_nnunet(
        self, known: Planned, lacking: Mapping[str, Sequence[str]], progress: Progress
    ) -> list[str]:
        """Plan and preprocess; once more with half the workers if one was killed."""
        task = PlanTask(
            Dataset(self.workspace, self.dataset),
            fingerprint=self.kept is None,
            planners=tuple(
                PLANNERS[word] for word in lacking if word not in known.planners
            ),
            preprocess=tuple(
                (PLANNERS[word].plans, name)
                for word, names in lacking.items()
                for name in names
            ),
            have=tuple(known.preprocessed),
            own_arguments=known.own_arguments,
        )
        worker_bytes = preprocessing_bytes(self.raw)
        # nnU-Net's planner takes the number of loaders as a number of threads: never 0.
        resources = shared_among(1, "cpu", this_machine(), worker_bytes=worker_bytes)
        resources = replace(resources, loaders=1)
        log_file = self.workspace.record_dir(self.dataset) / "plan.log"
        log_file.unlink(missing_ok=True)
        warnings: list[str] = []
        while True:
            try:
                self._run(task, resources, log_file, progress)
            except WorkerKilled as error:
                told = self._told(error, known)
                if warnings or resources.workers == 1:
                    self._record(known, failure=told)
                    raise WorkerKilled(told) from error
                fewer = max(1, resources.workers // 2)
                warnings.append(
                    f"[F11] {told} Tried again with {fewer} of "
                    f"{resources.workers} workers."
                )
                resources = replace(resources, workers=fewer)
                self._remove_unfinished(known)
            except NnUNetError as error:
                self._record(known, failure=str(error))
                raise
            else:
                break
        _require_no_mismatch(self.dataset, log_file)
        return warnings

    def _run(
        self, task: PlanTask, resources: Resources, log_file: Path, progress: Progress
    ) -> None:
        planned_dir = self.workspace.planned_dir(self.dataset)
        before = len(list(planned_dir.glob("*/*.pkl")))
        for _ in run_to_end(
            plan_command(task, resources),
            nnunet_environment(self.workspace, resources, os.environ),
            log_file,
            f"plan {self.dataset}",
        ):
            progress.advance(1 + len(list(planned_dir.glob("*/*.pkl"))) - before)

    def _told(self, error: WorkerKilled, known: Planned) -> str:
        """Return the failure with the case that was being worked on."""
        folder = self._unfinished_folder(known)
        if folder is None:
            return f"{error} It happened while the images were read for planning."
        left = unfinished_cases(folder, self.raw.training_cases())
        some = " or ".join(left[:2]) if left else "the last case"
        return f"{error} It happened while preprocessing {some} ({folder.name})."

    def _unfinished_folder(self, known: Planned) -> Path | None:
        """Return the folder of preprocessed data that was written last."""
        planned_dir = self.workspace.planned_dir(self.dataset)
        found = [
            folder
            for folder in planned_dir.glob("*Plans*_*")
            if folder.is_dir() and folder.name not in known.preprocessed
        ]
        return max(found, key=lambda folder: folder.stat().st_mtime_ns, default=None)

    def _remove_unfinished(self, known: Planned) -> None:
        folder = self._unfinished_folder(known)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _record(self, known: Planned, failure: str = "") -> None:
        """Write down what is there now; what a failed call left half is removed."""
        planners = {word: tuple(names) for word, names in known.planners.items()}
        if failure:
            self._remove_unfinished(known)
        else:
            absent = not_planned(Dataset(self.workspace, self.dataset), self.wanted)
            for word, names in self.wanted.items():
                there = [n for n in names if n not in absent.get(word, ())]
                both = (*planners.get(word, ()), *there)
                planners[word] = tuple(dict.fromkeys(both))
        identifiers = {
            identifier_of(
                Dataset(self.workspace, self.dataset), PLANNERS[word].plans, name
            )
            for word, names in planners.items()
            for name in names
        }
        replace(
            known,
            planners={word: names for word, names in planners.items() if names},
            preprocessed={
                identifier: preprocessed_now(
                    Dataset(self.workspace, self.dataset),
                    identifier,
                    known.preprocessed.get(identifier, {}),
                )
                for identifier in sorted(identifiers)
            },
            failure=failure,
        ).write(Dataset(self.workspace, self.dataset))


def _require_no_mismatch(dataset: str, log_file: Path) -> None:
    """Refuse what nnU-Net only warns of."""
    log = log_file.read_text(encoding="utf-8", errors="replace")
    for warning in ("Origin mismatch", "Direction mismatch"):
        if warning in log:
            raise InputError(
                f"nnU-Net reports '{warning}' for {dataset}: an image and its label "
                f"do not lie in the same place. See {log_file}.",
                code="N01",
            )


def _kept(
    workspace: Workspace, dataset: str, state: str, wishes: PlanningOptions
) -> Planned | None:
    """Return the plans that still hold for what is asked; None if none do."""
    known = Planned.read(Dataset(workspace, dataset))
    if known is None or wishes.force or not _holds(workspace, dataset, known, state):
        return None
    asked = wishes.own_arguments
    return known if asked in (None, known.own_arguments) else None


def _holds(workspace: Workspace, dataset: str, known: Planned, state: str) -> bool:
    """Whether what is recorded is there, and for this state of the dataset."""
    files = [
        workspace.splits_file(dataset),
        *(workspace.plans_file(dataset, PLANNERS[w].plans) for w in known.planners),
    ]
    return (
        known.dataset_state == state
        and bool(known.planners)
        and all(file.exists() for file in files)
    )


def _require_planned(
    workspace: Workspace,
    dataset: str,
    wanted: Mapping[str, tuple[str, ...]],
    kept: Planned | None,
) -> None:
    """Refuse configurations that nnU-Net's plans do not hold.

    Raises
    ------
    UsageError
        Saying which there are.
    """
    if kept is not None:
        wanted = {w: names for w, names in wanted.items() if w in kept.planners}
    faults = []
    for word, absent in not_planned(Dataset(workspace, dataset), wanted).items():
        plans = read_json(workspace.plans_file(dataset, PLANNERS[word].plans))
        small = ""
        if set(absent) & {LOWRES, CASCADE}:
            small = ", because its images are too small to need a coarser stage"
        names = " and ".join(name for name in absent)
        faults.append(
            f"nnU-Net plans no {names} for {dataset}{small}; with the planner {word} "
            f"it plans {', '.join(plans['configurations'])}."
        )
    if faults:
        raise UsageError("\n".join(faults))


def require_plan(
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str],
    *,
    stock_plans: str = STOCK_PLANS,
) -> str:
    """Return the planned state of the dataset; refuse one that is not planned.

    Parameters
    ----------
    workspace : Workspace
    dataset : str
        Full name.
    configurations : sequence of str
    stock_plans : str
        Name of the plans of nnU-Net's planner that are needed.

    Raises
    ------
    InputError
        If it was never planned, or changed since (FAULTS N06); or what planning made
        of it is damaged (N04).
    UsageError
        If nnU-Net plans no such configuration.
    """
    raw = RawDataset.open(workspace.dataset_dir(dataset))
    words = plan_words(dataset, stock_plans)
    planner = next(w for w, p in PLANNERS.items() if p.plans == stock_plans)
    known = Planned.read(Dataset(workspace, dataset))
    if known is None:
        raise InputError(f"{dataset} is not planned: run `{words}` first.")
    if not known.planners and known.failure:
        raise InputError(
            f"{dataset} is not planned, the last try failed: {known.failure} Then run "
            f"`{words}` again."
        )
    state = dataset_state(workspace, raw)
    if not _holds(workspace, dataset, known, state):
        raise InputError(
            f"{dataset} has changed since it was planned: run `{words}` again.",
            code="N06",
        )
    if planner not in known.planners:
        raise InputError(
            f"{dataset} has no plans of the planner {planner}: run `{words}`."
        )
    wanted = {planner: with_previous_stages(tuple(configurations))}
    _require_planned(workspace, dataset, wanted, known)
    lacking = known.lacks(wanted).get(planner)
    if lacking:
        named = " ".join(f"-c {name}" for name in lacking)
        raise InputError(
            f"{dataset} is not planned for {' and '.join(lacking)}: run "
            f"`{words} {named}`.",
            code="N06",
        )
    _require_whole(workspace, dataset, known, stock_plans, wanted[planner])
    return state


def _require_no_training(workspace: Workspace, dataset: str) -> None:
    """Refuse to remove the data under a training (FAULTS F08)."""
    running = [
        s for s in known_runs(Dataset(workspace, dataset)) if s.state == "running"
    ]
    if running:
        names = ", ".join(f"{s.run.configuration} fold {s.run.fold}" for s in running)
        raise EnvironmentFault(
            f"{dataset} is being trained ({names}): wait for it to end, or stop it.",
            code="F08",
        )


def _forget_plan(workspace: Workspace, dataset: str) -> None:
    """Remove what nnU-Net would take over from an older version of the dataset."""
    planned_file(Dataset(workspace, dataset)).unlink(missing_ok=True)
    planned_dir = workspace.planned_dir(dataset)
    stale = ["gt_segmentations"]
    for name in ("dataset_fingerprint.json", "dataset.json"):
        (planned_dir / name).unlink(missing_ok=True)
    for planner in PLANNERS.values():
        (planned_dir / f"{planner.plans}.json").unlink(missing_ok=True)
        stale += [folder.name for folder in planned_dir.glob(f"{planner.plans}_*")]
    for folder in stale:
        shutil.rmtree(planned_dir / folder, ignore_errors=True)


def _plan_summary(
    workspace: Workspace,
    dataset: str,
    wanted: Mapping[str, tuple[str, ...]],
    *,
    already_done: bool,
) -> PlanSummary:
    planners = {
        word: {
            name: _facts(workspace, dataset, PLANNERS[word].plans, name)
            for name in names
        }
        for word, names in wanted.items()
    }
    splits: Splits = read_json(workspace.splits_file(dataset))
    estimates = estimates_of(workspace, dataset, wanted)
    return PlanSummary(dataset, planners, len(splits), already_done, estimates)


def _facts(
    workspace: Workspace, dataset: str, plans: str, configuration: str
) -> JsonObject:
    content = read_json(workspace.plans_file(dataset, plans))
    planned = resolved(content, configuration)
    architecture = planned["architecture"]["arch_kwargs"]
    return {
        "patch_size": planned["patch_size"],
        "batch_size": planned["batch_size"],
        "spacing_mm": planned["spacing"],
        "stages": architecture["n_stages"],
        "features": architecture["features_per_stage"][-1],
    }


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


def _require_whole(
    workspace: Workspace,
    dataset: str,
    known: Planned,
    plans: str,
    configurations: Sequence[str],
) -> None:
    """Refuse preprocessed cases that are not as planning left them (FAULTS N04).

    Raises
    ------
    InputError
        Naming the files.
    """
    for configuration in configurations:
        identifier = identifier_of(Dataset(workspace, dataset), plans, configuration)
        then = known.preprocessed.get(identifier, {})
        now = preprocessed_now(Dataset(workspace, dataset), identifier, then)
        damaged = sorted(
            name
            for name in then
            if name not in now or now[name]["sha256"] != then[name]["sha256"]
        )
        if damaged:
            more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""  # noqa: PLR2004 - a few names tell enough
            raise InputError(
                f"Preprocessed data of {dataset} {configuration} are missing or "
                f"changed ({', '.join(damaged[:3])}{more}): run `"
                f"{plan_words(dataset, plans)} --force`.",
                code="N04",
            )
