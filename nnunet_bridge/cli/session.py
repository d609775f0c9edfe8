"""What every command shares: its common options, its output, its exit code.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from traceback import format_exc
from types import FrameType
from typing import Any, TypeAlias

import rich_click as click

from nnunet_bridge.core.errors import BridgeError, Interrupted
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject, Summary

Command: TypeAlias = Callable[..., Summary]

INTERNAL_ERROR = 1
WORKSPACE_VARIABLE = "NNUNET_BRIDGE_WORKSPACE"


@dataclass(frozen=True, slots=True)
class Session:
    """One call of one command."""

    root: Path
    """The workspace's folder, as asked for."""

    as_json: bool
    verbosity: int
    """Below 0 quiet, above 0 talkative."""

    traceback: bool

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show progress on standard error while the block runs."""
        if self.verbosity < 0:
            yield Silent()
            return
        from nnunet_bridge.cli.progress import shown_progress

        with shown_progress(talkative=self.verbosity > 0) as progress:
            yield progress

    def run(self, function: Command, words: dict[str, Any]) -> None:
        """Run a command's function and leave with the exit code of what came of it."""
        _stop_on_signals()
        try:
            summary = function(self, **words)
        except BridgeError as error:
            self._show_traceback()
            self.fail(str(error), error.exit_code, error.code)
        except KeyboardInterrupt:
            self.fail("Interrupted.", Interrupted.exit_code)
        except Exception as error:  # noqa: BLE001 - the last boundary
            self._show_traceback()
            self.fail(
                f"Internal error: {type(error).__name__}: {error}. Please report it "
                "with what --traceback shows.",
                INTERNAL_ERROR,
            )
        else:
            self.show(summary)

    def show(self, summary: Summary) -> None:
        """Print a result and leave with its exit code."""
        if self.as_json:
            self._print_json(summary.as_json())
        elif self.verbosity >= 0:
            click.echo(summary.as_text())
        sys.exit(summary.exit_code)

    def fail(self, message: str, exit_code: int, code: str = "") -> None:
        """Print a failure and leave with its exit code."""
        if self.as_json:
            self._print_json({"error": message, "code": code, "exit_code": exit_code})
        known = f"[{code}] " if code and f"[{code}]" not in message else ""
        click.echo(f"Error: {known}{message}", err=True)
        sys.exit(exit_code)

    def _show_traceback(self) -> None:
        if self.traceback:
            click.echo(format_exc(), err=True)

    @staticmethod
    def _print_json(content: JsonObject) -> None:
        click.echo(json.dumps(content, indent=2, allow_nan=False, default=str))


COMMON_OPTIONS = (
    click.option(
        "-w",
        "--workspace",
        "root",
        type=click.Path(path_type=Path),
        default=".",
        envvar=WORKSPACE_VARIABLE,
        show_envvar=True,
        help="Folder of nnUNet_raw, nnUNet_preprocessed, nnUNet_results and runs. "
        "[default: the current folder]",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    click.option("-v", "--verbose", count=True, help="Say more."),
    click.option("-q", "--quiet", is_flag=True, help="Say less."),
    click.option("--traceback", is_flag=True, help="Show where a failure arose."),
)


def bridge_command(function: Command) -> Callable[..., None]:
    """Give a command the common options, a `Session`, and an end for every error.

    The decorated function takes the session first and returns a `Summary`.
    """

    @functools.wraps(function)
    def run(
        *,
        root: Path,
        as_json: bool,
        verbose: int,
        quiet: bool,
        traceback: bool,
        **words: Any,  # noqa: ANN401 - each command has its own
    ) -> None:
        level = -1 if quiet else verbose
        session = Session(root, as_json=as_json, verbosity=level, traceback=traceback)
        session.run(function, words)

    for option in reversed(COMMON_OPTIONS):
        option(run)
    return run


def _stop_on_signals() -> None:
    """Let SIGTERM, and SIGINT even if inherited as ignored, end what runs cleanly."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
