"""From predictions on disk to a report, on cases made here."""

import csv
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from nnunet_bridge.core.errors import GeometryError, InputError, UsageError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.nifti import read_volume, write_labelmap, write_volume
from nnunet_bridge.ops.metrics import bone_scores
from nnunet_bridge.pipeline.comparison.report import ReportOptions, write_comparison
from nnunet_bridge.pipeline.labels.view import ViewOptions, write_view
from nnunet_bridge.pipeline.models.run_facts import FoldRun, ModelRun, costs_of
from nnunet_bridge.pipeline.models.validation import ValidatedStudy

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
    return study_in(tmp_path)


def study_in(tmp_path):
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


def written(
    study, *, runs=None, patients=PATIENTS, images="nowhere", progress=None, **changes
):
    """Write a comparison; without images, whose pictures take most of the time."""
    places = study / "labelsTr", study / images
    validated = ValidatedStudy(tuple(runs or models(study)), *places, TABLE)
    options = ReportOptions("2D or 3D?", **changes)
    return write_comparison(
        study / "out", validated, patients, options, progress=progress
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A whole report with pictures, for the tests that only read it."""
    study, progress = study_in(tmp_path_factory.mktemp("report")), Listener()
    options = {"margins": {"dice": 0.01}, "latex": True, "progress": progress}
    summary = written(study, images="imagesTr", **options)
    page = (study / "out/index.html").read_text()
    return SimpleNamespace(study=study, summary=summary, page=page, progress=progress)


def test_the_report_has_a_page_a_table_and_json(report):
    names = sorted(file.name for file in (report.study / "out").iterdir())

    tables = ["comparison.csv", "comparison.json", "comparison.tex"]
    assert names == [*tables, "index.html"]
    assert report.summary.exit_code == 0
    size = (report.study / "out/index.html").stat().st_size
    assert report.summary.page_bytes == size


def test_the_json_has_every_figure_of_every_metric_and_structure(report):
    summary = report.summary
    found = json.loads((report.study / "out/comparison.json").read_text())

    keys = {"median_difference", "interval_95", "p", "p_holm", "effect", "n"}
    assert all(keys <= set(row) for row in found["results"])
    assert len(found["results"]) == 5 * 3
    assert found["results"] == json.loads(json.dumps(summary.as_json()))["results"]
    assert len(found["scores"]) == 2 * 2 * len(CASES)
    assert found["verdict"]["winner"] is None  # two folds say little of other trainings
    opening = "3d_fullres is better for these 2 trainings each"
    assert found["verdict"]["sentences"][0].startswith(opening)


def test_R11_the_files_hold_no_path_of_this_machine(report):
    study, summary = report.study, report.summary

    for file in (study / "out").iterdir():
        assert str(study).encode() not in file.read_bytes(), file.name
    found = json.loads((study / "out/comparison.json").read_text())
    assert found["report"] == "index.html"
    assert summary.as_json()["report"] == str(study / "out" / "index.html")


def table_of(study, kind):
    """Return the rows of one kind of comparison.csv, and the JSON beside it."""
    text = (study / "out/comparison.csv").read_text()
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["kind"] == kind]
    return rows, json.loads((study / "out/comparison.json").read_text())


def cell(value):
    return "" if value is None else str(value)


def test_the_differences_of_the_csv_are_those_of_the_json(report):
    rows, found = table_of(report.study, "difference")

    assert len(rows) == len(found["results"])
    for row, result in zip(rows, found["results"], strict=True):
        same = set(row) & set(result) - {"left_out", "kind"}
        assert {"median_difference", "mean_difference", "p", "p_holm", "answer"} < same
        assert {key: row[key] for key in same} == {
            key: cell(result[key]) for key in same
        }
        low, high = result["interval_95"] or ("", "")
        assert (row["interval_95_low"], row["interval_95_high"]) == (
            cell(low),
            cell(high),
        )


@pytest.mark.parametrize(
    ("kind", "key", "model", "value"),
    [("mean", "means", "model", "mean"), ("agreement", "agreement", "model",
      "bias_cm3"), ("rank", "ranks", "model", "mean_rank")],
)  # fmt: skip
def test_means_agreement_and_ranks_of_the_csv_are_those_of_the_json(
    report, kind, key, model, value
):
    rows, found = table_of(report.study, kind)

    assert rows
    assert [(row["first"], row["value"]) for row in rows] == [
        (one[model], cell(one[value])) for one in found[key]
    ]


def test_scores_costs_settings_and_curves_of_the_csv_are_those_of_the_json(report):
    study = report.study
    scores, found = table_of(study, "score")
    dice = [row for row in scores if row["metric"] == "dice"]

    assert [(row["case"], row["value"]) for row in dice] == [
        (one["case"], cell(one["dice"])) for one in found["scores"]
    ]
    costs = {(r["first"], r["metric"]): r["value"] for r in table_of(study, "cost")[0]}
    assert costs["2d", "training_s"] == cell(found["costs"][0]["training_s"]) == "180.0"
    settings = {r["metric"]: r["value"] for r in table_of(study, "setting")[0]}
    assert settings["architecture"] == found["settings"]["architecture"]["2d"]
    curves = [r for r in table_of(study, "curve")[0] if r["metric"] == "pseudo_iou"]
    assert [float(r["value"]) for r in curves[:2]] == found["curves"][0]["pseudo_iou"]


def test_every_number_of_the_pages_tables_is_in_the_csv(report):
    """Rounded as the page rounds them; the drawings show the cases of the scores."""
    text = (report.study / "out/comparison.csv").read_text()
    known = {
        f"{float(value):z.{digits}f}"
        for value in re.split(r"[,\n ]", text)
        if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", value)
        for digits in range(5)
    }
    tables = re.findall(r'<table class="scores">.*?</table>', report.page, re.DOTALL)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", " ".join(tables), re.DOTALL)
    words = re.sub(r"<svg.*?</svg>|<[^>]+>", " ", " ".join(cells), flags=re.DOTALL)
    shown = re.findall(r"(?<![\w.])[+\u2212]?\d+\.\d+", words)

    missing = {
        number
        for number in shown
        if number.replace("\u2212", "-").removeprefix("+") not in known
    }

    assert len(shown) > 100
    assert missing == set()


def test_the_iou_of_a_curve_is_that_of_each_structures_dice(report):
    (curve, *_) = table_of(report.study, "curve")[1]["curves"]

    assert curve["pseudo_dice"][0] == pytest.approx(0.55)
    assert curve["pseudo_iou"][0] == pytest.approx((0.5 / 1.5 + 0.6 / 1.4) / 2)


def test_prediction_is_timed_from_the_validation_to_the_end(study):
    run = models(study, folds=(0,))[0]
    file = run.folds[0].events_file
    lines = [
        {"event": "start", "time": 1.0, "validation_cases": 3},
        {"event": "validation", "time": 100.0},
        {"event": "end", "time": 112.0, "seconds": 111.0},
    ]
    file.write_text("\n".join(json.dumps(line) for line in lines))

    (cost,) = costs_of([run])

    assert cost.prediction_s_per_case == pytest.approx(4.0)


def test_a_named_margin_is_answered_on_the_page_in_words_and_in_json(study):
    summary = written(study, margins={"dice": 0.5})
    page = (study / "out/index.html").read_text()

    assert summary.as_json()["verdict"]["answer"] == "equivalent"
    assert "are equivalent within 0.5" in page
    assert "two one-sided tests" in page
    written(study)
    assert "two one-sided tests" not in (study / "out/index.html").read_text()


def test_the_latex_table_is_written_on_request_and_has_every_row(report):
    text = (report.study / "out/comparison.tex").read_text()
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    cells = [line for line in rows if r"\multicolumn" not in line]
    assert len(cells) == 1 + len(report.summary.comparison.rows)
    assert {line.count(" & ") for line in cells} == {9}
    assert r"3d\_fullres" in text
    assert r"\textbf" not in text
    assert text.count("{") == text.count("}")
    assert r"\begin{tabular}{lrrrrrrrrl}" in text


def test_the_scores_are_those_of_the_metrics(report):
    found = json.loads((report.study / "out/comparison.json").read_text())["scores"]
    drawn = reference(0)
    rolled = drawn.with_voxels(np.roll(drawn.voxels, 2, axis=0))

    expected = bone_scores(rolled, drawn, case_id=CASES[0], configuration="2d")

    got = [s for s in found if s["case"] == CASES[0] and s["model"] == "2d"]
    assert [s["dice"] for s in got] == [s.dice for s in expected]
    assert [s["hd95_mm"] for s in got] == [s.hd95_mm for s in expected]


def test_the_page_shows_settings_costs_versions_and_both_cases(report):
    for words in ("PlainConvUNet", "8 \u00d7 8", "3 min 0 s, 2 folds", "1.1 GB",
                  "1.0 million", "nnunetv2 version", "plans sha256", "worst case",
                  "median case", "Pseudo-Dice", "derived IoU", "Bland and Altman",
                  "Cost and quality", "HD95 (mm), all structures"):  # fmt: skip
        assert words in report.page
    assert ">state<" not in report.page


def test_a_smoke_run_names_no_winner_and_wears_a_banner(study):
    summary = written(study, budget="smoke", latex=True)

    table = (study / "out/comparison.tex").read_text()
    assert r"\caption{\textbf{This smoke test checks the pipeline" in table
    assert summary.verdict.winner == ""
    assert "No verdict: this smoke test" in summary.as_text()
    assert (
        "This smoke test checks the pipeline" in (study / "out/index.html").read_text()
    )


def test_without_images_the_page_has_surfaces_but_no_slices(study):
    written(study)
    page = (study / "out/index.html").read_text()

    assert not (study / "out/comparison.tex").exists()
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
    summary = written(study, runs=models(study)[:1], images="imagesTr")

    assert summary.as_json()["results"] == []
    assert "2d was scored alone" in summary.as_text()
    assert 'id="viewer"' in (study / "out/index.html").read_text()
    assert table_of(study, "mean")[0][0]["structure"] == "tibia"
    assert table_of(study, "difference")[0] == []


def test_cases_only_one_model_predicted_and_missed_structures_are_noted(study):
    (study / f"3d_fullres/fold_1/{CASES[1]}.nii.gz").unlink()
    drawn = reference(0)
    without = np.where(drawn.voxels == 1, 0, drawn.voxels).astype(np.uint8)
    write_labelmap(study / f"2d/fold_0/{CASES[0]}.nii.gz", drawn.with_voxels(without))

    notes = "\n".join(written(study).notes)

    assert f"{CASES[1]} (only in 2d)" in notes
    assert "2d missed tibia in 1 case." in notes


def test_fold_all_is_no_test_and_the_page_says_so(study):
    run = models(study)[0]
    all_cases = ModelRun("2d", "2d", (FoldRun("all", run.folds[0].validation_dir),))

    summary = written(study, runs=[all_cases, models(study)[1]])

    assert any("scores are not valid" in note for note in summary.notes)


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


def test_progress_is_reported_case_by_case(report):
    assert ("compare", len(CASES)) in report.progress.heard
    assert (1, CASES[0]) in report.progress.heard


def test_a_view_is_written_and_described(study):
    out = study / "view.png"

    summary = write_view(
        study / f"imagesTr/{CASES[0]}_0000.nii.gz",
        study / f"labelsTr/{CASES[0]}.nii.gz",
        out,
        ViewOptions("coronal", slice_number=7),
        read_image=read_volume,
    )

    assert out.read_bytes().startswith(b"\x89PNG")
    assert summary.as_json() == {
        "file": str(out),
        "plane": "coronal",
        "slice": 7,
        "slices": [7],
    }
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


def test_every_nth_slice_is_drawn_on_one_sheet_and_listed(study):
    out = study / "sheet.png"

    summary = write_view(
        study / f"imagesTr/{CASES[0]}_0000.nii.gz",
        study / f"labelsTr/{CASES[0]}.nii.gz",
        out,
        ViewOptions(every=5),
    )

    assert out.read_bytes().startswith(b"\x89PNG")
    assert summary.as_json()["slices"] == [15, 10, 5, 0]
    assert summary.as_text().endswith("4 axial slices, 15 to 0")


def test_one_slice_and_every_nth_are_not_asked_for_together():
    with pytest.raises(UsageError, match=r"one slice .* or every n-th"):
        ViewOptions(slice_number=1, every=2)


@pytest.mark.parametrize(
    ("names", "said"), [(["tibia", "femur"], False), (["hip_left", "hip_right"], True)]
)
def test_the_page_says_that_2d_is_not_mirrored_where_sides_are_kept_apart(
    study, names, said
):
    places = study / "labelsTr", study / "nowhere"
    sided = ValidatedStudy(tuple(models(study)), *places, LabelTable.from_names(names))

    found = write_comparison(study / "out", sided, PATIENTS, ReportOptions("x"))

    assert any("2d is never mirrored" in note for note in found.notes) is said


def cases_of_page(text):
    return json.loads(re.search(r'id="cases">(.*?)</script>', text)[1])


def test_every_case_is_on_the_page_the_worst_first_below_its_limit(report):
    found = cases_of_page(report.page)
    means = [np.mean([float(dice) for _, dice in case["dice"]]) for case in found]
    assert {case["id"] for case in found} == set(CASES)
    assert means == sorted(means)
    assert [case["reason"] for case in found][::3] == ["worst case", "median case"]
    assert all(plane["picture"] for case in found for plane in case["planes"])


def test_the_slider_stands_where_the_models_differ_most(study):
    """The models of the first case differ in one slice alone."""
    drawn = reference(0)
    for model in ("2d", "3d_fullres"):
        other = drawn.voxels.copy()
        other[3:6, 4:8, 11] = 0 if model == "2d" else 1
        other[3:11, 4:8, 3:5] = 0
        write_labelmap(
            study / model / "fold_0" / f"{CASES[0]}.nii.gz", drawn.with_voxels(other)
        )
    written(study, images="imagesTr")

    found = cases_of_page((study / "out/index.html").read_text())
    (case,) = (case for case in found if case["id"] == CASES[0])
    axial = next(plane for plane in case["planes"] if plane["plane"] == "axial")
    assert axial["indices"][axial["start"]] == 11


def test_a_case_names_the_structures_that_a_model_missed_or_invented(study):
    drawn = reference(1)
    without = np.where(drawn.voxels == 2, 0, drawn.voxels)
    file = study / "2d" / "fold_1" / f"{CASES[1]}.nii.gz"
    write_labelmap(file, drawn.with_voxels(without))
    written(study)

    found = cases_of_page((study / "out/index.html").read_text())
    failures = {case["id"]: case["failures"] for case in found}
    assert failures.pop(CASES[1]) == ["2d missed femur"]
    assert not any(failures.values())
