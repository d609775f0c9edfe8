"""Estimate time and memory of training and prediction before they start (F10)."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from nnunet_bridge.core.progress import Progress
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import counted, format_bytes, format_duration
from nnunet_bridge.core.words import BudgetName
from nnunet_bridge.formats.events import Course
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.formats.images import read_grid
from nnunet_bridge.formats.memory import require_memory
from nnunet_bridge.nnunet.commands import Resources
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.estimates import (
    FULL_EPOCHS,
    Footprint,
    PlannedMember,
    full_training_seconds,
    host_bytes,
    preprocessing_memory_bytes,
    training_memory,
)
from nnunet_bridge.nnunet.machine import Accelerator, Machine
from nnunet_bridge.nnunet.methods import Method
from nnunet_bridge.nnunet.names import Dataset, Run
from nnunet_bridge.nnunet.plans import PLANNERS, Plans, plan_words, resolved
from nnunet_bridge.nnunet.runs import known_runs, run_state

DAY_S = 86_400.0
_EPOCHS = {BudgetName.FULL: FULL_EPOCHS, BudgetName.STANDARD: FULL_EPOCHS // 4}
_UNCERTAIN = 1.3  # a training may need 30 % less than the estimate for a GPU

Consent = Callable[[str], None]
"""Takes the sentence on the time; raises an error if the user does not want it."""


@dataclass(frozen=True, slots=True)
class SeenTime:
    """Time of a training, from the epochs measured so far."""

    model: str
    budget: str
    epochs: int
    epoch_seconds: float  # median over the trainings so far

    @property
    def seconds(self) -> float:
        """Time of all epochs, without the final validation."""
        return self.epochs * self.epoch_seconds

    def as_json(self) -> JsonObject:
        """Return the entry of `times`."""
        return {**asdict(self), "seconds": self.seconds}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Memory and time of one configuration."""

    planner: str
    configuration: str
    training: Footprint | None  # at the budget ``full``; None for an unknown network
    prediction: Footprint
    largest_case: tuple[int, ...]  # its shape at the spacing of the configuration
    times: tuple[SeenTime, ...]  # empty before the first epoch

    def as_json(self) -> JsonObject:
        """Return the entry of `estimates`."""
        return {
            "planner": self.planner,
            "configuration": self.configuration,
            "training": self.training and asdict(self.training),
            "prediction": {
                "host_bytes": self.prediction.host_bytes,
                "host_bytes_beside_gpu": self.prediction.gpu_bytes,
            },
            "largest_case": list(self.largest_case),
            "times": [time.as_json() for time in self.times],
        }

    def as_lines(self) -> Iterator[str]:
        """Yield the lines of the text output."""
        if self.training is not None:
            gpu, host = self.training.gpu_bytes, self.training.host_bytes
            yield (
                f"  {self.configuration:18} train: {format_bytes(gpu)} of a GPU, "
                f"or {format_bytes(host)} of memory on a CPU"
            )
        edges = " x ".join(str(edge) for edge in self.largest_case)
        memory = format_bytes(self.prediction.host_bytes)
        yield f"  {'':18} predict the largest case ({edges}): {memory} of memory"
        for time in self.times:
            yield (
                f"  {'':18} {time.model} {time.budget}: {time.epochs} epochs of "
                f"{time.epoch_seconds:.0f} s = {format_duration(time.seconds)}"
            )


def estimates_of(
    dataset: Dataset, planned: Mapping[str, Sequence[str]]
) -> tuple[Estimate, ...]:
    """Return the estimates of every planned configuration.

    `planned` maps planners to their configurations.
    """
    seen = _times_seen(dataset)
    classes = classes_of(dataset)
    estimates = []
    for word, names in planned.items():
        name_of_plans = PLANNERS[word].plans
        plans = read_json(dataset.plans_file(name_of_plans))
        for name in names:
            prediction, largest = _largest_case(dataset, plans, name)
            training = training_memory(plans, name, classes)
            times = tuple(seen.get((name_of_plans, name), ()))
            estimates.append(Estimate(word, name, training, prediction, largest, times))
    return tuple(estimates)


def _largest_case(
    dataset: Dataset, plans: Plans, configuration: str
) -> tuple[Footprint, tuple[int, ...]]:
    """Return the memory and the shape of the largest training case at its prediction.

    Predicted with one fold, without the memory of its weights. Its size is that which
    nnU-Net found after it cut off empty borders; the shape is at the spacing of the
    configuration, in the order of the plans.
    """
    found = read_json(dataset.planned_dir / "dataset_fingerprint.json")
    cases = zip(found["shapes_after_crop"], found["spacings"], strict=True)
    described = read_json(dataset.raw_dir / "dataset.json")
    planned = resolved(plans, configuration)
    member = PlannedMember.of(plans, described, planned, folds=1)
    case = max(cases, key=lambda case: math.prod(member.seen_shape(*case)))
    host = host_bytes([member], *case, on_gpu=False)
    beside_gpu = host_bytes([member], *case, on_gpu=True)
    return Footprint(host, beside_gpu), member.seen_shape(*case)


def preprocessing_bytes(raw: RawDataset) -> int:
    """Return the memory of one worker for the largest training case.

    nnU-Net has not planned a spacing yet: assume that of the images.
    """
    images = [raw.image_files(case, "Tr")[0] for case in raw.training_cases()]
    largest = max((read_grid(image).shape for image in images), key=math.prod)
    return preprocessing_memory_bytes(largest, largest, len(raw.channels))


def require_memory_for_training(
    run: Run,
    method: Method,
    machine: Machine,
    resources: Resources,
    warnings: list[str],
) -> int:
    """Refuse a training that does not fit into memory; return its need of the host.

    The estimate for a GPU may be wrong by `_UNCERTAIN`: within that, add a warning, and
    also if another program uses the memory now. Raises `EnvironmentFault` with code
    F10, the figure and what to do.
    """
    if method.report_network is not None:
        return 0  # the plans do not describe its network
    plans, classes = plans_of(run, method), classes_of(run.dataset)
    loaders, gpus = resources.loaders, resources.gpus
    need = training_memory(
        plans, run.configuration, classes, loaders=loaders, gpus=gpus
    )
    if need is None or resources.device == "mps":
        return 0
    what = f"Training {run.configuration} at the budget {method.budget.name}"
    smaller = (
        "use a larger machine, close other programs, or plan a smaller network with "
        f"`{plan_words('DATASET', method.stock_plans)} --gpu-memory-target GB`; "
        "--budget smoke trains a small one for a trial"
    )
    refuse = partial(require_memory, what=what, way_out=smaller, of_one_case=False)
    if resources.device == "cpu":
        refuse(need.host_bytes, machine.free_memory_bytes)
        return need.host_bytes
    for gpu in machine.accelerators[:1]:
        if need.gpu_bytes > _UNCERTAIN * (gpu.memory_bytes or need.gpu_bytes):
            refuse(need.gpu_bytes, gpu.memory_bytes or 0, kind="GPU memory")
        if need.gpu_bytes > _room(gpu):
            warnings.append(
                f"{what} may need {format_bytes(need.gpu_bytes)} of GPU memory; "
                f"{gpu.name} has {format_bytes(_room(gpu))} free of "
                f"{format_bytes(gpu.memory_bytes or 0)}. If it runs out: {smaller}."
            )
    return 0


def _room(gpu: Accelerator) -> float:
    """Return the memory that other programs leave of a GPU; endless if unknown."""
    known = [size for size in (gpu.free_bytes, gpu.memory_bytes) if size is not None]
    return min(known, default=math.inf)


def _times_seen(dataset: Dataset) -> dict[tuple[str, str], list[SeenTime]]:
    """Return the times of every kind of training, by stock plans and configuration."""
    courses: defaultdict[tuple[str, str, str, str], list[Course]] = defaultdict(list)
    for state in known_runs(dataset):
        plans = state.run.plans
        stock = [p.plans for p in PLANNERS.values() if plans.startswith(p.plans)]
        if stock and state.course.epochs is not None:
            kind = (stock[0], state.run.configuration, state.model, state.budget)
            courses[kind].append(state.course)
    found: defaultdict[tuple[str, str], list[SeenTime]] = defaultdict(list)
    for (planned, configuration, model, budget), kept in courses.items():
        measured = (course.seconds_per_epoch for course in kept)
        took = [seconds for seconds in measured if seconds is not None]
        if took:
            epochs, usual = kept[-1].epochs or 0, statistics.median(took)
            found[planned, configuration].append(SeenTime(model, budget, epochs, usual))
    return found


def plans_of(run: Run, method: Method) -> Plans:
    """Return the plans of a run; before `train` writes them, those that it will."""
    if run.plans_file.exists():
        plans: Plans = read_json(run.plans_file)
        return plans
    return method.plans_from(read_json(run.dataset.plans_file(method.stock_plans)))


def classes_of(dataset: Dataset) -> int:
    """Return the number of classes of a dataset, with the background."""
    return 1 + len(RawDataset.open(dataset.raw_dir).labels)


def announce_cpu_time(
    runs: Sequence[Run],
    method: Method,
    machine: Machine,
    progress: Progress,
    consent: Consent | None,
) -> None:
    """Report how long trainings take on this CPU; above a day, ask for consent."""
    sentence, question = cpu_time(runs, method, machine)
    if question and consent is not None:
        consent(question)
    elif sentence:
        progress.say(sentence)


def cpu_time(runs: Sequence[Run], method: Method, machine: Machine) -> tuple[str, str]:
    """Return how long trainings take on this CPU, and the question above a day.

    Both are empty where `cpu_seconds` is unknown.
    """
    seconds = cpu_seconds(runs, method, machine)
    if seconds is None:
        return "", ""
    sentence = (
        f"Without a GPU, {counted(len(runs), 'training')} at the budget "
        f"{method.budget.name} will take about {format_duration(seconds)} on "
        f"{counted(machine.cores, 'core')}."
    )
    question = f"{sentence} Use a GPU, or --budget smoke for a trial."
    return sentence, question if seconds > DAY_S else ""


def cpu_seconds(runs: Sequence[Run], method: Method, machine: Machine) -> float | None:
    """Return the time of all runs on all cores; None for another budget or network."""
    of_nnunet = method.own and method.report_network is None
    epochs = _EPOCHS.get(method.budget.name)
    if epochs is None or not of_nnunet:
        return None
    total = 0.0
    for run in runs:
        planned = resolved(
            read_json(run.dataset.plans_file(method.stock_plans)), run.configuration
        )
        channels = len(RawDataset.open(run.dataset.raw_dir).channels)
        seconds = full_training_seconds(planned, channels, machine.cores)
        if seconds is None:
            return None
        left = max(epochs - run_state(run).course.epochs_done, 0)
        total += seconds * left / FULL_EPOCHS
    return total
