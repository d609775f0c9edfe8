"""Files are whole or absent; one writer at a time."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading

import pytest

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.formats.files import (
    clear_os_errors,
    is_locked,
    only_writer,
    process_lives,
    read_json,
    sha256_of,
    whole_file,
    write_json,
    write_text,
)

HOLD = (
    "import sys, time; from pathlib import Path;"
    "from nnunet_bridge.formats.files import only_writer\n"
    "with only_writer(Path(sys.argv[1]), 'the dataset'):\n"
    "    print('held', flush=True); time.sleep(60)\n"
)


def test_a_file_gets_its_name_when_it_is_whole(tmp_path):
    final = tmp_path / "deep" / "file.nii.gz"

    with whole_file(final) as temporary:
        temporary.write_bytes(b"all of it")
        assert not final.exists()
        assert not temporary.name.endswith(".nii.gz")

    assert final.read_bytes() == b"all of it"
    assert list(final.parent.iterdir()) == [final]


def test_F06_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    final = tmp_path / "file"
    final.write_text("old")

    def write_half():
        with whole_file(final) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert final.read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_F06_a_full_disk_is_reported_in_words(tmp_path):
    with (
        pytest.raises(EnvironmentFault, match="the disk is full") as caught,
        whole_file(tmp_path / "file"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.ENOTDIR, "is a file, not a folder"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_an_error_of_the_system_says_what_to_do(number, words):
    with (
        pytest.raises(EnvironmentFault, match=rf"^Cannot write it: .*{words}"),
        clear_os_errors("write it"),
    ):
        raise OSError(number, os.strerror(number))


def test_F07_only_temporaries_of_dead_processes_are_removed(tmp_path):
    host = socket.gethostname().replace(".", "-")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = tmp_path / f".a.{host}.{dead.pid}.aa.partial"
    alive = tmp_path / f".a.{host}.{os.getpid()}.bb.partial"
    elsewhere = tmp_path / f".a.another-host.{dead.pid}.cc.partial"
    strange = tmp_path / ".b.partial"
    for file in (gone, alive, elsewhere, strange):
        file.write_text("")

    write_text(tmp_path / "file", "text")

    assert not gone.exists()
    assert alive.exists()
    assert elsewhere.exists()
    assert strange.exists()


def test_a_process_that_cannot_be_asked_counts_as_alive(monkeypatch):
    def forbidden(_process, _signal):
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)

    assert process_lives("1")
    assert process_lives("not a number")


def test_json_comes_back_as_it_was_and_nan_is_refused(tmp_path):
    write_json(tmp_path / "a.json", {"dice": [0.5, None], "name": "Hüfte"})

    assert read_json(tmp_path / "a.json") == {"dice": [0.5, None], "name": "Hüfte"}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"dice": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_the_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")

    assert sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_F08_a_second_writer_is_refused_and_the_holder_named(tmp_path):
    lock = tmp_path / "locks" / "one.lock"

    with (
        only_writer(lock, "Dataset one"),
        pytest.raises(
            EnvironmentFault, match=rf"Dataset one is in use by process {os.getpid()}"
        ) as caught,
        only_writer(lock, "Dataset one"),
    ):
        pass

    assert caught.value.code == "F08"
    with only_writer(lock, "Dataset one"):
        pass


def test_F08_a_lock_dies_with_its_holder(tmp_path):
    lock = tmp_path / "one.lock"
    assert not is_locked(lock)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline().strip() == "held"
    assert is_locked(lock)

    holder.kill()
    holder.communicate()

    assert not is_locked(lock)
    with only_writer(lock, "Dataset one"):
        pass


def test_F08_a_look_at_a_lock_does_not_stop_a_writer(tmp_path):
    """`status` looks at the lock of a run at the moment when `train` takes it."""
    lock = tmp_path / "one.lock"
    lock.touch()
    looking = lock.open()
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.1, looking.close).start()

    with only_writer(lock, "Dataset one"):
        assert is_locked(lock)
