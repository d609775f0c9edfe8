"""Check a checkpoint from elsewhere for what it would call, without calling it.

A checkpoint is a zip file with a pickle, and a pickle is a program. Its instructions
can be listed without running them: everything that it would import must be on a short
list, and instructions that could hide a name are refused. Only then a process of its
own, with limited memory, loads it with torch's list of harmless types and writes what
prediction needs to a new file (FAULTS S01). No byte of a foreign pickle is kept.

What a checkpoint says of its training (epochs, losses, times) is read as data, without
torch and without its tensors.
"""

import io
import pickle
import pickletools
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from nnunet_bridge.core.errors import SecurityError
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.archive import Archive, ArchiveLimits, open_archive
from nnunet_bridge.nnunet import pickles

LIMITS = ArchiveLimits(entries=50_000, directory_bytes=16 << 20)
"""A network has a few hundred tensors, and two entries a tensor in its optimiser."""

MOST_PICKLE_BYTES = 64 << 20
"""The pickle names the tensors; their numbers are in other entries."""

ALLOWED_GLOBALS = frozenset(
    {
        "_codecs encode",
        "collections OrderedDict",
        *("numpy dtype", "numpy._core.multiarray scalar"),
        *("numpy.core.multiarray scalar", "torch device", "torch Size"),
        *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"),
        *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16")),
        *(f"torch {kind}Storage" for kind in ("Long", "Int", "Short", "Char", "Byte")),
        "torch BoolStorage",
    }
)
"""Everything that a checkpoint of nnU-Net 2.8 imports, also under NumPy 1 and with the
other kinds of tensors."""

ALLOWED_OPCODES = frozenset(
    {
        *("PROTO", "STOP", "MARK", "POP", "POP_MARK", "GLOBAL", "REDUCE", "BUILD"),
        *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "BINPERSID"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"),
        *("BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING"),
        *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_SET"),
    }
)
"""The opcodes of protocol 2 but those that build an object of any class or compute a
name at run time (STACK_GLOBAL, INST, OBJ, NEWOBJ)."""

_ENTRY = re.compile(
    r"[^/]+/(data\.pkl|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id|data/[0-9]+)"
)


def check_checkpoint(file: Path) -> None:
    """Refuse a checkpoint that would call more than those of nnU-Net do.

    Nothing in it runs, and torch is not needed.

    Raises `SecurityError`. S01: it has code, or could hide some. S04, S06, S08: the zip
    file is harmful or damaged.
    """
    _checked_pickle(file)


def _checked_pickle(file: Path) -> bytes:
    """Return the pickle of a checkpoint that passed `check_checkpoint`."""
    # The zip is judged first: two readers must see the same entries in it.
    with open_archive(file, LIMITS, called=_called(file)) as archive:
        _check_entries(file, archive)
        pickled = next(name for name in archive.names if name.endswith("/data.pkl"))
        program = archive.read(pickled, most_bytes=MOST_PICKLE_BYTES)
    fault = fault_of_pickle(program)
    if fault:
        _refuse(file, fault)
    return program


def training_facts(file: Path) -> JsonObject:
    """Return what a checkpoint says of its training; empty where it cannot be read.

    ``current_epoch`` is the number of epochs, and ``logging`` maps nnU-Net's names of
    figures to their values by epoch. The weights are not read.
    """
    try:
        written = file.stat()
        return _facts_of(file, written.st_mtime_ns, written.st_size)
    except Exception:  # noqa: BLE001 - the boundary around a file from outside
        return {}


@lru_cache(maxsize=256)
def _facts_of(file: Path, _written_ns: int, _bytes: int) -> JsonObject:
    """Read a file once until it changes."""
    held = _Reader(io.BytesIO(_checked_pickle(file))).load()
    logged, epochs = held.get("logging"), held.get("current_epoch")
    return {
        "current_epoch": epochs if isinstance(epochs, int) else None,
        "logging": logged if isinstance(logged, Mapping) else {},
    }


class _Nothing:
    """Stands for tensors, and all else that the facts of a training do not need."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None:
        """Take nothing."""


class _Reader(pickle.Unpickler):
    """Reads plain values; calls nothing that the checkpoint names."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as the original
        """Return what stands for what the pickle calls."""
        return pickles.stand_in(module, name) or _Nothing

    def persistent_load(self, _: object) -> None:
        """Leave out the numbers of a tensor, which are in another entry."""


def fault_of_pickle(program: bytes) -> str:
    """Return what is wrong with a pickle; empty if nothing."""
    try:
        # genops parses without executing. GLOBAL is the only opcode left that names
        # what REDUCE and BUILD may call, and its argument is in the program itself.
        for opcode, argument, _place in pickletools.genops(program):
            if opcode.name not in ALLOWED_OPCODES:
                return f"its pickle uses {opcode.name}, which no checkpoint needs"
            if opcode.name == "GLOBAL" and argument not in ALLOWED_GLOBALS:
                return f"it would call {quoted(str(argument)[:80])}"
    except Exception as error:  # noqa: BLE001 - the boundary around a file from outside
        return f"its pickle is damaged ({type(error).__name__})"
    return ""


def _check_entries(file: Path, archive: Archive) -> None:
    """Refuse a zip file that is not exactly one checkpoint of torch."""
    odd = [name for name in archive.names if not _ENTRY.fullmatch(name)]
    if odd:
        _refuse(file, f"{quoted(odd[0][:80])} has no place in a checkpoint")
    if len({name.split("/")[0] for name in archive.names}) != 1:
        _refuse(file, "it holds more than one checkpoint")
    if not any(name.endswith("/data.pkl") for name in archive.names):
        _refuse(file, "it is no checkpoint of torch 1.6 or later")
    if any(entry.compress_type for entry in archive.entries):
        _refuse(file, "its tensors are compressed, which torch never does")


def _called(file: Path) -> str:
    return f"The checkpoint {file.name} in {file.parent.name}"


def _refuse(file: Path, reason: str) -> None:
    raise SecurityError(f"{_called(file)} is refused: {reason}.", code="S01")
