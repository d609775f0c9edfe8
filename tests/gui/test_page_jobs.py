"""Commands that the page starts: their words, their end, and that they outlive it."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from page_client import served

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.gui.commands import COMMANDS, words_of
from nnunet_bridge.gui.roots import Roots


def words(command, root="/", **values):
    return words_of(command, values, Roots.of([Path(root)]), workspace="/work")


def test_the_words_are_those_of_a_terminal(tmp_path):
    study = tmp_path / "a study"

    assert words("check", study=study, recipe=study / "dataset.toml") == [
        "check", f"--recipe={study / 'dataset.toml'}", "--workspace=/work", "--",
        str(study),
    ]  # fmt: skip
    assert words("train", dataset=1, configuration=["2d", "3d_fullres"], yes=True) == [
        "train", "--configuration=2d", "--configuration=3d_fullres", "--yes",
        "--workspace=/work", "--", "1",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["--force", "-o=/etc", "--", "$(reboot)", "a; b"])
def test_a_name_never_becomes_an_option_or_a_command(tmp_path, name):
    study = tmp_path / name

    assert words("check", study=study)[-2:] == ["--", str(study)]
    assert words("plan", dataset=name)[-2:] == ["--", name]
    assert words("train", dataset="1", device=name)[1] == f"--device={name}"


@pytest.mark.parametrize(
    ("command", "values"),
    [
        ("rm", {}),
        ("check", {}),
        ("check", {"study": "/a", "traceback": True}),
        ("check", {"study": {"a": 1}}),
        ("plan", {"dataset": "1\n2"}),
        ("plan", {"dataset": "1" * 300}),
    ],
)
def test_an_unknown_command_or_value_is_refused(command, values):
    with pytest.raises(UsageError):
        words(command, **values)


def test_every_word_of_the_page_is_an_option_of_its_command():
    """The page never asks for what a command does not have."""
    from nnunet_bridge.cli import main

    for command, form in COMMANDS.items():
        known = {
            word
            for parameter in main.commands[command].params
            for word in (*parameter.opts, *parameter.secondary_opts)
        }
        assert {word for word in form.split() if word.startswith("-")} <= known


def test_a_job_tells_its_result_and_is_not_started_twice(page, monkeypatch):
    monkeypatch.setitem(COMMANDS, "doctor", "")  # it needs nothing and ends at once
    first, second = (page.start("doctor") for _ in range(2))
    ended = page.finished(first)

    assert first["id"] == second["id"]
    assert ended["state"] == "done"
    assert {check["name"] for check in ended["result"]["checks"]} >= {"Python", "torch"}
    assert ended["line"] == f"nnunet-bridge doctor --workspace={page.workspace}"


def test_a_failed_job_says_the_sentence_of_the_command(page):
    ended = page.finished(page.start("plan", dataset="9"))

    assert (ended["state"], ended["exit_code"]) == ("failed", 2)
    assert ended["error"].startswith("There is no dataset 9 in ")


def test_a_job_outlives_the_page_and_is_stopped_by_the_next(tmp_path):
    workspace = tmp_path / "work"
    workspace.mkdir()
    with served(workspace, tmp_path) as page:
        folder = str(tmp_path / "synthetic")
        job = page.start("demo", folder=folder, only_study=True)
        _wait((tmp_path / "synthetic" / "study").is_dir)

    with served(workspace, tmp_path) as page:
        found = page.get("/api/job", id=job["id"])[1]
        assert found["state"] == "running"
        assert found["progress"]["stage"] == "synthetic patients"
        assert page.post("/api/stop", id=job["id"])[0] == 200
        ended = page.finished(job)

    assert (ended["state"], ended["exit_code"]) == ("stopped", 130)


def test_a_killed_job_is_lost_and_says_so(page, tmp_path):
    folder = str(tmp_path / "synthetic")
    job = page.start("demo", folder=folder, only_study=True)
    process_file = page.workspace / "runs" / "jobs" / job["id"] / "process.json"
    _wait(process_file.exists)
    _wait((tmp_path / "synthetic" / "study").is_dir)
    os.killpg(json.loads(process_file.read_text())["process"], signal.SIGKILL)

    _wait(lambda: page.get("/api/job", id=job["id"])[1]["state"] == "lost", 30)
    assert page.post("/api/stop", id=job["id"])[0] == 400


def test_a_job_of_another_folder_is_not_read(page):
    for name in ("../../raw", "..", ".", "", "/etc", "x" * 300):
        assert page.get("/api/job", id=name)[0] == 400


def _wait(holds, patience_s=60):
    until = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_damaged_run_does_not_end_the_state(page):
    """The tabs see the fault; the server goes on."""
    folder = page.workspace / "nnUNet_results" / "Dataset001_X"
    folder.mkdir(parents=True)
    (page.workspace / "runs" / "Dataset001_X").mkdir(parents=True)

    for content in (b"{", b"[]", b"\x00" * 10):
        (page.workspace / "runs" / "Dataset001_X" / "planned.json").write_bytes(content)
        assert page.get("/api/state")[0] == 200
