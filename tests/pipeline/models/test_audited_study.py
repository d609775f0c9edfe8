"""An audit from the ranking to the corrected mask, with a study on the disk."""

import json
import shutil

import nibabel
import nrrd
import numpy as np
import pytest
from command import bridge
from small_study import LAB, MASKS, box, draw
from tiny_model import HARMLESS, write_model

from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace

CASE, STRUCTURE = "msk_003", "tibia"


@pytest.fixture
def damaged(planned_lab, tmp_path):
    """Return a study with one tibia drawn beside its bone, and a finished fold."""
    shutil.copytree(planned_lab, tmp_path, dirs_exist_ok=True)
    work = Workspace.at(tmp_path / "work", environment={})
    run = method_of("nnunet", "smoke").run(Dataset(work, LAB), "2d", 0)
    validation = write_model(run, HARMLESS) / "validation"
    for file in (work.raw_dir / LAB / "labelsTr").iterdir():
        shutil.copy(file, validation)
    draw(tmp_path / "study", "3_tibia_3A", box(slice(8, 16), slice(8, 20)))
    convert(tmp_path)
    return tmp_path


def convert(folder):
    study = folder / "study"
    words = "convert", study, "-r", study / "dataset.toml", "-w", folder / "work"
    return json.loads(bridge(*words, "--json").stdout)


def audit(folder, *words, check=True):
    command = "audit", "1", "-o", folder / "out", "-w", folder / "work", "--json"
    result = bridge(*command, *words, check=check)
    return json.loads(result.stdout), result.exit_code


def labels(folder, case=CASE):
    file = folder / "work" / "nnUNet_raw" / LAB / "labelsTr" / f"{case}.nii.gz"
    return np.asarray(nibabel.load(file).dataobj)


def first(content):
    return content["masks"][0]["case"], content["masks"][0]["structure"]


def test_a_corrected_file_put_into_the_study_is_converted_and_the_page_says_so(damaged):
    whole = labels(damaged, CASE).copy()
    content, _ = audit(damaged)
    voxels, header = nrrd.read(str(damaged / "out" / f"{CASE}.seg.nrrd"))

    assert first(content) == (CASE, STRUCTURE)
    assert content["masks"][0]["reasons"]
    assert content["model"] == "2d"
    assert [header[f"Segment{n}_Name"] for n in range(4)] == [
        *("tibia", "femur"),
        *("audit prediction: tibia", "audit prediction: femur"),
    ]
    np.testing.assert_array_equal(voxels[0] == 1, whole == 1)

    # In 3D Slicer: the tibia becomes what was predicted.
    voxels[0] = np.where(voxels[1] == 1, 1, np.where(voxels[0] == 1, 0, voxels[0]))
    masks = damaged / "study" / MASKS
    nrrd.write(str(masks / "3_3A.seg.nrrd"), voxels, header)
    for structure in ("tibia", "femur"):
        (masks / f"3_{structure}_3A.nii.gz").unlink()
    report = next(c for c in convert(damaged)["cases"] if c["case"] == CASE)

    predicted = damaged / "work" / "nnUNet_results" / LAB
    (file,) = predicted.glob(f"*/fold_0/validation/{CASE}.nii.gz")
    np.testing.assert_array_equal(labels(damaged), nibabel.load(file).dataobj)
    assert any("audit" in message for message in report["messages"])
    bridge("init", damaged / "study", "-o", damaged / "study" / "new.toml")
    table = (damaged / "study" / "cases.csv").read_text("utf-8")
    assert [table.count(f",{name},") for name in ("tibia", "femur")] == [5, 5]

    again, _ = audit(damaged)

    (change,) = again["changes"]
    assert (change["case"], change["structure"]) == (CASE, STRUCTURE)
    then, now = change["suspicions"]
    assert then == content["masks"][0]["suspicion"] > 3.5 > now
    voxel_mm3 = 0.75 * 0.75 * 4
    counts = np.count_nonzero(whole == 1), np.count_nonzero(labels(damaged) == 1)
    assert change["volumes_mm3"] == pytest.approx([n * voxel_mm3 for n in counts])
    assert "Changed masks" in (damaged / "out" / "index.html").read_text("utf-8")
    assert audit(damaged)[0]["changes"] == again["changes"]


def test_F04_an_edited_file_is_kept_until_it_is_given_up_by_force(damaged):
    audit(damaged)
    file = damaged / "out" / f"{CASE}.seg.nrrd"
    written = file.read_bytes()
    file.write_bytes(written + b"\n")

    for _ in range(2):
        content, code = audit(damaged)
        codes = {case["case"]: case["codes"] for case in content["cases"]}
        assert codes.pop(CASE) == ["F04"]
        assert not any(codes.values())
        assert (file.read_bytes(), code) == (written + b"\n", 0)
    audit(damaged, "--force")

    assert file.read_bytes() == written


def test_without_a_model_the_shape_decides_and_a_bad_case_ends_nothing(damaged):
    shutil.rmtree(damaged / "work" / "nnUNet_results")
    audit(damaged)
    broken = damaged / "work" / "nnUNet_raw" / LAB / "labelsTr" / "msk_002.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-9])

    content, code = audit(damaged, check=False)

    assert code == 4
    assert {c["case"]: c["codes"] for c in content["cases"]}["msk_002"] == ["K19"]
    assert (len(content["masks"]), content["changes"]) == (8, [])
    assert first(content)[0] == CASE  # both of its masks lie oddly to each other
    assert "no model has finished" in content["notes"][0]
    assert bridge("audit", "1", "-o", damaged / "x", "-w", damaged / "work", "-c", "2d",
                  check=False).exit_code == 3  # fmt: skip


def test_M02_a_prediction_on_another_grid_is_left_out_with_a_warning(damaged):
    results = damaged / "work" / "nnUNet_results" / LAB
    (file,) = results.glob(f"*/fold_0/validation/{CASE}.nii.gz")
    image = nibabel.load(file)
    nibabel.save(image.slicer[2:], file)

    content, code = audit(damaged)

    assert code == 0
    assert {c["case"]: c["codes"] for c in content["cases"]}[CASE] == ["M02"]
    assert first(content)[0] == CASE
    assert len(content["masks"]) == 10
    page = (damaged / "out" / "index.html").read_text("utf-8")
    assert page.count("<figure>") == 3 * page.count('class="audited"') > 0
