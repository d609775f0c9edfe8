"""Bad input, as the user of the command meets it: one sentence, the right exit code."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_study import MASKS, SCANS, patient

from nnunet_bridge.cli import main

RECIPE = """
[dataset]
id = 1
name = "Tibia"
case = "msk_{index:03d}"
[scans]
folder = "Raw DICOM MRI Scans"
[masks]
folder = "masks"
[labels]
tibia = 1
femur = 2
"""


@pytest.fixture
def study(tmp_path):
    root = tmp_path / "study"
    patient(root, 1, "1A")
    patient(root, 2, "2B")
    (tmp_path / "dataset.toml").write_text(RECIPE)
    (tmp_path / "work").mkdir()
    return root


def convert(study, *words, work=None):
    recipe = study.parent / "dataset.toml"
    command = ["convert", str(study), "-r", str(recipe), "--json"]
    return CliRunner().invoke(
        main, [*command, "-w", str(work or study.parent / "work"), *words]
    )


def refused(result, case="msk_001"):
    """Return the report of the refused case, after checking that it is the only one."""
    assert result.exit_code == 4
    cases = {report["case"]: report for report in json.loads(result.stdout)["cases"]}
    assert cases.pop(case)["outcome"] == "refused"
    assert [report["outcome"] for report in cases.values()] == ["accepted"]
    return next(r for r in json.loads(result.stdout)["cases"] if r["case"] == case)


def written(study):
    work = study.parent / "work"
    return sorted(str(f.relative_to(work)) for f in work.rglob("*.nii*"))


def test_G03_a_missing_slice_is_refused_and_its_neighbours_are_named(study):
    files = sorted((study / SCANS / "1_AutoBindWATER_650_1A").iterdir())
    files[5].unlink()

    report = refused(convert(study))

    assert report["codes"] == ["G03"]
    (message,) = report["messages"]
    assert "8.00 mm apart" in message
    assert "missing" in message
    assert not any("msk_001" in name for name in written(study))
    assert any("msk_002" in name for name in written(study))


def test_a_study_without_a_good_case_exits_3_and_leaves_nothing(study):
    for code in ("1_tibia_1A", "2_tibia_2B"):
        file = study / MASKS / f"{code}.nii.gz"
        file.write_bytes(file.read_bytes()[:100])

    result = convert(study)

    assert result.exit_code == 3
    assert written(study) == []
    assert not (study.parent / "work" / "nnUNet_raw").exists()


@pytest.mark.parametrize("kind", ["a file in the way", "not writable"])
def test_a_workspace_that_cannot_be_used_exits_5(study, kind):
    work = study.parent / "work"
    if kind == "a file in the way":
        (work / "nnUNet_raw").write_text("")
    else:
        work = Path("/proc")
        if not work.is_dir():
            pytest.skip("needs /proc, a folder that not even root can write")

    result = convert(study, work=work)

    assert result.exit_code == 5
    error = json.loads(result.stdout)["error"]
    assert str(work) in error
    assert len(error.splitlines()) == 1
    assert result.stderr == f"Error: {error}\n" or error in result.stderr
    assert "Traceback" not in result.stderr


def test_every_mistake_in_a_recipe_is_told_at_once(study):
    bad = RECIPE.replace("id = 1", "id = 1000").replace("femur = 2", "femur = 3")
    (study.parent / "dataset.toml").write_text(bad + "[merge]\nsides = 'both'\n")

    result = convert(study)

    assert result.exit_code == 3
    error = json.loads(result.stdout)["error"]
    for word in ("dataset.id", "labels", "merge.sides"):
        assert word in error


def test_a_recipe_that_is_not_there_names_those_that_ship(study):
    (study.parent / "dataset.toml").unlink()

    result = convert(study)

    assert result.exit_code in (2, 3)
    assert "hippocampus" in result.stderr
