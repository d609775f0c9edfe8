"""`image`: one series as NIfTI, judged as `convert` judges it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from dicom_base import base, each, expected, save

from nnunet_bridge.cli import main
from nnunet_bridge.formats.nifti import read_volume


def image(folder, out, *words):
    given = ["image", folder, "-o", out, "--json", "-q", *words]
    result = CliRunner().invoke(main, list(map(str, given)))
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def folder(tmp_path):
    save(base(), tmp_path / "scan")
    (tmp_path / "scan" / "notes.txt").write_text("scanned on a Monday")
    return tmp_path / "scan"


def test_a_series_becomes_a_file_in_its_place(folder, tmp_path):
    out = tmp_path / "scan.nii.gz"

    exit_code, summary = image(folder, out)

    volume = read_volume(out)
    assert exit_code == 0
    np.testing.assert_array_equal(volume.voxels, expected())
    np.testing.assert_allclose(volume.grid.affine[:3, 3], [-12, -12, -100])
    assert (summary["outcome"], summary["codes"]) == ("accepted", ["D14"])
    assert (summary["shape"], summary["spacing_mm"]) == ([32, 32, 12], [0.75, 0.75, 4])
    assert summary["files"] == {"found": 13, "used": 12, "excluded": 1, "failed": 0}
    assert summary["not_used"] == [{"name": "notes.txt", "reason": "not a DICOM file"}]
    assert summary["file"] == str(out)


def test_several_series_are_refused_with_a_table_and_the_option_that_picks_one(
    folder, tmp_path
):
    save(
        each(base(6, dz=6), SeriesNumber=7, SeriesDescription="FAT"),
        folder,
        prefix="other",
    )
    out = tmp_path / "scan.nii.gz"

    exit_code, summary = image(folder, out)

    assert exit_code == 3
    assert (summary["outcome"], summary["codes"]) == ("refused", ["D01", "D14"])
    assert "`--series`" in summary["messages"][0]
    lines = summary["messages"][0].split("\n")
    assert [line[:15] for line in lines[1:3]] == ["series 6 “WATER", "series 7 “FAT”:"]
    assert summary["shape"] is summary["file"] is None
    assert not out.exists()
    assert image(folder, out, "--series", "7")[1]["shape"] == [32, 32, 6]


def test_a_second_call_leaves_the_file_alone(folder, tmp_path):
    out = tmp_path / "scan.nii.gz"
    image(folder, out)
    before = out.stat().st_mtime_ns

    exit_code, summary = image(folder, out)

    assert (exit_code, summary["rewritten"]) == (0, False)
    assert out.stat().st_mtime_ns == before


def test_another_image_is_replaced_only_by_force(folder, tmp_path):
    out = tmp_path / "scan.nii.gz"
    image(folder, out)
    save(base(zs=range(0, 60, 5)), tmp_path / "second")

    exit_code, summary = image(tmp_path / "second", out)

    assert exit_code == 3
    assert "holds another image" in summary["error"]
    assert image(tmp_path / "second", out, "--force")[1]["rewritten"] is True
    assert read_volume(out).grid.spacing_mm[2] == pytest.approx(5)


def test_F05_a_file_inside_the_dicom_folder_is_refused(folder):
    exit_code, summary = image(folder, folder / "scan.nii.gz")

    assert (exit_code, summary["code"]) == (3, "F05")


def test_a_name_that_is_no_nifti_name_is_a_usage_error(folder, tmp_path):
    assert image(folder, tmp_path / "scan.mha")[0] == 2


def test_the_change_made_by_an_option_is_reported(tmp_path):
    save(base(shear=(0, 1, 0)), tmp_path / "sheared")
    out = tmp_path / "upright.nii.gz"

    refused = image(tmp_path / "sheared", out)
    exit_code, summary = image(tmp_path / "sheared", out, "--resample", "sheared")

    assert (refused[0], refused[1]["codes"]) == (3, ["G07"])
    assert (exit_code, summary["outcome"], summary["codes"]) == (0, "warned", ["G07"])
    assert summary["shape"] == [32, 47, 12]
    assert summary["interventions"]["resampled"]["widened_by"] == [0, 15]
