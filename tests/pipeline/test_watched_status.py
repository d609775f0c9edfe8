"""`status --watch`: it looks at files that another process writes, until all rest."""

import json
import threading
import time

import pytest
from click.testing import CliRunner

from nnunet_bridge.cli import main
from nnunet_bridge.formats.files import only_writer
from nnunet_bridge.nnunet.commands import Resources
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.runs import (
    run_state,
    write_record,
)
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.training.train import _Batch, watched_status
from nnunet_bridge.pipeline.training.weights import Begun

SMOKE = method_of("nnunet", "smoke")
DATASET = "Dataset001_Leg"


def run_in(workspace):
    return SMOKE.run(Dataset(workspace, DATASET), "2d", 0)


class Listener:
    def __init__(self):
        self.tables, self.said, self.done = [], [], []

    def advance(self, done, _note=""):
        self.done.append(done)

    def show(self, draw):
        self.tables.append(draw(120))

    def say(self, line):
        self.said.append(line)


@pytest.fixture
def workspace(tmp_path):
    found = Workspace.at(tmp_path, environment={})
    found.dataset_dir(DATASET).mkdir(parents=True)
    return found


def tell(workspace, **event):
    file = run_in(workspace).events_file
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        stream.write(json.dumps(event) + "\n")


def test_it_shows_another_training_and_ends_with_it(workspace):
    def train():
        with only_writer(run_in(workspace).lock_file, "the run"):
            tell(workspace, event="start", epochs=4)
            for epoch in range(3):
                tell(workspace, event="epoch", epoch=epoch, seconds=1.0)
                time.sleep(0.3)
            write_record(run_in(workspace), state="failed", reason="it broke")

    other = threading.Thread(target=train)
    tell(workspace, event="start", epochs=4)
    other.start()
    time.sleep(0.1)
    listener = Listener()

    summary = watched_status(workspace, DATASET, 0.05, listener)
    other.join()

    assert [state.state for state in summary.runs] == ["failed"]
    assert listener.said == ["2d fold 0: failed"]
    assert listener.tables[-1].count("3/4") == 1
    assert any("running" in table and "2/4" in table for table in listener.tables)
    assert "it broke" in summary.as_text()


def test_watching_what_rests_ends_soon_with_the_same_object_as_status(workspace):
    tell(workspace, event="start", epochs=4)
    words = ["status", "1", "-w", str(workspace.runs_dir.parent), "--json"]

    watched = CliRunner().invoke(main, [*words, "--watch", "1"])

    assert watched.exit_code == 0
    told = json.loads(watched.stdout)
    assert told == json.loads(CliRunner().invoke(main, words).stdout)
    assert {"train_loss", "val_loss", "dice_per_structure", "seconds_left"} <= set(
        told["runs"][0]
    )


def test_train_shows_all_runs_asked_for_and_reads_a_file_again_only_if_it_grew(
    workspace, monkeypatch
):
    done = SMOKE.run(Dataset(workspace, DATASET), "3d_fullres", 0)
    cpu = Resources("cpu", threads=1, workers=1, loaders=0)
    batch = _Batch(
        workspace,
        SMOKE,
        cpu,
        "state",
        TrainingOptions(),
        Begun(),
        [run_in(workspace), done],
    )
    listener, looks = Listener(), []
    real = run_state
    monkeypatch.setattr(
        "nnunet_bridge.pipeline.training.train.run_state",
        lambda *of: looks.append(of[0]) or real(*of),
    )
    tell(workspace, event="start", epochs=4)

    batch._tell([run_in(workspace)], listener)
    batch._tell([run_in(workspace)], listener)
    tell(workspace, event="epoch", epoch=0, train_loss=-0.25)
    batch._tell([run_in(workspace)], listener)

    assert looks == [run_in(workspace), done, run_in(workspace)]
    assert listener.done == [0, 0, 1]
    assert "-0.250" in listener.tables[-1]
    assert "3d_fullres" in listener.tables[-1]
