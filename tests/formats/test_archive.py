"""Zips from elsewhere: judged by their listing, and written the same each time."""

import hashlib
import os
import time
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import zipped

from nnunet_bridge.core.errors import BridgeError, SecurityError
from nnunet_bridge.formats.archive import ArchiveLimits, open_archive, write_archive

NOISE = os.urandom(3 << 20)


def written(tmp_path, content, name="x.zip"):
    file = tmp_path / name
    file.write_bytes(content)
    return file


def test_what_was_written_is_read_back(tmp_path):
    source, target = written(tmp_path, NOISE, "weights"), tmp_path / "out"
    file = tmp_path / "x.zip"

    write_archive(file, {"b/weights": source, "a.json": b"{}"})

    with open_archive(file) as archive:
        assert archive.names == ("a.json", "b/weights")
        assert archive.size_bytes == len(NOISE) + 2
        assert archive.read("a.json", most_bytes=10) == b"{}"
        assert archive.unpack("b/weights", target) == hashlib.sha256(NOISE).hexdigest()
    assert target.read_bytes() == NOISE


def test_R12_neither_time_nor_order_nor_mode_changes_a_byte(tmp_path):
    source = written(tmp_path, b"weights", "weights")
    write_archive(tmp_path / "1.zip", {"a": source, "b": b"2"})
    source.chmod(0o600)
    os.utime(source, (1e9, 1e9))
    time.sleep(0.01)

    write_archive(tmp_path / "2.zip", {"b": b"2", "a": source})

    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_another_reader_understands_the_archive(tmp_path):
    write_archive(tmp_path / "x.zip", {"a": b"1", "b/c": b"2"})

    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("b/c") == b"2"
        assert {info.date_time[0] for info in archive.infolist()} == {1980}


def test_folders_are_no_files(tmp_path):
    file = written(tmp_path, zipped([("a/", b""), ("a/b", b"1")]))

    with open_archive(file) as archive:
        assert archive.names == ("a/b",)


@pytest.mark.parametrize(
    ("limits", "entries"),
    [
        (ArchiveLimits(entries=2), [(f"{n}", b"") for n in range(3)]),
        (ArchiveLimits(total_bytes=100), [("a", b"x" * 60), ("b", b"y" * 60)]),
        (ArchiveLimits(directory_bytes=50), [("a" * 60, b"")]),
        (ArchiveLimits(always_bytes=100, ratio=10), [("a", bytes(100_000))]),
    ],
    ids=["entries", "bytes", "listing", "ratio"],
)
def test_S06_each_limit_holds(tmp_path, limits, entries):
    file = written(tmp_path, zipped(entries))
    with open_archive(file):
        pass

    with pytest.raises(SecurityError) as caught, open_archive(file, limits):
        pass

    assert caught.value.code == "S06"


def test_S07_a_text_beyond_its_size_is_not_read(tmp_path):
    file = written(tmp_path, zipped([("a", b"x" * 60)]))

    with (
        open_archive(file) as archive,
        pytest.raises(SecurityError, match="60 bytes") as caught,
    ):
        archive.read("a", most_bytes=59)

    assert caught.value.code == "S07"


def test_S08_an_entry_whose_bytes_were_changed_is_refused_while_unpacking(tmp_path):
    content = bytearray(zipped([("a", NOISE)], compression=zipfile.ZIP_STORED))
    content[len(content) // 2] ^= 1
    file = written(tmp_path, bytes(content))

    with open_archive(file) as archive, pytest.raises(SecurityError) as caught:
        archive.unpack("a", tmp_path / "a")

    assert caught.value.code == "S08"


SAMPLE = zipped([("a/plans.json", b'{"a": 1}' * 50), ("a/b", b"weights")])


@given(
    at=st.integers(0, len(SAMPLE) - 1),
    change=st.integers(1, 255),
    cut=st.integers(0, len(SAMPLE)),
)
def test_S08_a_damaged_zip_raises_one_kind_of_error_or_reads_as_it_says(
    tmp_path, at, change, cut
):
    for name, content in (
        ("flipped", SAMPLE[:at] + bytes([SAMPLE[at] ^ change]) + SAMPLE[at + 1 :]),
        ("cut", SAMPLE[:cut]),
        ("doubled", SAMPLE[:cut] + SAMPLE),
    ):
        file = written(tmp_path, content, name)
        try:
            with open_archive(file) as archive:
                for entry in archive.entries:
                    read = archive.read(entry.filename, most_bytes=1 << 20)
                    assert len(read) == entry.file_size
        except BridgeError as error:
            assert error.exit_code == 6  # noqa: PT017 - either way is right


def test_a_file_that_is_not_there_is_a_fault_of_the_environment(tmp_path):
    with (
        pytest.raises(BridgeError, match="does not exist") as caught,
        open_archive(tmp_path / "none.zip"),
    ):
        pass

    assert caught.value.exit_code == 5
