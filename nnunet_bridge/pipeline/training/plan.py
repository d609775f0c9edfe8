"""Verify, plan and preprocess a dataset, and split it by patient.

What was planned is recorded together with the state of the dataset, so that a second
call does nothing, and a changed dataset is never trained on old plans.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_bridge.core.errors import (
    EnvironmentFault,
    InputError,
    NnUNetError,
    WorkerKilled,
)
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import ALWAYS_PLANNED, PlannerName, RunStatus
from nnunet_bridge.formats.files import (
    clear_os_errors,
    only_writer,
    read_json,
    refuse_links,
    write_json,
)
from nnunet_bridge.formats.manifest import read_patient_groups, require_sound
from nnunet_bridge.nnunet import planned
from nnunet_bridge.nnunet.commands import PlanTask, Resources, plan_command
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.names import NOT_IN_PLACE, Dataset
from nnunet_bridge.nnunet.plans import PLANNERS, resolved
from nnunet_bridge.nnunet.runs import known_runs
from nnunet_bridge.nnunet.splits import Splits, Splitting
from nnunet_bridge.pipeline.training import memory, planned_data


@dataclass(frozen=True, slots=True)
class PlanningOptions:
    """The plans to make for a dataset."""

    configurations: tuple[str, ...] = ALWAYS_PLANNED
    """``3d_cascade_fullres`` brings the ``3d_lowres`` that it builds upon."""

    planners: tuple[str, ...] = (PlannerName.DEFAULT,)
    """Words of `--planner`."""

    splitting: Splitting | None = None
    """By default five folds by patient; where the dataset is planned already, the
    splits that are there."""

    own_arguments: tuple[str, ...] | None = None
    """nnU-Net's own, for every planner; by default those of the plans already there."""

    force: bool = False
    """Plan again what is planned."""

    def wanted(self) -> dict[str, tuple[str, ...]]:
        """Return the configurations of each planner, with their previous stages."""
        return dict.fromkeys(
            self.planners, planned.with_previous_stages(self.configurations)
        )


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """The plans of a dataset."""

    dataset: str
    planners: Mapping[str, Mapping[str, JsonObject]]
    """Word of a planner -> configuration -> its facts."""

    folds: int
    already_done: bool
    estimates: tuple[memory.Estimate, ...]
    warnings: tuple[str, ...] = ()
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return the object that `plan --json` prints."""
        planners = {
            word: {"plans": PLANNERS[word].plans, "configurations": dict(facts)}
            for word, facts in self.planners.items()
        }
        return {
            "dataset": self.dataset,
            **next(iter(planners.values())),
            "folds": self.folds,
            "planners": planners,
            "estimates": [estimate.as_json() for estimate in self.estimates],
            "warnings": list(self.warnings),
        }

    def as_text(self) -> str:
        """Return one line a configuration, then the estimates."""
        done = " (nothing has changed)" if self.already_done else ""
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
        lines += self.warnings
        lines += ["Estimates at the budget full:"] if self.estimates else []
        for estimate in self.estimates:
            lines += estimate.as_lines()
        return "\n".join(lines)


def plan_dataset(
    dataset: Dataset,
    options: PlanningOptions | None = None,
    *,
    progress: Progress | None = None,
    host: Host | None = None,
) -> PlanSummary:
    """Verify, plan and preprocess a dataset, and split it by patient.

    A planner or configuration that is planned stays planned when another is added;
    data that several of them share are preprocessed once.

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
    options = options or PlanningOptions()
    wanted = options.wanted()
    state = planned_data.dataset_state(dataset)
    kept = _kept(dataset, state, options)
    if kept is not None:
        known = {w: names for w, names in wanted.items() if w in kept.planners}
        planned_data.require_planned(dataset, known)
        if options.splitting is None and not kept.lacks(wanted):
            return _plan_summary(dataset, wanted, already_done=True)
    host, progress = host or Host(), progress or Silent()
    planning = _Planning(dataset, options, state, kept, host, progress)
    planning.plan()
    planned_data.require_planned(dataset, wanted)
    summary = _plan_summary(dataset, wanted, already_done=False)
    return replace(summary, warnings=tuple(planning.warnings))


def _kept(
    dataset: Dataset, state: str, options: PlanningOptions
) -> planned.Planned | None:
    """Return the plans that still hold for the options; None if none do."""
    known = None if options.force else planned.Planned.read(dataset)
    if known is None or not planned_data.still_planned(dataset, known, state):
        return None
    return known if options.own_arguments in (None, known.own_arguments) else None


@dataclass(frozen=True, slots=True)
class _Planning:
    """One call of nnU-Net's planner, with its preparation and its record."""

    dataset: Dataset
    options: PlanningOptions
    state: str
    kept: planned.Planned | None
    """The plans that still hold."""

    host: Host
    progress: Progress
    warnings: list[str] = field(default_factory=list)

    @property
    def raw(self) -> RawDataset:
        """The raw dataset."""
        return RawDataset.open(self.dataset.raw_dir)

    def plan(self) -> None:
        """Check, split, plan and preprocess what is missing."""
        own_arguments = self.options.own_arguments or ()
        known = self.kept or planned.Planned(self.state, own_arguments=own_arguments)
        raw, lacking = self.raw, known.lacks(self.options.wanted())
        cases = raw.training_cases()
        units = sum(len(names) for names in lacking.values())
        self.progress.stage("plan", 1 + len(cases) * units)
        require_sound(raw.folder)
        holds = raw.check()
        groups = read_patient_groups(raw.folder)
        patients = {case: groups.get(case, case) for case in cases}
        splitting = self.options.splitting or Splitting()
        splits = splitting.splits(patients, holds)
        with only_writer(self.dataset.lock_file, f"Dataset {self.dataset}"):
            _require_no_training(self.dataset)
            self._make_room(splits)
            self.progress.advance(1)
            if lacking:
                self._call_nnunet(known, lacking)
            self._record(known)

    def _make_room(self, splits: Splits) -> None:
        """Remove what no longer holds, and write the splits."""
        if self.kept is None:
            _forget_plan(self.dataset)
        with clear_os_errors(f"write {self.dataset.planned_dir}"):
            self.dataset.planned_dir.mkdir(parents=True, exist_ok=True)
        if self.options.splitting is not None or self.kept is None:
            write_json(self.dataset.splits_file, splits)

    def _call_nnunet(
        self, known: planned.Planned, lacking: Mapping[str, Sequence[str]]
    ) -> None:
        """Plan and preprocess; once more with half the workers if one was killed."""
        units = [(word, name) for word, names in lacking.items() for name in names]
        new = [PLANNERS[word] for word in lacking if word not in known.planners]
        task = PlanTask(
            self.dataset,
            fingerprint=self.kept is None,
            planners=tuple(new),
            preprocess=tuple((PLANNERS[word].plans, name) for word, name in units),
            have=tuple(known.preprocessed),
            own_arguments=known.own_arguments,
        )
        refuse_links(self.dataset.planned_dir, but=NOT_IN_PLACE)
        log_file = self.dataset.record_dir / "plan.log"
        log_file.unlink(missing_ok=True)
        resources = self.host.share(1, "cpu", memory.preprocessing_bytes(self.raw))
        # nnU-Net's planner takes the number of loaders as a number of threads: never 0.
        resources = replace(resources, loaders=1)
        fewer = replace(resources, workers=max(1, resources.workers // 2))
        try:
            try:
                self._run(task, resources, log_file)
            except WorkerKilled as error:
                if fewer == resources:
                    raise
                left = f"{fewer.workers} of {resources.workers} workers"
                where = self._place(known)
                self.warnings.append(f"[F11] {error} {where} Retrying with {left}.")
                self._remove_unfinished(known)
                self._run(task, fewer, log_file)
        except WorkerKilled as error:
            failure = f"{error} {self._place(known)}"
            self._record(known, failure)
            raise WorkerKilled(failure) from error
        except NnUNetError as error:
            self._record(known, str(error))
            raise
        _require_no_mismatch(self.dataset, log_file)

    def _run(self, task: PlanTask, resources: Resources, log_file: Path) -> None:
        planned_dir = self.dataset.planned_dir

        def done() -> int:
            return len(list(planned_dir.glob("*/*.pkl")))

        before, command = done(), plan_command(task, resources)
        workspace = self.dataset.workspace
        process = self.host.launch(workspace, command, resources, log_file)
        advance = self.progress.advance
        work = f"plan {self.dataset}"
        self.host.finish(process, work, lambda: advance(1 + done() - before))

    def _place(self, known: planned.Planned) -> str:
        """Return where planning was when a process was killed, as a sentence."""
        folder = self._unfinished_folder(known)
        if folder is None:
            return "It happened while the images were read for planning."
        left = planned.unfinished_cases(folder, self.raw.training_cases())
        some = " or ".join(left[:2]) if left else "the last case"
        return f"It happened while preprocessing {some} ({folder.name})."

    def _unfinished_folder(self, known: planned.Planned) -> Path | None:
        """Return the folder of preprocessed data that was written last."""
        folders = filter(Path.is_dir, self.dataset.planned_dir.glob("*Plans*_*"))
        found = [folder for folder in folders if folder.name not in known.preprocessed]
        return max(found, key=lambda folder: folder.stat().st_mtime_ns, default=None)

    def _remove_unfinished(self, known: planned.Planned) -> None:
        folder = self._unfinished_folder(known)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _record(self, known: planned.Planned, failure: str = "") -> None:
        """Record what is there now; remove what a failed call left half done."""
        planners = {word: tuple(names) for word, names in known.planners.items()}
        wanted = self.options.wanted()
        if failure:
            self._remove_unfinished(known)
        else:
            absent = planned.not_planned(self.dataset, wanted)
            for word, names in wanted.items():
                there = [n for n in names if n not in absent.get(word, ())]
                both = (*planners.get(word, ()), *there)
                planners[word] = tuple(dict.fromkeys(both))
        identifiers = {
            planned.identifier_of(self.dataset, PLANNERS[word].plans, configuration)
            for word, names in planners.items()
            for configuration in names
        }
        preprocessed = {
            i: planned.preprocessed_now(self.dataset, i, known.preprocessed.get(i, {}))
            for i in sorted(identifiers)
        }
        some = {word: names for word, names in planners.items() if names}
        now = replace(known, planners=some, preprocessed=preprocessed, failure=failure)
        now.write(self.dataset)


def _require_no_mismatch(dataset: Dataset, log_file: Path) -> None:
    """Refuse a mismatch of geometry, which nnU-Net only warns of."""
    log = log_file.read_text(encoding="utf-8", errors="replace")
    for warning in ("Origin mismatch", "Direction mismatch"):
        if warning in log:
            raise InputError(
                f"nnU-Net reports '{warning}' for {dataset}: an image and its label "
                f"do not lie in the same place. See {log_file}.",
                code="N01",
            )


def _require_no_training(dataset: Dataset) -> None:
    """Refuse to remove the data under a training (FAULTS F08)."""
    states = known_runs(dataset)
    running = [s.run.title for s in states if s.state == RunStatus.RUNNING]
    if running:
        raise EnvironmentFault(
            f"{dataset} is being trained ({', '.join(running)}): wait for it to end, "
            "or stop it.",
            code="F08",
        )


def _forget_plan(dataset: Dataset) -> None:
    """Remove what nnU-Net would take over from an older version of the dataset."""
    planned.planned_file(dataset).unlink(missing_ok=True)
    planned_dir = dataset.planned_dir
    stale = [planned_dir / "gt_segmentations"]
    for name in ("dataset_fingerprint.json", "dataset.json"):
        (planned_dir / name).unlink(missing_ok=True)
    for planner in PLANNERS.values():
        dataset.plans_file(planner.plans).unlink(missing_ok=True)
        stale += planned_dir.glob(f"{planner.plans}_*")
    for folder in stale:
        shutil.rmtree(folder, ignore_errors=True)


def _plan_summary(
    dataset: Dataset, wanted: Mapping[str, tuple[str, ...]], *, already_done: bool
) -> PlanSummary:
    planners = {
        word: {name: _facts(dataset, PLANNERS[word].plans, name) for name in names}
        for word, names in wanted.items()
    }
    splits: Splits = read_json(dataset.splits_file)
    estimates = memory.estimates_of(dataset, wanted)
    return PlanSummary(dataset.name, planners, len(splits), already_done, estimates)


def _facts(dataset: Dataset, plans: str, configuration: str) -> JsonObject:
    """Return the facts of a planned configuration that `plan` prints."""
    facts = resolved(read_json(dataset.plans_file(plans)), configuration)
    architecture = facts["architecture"]["arch_kwargs"]
    return {
        "patch_size": facts["patch_size"],
        "batch_size": facts["batch_size"],
        "spacing_mm": facts["spacing"],
        "stages": architecture["n_stages"],
        "features": architecture["features_per_stage"][-1],
    }
