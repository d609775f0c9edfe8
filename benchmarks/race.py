"""Contenders for one piece of work, and how their CPU time is taken.

Every measurement runs in a fork of this process. So the inputs and the imports are
there already and are not measured, and no contender finds the memory, the threads
or the caches that another one left behind. Before the clock starts, the fork does the
same work on a tiny input, which pays for what a library sets up on its first call.

What counts is CPU time, user and system, of the fork, its threads and its children:
wall time on a shared machine says more about the neighbours.
"""

import hashlib
import importlib
import multiprocessing
import os
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from limb import Limb

Work: TypeAlias = Callable[[Any, Path], Any]
"""Does the work on the inputs of its stage; the folder is empty and its own."""

Facts: TypeAlias = dict[str, Any]
"""What is known of a result: hashes, numbers, sizes; small enough for a pipe."""

SHORT_SECONDS = 0.2
"""Work that takes less is repeated until so much time is spent, and averaged."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the work of a stage."""

    name: str
    work: Work
    needs: tuple[str, ...] = ()
    """Modules without which it cannot run."""

    differs: str = ""
    """Why its answer is another one; empty if it must agree with the baseline."""

    @property
    def installed(self) -> bool:
        """Whether this machine has what it needs."""
        return all(find_spec(module) is not None for module in self.needs)


@dataclass(frozen=True, slots=True)
class Stage:
    """One row of the table: a piece of work and everybody who does it."""

    name: str
    prepare: Callable[[Limb, Path], Any]
    """Makes the inputs; may leave files in the folder. Not timed."""

    baseline: Contender
    ours: Contender
    others: tuple[Contender, ...]
    target: float
    """Largest share of the baseline's CPU time that ours may take."""

    facts: Callable[[Any], Facts]
    """Tells of a result what decides whether it is right."""

    agree: Callable[[Facts, Facts], bool]
    """Whether the facts of the baseline and of a contender are the same answer."""

    remark: Callable[[Facts, Facts], str] = lambda _baseline, _ours: ""
    """What else the table says of the baseline's facts and ours."""

    most_rounds: int = 99
    """Fewer rounds where one takes minutes."""

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """All of them, the baseline first."""
        return (self.baseline, self.ours, *self.others)


@dataclass(frozen=True, slots=True)
class Times:
    """CPU seconds of one contender, a value for every round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return median(self.seconds)

    def __str__(self) -> str:
        """Return the median, and the smallest and the largest value."""
        shown = [_three_digits(t) for t in (self.median, *_ends(sorted(self.seconds)))]
        return "{} ({} - {})".format(*shown)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a race showed; contenders that are not installed are in neither table."""

    stage: Stage
    times: dict[str, Times]
    facts: dict[str, Facts]

    def ratio(self, contender: Contender) -> float:
        """Return its CPU time as a share of the baseline's."""
        baseline = self.times[self.stage.baseline.name]
        return self.times[contender.name].median / baseline.median

    @property
    def best_other(self) -> Contender | None:
        """The fastest of the other tools that are installed."""
        running = [one for one in self.stage.others if one.name in self.times]
        return min(running, key=self.ratio, default=None)


class WrongAnswerError(Exception):
    """A contender does not give the baseline's answer, so its time means nothing."""


def race(stage: Stage, limb: Limb, tiny: Limb, *, rounds: int) -> Outcome:
    """Compare the answers of all contenders, then take their times in turn.

    Raises
    ------
    WrongAnswerError
        If one that must agree with the baseline does not.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = [folder / "tiny", folder / "full"]
        for place in places:
            place.mkdir()
        warm_up, inputs = map(stage.prepare, (tiny, limb), places)
        running = [one for one in stage.contenders if one.installed]
        for module in {module for one in running for module in one.needs}:
            importlib.import_module(module)
        facts = {
            one.name: in_a_fork(lambda one=one: _facts(stage, one, inputs))
            for one in running
        }
        _check(stage, running, facts)
        seconds: dict[str, list[float]] = {one.name: [] for one in running}
        for _ in range(min(rounds, stage.most_rounds)):
            for one in running:
                seconds[one.name].append(
                    in_a_fork(lambda one=one: _cpu_seconds(one, warm_up, inputs))
                )
    times = {name: Times(tuple(values)) for name, values in seconds.items()}
    return Outcome(stage, times, facts)


def in_a_fork(function: Callable[[], Any]) -> Any:
    """Return what `function` returns in a fork of this process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: threads and forks
        process = context.Process(target=_answer, args=(function, sender))
        process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError("A contender failed; its error is above.") from None
    finally:
        process.join()


def sha256(*arrays: npt.NDArray[Any]) -> str:
    """Return a hash of the shapes, types and values of arrays, in their index order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype.str}".encode())
        digest.update(array.tobytes(order="F"))
    return digest.hexdigest()


def equal(baseline: Facts, other: Facts) -> bool:
    """Whether all facts are the same."""
    return baseline == other


def within(tolerance: float) -> Callable[[Facts, Facts], bool]:
    """Return a comparison of numbers that allows them to differ by `tolerance`."""

    def agree(baseline: Facts, other: Facts) -> bool:
        return baseline.keys() == other.keys() and all(
            np.allclose(baseline[name], other[name], rtol=0, atol=tolerance)
            for name in baseline
        )

    return agree


def _answer(function: Callable[[], Any], sender: Connection) -> None:
    """Send what the function returns; what libraries print goes to the errors."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sender.send(function())


def _facts(stage: Stage, one: Contender, inputs: Any) -> Facts:
    with tempfile.TemporaryDirectory() as folder:
        return stage.facts(one.work(inputs, Path(folder)))


def _check(stage: Stage, running: Iterable[Contender], facts: dict[str, Facts]) -> None:
    expected = facts[stage.baseline.name]
    for one in running:
        if not one.differs and not stage.agree(expected, facts[one.name]):
            raise WrongAnswerError(
                f"{stage.name}: {one.name} answers {facts[one.name]}, "
                f"{stage.baseline.name} {expected}."
            )


def _cpu_seconds(one: Contender, warm_up: Any, inputs: Any) -> float:
    """Return the mean CPU time of one call."""
    with tempfile.TemporaryDirectory() as folder:
        one.work(warm_up, Path(folder))
    spent, calls = 0.0, 0
    while spent < SHORT_SECONDS:
        with tempfile.TemporaryDirectory() as folder:
            before = _cpu_clock()
            result = one.work(inputs, Path(folder))
            spent += _cpu_clock() - before
        calls += 1
        del result
    return spent / calls


def _cpu_clock() -> float:
    """Return the CPU seconds of this process, its threads and its ended children."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _ends(values: list[float]) -> tuple[float, float]:
    return values[0], values[-1]


def _three_digits(seconds: float) -> str:
    """Return seconds with three digits that count.

    Examples
    --------
    >>> _three_digits(0.012345), _three_digits(12.345)
    ('0.0123', '12.3')
    """
    if seconds == 0:
        return "0"
    return f"{seconds:.{max(0, 2 - int(np.floor(np.log10(seconds))))}f}"
