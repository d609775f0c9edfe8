"""Estimate time and memory of training and prediction before they start (F10)."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import format_bytes, format_duration
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.formats.memory import require_memory
from nnunet_bridge.formats.nifti import read_grid
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.estimates import (
    Footprint,
    PlannedMember,
    host_bytes,
    preprocessing_memory_bytes,
    resampled_shape,
    training_memory,
)
from nnunet_bridge.nnunet.machine import Machine
from nnunet_bridge.nnunet.methods import Method
from nnunet_bridge.nnunet.names import Dataset, Run
from nnunet_bridge.nnunet.plans import PLANNERS, Plans, plan_words, resolved
from nnunet_bridge.nnunet.runs import known_runs


@dataclass(frozen=True, slots=True)
class SeenTime:
    """Time of a training, from the epochs measured so far."""

    model: str
    budget: str
    epochs: int
    epoch_seconds: float
    """Median over the trainings so far."""

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
    training: Footprint | None
    """At the budget ``full``; None for an unknown network."""

    prediction: Footprint
    largest_case: tuple[int, ...]
    """Its shape at the spacing of the configuration."""

    times: tuple[SeenTime, ...]
    """Empty before the first epoch."""

    def as_json(self) -> JsonObject:
        """Return the entry of `estimates`."""
        return {
            "planner": self.planner,
            "configuration": self.configuration,
            "training": None if self.training is None else self.training.as_json(),
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
            yield (
                f"  {self.configuration:18} train: "
                f"{format_bytes(self.training.gpu_bytes)} of a GPU, or "
                f"{format_bytes(self.training.host_bytes)} of memory on a CPU"
            )
        edges = " x ".join(str(edge) for edge in self.largest_case)
        yield (
            f"  {'':18} predict the largest case ({edges}): "
            f"{format_bytes(self.prediction.host_bytes)} of memory"
        )
        for time in self.times:
            yield (
                f"  {'':18} {time.model} {time.budget}: {time.epochs} epochs of "
                f"{time.epoch_seconds:.0f} s = {format_duration(time.seconds)}"
            )


@dataclass(frozen=True, slots=True)
class PlanEstimates:
    """The estimates of everything that was planned."""

    parts: tuple[Estimate, ...]

    def as_json(self) -> list[JsonObject]:
        """Return the value of `estimates`."""
        return [part.as_json() for part in self.parts]

    def as_lines(self) -> list[str]:
        """Return the lines of the text output."""
        if not self.parts:
            return []
        lines = ["Estimates at the budget full:"]
        for part in self.parts:
            lines += part.as_lines()
        return lines


def estimates_of(
    dataset: Dataset, planned: Mapping[str, Sequence[str]]
) -> PlanEstimates:
    """Return the estimates of every planned configuration.

    `planned` maps planners to their configurations.
    """
    seen = _times_seen(dataset)
    parts = []
    for word, names in planned.items():
        name_of_plans = PLANNERS[word].plans
        plans = read_json(dataset.plans_file(name_of_plans))
        classes = _classes(dataset)
        for name in names:
            original, resampled = largest_case(dataset, plans, name)
            parts.append(
                Estimate(
                    word,
                    name,
                    training_memory(plans, name, classes),
                    _prediction(dataset, plans, name, original),
                    resampled,
                    tuple(seen.get((name_of_plans, name), ())),
                )
            )
    return PlanEstimates(tuple(parts))


def _prediction(
    dataset: Dataset, plans: Plans, configuration: str, original: tuple[int, ...]
) -> Footprint:
    """Return the memory of predicting a case with one fold, without its weights."""
    found = read_json(dataset.planned_dir / "dataset_fingerprint.json")
    at = [tuple(shape) for shape in found["shapes_after_crop"]].index(original)
    member = PlannedMember.of(
        plans,
        read_json(dataset.raw_dir / "dataset.json"),
        resolved(plans, configuration),
        folds=1,
        weights_bytes=0,
    )
    spacing_mm = found["spacings"][at]
    host, beside_gpu = (
        host_bytes([member], original, spacing_mm, on_gpu=on_gpu)
        for on_gpu in (False, True)
    )
    return Footprint(host, beside_gpu)


def largest_case(
    dataset: Dataset, plans: Plans, configuration: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape of the largest training case, before and after resampling.

    Shapes are those that nnU-Net found after it cut off empty borders, in the order
    (slice, row, column), and at the spacing of the configuration in that of the plans.
    """
    file = dataset.planned_dir / "dataset_fingerprint.json"
    found = read_json(file)
    cases = zip(found["shapes_after_crop"], found["spacings"], strict=True)
    target_mm = resolved(plans, configuration)["spacing"]
    axes = plans["transpose_forward"]
    pairs = [
        (tuple(shape), resampled_shape(shape, spacing, axes, target_mm))
        for shape, spacing in cases
    ]
    return max(pairs, key=lambda pair: math.prod(pair[1]))


def preprocessing_bytes(raw: RawDataset) -> int:
    """Return the memory of one worker for the largest training case.

    nnU-Net has not planned a spacing yet: assume that of the images.
    """
    shapes = [
        read_grid(raw.image_files(case, "Tr")[0]).shape for case in raw.training_cases()
    ]
    largest = max(shapes, key=math.prod)
    return preprocessing_memory_bytes(largest, largest, len(raw.channels))


def require_memory_for_training(
    run: Run, method: Method, machine: Machine, device: str, *, loaders: int
) -> int:
    """Refuse a training that does not fit into memory; return its need of the host.

    Raises
    ------
    EnvironmentFault
        With code F10, the figure and what to do.
    """
    if method.report_network is not None:
        return 0  # the plans do not describe its network
    plans = read_json(run.plans_file)
    classes = _classes(run.dataset)
    need = training_memory(plans, run.configuration, classes, loaders=loaders)
    if need is None:
        return 0
    what = f"Training {run.configuration} at the budget {method.budget.name}"
    smaller = (
        "use a larger machine, close other programs, or plan a smaller network with "
        f"`{plan_words('DATASET', method.stock_plans)} --gpu-memory-target GB`; "
        "--budget smoke trains a small one for a trial"
    )
    if device == "cpu":
        needed, there, kind = need.host_bytes, machine.free_memory_bytes, "memory"
    elif device == "cuda" and machine.gpu_memory_bytes is not None:
        needed, there, kind = need.gpu_bytes, machine.gpu_memory_bytes, "GPU memory"
    else:
        return 0
    require_memory(needed, there, what, kind=kind, way_out=smaller, of_one_case=False)
    return need.host_bytes if device == "cpu" else 0


def _times_seen(dataset: Dataset) -> dict[tuple[str, str], list[SeenTime]]:
    """Return the times of every kind of training, by stock plans and configuration."""
    seconds: defaultdict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    epochs: dict[tuple[str, str, str, str], int] = {}
    for state in known_runs(dataset):
        stock = next(
            (p.plans for p in PLANNERS.values() if state.run.plans.startswith(p.plans)),
            None,
        )
        course = state.course
        if stock is None or course.epochs is None:
            continue
        kind = (stock, state.run.configuration, state.model, state.budget)
        epochs[kind] = course.epochs
        if course.seconds_per_epoch is not None:
            seconds[kind].append(course.seconds_per_epoch)
    found: defaultdict[tuple[str, str], list[SeenTime]] = defaultdict(list)
    for (stock, configuration, model, budget), took in seconds.items():
        count = epochs[stock, configuration, model, budget]
        seen = SeenTime(model, budget, count, statistics.median(took))
        found[stock, configuration].append(seen)
    return found


def _classes(dataset: Dataset) -> int:
    """Return the number of classes of a dataset, with the background."""
    return 1 + len(RawDataset.open(dataset.raw_dir).labels)
