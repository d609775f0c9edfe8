"""Tables keep every number to the last bit; a faulty dataset.json is named."""

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.scores import BoneScore, StructureVolume
from nnunet_bridge.core.words import Side
from nnunet_bridge.formats.labels_file import (
    find_label_file,
    number_labels,
    read_label_table,
)
from nnunet_bridge.formats.tables import (
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
shares = st.none() | st.floats(0, 1)
volumes_mm3 = st.just(0.0) | st.floats(1e-3, 1e9)
scores = st.builds(
    BoneScore,
    case_id=st.from_regex(r"[a-z]{1,8}_\d{3}", fullmatch=True),
    structure=st.sampled_from(["tibia", 'a "quoted", name', "Wadenbein, links"]),
    configuration=st.just("2d"),
    state=st.sampled_from(["scored", "missed", "invented"]),
    dice=shares,
    hd95_mm=measures,
    assd_mm=measures,
    nsd=shares,
    volume_reference_mm3=volumes_mm3,
    volume_prediction_mm3=volumes_mm3,
    iou=shares,
    hd_mm=measures,
)


def only_row(file):
    with file.open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    return row


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "'=", "'"])
def test_F12_no_text_of_a_table_is_a_formula_and_it_comes_back(tmp_path, start):
    name = f"{start}HYPERLINK(1)"
    volume = StructureVolume("a", name, Side.MERGED, 1000, 1000.0)

    write_volumes(tmp_path / "volumes.csv", [volume])

    row = only_row(tmp_path / "volumes.csv")
    assert row["structure"] == f"'{name}"
    assert read_volumes(tmp_path / "volumes.csv") == (volume,)


def test_F12_a_negative_number_stays_a_number(tmp_path):
    score = BoneScore("a", "-x", "2d", "scored", 0.5, 1.0, 1.0, 0.5, 2000.0, 1000.0)

    write_scores(tmp_path / "scores.csv", [score])

    row = only_row(tmp_path / "scores.csv")
    assert float(row["volume_error_cm3"]) == -1.0
    assert row["structure"] == "'-x"


@examples(40)
@given(rows=st.lists(scores, max_size=5))
def test_scores_read_back_equal_to_the_last_bit(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("scores")
    write_scores(folder / "scores.csv", rows)
    content = {
        "configuration": "2d",
        "cases": [{"structures": list(map(score_row, rows))}],
    }
    write_scores_json(folder / "scores.json", content)

    with (folder / "scores.csv").open(newline="") as stream:
        read = list(csv.DictReader(stream))
    assert len(read) == len(rows)
    for score, cells in zip(rows, read, strict=True):
        assert (cells["case"], cells["structure"]) == (score.case_id, score.structure)
        for measure in ("dice", "hd95_mm", "assd_mm", "nsd", "iou", "hd_mm"):
            cell = cells[measure]
            assert (float(cell) if cell else None) == getattr(score, measure)
    assert json.loads((folder / "scores.json").read_text()) == content


def test_the_columns_are_those_of_the_contract_and_then_ours(tmp_path):
    score = BoneScore("c", "tibia", "", "missed", 0.0, None, None, None, 8.0, 0.0)
    write_scores(tmp_path / "scores.csv", [score])

    header, row = (tmp_path / "scores.csv").read_text().splitlines()

    assert header == ALL_COLUMNS
    assert row == "c,tibia,missed,0.0,,,,8.0,0.0,-0.008,-100.0,,,-8.0,8.0,100.0"


def test_volumes_are_written_with_their_columns(tmp_path):
    volumes = (
        StructureVolume("c", "tibia_left", "left", 3, 3 * 0.1),
        StructureVolume("c", "pelvis", "", 0, 0.0),
    )

    write_volumes(tmp_path / "volumes.csv", volumes)

    assert (tmp_path / "volumes.csv").read_text().splitlines() == [
        "case,structure,side,volume_mm3,volume_cm3,voxels",
        f"c,tibia_left,left,{3 * 0.1!r},{3 * 0.1 / 1000!r},3",
        "c,pelvis,,0.0,0.0,0",
    ]
    assert read_volumes(tmp_path / "volumes.csv") == volumes


@pytest.mark.parametrize(
    "text",
    ["case,dice\nc,1\n", "case,structure,side,volume_mm3,voxels\nc,a,,x,1\n", "a\n\0"],
)
def test_a_damaged_table_of_volumes_is_refused(tmp_path, text):
    (tmp_path / "volumes.csv").write_text(text)

    with pytest.raises(InputError, match="not a table of volumes"):
        read_volumes(tmp_path / "volumes.csv")
    with pytest.raises(InputError, match="Cannot read"):
        read_volumes(tmp_path / "none.csv")


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
        ({"background": 0, "whole": [1, 2], "core": 1}, "regions of several"),
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

    assert find_label_file(tmp_path / "labelsTr") is None
    above.write_text("{}")
    assert find_label_file(tmp_path) == above
    assert find_label_file(tmp_path / "labelsTr") == above
    assert find_label_file(tmp_path / "other") is None


def test_an_image_is_not_taken_for_labels():
    assert number_labels(0).names == ()
    with pytest.raises(InputError, match="is this an image"):
        number_labels(2300)
