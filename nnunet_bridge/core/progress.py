"""The interface through which a long task reports its progress."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")

PROGRESS_VARIABLE = "NNUNET_BRIDGE_PROGRESS"
"""With the value ``json``, progress is one JSON object per line of standard error."""


class Progress(Protocol):
    """Receives the progress of a pipeline; the command line shows it."""

    def outline(self, stages: Sequence[tuple[str, float]]) -> None:
        """Announce all stages, with the seconds that each is expected to take."""

    def stage(self, name: str, steps: int) -> None:
        """Start the stage `name` of `steps` steps; ends the previous stage."""

    def advance(self, done: float, note: str = "") -> None:
        """Report that `done` more steps of the current stage are finished."""

    def say(self, line: str) -> None:
        """Show one permanent line: a warning or a result."""

    def show(self, draw: Callable[[int], str]) -> None:
        """Replace the current text; `draw` takes the width in columns."""


class Silent:
    """Shows no progress."""

    def outline(self, *_: object, **__: object) -> None:
        """Ignore a report."""

    stage = advance = say = show = outline


def steps(
    progress: Progress | None, stage: str, named: Collection[tuple[str, Item]]
) -> Iterator[tuple[str, Item]]:
    """Yield named items as the steps of a stage; each is reported when it is done."""
    listener = progress or Silent()
    listener.stage(stage, len(named))
    for done, (name, item) in enumerate(named, start=1):
        yield name, item
        listener.advance(done, name)
