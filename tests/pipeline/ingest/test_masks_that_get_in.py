"""Masks of a study that were refused or lost once: formats, names and values."""

import unicodedata

import nibabel
import nrrd
import numpy as np
import pytest
from small_study import (
    AFFINE,
    FEMUR,
    MASKS,
    SCANS,
    TIBIA,
    draw,
    patient,
    recipe,
    scan,
)

from nnunet_bridge.formats.case_table import read_case_table
from nnunet_bridge.formats.mask_values import MaskValues, Meaning
from nnunet_bridge.formats.nifti import LPS_FROM_RAS, read_labelmap
from nnunet_bridge.formats.recipe import read_recipe
from nnunet_bridge.ops.naming import composed
from nnunet_bridge.pipeline.ingest.convert import check_study, convert_study
from nnunet_bridge.pipeline.ingest.init import InitOptions, write_recipe

RAS = LPS_FROM_RAS @ AFFINE


def outcome(study, **parts):
    (case,) = check_study(study, recipe(**parts)).cases
    return str(case.outcome), case.codes, " ".join(case.messages)


def labels(study, tmp_path, **parts):
    of = recipe(**parts)
    convert_study(study, of, tmp_path / "raw")
    file = tmp_path / "raw" / "Dataset001_Tibia" / "labelsTr" / "msk_001.nii.gz"
    return read_labelmap(file, of.spec().labels).voxels


@pytest.fixture
def study(tmp_path):
    patient(tmp_path / "study", 1, "1A")
    return tmp_path / "study"


def test_a_mask_in_two_files_is_read_and_read_again_when_its_voxels_change(
    study, tmp_path
):
    (study / MASKS / "1_tibia_1A.nii.gz").unlink()
    for suffix, kind in ((".hdr", nibabel.Nifti1Pair), (".mgz", nibabel.MGHImage)):
        file = study / MASKS / f"1_tibia_1A{suffix}"
        nibabel.save(kind(TIBIA, RAS), file)
        found = check_study(study, recipe())
        assert [str(case.outcome) for case in found.cases] == ["accepted"]
        assert found.files["excluded"] == 0
        if suffix == ".hdr":
            assert np.array_equal(labels(study, tmp_path), TIBIA + 2 * FEMUR)
            voxels = bytearray(file.with_suffix(".img").read_bytes())
            voxels[voxels.index(1)] = 0
            file.with_suffix(".img").write_bytes(voxels)
            again = convert_study(study, recipe(), tmp_path / "raw").as_json()
            assert again["cases"][0]["rewritten"]
            assert labels(study, tmp_path).astype(bool).sum() == 2 * TIBIA.sum() - 1
            for beside in (file, file.with_suffix(".img")):
                beside.unlink()


@pytest.mark.parametrize("value", [1 / 256, 2.5e-4, 0.5, 0.6, 255 * 0.1, 1e9 + 0.5])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_K06_any_one_positive_value_beside_0_marks_a_mask(value, kind):
    findings = []
    voxels, how = MaskValues("m.nii", Meaning(), findings).read(TIBIA * kind(value))

    assert np.array_equal(voxels, TIBIA.astype(bool))
    assert how == "one value"
    assert [finding.code for finding in findings] == ["K06"]


def test_K06_a_mask_with_a_scale_in_its_header_is_read(study, tmp_path):
    image = nibabel.Nifti1Image(TIBIA * np.uint8(255), RAS)
    image.set_sform(RAS, 1)
    image.header.set_slope_inter(1 / 65025, 0)
    nibabel.save(image, study / MASKS / "1_tibia_1A.nii.gz")

    assert outcome(study)[:2] == ("fixed", ("K06",))
    assert np.array_equal(labels(study, tmp_path), TIBIA + 2 * FEMUR)


def test_K17_a_scaled_mask_in_air_is_refused_all_the_same(tmp_path):
    from dicom_base import base

    slices = base()
    for one in slices:
        values = np.frombuffer(one.PixelData, "<u2").reshape(32, 32).copy()
        values[:, 4:12] = 1
        one.PixelData = values.tobytes()
    scan(tmp_path, 1, "1A", slices)
    draw(tmp_path, "1_tibia_1A", TIBIA * np.float32(0.0039))
    draw(tmp_path, "1_femur_1A", FEMUR)

    how, codes, _ = outcome(tmp_path)

    assert how == "refused"
    assert "K17" in codes


NAMES = {
    "German": "Unterschenkelknöchel",
    "French": "fémur",
    "Japanese": "がんば",
    "Korean": "정강이뼈",
    "Vietnamese": "xương đùi",
    "Chinese": "胫骨",
    "Hindi": "हड्डी",
}


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_names_are_compared_however_their_accents_are_stored(
    tmp_path, name, stored, written
):
    on_disk = unicodedata.normalize(stored, name)
    in_recipe = unicodedata.normalize(written, name)
    study = tmp_path / "study"
    patient(study, 1, f"A{on_disk[0]}")
    (study / SCANS).rename(study / f"Aufnahmen {on_disk}")
    (study / MASKS).rename(study / f"Masken {on_disk}")
    for file in sorted((study / f"Masken {on_disk}").iterdir()):
        file.rename(file.with_name(file.name.replace("tibia", on_disk)))

    found = outcome(
        study,
        scans={"folder": f"Aufnahmen {in_recipe}"},
        masks={"folder": f"Masken {in_recipe}"},
        labels={in_recipe: 1, "femur": 2},
    )

    assert found[0] == "accepted", found


def test_a_case_table_names_files_however_their_accents_are_stored(study):
    folder = study / unicodedata.normalize("NFD", "Größe")
    (study / MASKS).rename(folder)
    femur = folder / unicodedata.normalize("NFC", "fémur.nii.gz")
    (folder / "1_femur_1A.nii.gz").rename(femur)
    rows = [
        f"image,,{SCANS}/1_AutoBindWATER_650_1A",
        "mask,tibia,Größe/1_tibia_1A.nii.gz",
        f"mask,femur,{unicodedata.normalize('NFD', 'Größe/fémur.nii.gz')}",
    ]
    table = "role,structure,file,case\n" + "\n".join(f"{r},c1" for r in rows)
    (study / "cases.csv").write_text(table, encoding="utf-8")
    (study / "dataset.toml").write_text(
        '[dataset]\nid = 1\nname = "T"\ntable = "cases.csv"\n'
        "[labels]\ntibia = 1\nfemur = 2\n"
    )

    (case,) = check_study(study, read_recipe(study / "dataset.toml")).cases

    assert str(case.outcome) == "accepted", case.messages


def segmentation(study, *names, values=None):
    """Write tibia, femur and 8 voxels of value 3 as one segmentation."""
    for bone in ("tibia", "femur"):
        (study / MASKS / f"1_{bone}_1A.nii.gz").unlink()
    voxels = TIBIA + 2 * FEMUR
    voxels[:2, :2, :2] = 3
    header = {
        "space": "left-posterior-superior",
        "space directions": AFFINE[:3, :3].T.tolist(),
        "space origin": AFFINE[:3, 3].tolist(),
    }
    for number, name in enumerate(names):
        header[f"Segment{number}_Name"] = name
        header[f"Segment{number}_Layer"] = "0"
        header[f"Segment{number}_LabelValue"] = str(number + 1)
    file = study / MASKS / "1_1A.seg.nrrd"
    nrrd.write(str(file), voxels if values is None else voxels * values, header)


def test_K24_voxels_of_no_segment_are_warned_of_and_left_out(study, tmp_path):
    segmentation(study, "tibia", "femur")

    how, codes, text = outcome(study)

    assert (how, codes) == ("warned", ("K24",))
    assert "8 voxels of 3, which no segment names" in text
    assert np.array_equal(labels(study, tmp_path), TIBIA + 2 * FEMUR)


def test_K21_a_left_over_segment_is_refused_with_the_way_to_leave_it_out(
    study, tmp_path
):
    segmentation(study, "tibia", "femur", "Segment_3")

    how, codes, text = outcome(study)
    assert (how, codes) == ("refused", ("K21",))
    assert "leave it out by its name: `masks.leave_out`" in text

    masks = {"folder": MASKS, "leave_out": "segment_3"}
    assert outcome(study, masks=masks)[0] == "accepted"
    drawn = labels(study, tmp_path, masks=masks)
    assert np.array_equal(drawn, TIBIA + 2 * FEMUR)


def test_a_mask_file_is_left_out_by_the_name_of_its_structure(study):
    draw(study, "1_scratch_1A", FEMUR)
    assert outcome(study)[1] == ("K21",)

    masks = {"folder": MASKS, "leave_out": ["Scratch", "other"]}

    assert outcome(study, masks=masks)[0] == "accepted"


def test_a_recipe_that_leaves_nothing_out_keeps_its_digest():
    """Else every case of an existing dataset would be converted again."""
    assert {"leave_out", "frame"}.isdisjoint(recipe().decisions()["masks"])
    assert "leave_out" in recipe(masks={"leave_out": "x"}).decisions()["masks"]
    assert composed("e\u0301") == "\u00e9"


def test_init_takes_a_scaled_mask_for_a_mask(study, tmp_path):
    draw(study, "1_tibia_1A", TIBIA * np.float32(0.0039))

    write_recipe(study, InitOptions(tmp_path / "dataset.toml"))

    rows = read_case_table(tmp_path / "cases.csv")
    assert {row.structure: str(row.role) for row in rows if row.structure} == {
        "tibia": "mask",
        "femur": "mask",
    }
