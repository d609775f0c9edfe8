"""Small networks with random weights, and a smoke trainer that has one."""

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet

from nnunet_bridge.nnunet.trainers.budgets import BridgeSmokeTrainer


def small_network(dimensions, kernels, strides, *, convolutions, kind=PlainConvUNet):
    """Return a network of three stages for one channel and three classes."""
    torch.manual_seed(1)
    operator = getattr(torch.nn, f"Conv{dimensions}d")
    return kind(
        *(1, 3, (8, 16, 24), operator, kernels, strides, convolutions, 3, 1),
        conv_bias=True,
        norm_op=getattr(torch.nn, f"InstanceNorm{dimensions}d"),
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        deep_supervision=False,
    )


def cpu_trainer(network):
    """Return a smoke trainer on the CPU that has set up this network."""
    trainer = BridgeSmokeTrainer.__new__(BridgeSmokeTrainer)
    trainer.device, trainer.initial_lr = torch.device("cpu"), 3e-3
    trainer.network = network
    trainer.configure_optimizers()
    return trainer
