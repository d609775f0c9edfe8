"""Streams that are closed, full or poor; folders that are gone; pipes as inputs.

A sentence and the right exit code, and work that is done is not reported as failed.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from command import bridge

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.formats.files import DamagedJson, read_json
from nnunet_bridge.formats.label_map import read_label_map
from nnunet_bridge.formats.nifti import write_labelmap
from nnunet_bridge.formats.tables import read_patients, read_scores
from nnunet_bridge.formats.value_names import read_value_names

COMMAND = f"{sys.executable} -m nnunet_bridge"
FULL = "/dev/full"


@pytest.fixture
def labels(tmp_path):
    voxels = np.zeros((8, 8, 8), np.uint8)
    voxels[2:5, 2:5, 2:5] = 1
    table = LabelTable.from_names(["tibia"])
    grid = Grid(voxels.shape, np.eye(4))
    write_labelmap(tmp_path / "leg.nii.gz", Labelmap(grid, voxels, table))
    return tmp_path / "leg.nii.gz"


def shell(line, *, cwd, **variables):
    return subprocess.run(
        ["bash", "-c", line],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "streams", [">&- 2>&- <&-", f">{FULL}", f"2>{FULL}", f">{FULL} 2>{FULL}"]
)
def test_F06_a_closed_or_full_stream_does_not_undo_what_was_done(
    labels, tmp_path, streams
):
    line = f"{COMMAND} mesh {labels.name} -o out --json {streams}"

    done = shell(line, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "all.ply").is_file()
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if streams == f">{FULL}":
        assert "The work is done, but its result could not be printed" in done.stderr


@pytest.mark.parametrize("streams", ["2>&-", f">{FULL} 2>{FULL}"])
@pytest.mark.parametrize(("file", "code"), [("nothing.nii.gz", 2), ("a.nii.gz", 3)])
def test_a_mistake_keeps_its_exit_code_whatever_the_streams(
    tmp_path, streams, file, code
):
    (tmp_path / "a.nii.gz").write_text("damaged")

    done = shell(f"{COMMAND} mesh {file} -o out {streams}", cwd=tmp_path)

    assert done.returncode == code


def test_a_stream_that_knows_no_quotes_prints_them_in_another_way(tmp_path):
    (tmp_path / "a.nii.gz").write_text("damaged")

    done = shell(
        f"{COMMAND} mesh a.nii.gz -o out",
        cwd=tmp_path,
        PYTHONIOENCODING="latin-1:strict",
    )

    assert done.returncode == 3
    assert r"\u201ca.nii.gz\u201d is not a readable NIfTI file" in done.stderr


def test_F06_a_removed_current_folder_is_named(tmp_path):
    (tmp_path / "gone").mkdir()

    done = shell(f"cd gone; rmdir ../gone; {COMMAND} status 1", cwd=tmp_path)

    assert done.returncode == 5
    assert "The current folder cannot be used" in done.stderr


@pytest.mark.parametrize(
    "words", [("view", "-o", "a.png"), ("clean", "out"), ("check",)]
)
def test_a_pipe_is_no_input(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    command, *options = words

    done = bridge(command, "pipe", *options, check=False)

    assert done.exit_code == 2
    assert "is a pipe or a device" in " ".join(done.output.split())


@pytest.mark.parametrize("name", ["pipe", "endless"])
@pytest.mark.parametrize(
    "read", [read_json, read_scores, read_patients, read_label_map, read_value_names]
)
def test_a_text_that_never_ends_is_no_input_either(tmp_path, name, read):
    """It is named by a word of an option, or lies where a record of ours belongs."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")

    if read is read_value_names:
        assert read(tmp_path / name) == {}
        return
    with pytest.raises(InputError, match="it is a pipe or a device"):
        read(tmp_path / name)


def test_no_name_from_a_file_moves_the_cursor(tmp_path):
    file = tmp_path / "a\x1b[2J.nii.gz"
    file.write_text("damaged")

    done = bridge("mesh", file, "-o", tmp_path, check=False)

    assert done.exit_code == 3
    assert "\x1b[2J" not in done.output


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "{", "1" * 5000])
def test_S08_damaged_json_is_one_kind_of_error_and_named(labels, content):
    file = labels.with_name("dataset.json")
    file.write_text(content)

    with pytest.raises(DamagedJson, match=r"dataset\.json is not valid JSON"):
        read_json(file)

    words = ["mesh", labels, "-o", labels.with_name("out"), "--json"]
    done = bridge(*words, "--labels", file, check=False)
    assert done.exit_code == 3
    assert "is not valid JSON" in json.loads(done.stdout)["error"]
