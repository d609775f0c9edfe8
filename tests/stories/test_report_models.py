"""The report's networks on five tiny patients: trained, compared, packed, gone on with.

Two epochs of two steps each: what they learn is nothing, that they fit in is all.
"""

import json
import warnings

import pytest
from small_study import LAB as DATASET

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.formats.labels_file import read_label_table
from nnunet_bridge.formats.nifti import read_labelmap, read_volume
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.comparison.compare import (
    ComparisonOptions,
    compare_dataset,
)
from nnunet_bridge.pipeline.models.choose import ModelRequest
from nnunet_bridge.pipeline.models.pack import pack_model, unpack_model
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images
from nnunet_bridge.pipeline.training.request import TrainingRequest
from nnunet_bridge.pipeline.training.train import train_dataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns while it is imported
    import segmentation_models_pytorch as smp
    import torch

pytestmark = pytest.mark.training


def train(workspace, model, **options):
    request = TrainingRequest(
        method_of(model, "smoke"), ("2d",), options=TrainingOptions("cpu", **options)
    )
    return train_dataset(Dataset(workspace, DATASET), request)


@pytest.fixture(scope="module")
def workspace(lab, few_steps):
    assert few_steps
    return Workspace.at(lab / "work", environment={})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "resnet34.pth"
    torch.manual_seed(0)
    encoder = smp.encoders.get_encoder("resnet34", in_channels=3, weights=None)
    torch.save(encoder.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def trained(workspace, weights):
    """Both networks, each trained once."""
    return {
        "unet2d": train(workspace, "unet2d", patience=1),
        "resnet34-frozen": train(workspace, "resnet34-frozen", weights=weights),
    }


def record(workspace, model):
    run = method_of(model, "smoke").run(Dataset(workspace, DATASET), "2d", 0)
    return json.loads(run.record_file.read_text())


def test_both_finish_and_their_records_name_what_they_began_with(workspace, trained):
    for summary in trained.values():
        assert summary.failures == ()
        assert [state.state for state in summary.runs] == ["done"]
    assert len(record(workspace, "resnet34-frozen")["encoder_weights"]) == 64
    assert record(workspace, "unet2d")["patience"] == 1
    assert record(workspace, "resnet34-frozen")["patience"] == 20


def test_a_run_is_not_taken_for_one_with_other_weights(
    workspace, trained, weights, tmp_path
):
    assert trained
    other = tmp_path / "other.pth"
    other.write_bytes(weights.read_bytes() + b"\0")

    with pytest.raises(InputError, match="the initial weights of its encoder"):
        train(workspace, "resnet34-frozen", weights=other)


def test_weights_of_another_network_end_it_before_it_begins(workspace, tmp_path):
    wrong = tmp_path / "wrong.pth"
    torch.save({"w": torch.zeros(1)}, wrong)

    with pytest.raises(InputError, match=r"lack conv1\.weight"):
        train(workspace, "resnet34", weights=wrong)


def test_they_predict_and_stand_in_one_table(workspace, trained, tmp_path):
    images = sorted((workspace.raw_dir / DATASET / "imagesTr").glob("*.nii.gz"))[:1]

    for model in trained:
        predict_images(
            Dataset(workspace, DATASET),
            images,
            tmp_path / model,
            PredictionOptions(ModelRequest(budget="smoke", kind=model)),
        )
        found = next((tmp_path / model).rglob("labels.nii.gz"))
        labels = workspace.raw_dir / DATASET / "dataset.json"
        labelmap = read_labelmap(found, read_label_table(labels))
        assert labelmap.grid.matches(read_volume(images[0]).grid)

    compared = compare_dataset(
        Dataset(workspace, DATASET),
        tmp_path / "page",
        ComparisonOptions(["2d"], list(trained)),
    )
    assert (compared.folder / "index.html").is_file()
    text = (compared.folder / "comparison.csv").read_text()
    assert "unet2d 2d" in text
    assert "resnet34-frozen 2d" in text


def test_a_packed_one_predicts_elsewhere_and_is_gone_on_with(
    workspace, trained, tmp_path
):
    assert trained
    packed = tmp_path / "unet.zip"
    pack_model(
        Dataset(workspace, DATASET),
        packed,
        ModelRequest(budget="smoke", kind="unet2d"),
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    unpacked = unpack_model(Workspace.at(elsewhere, environment={}), packed)
    images = sorted((workspace.raw_dir / DATASET / "imagesTr").glob("*.nii.gz"))[:1]

    unpacked_there = Dataset(Workspace.at(elsewhere, environment={}), DATASET)
    found = predict_images(unpacked_there, images, tmp_path / "out")

    assert unpacked.folds == ("0",)
    assert found.exit_code == 0
    with pytest.raises(UsageError, match="trained on Dataset001_Tibia itself"):
        train(workspace, "unet2d", restart=True, pretrained=str(packed))
