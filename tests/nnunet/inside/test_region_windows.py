"""`predict --region auto`: no window outside the region passes through the network."""

import warnings

import pytest
from stand_in import DATASET, StandIn, image_with_bone
from test_streaming import run_part
from tiny_model import run_of, tiny_plans, untrained_checkpoint, write_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch and nnU-Net warn while they are imported
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from torch.nn.modules.module import register_module_forward_hook

from nnunet_bridge.nnunet.commands import trainers_dir
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.ops.region import RegionRequest
from nnunet_bridge.pipeline.prediction.network import IMAGES, PREDICTED
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and nnU-Net


class Counting:
    """The first pass by brightness, then the network itself, whose calls it counts."""

    def __init__(self):
        self.calls, self._first_pass = 0, StandIn()

    def __call__(self, model, work, resources, *, advanced):
        if work.name.startswith("first_pass"):
            return self._first_pass(model, work, resources, advanced=advanced)
        with register_module_forward_hook(self._count):
            folder = model.states[0].run.model_dir
            run_part(work / IMAGES, work / PREDICTED, (folder, 1))
        return work / PREDICTED

    def _count(self, module, *_):
        self.calls += isinstance(module, PlainConvUNet)


@pytest.mark.parametrize(("region", "rows"), [({}, 7), ({"auto": True}, 2)])
def test_windows_outside_the_region_are_not_computed(
    region, rows, tmp_path, monkeypatch
):
    """60 slices and windows of 16 in steps of 8; 14 with bone, and 3 more each way."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_dir()))
    workspace = Workspace.at(tmp_path, environment={})
    plans, run = tiny_plans(), run_of(workspace, configuration="3d_fullres")
    plans |= {"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}
    plans["configurations"]["3d_fullres"]["spacing"] = [2.0, 1.0, 1.0]
    write_model(run, untrained_checkpoint(run, plans), plans=plans)
    image, network = image_with_bone(tmp_path / "leg.nii.gz", 20, 34), Counting()
    margin = {"margin_mm": 6.0} if region else {}
    asked = RegionRequest.from_words(**region, **margin)

    predict_images(
        Dataset(workspace, DATASET),
        [image],
        tmp_path / "out",
        PredictionOptions(device="cpu", engine="torch", region=asked),
        network=network,
    )

    assert network.calls == rows * 4  # each window also mirrored along two axes
