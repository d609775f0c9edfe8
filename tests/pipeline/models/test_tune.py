"""Cleaning tuned on the validation of every fold, stored and applied with the model."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from nnunet_bridge.cli import main
from nnunet_bridge.core.cleaning import CleaningRule
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.nifti import read_labelmap, write_labelmap, write_volume
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.ops.metrics import bone_scores
from nnunet_bridge.pipeline.models import tune
from nnunet_bridge.pipeline.models.choose import ModelRequest, choose_model
from nnunet_bridge.pipeline.models.tune import tune_cleaning, tuned_rules
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images

DATASET = "Dataset001_Leg"
SMOKE = method_of("nnunet", "smoke")
TABLE = LabelTable.from_names(["tibia", "femur"])
GRID = Grid((40, 30, 12), np.diag([1.0, 1.0, 3.0, 1.0]))
SPECK_MM3 = 4 * 4 * 1 * 3.0


def run_of(dataset, fold, configuration="2d"):
    return SMOKE.run(dataset, configuration, fold)


def drawn():
    voxels = np.zeros(GRID.shape, np.uint8)
    voxels[4:14, 4:24, 1:11] = 1
    voxels[20:30, 4:24, 1:11] = 2
    return voxels


def predicted(seed):
    """Return the reference with a speck of tibia; the femur is only too thick."""
    voxels = drawn()
    voxels[34:38, 2 + seed : 6 + seed, 4] = 1
    voxels[30, 4:24, 1:11] = 2
    return voxels


def write_fold(dataset, fold, *, configuration="2d", cases=2):
    folder = run_of(dataset, fold, configuration).fold_dir
    for number in range(cases):
        case = f"leg_{fold}{number}"
        labelmap = Labelmap(GRID, predicted(number), TABLE)
        write_labelmap(folder / "validation" / f"{case}.nii.gz", labelmap)
        write_labelmap(
            dataset.raw_dir / "labelsTr" / f"{case}.nii.gz",
            Labelmap(GRID, drawn(), TABLE),
        )
    summary = {"mean": {"1": {"Dice": 0.9}, "2": {"Dice": 0.9}}}
    (folder / "validation" / "summary.json").write_text(json.dumps(summary))
    (folder / "checkpoint_final.pth").write_bytes(f"{configuration} {fold}".encode())
    description = json.dumps(
        {
            "labels": {"background": 0, "tibia": 1, "femur": 2},
            "channel_names": {"0": "MRI"},
            "file_ending": ".nii.gz",
        }
    )
    for place in (folder.parent, dataset.raw_dir):
        (place / "dataset.json").write_text(description)


@pytest.fixture
def dataset(tmp_path):
    """A dataset with a model of two finished folds."""
    found = Dataset(Workspace.at(tmp_path, environment={}), DATASET)
    for fold in (0, 1):
        write_fold(found, fold)
    return found


def chosen(dataset, *configurations, **more):
    request = ModelRequest(configurations, **more)
    return choose_model(dataset, request)


def cleaning_file(dataset):
    return run_of(dataset, 0).model_dir / "cleaning.json"


def test_each_structure_gets_the_rule_that_helps_it(dataset):
    summary = tune_cleaning(dataset)

    (model,) = summary.models
    structures = json.loads(cleaning_file(dataset).read_text())["structures"]
    assert structures == model.content["structures"]
    assert structures["tibia"]["rule"] == "volume"
    assert structures["tibia"]["min_volume_mm3"] == 100.0  # the gentlest that helps
    assert structures["tibia"]["min_volume_mm3"] > SPECK_MM3
    assert structures["femur"]["rule"] == "none"
    assert summary.exit_code == 0


def test_the_table_holds_the_means_before_and_after_fold_by_fold(dataset):
    tune_cleaning(dataset)

    row = json.loads(cleaning_file(dataset).read_text())["structures"]["tibia"]
    before = [
        bone_scores(
            Labelmap(GRID, predicted(number), TABLE),
            Labelmap(GRID, drawn(), TABLE),
            case_id="c",
        )[0]
        for number in range(2)
    ]
    assert row["dice_before"] == pytest.approx(np.mean([s.dice for s in before]))
    assert row["hd95_before_mm"] == pytest.approx(np.mean([s.hd95_mm for s in before]))
    assert (row["dice_after"], row["hd95_after_mm"]) == (1.0, 0.0)
    assert set(row["folds"]) == {"0", "1"}
    assert row["folds"]["1"]["dice_after"] == 1.0


def test_everything_that_was_tried_is_on_record(dataset):
    content = tune_cleaning(dataset).models[0].content

    for name in TABLE.names:
        assert len(content["tried"][name]) == len(tune.CANDIDATES)
    assert not any(row["accepted"] for row in content["tried"]["femur"])
    assert content["cases"] == {"0": ["leg_00", "leg_01"], "1": ["leg_10", "leg_11"]}


def test_a_rule_that_spoils_one_fold_is_not_kept(dataset):
    """In fold 1 the speck is a true piece of the tibia."""
    for number in range(2):
        file = dataset.raw_dir / "labelsTr" / f"leg_1{number}.nii.gz"
        truth = drawn()
        truth[34:38, 2 + number : 6 + number, 4] = 1
        write_labelmap(file, Labelmap(GRID, truth, TABLE))

    tune_cleaning(dataset)

    structures = json.loads(cleaning_file(dataset).read_text())["structures"]
    assert structures["tibia"]["rule"] == "none"


def test_what_was_chosen_is_tried_together_and_given_up_where_it_fails(
    dataset,
):
    rules = {
        "tibia": CleaningRule("volume"),
        "femur": CleaningRule("volume", min_volume_mm3=1e6),  # would lose it
    }

    tune_cleaning(dataset, choose=lambda _trials: rules)

    structures = json.loads(cleaning_file(dataset).read_text())["structures"]
    assert {name: row["rule"] for name, row in structures.items()} == {
        "tibia": "volume",
        "femur": "none",
    }
    assert structures["femur"]["dice_after"] == structures["femur"]["dice_before"]


def test_tuning_again_changes_nothing_unless_forced_or_the_evidence_has_changed(
    dataset,
):
    first = tune_cleaning(dataset)
    before = cleaning_file(dataset).stat().st_mtime_ns

    again = tune_cleaning(dataset)

    assert again.as_json() == first.as_json()
    assert again.as_text() == first.as_text()
    assert cleaning_file(dataset).stat().st_mtime_ns == before
    tune_cleaning(dataset, force=True)
    forced = cleaning_file(dataset).stat().st_mtime_ns
    assert forced != before
    write_fold(dataset, 2)
    assert "of fold 0, 1, 2" in tune_cleaning(dataset).as_text()


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_damaged_choice_is_made_anew(dataset, text):
    cleaning_file(dataset).write_text(text)

    tune_cleaning(dataset)

    model = chosen(dataset)
    assert tuned_rules(model)["tibia"].name == "volume"


def test_each_configuration_is_tuned_for_itself(dataset):
    write_fold(dataset, 0, configuration="3d_fullres")

    request = ModelRequest(("2d", "3d_fullres"), budget="smoke")
    summary = tune_cleaning(dataset, request)

    models = summary.as_json()["models"]
    assert [model["configuration"] for model in models] == ["2d", "3d_fullres"]
    assert "3d_fullres: cleaning chosen on 2 validation cases" in summary.as_text()


def test_a_prediction_without_its_reference_is_refused_by_name(dataset):
    (dataset.raw_dir / "labelsTr" / "leg_01.nii.gz").unlink()

    with pytest.raises(InputError, match=r"without a reference .* leg_01"):
        tune_cleaning(dataset)


def test_a_model_that_has_learnt_other_labels_is_refused(dataset):
    file = dataset.raw_dir / "dataset.json"
    file.write_text(file.read_text().replace("femur", "patella"))

    with pytest.raises(InputError, match="was trained on tibia, femur, but"):
        tune_cleaning(dataset)


def test_the_fold_of_all_cases_has_nothing_to_tune_on(tmp_path):
    dataset = Dataset(Workspace.at(tmp_path, environment={}), DATASET)
    write_fold(dataset, "all")

    with pytest.raises(InputError, match="train numbered folds"):
        tune_cleaning(dataset)


# --- the rules of a model -------------------------------------------------------------


def test_the_rules_of_a_model_are_those_that_were_chosen(dataset):
    tune_cleaning(dataset)

    rules = tuned_rules(chosen(dataset, folds=("1",)))

    assert rules == {
        "tibia": CleaningRule("volume", min_volume_mm3=100.0),
        "femur": CleaningRule("none"),
    }


def test_a_model_without_tuned_cleaning_is_refused_with_the_way_out(dataset):
    command = f"`nnunet-bridge clean --tune {DATASET} -c 2d --budget smoke`"

    with pytest.raises(InputError, match=re.escape(command)):
        tuned_rules(chosen(dataset))


def test_a_model_that_was_trained_since_is_refused(dataset):
    tune_cleaning(dataset)
    checkpoint = run_of(dataset, 1).fold_dir / "checkpoint_final.pth"
    checkpoint.write_bytes(b"trained anew")

    with pytest.raises(InputError, match="tuned on other runs"):
        tuned_rules(chosen(dataset))
    assert tuned_rules(chosen(dataset, folds=("0",)))


def test_the_fold_of_all_cases_takes_the_choice_of_the_numbered_folds(dataset):
    tune_cleaning(dataset)
    write_fold(dataset, "all")

    rules = tuned_rules(chosen(dataset, folds=("all",)))

    assert rules["tibia"].name == "volume"


def test_an_ensemble_has_no_tuned_cleaning(dataset):
    write_fold(dataset, 0, configuration="3d_fullres")
    both = chosen(dataset, "2d", "3d_fullres")

    with pytest.raises(InputError, match=r"not for the mean 2d\+3d_fullres"):
        tuned_rules(both)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"checkpoints": {}, "structures": {"tibia": {"rule": "slice"}}',
        '{"checkpoints": {}, "structures": {"tibia": {}}}',
        '{"checkpoints": {}, "structures": {"tibia": []}}',
    ],
)
def test_a_damaged_file_of_rules_is_refused(dataset, text):
    cleaning_file(dataset).write_text(text)

    with pytest.raises(InputError):
        tuned_rules(chosen(dataset))


# --- predict --clean ------------------------------------------------------------------


@pytest.fixture
def predict_with(dataset, tmp_path):
    """Predict one image; in place of nnU-Net, a prediction with a speck of tibia."""
    image = tmp_path / "new_0000.nii.gz"
    write_volume(image, Volume(GRID, drawn().astype(np.int16)))
    calls = []

    def without_nnunet(model, _work, _resources, *, advanced):
        calls.append(model)
        advanced(1.0)
        folder = tmp_path / "predicted"
        labelmap = Labelmap(GRID, predicted(0), TABLE)
        write_labelmap(folder / "new.nii.gz", labelmap)
        return folder

    def call(clean):
        out = tmp_path / "out"
        options = PredictionOptions(clean=clean, device="cpu")
        predict_images(dataset, [image], out, options, network=without_nnunet)
        record = json.loads((out / "new" / "prediction.json").read_text())
        labelmap = read_labelmap(out / "new" / "labels.nii.gz", TABLE)
        return record, labelmap, len(calls)

    return call


def test_tuned_cleaning_is_applied_and_named_for_every_structure(dataset, predict_with):
    tune_cleaning(dataset)

    record, labelmap, _ = predict_with("tuned")

    assert record["cleaning"]["rules"]["tibia"]["min_volume_mm3"] == 100.0
    assert record["cleaning"]["rules"]["femur"] == {"rule": "none"}
    assert record["cleaning"]["removed_mm3"] == {"tibia": SPECK_MM3, "femur": 0.0}
    np.testing.assert_array_equal(labelmap.voxels == 1, drawn() == 1)
    np.testing.assert_array_equal(labelmap.voxels == 2, predicted(0) == 2)


@pytest.mark.parametrize("clean", ["none", "slice", "volume"])
def test_the_other_cleanings_are_one_rule_for_all(predict_with, clean):
    record, labelmap, _ = predict_with(clean)

    named = {row["rule"] for row in record["cleaning"]["rules"].values()}
    assert named == {clean}
    assert (labelmap.voxels == 1).sum() * 3.0 == record["volumes_mm3"]["tibia"]
    assert record["options"] == {
        "clean": clean,
        "meshes": False,
        "seg_nrrd": False,
        "dicom_seg": False,
    }


def test_N03_other_rules_predict_anew_and_the_same_do_not(dataset, predict_with):
    tune_cleaning(dataset)
    assert predict_with("tuned")[2] == 1
    assert predict_with("tuned")[2] == 1

    content = json.loads(cleaning_file(dataset).read_text())
    content["structures"]["tibia"] = {"rule": "none"}
    cleaning_file(dataset).write_text(json.dumps(content))

    record, labelmap, calls = predict_with("tuned")
    assert calls == 2
    assert record["cleaning"]["rule"] == "none"
    np.testing.assert_array_equal(labelmap.voxels, predicted(0))


def test_nothing_is_predicted_where_no_cleaning_was_tuned(predict_with):
    with pytest.raises(InputError, match="No cleaning was tuned for 2d"):
        predict_with("tuned")


# --- the command ----------------------------------------------------------------------


def invoke(*words):
    return CliRunner().invoke(main, list(map(str, words)))


def test_the_command_tunes_and_prints_one_object(dataset):
    result = invoke(
        *("clean", "--tune", "1", "-c", "2d", "--json"),
        *("-w", dataset.workspace.raw_dir.parent),
    )

    content = json.loads(result.stdout)
    assert result.exit_code == 0
    assert content["dataset"] == DATASET
    assert content["models"][0]["structures"]["tibia"]["rule"] == "volume"
    assert content["models"][0]["file"] == str(cleaning_file(dataset))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tune", "1", "--rule", "volume"], "Leave out '--rule'"),
        (["--tune", "1", "--keep", "2"], "Leave out '--keep'"),
        (["--tune", "1", "."], "Leave out '[LABELS]'"),
        ([".", "out", "-c", "2d"], "only --tune reads a model"),
        ([".", "out", "--budget", "smoke"], "only --tune reads a model"),
        (["."], "Name LABELS to clean and OUT"),
        ([], "Name LABELS to clean and OUT"),
        ([".", "out", "--keep", "2"], "--rule volume"),
        ([".", "out", "--rule", "volume", "--each-side"], "needs --keep N"),
        (["--tune", "1", "--each-side"], "Leave out '--each-side'"),
    ],
)
def test_words_that_do_not_go_together_are_a_usage_error(dataset, words, message):
    result = invoke("clean", *words, "-w", dataset.workspace.raw_dir.parent)

    assert result.exit_code == 2
    assert message in result.stderr
