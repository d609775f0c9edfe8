"""Memory and disk are checked before nnU-Net predicts; its progress is reported."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_model import DATASET, HARMLESS, run_of, write_model

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.nifti import write_volume
from nnunet_bridge.nnunet.commands import Resources
from nnunet_bridge.nnunet.estimates import host_bytes
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.machine import Accelerator, Machine, TorchBuild
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.pipeline.models.choose import ModelRequest, choose_model
from nnunet_bridge.pipeline.prediction.network import (
    ImagesTooLarge,
    _planned_members,
    predict_folder,
)

RESOURCES = Resources("cpu", threads=1, workers=4, loaders=0)
LAPTOP = Machine(cores=2, free_memory_bytes=8 << 30, gpus=0)
MANY = 1 << 50


SHAPE, SPACING_MM = (40, 30, 20), [2.0, 1.0, 1.0]


class Process:
    """nnU-Net's process, which ends after it has reported two shares."""

    def __init__(self, progress_file):
        self.reports = ['{"done": 0.25}\n', '{"done": 0.25}\n{"done": 0.5}\n{"do']
        self.progress_file = progress_file

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    @property
    def ended(self):
        if self.reports:
            self.progress_file.write_text(self.reports.pop(0))
            return False
        return True

    def check(self, task):
        assert task.startswith("predict ")


@pytest.fixture
def dataset(tmp_path):
    workspace = Workspace.at(tmp_path, environment={})
    for configuration in ("2d", "3d_fullres"):
        write_model(run_of(workspace, configuration=configuration), HARMLESS)
    return Dataset(workspace, DATASET)


@pytest.fixture
def predict_with(dataset, tmp_path):
    """Predict an image with so much memory and disk; return the call and the shares."""
    grid = Grid(SHAPE[::-1], np.diag([*SPACING_MM[::-1], 1.0]))
    voxels = np.ones(grid.shape, dtype=np.int16)
    work = tmp_path / "work"
    for case in ("arm", "leg"):
        write_volume(work / "images" / f"{case}_0000.nii.gz", Volume(grid, voxels))
    calls, shares = [], []

    def start(command, environment, _log_file):
        calls.append([*command, environment.get("CUDA_VISIBLE_DEVICES")])
        return Process(Path(command[command.index("--progress") + 1]))

    def call(memory, disk, configurations=("2d",), *, machine=LAPTOP):
        calls.clear()
        host = Host(
            machine,
            start,
            sleep=lambda _seconds: None,
            free_bytes=lambda _place: disk,
            free_memory=lambda: memory,
            torch=lambda: TorchBuild("2.15.0", "13.2"),
        )
        resources = replace(RESOURCES, device="cuda" if machine.gpus else "cpu")
        model = choose_model(dataset, ModelRequest(tuple(configurations)))
        predict_folder(model, work, resources, advanced=shares.append, host=host)
        return calls[-1] if machine is LAPTOP else calls, shares

    return call


def test_F10_an_image_too_large_for_the_memory_is_named_with_both_figures(
    predict_with,
):
    with pytest.raises(ImagesTooLarge) as caught:
        predict_with(100_000_000, MANY)

    refusal = caught.value.cases["leg"]
    assert refusal.code == "F10"
    assert re.search(r"leg needs \d\.\d GB.*100 MB is available", str(refusal))


def test_a_mean_too_large_for_the_disk_is_refused_with_both_figures(predict_with):
    with pytest.raises(
        EnvironmentFault, match=r"0\.1 MB of disk for arm, but"
    ) as caught:
        predict_with(MANY, 10, ("2d", "3d_fullres"))

    assert (caught.value.code, caught.value.exit_code) == ("F06", 5)


def test_F06_a_single_image_too_large_for_the_disk_does_not_end_the_batch(
    predict_with, tmp_path
):
    grid = Grid((90, 90, 90), np.eye(4))
    large = Volume(grid, np.ones(grid.shape, np.int16))
    write_volume(tmp_path / "work" / "images" / "body_0000.nii.gz", large)

    with pytest.raises(ImagesTooLarge) as caught:
        predict_with(MANY, 1_000_000, ("2d", "3d_fullres"))

    assert {case: one.code for case, one in caught.value.cases.items()} == {
        "body": "F06"
    }


def test_one_configuration_needs_no_disk_for_a_mean(predict_with):
    command, _ = predict_with(MANY, 10)

    assert "predict" in command


def test_images_are_prepared_ahead_where_there_is_memory(predict_with, dataset):
    members = _planned_members(choose_model(dataset, ModelRequest(("2d",))))

    def workers(memory):
        command, _ = predict_with(memory, MANY)
        return command[command.index("--workers") + 1]

    one, two = (
        host_bytes(members, SHAPE, SPACING_MM, on_gpu=False, ahead=ahead)
        for ahead in (False, True)
    )
    assert one < two
    assert (workers(one), workers(two - 1), workers(two)) == ("1", "1", "4")


def test_the_share_done_is_that_of_the_last_whole_line(predict_with):
    _, shares = predict_with(MANY, MANY)

    assert shares == [0.25, 0.5]


TWO_GPUS = replace(
    LAPTOP,
    gpus=2,
    accelerators=tuple(Accelerator("T4", word=word) for word in ("GPU-a", "GPU-b")),
)


def test_each_gpu_predicts_a_part_of_the_images(predict_with):
    calls, shares = predict_with(MANY, MANY, machine=TWO_GPUS)

    assert [call[call.index("--part") :] for call in calls] == [
        ["--part", "0", "2", "GPU-a"],
        ["--part", "1", "2", "GPU-b"],
    ]
    assert [call[call.index("--workers") + 1] for call in calls] == ["2", "2"]
    assert shares == [0.125, 0.25, 0.375, 0.5]


def test_memory_for_one_image_keeps_the_second_gpu_idle(predict_with, dataset):
    members = _planned_members(choose_model(dataset, ModelRequest(("2d",))))
    one = host_bytes(members, SHAPE, SPACING_MM, on_gpu=True)

    calls, _ = predict_with(2 * one - 1, MANY, machine=TWO_GPUS)

    assert [call[-1] for call in calls] == ["GPU-a"]
