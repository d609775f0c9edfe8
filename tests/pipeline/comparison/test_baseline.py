"""Labels of another tool: by our names, on our grid, or refused by name."""

import json

import numpy as np
import pytest

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.findings import Outcome
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.label_map import parse_label_map, read_label_map
from nnunet_bridge.formats.nifti import read_labelmap, write_labelmap, write_volume
from nnunet_bridge.pipeline.comparison.baseline import (
    Baseline,
    baseline_of,
    baseline_run,
)
from nnunet_bridge.pipeline.labels.other_tools import mapped_labels
from nnunet_bridge.pipeline.labels.score import ScoreOptions, score_folders

TABLE = LabelTable.from_names(["femur", "tibia"])
GRID = Grid((24, 20, 16), np.diag([1.5, 1.5, 2.0, 1.0]))
LEFT, RIGHT, LOW, OTHER = 75, 76, 12, 90


def theirs():
    """Return another tool's values: two femurs, one tibia, and something else."""
    voxels = np.zeros(GRID.shape, np.uint8)
    voxels[2:6, 4:9, 3:8] = LEFT
    voxels[15:20, 4:9, 3:8] = RIGHT
    voxels[2:6, 4:9, 10:14] = LOW
    voxels[10:12, 10:12, 10:12] = OTHER
    return voxels


def ours():
    voxels = np.zeros(GRID.shape, np.uint8)
    voxels[np.isin(theirs(), [LEFT, RIGHT])] = 1
    voxels[theirs() == LOW] = 2
    return voxels


WORDS = [f"{LEFT}=femur,{RIGHT}=femur", f"{LOW}=tibia"]


def by_map(words):
    return ScoreOptions(label_map=parse_label_map(words))


@pytest.fixture
def folders(tmp_path):
    write_volume(tmp_path / "theirs" / "a.nii.gz", Volume(GRID, theirs()))
    write_labelmap(tmp_path / "labelsTr" / "a.nii.gz", Labelmap(GRID, ours(), TABLE))
    content = {"labels": {"background": 0, "femur": 1, "tibia": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path / "theirs", tmp_path / "labelsTr"


def test_several_labels_make_one_structure_and_the_rest_is_named(folders, tmp_path):
    summary = score_folders(*folders, tmp_path / "out", by_map(WORDS))

    assert [score.dice for score in summary.scores] == [1.0, 1.0]
    assert summary.left_out == (str(OTHER),)
    assert "Labels left out by the map: 90." in summary.as_text()
    assert json.loads((tmp_path / "out/scores.json").read_text())[
        "labels_left_out"
    ] == ["90"]


@pytest.mark.parametrize(
    "labels",
    [
        {"femur_left": LEFT, "femur_right": RIGHT, "tibia_any": LOW, "liver": OTHER},
        {
            str(LEFT): "femur_left",
            "76": "femur_right",
            "12": "tibia_any",
            "90": "liver",
        },
    ],
    ids=["name: value", "value: name"],
)
def test_names_come_from_a_dataset_json_beside_the_files(folders, tmp_path, labels):
    (folders[0] / "dataset.json").write_text(json.dumps({"labels": labels}))
    words = ["femur_left=femur", "femur_right=femur", "tibia_any=tibia"]

    summary = score_folders(*folders, tmp_path / "out", by_map(words))

    assert [score.dice for score in summary.scores] == [1.0, 1.0]
    assert summary.left_out == ("liver",)


MAP = {"femur_left": "femur", "femur_right": "femur", "12": "tibia"}
FILES = {
    "m.toml": '[map]\nfemur_left = "femur"\nfemur_right = "femur"\n12 = "tibia"\n'
    "[names]\nfemur_left = 75\nfemur_right = 76\n",
    "m.json": json.dumps({"map": MAP, "names": {"femur_left": 75, "femur_right": 76}}),
    "m.csv": "label,structure,value\nfemur_left,femur,75\nfemur_right,femur,76\n"
    "12,tibia,\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_map_file_says_the_same_in_each_of_its_forms(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])

    label_map = parse_label_map([str(tmp_path / name)])

    assert label_map.structures == MAP
    assert label_map.by_value(TABLE) == {LEFT: 1, RIGHT: 1, LOW: 2}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.toml", "femur = 1", "no table `map`"),
        ("m.toml", "[map", "is not valid"),
        ("m.json", "[]", "no table `map`"),
        ("m.json", '{"map": {"a": "femur"}, "nmaes": {}}', "unknown table nmaes"),
        ("m.toml", '[map]\na = "femur"\n[names]\na = 0', "value of a must be"),
        ("m.csv", "label;structure\na;femur\n", "label and structure is missing"),
        ("m.csv", "label,structure\na,femur\na,tibia\n", "is listed twice"),
        ("m.toml", "[map]\n", "maps no label"),
    ],
)
def test_a_file_that_is_no_map_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)

    with pytest.raises(InputError, match=message):
        read_label_map(tmp_path / name)


@pytest.mark.parametrize("word", ["femur", "femur=", "=femur", "a=b,,"])
def test_a_word_that_is_no_map_is_a_usage_error(word):
    with pytest.raises(UsageError, match="their_label=our_structure"):
        parse_label_map([word])


def test_one_label_for_two_structures_is_refused():
    with pytest.raises(InputError, match="mapped to femur and to tibia"):
        parse_label_map(["75=femur", "75=tibia"])


def test_all_mistakes_of_a_map_are_reported_together(folders, tmp_path):
    with pytest.raises(InputError) as caught:
        score_folders(
            *folders, tmp_path / "out", by_map(["75=femr", "nobody_knows=tibia"])
        )

    assert "no structure “femr”" in str(caught.value)
    assert "the value of “nobody_knows” is unknown" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_labels_on_another_grid_of_the_image_are_put_on_ours(tmp_path):
    fine = Grid((48, 40, 16), GRID.affine @ np.diag([0.5, 0.5, 1, 1]))
    shift = fine.affine.copy()
    shift[:3, 3] = GRID.affine[:3, :3] @ [-0.25, -0.25, 0] + GRID.affine[:3, 3]
    fine = Grid(fine.shape, shift)
    doubled = theirs().repeat(2, axis=0).repeat(2, axis=1)
    write_volume(tmp_path / "a.nii.gz", Volume(fine, doubled))

    labelmap, _ = mapped_labels(
        tmp_path / "a.nii.gz", GRID, TABLE, parse_label_map(WORDS)
    )

    np.testing.assert_array_equal(labelmap.voxels, ours())


def test_labels_of_another_place_are_refused_by_name(folders, tmp_path):
    away = GRID.affine.copy()
    away[0, 3] += 500
    write_volume(folders[0] / "a.nii.gz", Volume(Grid(GRID.shape, away), theirs()))

    summary = score_folders(*folders, tmp_path / "out", by_map(WORDS))

    assert summary.exit_code == 3
    (case,) = summary.cases
    assert case.outcome is Outcome.REFUSED
    assert "a.nii.gz" in case.as_text()


def test_an_image_is_not_taken_for_labels(folders, tmp_path):
    noise = np.random.default_rng(0).normal(100, 5, GRID.shape).astype(np.float32)
    write_volume(folders[0] / "a.nii.gz", Volume(GRID, noise))

    summary = score_folders(*folders, tmp_path / "out", by_map(WORDS))

    assert "is not an image" in summary.as_text()


def test_a_baseline_becomes_a_model_whose_validation_is_ours(folders, tmp_path):
    run = baseline_run(
        Baseline("TotalSegmentator", folders[0]),
        parse_label_map(WORDS),
        tmp_path / "out",
        TABLE,
        {"a": lambda: GRID},
    )

    (fold,) = run.folds
    written = read_labelmap(fold.validation_dir / "a.nii.gz", TABLE)
    np.testing.assert_array_equal(written.voxels, ours())
    assert run.name == "TotalSegmentator"


def test_a_baseline_without_one_of_our_cases_is_refused(folders, tmp_path):
    with pytest.raises(InputError, match="no labels of the dataset's cases"):
        baseline_run(
            Baseline("x", folders[0]),
            parse_label_map(WORDS),
            tmp_path / "out",
            TABLE,
            {"b": lambda: GRID},
        )


@pytest.mark.parametrize("word", ["folder", "=folder", "name="])
def test_a_baseline_needs_a_name_and_a_folder(word):
    with pytest.raises(UsageError, match="NAME=FOLDER"):
        baseline_of(word)
