"""How a long task tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """What a pipeline reports to; the command line shows it, tests ignore it."""

    def outline(self, stages: Sequence[tuple[str, float]]) -> None:
        """Say which stages will come, and about how many seconds each takes."""

    def stage(self, name: str, steps: int) -> None:
        """Begin the stage `name`, which has `steps` steps; ends the one before."""

    def advance(self, done: float, note: str = "") -> None:
        """Say that `done` steps of the current stage are finished."""

    def say(self, line: str) -> None:
        """Show one line that stays: a warning, or a result."""

    def show(self, draw: Callable[[int], str]) -> None:
        """Show a text in place of the last one; it is drawn for so many columns."""


class Silent:
    """A listener that shows nothing."""

    def outline(self, stages: Sequence[tuple[str, float]]) -> None:
        """Ignore the outline."""

    def stage(self, name: str, steps: int) -> None:
        """Ignore the stage."""

    def advance(self, done: float, note: str = "") -> None:
        """Ignore the step."""

    def say(self, line: str) -> None:
        """Ignore the line."""

    def show(self, draw: Callable[[int], str]) -> None:
        """Draw nothing."""


def steps(
    progress: Progress | None, stage: str, named: Collection[tuple[str, Item]]
) -> Iterator[tuple[str, Item]]:
    """Yield named items as the steps of a stage; each is reported when it is done."""
    listener = progress or Silent()
    listener.stage(stage, len(named))
    for done, (name, item) in enumerate(named, start=1):
        yield name, item
        listener.advance(done, name)
