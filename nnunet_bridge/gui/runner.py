"""Run one command for the page, in a process that outlives it.

``python -m nnunet_bridge.gui.runner FOLDER`` reads ``job.json``, runs its command with
its output in files, and writes ``end.json`` last. While it lives it holds the lock of
the folder, so a page that starts later finds the job still at work. SIGINT and SIGTERM
reach the command, which ends cleanly.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from nnunet_bridge.core.progress import PROGRESS_VARIABLE
from nnunet_bridge.formats import files

JOB, OUTPUT, LOG, END, LOCK = "job.json", "output.json", "log", "end.json", "job.lock"
PROCESS = "process.json"  # the id of the runner, to stop it
_STOP = (signal.SIGINT, signal.SIGTERM)


def run(folder: Path) -> None:
    """Run the command of a job and record how it ended."""
    stopping: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopping.append(number)

    for number in _STOP:
        signal.signal(number, stop)
    name, *words = files.read_json(folder / JOB)["words"]
    with (
        files.only_writer(folder / LOCK, f"job {folder.name}"),
        files.open_to_write(folder / OUTPUT) as output,
        files.open_to_write(folder / LOG) as log,
    ):
        files.write_json(folder / PROCESS, {"process": os.getpid()})
        command = subprocess.Popen(  # noqa: S603 - the words of `commands.words_of`
            [sys.executable, "-m", "nnunet_bridge", name, "--json", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
            env={**os.environ, PROGRESS_VARIABLE: "json"},
        )
        while (code := command.poll()) is None:
            if stopping:
                stopping.clear()
                command.send_signal(signal.SIGINT)
            time.sleep(0.1)
        files.write_json(folder / END, {"exit_code": code, "ended": time.time()})


if __name__ == "__main__":
    run(Path(sys.argv[1]))
