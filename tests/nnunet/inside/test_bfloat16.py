"""Mixed precision of a smoke training on a CPU: its steps only, never a prediction."""

import copy
from pathlib import Path

import pytest
import torch
from small_networks import cpu_trainer, small_network

from nnunet_bridge.nnunet.inside import cpu_steps
from nnunet_bridge.nnunet.inside.cpu_steps import (
    cpu_has_bfloat16,
    speed_up_norms,
    train_in_bfloat16,
)


def network():
    return small_network(2, 3, (1, 2, 2), convolutions=2)


@pytest.fixture
def both():
    """Return a network, and its copy that trains in bfloat16."""
    exact = network()
    mixed = copy.deepcopy(exact)
    train_in_bfloat16(mixed)
    return exact, mixed


def test_a_prediction_is_not_changed(both):
    image = torch.randn(2, 1, 32, 40)

    exact, mixed = (net.eval()(image) for net in both)

    assert torch.equal(exact, mixed)


def test_a_step_has_nearly_the_gradients_of_float32(both):
    image, labels = torch.randn(4, 1, 32, 40), torch.randint(0, 3, (4, 32, 40))
    gradients = []
    for net in both:
        outputs = net.train()(image)
        assert outputs.dtype == torch.float32
        torch.nn.functional.cross_entropy(outputs, labels).backward()
        weights = [w.grad for w in net.parameters() if w.grad is not None]
        assert all(grad.dtype == torch.float32 for grad in weights)
        gradients.append(torch.cat([grad.flatten() for grad in weights]))

    exact, mixed = gradients
    assert not torch.equal(exact, mixed), "it was computed in bfloat16"
    assert torch.linalg.norm(mixed - exact) < 0.2 * torch.linalg.norm(exact)


@pytest.mark.parametrize("can", [True, False])
def test_a_trainer_uses_it_where_the_cpu_has_it(can, monkeypatch):
    monkeypatch.setattr(cpu_steps, "cpu_has_bfloat16", lambda: can)
    names = network().state_dict().keys()

    trainer = cpu_trainer(network())

    speed_up_norms(exact := network())
    plain = exact.train()(image := torch.randn(1, 1, 32, 40))
    assert torch.equal(trainer.network.train()(image), plain) != can
    assert trainer.network.state_dict().keys() == names, "nnU-Net reads its checkpoint"


def test_what_the_cpu_has_is_what_the_system_says():
    """On Linux, the kernel names the instructions of the CPU."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except FileNotFoundError:
        pytest.skip("no /proc/cpuinfo: this system does not name them so")
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch does not name the instructions of the CPU")

    assert cpu_has_bfloat16() == bool({"avx512_bf16", "amx_bf16"} & words)
