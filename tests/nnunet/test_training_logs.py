"""What nnU-Net's own files say of a training is read, and nothing of them runs."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from tiny_model import pickled_checkpoint

from nnunet_bridge.formats.events import curve_of
from nnunet_bridge.nnunet.checkpoints import training_facts
from nnunet_bridge.nnunet.names import Dataset, Run, Workspace
from nnunet_bridge.nnunet.runs import known_runs, run_state
from nnunet_bridge.nnunet.training_logs import events_of

DATASET = "Dataset004_Their"
LOG = """
#######################################################################
Please cite the following paper when using nnU-Net:

2026-11-29 00:02:09.100000: This split has 4 training and 1 validation cases. 
2026-11-29 00:02:10.100000: Epoch 0 
2026-11-29 00:02:10.200000: Current learning rate: 0.01 
2026-11-29 00:02:12.100000: train_loss 0.9123 
2026-11-29 00:02:12.200000: val_loss -0.25 
2026-11-29 00:02:12.300000: Pseudo dice [np.float32(0.5), np.float32(nan)] 
2026-11-29 00:02:12.400000: Epoch time: 2.3 s 
2026-11-29 00:02:12.500000: Yayy! New best EMA pseudo Dice: 0.5 
2026-11-29 00:02:13.100000: Epoch 1 
2026-11-29 00:02:13.200000: Current learning rate: 0.00679 
2026-11-29 00:02:15.100000: train_loss 0.8 
2026-11-29 00:02:15.200000: val_loss -0.5 
2026-11-29 00:02:15.300000: Pseudo dice [0.75, 0.25] 
2026-11-29 00:02:15.400000: Epoch time: 2.5 s 
"""  # noqa: W291 - nnU-Net's lines end in a space
ENDING = """
2026-11-29 00:02:16.000000: Training done. 
2026-11-29 00:02:26.500000: Validation complete 
"""  # noqa: W291 - likewise
DEBUG = {
    "num_epochs": "7",
    "num_iterations_per_epoch": "2",
    "initial_lr": "0.01",
    "batch_size": "6",
    "device": "cpu",
    "optimizer": "SGD (\nParameter Group 0\n    lr: 0.01\n)",
    "hostname": "ward-7",
}
FIGURES = {
    "train_losses": [np.float32(0.5), np.float64(0.25), 0.125],
    "val_losses": [0.6, 0.5, float("nan")],
    "lrs": [0.01, 0.005, 0.001],
    "dice_per_class_or_region": [[np.float32(0.5), 0.25], [0.5, 0.5], [0.75, 0.5]],
    "epoch_start_timestamps": [100.0, 110.0, 120.0],
    "epoch_end_timestamps": [104.0, 115.0, 126.0],
}


def their_run(root, trainer="LabTrainer", plans="nnUNetPlans"):
    workspace = Workspace.at(root, environment={})
    return Run(Dataset(workspace, DATASET), "2d", 0, trainer, plans)


def write_fold(run, *, log="", debug=DEBUG, checkpoint=None, validated=False):
    run.fold_dir.mkdir(parents=True)
    if log:
        (run.fold_dir / "training_log_2026_11_29_00_02_08.txt").write_text(log)
    if debug:
        (run.fold_dir / "debug.json").write_text(json.dumps(debug))
    if checkpoint is not None:
        run.checkpoint_file.write_bytes(pickled_checkpoint(checkpoint))
    if validated:
        run.validation_dir.mkdir()
        summary = {"mean": {"1": {"Dice": 0.5}, "2": {"Dice": 0.7}}}
        (run.validation_dir / "summary.json").write_text(json.dumps(summary))
    return run


def test_the_log_of_a_training_at_work_tells_its_epochs_settings_and_cases(tmp_path):
    run = write_fold(their_run(tmp_path), log=LOG)

    found = run_state(run)

    assert (found.model, found.course.epochs_done) == ("LabTrainer__nnUNetPlans", 2)
    assert (found.course.epochs, found.course.seconds_per_epoch) == (7, 2.4)
    assert dict(found.course.dice) == {"1": 0.75, "2": 0.25}
    (start, first, _), damage = events_of(run)
    assert damage == ""
    assert first["pseudo_dice"] == [0.5, None]
    assert (start["training_cases"], start["validation_cases"]) == (4, 1)
    assert (start["optimizer"], start["batch_size"]) == ("SGD", 6)
    assert "ward-7" not in json.dumps(start)


def test_a_checkpoint_tells_more_epochs_than_a_log_that_was_lost(tmp_path):
    run = their_run(tmp_path)
    write_fold(run, log=LOG + ENDING, checkpoint={"logging": FIGURES}, validated=True)

    events, _ = events_of(run)
    curve = curve_of("theirs", "0", events)

    assert curve.train_loss == (0.5, 0.25, 0.125)
    assert curve.val_loss == (0.6, 0.5, None)
    assert curve.pseudo_dice == pytest.approx((0.375, 0.5, 0.625))
    assert [e["seconds"] for e in events if e["event"] == "epoch"] == [4, 5, 6]
    times = {event["event"]: event.get("time") for event in events}
    assert times["end"] - times["validation"] == pytest.approx(10.5)


def test_the_epochs_of_a_training_that_was_resumed_are_joined(tmp_path):
    run = write_fold(their_run(tmp_path), log=LOG)
    more = LOG.replace("Epoch 1 ", "Epoch 2 ").replace("Epoch 0 ", "Epoch 1 ")
    (run.fold_dir / "training_log_2026_11_30_08_00_00.txt").write_text(more)

    epochs = [e for e in events_of(run)[0] if e["event"] == "epoch"]

    assert [e["epoch"] for e in epochs] == [0, 1, 2]
    assert [e["train_loss"] for e in epochs] == [0.9123, 0.9123, 0.8]


@pytest.mark.parametrize(
    ("epochs", "steps", "budget"),
    [
        (3, "2", "smoke"),  # six steps
        (19, "250", "smoke"),
        (20, "250", "quick"),
        (49, "250", "quick"),
        (50, "250", "full"),
        (1000, None, "full"),  # no debug.json: 250 steps, as nnU-Net's own trainer
        (49, None, "quick"),
    ],
)
@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "LabTrainer"])
def test_the_budget_is_judged_by_the_steps_taken(
    tmp_path, epochs, steps, budget, trainer
):
    debug = {"num_iterations_per_epoch": steps} if steps else None
    checkpoint = {"current_epoch": epochs}
    run = their_run(tmp_path, trainer)
    write_fold(run, debug=debug, checkpoint=checkpoint, validated=True)

    (found,) = known_runs(run.dataset)

    assert (found.done, found.budget) == (True, budget)
    ours = trainer == "nnUNetTrainer" and budget == "full"
    assert found.model == ("nnunet" if ours else f"{trainer}__nnUNetPlans")
    assert found.steps == epochs * int(steps or 250)


def test_a_long_training_of_the_smoke_network_does_not_count_as_full(tmp_path):
    run = their_run(tmp_path, "BridgeSmokeTrainer", "nnUNetPlansSmoke")
    write_fold(run, checkpoint={"current_epoch": 10**6}, validated=True)

    found = run_state(run)

    assert (found.model, found.budget) == ("nnunet", "smoke")


def test_a_checkpoint_is_believed_before_events_of_an_earlier_training(tmp_path):
    run = their_run(tmp_path, "nnUNetTrainer")
    write_fold(run, checkpoint={"current_epoch": 3}, validated=True)
    run.run_dir.mkdir(parents=True)
    start = {"event": "start", "epochs": 1000, "iterations_per_epoch": 250}
    last = {"event": "epoch", "epoch": 999}
    run.events_file.write_text(f"{json.dumps(start)}\n{json.dumps(last)}\n")

    assert run_state(run).budget == "smoke"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("2026-13-45 00:02:10.1: Epoch 0", 0),
        ("2026-11-29 00:02:10.1: Epoch " + "9" * 5000, 0),
        ("0001-01-01 00:00:00: Training done.", 0),
        ("2026-11-29 00:02:10.1: Pseudo dice [" * 20_000, 0),
        ("\x1b[2J2026-11-29 00:02:10.1: train_loss one\0", 0),
        (LOG, 2),
    ],
    ids=["day", "digits", "year", "brackets", "escape", "whole"],
)
def test_a_log_of_any_text_is_read(tmp_path, line, told):
    debug = {
        "num_epochs": "[" * 10**5,
        "batch_size": "9" * 5000,
        "optimizer": "\x1b[2J",
    }
    run = write_fold(their_run(tmp_path), log=f"{line}\n", debug=debug)

    found = run_state(run)

    assert found.course.epochs_done == told
    assert "\x1b" not in json.dumps(events_of(run)[0], ensure_ascii=False)


def test_a_checkpoint_whose_lists_hold_themselves_is_read(tmp_path):
    endless = []
    endless.append(endless)
    figures = {**FIGURES, "dice_per_class_or_region": [endless] * 3}
    run = write_fold(their_run(tmp_path), checkpoint={"logging": figures})

    assert run_state(run).course.epochs_done == 3


def test_a_folder_whose_name_could_trick_a_terminal_is_no_model(tmp_path):
    run = their_run(tmp_path)
    odd = run.dataset.results_dir / "Lab\x1b[2J__nnUNetPlans__2d" / "fold_0"
    odd.mkdir(parents=True)
    write_fold(run, log=LOG)

    assert [state.run for state in known_runs(run.dataset)] == [run]


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    "content",
    [
        {"logging": {"train_losses": _Runs()}, "current_epoch": 3},
        {"current_epoch": "many", "logging": [1, 2]},
        {"logging": {"train_losses": "long", "lrs": {1: 2}}, "network_weights": [1]},
        ["current_epoch"],
    ],
    ids=["code", "words", "shapes", "list"],
)
def test_S01_a_checkpoint_of_another_form_tells_nothing_and_runs_nothing(
    tmp_path, monkeypatch, content
):
    monkeypatch.chdir(tmp_path)
    run = their_run(tmp_path)
    write_fold(run, checkpoint=content, validated=True)

    assert run_state(run).budget == "smoke"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["zip", "pickle", "missing"])
def test_a_damaged_checkpoint_tells_nothing(tmp_path, damage):
    file = tmp_path / "checkpoint_final.pth"
    whole = pickled_checkpoint({"current_epoch": 3})
    if damage == "zip":
        file.write_bytes(whole[:100])
    elif damage == "pickle":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}, 2)[:-3])
        file.write_bytes(stream.getvalue())

    assert training_facts(file) == {}
