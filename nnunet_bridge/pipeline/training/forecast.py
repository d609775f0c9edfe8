"""What can be trained, and the time, memory and disk that trainings take.

Nothing is written, and no training data are read: `train` itself refuses a dataset that
has changed since it was planned.
"""

import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from nnunet_bridge.core.errors import EnvironmentFault, InputError
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.core.units import counted, format_bytes, format_duration
from nnunet_bridge.core.words import ALL_CASES, BudgetName, ModelName, RunStatus
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.estimates import (
    FULL_EPOCHS,
    FULL_ITERATIONS,
    checkpoint_bytes,
    full_training_seconds,
    training_memory,
)
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.machine import usable
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Run
from nnunet_bridge.nnunet.planned import Planned, with_previous_stages
from nnunet_bridge.nnunet.plans import BUDGETS, Plans, plan_words, resolved
from nnunet_bridge.nnunet.runs import RunState, known_runs, run_state
from nnunet_bridge.pipeline.training.memory import (
    classes_of,
    cpu_time,
    plans_of,
    require_memory_for_training,
)
from nnunet_bridge.pipeline.training.request import TrainingRequest, requested_runs

_KEPT, _AT_WORK = 2, 2
"""Checkpoints that a training leaves, and those that it has beside them at its peak."""

StateOf = Callable[[Run], RunState]


@dataclass(frozen=True, slots=True)
class Forecast:
    """The time, memory and disk of trainings before they start; None if unknown."""

    trainings: int  # that are not done yet
    done: int
    device: str  # ``cuda``, ``cpu`` or ``mps``; empty for a cluster
    seconds: float | None  # of all of them, without their final validation
    measured: bool  # from epochs of this dataset, else computed from the plans
    memory_bytes: int | None  # of each
    free_memory_bytes: int | None
    disk_bytes: int | None
    free_disk_bytes: int
    warnings: tuple[str, ...]
    question: str = ""
    """What a person must agree to first, as `train` asks; else empty."""

    @property
    def sentence(self) -> str:
        """All figures in words."""
        if not self.trainings:
            return f"{counted(self.done, 'training')} done: nothing is left to train."
        done = f" ({self.done} more done already)" if self.done else ""
        where = {"": "on the cluster", "cuda": "on a GPU", "cpu": "on the CPU"}
        place = where.get(self.device, "on Apple's GPU")
        words = [f"{counted(self.trainings, 'training')} {place}{done}."]
        if self.device:
            words.append(f"Time: {self._time}.")
        if self.memory_bytes is not None and self.free_memory_bytes is not None:
            need, free = map(format_bytes, (self.memory_bytes, self.free_memory_bytes))
            kind = "GPU memory" if self.device == "cuda" else "Memory"
            words.append(f"{kind}: about {need} each, {free} free.")
        if self.disk_bytes is not None:
            need, free = map(format_bytes, (self.disk_bytes, self.free_disk_bytes))
            words.append(f"Disk: about {need}, {free} free.")
        return " ".join(words)

    @property
    def _time(self) -> str:
        if self.seconds is None:
            return "known after the first epoch"
        source = "computed from the plans; small networks and a busy machine need more"
        if self.measured:
            source = "by the epochs of this dataset so far"
        return (
            f"about {format_duration(max(self.seconds, 1))} ({source}), "
            "without the final validation"
        )

    def as_json(self) -> JsonObject:
        """Return all figures, and the sentence."""
        return {**json_of(self), "sentence": self.sentence}


def forecast(
    dataset: Dataset,
    request: TrainingRequest,
    *,
    host: Host | None = None,
    state_of: StateOf = run_state,
    on_cluster: bool = False,
) -> Forecast:
    """Return what the runs of a request take that are not done.

    `on_cluster` leaves out time and memory, which are those of another machine.

    Raises
    ------
    InputError
        If the dataset is not planned for them.
    UsageError
        If options exclude each other, or there is no such fold.
    EnvironmentFault
        If the device is not there.
    """
    request.check()
    _require_planned(dataset, request)
    host = host or Host()
    device, warning = ("", "") if on_cluster else host.device(request.options.device)
    states = list(map(state_of, requested_runs(dataset, request)))
    again = request.options.restart
    todo = [state for state in states if again or not state.can_predict]
    if again:
        todo = [RunState(state.run, state.state, state.folder) for state in todo]
    plans = plans_of(states[0].run, request.method)
    raw = RawDataset.open(dataset.raw_dir)
    asked = _Asked(dataset, request, host, device, tuple(todo), plans, raw)
    warnings = [*filter(None, [warning]), *asked.busy(), *asked.memory_warnings()]
    need, free = asked.memory()
    disk, free_disk = asked.disk_bytes(), host.free_bytes(dataset.workspace.runs_dir)
    if disk is not None and disk > free_disk:
        warnings.append(
            f"The trainings need about {format_bytes(disk)} of disk, but only "
            f"{format_bytes(free_disk)} are free: free some space first."
        )
    seconds, measured = asked.seconds(state_of)
    question = ""
    if device == "cpu" and todo:
        runs = [state.run for state in todo]
        _, question = cpu_time(runs, request.method, host.machine)
    done, caveat = len(states) - len(todo), request.method.budget.caveat
    warnings += [f"{caveat[0].upper()}{caveat[1:]}."] if caveat else []
    figures = seconds, measured, need, free, disk, free_disk
    return Forecast(len(todo), done, device, *figures, tuple(warnings), question)


def _require_planned(dataset: Dataset, request: TrainingRequest) -> None:
    """Refuse configurations that are not planned for the model."""
    planner = request.method.planner
    wanted = {str(planner): with_previous_stages(request.configurations)}
    known = Planned.read(dataset)
    lacking = known.lacks(wanted) if known else wanted
    if lacking or not dataset.splits_file.is_file():
        names = lacking.get(str(planner), ())
        command = plan_words(dataset.name, request.method.stock_plans)
        command += "".join(f" -c {name}" for name in names)
        what = " and ".join(names) or "training"
        raise InputError(f"{dataset} is not planned for {what}: run `{command}` first.")


@dataclass(frozen=True, slots=True)
class _Asked:
    """The trainings of a request that are not done."""

    dataset: Dataset
    request: TrainingRequest
    host: Host
    device: str
    todo: tuple[RunState, ...]
    plans: Plans
    raw: RawDataset

    def busy(self) -> list[str]:
        """Return a warning for each run that another process trains."""
        running = (s for s in self.todo if s.state == RunStatus.RUNNING)
        return [f"{s.name} is being trained now: wait for its end." for s in running]

    def memory(self) -> tuple[int | None, int | None]:
        """Return the memory that each needs at most, and that which is free."""
        if self.device not in ("cpu", "cuda") or not self._described:
            return None, None
        machine, classes = self.host.machine, classes_of(self.dataset)
        gpus = max(1, self.request.options.gpus)
        loaders = self.host.share(gpus, self.device).loaders
        found = [
            training_memory(self.plans, name, classes, loaders=loaders, gpus=gpus)
            for name in self._configurations
        ]
        if self.device == "cpu":
            needs = [one.host_bytes for one in found if one]
            return max(needs, default=None), machine.free_memory_bytes
        needs = [one.gpu_bytes for one in found if one]
        gpu = next(iter(machine.accelerators), None)
        if gpu is None:
            return max(needs, default=None), None
        whole, free = gpu.memory_bytes, gpu.free_bytes
        return max(needs, default=None), whole if free is None else free

    def memory_warnings(self) -> list[str]:
        """Return what `train` says where memory does not suffice."""
        warnings: list[str] = []
        gpus = max(1, self.request.options.gpus)
        if not self.device:
            return warnings
        one = replace(self.host.share(gpus, self.device), gpus=gpus)
        what = self.request.method, self.host.machine, one, warnings
        for run in self._configurations.values():
            try:
                require_memory_for_training(run, *what)
            except EnvironmentFault as error:
                warnings.append(str(error))
        return warnings

    def disk_bytes(self) -> int | None:
        """Return the disk for checkpoints and the predictions of held-out cases."""
        sizes = [self._checkpoint_bytes(state.run.configuration) for state in self.todo]
        known = [size for size in sizes if size is not None]
        if not self._described or len(known) < len(sizes):
            return None
        at_once = sorted(known)[-self._side_by_side :] if known else []
        labels = sum(self._label_bytes(state.run) for state in self.todo)
        return _KEPT * sum(known) + _AT_WORK * sum(at_once) + labels

    def seconds(self, state_of: StateOf) -> tuple[float | None, bool]:
        """Return the time of the epochs that are left, and whether it was measured."""
        if not self.device:
            return None, False
        total, measured = 0.0, True
        seen = self._paces_seen(known_runs(self.dataset, state_of))
        for state in self.todo:
            name = state.run.configuration
            epochs = self._steps(name).get("epochs", FULL_EPOCHS)
            pace = seen.get(name)
            if pace is None:
                pace, measured = self._computed_pace(name), False
            if pace is None:
                return None, False
            total += max(0, epochs - state.course.epochs_done) * pace
        return total / self._share, measured

    @property
    def _configurations(self) -> dict[str, Run]:
        """The configurations, and a run of each."""
        return {state.run.configuration: state.run for state in self.todo}

    @property
    def _described(self) -> bool:
        """Whether the plans describe the network and the length of the training."""
        method = self.request.method
        return method.own and method.report_network is None

    @property
    def _share(self) -> int:
        """On a CPU the cores, by which its paces count; else the runs side by side."""
        cores = self.host.machine.cores
        return cores if self.device == "cpu" else max(1, self._side_by_side)

    @property
    def _side_by_side(self) -> int:
        most = self.host.machine.cores
        if self.device == "cuda":
            most = len(self.host.visible(max(1, self.request.options.gpus)))
        return max(1, min(len(self.todo), most))

    def _steps(self, configuration: str) -> Mapping[str, Any]:
        own = self.plans.get("nnunet_bridge", {})
        steps: Mapping[str, Any] = own.get(configuration, {})
        return steps

    def _paces_seen(self, states: Sequence[RunState]) -> dict[str, float]:
        """Return the seconds of an epoch by configuration; on a CPU, of one core."""
        found: dict[str, list[float]] = {}
        method, cores = self.request.method, self.host.machine.cores
        for state in states:
            course = state.course
            same = state.model == method.model and state.budget == method.budget.name
            if not same or course.device.partition(":")[0] not in ("", self.device):
                continue
            if course.seconds_per_epoch is not None:
                cores_used = (course.threads or cores) if self.device == "cpu" else 1
                pace = course.seconds_per_epoch * cores_used
                found.setdefault(state.run.configuration, []).append(pace)
        return {name: statistics.median(paces) for name, paces in found.items()}

    def _computed_pace(self, configuration: str) -> float | None:
        if self.device != "cpu" or not self._described:
            return None
        steps, epochs = self._steps(configuration), FULL_ITERATIONS / FULL_EPOCHS
        if steps:
            epochs = steps["iterations"] + steps.get("validation_iterations", 0) / 3
        planned = resolved(self.plans, configuration)
        return full_training_seconds(planned, len(self.raw.channels), 1, epochs)

    def _checkpoint_bytes(self, configuration: str) -> int | None:
        planned = resolved(self.plans, configuration)
        return checkpoint_bytes(planned, len(self.raw.channels))

    def _label_bytes(self, run: Run) -> int:
        """Return the size of the masks of the held-out cases."""
        cases = self.raw.training_cases()
        if run.fold != ALL_CASES:
            cases = read_json(self.dataset.splits_file)[run.fold]["val"]
        files = (self.raw.label_file(case, "Tr") for case in cases)
        return sum(file.stat().st_size for file in files if file.is_file())


def training_choices(dataset: Dataset, host: Host | None = None) -> JsonObject:
    """Return what can be trained of a dataset, and on which devices of this machine."""
    host, known = host or Host(), Planned.read(dataset)
    splits = []
    with suppress(FileNotFoundError):
        splits = read_json(dataset.splits_file)
    methods = [method_of(name, BudgetName.FULL) for name in ModelName]
    planned = known.planners if known else {}
    return {
        "failure": known.failure if known else "",
        "folds": len(splits),
        "models": [
            {
                "name": m.model,
                "planner": m.planner,
                "planned": [
                    name
                    for name in planned.get(m.planner, ())
                    if name in m.configurations
                ],
            }
            for m in methods
        ],
        "budgets": [{"name": b.name, "caveat": b.caveat} for b in BUDGETS.values()],
        "devices": ["auto", *_devices(host)],
        "slurm": shutil.which("sbatch") is not None,
    }  # fmt: skip


def _devices(host: Host) -> list[str]:
    """Return the words of `--device` that this machine has."""
    gpus = usable(host.machine, host.torch).gpus
    return [*(["cuda"] if gpus else []), "cpu"]
