"""Files that are whole or absent: temporary names, proof, one writer at a time.

A temporary file lies in the folder of its final name, starts with a dot and ends in
``.partial``, so that nothing takes it for a finished one (FAULTS F04, F06, F07).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import hmac
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.core.quoting import quoted, without_quotes

__all__ = [
    "PARTIAL",
    "clear_os_errors",
    "free_bytes",
    "is_locked",
    "megabytes",
    "only_writer",
    "process_lives",
    "pseudonym",
    "quoted",
    "read_json",
    "readable_object",
    "remove_stale_partials",
    "sha256_of",
    "temporary_name",
    "whole_file",
    "without_quotes",
    "write_json",
    "write_text",
]

PARTIAL = ".partial"
_BLOCK_BYTES = 1 << 20


@contextlib.contextmanager
def whole_file(
    final: Path, *, needed_bytes: int = 0, to_disk: bool = True
) -> Iterator[Path]:
    """Give a temporary path; rename it to `final` if the block ends well.

    Parameters
    ----------
    final : Path
        The name that the finished file gets; its folder is made if need be.
    needed_bytes : int, optional
        How much it may need; told, beside what is free, if the disk is full.
    to_disk : bool
        Whether to wait until all of it is on the disk, so that it outlives a power
        cut. Leave that out only for what is made again by itself if it is not whole.

    Raises
    ------
    EnvironmentFault
        If the disk is full or the folder cannot be written (F06).
    """
    temporary = final.with_name(temporary_name(final.name))
    with clear_os_errors(f"write {final}", needed_bytes=needed_bytes, folder=final):
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            remove_stale_partials(final.parent)
            yield temporary
            if to_disk:
                _to_disk(temporary)
            temporary.replace(final)
            if to_disk:
                _to_disk(final.parent)
        finally:
            temporary.unlink(missing_ok=True)


def temporary_name(name: str) -> str:
    """Return how a file is called while this process makes it; another every time."""
    process = _numbered(os.getpid())
    return f".{name}.{_host()}.{process}.{secrets.token_hex(4)}{PARTIAL}"


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


def readable_object(file: Path) -> tuple[dict[str, Any], str]:
    """Return the JSON object of a file, and a sentence if it is damaged.

    For a reader that must go on whatever a crash of the disk left: no file is an empty
    object and no sentence, a half-written one an empty object and a sentence.
    """
    try:
        content = read_json(file)
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        return {}, f"{file.name} cannot be read: it is damaged."
    return content, ""


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def pseudonym(value: str, key: bytes) -> str:
    """Return 16 hexadecimal digits that stand for `value`; only `key` can tell why.

    Examples
    --------
    >>> pseudonym("DOE^JANE", b"k") == pseudonym("DOE^JANE", b"k")
    True
    """
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:16]


def remove_stale_partials(folder: Path) -> None:
    """Remove temporaries of processes of this host that no longer live (F07)."""
    if not folder.is_dir():
        return
    for name in os.listdir(folder):  # noqa: PTH208 - names are enough, and quicker
        if not (name.startswith(".") and name.endswith(PARTIAL)):
            continue
        parts = name.removesuffix(PARTIAL).rsplit(".", 3)
        if len(parts) != 4:  # noqa: PLR2004 - name, host, process, token
            continue
        _, host, process, _ = parts
        if host == _host() and not process_lives(process):
            (folder / name).unlink(missing_ok=True)


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
def clear_os_errors(
    doing: str, *, needed_bytes: int = 0, folder: Path | None = None
) -> Iterator[None]:
    """Turn an error of the operating system into one sentence with a way out.

    Parameters
    ----------
    doing : str
        What fails, as it follows "Cannot".
    needed_bytes : int, optional
        What the file may need, to be told if the disk is full.
    folder : Path, optional
        Where it was to be written, to tell what is free there.

    Raises
    ------
    EnvironmentFault
        In place of any `OSError`.
    """
    try:
        yield
    except OSError as error:
        full = _full_disk(needed_bytes, folder)
        ways_out = {
            errno.ENOSPC: f"the disk is full{full}: free some space",
            errno.EDQUOT: f"your disk quota is used up{full}: free some space",
            errno.EFBIG: f"the file is larger than allowed{full}: raise `ulimit -f`",
            errno.EACCES: "permission denied: choose a folder you may write",
            errno.EPERM: "permission denied: choose a folder you may write",
            errno.EROFS: "the file system is read-only: choose another folder",
            errno.ENOTDIR: "part of the path is a file, not a folder",
            errno.ENOENT: "it does not exist",
        }
        reason = ways_out.get(error.errno or 0, error.strerror or str(error))
        raise EnvironmentFault(f"Cannot {doing}: {reason}.", code="F06") from error


def free_bytes(path: Path) -> int:
    """Return what is free where `path` lies, or will lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def megabytes(count: int) -> str:
    """Return a number of bytes as people read it.

    Examples
    --------
    >>> megabytes(1_500_000), megabytes(2_000), megabytes(3_200_000_000)
    ('1.5 MB', '0.1 MB', '3200 MB')
    """
    return f"{max(count / 1e6, 0.1):.{0 if count >= 10_000_000 else 1}f} MB"  # noqa: PLR2004 - enough digits from there on


def _full_disk(needed_bytes: int, folder: Path | None) -> str:
    """Return what is free and what is needed, in brackets, where both are known."""
    if not needed_bytes or folder is None:
        return ""
    free = free_bytes(folder)
    return f" ({megabytes(free)} free, up to {megabytes(needed_bytes)} needed)"


def _host() -> str:
    return socket.gethostname().replace(".", "-")


@functools.lru_cache(maxsize=1)
def _numbered(process: int) -> str:
    """Return the number of this process and when it started: numbers come again."""
    return f"{process}-{_start_of(process)}"


def _start_of(process: int) -> str:
    """Return when a process of this host started, in ticks; empty if unknown."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def process_lives(process: str) -> bool:
    """Whether a process of this host is alive; True if in doubt.

    Parameters
    ----------
    process : str
        Its number, or number and start (``1234-56789``), so that another process that
        was given the number later is not taken for it.
    """
    number, _, start = process.partition("-")
    if not number.isdigit():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    now = _start_of(int(number))
    return not (start and now) or start == now
