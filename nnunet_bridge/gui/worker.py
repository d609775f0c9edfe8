"""One process beside the server that reads images and draws pictures.

A damaged or huge file can end or block the process that reads it. That is this one,
never the server: the request gets a sentence, and the next one a new process.
"""

import atexit
import functools
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from nnunet_bridge.core.errors import BridgeError, InputError, SecurityError

LIMIT_S = 120.0
_BROKEN = (EOFError, OSError)
_ONE_REQUEST = threading.Lock()

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
    with _ONE_REQUEST:
        try:
            worker = _ready()
            worker.pipe.send((function, words))
            if not worker.pipe.poll(limit_s):
                worker.end()
                raise InputError(f"This takes longer than {limit_s:.0f} s: stopped.")
            answer = worker.pipe.recv()
        except _BROKEN as error:
            raise InputError(
                "The process that reads files ended before it was done, perhaps for "
                "want of memory."
            ) from error
    if isinstance(answer, BridgeError):
        raise answer
    return answer  # type: ignore[no-any-return]


class _Worker:
    """The process, and the folder into which it unpacks."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, far_end = context.Pipe()
        self._scratch = tempfile.TemporaryDirectory()
        words = far_end, self._scratch.name
        self._process = context.Process(target=_work, args=words, daemon=True)
        self._process.start()
        far_end.close()
        atexit.register(self.end)

    def end(self) -> None:
        """End the process; the folder goes with it."""
        self._process.kill()
        self._process.join()
        self.pipe.close()
        self._scratch.cleanup()


_worker = functools.cache(_Worker)


def _ready() -> _Worker:
    """Return the worker once it answers, or a new one if it has died since."""
    try:
        _worker().pipe.send((os.getpid, ()))
        _worker().pipe.recv()
    except _BROKEN:
        _worker().end()
        _worker.cache_clear()
    return _worker()


def _work(pipe: Connection, scratch: str) -> None:
    """Answer requests until the server has gone; unpack into `scratch`."""
    tempfile.tempdir = scratch
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server
    while True:
        try:
            function, words = pipe.recv()
        except EOFError:
            return
        answer: object
        try:
            answer = function(*words)
        except BridgeError as error:
            kind = SecurityError if isinstance(error, SecurityError) else InputError
            answer = kind(str(error), code=error.code)
        except Exception as error:  # noqa: BLE001 - the boundary around untrusted files
            what = f"{type(error).__name__}: {error}"
            answer = InputError(f"This cannot be read ({what}).")
        pipe.send(answer)
