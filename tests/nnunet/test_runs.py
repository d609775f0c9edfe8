"""The state of a training is read from its files, and from nothing else."""

import json

import pytest

from nnunet_bridge.core.dataset import TrainingRun
from nnunet_bridge.formats.files import only_writer
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Workspace
from nnunet_bridge.nnunet.runs import (
    events_file,
    known_runs,
    lock_file,
    run_state,
    write_record,
)

SMOKE = method_of("nnunet", "smoke")
RUN = TrainingRun("Dataset001_Tibia", "2d", 0, SMOKE.trainer, SMOKE.plans)


@pytest.fixture
def workspace(tmp_path):
    return Workspace.at(tmp_path, environment={})


def write_events(workspace, *events):
    file = events_file(workspace, RUN)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(event) + "\n" for event in events))


def write_results(workspace, *, validated=True, dice=(0.9, 0.8)):
    fold_dir = workspace.fold_dir(RUN)
    (fold_dir / "validation").mkdir(parents=True, exist_ok=True)
    (fold_dir / "checkpoint_final.pth").write_bytes(b"weights")
    if validated:
        mean = {str(n): {"Dice": d} for n, d in enumerate(dice, start=1)}
        (fold_dir / "validation" / "summary.json").write_text(
            json.dumps({"mean": mean})
        )


def state(workspace):
    return run_state(workspace, RUN)


def test_a_run_without_files_is_planned(workspace):
    assert state(workspace).state == "planned"


def test_a_run_whose_lock_is_held_is_running(workspace):
    write_events(
        workspace, {"event": "start", "epochs": 20}, {"event": "epoch", "epoch": 3}
    )

    with only_writer(lock_file(workspace, RUN), "the run"):
        found = state(workspace)

    assert (found.state, found.course.epochs_done, found.course.epochs) == (
        "running",
        4,
        20,
    )


def test_a_checkpoint_without_its_validation_is_not_done(workspace):
    write_results(workspace, validated=False)

    assert state(workspace).state == "stopped"


def test_a_validated_run_is_done_with_its_mean_dice(workspace):
    write_results(workspace)

    found = state(workspace)

    assert found.done
    assert found.mean_dice == pytest.approx(0.85)


def test_a_structure_in_no_case_does_not_spoil_the_mean(workspace):
    write_results(workspace, dice=(0.9, float("nan")))

    assert state(workspace).mean_dice == pytest.approx(0.9)


def test_a_run_that_nnunet_ended_with_an_error_is_failed(workspace):
    write_record(workspace, RUN, state="running")
    write_record(workspace, RUN, state="failed", ended="now")

    assert state(workspace).state == "failed"


def test_a_killed_run_is_stopped_not_running(workspace):
    """Whoever held the lock is gone; the record still says running."""
    write_record(workspace, RUN, state="running")
    (workspace.fold_dir(RUN)).mkdir(parents=True)
    (workspace.fold_dir(RUN) / "checkpoint_latest.pth").write_bytes(b"weights")

    assert state(workspace).state == "stopped"


@pytest.mark.parametrize(
    ("told", "dice"),
    [('{"mean_dice": 0.8}', 0.8), ('{"mean_dice": null}', None), ("[", None)],
)
def test_a_fold_from_elsewhere_is_unpacked_and_tells_its_dice(workspace, told, dice):
    write_results(workspace, validated=False)
    (workspace.fold_dir(RUN) / "unpacked.json").write_text(told)

    found = state(workspace)

    assert (found.state, found.mean_dice) == ("unpacked", dice)
    assert found.can_predict
    assert not found.done


def test_known_runs_are_found_under_results_and_records(workspace):
    write_results(workspace)
    other = TrainingRun("Dataset001_Tibia", "3d_fullres", 1, SMOKE.trainer, SMOKE.plans)
    write_record(workspace, other, state="failed")

    found = known_runs(workspace, "Dataset001_Tibia")

    assert [(s.run.configuration, s.run.fold, s.state) for s in found] == [
        ("2d", 0, "done"),
        ("3d_fullres", 1, "failed"),
    ]
