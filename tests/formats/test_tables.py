"""Tables: every number back as it was, every mistake of a file named."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.scores import BoneScore, StructureVolume
from nnunet_bridge.formats.labels_file import (
    label_file_beside,
    read_label_table,
    unnamed_labels,
)
from nnunet_bridge.formats.tables import (
    read_scores,
    read_scores_json,
    read_volumes,
    score_row,
    write_scores,
    write_scores_json,
    write_volumes,
)

COLUMNS = (
    "case,structure,state,dice,hd95_mm,assd_mm,nsd,volume_reference_mm3,"
    "volume_prediction_mm3,volume_error_cm3,volume_error_percent"
)

ALL_COLUMNS = (
    f"{COLUMNS},iou,hd_mm,volume_error_mm3,volume_error_abs_mm3,"
    "volume_error_abs_percent"
)

measures = st.none() | st.floats(0, 1e6)
volumes_mm3 = st.just(0.0) | st.floats(1e-3, 1e9)
scores = st.builds(
    BoneScore,
    case_id=st.from_regex(r"[a-z]{1,8}_\d{3}", fullmatch=True),
    structure=st.sampled_from(["tibia", 'a "quoted", name', "Wadenbein, links"]),
    configuration=st.just("2d"),
    state=st.sampled_from(["scored", "both_empty", "missed", "invented"]),
    dice=measures,
    hd95_mm=measures,
    assd_mm=measures,
    nsd=measures,
    volume_reference_mm3=volumes_mm3,
    volume_prediction_mm3=volumes_mm3,
    iou=measures,
    hd_mm=measures,
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(scores, max_size=5))
def test_scores_read_back_equal_to_the_last_bit(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("scores")
    write_scores(folder / "scores.csv", rows)
    content = {
        "configuration": "2d",
        "cases": [{"structures": list(map(score_row, rows))}],
    }
    write_scores_json(folder / "scores.json", content)

    assert read_scores(folder / "scores.csv", configuration="2d") == tuple(rows)
    assert read_scores_json(folder / "scores.json") == tuple(rows)


def test_the_columns_are_those_of_the_contract_and_then_ours(tmp_path):
    score = BoneScore("c", "tibia", "", "missed", 0.0, None, None, None, 8.0, 0.0)
    write_scores(tmp_path / "scores.csv", [score])

    header, row = (tmp_path / "scores.csv").read_text().splitlines()

    assert header == ALL_COLUMNS
    assert row == "c,tibia,missed,0.0,,,,8.0,0.0,-0.008,-100.0,,,-8.0,8.0,100.0"


def test_a_table_of_the_contract_alone_is_read(tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text(f"{COLUMNS}\nc,tibia,scored,0.5,3,2,1,8.0,8.0,0,0\n")

    (score,) = read_scores(file)

    assert (score.dice, score.hd95_mm, score.iou, score.hd_mm) == (0.5, 3.0, None, None)


def test_volumes_read_back_equal(tmp_path):
    volumes = (
        StructureVolume("c", "tibia_left", "left", 3, 3 * 0.1),
        StructureVolume("c", "pelvis", "", 0, 0.0),
    )
    write_volumes(tmp_path / "volumes.csv", volumes)

    header = (tmp_path / "volumes.csv").read_text().splitlines()[0]

    assert header == "case,structure,side,volume_mm3,volume_cm3,voxels"
    assert read_volumes(tmp_path / "volumes.csv") == volumes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "columns"),
        ("case,dice\nc,1\n", "columns case, dice"),
        (f"{COLUMNS}\nc,tibia,scored,x,,,,1,1,0,0\n", "line 2.*'x' is no number"),
        (f"{COLUMNS}\nc,tibia,good,1,,,,1,1,0,0\n", "'good' is no state"),
        (f"{COLUMNS}\nc,tibia,scored,1,,,,,1,0,0\n", "volume_reference_mm3"),
        (f"{COLUMNS}\nc,tibia,scored\n", "expected 11 cells"),
        (f"{COLUMNS}\n{COLUMNS},more\n", "expected 11 cells"),
        (f"{ALL_COLUMNS}\nc,tibia,scored\n", "expected 16 cells"),
        (f"{ALL_COLUMNS}\nc,tibia,scored,1,,,,1,1,0,0,x,,,,\n", "'x' is no number"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(tmp_path, text, words):
    file = tmp_path / "scores.csv"
    file.write_text(text)

    with pytest.raises(InputError, match=words):
        read_scores(file)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"configuration": 1, "cases": [1]}'])
def test_json_without_scores_is_refused(tmp_path, text):
    file = tmp_path / "scores.json"
    file.write_text(text)

    with pytest.raises(InputError, match="no scores"):
        read_scores_json(file)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(InputError, match="Cannot read"):
        read_scores(tmp_path / "scores.csv")
    with pytest.raises(InputError, match="Cannot read"):
        read_scores_json(tmp_path / "scores.json")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no CSV table"):
        read_scores(tmp_path / "x.csv")


def test_the_labels_of_a_dataset_come_in_the_order_of_their_values(tmp_path):
    file = tmp_path / "dataset.json"
    labels = {"femur_left": 2, "background": 0, "tibia": 1}
    file.write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))

    table = read_label_table(file)

    assert table.names == ("tibia", "femur_left")
    assert table["femur_left"].side == "left"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "whole": [1, 2], "core": 1}, "whole must have one whole"),
        ({"background": 0, "a": True}, "a must have"),
        ({"0": "background", "1": "tibia"}, "nnU-Net 1"),
        ({"a": 1}, "0 must be 'background'"),
        ({"background": 0, "air": 0}, "0 must be 'background'"),
        ({"background": 0, "ignore": 1, "a": 2}, "ignore"),
        ({"background": 0, "a": 1, "b": 3}, "0, 1, 3"),
        ({"background": 0, "a": 1, "b": 1}, "0, 1, 1"),
        ([], "has no labels"),
        ({}, "has no labels"),
    ],
)
def test_labels_that_no_table_can_hold_are_refused(tmp_path, labels, words):
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps({"labels": labels}))

    with pytest.raises(InputError, match=words):
        read_label_table(file)


def test_a_dataset_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="Cannot read"):
        read_label_table(tmp_path / "dataset.json")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        read_label_table(tmp_path / "dataset.json")


def test_the_dataset_file_lies_beside_the_labels_or_above_a_folder_of_nnunet(tmp_path):
    above = tmp_path / "dataset.json"
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "other").mkdir()

    assert label_file_beside(tmp_path / "labelsTr") is None
    above.write_text("{}")
    assert label_file_beside(tmp_path) == above
    assert label_file_beside(tmp_path / "labelsTr") == above
    assert label_file_beside(tmp_path / "other") is None


def test_an_image_is_not_taken_for_labels():
    assert unnamed_labels(0).names == ()
    with pytest.raises(InputError, match="is this an image"):
        unnamed_labels(2300)
