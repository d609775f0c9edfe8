"""Files that are whole or absent: temporary names, proof, one writer at a time.

A temporary file lies in the folder of its final name, starts with a dot and ends in
``.partial``, so that nothing takes it for a finished one (FAULTS F04, F06, F07).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_bridge.core.errors import EnvironmentFault

PARTIAL = ".partial"
_BLOCK_BYTES = 1 << 20
_QUOTED = re.compile("“[^”]*”")


@contextlib.contextmanager
def whole_file(final: Path) -> Iterator[Path]:
    """Give a temporary path; rename it to `final` if the block ends well.

    Parameters
    ----------
    final : Path
        The name that the finished file gets; its folder is made if need be.

    Raises
    ------
    EnvironmentFault
        If the disk is full or the folder cannot be written.
    """
    with clear_os_errors(f"write {final}"):
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_partials(final.parent)
    temporary = final.parent / (
        f".{final.name}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}{PARTIAL}"
    )
    try:
        with clear_os_errors(f"write {final}"):
            yield temporary
            _to_disk(temporary)
            temporary.replace(final)
            _to_disk(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(final: Path, text: str) -> None:
    """Write a UTF-8 text file that is whole or absent."""
    with whole_file(final) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(final: Path, content: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Write standard JSON (no NaN) that is whole or absent."""
    write_text(final, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(file: Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return the content of a JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def quoted(name: str) -> str:
    """Return a name from outside as it may stand in a message.

    Whatever comes from a user's files stands between these quotes, and nothing else
    does, so that `without_quotes` can take it out again. Control and direction marks
    are shown as ``?``.

    Examples
    --------
    >>> quoted("4_R_tibia_5A.nii.gz")
    '“4_R_tibia_5A.nii.gz”'
    """
    visible = "".join(c if c.isprintable() and c not in "“”" else "?" for c in name)
    return f"“{visible}”"


def without_quotes(message: str) -> str:
    """Return `message` without the names that `quoted` put in: they may tell a patient.

    Examples
    --------
    >>> without_quotes(f"{quoted('Doe, Jane')} is damaged")
    'a file is damaged'
    """
    return _QUOTED.sub("a file", message)


def pseudonym(value: str, key: bytes) -> str:
    """Return 16 hexadecimal digits that stand for `value`; only `key` can tell why.

    Examples
    --------
    >>> pseudonym("DOE^JANE", b"k") == pseudonym("DOE^JANE", b"k")
    True
    """
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:16]


def remove_stale_partials(folder: Path) -> None:
    """Remove temporaries of processes of this host that no longer live."""
    for partial in folder.glob(f".*{PARTIAL}"):
        parts = partial.name.removesuffix(PARTIAL).rsplit(".", 3)
        if len(parts) != 4:  # noqa: PLR2004 - name, host, process, token
            continue
        _, host, process, _ = parts
        if host == _host() and not process_lives(process):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def only_writer(lock_file: Path, what: str) -> Iterator[None]:
    """Hold the lock on `what` while the block runs; the kernel frees it at any death.

    Raises
    ------
    EnvironmentFault
        If another process holds it; the message names that process.
    """
    with clear_os_errors(f"write {lock_file}"):
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        stream = lock_file.open("a+", encoding="utf-8")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            raise EnvironmentFault(
                f"{what} is in use by {holder}: wait for it to end, or stop it.",
                code="F08",
            ) from error
        stream.seek(0)
        stream.truncate()
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        yield


def is_locked(lock_file: Path) -> bool:
    """Whether a living process holds the lock (without taking it)."""
    if not lock_file.exists():
        return False
    with lock_file.open("r", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextlib.contextmanager
def clear_os_errors(doing: str) -> Iterator[None]:
    """Turn an error of the operating system into one sentence with a way out."""
    try:
        yield
    except OSError as error:
        ways_out = {
            errno.ENOSPC: "the disk is full: free some space",
            errno.EDQUOT: "your disk quota is used up: free some space",
            errno.EACCES: "permission denied: choose a folder you may write",
            errno.EPERM: "permission denied: choose a folder you may write",
            errno.EROFS: "the file system is read-only: choose another folder",
            errno.ENOTDIR: "part of the path is a file, not a folder",
            errno.ENOENT: "it does not exist",
        }
        reason = ways_out.get(error.errno or 0, error.strerror or str(error))
        raise EnvironmentFault(f"Cannot {doing}: {reason}.", code="F06") from error


def _host() -> str:
    return socket.gethostname().replace(".", "-")


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def process_lives(process: str) -> bool:
    """Whether a process of this host with that number is alive; True if in doubt."""
    if not process.isdigit():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
