"""Write files that are whole or absent; read JSON; lock what one process may write.

A temporary file lies in the folder of its final name, starts with a dot and ends in
``.partial``, so that no reader mistakes it for a finished file (FAULTS F04, F06, F07).
No file is written through a link in its place: `open_to_write` refuses it, a rename
replaces it; links to folders hold (FAULTS S11). What systems do differently is in
`formats.system`.
"""

import contextlib
import errno
import functools
import hashlib
import hmac
import json
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from nnunet_bridge.core.errors import EnvironmentFault, InputError, SecurityError
from nnunet_bridge.core.records import Value, damaged, from_record
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import format_bytes
from nnunet_bridge.formats import system
from nnunet_bridge.formats.system import sync_to_disk

PARTIAL = ".partial"
_BLOCK_BYTES = 1 << 20
_LOCK_WAIT_S = 0.5
"""How long a writer waits for a lock: longer than `is_locked` looks at it."""


def open_to_write(file: Path, mode: str = "wb", *, buffering: int = -1) -> BinaryIO:
    """Open a file for writing, never through a link; `mode` is that of `open`.

    Every file that the package writes in place is opened here.

    Raises
    ------
    SecurityError
        If a link lies in its place, or another file name for the same content (S11).
    EnvironmentFault
        If the folder cannot be written, or a pipe lies there (F06).
    """
    with clear_os_errors(f"write {file}"):
        return _opened(file, mode, buffering)


def _opened(file: Path, mode: str, buffering: int = -1) -> BinaryIO:
    def not_through_a_link(path: str, flags: int) -> int:
        # A pipe without a reader is an error too, instead of an endless wait.
        descriptor = system.open_not_through_link(path, flags & ~os.O_TRUNC)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            if found.st_nlink > 1:
                os.close(descriptor)
                raise OSError(errno.EMLINK, "a hard link", path)
            if flags & os.O_TRUNC:
                os.ftruncate(descriptor, 0)
        return descriptor

    stream = open(file, mode, buffering, opener=not_through_a_link)  # noqa: SIM115 - Path.open takes no opener
    return cast("BinaryIO", stream)


def refuse_links(*folders: Path, but: tuple[str, ...] = ()) -> None:
    """Refuse folders in which another program would write through a link to a file.

    Links to folders are followed, once each: their owner may keep data on another
    disk. `but` are patterns of files that the program does not write in place.

    Raises `SecurityError` with the first link (S11).
    """
    seen: set[str] = set()
    for folder in folders:
        for place, inside, names in os.walk(folder, followlinks=True):
            real = os.path.realpath(place)
            if real in seen:
                inside.clear()
                continue
            seen.add(real)
            for file in (Path(place, name) for name in sorted(names)):
                linked = file.is_symlink() or file.lstat().st_nlink > 1
                if linked and not any(map(file.match, but)):
                    raise _refused_link(f"write {file}")


def _refused_link(doing: str) -> SecurityError:
    message = f"Cannot {doing}: a link lies there, which is not followed: remove it."
    return SecurityError(message, code="S11")


@contextlib.contextmanager
def whole_file(
    final: Path, *, needed_bytes: int = 0, to_disk: bool = True
) -> Iterator[Path]:
    """Yield a temporary path; rename it to `final` if the block ends without an error.

    Missing parent folders are created. The message about a full disk shows
    `needed_bytes`. With `to_disk` the content is on the disk before the rename, so that
    it survives a power cut; without is only for files that the next run replaces if
    they are damaged.

    Raises `EnvironmentFault` if the disk is full or the folder cannot be written (F06).
    """
    temporary = final.with_name(temporary_name(final.name))
    with clear_os_errors(f"write {final}", needed_bytes=needed_bytes, folder=final):
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            remove_stale_partials(final.parent)
            _opened(temporary, "xb").close()
            yield temporary
            if to_disk:
                sync_to_disk(temporary)
            temporary.replace(final)
            if to_disk:
                sync_to_disk(final.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_if_changed(
    final: Path, content: bytes | memoryview, *, to_disk: bool = True
) -> bool:
    """Write a whole file unless it already holds this content; return whether (R12)."""
    with contextlib.suppress(OSError):
        same_size = final.is_file() and final.stat().st_size == len(content)
        if same_size and final.read_bytes() == content:
            return False
    with whole_file(final, to_disk=to_disk) as temporary:
        _write(temporary, content)
    return True


def _write(file: Path, content: bytes | memoryview) -> None:
    with _opened(file, "wb") as stream:
        stream.write(content)


def temporary_name(name: str) -> str:
    """Return a new temporary name for a file that this process writes."""
    process, token = _own_process(os.getpid()), secrets.token_hex(4)
    return f".{name}.{_host()}.{process}.{token}{PARTIAL}"


def write_text(final: Path, text: str) -> None:
    """Write a UTF-8 text file that is whole or absent."""
    with whole_file(final) as temporary:
        _write(temporary, text.encode())


def write_json(final: Path, content: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Write standard JSON (no NaN) that is whole or absent."""
    write_text(final, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_text(file: Path, encoding: str = "utf-8") -> str:
    """Return a text, its line ends as they are; `ValueError` for a pipe or a device."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("it is a pipe or a device")
    with file.open(encoding=encoding, newline="") as stream:
        return stream.read()


class DamagedJson(InputError, ValueError):  # noqa: N818 - a verdict on a file
    """A file is not valid JSON, or is nested too deep to be read."""


def read_json(file: Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return the content of a JSON file; raises `DamagedJson`."""
    try:
        return json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0] or "it is nested too deep"
        raise DamagedJson(f"{file} is not valid JSON ({reason}).") from error


def readable_object(file: Path) -> tuple[dict[str, Any], str]:
    """Return the JSON object in a file, and a message if the file is damaged.

    Never raises for a damaged file: a crash may leave one. A missing file gives an
    empty object and no message, a damaged one an empty object and a message.
    """
    try:
        content = read_json(file)
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        return {}, f"{file.name} cannot be read: it is damaged."
    return content, ""


def read_record(
    file: Path,
    kind: type[Value],
    way_out: str,
    in_todays_form: Callable[[JsonObject], JsonObject] = dict,
) -> Value:
    """Return the record in a JSON file.

    Raises `InputError` if it is damaged, `NewerVersionError` if a newer version of this
    package wrote it; `way_out` says what to do then.
    """
    content, damage = readable_object(file)
    if damage:
        raise damaged(f"record {file}", "it is not a JSON object", way_out)
    return from_record(kind, in_todays_form(content), f"record {file}", way_out)


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def pseudonym(value: str, key: bytes) -> str:
    """Return 16 hexadecimal digits for `value` that cannot be reversed without `key`.

    Examples
    --------
    >>> pseudonym("DOE^JANE", b"k") == pseudonym("DOE^JANE", b"k")
    True
    """
    text = value.encode(errors="surrogateescape")  # a file name may be no UTF-8
    return hmac.new(key, text, hashlib.sha256).hexdigest()[:16]


def remove_stale_partials(folder: Path) -> None:
    """Remove temporary files of processes of this host that have ended (F07)."""
    if not folder.is_dir():
        return
    for name in os.listdir(folder):  # noqa: PTH208 - names are enough, and quicker
        parts = name.removesuffix(PARTIAL).rsplit(".", 3)
        partial = name.startswith(".") and name.endswith(PARTIAL)
        if not partial or len(parts) != 4:  # noqa: PLR2004 - name, host, process, token
            continue
        if parts[1] == _host() and not process_lives(parts[2]):
            (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def only_writer(lock_file: Path, what: str) -> Iterator[None]:
    """Hold the lock on `what` while the block runs; the kernel frees it at any death.

    On NFS the lock holds between hosts as far as its server supports ``flock``. Where a
    file system has no ``flock`` at all, the writer is refused: a lock that outlives its
    process would be worse.

    Raises `EnvironmentFault` if another process holds it (F08); the message names that
    process.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(
        lock_file, timeout=_LOCK_WAIT_S, poll_interval=0.02, fallback_to_soft=False
    )
    with clear_os_errors(f"write {lock_file}"):
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        _opened(lock_file, "ab").close()  # before the lock empties it
        try:
            lock.acquire()
        except Timeout as error:
            holder = _holder(lock_file)
            used = f"{what} is in use by {holder or 'another process'}"
            message = f"{used}: wait for it to end, or stop it."
            raise EnvironmentFault(message, code="F08") from error
    try:
        with clear_os_errors(f"write {lock_file}"):
            holder = f"process {os.getpid()} on {socket.gethostname()}"
            if system.locks_are_advisory():
                _write(lock_file, holder.encode())
        yield
    finally:
        lock.release()


def _holder(lock_file: Path) -> str:
    if not system.locks_are_advisory():
        return ""
    return lock_file.read_text(encoding="utf-8").strip()


def is_locked(lock_file: Path) -> bool:
    """Whether a living process holds the lock of `only_writer`.

    A shared lock on the file, opened for reading, is enough to tell: so this works in
    a workspace that one may only read. `only_writer` waits longer than that lock lasts.

    Raises `SecurityError` if a link lies in its place (S11).
    """
    with clear_os_errors(f"read {lock_file}"):
        try:
            descriptor = system.open_not_through_link(lock_file, os.O_RDONLY)
        except FileNotFoundError:
            return False
    with os.fdopen(descriptor, "rb") as stream:
        return system.is_locked(stream.fileno())


@contextlib.contextmanager
def clear_os_errors(
    doing: str, *, needed_bytes: int = 0, folder: Path | None = None
) -> Iterator[None]:
    """Turn an `OSError` into an `EnvironmentFault` that says what to do (F06, S11).

    `doing` follows "Cannot": ``write results/scores.csv``. The message about a full
    disk names the space that is needed in `folder`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise _refused_link(doing) from error
        full = ""
        if needed_bytes and folder is not None:
            free, needed = format_bytes(free_bytes(folder)), format_bytes(needed_bytes)
            full = f" ({free} free, up to {needed} needed)"
        ways_out = {
            errno.ENOSPC: f"the disk is full{full}: free some space",
            errno.EDQUOT: f"your disk quota is used up{full}: free some space",
            errno.EFBIG: f"the file is larger than allowed{full}: raise `ulimit -f`",
            errno.EACCES: "permission denied: choose a folder you may write",
            errno.EPERM: "permission denied: choose a folder you may write",
            errno.EROFS: "the file system is read-only: choose another folder",
            errno.ENOTDIR: "part of the path is a file, not a folder",
            errno.ENOENT: "it does not exist",
            errno.ENXIO: "a pipe or device lies there: remove it",
        }
        reason = ways_out.get(error.errno or 0, error.strerror or str(error))
        raise EnvironmentFault(f"Cannot {doing}: {reason}.", code="F06") from error


is_regular, is_folder = os.path.isfile, os.path.isdir
is_link, is_there = os.path.islink, os.path.exists
"""The methods of `Path` raise for a path that is longer than the system allows; these
do not. A pipe is not regular: it has no end."""


def free_bytes(path: Path) -> int:
    """Return the free space on the disk of `path`, which need not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def process_lives(process: str) -> bool:
    """Whether a process of this host is alive; True if in doubt.

    `process` is its number, or number and start time (``1234-56789``): the system uses
    numbers again, and another process may have this one now.
    """
    number, _, start = process.partition("-")
    if not number.isdigit():
        return True
    if not system.process_exists(int(number)):
        return False
    now = _start_ticks(int(number))
    return not (start and now) or start == now


@functools.lru_cache(maxsize=1)
def _own_process(number: int) -> str:
    return f"{number}-{_start_ticks(number)}"


def _start_ticks(number: int) -> str:
    """Return when a process of this host started, in clock ticks; empty if unknown."""
    try:
        line = Path(f"/proc/{number}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    # "number (name) state parent ...": the name may hold spaces and brackets itself.
    return line.rpartition(")")[2].split()[19]


def _host() -> str:
    return socket.gethostname().replace(".", "-")
