"""Faster gradients and norms of a smoke training are those of double precision."""

import copy

import pytest
import torch
from dynamic_network_architectures.architectures.unet import (
    PlainConvUNet,
    ResidualEncoderUNet,
)
from small_networks import cpu_trainer, small_network

from nnunet_bridge.nnunet.inside import cpu_steps
from nnunet_bridge.nnunet.inside.cpu_steps import speed_up_gradients, speed_up_norms

NAME = "_ConvolutionBackward"


def network(kind=PlainConvUNet):
    kernels, strides = ((1, 3, 3), 3, 3), (1, 2, (1, 2, 2))
    return small_network(3, kernels, strides, convolutions=1, kind=kind)


def gradients(net, images):
    """Return the gradients of the images and of all weights that learn."""
    learning = images.clone().requires_grad_()
    outputs = net.train()(learning)
    shares = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype)
    (outputs * shares.reshape(outputs.shape)).square().sum().backward()
    return outputs, [learning.grad, *(w.grad for w in net.parameters())]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2, (1, 2, 2)])
@pytest.mark.parametrize(
    ("kernel", "padding"), [(3, 1), ((1, 3, 3), (0, 1, 1)), (2, 0)]
)
def test_the_gradients_of_a_convolution_are_the_exact_ones(
    kernel, padding, stride, bias
):
    torch.manual_seed(2)
    ours = torch.nn.Conv3d(5, 7, kernel, stride, padding, bias=bias)
    exact = copy.deepcopy(ours).double()
    speed_up_gradients(ours)
    images = torch.randn(2, 5, 9, 10, 11)

    outputs, found = gradients(ours, images)
    expected_outputs, expected = gradients(exact, images.double())

    assert NAME in type(outputs.grad_fn).__name__
    torch.testing.assert_close(outputs.double(), expected_outputs, atol=1e-5, rtol=1e-4)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-5 * other.abs().max()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_norms_and_their_gradients_are_the_exact_ones(dimensions, affine):
    torch.manual_seed(3)
    kind = getattr(torch.nn, f"InstanceNorm{dimensions}d")
    plain = kind(6, eps=1e-5, affine=affine)
    for weights in plain.parameters():
        torch.nn.init.normal_(weights)
    ours, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    speed_up_norms(ours)
    images = 50 + 3 * torch.randn(2, 6, *(9, 10, 11)[:dimensions])

    outputs, found = gradients(ours, images)
    expected_outputs, expected = gradients(exact, images.double())

    assert "GroupNorm" in type(outputs.grad_fn).__name__
    torch.testing.assert_close(outputs.double(), expected_outputs, atol=1e-4, rtol=1e-4)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-4 * other.abs().max()
    with torch.no_grad():
        assert torch.equal(*(net.eval()(images) for net in (ours, plain)))


@pytest.mark.parametrize("kind", [PlainConvUNet, ResidualEncoderUNet])
def test_a_network_keeps_its_outputs_and_nearly_its_gradients(kind):
    plain = network(kind)
    ours = copy.deepcopy(plain)
    speed_up_gradients(ours)
    images = torch.randn(2, 1, 8, 16, 24)

    outputs, found = gradients(ours, images)
    expected_outputs, expected = gradients(plain, images)

    assert torch.equal(outputs, expected_outputs)
    one, other = (
        torch.cat([grad.flatten() for grad in grads if grad is not None])
        for grads in (found, expected)
    )
    assert torch.linalg.norm(one - other) < 1e-4 * torch.linalg.norm(other)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(*(net.eval()(images) for net in (ours, plain)))


@pytest.mark.parametrize(
    "options",
    [
        {"in_channels": 1, "kernel_size": 3},
        {"in_channels": 4, "kernel_size": 1},
        {"in_channels": 4, "kernel_size": 3, "groups": 2},
        {"in_channels": 4, "kernel_size": 3, "dilation": 2},
        {"in_channels": 4, "kernel_size": 3, "padding": "same"},
        {"in_channels": 4, "kernel_size": 3, "padding_mode": "reflect", "padding": 1},
    ],
    ids=str,
)
def test_other_convolutions_stay_as_they_are(options):
    module = torch.nn.Conv3d(out_channels=4, **options)

    speed_up_gradients(module)

    assert "forward" not in vars(module)


@pytest.mark.parametrize(
    ("capability", "bfloat16", "faster"),
    [("AVX2", False, True), ("AVX512", False, False), ("AVX2", True, False)],
)
def test_a_trainer_uses_them_where_they_are_faster(
    capability, bfloat16, faster, monkeypatch
):
    monkeypatch.setattr(cpu_steps, "cpu_has_bfloat16", lambda: bfloat16)
    monkeypatch.setattr(cpu_steps, "cpu_capability", lambda: capability)

    trainer = cpu_trainer(network())

    changed = {
        type(module)
        for module in trainer.network.encoder.modules()
        if "forward" in vars(module)
    }
    convolutions = {torch.nn.Conv3d} if faster else set()
    assert changed == {torch.nn.InstanceNorm3d} | convolutions, "norms everywhere"
