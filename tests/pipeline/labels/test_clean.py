"""Cleaning of folders: accounted for, and done once."""

import numpy as np
import pytest
from some_labelmaps import TABLE, labelmap, mtimes

from nnunet_bridge.core.cleaning import CleaningRule
from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.formats.nifti import read_labelmap, write_labelmap
from nnunet_bridge.ops.cleanup import clean_alike
from nnunet_bridge.pipeline.labels.clean import clean_labels
from nnunet_bridge.pipeline.labels.mesh import mesh_labels

HALF = CleaningRule("slice", ratio=0.5)
BY_VOLUME = CleaningRule("volume", min_volume_mm3=100.0)


def test_a_folder_is_cleaned_and_accounted_for(folders, tmp_path):
    predictions, _, _ = folders
    out = tmp_path / "clean"

    summary = clean_labels(predictions, out, rule=HALF)

    for case in summary.as_json()["cases"]:
        name = f"{case['case']}.nii.gz"
        table = LabelTable.from_names(["label_1", "label_2"])
        cleaned = clean_alike(read_labelmap(predictions / name, table), HALF)
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


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: file.write_bytes(b"damaged"), "msk_001: refused"),
        # Its first byte is an I/O error for everybody.
        (
            lambda file: file.unlink() or file.symlink_to("/proc/self/mem"),
            "Cannot read",
        ),
    ],
)
def test_a_labelmap_that_cannot_be_read_does_not_stop_the_others(
    folders, tmp_path, spoil, words
):
    spoil(folders[1] / "msk_001.nii.gz")

    summary = clean_labels(folders[1], tmp_path / "clean")

    assert summary.exit_code == 4
    assert words in summary.as_text()
    assert not (tmp_path / "clean" / "msk_001.nii.gz").exists()


def test_an_unreadable_record_only_costs_time(folders, tmp_path):
    clean_labels(folders[1], tmp_path / "clean")
    (tmp_path / "clean" / "clean.json").write_text("[]")

    assert clean_labels(folders[1], tmp_path / "clean").exit_code == 0


def test_a_result_never_replaces_its_input(folders, tmp_path):
    with pytest.raises(UsageError, match="replace its input"):
        clean_labels(folders[1], folders[1])
    with pytest.raises(UsageError, match="name a folder"):
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


def test_F04_a_file_that_clean_did_not_write_is_kept_and_named(folders, tmp_path):
    out = tmp_path / "clean"
    clean_labels(folders[1], out, rule=HALF)
    theirs, ours = out / "msk_000.nii.gz", out / "msk_001.nii.gz"
    found = read_labelmap(theirs, TABLE)
    write_labelmap(theirs, found.with_voxels(found.voxels[::-1].copy()))
    before = mtimes(out)

    summary = clean_labels(folders[1], out, rule=BY_VOLUME)

    refused = [case for case in summary.cases if str(case.outcome) == "refused"]
    assert [(case.case_id, case.codes) for case in refused] == [("msk_000", ("F04",))]
    assert mtimes(out)[theirs] == before[theirs]
    assert mtimes(out)[ours] != before[ours]
    assert summary.exit_code == 4
    clean_labels(folders[1], out, rule=BY_VOLUME)
    assert mtimes(out)[theirs] == before[theirs]
    clean_labels(folders[1], out, rule=BY_VOLUME, force=True)
    assert mtimes(out)[theirs] != before[theirs]
