"""`run.json`: all that repeats a training, nothing that tells whose machine it was."""

import getpass
import json
import os
import platform
import socket
from pathlib import Path

import pytest

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.training.record import (
    KILLED,
    origin_of,
    record_end,
    record_start,
    require_same_origin,
)
from nnunet_bridge.pipeline.training.request import TrainingRequest

SMOKE = method_of("nnunet", "smoke")
DATASET = "Dataset001_Leg"


def run_in(workspace):
    return SMOKE.run(Dataset(workspace, DATASET), "2d", 0)


@pytest.fixture
def workspace(tmp_path):
    found = Workspace.at(tmp_path, environment={})
    Dataset(found, DATASET).planned_dir.mkdir(parents=True)
    run_in(found).plans_file.write_text("{}")
    splits = [{"train": ["a", "b", "c"], "val": ["d"]}]
    Dataset(found, DATASET).splits_file.write_text(json.dumps(splits))
    return found


def begin(workspace, **options):
    request = TrainingRequest(SMOKE, options=TrainingOptions("cpu", **options))
    origin = origin_of(run_in(workspace), "state of the dataset")
    record_start(run_in(workspace), request, damaged_checkpoints=[], **origin)


def record(workspace):
    return json.loads(run_in(workspace).record_file.read_text())


def test_what_repeats_a_training_stands_in_its_record(workspace):
    begin(workspace, probabilities=True)

    known = record(workspace)

    assert known["command"] == [
        *("nnunet-bridge", "train", "Dataset001_Leg", "-c", "2d", "-f", "0"),
        *("--model", "nnunet", "--budget", "smoke", "--device", "cpu"),
        *("--gpus", "1", "--resume", "--probabilities"),
    ]
    assert known["plans"] == SMOKE.plans
    for name in ("plans_sha256", "splits_sha256"):
        assert len(known[name]) == 64
    assert known["dataset_state"] == "state of the dataset"
    assert known["seeds"] == {"python": 20230601, "numpy": 20230601, "torch": 20230601}
    assert known["versions"]["nnunetv2"].startswith("2.8")
    assert known["patients"] == 3
    hardware = known["hardware"]
    assert hardware["architecture"] == platform.machine()
    assert hardware["cores"] >= 1
    assert hardware["memory_bytes"] > 2**28
    assert hardware["processor"]
    assert isinstance(hardware["gpus"], list)


@pytest.mark.parametrize(
    ("state", "reason", "word"),
    [
        ("done", "", "finished"),
        ("failed", "nnU-Net failed: why.", "failed"),
        ("stopped", "", "interrupted"),
    ],
)
def test_how_and_when_a_training_ended_stands_there_too(workspace, state, reason, word):
    begin(workspace)

    record_end(run_in(workspace), state, reason)

    known = record(workspace)
    assert (known["state"], known["reason"], known["exit"]) == (state, reason, word)
    assert known["ended"] >= known["started"]
    assert 0 <= known["seconds"] < 60
    assert [one["exit"] for one in known["attempts"]] == [word]


def test_a_start_without_an_end_was_killed_and_is_kept(workspace):
    begin(workspace)
    begin(workspace)
    assert record(workspace)["ended"] is None

    record_end(run_in(workspace), "done", "")

    exits = [one["exit"] for one in record(workspace)["attempts"]]
    assert exits == [KILLED, "finished"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda run: run.plans_file.write_text('{"a": 1}'), "the plans"),
        (lambda run: run.dataset.splits_file.write_text("[]"), "the splits"),
        (lambda run: run.record_file.write_text("{"), "is damaged"),
        (lambda run: run.record_file.write_text('{"schema": 2}'), "schema 2 of the"),
    ],
)
def test_N06_a_run_of_another_origin_is_not_resumed(workspace, change, reason):
    run = resumable(workspace)
    change(run)
    origin = origin_of(run, "state of the dataset")

    with pytest.raises(InputError, match=f"2d fold 0: .*{reason}") as caught:
        require_same_origin({run: origin})

    assert caught.value.code == "N06"
    assert "--restart" in str(caught.value)


def test_N06_what_an_older_version_did_not_record_is_no_change(workspace):
    run = resumable(workspace)
    origin = origin_of(run, "state of the dataset")

    require_same_origin({run: {**origin, "pretrained": "0" * 64}})


def resumable(workspace):
    begin(workspace)
    run = run_in(workspace)
    run.fold_dir.mkdir(parents=True)
    (run.fold_dir / "checkpoint_latest.pth").write_bytes(b"weights")
    return run


def test_R11_no_host_user_or_folder_stands_in_the_record(workspace):
    begin(workspace)
    record_end(run_in(workspace), "done", "")

    text = run_in(workspace).record_file.read_text()

    for answer in (socket.gethostname(), str(Path.home()), os.fspath(Path.cwd())):
        assert answer not in text
    assert str(workspace.runs_dir.parent) not in text
    assert f'"{getpass.getuser()}"' not in text
