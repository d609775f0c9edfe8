"""Lights on the disk: what is kept of training labels, and the page of a folder."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from tiny_model import DATASET, DATASET_JSON, HARMLESS, refusal_of, run_of, write_model

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.core.quality import (
    MemberAgreement,
    QualityCheck,
    QualityLevel,
    TrainingStructures,
)
from nnunet_bridge.formats.nifti import write_labelmap, write_volume
from nnunet_bridge.formats.preview import THUMBNAIL_SIDE, thumbnail
from nnunet_bridge.nnunet.models import checked_card
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.ops.quality import judge, structure_figures, training_structures
from nnunet_bridge.pipeline.models.training_range import (
    STRUCTURES_FILE,
    known_structures,
)
from nnunet_bridge.pipeline.prediction.quality import (
    case_quality,
    write_quality,
)

TABLE = LabelTable.from_names(["tibia", "femur"])
OLD_CARD = {
    "format": 1,
    "software": "nnunet-bridge 0.1.0",
    "budget": "smoke",
    "folds": {"0": {"mean_dice": 0.9, "sha256": "0" * 64}},
    "training_range": None,
}
"""As version 0.1 wrote it."""


def legs(height=12):
    voxels = np.zeros((16, 16, 20), np.uint8)
    voxels[2:6, 4:10, 3 : 3 + height] = 1
    voxels[9:14, 4:10, 3 : 3 + height] = 2
    return Labelmap(Grid(voxels.shape, np.diag([1.0, 1.0, 3.0, 1.0])), voxels, TABLE)


def image_of(labelmap, blur=0.0):
    """Return bright legs, in noise, as a scanner with so many voxels of blur."""
    noise = np.random.default_rng(2).normal(0, 3, labelmap.voxels.shape)
    voxels = gaussian_filter(100.0 * (labelmap.voxels > 0) + noise, (blur, blur, 0))
    return Volume(labelmap.grid, voxels.astype(np.float32))


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "work").mkdir()
    found = Workspace.at(tmp_path / "work", environment={})
    raw = Dataset(found, DATASET).raw_dir
    raw.mkdir(parents=True)
    (raw / "dataset.json").write_text(json.dumps(DATASET_JSON))
    for n, height in enumerate((10, 11, 12, 13)):
        write_labelmap(raw / "labelsTr" / f"leg_{n}.nii.gz", legs(height))
    write_model(run_of(found), HARMLESS)
    return found


def structures(workspace):
    return known_structures(Dataset(workspace, DATASET), run_of(workspace).model_dir)


def test_training_labels_are_measured_once_and_again_when_they_change(workspace):
    kept = Dataset(workspace, DATASET).record_dir / STRUCTURES_FILE
    first = structures(workspace)
    kept.write_text(kept.read_text().replace('"most": 936.0', '"most": 937.0'))

    assert structures(workspace).structures["tibia"].volume_mm3.most == 937.0
    assert first.structures["tibia"].volume_mm3.most == 4 * 6 * 13 * 3 == 936.0

    raw = Dataset(workspace, DATASET).raw_dir
    write_labelmap(raw / "labelsTr" / "leg_3.nii.gz", legs(15))
    assert structures(workspace).structures["tibia"].volume_mm3.most == 4 * 6 * 15 * 3


def test_what_is_kept_names_no_case(workspace):
    structures(workspace)

    text = (Dataset(workspace, DATASET).record_dir / STRUCTURES_FILE).read_text()

    assert "leg_" not in text
    assert set(json.loads(text)) == {"labels_sha256", "cases", "structures", "edges"}


def test_a_blurred_image_is_not_green_once_training_images_are_known(workspace):
    assert structures(workspace).edges is None

    raw = Dataset(workspace, DATASET).raw_dir
    for n, height in enumerate((10, 11, 12, 13)):
        write_volume(raw / "imagesTr" / f"leg_{n}_0000.nii.gz", image_of(legs(height)))
    known = structures(workspace)
    sharp, blurred = (
        case_quality(legs(), image_of(legs(), blur), raw, "leg_9", known)
        for blur in (0.0, 1.0)
    )

    assert [r for r in sharp.concerns if r.kind is QualityCheck.EDGES] == []
    (found,) = [r for r in blurred.concerns if r.kind is QualityCheck.EDGES]
    assert found.value < known.edges.least


def test_a_damaged_record_is_measured_anew(workspace):
    first = structures(workspace)
    file = Dataset(workspace, DATASET).record_dir / STRUCTURES_FILE
    for damage in ("", "[]", '{"labels_sha256": 3}', file.read_text()[:-40]):
        file.write_text(damage)
        assert structures(workspace) == first


def test_nothing_is_known_of_a_dataset_that_is_gone(workspace):
    (Dataset(workspace, DATASET).raw_dir / "dataset.json").unlink()

    assert structures(workspace) is None


def test_a_model_from_elsewhere_is_judged_by_what_it_brought_along(workspace):
    brought = training_structures([structure_figures(legs(20 - 3))] * 5)
    origin = run_of(workspace).fold_dir / "unpacked.json"

    for content, known in (
        ({"training_structures": brought.as_json()}, brought),
        ({"training_structures": None}, None),
        ({"training_range": None}, None),
        ({"training_structures": {"cases": "many"}}, None),
    ):
        origin.write_text(json.dumps(content))
        assert structures(workspace) == known


def test_a_card_without_structures_is_still_read(workspace):
    assert checked_card(OLD_CARD)["training_structures"] is None

    card = {**OLD_CARD, "training_structures": structures(workspace).as_json()}
    read_back = checked_card(json.loads(json.dumps(card)))["training_structures"]
    assert TrainingStructures.from_json(read_back) == structures(workspace)


@pytest.mark.parametrize(
    ("place", "value", "code"),
    [
        (("structures", "tibia", "volume_mm3", "least"), 0, "S07"),
        (("structures", "tibia", "volume_mm3", "most"), 1e30, "S07"),
        (("structures", "tibia", "volume_mm3", "median"), 1e9, "S02"),
        (("structures", "tibia", "pieces", "low"), -1, "S07"),
        (("structures", "tibia", "path"), "/home/jdoe", "S02"),
        (("cases",), "leg_0001", "S02"),
        (("structures", "x" * 200), {}, "S07"),
    ],
)
def test_S02_S07_structures_of_a_card_are_judged_number_by_number(
    workspace, place, value, code
):
    found = structures(workspace).as_json()
    *path, last = place
    inner = found
    for key in path:
        inner = inner[key]
    inner[last] = value

    card = {**OLD_CARD, "training_structures": found}
    assert refusal_of(checked_card, card) == code


def test_the_agreement_beside_a_labelmap_is_read_and_its_absence_reported(tmp_path):
    alone = case_quality(legs(), image_of(legs()), tmp_path, "leg_9", None)
    (tmp_path / "leg_9.agreement.json").write_text(
        '{"between_folds": {"1": 0.7, "2": null},'
        ' "between_configurations": {"1": 0.95}}'
    )
    together = case_quality(legs(), image_of(legs()), tmp_path, "leg_9", None)

    assert alone.lowest_agreement is None
    assert "One fold only: no agreement between folds." in alone.not_judged
    assert (together.level, together.lowest_agreement) == (QualityLevel.AMBER, 0.7)
    assert len(together.not_judged) == 1


def test_a_damaged_agreement_is_an_error_in_words(tmp_path):
    (tmp_path / "leg_9.agreement.json").write_text('{"between_folds": []}')

    with pytest.raises(InputError, match="table of agreements"):
        case_quality(legs(), image_of(legs()), tmp_path, "leg_9", None)


def finished(out, name, dice=None):
    case_dir = out / name
    write_labelmap(case_dir / "labels.nii.gz", legs())
    record = {"model": "2d, as asked, fold 0", "volumes_mm3": legs().volumes_mm3()}
    if dice is not None:
        quality = judge(legs(), MemberAgreement({1: dice, 2: 0.9}), None)
        record["quality"] = quality.as_json()
    (case_dir / "prediction.json").write_text(json.dumps(record))
    return case_dir


def test_the_page_and_the_table_are_whole_with_cases_of_earlier_calls(tmp_path):
    for name, dice in (("leg_1", 0.95), ("leg_2", 0.4), ("leg_3", None)):
        finished(tmp_path, name, dice)
    (tmp_path / "unfinished").mkdir()
    (finished(tmp_path, "broken") / "prediction.json").write_text("{")
    newer = '{"schema": 2, "model": "2d", "volumes_mm3": {}}'
    (finished(tmp_path, "newer") / "prediction.json").write_text(newer)

    cases = write_quality(tmp_path, TABLE)

    assert [(c.case_id, c.level) for c in cases] == [
        *(("leg_2", "red"), ("leg_1", "green"), ("leg_3", "not assessed")),
    ]
    page = (tmp_path / "quality.html").read_text()
    assert page.index("leg_2") < page.index("leg_1") < page.index("leg_3")
    assert "hardly agree (Dice 0.40; 0.80 expected)" in page
    with (tmp_path / "quality.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["case"], r["light"], r["structure"], r["value"]) for r in rows] == [
        ("leg_2", "red", "tibia", "0.4"),
        ("leg_2", "red", "femur", "0.9"),
        ("leg_1", "green", "tibia", "0.95"),
        ("leg_1", "green", "femur", "0.9"),
    ]


def test_a_preview_is_shown_made_smaller_and_without_one_the_labels(tmp_path):
    case_dir = finished(tmp_path, "leg_1", 0.9)
    (without,) = write_quality(tmp_path, TABLE)
    picture = np.random.default_rng(1).integers(0, 255, (900, 1500, 3), np.uint8)
    Image.fromarray(picture).save(case_dir / "preview.png")
    (beside,) = write_quality(tmp_path, TABLE)

    assert without.picture.startswith("data:image/jpeg;base64,")
    assert beside.picture != without.picture
    assert len(beside.picture) < 150_000
    assert THUMBNAIL_SIDE < 900


def test_what_is_no_picture_is_refused_in_words(tmp_path):
    (tmp_path / "preview.png").write_bytes(b"GIF or not")

    with pytest.raises(InputError, match="is not a picture"):
        thumbnail(tmp_path / "preview.png")
