"""Scoring, cleaning and meshing of folders: complete, named, repeatable."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy import ndimage

from nnunet_bridge.core.cleaning import CleaningRule
from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.core.progress import Silent
from nnunet_bridge.formats.files import sha256_of
from nnunet_bridge.formats.nifti import read_labelmap, write_labelmap
from nnunet_bridge.formats.tables import read_scores, read_scores_json
from nnunet_bridge.ops.cleanup import clean_slices
from nnunet_bridge.ops.metrics import bone_scores
from nnunet_bridge.pipeline.labels import clean
from nnunet_bridge.pipeline.labels.clean import clean_labels
from nnunet_bridge.pipeline.labels.mesh import mesh_labels, write_meshes
from nnunet_bridge.pipeline.labels.score import score_folders

TABLE = LabelTable.from_names(["tibia", "femur"])
AFFINE = np.diag([0.8, 0.8, 3.0, 1.0])
HALF = CleaningRule("slice", ratio=0.5)
BY_VOLUME = CleaningRule("volume", min_volume_mm3=100.0)
DATA = Path(os.environ.get("NNUNET_BRIDGE_TEST_DATA", "../shared/data"))


def labelmap(seed=0, shape=(40, 36, 12), affine=AFFINE):
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), 3) for _ in range(3)]
    voxels = np.argmax(fields, axis=0).astype(np.uint8)
    return Labelmap(Grid(shape, affine), voxels, TABLE)


@pytest.fixture
def folders(tmp_path):
    """Return predictions and references of three cases, and their dataset.json."""
    predictions, references = tmp_path / "predictions", tmp_path / "labelsTs"
    for seed in range(3):
        reference = labelmap(seed)
        moved = reference.with_voxels(np.roll(reference.voxels, 1, axis=0))
        write_labelmap(predictions / f"msk_{seed:03d}.nii.gz", moved)
        write_labelmap(references / f"msk_{seed:03d}.nii.gz", reference)
    labels = {"background": 0, "tibia": 1, "femur": 2}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    return predictions, references, tmp_path / "scores"


def mtimes(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {file: file.stat().st_mtime_ns for file in files}


class Listener(Silent):
    """Remembers what it was told."""

    def __init__(self):
        self.told = []

    def stage(self, name, steps):
        self.told.append((name, steps))

    def advance(self, done, note=""):
        self.told.append((done, note))


# --- score ----------------------------------------------------------------------------


def test_every_pair_is_scored_and_written(folders):
    summary = score_folders(*folders, configuration="2d")
    table = read_scores(folders[2] / "scores.csv", configuration="2d")

    assert summary.exit_code == 0
    assert table == summary.scores == read_scores_json(folders[2] / "scores.json")
    assert [score.case_id for score in table[::2]] == ["msk_000", "msk_001", "msk_002"]
    assert {score.structure for score in table} == {"tibia", "femur"}
    expected = bone_scores(
        labelmap(1).with_voxels(np.roll(labelmap(1).voxels, 1, axis=0)),
        labelmap(1),
        case_id="msk_001",
        configuration="2d",
    )
    np.testing.assert_allclose(
        [score.assd_mm for score in table[2:4]], [score.assd_mm for score in expected]
    )


def test_means_go_over_the_cases_and_say_how_many(folders):
    summary = score_folders(*folders)
    content = json.loads((folders[2] / "scores.json").read_text())

    dice = [s.dice for s in summary.scores if s.structure == "tibia"]
    assert content == summary.as_json()
    assert content["mean"]["tibia"]["n"] == 3
    assert content["mean"]["tibia"]["dice"] == pytest.approx(np.mean(dice))
    for measure in ("iou", "hd_mm", "volume_error_abs_mm3", "volume_error_abs_percent"):
        values = [getattr(s, measure) for s in summary.scores if s.structure == "tibia"]
        assert content["mean"]["tibia"][measure] == pytest.approx(np.mean(values))
    assert content["tolerance_mm"] == 1.0
    assert "surface-distance" in content["definition"]


def test_N09_absent_structures_are_counted_and_not_averaged(folders):
    predictions, references, out = folders
    empty = labelmap().with_voxels(np.zeros((40, 36, 12), np.uint8))
    only_tibia = empty.with_voxels((labelmap().voxels == 1).astype(np.uint8))
    write_labelmap(predictions / "msk_000.nii.gz", empty)
    write_labelmap(references / "msk_000.nii.gz", only_tibia)

    mean = score_folders(predictions, references, out).as_json()["mean"]

    assert (mean["tibia"]["missed"], mean["tibia"]["n"]) == (1, 3)
    assert mean["tibia"]["n_surface"] == 2
    assert (mean["femur"]["both_empty"], mean["femur"]["n"]) == (1, 2)


def test_cases_without_a_partner_are_named(folders):
    predictions, references, out = folders
    (predictions / "msk_000.nii.gz").unlink()
    (references / "msk_002.nii.gz").unlink()

    summary = score_folders(predictions, references, out)

    assert summary.as_json()["without_prediction"] == ["msk_000"]
    assert summary.as_json()["without_reference"] == ["msk_002"]
    assert "No prediction for: msk_000." in summary.as_text()
    assert "No reference for: msk_002." in summary.as_text()
    assert summary.exit_code == 0


def test_no_pair_at_all_is_an_error_that_names_both_sides(folders):
    predictions, references, out = folders
    for file in predictions.iterdir():
        file.rename(file.with_name(f"other_{file.name}"))

    with pytest.raises(InputError, match=r"other_msk_000.*msk_000"):
        score_folders(predictions, references, out)


def test_a_damaged_file_refuses_its_case_only(folders):
    damaged = folders[0] / "msk_001.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-40])

    summary = score_folders(*folders)

    assert summary.exit_code == 4
    case = summary.as_json()["cases"][1]
    assert (case["outcome"], case["codes"], case["structures"]) == (
        "refused",
        ["K19"],
        [],
    )
    assert "msk_001: refused. [K19]" in summary.as_text()
    assert len(read_scores(folders[2] / "scores.csv")) == 4


def test_M02_a_prediction_on_another_grid_refuses_its_case(folders):
    moved = AFFINE.copy()
    moved[2, 3] = 50.0
    for seed in range(3):
        write_labelmap(folders[0] / f"msk_{seed:03d}.nii.gz", labelmap(affine=moved))

    summary = score_folders(*folders)

    assert summary.exit_code == 3
    assert {code for c in summary.as_json()["cases"] for code in c["codes"]} == {"M02"}
    assert "50.000 mm" in summary.as_text()


def test_folders_as_predict_writes_them_are_understood(folders):
    predictions, references, out = folders
    for file in list(predictions.iterdir()):
        folder = predictions / file.name.removesuffix(".nii.gz")
        folder.mkdir()
        file.rename(folder / "labels.nii.gz")

    assert len(score_folders(predictions, references, out).cases) == 3


def test_without_a_table_the_labels_are_numbered(folders):
    (folders[1].parent / "dataset.json").unlink()

    summary = score_folders(*folders)

    assert set(summary.as_json()["mean"]) == {"label_1", "label_2"}


def test_a_value_beyond_the_table_refuses_the_case(folders):
    labels = folders[1].parent / "one.json"
    labels.write_text(json.dumps({"labels": {"background": 0, "tibia": 1}}))

    assert score_folders(*folders, labels=labels).exit_code == 3


def test_the_text_is_a_table_with_a_line_per_structure(folders):
    header, tibia, femur = (
        score_folders(*folders, tolerance_mm=2).as_text().splitlines()
    )

    assert header.split()[:3] == ["structure", "n", "dice"]
    assert "nsd (2 mm)" in header
    assert tibia.split()[:2] == ["tibia", "3"]
    assert femur.startswith("femur")


def test_scoring_again_leaves_the_files_alone(folders):
    score_folders(*folders)
    before = mtimes(folders[2])

    score_folders(*folders)

    assert mtimes(folders[2]) == before


def test_progress_is_told_case_by_case(folders):
    listener = Listener()

    score_folders(*folders, progress=listener)

    assert listener.told[0] == ("score", 3)
    assert listener.told[-1] == (3, "msk_002")


def test_labels_are_unknown_where_no_file_can_be_read(folders):
    (folders[1].parent / "dataset.json").unlink()
    for file in [*folders[0].iterdir(), *folders[1].iterdir()]:
        file.write_bytes(b"damaged")

    with pytest.raises(InputError, match="No label file can be read"):
        score_folders(*folders)


def test_two_files_of_one_case_are_refused(folders):
    write_labelmap(folders[0] / "msk_000.nii", labelmap())

    with pytest.raises(InputError, match="both of case msk_000"):
        score_folders(*folders)


@pytest.mark.parametrize("name", ["nothing", "dataset.json", "empty"])
def test_a_path_without_label_files_is_refused(folders, name):
    (folders[1].parent / "empty").mkdir()

    with pytest.raises(InputError):
        score_folders(folders[1].parent / name, folders[1], folders[2])


def test_real_labels_against_themselves_are_perfect(tmp_path):
    references = DATA / "train/spine_vb_2mm/labelsTs"
    if not references.is_dir():
        pytest.skip("NNUNET_BRIDGE_TEST_DATA names no folder with real labels")

    summary = score_folders(references, references, tmp_path)

    assert summary.exit_code == 0
    assert {mean.dice for mean in summary.mean} == {1.0}
    assert {mean.hd95_mm for mean in summary.mean} == {0.0}


# --- clean ----------------------------------------------------------------------------


def test_a_folder_is_cleaned_and_accounted_for(folders, tmp_path):
    predictions, _, _ = folders
    out = tmp_path / "clean"

    summary = clean_labels(predictions, out, rule=HALF)

    for case in summary.as_json()["cases"]:
        name = f"{case['case']}.nii.gz"
        table = LabelTable.from_names(["label_1", "label_2"])
        cleaned = clean_slices(read_labelmap(predictions / name, table), ratio=0.5)
        written = read_labelmap(out / name, table)
        np.testing.assert_array_equal(written.voxels, cleaned.labelmap.voxels)
        for structure, change in case["structures"].items():
            assert change["removed_mm3"] == cleaned.removed_mm3[structure]
            assert change["filled_mm3"] == cleaned.filled_mm3[structure]
    assert summary.exit_code == 0
    assert "removed (mm3)" in summary.as_text()


def test_the_names_of_the_labels_go_with_the_files(folders, tmp_path):
    clean_labels(folders[1], tmp_path / "clean")

    summary = mesh_labels(tmp_path / "clean", tmp_path / "meshes")

    assert set(summary.as_json()["cases"][0]["structures"]) == {"tibia", "femur"}


def test_cleaning_again_rewrites_nothing_and_reports_the_same(folders, tmp_path):
    first = clean_labels(folders[1], tmp_path / "clean", rule=HALF)
    before = mtimes(tmp_path / "clean")

    second = clean_labels(folders[1], tmp_path / "clean", rule=HALF)

    assert mtimes(tmp_path / "clean") == before
    assert second.as_json() == first.as_json()


def test_another_rule_or_a_changed_result_is_cleaned_anew(folders, tmp_path):
    out = tmp_path / "clean"
    clean_labels(folders[1], out, rule=HALF)
    before = mtimes(out)
    clean_labels(folders[1], out, rule=BY_VOLUME)
    after = mtimes(out)
    (out / "msk_000.nii.gz").write_bytes(b"")

    clean_labels(folders[1], out, rule=BY_VOLUME)

    assert all(after[file] != before[file] for file in out.glob("*.nii.gz"))
    assert mtimes(out)[out / "msk_001.nii.gz"] == after[out / "msk_001.nii.gz"]
    assert read_labelmap(out / "msk_000.nii.gz", TABLE).voxels.any()


def test_force_cleans_anew(folders, tmp_path):
    clean_labels(folders[1], tmp_path / "clean")
    before = mtimes(tmp_path / "clean")

    clean_labels(folders[1], tmp_path / "clean", force=True)

    assert mtimes(tmp_path / "clean") != before


def test_one_file_is_cleaned_into_a_file_or_a_folder(folders, tmp_path):
    file = folders[1] / "msk_000.nii.gz"

    clean_labels(file, tmp_path / "a" / "clean.nii.gz")
    clean_labels(file, tmp_path / "b")

    assert (tmp_path / "a" / "clean.nii.gz").is_file()
    assert (tmp_path / "b" / "msk_000.nii.gz").is_file()


def test_a_damaged_labelmap_does_not_stop_the_others(folders, tmp_path):
    (folders[1] / "msk_001.nii.gz").write_bytes(b"damaged")

    summary = clean_labels(folders[1], tmp_path / "clean")

    assert summary.exit_code == 4
    assert "msk_001: refused" in summary.as_text()
    assert not (tmp_path / "clean" / "msk_001.nii.gz").exists()


def test_a_labelmap_that_may_not_be_read_does_not_stop_the_others(
    folders, tmp_path, monkeypatch
):
    def denied(file):
        if file.name == "msk_001.nii.gz":
            raise PermissionError(13, "Permission denied", str(file))
        return sha256_of(file)

    monkeypatch.setattr(clean, "sha256_of", denied)

    summary = clean_labels(folders[1], tmp_path / "clean")

    assert summary.exit_code == 4
    assert "Permission denied" in summary.as_text()


def test_an_unreadable_record_only_costs_time(folders, tmp_path):
    clean_labels(folders[1], tmp_path / "clean")
    (tmp_path / "clean" / "clean.json").write_text("[]")

    assert clean_labels(folders[1], tmp_path / "clean").exit_code == 0


def test_a_result_never_replaces_its_input(folders, tmp_path):
    with pytest.raises(UsageError, match="replaced by its own result"):
        clean_labels(folders[1], folders[1])
    with pytest.raises(UsageError, match="must be one"):
        clean_labels(folders[1], tmp_path / "x.nii.gz")


def test_only_the_largest_pieces_are_kept_where_that_is_asked_for(folders, tmp_path):
    predictions = folders[0]
    voxels = np.zeros((40, 36, 12), np.uint8)
    voxels[2:12, 2:12, 2:10] = 1
    voxels[20:28, 2:12, 2:10] = 1
    voxels[32:38, 2:12, 2:10] = 1
    write_labelmap(predictions / "msk_000.nii.gz", labelmap().with_voxels(voxels))

    summary = clean_labels(
        predictions / "msk_000.nii.gz",
        tmp_path / "clean",
        rule=CleaningRule("volume", min_volume_mm3=0.0, keep_largest=2),
    )

    content = summary.as_json()
    assert content["keep_largest"] == 2
    removed = content["cases"][0]["structures"]["label_1"]["removed_mm3"]
    assert removed == pytest.approx(6 * 10 * 8 * 0.8 * 0.8 * 3.0)


# --- mesh -----------------------------------------------------------------------------


def test_a_file_becomes_a_mesh_per_structure_and_one_of_all(folders, tmp_path):
    summary = mesh_labels(folders[1] / "msk_000.nii.gz", tmp_path / "m", frame="RAS")

    structures = summary.as_json()["structures"]
    volumes = labelmap(0).volumes_mm3()
    for name in TABLE.names:
        body = trimesh.load_mesh(tmp_path / "m" / f"{name}.ply", process=False)
        assert structures[name]["vertices"] == len(body.vertices)
        assert structures[name]["faces"] == len(body.faces)
        assert structures[name]["volume_mesh_mm3"] == pytest.approx(
            body.volume, rel=1e-4
        )
        assert structures[name]["volume_voxels_mm3"] == pytest.approx(volumes[name])
        assert structures[name]["touches_border"]
    assert (tmp_path / "m" / "all.ply").is_file()
    assert summary.as_json()["frame"] == "RAS"
    assert "tibia" in summary.as_text()


def test_a_folder_becomes_a_folder_per_case(folders, tmp_path):
    mesh_labels(folders[1], tmp_path / "m", file_format="stl")

    assert {p.name for p in (tmp_path / "m").iterdir()} == {
        "msk_000",
        "msk_001",
        "msk_002",
    }
    assert (tmp_path / "m" / "msk_001" / "femur.stl").is_file()


def test_M03_an_absent_structure_is_empty_and_no_error(folders, tmp_path):
    only_tibia = labelmap().with_voxels((labelmap().voxels == 1).astype(np.uint8))
    write_labelmap(folders[1] / "msk_000.nii.gz", only_tibia)

    summary = mesh_labels(folders[1] / "msk_000.nii.gz", tmp_path / "m")

    assert summary.exit_code == 0
    assert summary.as_json()["structures"]["femur"]["state"] == "empty"
    assert not (tmp_path / "m" / "femur.ply").exists()


def test_M08_smoothing_that_shrinks_too_much_is_refused_unless_forced(tmp_path):
    voxels = np.zeros((20, 20, 12), np.uint8)
    voxels[5:7, 5:7, 1:11] = 1
    thin = labelmap(shape=(20, 20, 12)).with_voxels(voxels)

    refused, _ = write_meshes(thin, tmp_path / "a", smooth=60)
    forced, _ = write_meshes(thin, tmp_path / "b", smooth=60, force=True)

    assert (refused.state, refused.file) == ("refused", None)
    assert refused.findings[0].code == "M08"
    assert not (tmp_path / "a").exists()
    assert forced.file == tmp_path / "b" / "tibia.ply"


def test_M08_a_refused_mesh_is_part_of_the_outcome(tmp_path):
    voxels = np.zeros((20, 20, 12), np.uint8)
    voxels[5:7, 5:7, 1:11] = 1
    thin = labelmap(shape=(20, 20, 12)).with_voxels(voxels)
    write_labelmap(tmp_path / "thin.nii.gz", thin)

    summary = mesh_labels(tmp_path / "thin.nii.gz", tmp_path / "m", smooth=60)

    assert summary.exit_code == 3
    assert summary.as_json()["cases"][0]["codes"] == ["M08"]


def test_M06_a_thin_structure_is_warned_about(tmp_path):
    voxels = np.zeros((60, 60, 3), np.uint8)
    voxels[2:58:2, 2:58] = 1
    plates = Labelmap(Grid(voxels.shape, AFFINE), voxels, TABLE)

    tibia, _ = write_meshes(plates, tmp_path)

    assert [finding.code for finding in tibia.findings] == ["M06"]
    assert tibia.state == "written"


def test_files_can_be_called_as_opensim_calls_bones(tmp_path):
    sides = LabelTable.from_names(["femur_left", "femur_right"])
    both = Labelmap(labelmap().grid, labelmap().voxels, sides)
    write_labelmap(tmp_path / "labels.nii.gz", both)
    content = {"labels": {"background": 0, "femur_left": 1, "femur_right": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))

    summary = mesh_labels(
        tmp_path / "labels.nii.gz", tmp_path / "m", names="opensim", file_format="stl"
    )

    assert {file.name for file in (tmp_path / "m").iterdir()} == {
        "femur_l.stl",
        "femur_r.stl",
        "all.stl",
    }
    structures = summary.as_json()["structures"]
    assert structures["femur_left"]["file"].endswith("femur_l.stl")


@pytest.mark.parametrize(
    "options",
    [{"frame": "XYZ"}, {"file_format": "vtk"}, {"smooth": -1}, {"names": "stapl"}],
)
def test_options_without_sense_are_refused(folders, tmp_path, options):
    with pytest.raises(UsageError):
        mesh_labels(folders[1], tmp_path / "m", **options)
