"""Commands that the page has started, found again from their files."""

import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats import files
from nnunet_bridge.formats.files import readable_object
from nnunet_bridge.formats.system import new_group
from nnunet_bridge.gui.runner import END, JOB, LOCK, LOG, OUTPUT, PROCESS

START_S = 10.0
"""A job without lock and end is still starting for so long, and lost after it."""

_STATES = {0: "done", 4: "done", 130: "stopped"}  # of an exit code; others failed
_LOG_BYTES = 200_000  # of the end of a log that a browser gets
_KEPT = 60  # jobs that `Jobs.all` returns, the newest first


@dataclass(frozen=True, slots=True)
class Job:
    """One command: its folder holds everything that is known of it."""

    folder: Path

    @property
    def id(self) -> str:
        """The name of its folder, which begins with its time."""
        return self.folder.name

    @property
    def facts(self) -> JsonObject:
        """``job.json``: ``command``, ``values``, ``words``, ``started``."""
        return readable_object(self.folder / JOB)[0]

    @property
    def state(self) -> str:
        """``running``, ``done``, ``stopped``, ``failed`` or ``lost``.

        A job is lost if its process was killed, or the machine stopped.
        """
        return self._state_and_end(self.facts)[0]

    def _state_and_end(self, facts: JsonObject) -> tuple[str, JsonObject]:
        """Return the state and ``end.json``, which is there when the lock is freed."""
        locked = files.is_locked(self.folder / LOCK)
        end = readable_object(self.folder / END)[0]
        if end and not locked:
            return _STATES.get(end["exit_code"], "failed"), end
        starting = time.time() - facts.get("started", 0) < START_S
        return "running" if locked or starting else "lost", end

    @property
    def result(self) -> JsonObject:
        """What the command printed: its result, or `error` with a sentence."""
        return readable_object(self.folder / OUTPUT)[0]

    def log(self) -> tuple[list[str], JsonObject]:
        """Return the lines of the log, and the last report of progress."""
        lines: list[str] = []
        progress: JsonObject = {}
        for text in _end_of(self.folder / LOG):
            try:
                report = json.loads(text) if text.startswith("{") else {}
            except ValueError:
                report = {}
            if "stage" in report:
                progress = report
            else:
                lines.append(str(report.get("say", text)))
        return lines, progress

    def summary(self) -> JsonObject:
        """Return what a list of jobs shows."""
        facts = self.facts
        state, end = self._state_and_end(facts)
        return {
            "id": self.id,
            "state": state,
            "progress": self.log()[1] if state == "running" else {},
            **{name: end.get(name) for name in ("exit_code", "ended")},
            "error": self.result.get("error", "") if state == "failed" else "",
            **{name: facts.get(name) for name in ("command", "values", "started")},
            "line": command_line(facts.get("words", ())),
        }

    def stop(self) -> None:
        """Ask the command to end cleanly, as Ctrl-C does."""
        process = readable_object(self.folder / PROCESS)[0].get("process")
        if not files.is_locked(self.folder / LOCK) or not isinstance(process, int):
            raise InputError("This job is not running.")
        os.kill(process, signal.SIGINT)


def _end_of(file: Path) -> list[str]:
    """Return the last lines of a log; none if there is no such file."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _LOG_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[1 if size > _LOG_BYTES else 0 :]


def command_line(words: Sequence[str]) -> str:
    """Return a command as it is typed into a terminal."""
    return shlex.join(["nnunet-bridge", *words])


@dataclass(frozen=True, slots=True)
class Jobs:
    """The jobs of a workspace, each in a folder of its own."""

    folder: Path  # made with the first job
    root: Path  # the current folder of each command

    def find(self, name: str) -> Job:
        """Return a job by its id; raise `UsageError` if there is none."""
        folder = self.folder / name
        if folder.parent != self.folder or not (folder / JOB).is_file():
            raise UsageError(f"There is no job {name!r}.")
        return Job(folder)

    def all(self) -> list[Job]:
        """Return the newest jobs, the newest first."""
        newest = sorted(self.folder.glob(f"*/{JOB}"), reverse=True)[:_KEPT]
        return [Job(file.parent) for file in newest]

    def start(
        self, command: str, values: Mapping[str, Any], words: Sequence[str]
    ) -> Job:
        """Start a command; return the same one if it is at work already."""
        for job in self.all():
            if job.facts.get("words") == list(words) and job.state == "running":
                return job
        now = time.strftime("%Y%m%d-%H%M%S")
        folder = self.folder / f"{now}-{secrets.token_hex(3)}"
        with files.clear_os_errors(f"write {folder}"):
            folder.mkdir(parents=True)
        facts = {"command": command, "values": dict(values), "words": list(words)}
        files.write_json(folder / JOB, {"schema": 1, "started": time.time(), **facts})
        runner = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "nnunet_bridge.gui.runner", str(folder)],
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **new_group(),
        )
        threading.Thread(target=runner.wait, daemon=True).start()  # no zombie stays
        return Job(folder)
