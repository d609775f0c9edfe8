"""From predictions on disk to a report, on cases made here."""

import csv
import io
import json

import numpy as np
import pytest

from nnunet_bridge.core.errors import GeometryError, InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.nifti import read_volume, write_labelmap, write_volume
from nnunet_bridge.ops.metrics import bone_scores
from nnunet_bridge.pipeline.report import (
    FoldRun,
    ModelRun,
    write_comparison,
    write_view,
)

TABLE = LabelTable.from_names(["tibia", "femur"])
CASES = [f"msk_{number:03d}" for number in range(1, 7)]
PATIENTS = {case: f"patient {case}" for case in CASES}


class Listener:
    """A progress that remembers."""

    def __init__(self):
        self.heard = []

    def stage(self, name, steps):
        self.heard.append((name, steps))

    def advance(self, done, note=""):
        self.heard.append((done, note))

    def say(self, line):
        self.heard.append(line)


def reference(number):
    grid = Grid((24, 24, 16), np.diag([1.0, 1.0, 2.0, 1.0]))
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[3:11, 4 : 16 + number % 3, 3:13] = 1
    voxels[13:21, 4:18, 3:13] = 2
    return Labelmap(grid, voxels, TABLE)


@pytest.fixture
def study(tmp_path):
    """Two models, two folds, six cases; the second model is off by less."""
    for number, case in enumerate(CASES):
        drawn = reference(number)
        image = Volume(drawn.grid, drawn.voxels.astype(np.int16) * 100)
        write_volume(tmp_path / f"imagesTr/{case}_0000.nii.gz", image)
        write_labelmap(tmp_path / f"labelsTr/{case}.nii.gz", drawn)
        for model, shift in (("2d", 2), ("3d_fullres", 1)):
            rolled = np.roll(drawn.voxels, shift, axis=number % 2)
            file = tmp_path / model / f"fold_{number % 2}" / f"{case}.nii.gz"
            write_labelmap(file, drawn.with_voxels(rolled))
    return tmp_path


def fold_run(study, model, fold, **facts):
    events = study / model / f"fold_{fold}" / "events.jsonl"
    lines = [
        {"event": "start", "time": 1.0, "epochs": 2, "patch_size": [8, 8],
         "architecture": "PlainConvUNet", "parameters": 1_000_000, "torch": "2.9"},
        {"event": "epoch", "epoch": 0, "train_loss": 0.1, "val_loss": None,
         "pseudo_dice": [0.5, 0.6], "seconds": 40.0, "peak_memory_bytes": 2**30},
        {"event": "epoch", "epoch": 1, "train_loss": -0.1, "val_loss": 0.0,
         "pseudo_dice": [0.7, 0.8], "seconds": 50.0, "peak_memory_bytes": None},
    ]  # fmt: skip
    text = "\n".join(json.dumps(line) for line in lines)
    events.write_text(f'{text}\n{{"event": "e')
    return FoldRun(str(fold), events.parent, events, facts)


def models(study, folds=(0, 1)):
    facts = {"versions": {"nnunetv2": "2.8.1"}, "plans_sha256": "abc", "state": "done"}
    return [
        ModelRun(
            name, name, tuple(fold_run(study, name, fold, **facts) for fold in folds)
        )
        for name in ("2d", "3d_fullres")
    ]


def written(study, **changes):
    options = {
        "title": "2D or 3D?",
        "runs": models(study),
        "references_dir": study / "labelsTr",
        "images_dir": study / "imagesTr",
        "labels": TABLE,
        "patients": PATIENTS,
    }
    return write_comparison(study / "out", **options | changes)


def test_the_report_has_a_page_a_table_and_json(study):
    summary = written(study)

    names = sorted(file.name for file in (study / "out").iterdir())
    assert names == ["comparison.csv", "comparison.json", "index.html"]
    assert summary.exit_code == 0
    assert summary.page_bytes == (study / "out/index.html").stat().st_size


def test_the_json_has_every_figure_of_every_metric_and_structure(study):
    summary = written(study)
    found = json.loads((study / "out/comparison.json").read_text())

    keys = {"median_difference", "interval_95", "p", "p_holm", "effect", "n"}
    assert all(keys <= set(row) for row in found["results"])
    assert len(found["results"]) == 5 * 3
    assert found["results"] == json.loads(json.dumps(summary.as_json()))["results"]
    assert len(found["scores"]) == 2 * 2 * len(CASES)
    assert found["verdict"]["winner"] == "3d_fullres"


def test_the_csv_says_the_same_as_the_json(study):
    written(study)
    text = (study / "out/comparison.csv").read_text()
    found = json.loads((study / "out/comparison.json").read_text())["results"]

    rows = list(csv.DictReader(io.StringIO(text)))

    assert len(rows) == len(found)
    for row, result in zip(rows, found, strict=True):
        assert float(row["median_difference"]) == result["median_difference"]
        assert row["structure"] == result["structure"]


def test_the_scores_are_those_of_the_metrics(study):
    written(study)
    found = json.loads((study / "out/comparison.json").read_text())["scores"]
    drawn = reference(0)
    rolled = drawn.with_voxels(np.roll(drawn.voxels, 2, axis=0))

    expected = bone_scores(rolled, drawn, case_id=CASES[0], configuration="2d")

    got = [s for s in found if s["case"] == CASES[0] and s["model"] == "2d"]
    assert [s["dice"] for s in got] == [s.dice for s in expected]
    assert [s["hd95_mm"] for s in got] == [s.hd95_mm for s in expected]


def test_the_page_shows_settings_costs_versions_and_both_cases(study):
    written(study)
    page = (study / "out/index.html").read_text()

    for words in ("PlainConvUNet", "8 \u00d7 8", "3 min 0 s, 2 folds", "1.00 GiB",
                  "1.0 million", "nnunetv2 version", "plans sha256", "worst case",
                  "median case", "Pseudo-Dice"):  # fmt: skip
        assert words in page
    assert ">state<" not in page


def test_a_smoke_run_names_no_winner_and_wears_a_banner(study):
    summary = written(study, budget="smoke")

    assert summary.verdict.winner == ""
    assert "No verdict: a smoke run" in summary.as_text()
    assert "A smoke run proves the chain" in (study / "out/index.html").read_text()


def test_without_images_the_page_has_surfaces_but_no_slices(study):
    written(study, images_dir=study / "nowhere")
    page = (study / "out/index.html").read_text()

    assert 'id="viewer"' not in page
    assert 'id="meshes"' in page


def test_test_scores_have_a_section_of_their_own(study):
    drawn = reference(0)
    test_scores = {
        model: bone_scores(drawn, drawn, case_id="test_1", configuration=model)
        for model in ("2d", "3d_fullres")
    }

    summary = written(study, test_scores=test_scores)

    assert summary.as_json()["test"]["cases"] == ["test_1"]
    assert 'id="test"' in (study / "out/index.html").read_text()


def test_one_model_alone_is_reported_without_a_comparison(study):
    summary = written(study, runs=models(study)[:1])

    assert summary.as_json()["results"] == []
    assert "2d was scored alone" in summary.as_text()
    assert 'id="viewer"' in (study / "out/index.html").read_text()
    assert (study / "out/comparison.csv").read_text().startswith("model,structure")


def test_cases_only_one_model_predicted_and_missed_structures_are_noted(study):
    (study / f"3d_fullres/fold_1/{CASES[1]}.nii.gz").unlink()
    drawn = reference(0)
    without = np.where(drawn.voxels == 1, 0, drawn.voxels).astype(np.uint8)
    write_labelmap(study / f"2d/fold_0/{CASES[0]}.nii.gz", drawn.with_voxels(without))

    notes = "\n".join(written(study).notes)

    assert f"{CASES[1]} (in 2d)" in notes
    assert "2d missed the structure tibia in 1 case." in notes


def test_fold_all_is_no_test_and_the_page_says_so(study):
    run = models(study)[0]
    all_cases = ModelRun("2d", "2d", (FoldRun("all", run.folds[0].validation_dir),))

    summary = written(study, runs=[all_cases, models(study)[1]])

    assert any("is no test" in note for note in summary.notes)


def test_a_model_without_predictions_is_named(study):
    empty = ModelRun("5d", "5d", (FoldRun("0", study / "nowhere"),))

    with pytest.raises(InputError, match="No validation prediction of 5d"):
        written(study, runs=[*models(study), empty])
    assert not (study / "out").exists()


def test_a_case_validated_by_two_folds_is_refused(study):
    twice = study / "2d/fold_1" / f"{CASES[0]}.nii.gz"
    write_labelmap(twice, reference(0))

    with pytest.raises(InputError, match=f"two scores .* {CASES[0]}"):
        written(study)


def test_progress_is_told_case_by_case(study):
    listener = Listener()

    written(study, progress=listener)

    assert ("compare", len(CASES)) in listener.heard
    assert (1, CASES[0]) in listener.heard


def test_a_view_is_written_and_described(study):
    out = study / "view.png"

    summary = write_view(
        study / f"imagesTr/{CASES[0]}_0000.nii.gz",
        study / f"labelsTr/{CASES[0]}.nii.gz",
        out,
        plane="coronal",
        slice_number=7,
        read_image=read_volume,
    )

    assert out.read_bytes().startswith(b"\x89PNG")
    assert summary.as_json() == {"file": str(out), "plane": "coronal", "slice": 7}
    assert summary.as_text().endswith("coronal slice 7")
    assert summary.exit_code == 0


def test_a_view_of_labels_that_lie_elsewhere_is_refused(study):
    drawn = reference(0)
    affine = np.array(drawn.grid.affine)
    affine[2, 3] = 40.0
    elsewhere = Labelmap(Grid(drawn.grid.shape, affine), drawn.voxels, TABLE)
    write_labelmap(study / "moved.nii.gz", elsewhere)

    with pytest.raises(GeometryError, match=r"40\.00 mm apart"):
        write_view(
            study / f"imagesTr/{CASES[0]}_0000.nii.gz",
            study / "moved.nii.gz",
            study / "view.png",
        )
