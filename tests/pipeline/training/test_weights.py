"""The initial weights of a training, and the options that exclude each other."""

import json
from pathlib import Path

import pytest
from tiny_model import DATASET_JSON, HARMLESS, tiny_plans, write_model

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.nnunet.commands import TrainingStart
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.training.request import TrainingRequest
from nnunet_bridge.pipeline.training.weights import (
    load_initial_weights,
    pretrained_checkpoint,
)

FILE = Path("weights.pth")


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("unet2d", {"weights": FILE}, "--weights is for --model resnet34"),
        ("nnunet", {"from_scratch": True}, "--from-scratch is for"),
        ("resnet34", {"weights": FILE, "from_scratch": True}, "exclude"),
        ("resnet34", {"weights": FILE, "pretrained": "2"}, "exclude"),
        ("resnet34-frozen", {"from_scratch": True}, "does not learn"),
        ("nnunet", {"gpus": 2, "patience": 9}, "--patience needs one GPU"),
        ("unet2d", {"gpus": 2}, "--model unet2d needs one GPU"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(model, options, message):
    with pytest.raises(UsageError, match=message):
        check(model, **options)


@pytest.mark.parametrize(
    ("model", "options"), [("nnunet", {"gpus": 2}), ("resnet34", {"weights": FILE})]
)
def test_options_that_fit_pass(model, options):
    assert check(model, **options) is None


def check(model, **options):
    method = method_of(model, "full")
    return TrainingRequest(method, options=TrainingOptions(**options)).check()


def test_a_file_that_is_not_there_is_named(tmp_path):
    workspace = Workspace.at(tmp_path, environment={})
    method = method_of("resnet34", "smoke")
    dataset = Dataset(workspace, "Dataset001_A")
    request = TrainingRequest(method, options=TrainingOptions(weights=FILE))
    run = method.run(dataset, "2d", 0)

    with pytest.raises(InputError, match=r"weights\.pth is not a file"):
        load_initial_weights(dataset, request, [run], Host())


def test_a_training_that_goes_on_has_its_weights_already():
    start = TrainingStart(FILE, Path("model.pth"), patience=3)

    assert start.words(resume=True) == ["--patience", "3"]
    assert "--encoder-weights" in start.words(resume=False)
    assert "--pretrained" in start.words(resume=False)


@pytest.fixture
def two_datasets(tmp_path):
    """A finished model of dataset 11, and dataset 12 planned alike; its run."""
    workspace = Workspace.at(tmp_path, environment={})
    method = method_of("nnunet", "smoke")
    write_model(method.run(Dataset(workspace, "Dataset011_Leg"), "2d", 0), HARMLESS)
    (workspace.raw_dir / "Dataset011_Leg").mkdir(parents=True)
    run = method.run(Dataset(workspace, "Dataset012_Arm"), "2d", 0)
    plan_as(run, tiny_plans())
    return workspace, run


def plan_as(run, plans, dataset=DATASET_JSON):
    for file, content in (
        (run.plans_file, plans),
        (run.dataset.raw_dir / "dataset.json", dataset),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))


def test_a_model_of_another_dataset_with_the_same_network_is_taken(two_datasets):
    _, run = two_datasets

    found = pretrained_checkpoint(run, "11", "nnunet")

    assert found.name == "checkpoint_final.pth"
    assert "Dataset011_Leg" in str(found)


def test_a_model_with_another_network_is_refused_and_the_difference_named(
    two_datasets,
):
    _, run = two_datasets
    plans = tiny_plans()
    network = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [8, 16]
    plan_as(run, plans)

    with pytest.raises(
        InputError, match=r"features_per_stage is \[4, 8\], here \[8, 16\]"
    ):
        pretrained_checkpoint(run, "11", "nnunet")


def test_a_model_of_other_channels_is_refused(two_datasets):
    _, run = two_datasets
    two = {**DATASET_JSON, "channel_names": {"0": "MRI", "1": "MRI"}}
    plan_as(run, tiny_plans(), two)

    with pytest.raises(InputError, match="number of channels is 1, here 2"):
        pretrained_checkpoint(run, "11", "nnunet")


def test_a_model_of_the_very_dataset_is_refused(two_datasets):
    workspace, _ = two_datasets
    run = method_of("nnunet", "smoke").run(
        Dataset(workspace, "Dataset011_Leg"), "2d", 1
    )
    plan_as(run, tiny_plans())

    with pytest.raises(UsageError, match="may have seen the validation cases"):
        pretrained_checkpoint(run, "11", "nnunet")


def test_without_such_a_model_nothing_begins(two_datasets):
    _, run = two_datasets

    with pytest.raises(UsageError):
        pretrained_checkpoint(run, "77", "nnunet")
