"""The state of a training is read from its files, and from nothing else."""

import json

import pytest

from nnunet_bridge.formats.files import only_writer
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.runs import (
    ORIGIN_FILE,
    RunReader,
    known_runs,
    run_state,
    write_record,
)

SMOKE = method_of("nnunet", "smoke")
DATASET = "Dataset001_Tibia"


def run_in(workspace, configuration="2d", fold=0):
    return SMOKE.run(Dataset(workspace, DATASET), configuration, fold)


@pytest.fixture
def workspace(tmp_path):
    return Workspace.at(tmp_path, environment={})


def write_events(workspace, *events):
    file = run_in(workspace).events_file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(event) + "\n" for event in events))


def write_results(workspace, *, validated=True, dice=(0.9, 0.8)):
    fold_dir = run_in(workspace).fold_dir
    (fold_dir / "validation").mkdir(parents=True, exist_ok=True)
    (fold_dir / "checkpoint_final.pth").write_bytes(b"weights")
    if validated:
        mean = {str(n): {"Dice": d} for n, d in enumerate(dice, start=1)}
        (fold_dir / "validation" / "summary.json").write_text(
            json.dumps({"mean": mean})
        )


def state(workspace):
    return run_state(run_in(workspace))


def test_a_run_without_files_is_planned(workspace):
    assert state(workspace).state == "planned"


def test_a_run_whose_lock_is_held_is_running(workspace):
    write_events(
        workspace, {"event": "start", "epochs": 20}, {"event": "epoch", "epoch": 3}
    )

    with only_writer(run_in(workspace).lock_file, "the run"):
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
    write_record(run_in(workspace), state="running")
    write_record(run_in(workspace), state="failed", ended="now")

    assert state(workspace).state == "failed"


def test_a_killed_run_is_stopped_not_running(workspace):
    """Whoever held the lock is gone; the record still says running."""
    write_record(run_in(workspace), state="running")
    run_in(workspace).fold_dir.mkdir(parents=True)
    (run_in(workspace).fold_dir / "checkpoint_latest.pth").write_bytes(b"weights")

    assert state(workspace).state == "stopped"


@pytest.mark.parametrize(
    ("answer", "dice"),
    [('{"mean_dice": 0.8}', 0.8), ('{"mean_dice": null}', None), ("[", None)],
)
def test_a_fold_from_elsewhere_is_unpacked_and_has_its_dice(workspace, answer, dice):
    write_results(workspace, validated=False)
    (run_in(workspace).fold_dir / "unpacked.json").write_text(answer)

    found = state(workspace)

    assert (found.state, found.mean_dice) == ("unpacked", dice)
    assert found.can_predict
    assert not found.done


def test_known_runs_are_found_under_results_and_records(workspace):
    write_results(workspace)
    other = run_in(workspace, "3d_fullres", 1)
    write_record(other, state="failed")

    found = known_runs(Dataset(workspace, "Dataset001_Tibia"))

    assert [(s.run.configuration, s.run.fold, s.state) for s in found] == [
        ("2d", 0, "done"),
        ("3d_fullres", 1, "failed"),
    ]


DAMAGED = [b"", b"{", b"\x00" * 64, b"[]", b"\xff\xfe{}", b'{"state": ']
"""What a crash of the disk leaves of a JSON file."""


@pytest.mark.parametrize("content", DAMAGED)
def test_a_run_whose_validation_is_damaged_is_stopped_and_says_so(workspace, content):
    write_results(workspace)
    (run_in(workspace).fold_dir / "validation" / "summary.json").write_bytes(content)

    found = state(workspace)

    assert (found.state, found.mean_dice) == ("stopped", None)
    assert "summary.json cannot be read" in found.reason


@pytest.mark.parametrize("content", DAMAGED)
def test_a_run_whose_record_is_damaged_has_failed_and_says_so(workspace, content):
    write_record(run_in(workspace), state="running")
    run_in(workspace).record_file.write_bytes(content)

    found = state(workspace)

    assert found.state == "failed"
    assert "run.json cannot be read" in found.reason


def test_a_finished_run_stays_finished_whatever_its_record_says(workspace):
    write_results(workspace)
    write_record(run_in(workspace), state="done")
    run_in(workspace).record_file.write_bytes(b"{")

    found = state(workspace)

    assert found.done
    assert "run.json cannot be read" in found.reason


@pytest.mark.parametrize("line", [b"{", b"\x00" * 40, b"\xff\xff", b'"a word"'])
def test_events_damaged_in_the_middle_are_skipped_and_reported(workspace, line):
    write_events(workspace, {"event": "start", "epochs": 20})
    with run_in(workspace).events_file.open("ab") as file:
        file.write(line + b'\n{"event": "epoch", "epoch": 3}\n')

    found = state(workspace)

    assert (found.course.epochs_done, found.course.epochs) == (4, 20)
    answer = "events.jsonl is damaged: line 2 cannot be read."
    assert found.reason == ("" if line == b'"a word"' else answer)


def test_a_line_that_is_being_written_is_no_damage(workspace):
    write_events(workspace, {"event": "start", "epochs": 20})
    with run_in(workspace).events_file.open("ab") as file:
        file.write(b'{"event": "epo')

    assert state(workspace).reason == ""


@pytest.mark.parametrize(
    "event",
    [
        {"event": "epoch", "epoch": "three"},
        {"event": "epoch", "epoch": 3, "seconds": "long", "pseudo_dice": 0.5},
        {"event": "epoch", "epoch": 3, "pseudo_dice": ["much", None]},
        {"event": "start", "epochs": None},
    ],
)
def test_events_that_mean_nothing_are_passed_over(workspace, event):
    write_events(workspace, event)

    found = state(workspace).as_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_damaged_record_is_written_anew(workspace):
    write_record(run_in(workspace), state="running")
    run_in(workspace).record_file.write_bytes(b"{")

    write_record(run_in(workspace), state="failed", reason="why")

    assert json.loads(run_in(workspace).record_file.read_text())["reason"] == "why"


def test_a_summary_of_another_shape_gives_no_dice(workspace):
    write_results(workspace)
    summary = run_in(workspace).fold_dir / "validation" / "summary.json"
    summary.write_text('{"mean": {"1": {"Dice": "high"}, "2": 3}}')

    assert state(workspace).mean_dice is None


def test_the_dice_of_an_epoch_bear_the_names_of_the_structures(workspace):
    folder = Dataset(workspace, DATASET).raw_dir
    folder.mkdir(parents=True)
    labels = {"background": 0, "femur": 2, "tibia": 1}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    epoch = {"event": "epoch", "epoch": 0, "pseudo_dice": [0.7, None], "seconds": 2}
    write_events(workspace, {"event": "start", "epochs": 11}, epoch)

    with only_writer(run_in(workspace).lock_file, "the run"):
        answer = state(workspace).as_json()

    assert answer["dice_per_structure"] == {"tibia": 0.7, "femur": None}
    assert (answer["seconds_per_epoch"], answer["seconds_left"]) == (2, 20)


def test_only_a_running_training_has_time_left(workspace):
    epoch = {"event": "epoch", "epoch": 0, "seconds": 2}
    write_events(workspace, {"event": "start", "epochs": 11}, epoch)

    assert state(workspace).seconds_left is None


def test_what_others_wrote_into_a_record_stays(workspace):
    write_record(run_in(workspace), state="running", patients=7)
    write_record(run_in(workspace), state="done")

    content = json.loads(run_in(workspace).record_file.read_text())
    assert content == {"schema": 1, "state": "done", "patients": 7}


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ('{"attempts": "many"}', "run.json is damaged: attempts: "),
        ('{"schema": 2}', "schema 2 of the run.json: update nnunet-bridge or train"),
    ],
)
def test_a_record_of_another_form_is_refused_with_the_way_out(
    workspace, content, shown
):
    run_in(workspace).run_dir.mkdir(parents=True)
    run_in(workspace).record_file.write_text(content)

    reason = state(workspace).reason

    assert shown in reason
    assert "again with --restart" in reason


def test_a_folder_that_a_crash_left_aside_is_not_a_run(workspace):
    results = Dataset(workspace, DATASET).results_dir
    aside = results / ".nnUNetTrainerX__nnUNetPlans__2d.replaced-0a1b2c3d" / "fold_0"
    aside.mkdir(parents=True)
    (aside / ORIGIN_FILE).write_text("{}")

    assert known_runs(Dataset(workspace, DATASET)) == []


@pytest.fixture
def sixty(workspace):
    """Sixty runs of 1000 epochs, most of them stopped."""
    lines = [{"event": "start", "epochs": 1000}]
    lines += [
        {"event": "epoch", "epoch": n, "train_loss": -0.5, "val_loss": -0.4,
         "pseudo_dice": [0.5, 0.6], "seconds": 30.0}
        for n in range(1000)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    names = ("2d", "3d_fullres", "3d_lowres")
    runs = [run_in(workspace, name, fold) for name in names for fold in range(20)]
    for run in runs:
        run.run_dir.mkdir(parents=True)
        run.events_file.write_text(text)
    return runs


def test_only_runs_whose_files_changed_are_read_again(sixty):
    read = []

    def counted(run):
        read.append(run)
        return run_state(run)

    reader = RunReader(counted)
    first = known_runs(sixty[0].dataset, reader)
    assert len(read) == len(first) == 60

    assert known_runs(sixty[0].dataset, reader) == first
    assert len(read) == 60
    with sixty[7].events_file.open("a") as file:
        file.write('{"event": "epoch", "epoch": 1000}\n')
    again = known_runs(sixty[0].dataset, reader)

    assert read[60:] == [sixty[7]]
    assert max(state.course.epochs_done for state in again) == 1001


def test_a_reader_sees_every_change_of_a_state(workspace):
    run, reader = run_in(workspace), RunReader()

    def seen():
        assert reader(run) == run_state(run)
        return reader(run).state, reader(run).mean_dice

    assert seen() == ("planned", None)
    write_record(run, state="queued", job="12")
    assert seen() == ("queued", None)
    with only_writer(run.lock_file, "the run"):
        assert seen() == ("running", None)
    write_record(run, state="failed", reason="no memory")
    assert seen() == ("failed", None)
    write_events(workspace, {"event": "start", "epochs": 20})
    write_results(workspace)
    assert seen() == ("done", pytest.approx(0.85))
    (run.fold_dir / "validation" / "summary.json").unlink()
    assert seen() == ("failed", None)
    run.dataset.raw_dir.mkdir(parents=True)
    names = {"labels": {"background": 0, "tibia": 1, "femur": 2}}
    write_events(workspace, {"event": "epoch", "epoch": 0, "pseudo_dice": [0.1, 0.2]})
    seen()
    (run.dataset.raw_dir / "dataset.json").write_text(json.dumps(names))
    assert seen()[0] == "failed"
    assert set(reader(run).course.dice) == {"tibia", "femur"}
