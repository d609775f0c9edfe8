"""Structures that were not drawn in some cases: `missing = "partial"`."""

import json

import nibabel
import numpy as np
import pytest
from command import bridge
from small_study import (
    FEMUR,
    GRID,
    LAB,
    MASKS,
    RECIPE,
    SCANS,
    TIBIA,
    draw,
    patient,
    recipe,
    scan,
)

from nnunet_bridge.core.errors import InputError, RecipeError
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.nifti import write_volume
from nnunet_bridge.nnunet.dataset import RawDataset

PARTIAL = '[merge]\nmissing = "partial"\n'
BOTH = TIBIA + 2 * FEMUR


def convert(root, *, code=0):
    result = bridge(*("convert", root / "study", "-w", root, "--json"), check=False)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)["cases"]


def raw_dir(root):
    return root / "nnUNet_raw" / LAB


def described(root):
    return json.loads((raw_dir(root) / "dataset.json").read_text())


def labels_of(root, case):
    return np.asarray(nibabel.load(raw_dir(root) / f"labelsTr/{case}.nii.gz").dataobj)


@pytest.fixture
def study(tmp_path):
    """Five patients; the femur of the first was not drawn."""
    for index in range(1, 6):
        patient(tmp_path / "study", index, f"{index}A")
    (tmp_path / "study" / MASKS / "1_femur_1A.nii.gz").unlink()
    (tmp_path / "study" / "dataset.toml").write_text(RECIPE % "" + PARTIAL)
    return tmp_path


def test_K15_a_partly_drawn_case_keeps_its_background_and_the_dataset_names_it(study):
    (case, *others) = convert(study)

    assert (case["case"], case["codes"]) == ("msk_001", ["K15"])
    text = "femur not drawn: the rest trains as background or femur."
    assert f"[K15] {text}" in case["messages"]
    assert not any(other["codes"] for other in others)
    dataset = described(study)
    assert dataset["partly_drawn"] == {"msk_001": {"not_drawn": ["femur"]}}
    assert dataset["labels"] == {"background": 0, "tibia": 1, "femur": 2}
    assert set(np.unique(labels_of(study, "msk_001"))) == {0, 1}
    manifest = json.loads((raw_dir(study) / "manifest.json").read_text())
    known = [case.get("partly_drawn") for case in manifest["cases"]]
    assert known == [{"not_drawn": ["femur"]}, None, None, None, None]


def test_a_state_in_the_case_table_hides_a_structure_that_the_files_have(tmp_path):
    study, rows = tmp_path / "study", ["case,role,structure,value,state,file"]
    for index, state in enumerate(("drawn", "unlabelled", "drawn"), start=1):
        scan(study, index, "A")
        place = f"{SCANS}/{index}_AutoBindWATER_650_A"
        rows.append(f"msk_{index:03d},image,,,,{place}")
        if index < 3:  # a labelmap of both
            write_volume(study / f"{index}.nii.gz", Volume(GRID, BOTH))
            rows.append(f"msk_{index:03d},labelmap,tibia,1,,{index}.nii.gz")
            rows.append(f"msk_{index:03d},labelmap,femur,2,{state},{index}.nii.gz")
    draw(study, "3_tibia", TIBIA)
    draw(study, "3_femur", FEMUR)
    rows.append(f"msk_003,mask,tibia,,,{MASKS}/3_tibia.nii.gz")
    rows.append(f"msk_003,mask,femur,,unlabelled,{MASKS}/3_femur.nii.gz")
    (study / "cases.csv").write_text("\n".join(rows))
    with_table = RECIPE.replace("id = 1", 'id = 1\ntable = "cases.csv"') % ""
    (study / "dataset.toml").write_text(with_table + PARTIAL)

    cases = convert(tmp_path)

    hidden = {"not_drawn": ["femur"]}
    assert described(tmp_path)["partly_drawn"] == {"msk_002": hidden, "msk_003": hidden}
    assert [case["codes"] for case in cases] == [[], ["K15"], ["K15"]]
    for case in ("msk_002", "msk_003"):
        assert set(np.unique(labels_of(tmp_path, case))) == {0, 1}
    shown = (study / "cases.csv").read_text().replace("unlabelled", "drawn")
    (study / "cases.csv").write_text(shown)
    assert not any(case["codes"] for case in convert(tmp_path))
    assert "partly_drawn" not in described(tmp_path)
    assert (labels_of(tmp_path, "msk_003") == labels_of(tmp_path, "msk_001")).all()


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"femur": "partial"}, "declares femur not drawn, but it is drawn"),
        ({"tibia": "ignore"}, "write one of the two for all structures of a case"),
    ],
)
def test_K15_contradictory_words_about_a_case_refuse_it_in_one_sentence(
    study, states, message
):
    masks, number = study / "study" / MASKS, 2 if "femur" in states else 1
    (masks / f"{number}_tibia_{number}A.nii.gz").unlink()
    draw(study / "study", "1_tibia_1A" if number == 2 else "1_fibula_1A", TIBIA)
    words = "".join(
        f'[cases.msk_{number:03d}]\n{n} = "{w}"\n' for n, w in states.items()
    )
    more = "fibula = 3\n" + PARTIAL + words
    (study / "study" / "dataset.toml").write_text(RECIPE % "" + more)

    case = convert(study, code=4)[number - 1]

    assert case["outcome"] == "refused"
    assert sum(message in text for text in case["messages"]) == 1


def test_a_recipe_that_mixes_ignore_and_partial_in_a_case_is_refused():
    with pytest.raises(RecipeError, match=r"cases.msk_001: .ignore. leaves out every"):
        recipe(cases={"msk_001": {"tibia": "ignore", "femur": "partial"}})


def test_only_where_a_structure_was_drawn_it_is_scored(study):
    convert(study)
    truth = raw_dir(study) / "labelsTr"
    predicted = study / "predicted"
    predicted.mkdir()
    for index in range(1, 6):  # all are right, also where nobody drew the femur
        write_volume(predicted / f"msk_{index:03d}.nii.gz", Volume(GRID, BOTH))

    result = bridge("score", predicted, truth, "-o", study / "out", "--json")

    means = json.loads(result.stdout)["mean"]
    assert {name: (mean["n"], mean["dice"]) for name, mean in means.items()} == {
        "tibia": (5, 1.0),
        "femur": (4, 1.0),
    }
    assert means["femur"]["not_drawn"] == 1
    rows = (study / "out" / "scores.csv").read_text().splitlines()
    (row,) = [row for row in rows if "not_drawn" in row]
    assert row.startswith("msk_001,femur")


def test_N12_a_structure_drawn_nowhere_stops_and_a_rare_one_is_named(study):
    for index in range(2, 5):
        (study / "study" / MASKS / f"{index}_femur_{index}A.nii.gz").unlink()
    convert(study)
    raw = RawDataset.open(raw_dir(study))
    patients = {case: case for case in raw.training_cases()}

    (warned,) = raw.warnings_of_drawn(raw.check(), patients, 5)
    assert warned.startswith(
        "[N12] femur was drawn in 1 patient, and there are 5 folds: "
    )
    assert "tibia" not in warned
    (study / "study" / MASKS / "5_femur_5A.nii.gz").unlink()
    convert(study)
    raw = RawDataset.open(raw_dir(study))
    with pytest.raises(
        InputError, match="femur was drawn in no training case"
    ) as fault:
        list(raw.warnings_of_drawn(raw.check(), patients, 5))
    assert fault.value.code == "N12"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"msk_002": {"not_drawn": ["femur"]}}, "femur not drawn, its label has it"),
        ({"msk_002": {"not_drawn": ["fibula"]}}, "names fibula, which is no label"),
        ({"msk_002": ["femur"]}, "must be"),
    ],
)
def test_an_entry_of_dataset_json_that_is_wrong_is_refused(study, entry, message):
    convert(study)
    content = described(study) | {"partly_drawn": entry}
    (raw_dir(study) / "dataset.json").write_text(json.dumps(content))

    with pytest.raises(InputError, match=message):
        RawDataset.open(raw_dir(study)).check()
