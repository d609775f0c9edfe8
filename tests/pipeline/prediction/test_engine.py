"""`predict --engine`: what computed a case is recorded, and counts when it is kept."""

import sys

import pytest
from stand_in import DATASET, StandIn, finished_workspace, image_with_bone

from nnunet_bridge.core.progress import Silent
from nnunet_bridge.formats.files import read_json, write_json
from nnunet_bridge.nnunet.machine import chosen_engine
from nnunet_bridge.nnunet.names import ENGINE_FILE, Dataset
from nnunet_bridge.pipeline.prediction.network import PREDICTED, Inference
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images


class Listener(Silent):
    def __init__(self):
        self.said = []

    def say(self, line):
        self.said.append(line)


class Computed(StandIn):
    """Says what computed the networks, as nnU-Net's process does."""

    def __init__(self, **engine):
        super().__init__()
        self._engine = engine

    def __call__(self, model, work, *arguments, **named):
        if self._engine:
            write_json(work / PREDICTED / ENGINE_FILE, self._engine)
        return super().__call__(model, work, *arguments, **named)


@pytest.fixture
def predict_leg(tmp_path):
    """Return the engine of the record, whether it was computed now, what was said."""
    dataset = Dataset(finished_workspace(tmp_path / "work"), DATASET)
    images = [image_with_bone(tmp_path / f"leg_{n}.nii.gz", 20, 30) for n in (1, 2)]

    def call(asked, **engine):
        network, listener = Computed(**engine), Listener()
        options = PredictionOptions(device="cpu", engine=asked)
        more = {"progress": listener, "network": network}
        predict_images(dataset, images, tmp_path / "out", options, **more)
        record = read_json(tmp_path / "out" / "leg_2" / "prediction.json")
        return record["engine"], bool(network.calls), listener.said

    return call


def test_a_case_of_another_engine_is_predicted_again_only_if_one_is_named(predict_leg):
    by_openvino = {"engine": "openvino"}

    assert predict_leg("auto", **by_openvino) == ("openvino", True, [])
    assert predict_leg("auto", **by_openvino) == ("openvino", False, [])
    assert predict_leg("openvino", **by_openvino) == ("openvino", False, [])
    assert predict_leg("torch") == ("torch", True, [])
    assert predict_leg("torch") == ("torch", False, [])
    assert predict_leg("auto", **by_openvino) == ("torch", False, [])


def test_a_network_that_openvino_does_not_compute_is_reported_once(predict_leg):
    engine, _, said = predict_leg("auto", engine="torch", reason="no such layer")

    assert engine == "torch"
    assert [line for line in said if "no such layer" in line] == said
    assert len(said) == 1


def test_openvino_is_the_choice_on_a_cpu_where_it_is_installed(monkeypatch):
    assert chosen_engine("auto", "cpu") == ("openvino", "")
    assert chosen_engine("torch", "cpu") == ("torch", "")
    assert chosen_engine("auto", "cuda") == ("torch", "")
    engine, why = chosen_engine("openvino", "cuda")
    assert (engine, "not on cuda" in why) == ("torch", True)

    monkeypatch.setitem(sys.modules, "openvino", None)
    assert chosen_engine("auto", "cpu") == ("torch", "")
    engine, why = chosen_engine("openvino", "cpu")
    assert (engine, "nnunet-bridge[cpu]" in why) == ("torch", True)


def test_converted_networks_lie_beside_the_records_of_the_dataset(tmp_path):
    dataset = Dataset(finished_workspace(tmp_path), DATASET)

    words = Inference("openvino").words(dataset)

    assert words == ["--openvino", str(dataset.record_dir / "openvino")]
    assert Inference("torch").words(dataset) == []
