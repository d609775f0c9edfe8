"""The record of a predicted case is read as it was written, or refused by name."""

import json
import shutil
from pathlib import Path

import pytest
from stand_in import DATASET, StandIn, finished_workspace, image_with_bone

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.quality import QualityLevel
from nnunet_bridge.core.records import NewerVersionError
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images
from nnunet_bridge.pipeline.prediction.record import RECORD, PredictionRecord

GOLDEN = Path(__file__).parents[2] / "golden"
LEAST = {"model": "2d, as requested, fold 0", "volumes_mm3": {"tibia": 660.0}}


@pytest.fixture
def predict_leg(tmp_path):
    workspace = finished_workspace(tmp_path / "work")
    image = image_with_bone(tmp_path / "leg.nii.gz", 20, 31)

    def call(**options):
        network = StandIn()
        summary = predict_images(
            Dataset(workspace, DATASET),
            [image],
            tmp_path / "out",
            PredictionOptions(device="cpu", **options),
            network=network,
        )
        return summary, len(network.calls)

    return call


def test_a_record_of_the_time_without_a_schema_is_read_and_written_again(tmp_path):
    shutil.copy(GOLDEN / "prediction_without_schema.json", tmp_path / RECORD)
    before = read_json(tmp_path / RECORD)

    record = PredictionRecord.read(tmp_path)
    record.write(tmp_path)

    assert read_json(tmp_path / RECORD) == {"schema": 1, **before}
    assert record.quality.level == QualityLevel.named(before["quality"]["light"])
    region = record.cut.region()
    assert [region.first, region.end] == [
        before["cut"][key] for key in ("first_slice", "end_slice")
    ]


def test_a_record_of_the_time_without_ratings_has_none(tmp_path):
    (tmp_path / RECORD).write_text(json.dumps(LEAST))

    assert PredictionRecord.read(tmp_path).quality is None


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("{", "it is not a JSON object"),
        ("[]", "it is not a JSON object"),
        ("{}", "model: "),
        (json.dumps({**LEAST, "quality": {"light": 1}}), r"quality\.reasons: "),
        (json.dumps({**LEAST, "outputs": {"labels.nii.gz": 1}}), r"outputs\.labels"),
    ],
)
def test_a_damaged_record_is_refused_by_name(tmp_path, content, place):
    (tmp_path / RECORD).write_text(content)

    with pytest.raises(InputError, match=rf"prediction\.json is damaged: {place}"):
        PredictionRecord.read(tmp_path)


def test_a_record_of_a_newer_version_is_refused_with_the_way_out(tmp_path):
    (tmp_path / RECORD).write_text('{"schema": 2}')

    text = r"schema 2 of .*prediction\.json: update nnunet-bridge or predict again with"
    with pytest.raises(NewerVersionError, match=text):
        PredictionRecord.read(tmp_path)


def test_R12_a_case_predicted_before_there_was_a_schema_is_not_predicted_again(
    predict_leg, tmp_path
):
    predict_leg()
    file = tmp_path / "out" / "leg" / RECORD
    content = read_json(file)
    del content["schema"]
    file.write_text(json.dumps(content))

    summary, calls = predict_leg()

    assert (summary.exit_code, calls) == (0, 0)
    assert "schema" not in read_json(file)


def test_a_case_that_a_newer_version_predicted_is_refused_unless_it_is_forced(
    predict_leg, tmp_path
):
    predict_leg()
    file = tmp_path / "out" / "leg" / RECORD
    file.write_text(json.dumps({**read_json(file), "schema": 2, "more": True}))
    newer = file.read_bytes()

    summary, calls = predict_leg()

    (case,) = summary.cases
    assert (summary.exit_code, calls) == (3, 0)
    assert "schema 2" in case.messages[0]
    assert file.read_bytes() == newer
    assert predict_leg(force=True)[1] == 1
    assert read_json(file)["schema"] == 1
