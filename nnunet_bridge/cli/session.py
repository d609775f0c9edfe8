"""The frame of every command: common options, one result, one exit code.

`--json` prints exactly one object on standard output; everything else goes to
standard error. Every mistake of the user ends as one sentence and the exit code of
its kind.
"""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from traceback import format_exc
from types import FrameType
from typing import TYPE_CHECKING, Any

import rich_click as click

from nnunet_bridge.cli.fields import Asked, Group, asked_for, decorators, option
from nnunet_bridge.cli.streams import say
from nnunet_bridge.core.errors import (
    BridgeError,
    EnvironmentFault,
    Interrupted,
    UsageError,
)
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject, Summary

if TYPE_CHECKING:
    from nnunet_bridge.formats.recipe import Recipe
    from nnunet_bridge.nnunet.names import Dataset, Workspace

INTERNAL_ERROR = 1
WORKSPACE_VARIABLE = "NNUNET_BRIDGE_WORKSPACE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One call of one command, and the options that every command has."""

    root: Path = option(
        "-w",
        "--workspace",
        "Folder of nnUNet_raw, nnUNet_preprocessed, nnUNet_results and runs. "
        "[default: the current folder]",
        type=click.Path(path_type=Path),
        default=".",
        show_default=False,
        envvar=WORKSPACE_VARIABLE,
        show_envvar=True,
        group=Group.COMMON,
        metavar="DIR",
    )
    as_json: bool = option("--json", "Print one JSON object.", group=Group.COMMON)
    verbose: bool = option("-v", "--verbose", "Verbose output.", group=Group.COMMON)
    quiet: bool = option("-q", "--quiet", "Errors only.", group=Group.COMMON)
    traceback: bool = option(
        "--traceback", "Show the Python traceback of an error.", group=Group.COMMON
    )

    @property
    def workspace(self) -> Workspace:
        """The workspace that the user named."""
        from nnunet_bridge.nnunet.names import Workspace

        return Workspace.at(self.root)

    @property
    def new_workspace(self) -> Workspace:
        """The workspace that the user named, which need not exist yet."""
        from nnunet_bridge.nnunet.names import Workspace

        return Workspace.at(self.root, may_be_new=True)

    def recipe(self, asked: str | None, study: Path) -> Recipe:
        """Return the recipe that the user named, or the one that lies nearest."""
        from nnunet_bridge.formats.recipe import find_recipe, read_recipe

        return read_recipe(asked or find_recipe(study, Path(), self.root))

    def dataset(self, asked: str) -> Dataset:
        """Return a dataset of the workspace by its number or name."""
        from nnunet_bridge.nnunet.names import Dataset

        return Dataset.find(self.workspace, asked)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show progress on standard error while the block runs."""
        if self.quiet:
            yield Silent()
            return
        from nnunet_bridge.cli.progress import shown_progress

        with shown_progress(verbose=self.verbose) as progress:
            yield progress

    def consent(self, progress: Progress, *, yes: bool) -> Callable[[str], None]:
        """Return the question before a long training: it raises if it is not wanted.

        Without a terminal there is no question, and only ``--yes`` starts it.
        """

        def ask(sentence: str) -> None:
            if yes:
                progress.say(sentence)
                return
            if self.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise UsageError(f"{sentence} Add --yes to start it all the same.")
            with getattr(progress, "paused", contextlib.nullcontext)():
                wanted = click.confirm(f"{sentence} Start it?", err=True)
            if not wanted:
                raise Interrupted("Nothing was trained.")

        return ask

    def run(self, work: Callable[[], Summary]) -> None:
        """Do the work of a command, print its result and exit with its code."""
        _stop_on_signals()
        try:
            _require_current_folder()
            summary = work()
        except BridgeError as error:
            self._show_traceback()
            self.fail(str(error), error.exit_code, error.code, error.reports)
        except KeyboardInterrupt:
            self.fail("Interrupted.", Interrupted.exit_code)
        except Exception as error:  # noqa: BLE001 - the last boundary
            self._show_traceback()
            self.fail(
                f"Internal error: {type(error).__name__}: {error}. Please report it "
                "with the output of --traceback.",
                INTERNAL_ERROR,
            )
        else:
            self.show(summary)

    def show(self, summary: Summary) -> None:
        """Print a result and exit with its code."""
        lost = ""
        if self.as_json:
            lost = self._print_json(summary.as_json())
        elif not self.quiet:
            lost = say(summary.as_text())
        if lost:
            text = f"The work is done, but its result could not be printed: {lost}."
            say(text, err=True)
        sys.exit(summary.exit_code)

    def fail(
        self, message: str, exit_code: int, code: str = "", cases: Iterable[Any] = ()
    ) -> None:
        """Print a failure and exit with its code; `cases` were done before."""
        if self.as_json:
            done = [case.as_json() for case in cases]
            failure = {"error": message, "code": code, "exit_code": exit_code}
            self._print_json({**failure, "cases": done})
        known = f"[{code}] " if code and f"[{code}]" not in message else ""
        say(f"Error: {known}{message}", err=True)
        sys.exit(exit_code)

    def _show_traceback(self) -> None:
        if self.traceback:
            say(format_exc(), err=True)

    @staticmethod
    def _print_json(content: JsonObject) -> str:
        text = json.dumps(content, indent=2, allow_nan=False, default=str)
        return say(text, as_is=True)


def _require_current_folder() -> None:
    """Refuse to work in a folder that was removed meanwhile."""
    try:
        Path.cwd()
    except OSError as error:
        text = (
            f"The current folder cannot be used ({error.strerror}): change to another."
        )
        raise EnvironmentFault(text) from error


def command(
    options: type[Asked],
) -> Callable[[Callable[[Session, Asked], Summary]], click.RichCommand]:
    """Make a click command of a function that takes a session and its options.

    Parameters
    ----------
    options : type
        A dataclass whose fields are declared with `cli.fields`.
    """

    def make(function: Callable[[Session, Asked], Summary]) -> click.RichCommand:
        @functools.wraps(function)
        def run(**words: Any) -> None:
            session = asked_for(Session, words)
            session.run(lambda: function(session, asked_for(options, words)))

        declared = [*decorators(options), *decorators(Session)]
        for decorate, _ in reversed(declared):
            decorate(run)
        used = {group for _, group in declared}
        panels = [click.RichOptionPanel(group) for group in Group if group in used]
        panels[-1].options += [*(f.name for f in fields(Session)), "help"]
        return click.command(panels=panels)(run)

    return make


def _stop_on_signals() -> None:
    """Let SIGTERM, and SIGINT even if inherited as ignored, end what runs cleanly."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
