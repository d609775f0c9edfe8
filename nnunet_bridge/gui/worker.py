"""One process beside the server that reads images and draws pictures.

A damaged or huge file can end or block the process that reads it. That is this one,
never the server: the request gets a sentence, and the next one a new process.
"""

import atexit
import multiprocessing
import signal
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from nnunet_bridge.core.errors import BridgeError, InputError, SecurityError

LIMIT_S = 120.0
_ENDED = (
    "The process that reads files ended before it was done, perhaps for want of memory"
)
_BROKEN = (EOFError, OSError)

_Result = TypeVar("_Result")


def in_worker(
    function: Callable[..., _Result], *words: object, limit_s: float = LIMIT_S
) -> _Result:
    """Return what a function of a module returns for some words, from the worker.

    Function, words and result are pickled. Requests are answered one after the other;
    the worker starts with the first one and again after it has died.

    Raises
    ------
    BridgeError
        If the function raises one.
    InputError
        If it raises another exception, takes longer than `limit_s`, or its process
        dies.
    """
    return _WORKER.answer(function, words, limit_s)  # type: ignore[no-any-return]


class _Worker:
    """The process, started when it is needed."""

    def __init__(self) -> None:
        self._one_request = threading.Lock()
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        """Holds what the worker unpacks, and goes with it."""

    def answer(
        self, function: Callable[..., Any], words: object, limit_s: float
    ) -> Any:  # noqa: ANN401 - what the function returns
        with self._one_request:
            try:
                pipe = self._sent((function, words))
                if in_time := pipe.poll(limit_s):
                    done, result = pipe.recv()
            except _BROKEN as error:
                raise InputError(f"{_ENDED}.") from error
            if not in_time:
                self.end()
                raise InputError(f"This takes longer than {limit_s:.0f} s: stopped.")
        if not done:
            kind, message, code = result
            raise kind(message, code=code)
        return result

    def _sent(self, request: object) -> Connection:
        """Send a request to the worker, or to a new one if it has died since."""
        if self._process is not None and self._pipe is not None:
            try:
                self._pipe.send(request)
                self._pipe.recv()  # it has got it
            except _BROKEN:
                pass
            else:
                return self._pipe
        self.end()
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._scratch = tempfile.TemporaryDirectory()
        words = far_end, self._scratch.name
        self._process = context.Process(target=_work, args=words, daemon=True)
        self._process.start()
        far_end.close()
        self._pipe.send(request)
        self._pipe.recv()
        return self._pipe

    def end(self) -> None:
        """End the worker."""
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        if self._scratch is not None:
            self._scratch.cleanup()
        self._process = self._pipe = None


_WORKER = _Worker()
atexit.register(_WORKER.end)


def _work(pipe: Connection, scratch: str) -> None:
    """Answer requests until the server has gone; unpack into `scratch`."""
    tempfile.tempdir = scratch
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server
    while True:
        try:
            function, words = pipe.recv()
        except EOFError:
            return
        pipe.send(None)
        answer: tuple[bool, object]
        try:
            answer = True, function(*words)
        except BridgeError as error:
            kind = SecurityError if isinstance(error, SecurityError) else InputError
            answer = False, (kind, str(error), error.code)
        except Exception as error:  # noqa: BLE001 - the boundary around untrusted files
            text = f"This cannot be read ({type(error).__name__}: {error})."
            answer = False, (InputError, text, "")
        pipe.send(answer)
