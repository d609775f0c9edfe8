"""Step 3 of the page: plan, train, stop and go on, runs of a terminal, and results."""

import json
import os
import re
import time
from urllib.parse import urlencode

import pytest
from command import bridge
from page_client import served

from nnunet_bridge.gui.desk import Desk
from nnunet_bridge.gui.roots import Roots
from nnunet_bridge.gui.state import state
from nnunet_bridge.nnunet.runs import RunReader, run_state

LAB = "Dataset001_Tibia"
MANY_EPOCHS = 40


@pytest.fixture(scope="module")
def client(lab, few_steps):
    """The page of the lab, which trains in few steps."""
    few_steps.setenv("FEW_EPOCHS", str(MANY_EPOCHS))
    few_steps.setenv("EPOCH_S", "0.2")  # there is time to stop it
    with served(lab / "work", lab) as found:
        found.workspace = lab / "work"
        yield found


def runs(client):
    (dataset,) = client.get("/api/state")[1]["datasets"]
    return dataset["runs"]


def until(client, holds, patience_s=120):
    """Return the first run of the state that fulfils a condition."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        for run in runs(client):
            if holds(run):
                return run
        time.sleep(0.1)
    raise AssertionError(runs(client))


FOLD = {
    "dataset": LAB,
    "configuration": ["2d"],
    "fold": ["0"],
    "budget": "smoke",
    "device": "cpu",
}


def events_in(client):
    """Return the events of fold 0, as its file has them."""
    (file,) = (client.workspace / "runs" / LAB).glob("BridgeSmoke*2d/fold_0/ev*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.training
def test_a_training_is_foreseen_started_watched_and_stopped(client):
    foreseen = client.post("/api/forecast", **FOLD)[1]
    assert (foreseen["trainings"], foreseen["measured"]) == (1, False)
    job = client.start("train", **FOLD)
    going = until(client, lambda run: run["epochs"] > 5)
    assert (going["state"], going["epochs_planned"]) == ("running", MANY_EPOCHS)
    assert client.post("/api/stop", id=job["id"])[0] == 200
    assert client.finished(job)["state"] == "stopped"
    stopped = until(client, lambda run: run["state"] == "stopped")

    left = client.post("/api/forecast", **FOLD)[1]
    start, *others = events_in(client)
    epochs = [event for event in others if event["event"] == "epoch"]
    for kind in ("loss", "dice"):
        query = urlencode({"dataset": 1, "folder": stopped["folder"], "picture": kind})
        status, headers, picture = client.ask(f"/api/curve?{query}")
        assert (status, headers["content-type"]) == (200, "image/svg+xml")
        lines = re.findall(rb'<path [^>]*d="([^"]*)"', picture)
        assert [line.count(b"L") + 1 for line in lines] == [len(epochs), len(epochs)]
    pace = sorted(event["seconds"] for event in epochs[-5:])[2] * start["threads"]
    cores = len(os.sched_getaffinity(0))
    assert left["measured"]
    assert left["seconds"] == pytest.approx((MANY_EPOCHS - len(epochs)) * pace / cores)


@pytest.mark.training
def test_a_stopped_training_goes_on_where_it_was(client):
    assert client.finished(client.start("train", **FOLD))["state"] == "done"

    done = until(client, lambda run: run["state"] == "done")
    starts = [event for event in events_in(client) if event["event"] == "start"]
    assert len(starts) == 2
    assert 0 < starts[1]["first_epoch"] < MANY_EPOCHS
    status, headers, _ = client.ask(f"/file?path={done['page']}")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert client.post("/api/forecast", **FOLD)[1]["trainings"] == 0


@pytest.mark.training
def test_a_run_started_in_a_terminal_appears_and_results_are_shown(client, few_steps):
    few_steps.setenv("FEW_EPOCHS", "2")
    words = ("-c", "2d", "--model", "unet2d", "--budget", "smoke")
    bridge("train", "1", *words, "-w", client.workspace, "--device", "cpu")

    run = until(client, lambda run: run["model"] == "unet2d")
    assert (run["state"], run["epochs"]) == ("done", 2)
    (dataset,) = client.get("/api/state")[1]["datasets"]
    assert dataset["compared"] is None
    out = client.workspace / "comparison" / LAB
    done = client.finished(
        client.start(
            "compare",
            dataset=LAB,
            out=str(out),
            configuration=["2d"],
            model=["unet2d"],
            budget="smoke",
        )
    )
    (dataset,) = client.get("/api/state")[1]["datasets"]

    assert done["state"] == "done", done
    assert dataset["compared"] == (out / "index.html").stat().st_mtime
    assert client.ask(f"/file?path={out / 'index.html'}")[0] == 200


def test_what_can_be_trained_is_what_is_planned_here(client):
    _, found = client.get("/api/training", dataset=LAB)

    planned = {model["name"]: model["planned"] for model in found["models"]}
    assert planned["nnunet"] == ["2d", "3d_fullres"]
    assert (planned["unet2d"], planned["resenc-m"]) == (["2d"], [])
    assert found["folds"] == 5
    assert {"auto", "cpu"} <= set(found["devices"])
    planners = {model["name"]: model["planner"] for model in found["models"]}
    assert (planners["nnunet"], planners["resenc-m"]) == ("default", "resenc-m")
    job = client.finished(client.start("plan", dataset=LAB))
    assert (job["state"], job["result"]["folds"]) == ("done", 5)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"model": "x"}, "There is no model x"),
        ({"budget": "<b>"}, "There is no model nnunet with the budget <b>"),
        ({"fold": ["9"]}, "There is no fold 9"),
        ({"model": "resenc-m"}, "--planner resenc-m"),
        ({"model": "unet2d", "configuration": ["3d_fullres"]}, "name one of them"),
        ({"configuration": [{}]}, "not planned for {}"),
        ({"dataset": "../x"}, "There is no dataset ../x"),
    ],
)
def test_values_that_train_refuses_are_refused_before(client, values, sentence):
    status, answer = client.post("/api/forecast", **(FOLD | values))

    assert status == 400
    assert sentence in answer["error"]


def test_only_runs_of_the_state_have_a_curve(client):
    for folder in ("", "/etc", str(client.workspace)):
        assert client.get("/api/curve", dataset=LAB, folder=folder)[0] == 400


def test_sixty_runs_at_rest_are_read_once_for_all_states(tmp_path):
    read = []
    for number in range(60):
        name = f"BridgeSmokeTrainer__nnUNetPlansSmoke__2d/fold_{number}"
        folder = tmp_path / "runs" / LAB / name
        folder.mkdir(parents=True)
        epochs = [{"event": "epoch", "epoch": n, "seconds": 1.0} for n in range(1000)]
        (folder / "events.jsonl").write_text("\n".join(map(json.dumps, epochs)))
    (tmp_path / "nnUNet_raw" / LAB).mkdir(parents=True)
    reader = RunReader(lambda run: read.append(run) or run_state(run))
    desk = Desk(tmp_path, Roots.of([tmp_path]), reader)

    first, second = state(desk), state(desk)

    assert first == second
    assert len(first["datasets"][0]["runs"]) == len(read) == 60
