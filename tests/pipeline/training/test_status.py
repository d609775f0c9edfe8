"""`status --watch` reads the files of other processes until all runs have ended."""

import itertools
import json
import select
import signal
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from nnunet_bridge.cli import main
from nnunet_bridge.formats.files import only_writer
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.runs import write_record
from nnunet_bridge.pipeline.training.status import watched_status

SMOKE = method_of("nnunet", "smoke")
DATASET = "Dataset001_Leg"


def run_in(workspace):
    return SMOKE.run(Dataset(workspace, DATASET), "2d", 0)


class Listener:
    def __init__(self):
        self.tables, self.lines = [], []

    def show(self, draw):
        self.tables.append(draw(120))

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def workspace(tmp_path):
    found = Workspace.at(tmp_path, environment={})
    Dataset(found, DATASET).raw_dir.mkdir(parents=True)
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

    summary = watched_status(Dataset(workspace, DATASET), 0.05, listener)
    other.join()

    assert [state.state for state in summary.runs] == ["failed"]
    assert listener.lines == ["2d fold 0: failed"]
    assert listener.tables[-1].count("3/4") == 1
    assert any("running" in table and "2/4" in table for table in listener.tables)
    assert "it broke" in summary.as_text()


def test_watching_what_rests_ends_soon_with_the_same_object_as_status(workspace):
    tell(workspace, event="start", epochs=4)
    words = ["status", "1", "-w", str(workspace.runs_dir.parent), "--json"]

    watched = CliRunner().invoke(main, [*words, "--watch", "1"])

    assert watched.exit_code == 0
    answer = json.loads(watched.stdout)
    assert answer == json.loads(CliRunner().invoke(main, words).stdout)
    assert {"train_loss", "val_loss", "dice_per_structure", "seconds_left"} <= set(
        answer["runs"][0]
    )


def test_ctrl_c_ends_the_watching_without_an_error(workspace):
    """The run goes on: its lock is held until the watching has ended."""
    with only_writer(run_in(workspace).lock_file, "the run"):
        tell(workspace, event="start", epochs=4)

        def ctrl_c(_seconds):
            raise KeyboardInterrupt

        dataset = Dataset(workspace, DATASET)
        summary = watched_status(dataset, 0.05, Listener(), sleep=ctrl_c)

        assert [state.state for state in summary.runs] == ["running"]
        assert summary.exit_code == 0


def test_ctrl_c_at_the_command_gives_its_result_and_exit_code_0(workspace):
    with only_writer(run_in(workspace).lock_file, "the run"):
        tell(workspace, event="start", epochs=4)
        words = ("status", "1", "-w", str(workspace.runs_dir.parent), "--watch")
        process = subprocess.Popen(
            [sys.executable, "-m", "nnunet_bridge", *words, "0.5", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        other = SMOKE.run(Dataset(workspace, DATASET), "2d", 1)
        for state in itertools.cycle(["queued", "failed"]):
            write_record(other, state=state)
            if select.select([process.stderr], [], [], 1.0)[0]:  # it has seen a change
                break
        process.send_signal(signal.SIGINT)
        answer, message = process.communicate(timeout=60)

    assert process.returncode == 0, message
    assert json.loads(answer)["runs"][0]["state"] == "running"
