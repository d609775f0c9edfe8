"""A folder is whole or absent, and gives its place to another in one step."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.formats.folders import put_in_place, work_folder


def folder_with(place, content):
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "file").write_text(content)
    return place


def content_of(place):
    return (place / "deep" / "file").read_text()


def test_a_work_folder_is_gone_afterwards_and_so_is_what_was_made_for_it(tmp_path):
    beside = tmp_path / "results" / "here"

    with work_folder(beside, "unpack") as work:
        (work / "file").write_text("")
        assert work.parent == beside
        assert work.name.startswith(".")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_or_got_something_stays(tmp_path):
    with work_folder(tmp_path / "results", "unpack"):
        (tmp_path / "results" / "kept").mkdir()

    assert [p.name for p in (tmp_path / "results").iterdir()] == ["kept"]


def test_what_a_dead_process_left_is_removed_and_the_living_are_left_alone(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".unpack-{ended.pid}-00").mkdir()
    (tmp_path / f".unpack-{os.getppid()}-00").mkdir()

    with work_folder(tmp_path, "unpack"):
        pass

    assert [p.name for p in tmp_path.iterdir()] == [f".unpack-{os.getppid()}-00"]


def test_a_new_folder_takes_a_free_place(tmp_path):
    new = folder_with(tmp_path / "work" / "new", "new")

    put_in_place(new, tmp_path / "results" / "model")

    assert content_of(tmp_path / "results" / "model") == "new"
    assert not new.exists()


def test_S05_a_folder_is_swapped_whole(tmp_path):
    final = folder_with(tmp_path / "model", "old")
    (final / "only in the old one").write_text("")
    new = folder_with(tmp_path / "work" / "new", "new")

    put_in_place(new, final)

    assert content_of(final) == "new"
    assert [p.name for p in final.iterdir()] == ["deep"]
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        *("deep", "file", "model", "work")
    ]


def test_S05_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path, monkeypatch
):
    final = folder_with(tmp_path / "model", "old")
    new = folder_with(tmp_path / "work" / "new", "new")
    rename = Path.rename

    def full(path, target):
        if path == new:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)

    with pytest.raises(EnvironmentFault, match="disk is full"):
        put_in_place(new, final)

    assert content_of(final) == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "work"]


def test_S05_leftovers_of_a_crash_are_removed_by_the_next_call(
    tmp_path,
):
    left = folder_with(tmp_path / ".model.replaced-0a1b2c3d", "old")
    new = folder_with(tmp_path / "work" / "new", "new")

    put_in_place(new, tmp_path / "model")

    assert not left.exists()
    assert content_of(tmp_path / "model") == "new"
