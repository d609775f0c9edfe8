"""Beside a GPU, images are read while earlier ones are predicted."""

import pytest
from stand_in import DATASET, StandIn, finished_workspace, image_with_bone

from nnunet_bridge.core.progress import Silent
from nnunet_bridge.nnunet.commands import Resources
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.pipeline.ingest.inputs import find_images
from nnunet_bridge.pipeline.models.choose import predicting_model
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import _PredictionRun
from nnunet_bridge.pipeline.prediction.trained_model import TrainedModel

IMAGES = 7


class Steps(Silent):
    def __init__(self):
        self.done = []

    def advance(self, done, _note=""):
        self.done.append(done)


@pytest.mark.parametrize(("device", "calls"), [("cpu", [7]), ("cuda", [4, 3])])
def test_a_gpu_starts_with_the_first_images_and_misses_none(tmp_path, device, calls):
    workspace = finished_workspace(tmp_path / "work")
    for number in range(IMAGES):
        file = tmp_path / "images" / f"leg{number}.nii.gz"
        image_with_bone(file, number, number + 9)
    options, network, steps = PredictionOptions(), StandIn(), Steps()
    model = predicting_model(Dataset(workspace, DATASET), options.model)
    trained, out = TrainedModel.of(model, options.clean), tmp_path / "out"
    run = _PredictionRun(trained, out, tmp_path / "place", options, steps, network)
    sources = find_images([tmp_path / "images"], unpack_dir=tmp_path / "unpacked")

    cases = run.predict(sources, Resources(device, threads=1, workers=1, loaders=0))

    assert [len(call) for call in network.calls] == calls
    assert [case.case_id for case in cases] == [f"leg{n}" for n in range(IMAGES)]
    assert all((out / case.case_id / "labels.nii.gz").exists() for case in cases)
    assert steps.done == sorted(steps.done)
    assert steps.done[-1] == 33 * IMAGES
