"""OpenVINO computes every kind of network as torch does, from a private folder."""

import copy
import json
import sys
import threading
import warnings

import numpy as np
import pytest
from test_streaming import SETTINGS, streamed, write_image, write_model
from tiny_model import golden_plans

from nnunet_bridge.formats.nifti import read_array

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch and nnU-Net warn while they are imported
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    from nnunet_bridge.nnunet.inside.converted import (
        Converted,
        NotConvertedError,
        converted,
        smallest_step,
    )
    from nnunet_bridge.nnunet.methods import method_of
    from nnunet_bridge.nnunet.trainers.resnet34 import ResNet34UNet

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and nnU-Net
RESENC = "nnUNetResEncUNetMPlans"


def planned_network(configuration, plans="nnUNetPlans", model="nnunet"):
    """Return the network of a smoke run, and the strides of its stages."""
    planned = method_of(model, "smoke").plans_from(golden_plans(plans))
    architecture = planned["configurations"][configuration]["architecture"]
    torch.manual_seed(3)
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        3,
        deep_supervision=False,
    )
    return network.eval(), architecture["arch_kwargs"]["strides"]


NETWORKS = {
    "2d": lambda: (*planned_network("2d"), (64, 96)),
    "3d": lambda: (*planned_network("3d_fullres"), (32, 48, 48)),
    "residual encoder": lambda: (
        *planned_network("3d_fullres", RESENC, "resenc-m"),
        (32, 32, 48),
    ),
    "ResNet34": lambda: (ResNet34UNet(1, 3, (32, 16, 8, 8, 8)).eval(), None, (64, 96)),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_logits_are_those_of_torch_but_for_rounding(kind, tmp_path):
    network, strides, patch = NETWORKS[kind]()
    window = torch.randn(1, 1, *patch)
    step = smallest_step(strides, patch)

    with torch.inference_mode():
        theirs = network(window)
        ours = converted(network, (1, *patch), (1, *step), tmp_path / "kept")(window)

    assert all(weights.is_meta for weights in network.parameters()), "not freed"

    assert step != patch or strides is None
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * theirs.abs().max())
    decided = theirs.sort(1).values.diff(dim=1)[:, -1] > 1e-3
    assert torch.equal(ours.argmax(1)[decided], theirs.argmax(1)[decided])


def side_by_side(file, patch):
    """Return the windows of an image that do not overlap, (n, 1, ...)."""
    volume, size = read_array(file)[1].T.astype(np.float32), (1, *patch)[-3:]
    parts = np.lib.stride_tricks.sliding_window_view(volume, size)
    parts = parts[tuple(slice(None, None, edge) for edge in size)]
    return torch.from_numpy(parts.reshape(-1, 1, *patch).copy())


def teach(network, windows, labels):
    """Teach a network for a second where bone is."""
    optimizer = torch.optim.Adam(network.train().parameters(), 1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(windows), labels).backward()
        optimizer.step()
    network.eval()


@pytest.mark.parametrize("kind", ["residual encoder", "ResNet34"])
def test_the_labels_of_a_real_image_are_those_of_torch(kind, test_data, tmp_path):
    network, strides, patch = NETWORKS[kind]()
    folder, case = test_data / "train" / "spine_vb_2mm", "spine_01.nii.gz"
    windows = side_by_side(folder / "imagesTr" / case, patch)
    windows = (windows - windows.mean()) / windows.std()
    bones = side_by_side(folder / "labelsTr" / case, patch)[:, 0].long().clamp(0, 2)
    most = (bones > 0).flatten(1).sum(1).argsort(descending=True)[: 4 // len(patch)]
    inner = np.s_[..., 8:24, :32, 8:40] if len(patch) == 3 else np.s_[...]
    teach(network, windows[most][inner], bones[most][inner])
    step = smallest_step(strides, patch)

    with torch.inference_mode():
        own = copy.deepcopy(network)
        ours = converted(own, (1, *patch), (1, *step), tmp_path / "kept")
        pairs = [
            [one(window[None]).argmax(1) for one in (ours, network)]
            for window in windows
        ]

    labels, theirs = (torch.cat(one) for one in zip(*pairs, strict=True))
    assert len(theirs.unique()) > 1
    different = (labels != theirs).flatten(1).float().mean(1)
    assert different.mean() <= 1e-4
    # OpenVINO differs more in windows of which much is padding, which has one value:
    # probably its instance normalisation, of which ResNet34 has none.
    padding = (windows == windows.flatten().mode().values).flatten(1).float().mean(1)
    counted = different if kind == "ResNet34" else different[padding < 0.05]
    assert len(counted) >= 3
    assert counted.mean() <= 1e-5


@pytest.mark.parametrize("name", ["2d, planes of another size", "3d, transposed"])
def test_labels_of_an_image_are_those_of_torch(name, tmp_path):
    setting, folder = SETTINGS[name], tmp_path / "kept"
    images = write_image(tmp_path / "images", setting)
    member = write_model(tmp_path / "model", setting), setting.folds

    by_torch, _ = streamed(images, tmp_path / "torch", member)
    labels, _ = streamed(images, tmp_path / "openvino", member, openvino=folder)

    engine = json.loads((tmp_path / "openvino" / "engine.json").read_text())
    assert engine == {"engine": "openvino"}
    assert np.count_nonzero(labels != by_torch) <= 1e-5 * labels.size
    assert len(list(folder.iterdir())) == setting.folds  # once for each checkpoint
    assert folder.stat().st_mode & 0o077 == 0
    assert sys.modules["openvino_telemetry"] is None  # no statistics are sent


def test_a_network_is_converted_once_and_another_one_anew(tmp_path, monkeypatch):
    network, strides, patch = NETWORKS["2d"]()
    sizes = (1, *patch), (1, *smallest_step(strides, patch))

    with torch.inference_mode():
        converted(copy.deepcopy(network), *sizes, tmp_path / "kept")
        monkeypatch.setattr("openvino.convert_model", None)
        converted(copy.deepcopy(network), *sizes, tmp_path / "kept")
        next(network.parameters()).add_(1)

        with pytest.raises(NotConvertedError):
            converted(network, *sizes, tmp_path / "kept")


def test_the_first_call_ends_before_windows_are_computed_at_once(tmp_path, monkeypatch):
    """Two first calls at once could wait for each other: seen with OpenVINO 2026."""
    calls, forward = [], Converted.forward

    def seen(self, window):
        calls.append(threading.current_thread())
        return forward(self, window)

    network, kept = torch.nn.Conv2d(1, 2, 3).eval(), tmp_path / "kept"
    with torch.inference_mode():
        converted(copy.deepcopy(network), (1, 16, 16), (1, 8, 8), kept)
        monkeypatch.setattr(Converted, "forward", seen)

        converted(network, (1, 16, 16), (1, 8, 8), kept)

    assert calls == [threading.main_thread()]


class Doubtful(torch.nn.Module):
    """A network whose computation depends on the size of the window."""

    def forward(self, window):
        return window * float(window.shape[-1])


@pytest.mark.parametrize("fault", ["another answer", "others can write there"])
def test_torch_predicts_what_openvino_does_not_compute(fault, tmp_path):
    network, kept = Doubtful(), tmp_path / "kept"
    kept.mkdir(0o700)
    reason = "not those of torch"
    if fault == "others can write there":
        kept.chmod(0o777)
        reason = "others can write"

    with pytest.raises(NotConvertedError, match=reason), torch.inference_mode():
        converted(network, (1, 8, 8), (1, 4, 4), kept)

    assert list(kept.iterdir()) == []


def test_without_a_conversion_the_labels_are_those_of_torch(tmp_path):
    setting = SETTINGS["2d, nothing to resample"]
    images = write_image(tmp_path / "images", setting)
    member = write_model(tmp_path / "model", setting), 1
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o777)

    by_torch, _ = streamed(images, tmp_path / "torch", member)
    labels, _ = streamed(images, tmp_path / "ours", member, openvino=closed)

    engine = json.loads((tmp_path / "ours" / "engine.json").read_text())
    assert engine["engine"] == "torch"
    assert "others can write" in engine["reason"]
    assert np.array_equal(labels, by_torch)
