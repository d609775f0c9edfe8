"""Choosing among finished models: what their folds held out decides, on the disk.

Nothing is trained here: predictions of the cases held out are drawn by the test, so
that the right choice is known. nnU-Net itself is really asked for its opinion.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_model import (
    DATASET,
    DATASET_JSON,
    pickled_checkpoint,
    tiny_plans,
    write_model,
)

from nnunet_bridge.core.errors import InputError, NnUNetError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.nifti import write_labelmap, write_volume
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.runs import known_runs
from nnunet_bridge.pipeline.comparison.compare import ComparisonOptions, compare_dataset
from nnunet_bridge.pipeline.models.choose import (
    ModelRequest,
    choice_file,
    choose_model,
    current_choice,
    fingerprint,
    predicting_model,
)
from nnunet_bridge.pipeline.models.fast import loss_sentence
from nnunet_bridge.pipeline.models.select import SelectionOptions, select_model

SMOKE = method_of("nnunet", "smoke")
BOTH = ("2d", "3d_fullres")
TABLE = LabelTable.from_names(["tibia", "femur"])
GRID = Grid((16, 16, 8), np.diag([1.0, 1.0, 2.0, 1.0]))
FOLDS = {0: ("leg_1", "leg_2", "leg_3"), 1: ("leg_4", "leg_5", "leg_6")}
SECONDS = {"2d": 2.0, "3d_fullres": 9.0}
"""Of a case."""


def drawn(short_by=0):
    """Two boxes of 4 x 8 x 6 voxels; the first lacks so many rows."""
    voxels = np.zeros(GRID.shape, np.uint8)
    voxels[2:6, short_by + 4 : 12, 1:7] = 1
    voxels[9:13, 4:12, 1:7] = 2
    return Labelmap(GRID, voxels, TABLE)


def write_dataset(dataset):
    raw, planned = dataset.raw_dir, dataset.planned_dir
    planned.mkdir(parents=True)
    for cases in FOLDS.values():
        for case in cases:
            image = Volume(GRID, np.zeros(GRID.shape, np.int16))
            write_volume(raw / "imagesTr" / f"{case}_0000.nii.gz", image)
            write_labelmap(raw / "labelsTr" / f"{case}.nii.gz", drawn())
    shutil.copytree(raw / "labelsTr", planned / "gt_segmentations")
    for folder in (raw, planned):
        (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    (planned / f"{SMOKE.plans}.json").write_text(json.dumps(tiny_plans()))


def write_fold(dataset, configuration, fold, short_by, repeat=0):
    """Write a finished fold; `short_by` are the rows that its predictions lack."""
    run = SMOKE.run(dataset, configuration, fold)
    run = replace(run, repeat=repeat)
    weights = f"{configuration} {fold}".encode()
    fold_dir = write_model(
        run,
        pickled_checkpoint({"current_epoch": 3}, **{"archive/data/0": weights}),
    )
    for case, rows in zip(FOLDS[fold], short_by, strict=True):
        write_labelmap(fold_dir / "validation" / f"{case}.nii.gz", drawn(rows))
    file = run.events_file
    file.parent.mkdir(parents=True, exist_ok=True)
    answer = [
        {"event": "start", "epochs": 1, "validation_cases": 3},
        {"event": "validation", "time": 0.0},
        {"event": "end", "time": 3 * SECONDS[configuration]},
    ]
    file.write_text("".join(json.dumps(event) + "\n" for event in answer))
    return fold_dir


@pytest.fixture
def dataset(tmp_path):
    found = Dataset(Workspace.at(tmp_path, environment={}), DATASET)
    write_dataset(found)
    return found


@pytest.fixture
def alike(dataset):
    """Two configurations: the dearer one is better by a breath."""
    for fold, rows in ((0, (0, 1, 2)), (1, (1, 2, 1))):
        write_fold(dataset, "2d", fold, rows)
    for fold, rows in ((0, (1, 0, 2)), (1, (1, 1, 1))):
        write_fold(dataset, "3d_fullres", fold, rows)
    return dataset


def test_the_cheaper_is_chosen_within_the_noise_beside_nnunets_own_choice(alike):
    summary = select_model(alike, SelectionOptions(device="cpu"))

    assert summary.chosen["configurations"] == ["2d"]
    kept = json.loads(choice_file(alike).read_text())
    assert kept == summary.as_json()
    assert "2d is cheaper (3.15e+03 billion multiply-adds a case)" in kept["reason"]
    assert [one["seconds_per_case"] for one in kept["candidates"]] == [9.0, 2.0]
    assert kept["optimistic"] is True
    assert kept["nested"] is None
    assert kept["second_opinion"]["best"] == "3d_fullres"
    assert "train --probabilities" in kept["second_opinion"]["remark"]
    ours = {one["name"]: one["mean"] for one in kept["candidates"]}
    assert kept["second_opinion"]["dice"] == pytest.approx(ours)
    text = summary.as_text()
    assert "within the noise, chosen" in text
    assert "nnU-Net's own choice: 3d_fullres" in text


def test_nnunets_own_search_leaves_what_it_left_for_the_user_before(alike):
    results = alike.results_dir
    (model, *_) = results.glob("*__2d")
    theirs = model / "crossval_results_folds_0_1" / "postprocessing.json"
    theirs.parent.mkdir()
    theirs.write_text("of another search")
    (results / "inference_information.json").write_text("of another search")
    before = {file: file.read_bytes() for file in results.rglob("*") if file.is_file()}

    summary = select_model(alike, SelectionOptions(device="cpu"))

    assert summary.opinion.best == "3d_fullres"
    after = {file: file.read_bytes() for file in results.rglob("*") if file.is_file()}
    assert after == before


def test_folds_that_are_not_shared_cannot_be_compared(dataset):
    """Folds of each have finished, but not the same: nothing can be compared."""
    write_fold(dataset, "2d", 0, (3, 3, 3))
    write_fold(dataset, "3d_fullres", 1, (0, 0, 0))

    with pytest.raises(InputError, match="No case has been validated by every"):
        select_model(dataset, SelectionOptions(device="cpu"))


def test_only_shared_cases_count_and_a_failing_second_opinion_is_reported(dataset):
    for fold, rows in ((0, (3, 3, 3)), (1, (0, 0, 0))):
        write_fold(dataset, "2d", fold, rows)
    write_fold(dataset, "3d_fullres", 0, (1, 1, 1))
    dataset.plans_file(SMOKE.plans).write_text("{")

    summary = select_model(dataset, SelectionOptions(device="cpu"))

    assert summary.choice.case_ids == FOLDS[0]
    assert summary.chosen["configurations"] == ["3d_fullres"]
    assert "3 patients cannot tell the candidates apart" in summary.choice.reason
    assert summary.opinion.best == ""
    assert "it failed" in summary.opinion.remark
    assert "nnU-Net's own choice: none" in summary.as_text()


def no_answer(*_call):
    raise NnUNetError("not asked")


SILENT = Host(start=no_answer)
"""Without nnU-Net's own choice, which takes seconds."""


def test_predict_takes_the_choice_until_a_checkpoint_changes(alike):
    before = predicting_model(alike)
    select_model(
        alike,
        SelectionOptions(device="cpu", metric="nsd"),
        host=SILENT,
    )

    chosen = predicting_model(alike)

    assert "which has the higher Dice" in before.reason
    assert chosen.configurations == ("2d",)
    assert chosen.reason.startswith(
        "2d, fold 0, 1, the choice of `select`: 2d is cheaper"
    )
    asked = predicting_model(alike, ModelRequest(("3d_fullres",)))
    assert asked.reason == "3d_fullres, as requested, fold 0, 1"
    again = pickled_checkpoint({"current_epoch": 4})
    run = SMOKE.run(alike, "2d", 0)
    (run.fold_dir / "checkpoint_final.pth").write_bytes(again)
    late = predicting_model(alike)
    assert "(the choice is out of date: run `select` again)" in late.reason


def test_nested_scores_each_fold_by_the_choice_of_the_other(alike):
    asked = SelectionOptions(device="cpu", nested=True)

    summary = select_model(alike, asked, host=SILENT)

    nested = summary.as_json()["nested"]
    assert nested["chosen"] == {"0": "2d", "1": "2d"}  # three patients cannot tell
    mean = next(s.mean for s in summary.choice.standings if s.name == "2d")
    assert (nested["n"], nested["mean"]) == (6, pytest.approx(mean))
    assert "Nested: dice" in summary.as_text()


def test_further_trainings_of_a_fold_are_compared_and_nothing_else_uses_them(
    alike, tmp_path
):
    dataset, folder = alike, write_fold(alike, "2d", 0, (8, 8, 8), repeat=1)

    record = dataset.record_dir / SMOKE.run(dataset, "2d", 0).model_dir.name
    assert folder.is_relative_to(record / "fold_0_seed_1")
    states = {state.run.title: state for state in known_runs(dataset)}
    assert states["2d fold 0 seed 1"].done
    assert states["2d fold 0 seed 1"].as_json()["repeat"] == 1
    assert states["2d fold 0"].run.fold_dir.is_relative_to(alike.results_dir)
    choice = select_model(dataset, SelectionOptions(device="cpu"), host=SILENT).choice
    assert next(s.mean for s in choice.standings if s.name == "2d") > 0.9
    model = choose_model(dataset, ModelRequest(("2d",)))
    assert [state.run.repeat for state in model.states] == [0, 0]

    found = compare_dataset(dataset, tmp_path / "out", ComparisonOptions(BOTH))

    scores = json.loads((tmp_path / "out/comparison.json").read_text())["scores"]
    tibia = {
        (one["model"], one["case"], one["repeat"]): one["dice"]
        for one in scores
        if one["structure"] == "tibia"
    }
    row = found.comparison.row("dice", "tibia")
    assert row.n == 6
    expected = np.mean([tibia["2d", "leg_1", 0], tibia["2d", "leg_1", 1]])
    assert tibia["2d", "leg_1", 1] == 0.0
    assert row.first_values[0] == pytest.approx(expected)
    assert row.first_values[3] == tibia["2d", "leg_4", 0]


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (("{", "[]", "", "\x00\x00"), "choice.json cannot be read: it is damaged."),
        (('{"budget": 3}', '{"chosen": {}}'), "The choice.json is damaged: "),
    ],
)
def test_a_damaged_choice_is_reported_and_not_used(alike, contents, words):
    for content in contents:
        choice_file(alike).write_text(content)

        kept, remark = current_choice(alike)

        assert kept is None
        assert remark.startswith(words)


def test_a_fold_that_finished_since_makes_the_choice_out_of_date(alike):
    shutil.rmtree(SMOKE.run(alike, "2d", 1).fold_dir)
    shutil.rmtree(SMOKE.run(alike, "2d", 1).events_file.parent)
    select_model(alike, SelectionOptions(device="cpu"), host=SILENT)
    assert current_choice(alike)[0] is not None

    write_fold(alike, "2d", 1, (0, 0, 0))

    assert current_choice(alike)[0] is None


def test_without_a_finished_fold_there_is_nothing_to_choose(dataset):
    with pytest.raises(InputError, match="no finished fold of the models asked for"):
        select_model(dataset, SelectionOptions())


def test_ensembles_need_two_configurations_of_a_model(dataset):
    write_fold(dataset, "2d", 0, (0, 0, 0))

    with pytest.raises(InputError, match="--ensembles needs two configurations"):
        select_model(dataset, SelectionOptions(ensembles=True, device="cpu"))


LACKING = {"2d": 2, "3d_fullres": 0}  # rows of the exact way; two more of the fast one
CALLED = []


class Drawn:
    """In place of nnU-Net's process: it draws predictions of the asked cases."""

    def __init__(self, command, *_more):
        if "second-opinion" in command:
            no_answer()
        places = [n for n, word in enumerate(command) if word == "--member"]
        members = [command[place + 1 : place + 3] for place in places]
        names = [Path(model).name.rpartition("__")[2] for model, _ in members]
        (fold,) = {fold for _, fold in members}
        images, out = (
            Path(command[command.index(w) + 1]) for w in ("--images", "--out")
        )
        cases = [image.name.removesuffix("_0000.nii.gz") for image in images.iterdir()]
        assert sorted(cases) == list(FOLDS[int(fold)])
        fast = "--fast" in command
        CALLED.append(("+".join(names), fast))
        rows = 2 * fast + max(LACKING[name] for name in names)
        for case in cases:
            write_labelmap(out / f"{case}.nii.gz", drawn(rows))

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    ended = True

    def check(self, task):
        pass


def dice_of(short_by):
    """The mean over the two boxes, of which one lacks so many of its eight rows."""
    return (2 * (8 - short_by) / (16 - short_by) + 1) / 2


def test_fast_measures_every_candidate_on_the_cases_that_its_folds_held_out(alike):
    asked = SelectionOptions(device="cpu", fast=True, ensembles=True)
    CALLED.clear()

    summary = select_model(alike, asked, host=Host(start=Drawn))

    exact = {"2d": (0, 1, 2, 1, 2, 1), "3d_fullres": (1, 0, 2, 1, 1, 1)}
    exact["2d+3d_fullres"] = (2,) * 6
    fast = {"2d": 4, "3d_fullres": 2, "2d+3d_fullres": 4}
    found = {loss["model"]: loss for loss in summary.as_json()["fast"]}
    assert found.keys() == exact.keys()
    assert CALLED.count(("2d+3d_fullres", False)) == 2  # folds
    for name, loss in found.items():
        lost = [dice_of(fast[name]) - dice_of(rows) for rows in exact[name]]
        low, high = loss["interval_95"]
        assert loss["cases"] == 6
        assert loss["dice_difference"] == pytest.approx(np.mean(lost))
        assert min(lost) <= low <= np.mean(lost) <= high <= max(lost) + 1e-9
        assert CALLED.count((name, True)) == 2
    sentence = loss_sentence(choose_model(alike, ModelRequest(("2d",))))
    low, high = found["2d"]["interval_95"]
    difference = f"{found['2d']['dice_difference']:+.4f}"
    interval = f"95 % interval {low:+.4f} to {high:+.4f}"
    assert f"Dice of 2d by {difference} ({interval}), measured on 6 valid" in sentence
    assert sentence in summary.as_text()


def test_what_fast_costs_is_known_for_the_measured_checkpoints_alone(alike):
    asked = SelectionOptions(device="cpu", fast=True)
    flat, both = ModelRequest(("2d",)), ModelRequest(BOTH)
    select = f"`nnunet-bridge select {DATASET} --budget smoke --fast"

    def said(request):
        return loss_sentence(choose_model(alike, request))

    assert said(flat).endswith(f"has not been measured: run {select}`.")
    select_model(alike, asked, host=Host(start=Drawn))

    assert "6 validation cases" in said(flat)
    assert said(replace(flat, folds=("1",))) == said(flat)
    assert said(both).endswith(f"has not been measured: run {select} --ensembles`.")
    checkpoint = SMOKE.run(alike, "2d", 0).fold_dir / "checkpoint_final.pth"
    checkpoint.write_bytes(pickled_checkpoint({"current_epoch": 4}))
    assert "has not been measured" in said(flat)
    assert "6 validation cases" in said(ModelRequest(("3d_fullres",)))
    select_model(alike, asked, host=Host(start=Drawn))
    assert "6 validation cases" in said(flat)
    kept = json.loads((alike.record_dir / "fast.json").read_text())["measured"]
    assert [loss["model"] for loss in kept] == ["2d", "3d_fullres"]
    (alike.record_dir / "fast.json").write_text('{"measured": [{"model": "2d"}]}')
    assert "has not been measured" in said(flat)


def test_the_fingerprint_of_a_checkpoint_follows_its_content_not_its_file(tmp_path):
    content = {"current_epoch": 3}
    first, copy, other = (tmp_path / name for name in ("a", "b", "c"))
    first.write_bytes(pickled_checkpoint(content, **{"a/0": b"weights"}))
    shutil.copy(first, copy)
    other.write_bytes(pickled_checkpoint(content, **{"a/0": b"Weights"}))

    assert fingerprint(first) == fingerprint(copy) != fingerprint(other)
    other.write_bytes(b"no zip")
    assert len(fingerprint(other)) == 64
    assert fingerprint(tmp_path / "absent") == ""
