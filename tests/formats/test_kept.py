"""A kept result holds for the facts that it was made from, and for no others."""

import os

import pytest

from nnunet_bridge.formats.files import sha256_of
from nnunet_bridge.formats.kept import Kept, contents_of, files_unchanged

FACTS = {"input_sha256": "ab", "options": {"margin_mm": 20}}


def test_a_result_holds_for_the_same_facts(tmp_path):
    kept = Kept(tmp_path / "result.json", FACTS)
    assert kept.load() is None

    kept.save({"dice": 0.9})

    assert kept.load() == {**FACTS, "dice": 0.9}


@pytest.mark.parametrize(
    "facts",
    [
        {**FACTS, "input_sha256": "cd"},
        {**FACTS, "options": {"margin_mm": 21}},
        {**FACTS, "asked_since_this_version": None},
    ],
    ids=["another input", "another option", "an older file"],
)
def test_R12_a_result_does_not_hold_for_other_facts(tmp_path, facts):
    Kept(tmp_path / "result.json", FACTS).save({"dice": 0.9})

    assert Kept(tmp_path / "result.json", facts).load() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\x00", "[" * 100_000])
def test_a_damaged_result_does_not_hold(tmp_path, text):
    (tmp_path / "result.json").write_text(text)

    assert Kept(tmp_path / "result.json", FACTS).load() is None


def test_files_are_unchanged_while_their_bytes_are(tmp_path):
    (tmp_path / "a").write_text("1")
    hashes = {"a": sha256_of(tmp_path / "a")}
    assert files_unchanged(tmp_path, hashes)

    (tmp_path / "a").write_text("2")
    assert not files_unchanged(tmp_path, hashes)
    (tmp_path / "a").unlink()
    assert not files_unchanged(tmp_path, hashes)


def test_only_files_of_another_size_or_time_are_read_again(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    files = [tmp_path / "a", tmp_path / "b"]
    known = contents_of(files, tmp_path, {})
    remembered = {name: {**one, "sha256": "as before"} for name, one in known.items()}

    os.utime(tmp_path / "b", ns=(1, 1))
    found = contents_of(files, tmp_path, remembered)

    assert found["a"]["sha256"] == "as before"
    assert found["b"]["sha256"] == known["b"]["sha256"]
