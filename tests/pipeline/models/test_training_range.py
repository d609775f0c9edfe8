"""A new image is compared with what the model was trained on (N08)."""

import json
import re

import numpy as np
import pydicom
import pytest
from dicom_base import base, save
from small_study import patient, recipe
from stand_in import DATASET, StandIn, finished_workspace, image_with_bone

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.nnunet.runs import ORIGIN_FILE
from nnunet_bridge.nnunet.schemas import Card, TrainingRange, validated
from nnunet_bridge.pipeline.ingest.convert import convert_study
from nnunet_bridge.pipeline.ingest.inputs import read_image
from nnunet_bridge.pipeline.models.likeness import (
    contrast_warnings,
    contrast_words,
    geometry_warnings,
)
from nnunet_bridge.pipeline.models.pack import _without_foreign_words
from nnunet_bridge.pipeline.models.training_range import training_range
from nnunet_bridge.pipeline.prediction.predict import predict_images

WATER = ["ORIGINAL", "PRIMARY", "M", "WATER"]
TE_SAID = (
    "Its echo time is 80 ms, that of the training cases 2.46 to 2.46 ms. Is it another "
    "contrast?"
)
CORONAL = (1, 0, 0, 0, 0, -1)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Two training patients: axial, 0.75 x 0.75 x 4 mm, TE 2.46 ms."""
    root = tmp_path_factory.mktemp("converted")
    for number in (1, 2):
        patient(root / "study", number, f"{number}A")
    for file in (root / "study").rglob("*.dcm"):
        ds = pydicom.dcmread(file)
        ds.ImageType = WATER
        ds.save_as(file)
    summary = convert_study(root / "study", recipe(), root / "nnUNet_raw")
    return summary.dataset_dir


@pytest.fixture(scope="module")
def seen(converted, tmp_path_factory):
    return training_range(tmp_path_factory.mktemp("no model"), converted)


def reading_of(tmp_path, slices, *, image_type=WATER):
    for ds in slices:
        ds.ImageType = image_type
    save(slices, tmp_path / "new")
    return read_image(tmp_path / "new")


def findings_about(reading, seen, channel="MRI"):
    volume = reading.volume
    return [
        *geometry_warnings(volume.grid, seen),
        *contrast_warnings(volume, reading.series, seen, channel),
    ]


def test_the_range_is_read_from_the_manifest(seen):
    assert seen.model_dump() == {
        "cases": 2,
        "smallest_spacing_mm": [0.75, 0.75, 4.0],
        "largest_spacing_mm": [0.75, 0.75, 4.0],
        "smallest_shape": [32, 32, 12],
        "largest_shape": [32, 32, 12],
        "orientations": ["LPS"],
        "modalities": ["MR"],
        "image_types": [["WATER"]],
        "echo_times_ms": [2.46, 2.46],
    }


def test_the_contrast_is_read_from_a_manifest_of_schema_2(converted, tmp_path):
    manifest = read_json(converted / "manifest.json")
    for record in manifest["cases"]:
        del record["contrast"]
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "schema": 2}))

    old = training_range(tmp_path / "no model", tmp_path)

    assert old.image_types == [["WATER"]]
    assert old.echo_times_ms == [2.46, 2.46]
    assert old.modalities is None


def test_R11_a_packed_model_keeps_known_words_of_image_type_only(tmp_path, seen):
    kinds = [["DOE_JANE", "WATER"], ["IN_PHASE"], ["WATER"], ["JANE"]]
    content = {**seen.model_dump(), "image_types": kinds}

    packed = _without_foreign_words(content)

    assert packed["image_types"] == [[], ["IN_PHASE"], ["WATER"]]
    there = TrainingRange.model_validate(packed)
    here = TrainingRange.model_validate(content)
    for number, (word, warned) in enumerate(
        [("WATER", False), ("FAT", True), ("DOE_JANE\\WATER", False)]
    ):
        words = ["ORIGINAL", "PRIMARY", "M", *word.split("\\")]
        reading = reading_of(tmp_path / str(number), base(), image_type=words)
        for range_ in (there, here):
            assert bool(findings_about(reading, range_)) is warned, word


def test_an_image_like_the_training_is_not_warned_of(tmp_path, seen):
    assert findings_about(reading_of(tmp_path, base()), seen) == []


@pytest.mark.parametrize(
    ("slices", "image_type", "output"),
    [
        (
            base(px=(1.6, 1.6), size=24),
            WATER,
            r"voxels are 1\.6 x 1\.6 x 4 mm.*0\.75 x 0\.75 x 4",
        ),
        (base(dz=1.9, n=25), WATER, r"voxels are 0\.75 x 0\.75 x 1\.9 mm"),
        (
            base(iop=CORONAL),
            WATER,
            r"slices are coronal \(axes run LIP\).*axial \(LPS\)",
        ),
        (base(n=30), WATER, r"covers 24 x 24 x 120 mm.*--region auto"),
        (base(), ["ORIGINAL", "PRIMARY", "M", "FAT"], r"Image Type is FAT.*WATER"),
        (base(), ["DERIVED", "PRIMARY", "ADC"], r"Image Type is ADC"),
    ],
    ids=["wide", "fine", "coronal", "long", "fat", "adc"],
)
def test_N08_what_the_model_has_not_seen_is_warned_of_with_its_figures(
    tmp_path, seen, slices, image_type, output
):
    reading = reading_of(tmp_path, slices, image_type=image_type)

    (finding,) = findings_about(reading, seen)

    assert (finding.code, str(finding.outcome)) == ("N08", "warned")

    assert re.search(output, finding.message), finding.message


def test_N08_a_spacing_at_half_and_at_twice_the_range_passes(seen):
    for factor in (0.5, 2.0):
        grid = Grid((32, 32, 12), np.diag([0.75 * factor, 0.75, 4.0, 1.0]))
        spoken = [f.message for f in geometry_warnings(grid, seen)]
        assert not [message for message in spoken if "voxels" in message]


def test_N08_another_echo_time_and_another_modality_are_warned_of(tmp_path, seen):
    slices = base()
    for ds in slices:
        ds.EchoTime, ds.Modality = 80.0, "CT"
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = (
            "1.2.840.10008.5.1.4.1.1.2"
        )

    messages = [f.message for f in findings_about(reading_of(tmp_path, slices), seen)]

    assert messages == [
        "Its modality is CT; the model was trained on MR.",
        TE_SAID,
    ]


def test_N08_a_nifti_that_was_stored_the_other_way_round_is_turned(seen):
    affine = np.diag([-0.75, 0.75, 4.0, 1.0])
    (finding,) = geometry_warnings(Grid((32, 32, 12), affine), seen)

    assert "axes run RPS, those of the training cases LPS" in finding.message
    assert "turned" in finding.message
    assert str(finding.outcome) == "fixed"


def test_N08_a_transposed_nifti_is_of_the_same_plane(seen):
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 4.0, 0.75, 0.75, 1.0
    (finding,) = geometry_warnings(Grid((12, 32, 32), affine), seen)

    assert "axes run SLP" in finding.message
    assert str(finding.outcome) == "fixed"


@pytest.mark.parametrize(("channel", "warned"), [("MRI", True), ("CT", False)])
def test_N08_a_nifti_full_of_air_is_no_mr(channel, warned):
    voxels = np.full((8, 8, 8), -1000, np.int16)
    volume = Volume(Grid((8, 8, 8), np.eye(4)), voxels)

    assert bool(contrast_warnings(volume, None, None, channel)) is warned


def test_N08_mr_for_a_model_of_ct_is_warned_of_even_if_nothing_else_is_known(tmp_path):
    reading = reading_of(tmp_path, base())

    (finding,) = findings_about(reading, None, "CT")

    assert finding.message == "Its modality is MR; the model was trained on CT."


@pytest.mark.parametrize(
    ("image_type", "words"),
    [
        (["ORIGINAL", "PRIMARY", "M", "ND", "NORM", "DIS2D"], []),
        (["DERIVED", "PRIMARY", "DIXON", "Water "], ["WATER"]),
        (["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"], []),
        (["ORIGINAL", "PRIMARY", "PHASE MAP"], ["PHASE_MAP"]),
        (["ORIGINAL", "PRIMARY", "DOE^JANE"], []),
    ],
)
def test_words_of_processing_are_no_contrast(image_type, words):
    assert contrast_words(image_type) == words


def test_a_card_of_an_older_version_is_still_read_and_stays_as_it_was():
    old = {
        "cases": 2,
        "smallest_spacing_mm": [0.8, 0.8, 2.5],
        "largest_spacing_mm": [0.9, 0.9, 3.0],
        "smallest_shape": [500, 480, 40],
        "largest_shape": [512, 512, 60],
    }
    card = {
        "format": 1,
        "software": "nnunet-bridge 0.1.0",
        "budget": "smoke",
        "folds": {"0": {"mean_dice": 0.9, "sha256": "0" * 64}},
        "training_range": old,
    }

    assert validated(Card, card, "model.json").model_dump(exclude_none=True) == card
    assert TrainingRange.model_validate(old).orientations is None


def test_N08_an_unpacked_model_warns_by_the_range_on_its_card(tmp_path, seen):
    workspace = finished_workspace(tmp_path)
    (fold_dir,) = workspace.results_dir.glob("*/*/fold_0")
    (fold_dir / ORIGIN_FILE).write_text(
        json.dumps({"training_range": seen.model_dump()})
    )
    assert training_range(fold_dir.parent, tmp_path).orientations == ["LPS"]
    image = image_with_bone(tmp_path / "knee.nii.gz", 5, 9)

    dataset = Dataset(workspace, DATASET)
    summary = predict_images(dataset, [image], tmp_path / "out", network=StandIn())

    (case,) = summary.cases
    assert {finding.code for finding in case.findings} == {"N08"}
    assert str(case.outcome) == "warned"
    record = read_json(tmp_path / "out" / "knee" / "prediction.json")
    assert record["findings"][0]["code"] == "N08"
