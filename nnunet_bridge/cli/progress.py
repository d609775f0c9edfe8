"""Show the progress of a long task, and the time left, on standard error."""

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from nnunet_bridge.cli.streams import say, visible
from nnunet_bridge.core.progress import PROGRESS_VARIABLE, Progress
from nnunet_bridge.core.units import format_duration

PLAIN_EVERY_S = 20.0  # time between two lines of progress where there is no terminal
RECORDS_EVERY_S = 0.5
_KNOWN_ENOUGH = 0.03
_TRUSTED = 0.1
_MOST_MARKS = 512
_PRIOR_S = 30.0
"""Weight of the outline, in seconds: later, the measured pace outweighs it."""


@dataclass(slots=True)
class Forecast:
    """Estimate the time left from the outline and from the stages so far.

    Examples
    --------
    >>> forecast = Forecast()
    >>> forecast.outline([("train", 60.0), ("predict", 30.0)])
    >>> forecast.begin("train", 10, now_s=0.0)
    >>> forecast.advance(5, now_s=60.0)
    >>> forecast.left_s(now_s=60.0)  # as much again, and a slower predict
    110.0
    """

    expected_s: dict[str, float] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    spent_s: float = 0.0  # time of the finished stages of the outline
    stage: str = ""
    steps: float = 0.0
    done: float = 0.0
    started_s: float = 0.0
    marks: list[tuple[float, float]] = field(default_factory=list)
    """Moments at which steps of the stage were finished, and how many were."""

    def outline(self, stages: Sequence[tuple[str, float]]) -> None:
        """Set the coming stages, each with its expected time in seconds."""
        self.expected_s = dict(stages)

    def begin(self, stage: str, steps: float, *, now_s: float) -> None:
        """End the current stage and begin the next."""
        self.end(now_s=now_s)
        self.stage, self.steps, self.done, self.started_s = stage, steps, 0.0, now_s
        self.marks = [(now_s, 0.0)]

    def advance(self, done: float, *, now_s: float) -> None:
        """Set the number of finished steps of the stage; it never falls."""
        if min(done, self.steps) <= self.done:
            return
        self.done = min(done, self.steps)
        self.marks.append((now_s, self.done))
        if len(self.marks) > _MOST_MARKS:
            del self.marks[1::2]

    def end(self, *, now_s: float) -> None:
        """Close the current stage."""
        if self.stage in self.expected_s and self.stage not in self.finished:
            self.finished.append(self.stage)
            self.spent_s += now_s - self.started_s
        self.stage = ""

    @property
    def share(self) -> float:
        """Share of the current stage that is done, 0..1."""
        return self.done / self.steps if self.steps else 0.0

    @property
    def number(self) -> str:
        """Number of the stage in the outline, such as ``[2/6]``; else empty."""
        names = list(self.expected_s)
        if self.stage not in names:
            return ""
        return f"[{names.index(self.stage) + 1}/{len(names)}]"

    def left_s(self, *, now_s: float) -> float | None:
        """Return the expected seconds to the end; None while they are unknown."""
        elapsed = now_s - self.started_s
        total = self._stage_total_s(elapsed)
        if total is None:
            return None
        names = list(self.expected_s)
        here = names.index(self.stage) + 1 if self.stage in names else 0
        coming = [name for name in names[here:] if name not in self.finished]
        later = sum(self.expected_s[name] for name in coming)
        return max(total - elapsed, 0.0) + later * self._pace(total)

    def _stage_total_s(self, elapsed: float) -> float | None:
        """Return the expected time of the whole stage; None while it is unknown.

        The first steps of a stage say little about the rest, so the outline counts
        until a tenth is done.
        """
        expected = self.expected_s.get(self.stage)
        if self.share < _KNOWN_ENOUGH:
            return expected
        seen = self._seen_total_s(elapsed)
        if expected is None:
            return seen
        trust = min(self.share / _TRUSTED, 1.0)
        return max(trust * seen + (1 - trust) * expected, elapsed)

    def _seen_total_s(self, elapsed: float) -> float:
        """Return the time of the whole stage at the pace of its latest half so far.

        The longest pause between two marks does not count if there are others: a
        process that starts finishes nothing, and another one need not start.
        """
        half = [mark for mark in self.marks if mark[1] >= self.done / 2]
        recent = half if len(half) > 1 else self.marks[-2:]
        gaps = [
            (later[0] - earlier[0], later[1] - earlier[1])
            for earlier, later in itertools.pairwise(recent)
        ]
        counted = sorted(gaps)[:-1] if len(gaps) > 1 else gaps
        spent, steps = sum(gap[0] for gap in counted), sum(gap[1] for gap in counted)
        left = (self.steps - self.done) * spent / steps
        waited = self.started_s + elapsed - self.marks[-1][0]
        return elapsed + left - min(waited, gaps[-1][0], left)

    def _pace(self, stage_total_s: float) -> float:
        """Return the factor by which this machine is slower than the outline."""
        known = sum(self.expected_s[name] for name in self.finished)
        spent = self.spent_s
        if self.stage in self.expected_s:
            known += self.expected_s[self.stage]
            spent += stage_total_s
        return (spent + _PRIOR_S) / (known + _PRIOR_S)


@contextlib.contextmanager
def shown_progress(*, verbose: bool) -> Iterator[Progress]:
    """Show a bar on a terminal, plain lines elsewhere, JSON lines where asked for."""
    if os.environ.get(PROGRESS_VARIABLE) == "json":
        records = _Records(every_s=0.0 if verbose else RECORDS_EVERY_S)
        yield records
        records.close()
    elif sys.stderr.isatty():
        bar = _Bar()
        with bar.display:
            yield bar
            bar.close()
    else:
        lines = _Lines(every_s=0.0 if verbose else PLAIN_EVERY_S)
        yield lines
        lines.close()


class _TextAndBar(RichProgress):
    """A changing text, such as a table, above a bar that appears with a stage."""

    text = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the text and the bar, several times a second."""
        if self.text:
            yield Text(self.text, no_wrap=True, overflow="crop")
        if any(task.description for task in self.tasks):
            yield from super().get_renderables()


class _Shown:
    """What both forms of progress do."""

    def __init__(self) -> None:
        self.forecast = Forecast()

    def outline(self, stages: Sequence[tuple[str, float]]) -> None:
        self.forecast.outline(stages)

    def close(self) -> None:
        self.forecast.end(now_s=time.monotonic())

    def time_left(self, before: str = "") -> str:
        left = self.forecast.left_s(now_s=time.monotonic())
        return "" if left is None else f"{before}about {format_duration(left)} left"


class _Bar(_Shown):
    """Progress on a terminal: table, stage, bar, time left and note."""

    def __init__(self) -> None:
        super().__init__()
        self.display = _TextAndBar(
            TextColumn("{task.fields[number]} [bold]{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("[dim]{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.display.add_task("", total=1.0, number="", left="", note="")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to a question while the block runs."""
        self.display.stop()
        try:
            yield
        finally:
            self.display.start()

    def stage(self, name: str, steps: int) -> None:
        self.forecast.begin(name, steps, now_s=time.monotonic())
        self._show("")

    def advance(self, done: float, note: str = "") -> None:
        self.forecast.advance(done, now_s=time.monotonic())
        self._show(note)

    def say(self, line: str) -> None:
        self.display.console.print(visible(line), highlight=False, markup=False)

    def show(self, draw: Callable[[int], str]) -> None:
        self.display.text = draw(self.display.console.width)

    def _show(self, note: str) -> None:
        self.display.update(
            self.task,
            description=self.forecast.stage,
            completed=self.forecast.share,
            number=self.forecast.number,
            left=self.time_left(),
            note=note,
        )


def _to_stderr(line: str) -> None:
    say(line.removesuffix("\n"), err=True)


class _Lines(_Shown):
    """Progress without a terminal: a line for each stage, and one now and then."""

    def __init__(
        self, every_s: float, write: Callable[[str], object] | None = None
    ) -> None:
        super().__init__()
        self.every_s = every_s
        self.write = write or _to_stderr
        self.last_s = 0.0

    def stage(self, name: str, steps: int) -> None:
        self.last_s = time.monotonic()
        self.forecast.begin(name, steps, now_s=self.last_s)
        self.report_stage()

    def advance(self, done: float, note: str = "") -> None:
        now_s = time.monotonic()
        self.forecast.advance(done, now_s=now_s)
        if self.is_due(now_s - self.last_s):
            self.last_s = now_s
            self.report_step(note)

    def is_due(self, since_s: float) -> bool:
        return since_s >= self.every_s

    def report_stage(self) -> None:
        stage = f"{self.forecast.number} {self.forecast.stage}"
        self.say(f"{stage}{self.time_left(', ')}".strip())

    def report_step(self, note: str) -> None:
        share = f"  {self.forecast.stage} {100 * self.forecast.share:.0f} %"
        self.say(f"{share}{self.time_left(', ')}{': ' + note if note else ''}")

    def say(self, line: str) -> None:
        self.write(f"{line}\n")

    def show(self, draw: Callable[[int], str]) -> None:
        """Ignore tables: without a terminal, the notes report the same."""


class _Records(_Lines):
    """Progress for other programs: one JSON object per line of standard error.

    A line has ``say`` (a sentence), or ``stage``, ``number`` (such as ``[2/6]``),
    ``share`` (0..1), ``left_s`` (null while unknown) and ``note``.
    """

    latest: dict[str, object] | None = None  # report, without the time left
    latest_s = 0.0

    def is_due(self, since_s: float) -> bool:
        return super().is_due(since_s) or self.forecast.share == 1.0

    def report_stage(self) -> None:
        self.report_step("")

    def say(self, line: str) -> None:
        self.write(json.dumps({"say": line}))

    def report_step(self, note: str) -> None:
        forecast = self.forecast
        report = {
            "stage": forecast.stage,
            "number": forecast.number,
            "share": round(forecast.share, 4),
            "left_s": forecast.left_s(now_s=time.monotonic()),
            "note": note,
        }
        # A training that waits for its epoch must not fill a disk with reports of it.
        news = {**report, "left_s": None}
        if news != self.latest or self.last_s - self.latest_s >= PLAIN_EVERY_S:
            self.latest, self.latest_s = news, self.last_s
            self.write(json.dumps(report))
