"""The report's networks, losses and training, and what belongs to every trainer."""

import argparse
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import DATASET_JSON, golden_plans

from nnunet_bridge.core.errors import InputError, SecurityError
from nnunet_bridge.formats.events import read_events
from nnunet_bridge.nnunet.inside import encoder_weights as weights_task
from nnunet_bridge.nnunet.inside import events
from nnunet_bridge.nnunet.inside.encoder_weights import (
    fitted,
    for_channels,
    prepare_encoder,
    read_state_dict,
)
from nnunet_bridge.nnunet.inside.events import EventWriter
from nnunet_bridge.nnunet.inside.sides import mirrored_in_prediction
from nnunet_bridge.nnunet.inside.stopping import (
    epochs_without_progress,
    stop_early,
    stop_without_loss,
)
from nnunet_bridge.nnunet.inside.training import TrainerHooks, _load_without_gpu
from nnunet_bridge.nnunet.inside.wrappers import compilation_fails
from nnunet_bridge.nnunet.methods import METHODS, method_of
from nnunet_bridge.nnunet.report_plans import RESNET_34, UNET_2D
from nnunet_bridge.nnunet.trainers.report_augmentation import FlipLeftRight
from nnunet_bridge.nnunet.trainers.report_losses import (
    ReportLoss,
    categorical_focal_loss,
)
from nnunet_bridge.nnunet.trainers.report_training import FallingRate
from nnunet_bridge.nnunet.trainers.unet2d import UNet2d

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")  # of torch and nnU-Net, not ours
    for kind in ("FutureWarning", "DeprecationWarning", "UserWarning")
]
REPORT = UNET_2D.size["features"]
AXIAL = (1, 0, 0, 0, 1, 0, 0, 0, 1)
SIDED = {"background": 0, "hip_left": 1, "hip_right": 2}
SMALL = {"features": [4, 6, 8, 10, 12], "decoder": [16, 8, 8, 4, 4]}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def trainer_of(tmp_path, monkeypatch):
    """Return a function that makes a trainer of nnU-Net with an empty dataset."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    import nnunet_bridge.nnunet.trainers as ours

    monkeypatch.setenv("nnUNet_extTrainer", str(Path(ours.__file__).parent))

    def make(
        model,
        budget="smoke",
        configuration="2d",
        *,
        labels=None,
        direction=AXIAL,
        patch=None,
    ):
        from batchgenerators.utilities.file_and_folder_operations import save_pickle
        from nnunetv2.run.run_training import get_trainer_from_args

        method = method_of(model, budget)
        plans = method.plans_from(golden_plans(method.stock_plans))
        for size in SMALL.keys() & plans.get("nnunet_bridge", {}).get("2d", {}).keys():
            plans["nnunet_bridge"]["2d"][size] = SMALL[size]
        planned = plans["configurations"][configuration]
        if patch:
            planned["patch_size"] = patch
        folder = tmp_path / "preprocessed" / plans["dataset_name"]
        data = folder / planned["data_identifier"]
        data.mkdir(parents=True, exist_ok=True)
        for case in ("a", "b"):
            (data / f"{case}.b2nd").touch()
            properties = {"sitk_stuff": {"direction": direction}}
            save_pickle(properties, str(data / f"{case}.pkl"))
        description = {**DATASET_JSON, "labels": labels or DATASET_JSON["labels"]}
        for name, content in (
            (method.plans, plans),
            ("dataset", description),
            ("splits_final", [{"train": ["a"], "val": ["b"]}]),
        ):
            (folder / f"{name}.json").write_text(json.dumps(content))
        return get_trainer_from_args(
            plans["dataset_name"],
            configuration,
            0,
            method.trainer,
            method.plans,
            device=torch.device("cpu"),
        )

    return make


def batch(channels=1, edge=32, classes=3):
    torch.manual_seed(1)
    return {
        "data": torch.randn(2, channels, edge, edge),
        "target": torch.randint(0, classes, (2, 1, edge, edge)),
    }


def block(before, after):
    """Return the weights of twice convolution with bias and batch normalisation."""
    return 9 * before * after + 9 * after**2 + 2 * after + 4 * after


# the networks


@pytest.mark.parametrize(("channels", "classes"), [(1, 5), (3, 2)])
def test_the_u_net_has_as_many_weights_as_its_drawing(channels, classes):
    encoder = sum(map(block, [channels, *REPORT], REPORT))
    up = sum(9 * a * b + b for a, b in zip(REPORT[1:], REPORT, strict=False))
    decoder = sum(block(2 * b, b) for b in REPORT[:-1])
    head = REPORT[0] * classes + classes

    network = UNet2d(channels, classes, REPORT)

    found = sum(p.numel() for p in network.parameters())
    assert found == encoder + block(480, 480) + up + decoder + head


@pytest.mark.parametrize("size", [(16, 16), (48, 80)])
def test_the_u_net_gives_one_output_a_class_at_every_pixel(size):
    network = UNet2d(1, 5, SMALL["features"]).eval()

    assert network(torch.zeros(2, 1, *size)).shape == (2, 5, *size)


def test_the_fifth_level_is_not_pooled():
    network, seen = UNet2d(1, 2, SMALL["features"]).eval(), []
    network.bottleneck.register_forward_hook(lambda *_, **__: seen.append(_[2].shape))

    network(torch.zeros(1, 1, 32, 32))

    assert seen[0][2:] == (2, 2)


def test_the_resnet_is_a_resnet34_with_its_known_number_of_weights(trainer_of):
    trainer = trainer_of("resnet34")
    trainer.initialize()

    encoder = trainer.network.encoder
    known = 21_797_672 - (512 * 1000 + 1000) - 2 * 64 * 49  # no classifier, grey
    assert sum(p.numel() for p in encoder.parameters()) == known
    assert trainer.network.eval()(torch.zeros(1, 1, 64, 32)).shape == (1, 3, 64, 32)


# the losses


@pytest.mark.parametrize("classes", [2, 5])
def test_the_losses_of_a_network_that_knows_nothing_are_those_of_the_formulas(classes):
    logits = torch.zeros(2, classes, 8, 8)
    target = torch.zeros(2, 1, 8, 8)
    pixels, p = 128, 1 / classes
    dice = (2 * pixels * p + 1e-5) / (pixels + pixels * p + 1e-5)
    dice += (classes - 1) * 1e-5 / (pixels * p + 1e-5)
    focal = 0.25 * (1 - p) ** 2 * math.log(classes) / classes

    without = ReportLoss(with_focal=False)(logits, target)
    both = ReportLoss(with_focal=True)(logits, target)

    assert without.item() == pytest.approx(1 - dice / classes, abs=1e-6)
    assert both.item() == pytest.approx(1 - dice / classes + focal, abs=1e-6)


def test_a_perfect_answer_costs_nothing():
    target = batch()["target"]
    logits = 100.0 * torch.nn.functional.one_hot(target[:, 0], 3).permute(0, 3, 1, 2)

    assert ReportLoss(with_focal=True)(logits, target).item() < 1e-6


def test_the_focal_loss_is_the_mean_over_pixels_and_classes():
    logits, target = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 1, 5, 6))
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    y = np.moveaxis(np.eye(4)[target[:, 0].numpy()], -1, 1)

    expected = (-0.25 * y * (1 - p) ** 2 * np.log(p)).mean()

    assert categorical_focal_loss(logits, target).item() == pytest.approx(expected)


def test_ignored_voxels_count_in_no_loss():
    logits, target = torch.randn(1, 3, 4, 8), torch.randint(0, 3, (1, 1, 4, 8))
    ignored = torch.cat([target, torch.full_like(target, 3)], dim=-1)
    wide = torch.cat([logits, torch.randn(1, 3, 4, 8)], dim=-1)

    loss = ReportLoss(with_focal=True, ignore_label=3)(wide, ignored)

    torch.testing.assert_close(loss, ReportLoss(with_focal=True)(logits, target))


# the training


def test_the_learning_rate_falls_as_the_report_says():
    parameter = torch.nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([parameter], lr=1e-4)
    schedule = FallingRate(adam, RESNET_34.learning_rate, RESNET_34.learning_rate_fall)

    found = []
    for epoch in (0, 1, 39, 100, 200):
        schedule.step(epoch)
        found.append(adam.param_groups[0]["lr"])

    np.testing.assert_allclose(found, [1e-4, 0.99e-4, 0.61e-4, 0, 0], atol=1e-18)


@pytest.mark.parametrize("model", ["unet2d", "resnet34", "resnet34-frozen"])
def test_the_report_trains_with_adam_at_the_rate_of_its_plans(trainer_of, model):
    trainer = trainer_of(model, "full")
    trainer.initialize()

    assert isinstance(trainer.optimizer, torch.optim.Adam)
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-4
    assert trainer.num_epochs == 50
    assert trainer.loss.with_focal == (model != "unet2d")


def test_a_frozen_encoder_gets_no_gradient_and_keeps_its_statistics(trainer_of):
    trainer = trainer_of("resnet34-frozen")
    trainer.initialize()
    encoder = trainer.network.encoder
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    decoder = next(trainer.network.net.decoder.parameters()).clone()

    trainer.on_train_epoch_start()
    trainer.train_step(batch())

    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())
    assert not torch.equal(next(trainer.network.net.decoder.parameters()), decoder)


def test_a_tuned_encoder_learns(trainer_of):
    trainer = trainer_of("resnet34")
    trainer.initialize()
    before = trainer.network.encoder.conv1.weight.clone()

    trainer.on_train_epoch_start()
    trainer.train_step(batch())

    assert not torch.equal(trainer.network.encoder.conv1.weight, before)


def end_of_epoch(trainer, f1):
    """Let an epoch end as nnU-Net does, with one validation F1."""
    epoch = trainer.current_epoch
    trainer.logger.plot_progress_png = lambda _folder: None
    for key, value in (
        ("epoch_start_timestamps", 0.0),
        ("train_losses", 0.5),
        ("val_losses", 0.5),
        ("dice_per_class_or_region", [f1]),
        ("mean_fg_dice", f1),
    ):
        trainer.logger.log(key, value, epoch)
    trainer.on_epoch_end()


def test_the_epoch_with_the_best_f1_becomes_the_final_model(trainer_of):
    trainer = trainer_of("unet2d")
    trainer.initialize()
    Path(trainer.output_folder).mkdir(parents=True, exist_ok=True)
    for bias, f1 in ((1.0, 0.4), (2.0, 0.9), (3.0, 0.6)):
        torch.nn.init.constant_(trainer.network.head.bias, bias)
        end_of_epoch(trainer, f1)

    trainer.on_train_end()

    final = torch.load(
        Path(trainer.output_folder, "checkpoint_final.pth"), weights_only=False
    )
    assert final["network_weights"]["head.bias"].tolist() == [2.0] * 3


@pytest.mark.parametrize("model", ["unet2d", "resnet34"])
def test_a_saved_model_predicts_the_same_after_it_is_loaded(
    trainer_of, model, tmp_path, monkeypatch
):
    trainer = trainer_of(model)
    trainer.initialize()
    trainer.train_step(batch())
    trainer.save_checkpoint(str(tmp_path / "saved.pth"))
    monkeypatch.setattr(weights_task, "read_state_dict", None)  # nothing is loaded
    weights = torch.load(tmp_path / "saved.pth", weights_only=False)["network_weights"]

    again = type(trainer).build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 3
    )
    again.load_state_dict(weights)

    image = batch()["data"]
    with torch.no_grad():
        assert torch.equal(again.eval()(image), trainer.network.eval()(image))


# the weights of an encoder


@pytest.fixture(scope="module")
def encoder():
    import segmentation_models_pytorch as smp

    return smp.encoders.get_encoder("resnet34", in_channels=3, weights=None)


def test_grey_through_the_summed_convolution_is_grey_repeated_as_colours(encoder):
    first = encoder.conv1.weight.detach()
    grey = torch.randn(1, 1, 16, 16)

    summed = torch.nn.functional.conv2d(grey, for_channels(first, 1))

    repeated = torch.nn.functional.conv2d(grey.repeat(1, 3, 1, 1), first)
    torch.testing.assert_close(summed, repeated)


def test_the_encoder_begins_with_the_weights_of_the_file(trainer_of, encoder, tmp_path):
    torch.save(encoder.state_dict(), tmp_path / "weights.pth")
    trainer = trainer_of("resnet34-frozen")
    trainer.encoder_weights = tmp_path / "weights.pth"

    trainer.initialize()

    found = trainer.network.encoder.state_dict()
    assert torch.equal(found["layer3.5.conv2.weight"], encoder.layer3[5].conv2.weight)
    assert torch.equal(found["conv1.weight"], encoder.conv1.weight.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("change", "output"),
    [
        (lambda w: w.pop("layer4.2.bn2.bias"), r"lack layer4\.2\.bn2\.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), "hold extra"),
        (
            lambda w: w.update({"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}),
            r"layer1\.0\.conv1\.weight has the shape \(64, 64, 1, 1\)",
        ),
        (lambda w: w.update({"conv1.weight": torch.zeros(3)}), r"conv1\.weight has"),
    ],
    ids=["missing", "superfluous", "shape", "first convolution"],
)
def test_weights_of_another_network_are_refused_and_the_first_named(
    encoder, change, output
):
    weights = encoder.state_dict()
    change(weights)

    with pytest.raises(InputError, match=output):
        fitted(weights, encoder.state_dict())


def test_a_classifier_is_left_behind_and_counters_are_not_needed(encoder):
    weights = {k: v for k, v in encoder.state_dict().items() if "num_batches" not in k}
    weights["fc.weight"] = torch.zeros(1000, 512)

    assert fitted(weights, encoder.state_dict()).keys() == encoder.state_dict().keys()


def test_a_file_of_weights_that_would_run_something_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")

    with pytest.raises(SecurityError, match="more than tensors"):
        read_state_dict(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_without_a_network_the_way_out_is_named(tmp_path, monkeypatch):
    import segmentation_models_pytorch as smp

    def no_network(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(smp.encoders, "get_encoder", no_network)
    answer = tmp_path / "answer.json"

    prepare_encoder(
        argparse.Namespace(weights=None, out=tmp_path / "out.pth", answer=answer)
    )

    report = json.loads(answer.read_text())
    assert report["fault"] == "EnvironmentFault"
    assert "--weights FILE" in report["message"]
    assert "--from-scratch" in report["message"]


# left and right


def prepared(trainer, tmp_path):
    TrainerHooks(tmp_path / "events.jsonl").attach(trainer, rank=0)
    return trainer


def mirrored_axes(trainer):
    """Return what it mirrors in training and at test time."""
    *_, training = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    return training, trainer.inference_allowed_mirroring_axes


VOLUME = [40, 64, 64]


@pytest.mark.parametrize("model", [m for m, b in METHODS if b == "full"])
@pytest.mark.parametrize("budget", ["full", "smoke"])
def test_no_model_mirrors_a_left_bone_to_the_right(trainer_of, tmp_path, model, budget):
    """nnU-Net's own trainer does, as soon as `TrainerHooks` are attached."""
    if model == "resenc-l":
        model = "resenc-m"  # the same trainer; the golden plans are those of M
    known = method_of(model, budget).configurations
    configuration = "3d_fullres" if "3d_fullres" in known else "2d"
    patch = VOLUME if configuration == "3d_fullres" else None
    trainer = trainer_of(model, budget, configuration, labels=SIDED, patch=patch)

    training, testing = mirrored_axes(prepared(trainer, tmp_path))

    last = len(trainer.configuration_manager.patch_size) - 1
    assert last not in (training or ())
    assert last not in (testing or ())


def test_nnunets_own_trainer_keeps_the_mirrors_that_do_no_harm(trainer_of, tmp_path):
    trainer = trainer_of("nnunet", "full", "3d_fullres", labels=SIDED, patch=VOLUME)
    assert mirrored_axes(trainer) == ((0, 1, 2), (0, 1, 2))

    assert mirrored_axes(prepared(trainer, tmp_path)) == ((0, 1), (0, 1))


def test_a_dataset_whose_sides_are_one_label_is_mirrored_as_before(
    trainer_of, tmp_path
):
    trainer = trainer_of("nnunet", "full", "3d_fullres", patch=VOLUME)

    assert mirrored_axes(prepared(trainer, tmp_path))[1] == (0, 1, 2)


@pytest.mark.parametrize(
    ("direction", "left"),
    [(AXIAL, (0, 1)), ((0, 0, 1, 1, 0, 0, 0, -1, 0), (1, 2))],
    ids=["axial", "sagittal"],
)
def test_an_image_that_lies_otherwise_is_not_mirrored_wrongly_at_prediction(
    direction, left
):
    found = mirrored_in_prediction((0, 1, 2), SIDED, direction, (0, 1, 2), 3)

    assert found == left
    assert mirrored_in_prediction((0, 1, 2), ["hip"], direction, (0, 1, 2), 3) == (
        0,
        1,
        2,
    )


def test_the_reports_flip_gives_every_side_the_label_of_the_other(trainer_of):
    trainer = trainer_of("report-augmentation", "full", labels=SIDED)
    mirrored_axes(trainer)
    trainer.flip.probability = 1
    labels = torch.zeros(1, 4, 6, dtype=torch.int16)
    labels[..., :2], labels[..., 5:] = 1, 2
    image = torch.arange(24.0).reshape(1, 4, 6)

    found = trainer.flip(image=image, segmentation=labels)

    assert torch.equal(found["image"], image.flip(-1))
    assert found["segmentation"][0, 0].tolist() == [1, 0, 0, 0, 2, 2]


def test_one_patch_of_five_is_an_original_neither_turned_nor_flipped(trainer_of):
    """The report adds four augmented copies of each slice; it replaces none."""
    trainer = trainer_of("report-augmentation", "smoke", patch=[64, 64])
    rotation, flat, first_patch, _ = (
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    )
    transforms = trainer.get_training_transforms([64, 64], rotation, None, None, flat)
    torch.manual_seed(0)
    image = torch.rand(1, *first_patch)
    labels = torch.ones(1, *first_patch, dtype=torch.int16)
    low = [(edge - 64) // 2 for edge in first_patch]
    middle = image[0, low[0] : low[0] + 64, low[1] : low[1] + 64]

    found = [
        transforms(image=image.clone(), segmentation=labels.clone())["image"][0]
        for _ in range(300)
    ]

    originals = sum(torch.allclose(one, middle, atol=1e-4) for one in found)
    assert originals == pytest.approx(60, abs=21)  # three standard deviations


def test_flipping_twice_changes_nothing():
    flip = FlipLeftRight(1, {1: 2, 2: 1}, probability=1)
    once = flip(image=torch.randn(1, 4, 6), segmentation=torch.randint(0, 4, (1, 4, 6)))
    before = {name: value.clone() for name, value in once.items()}

    again = flip(**flip(**once))

    assert all(torch.equal(again[name], before[name]) for name in before)


def test_the_report_flips_half_of_the_patches():
    torch.manual_seed(0)
    flip = FlipLeftRight(0, {})

    share = np.mean([flip.get_parameters()["flipped"] for _ in range(2000)])

    assert share == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("labels", "direction"),
    [
        ({"background": 0, "hip_left": 1, "sacrum": 2}, AXIAL),
        (SIDED, (0, 0, 1, 1, 0, 0, 0, -1, 0)),
    ],
    ids=["a label without its twin", "left-right is across the slices"],
)
def test_where_no_flip_would_be_right_there_is_none(trainer_of, labels, direction):
    trainer = trainer_of("report-augmentation", labels=labels, direction=direction)

    mirrored_axes(trainer)

    assert trainer.flip is None


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_reports_augmentation_turns_slices_by_15_degrees_at_most(
    trainer_of, configuration
):
    patch = VOLUME if configuration == "3d_fullres" else [64, 64]
    trainer = trainer_of(
        "report-augmentation", "smoke", configuration, labels=SIDED, patch=patch
    )
    rotation, flat, first_patch, mirrored = (
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    )

    transforms = trainer.get_training_transforms(
        patch, rotation, None, mirrored, flat, use_mask_for_norm=[False]
    )
    found = transforms(
        image=torch.ones(1, *first_patch),
        segmentation=torch.ones(1, *first_patch, dtype=torch.int16),
    )

    assert np.degrees(rotation) == pytest.approx([-15, 15])
    assert mirrored is None
    assert list(found["image"].shape[1:]) == patch
    assert set(found["segmentation"].unique().tolist()) <= {0, 1, 2}


# stopping early


class Training:
    """nnU-Net's loop over the epochs, with validation losses that are given."""

    def __init__(self, losses, known=()):
        self.losses, self.logged = losses, list(known)
        self.current_epoch, self.num_epochs = len(self.logged), len(losses)
        self.ended = 0
        self.logger = self

    def get_value(self, key, step):
        assert (key, step) == ("val_losses", None)
        return self.logged

    def print_to_log_file(self, *_):
        pass

    def on_train_start(self):
        pass

    def on_epoch_end(self):
        self.logged.append(self.losses[self.current_epoch])
        self.current_epoch += 1

    def on_train_end(self):
        self.ended += 1

    def run_training(self):
        self.on_train_start()
        for _ in range(self.current_epoch, self.num_epochs):
            self.on_epoch_end()
        self.on_train_end()


LOSSES = [0.9, 0.5, 0.6, 0.7, 0.4, 0.5, 0.5, 0.5, 0.3]


@pytest.mark.parametrize(("patience", "epochs"), [(2, 4), (3, 8), (4, 9), (20, 9)])
@pytest.mark.parametrize("known", [0, 1, 3])
def test_a_training_ends_after_so_many_epochs_without_progress_resumed_or_not(
    tmp_path, patience, epochs, known
):
    training = Training(LOSSES, LOSSES[:known])
    stop_early(training, patience, EventWriter(tmp_path / "events.jsonl"))

    training.run_training()

    assert (training.current_epoch, training.ended) == (epochs, 1)
    report = read_events(tmp_path / "events.jsonl") if epochs < 9 else ()
    assert [event["epoch"] for event in report] == [epochs - 1] * (epochs < 9)


def test_a_training_that_had_stopped_trains_no_further_when_it_is_resumed(tmp_path):
    training = Training(LOSSES, LOSSES[:4])
    stop_early(training, 2, EventWriter(tmp_path / "events.jsonl"))

    training.run_training()

    assert (training.current_epoch, training.ended) == (4, 1)


def test_a_loss_that_is_no_number_is_no_progress():
    assert epochs_without_progress([0.5, math.nan, math.nan]) == 2


@pytest.mark.parametrize("model", ["nnunet", "report-augmentation", "resenc-m"])
def test_a_smoke_run_is_never_compiled_and_saves_every_epoch(trainer_of, model):
    trainer = trainer_of(model)
    trainer.device = torch.device("cuda")

    assert not trainer._do_i_compile()
    assert trainer.save_every == 1


def test_a_quick_run_saves_by_time_as_a_full_one(trainer_of):
    assert trainer_of("nnunet", "quick").save_every == 50
    assert trainer_of("unet2d", "quick").save_every == 1  # a tenth of the size


def test_every_weight_of_a_smoke_run_that_learns_gets_a_gradient(trainer_of):
    """Several GPUs wait for the gradient of every weight that is not frozen."""
    trainer = trainer_of("nnunet")
    trainer.initialize()

    trainer.network(torch.zeros(1, 1, 128, 128)).sum().backward()

    weights = dict(trainer.network.named_parameters())
    learning = {name for name, w in weights.items() if w.requires_grad}
    assert learning == {name for name, w in weights.items() if w.grad is not None}
    assert {name for name in weights if name not in learning} == {
        f"decoder.seg_layers.{n}.{kind}" for n in (0, 1) for kind in ("weight", "bias")
    }


def test_a_record_names_the_network_under_its_wrappers(trainer_of, tmp_path):
    trainer = trainer_of("nnunet")
    EventWriter(tmp_path / "events.jsonl").listen_to(trainer)
    trainer.initialize()
    trainer.network = torch.compile(trainer.network, backend="eager")
    trainer.on_train_start = lambda: None
    trainer.do_split = lambda: (["a"], ["b"])

    facts = events._facts(trainer)

    assert facts["architecture"] == "PlainConvUNet"


@pytest.mark.parametrize(
    ("batch_size", "gpus", "capability", "fails"),
    [
        (2, 1, (8, 0), False),
        (2, 2, (8, 0), True),
        (3, 2, (8, 0), True),
        (4, 2, (8, 0), False),
        (1, 1, (8, 0), False),
        (2, 1, (6, 1), True),
    ],
)
def test_nothing_is_compiled_where_that_would_fail(batch_size, gpus, capability, fails):
    assert compilation_fails(batch_size, gpus, capability) == fails


def test_weights_of_a_gpu_load_where_there_is_none(tmp_path, monkeypatch):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    network, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(torch.serialization, "location_tag", lambda _storage: "cuda:0")
        torch.save({"network_weights": network.state_dict()}, tmp_path / "gpu.pth")
    monkeypatch.setattr(
        torch.serialization,
        "_package_registry",
        torch.serialization._package_registry[:],
    )
    with pytest.raises(RuntimeError, match="CUDA"):
        load_pretrained_weights(other, str(tmp_path / "gpu.pth"))

    _load_without_gpu()
    load_pretrained_weights(other, str(tmp_path / "gpu.pth"))

    assert torch.equal(other.weight, network.weight)


def test_a_training_without_any_loss_in_an_epoch_fails(trainer_of):
    trainer, ended = trainer_of("nnunet"), []
    trainer.on_train_epoch_end = ended.append
    stop_without_loss(trainer)
    lost, found = {"loss": np.float32(np.nan)}, {"loss": np.float32(0.5)}

    trainer.on_train_epoch_end([lost, found])
    with pytest.raises(FloatingPointError, match="not a number in epoch 0"):
        trainer.on_train_epoch_end([lost, lost])

    assert ended == [[lost, found]]


def test_standard_has_nnunets_schedule_over_250_epochs(trainer_of):
    trainer = trainer_of("nnunet", "standard", patch=[64, 64])
    trainer.network = torch.nn.Linear(1, 1)
    optimizer, schedule = trainer.configure_optimizers()

    rates = []
    for epoch in (0, 125, 249):
        schedule.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])

    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (250, 250)
    assert type(optimizer) is torch.optim.SGD
    assert rates == pytest.approx([0.01 * (1 - e / 250) ** 0.9 for e in (0, 125, 249)])
