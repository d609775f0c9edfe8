"""Read the pickles of preprocessed cases as data: nothing in them can run.

nnU-Net keeps the facts of a preprocessed case in a pickle, and a pickle is a program.
It is read here with a list of what it may call: NumPy's arrays and numbers. A hash on
record could not protect it, because a file may change after it was hashed. So the
processes of nnU-Net read pickles by this module too (FAULTS S12).
"""

import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

from nnunet_bridge.core.errors import SecurityError
from nnunet_bridge.core.quoting import quoted

_NUMPY = ("numpy._core", "numpy.core")
ALLOWED = frozenset(
    {
        *("numpy ndarray", "numpy dtype", "collections OrderedDict", "_codecs encode"),
        *(f"{core}.multiarray _reconstruct" for core in _NUMPY),
        *(f"{core}.multiarray scalar" for core in _NUMPY),
        *(f"{core}.numeric _frombuffer" for core in _NUMPY),
    }
)
"""What a pickle of nnU-Net calls, under NumPy 1 and 2 and every protocol."""


class _DataOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as the original
        """Return what the pickle calls, if that is on the list."""
        if f"{module} {name}" not in ALLOWED:
            called = quoted(f"{module} {name}"[:80])
            raise SecurityError(f"it would call {called}", code="S12")
        return super().find_class(module, name)


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
