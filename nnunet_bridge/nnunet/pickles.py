"""Read the pickles of preprocessed cases as data: nothing in them can run.

nnU-Net keeps the facts of a preprocessed case in a pickle, and a pickle is a program.
It is read here with a list of what it may call: arrays and numbers. A hash on record
could not protect it, because a file may change after it was hashed. So the processes of
nnU-Net read pickles by this module too (FAULTS S12).
"""

import pickle
import re
from collections import OrderedDict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_bridge.core.errors import SecurityError
from nnunet_bridge.core.quoting import quoted


class _Kind:
    """A type of numbers. The state of NumPy's own could point at any memory."""

    def __init__(self, name: str, *_: object) -> None:
        if not re.fullmatch("[biuf][0-9]{1,2}", name):
            named = quoted(str(name)[:80])
            raise SecurityError(f"it holds values of the type {named}", code="S12")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the byte order from the state; nothing else in it is needed."""
        self.dtype = self.dtype.newbyteorder(state[1])

    def array(self, content: bytes, shape: Any = -1, order: Any = "C") -> Any:  # noqa: ANN401 - judged by NumPy
        """Return an array of these bytes."""
        return np.frombuffer(content, self.dtype).reshape(shape, order=order)


class _Array(np.ndarray[Any, Any]):
    """An array that takes numbers only."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take shape and content."""
        _, shape, kind, by_columns, content = state
        super().__setstate__((1, shape, kind.dtype, by_columns, content))


def _empty(*_: object) -> _Array:
    return _Array((0,), "b")


ALLOWED = {
    "collections OrderedDict": OrderedDict,
    "_codecs encode": lambda text, _: text.encode("latin1"),
    "numpy ndarray": _empty,
    "numpy dtype": _Kind,
    "multiarray _reconstruct": _empty,
    "multiarray scalar": lambda kind, content: kind.array(content)[0],
    "numeric _frombuffer": lambda content, kind, *form: kind.array(content, *form),
}
"""What a pickle of nnU-Net calls, with every protocol, and what is called instead:
NumPy trusts the arguments of its own functions."""

_CORE = re.compile(r"^numpy\._?core\.")  # in NumPy 1 and 2


def stand_in(module: str, name: str) -> Any:  # noqa: ANN401 - a class or a function
    """Return what is called instead of what a pickle calls; None if it may not."""
    return ALLOWED.get(_CORE.sub("", f"{module} {name}"))


class _DataOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as the original
        """Return what stands for what the pickle calls, if that is on the list."""
        if (instead := stand_in(module, name)) is None:
            called = quoted(f"{module} {name}"[:80])
            raise SecurityError(f"it would call {called}", code="S12")
        return instead


def load_data(file: str | Path, _mode: str = "rb") -> Any:  # noqa: ANN401 - any data
    """Return the content of a pickle; the arguments are those of nnU-Net's function.

    Raises `SecurityError` if it holds more than plain values and arrays, or is damaged
    (S12).
    """
    try:
        with Path(file).open("rb") as stream:
            return _DataOnly(stream).load()
    except Exception as error:  # the boundary around a file from outside
        reason = error if isinstance(error, SecurityError) else "it is damaged"
        raise SecurityError(
            f"{file} is refused: {reason}. Preprocess the dataset again with "
            "`nnunet-bridge plan --force`.",
            code="S12",
        ) from error


def read_pickles_as_data() -> None:
    """Replace nnU-Net's function; call it before anything of nnU-Net is imported."""
    files: Any = import_module("batchgenerators.utilities.file_and_folder_operations")
    files.load_pickle = load_data
