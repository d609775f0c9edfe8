"""`predict --fast`: recorded, counted when a case is kept, and its cost is named."""

import pytest
from stand_in import DATASET, StandIn, finished_workspace, image_with_bone
from test_engine import Listener

from nnunet_bridge.formats.files import read_json
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.pipeline.prediction.network import Inference
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images


@pytest.fixture
def predict_leg(tmp_path):
    """Return the options of the record, whether it was computed now, what was said."""
    dataset = Dataset(finished_workspace(tmp_path / "work"), DATASET)
    image = image_with_bone(tmp_path / "leg.nii.gz", 20, 30)

    def call(**options):
        network, listener = StandIn(), Listener()
        asked = PredictionOptions(device="cpu", **options)
        more = {"progress": listener, "network": network}
        predict_images(dataset, [image], tmp_path / "out", asked, **more)
        record = read_json(tmp_path / "out" / "leg" / "prediction.json")
        return record["options"].get("fast"), bool(network.calls), listener.said

    return call


def test_a_case_of_the_other_way_is_predicted_again(predict_leg):
    unknown = (
        "What --fast costs 2d in Dice has not been measured: "
        f"run `nnunet-bridge select {DATASET} --budget smoke --fast`."
    )

    assert predict_leg() == (None, True, [])
    assert predict_leg(fast=True) == (True, True, [unknown])
    assert predict_leg(fast=True) == (True, False, [unknown])
    assert predict_leg() == (None, True, [])


def test_both_ways_of_fewer_windows_apply_together(tmp_path):
    dataset = Dataset(finished_workspace(tmp_path), DATASET)

    words = Inference(body_only=True, fast=True).words(dataset)

    assert words == ["--body-only", "--fast"]
