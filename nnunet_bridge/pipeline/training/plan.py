"""Verify, plan and preprocess a dataset, and split it by patient.

What was planned is recorded together with the state of the dataset, so that a second
call does nothing, and a changed dataset is never trained on old plans.
"""

import shutil
from collections.abc import Collection, Mapping, Sequence
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
    sha256_of,
    write_json,
)
from nnunet_bridge.formats.manifest import counted_by_case, patients_of, require_sound
from nnunet_bridge.nnunet import planned
from nnunet_bridge.nnunet.commands import PlanTask, Resources, plan_command
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.names import NOT_IN_PLACE, Dataset
from nnunet_bridge.nnunet.plans import CONFIGURATIONS, PLANNERS, resolved
from nnunet_bridge.nnunet.runs import known_runs
from nnunet_bridge.nnunet.splits import Splits, Splitting, splits_fit, splits_in
from nnunet_bridge.pipeline.training import memory, planned_data
from nnunet_bridge.pipeline.training.adoption import Adoption

_UNFINISHED = "it was interrupted, or has not ended."


@dataclass(frozen=True, slots=True)
class PlanningOptions:
    """The plans to make for a dataset."""

    configurations: tuple[str, ...] = ALWAYS_PLANNED
    """``3d_cascade_fullres`` brings the ``3d_lowres`` that it builds upon."""

    planners: tuple[str, ...] = (PlannerName.DEFAULT,)  # words of `--planner`
    splitting: Splitting | None = None
    """By default five folds by patient; where the dataset is planned already, the
    splits that are there."""

    own_arguments: tuple[str, ...] | None = None
    """nnU-Net's own, for every planner; by default those of the plans already there."""

    force: bool = False  # plan again what is planned

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
    data that several of them share are preprocessed once. Plans, preprocessed data and
    splits that planning did not write are adopted if they are whole; if not, the call
    is refused (`InputError`, N11), unless `force` is given.

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
        splits_stay = options.splitting is None and dataset.splits_file.exists()
        if splits_stay and not kept.lacks(wanted):
            return _plan_summary(dataset, wanted, already_done=True)
    host, progress = host or Host(), progress or Silent()
    planning = _Planning(dataset, options, state, kept, host, progress)
    already_done = not planning.plan()
    planned_data.require_planned(dataset, wanted)
    summary = _plan_summary(dataset, wanted, already_done=already_done)
    return replace(summary, warnings=tuple(planning.warnings))


def _kept(
    dataset: Dataset, state: str, options: PlanningOptions
) -> planned.Planned | None:
    """Return the plans that still hold for the options; None if none do."""
    known = None if options.force else planned.Planned.read(dataset)
    if known is None or known.dataset_state != state or not known.planners:
        return None
    plans = [dataset.plans_file(PLANNERS[word].plans) for word in known.planners]
    if not all(file.exists() for file in plans):
        return None
    if options.own_arguments not in (None, known.own_arguments):
        return None
    return planned.without_lost(dataset, planned.with_files(dataset, known))


@dataclass(frozen=True, slots=True)
class _Planning:
    """One call of nnU-Net's planner, with its preparation and its record."""

    dataset: Dataset
    options: PlanningOptions
    state: str
    kept: planned.Planned | None  # the plans that still hold
    host: Host
    progress: Progress
    warnings: list[str] = field(default_factory=list)

    @property
    def raw(self) -> RawDataset:
        """The raw dataset."""
        return RawDataset.open(self.dataset.raw_dir)

    def plan(self) -> bool:
        """Check, split, plan and preprocess what is missing; return if anything was.

        What others have made is adopted, or refused before anything is changed.
        """
        raw, wanted = self.raw, self.options.wanted()
        cases = raw.training_cases()
        units = sum(map(len, wanted.values()))
        self.progress.stage("plan", 1 + len(cases) * units)
        require_sound(raw.folder)
        holds = raw.check()
        patients = patients_of(raw.folder, cases)
        with only_writer(self.dataset.lock_file, f"Dataset {self.dataset}"):
            _require_no_training(self.dataset)
            found = Adoption(self.dataset, patients)
            before = self._recorded()
            known = self._known(found, before)
            splits = self._splits(found, before, patients, holds)
            self._check_drawn(raw, holds, patients, splits)
            if not self.options.force:
                found.require_nothing_lost()
            self.warnings.extend(found.report())
            self.warnings.extend(filter(None, [counted_by_case(raw.folder)]))
            lacking = known.lacks(wanted)
            known = self._begin(known, before, lacking, splits)
            self.progress.advance(1)
            if lacking:
                self._call_nnunet(known, lacking)
            self._record(known)
        return bool(lacking or splits)

    def _recorded(self) -> planned.Planned | None:
        """Return what an earlier call recorded; a damaged record is none by force."""
        try:
            return planned.Planned.read(self.dataset)
        except InputError:
            if not self.options.force:
                raise
            return None

    def _known(
        self, found: Adoption, before: planned.Planned | None
    ) -> planned.Planned:
        """Return what need not be planned: what holds, and what is adopted."""
        own, wanted = self.options.own_arguments or (), self.options.wanted()
        splits = self.dataset.splits_file
        files = {}
        if before and splits.exists() and planned.wrote(self.dataset, before, splits):
            files = {splits.name: sha256_of(splits)}
        new = planned.Planned(self.state, own_arguments=own, files=files)
        known = self.kept or new
        may_adopt = self.kept is not None or (before is None and not own)
        if may_adopt and not self.options.force:
            return found.extended(known, wanted)
        found.refuse_replacing(before, wanted)
        return known

    def _splits(
        self,
        found: Adoption,
        before: planned.Planned | None,
        patients: Mapping[str, str],
        holds: Mapping[str, Collection[str]],
    ) -> Splits | None:
        """Return the splits to write; None if those that are there stay."""
        file, splitting = self.dataset.splits_file, self.options.splitting
        if splitting is None and file.exists() and not self.options.force:
            if before is None:
                found.keep_splits()
            if before is None or self.kept is not None or splits_fit(file, patients):
                return None
        given = self.raw.folder / file.name  # nnU-Net's planner requires the same
        default = Splitting(file=given) if given.is_file() else Splitting()
        splits = (splitting or default).splits(patients, holds, self.raw.drawn())
        if file.exists() and splits_in(file) == splits:
            return None
        found.refuse_other_splits(before, asked=splitting is not None)
        return splits

    def _check_drawn(
        self,
        raw: RawDataset,
        holds: Mapping[str, Collection[str]],
        patients: Mapping[str, str],
        splits: Splits | None,
    ) -> None:
        """Refuse structures that are drawn nowhere; warn of folds without one (N12)."""
        folds = len(splits or splits_in(self.dataset.splits_file) or ())
        self.warnings.extend(raw.warnings_of_drawn(holds, patients, folds))

    def _begin(
        self,
        known: planned.Planned,
        before: planned.Planned | None,
        lacking: Mapping[str, Sequence[str]],
        splits: Splits | None,
    ) -> planned.Planned:
        """Record what will be written; remove what no longer holds; write the splits.

        The record shows after an interruption which files are ours.
        """
        names = {self.dataset.splits_file.name} if splits else set()
        for word, configurations in lacking.items():
            plans = PLANNERS[word].plans
            if word not in known.planners:
                names.add(self.dataset.plans_file(plans).name)
            data = planned.usual_identifiers(plans, configurations)
            names |= data - known.preprocessed.keys()
        stale = self._stale(before) if self.kept is None and lacking else []
        files = {**(known.files or {}), **dict.fromkeys(names, "")}
        pending = replace(known, files=files, failure=_UNFINISHED)
        with clear_os_errors(f"write {self.dataset.planned_dir}"):
            self.dataset.planned_dir.mkdir(parents=True, exist_ok=True)
        pending.write(self.dataset)
        for path in stale:
            _remove(path)
        if splits:
            write_json(self.dataset.splits_file, splits)
        return pending

    def _stale(self, before: planned.Planned | None) -> list[Path]:
        """Return what nnU-Net would take over from an older version of the dataset.

        Plans of other planners go too if they are ours; if not, they stay.
        """
        if before is None and not self.options.force:
            return []
        folder, before_data = self.dataset.planned_dir, before and before.preprocessed
        stale = planned_data.own_method_plans(self.dataset)
        for word, planner in PLANNERS.items():
            by_force = self.options.force and word in self.options.wanted()
            names = planned.usual_identifiers(planner.plans, CONFIGURATIONS)
            places = [folder / name for name in sorted(names.union(before_data or ()))]
            for place in (self.dataset.plans_file(planner.plans), *places):
                if by_force or planned.wrote(self.dataset, before, place):
                    stale.append(place)
        copies = ("gt_segmentations", "dataset_fingerprint.json", "dataset.json")
        return [*stale, *(folder / name for name in copies)]

    def _call_nnunet(
        self, known: planned.Planned, lacking: Mapping[str, Sequence[str]]
    ) -> None:
        """Plan and preprocess; once more with half the workers if one was killed."""
        units = [(PLANNERS[w].plans, name) for w in lacking for name in lacking[w]]
        new = tuple(PLANNERS[word] for word in lacking if word not in known.planners)
        fingerprint = self.dataset.planned_dir / "dataset_fingerprint.json"
        task = PlanTask(
            self.dataset,
            fingerprint=not (known.planners and fingerprint.is_file()),
            planners=new,
            preprocess=tuple(units),
            have=tuple(known.preprocessed),
            own_arguments=known.own_arguments,
        )
        refuse_links(self.dataset.planned_dir, but=NOT_IN_PLACE)
        log_file = self.dataset.record_dir / "plan.log"
        log_file.unlink(missing_ok=True)
        resources = self.host.share(1, "cpu", memory.preprocessing_bytes(self.raw))
        # nnU-Net's planner takes the number of loaders as a number of threads: never 0.
        resources = replace(resources, loaders=1)
        fewer = replace(resources.halved(), loaders=1)
        try:
            try:
                self._run(task, resources, log_file)
            except WorkerKilled as error:
                if fewer == resources:
                    raise
                left = f"{fewer.workers} of {resources.workers} workers"
                self.warnings.append(
                    f"[F11] {error} {self._place(known)} Retrying with {left}."
                )
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
        folders = [self.dataset.planned_dir / name for name in known.pending]
        found = filter(Path.is_dir, folders)
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
        some = {w: n for w, n in planners.items() if n or w in known.planners}
        files = dict(known.files or {})
        if not failure:
            written = [self.dataset.planned_dir / name for name in known.pending]
            files = {name: sha for name, sha in files.items() if sha}
            files |= {f.name: sha256_of(f) for f in written if f.is_file()}
        now = replace(known, planners=some, preprocessed=preprocessed, failure=failure)
        replace(now, files=files).write(self.dataset)


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


def _remove(path: Path) -> None:
    """Remove a file or a folder; a missing one is no fault."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
