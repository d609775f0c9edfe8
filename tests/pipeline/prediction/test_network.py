"""What is looked at before nnU-Net is called, and what is told while it works."""

import re

import numpy as np
import pytest
from tiny_model import DATASET, HARMLESS, run_of, write_model

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.nifti import write_volume
from nnunet_bridge.nnunet.commands import Resources
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.pipeline.models.choose import ModelRequest, choose_model
from nnunet_bridge.pipeline.prediction import network as network_prediction
from nnunet_bridge.pipeline.prediction.network import ImagesTooLarge, predict_folder

RESOURCES = Resources("cpu", threads=1, workers=4, loaders=0)
MANY = 1 << 50


@pytest.fixture
def predicted_with(tmp_path, monkeypatch):
    """Predict one image beside so much memory and disk; return nnU-Net's call."""
    workspace = Workspace.at(tmp_path, environment={})
    for configuration in ("2d", "3d_fullres"):
        write_model(run_of(workspace, configuration=configuration), HARMLESS)
    grid = Grid((20, 30, 40), np.diag([1.0, 1.0, 2.0, 1.0]))
    voxels = np.ones(grid.shape, dtype=np.int16)
    image = tmp_path / "work" / "images" / "leg_0000.nii.gz"
    write_volume(image, Volume(grid, voxels))
    calls, told = [], []

    def without_nnunet(command, _environment, _log_file, _task):
        calls.append(command)
        progress = tmp_path / "work" / "progress.jsonl"
        for text in ('{"done": 0.25}\n', '{"done": 0.25}\n{"done": 0.5}\n{"do'):
            progress.write_text(text)
            yield

    def call(memory, disk, configurations=("2d",)):
        monkeypatch.setattr(network_prediction, "free_memory_bytes", lambda: memory)
        monkeypatch.setattr(network_prediction, "free_bytes", lambda _: disk)
        monkeypatch.setattr(network_prediction, "run_to_end", without_nnunet)
        model = choose_model(
            Dataset(workspace, DATASET), ModelRequest(tuple(configurations))
        )
        work = tmp_path / "work"
        predict_folder(model, work, RESOURCES, advanced=told.append)
        return calls[0], told

    return call


def test_F10_an_image_too_large_for_the_memory_is_named_with_both_figures(
    predicted_with,
):
    with pytest.raises(ImagesTooLarge) as caught:
        predicted_with(100_000_000, MANY)

    refusal = caught.value.cases["leg"]
    assert refusal.code == "F10"
    assert re.search(r"leg needs \d\.\d GB.*100 MB is available", str(refusal))


def test_a_mean_too_large_for_the_disk_is_refused_with_both_figures(predicted_with):
    with pytest.raises(EnvironmentFault, match=r"0\.1 MB of disk for leg, but") as told:
        predicted_with(MANY, 10, ("2d", "3d_fullres"))

    assert (told.value.code, told.value.exit_code) == ("F06", 5)


def test_one_configuration_needs_no_disk_for_a_mean(predicted_with):
    predicted_with(MANY, 10)


@pytest.mark.parametrize(("memory", "workers"), [(2000, "4"), (1999, "1"), (1000, "1")])
def test_images_are_prepared_ahead_where_there_is_memory(
    predicted_with, monkeypatch, memory, workers
):
    def needed(*_image, on_gpu, ahead=False):
        assert not on_gpu
        return 2000 if ahead else 1000

    monkeypatch.setattr(network_prediction, "host_bytes", needed)

    command, _ = predicted_with(memory, MANY)

    assert command[command.index("--workers") + 1] == workers


def test_the_share_done_is_that_of_the_last_whole_line(predicted_with):
    _, told = predicted_with(MANY, MANY)

    assert told == [0.25, 0.5]
