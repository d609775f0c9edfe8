"""nnU-Net's own training at the budgets `standard`, `quick` and `smoke`.

Source: nnU-Net (Isensee et al., *Nature Methods* 2021); the settings of `smoke` are
ours (decision 0006).

All are nnU-Net's own trainer with fewer steps. Their number is in the plans, under the
key ``nnunet_bridge``, so that a checkpoint has everything that made it:
``{"2d": {"epochs": 10, "iterations": 50, "validation_iterations": 5, ...}}``.
"""

import math
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_bridge.nnunet.inside.cpu_steps import keep_freed_memory, speed_up_steps
from nnunet_bridge.nnunet.inside.wrappers import plain_network

WARM_UP = 0.05  # share of the steps in which the learning rate rises to its maximum
LAST_LEARNING_RATE = 0.02  # learning rate at the end, as a share of its maximum


class BridgeQuickTrainer(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's trainer, augmentation and optimiser, with the steps of the plans."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net reads this signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.steps: dict[str, Any] = plans["nnunet_bridge"][configuration]
        self.num_epochs = int(self.steps["epochs"])
        self.num_iterations_per_epoch = int(self.steps["iterations"])
        self.num_val_iterations_per_epoch = int(self.steps["validation_iterations"])
        self.set_up()

    def set_up(self) -> None:
        """Add the settings of a derived trainer."""

    def plot_network_architecture(self) -> None:
        """Skip a plot that needs a package that is not installed."""


class BridgeStandardTrainer(BridgeQuickTrainer):
    """A quarter of nnU-Net's epochs; its learning rate falls to zero over them."""


class BridgeSmokeTrainer(BridgeQuickTrainer):
    """Few steps on a CPU, to check the pipeline; its scores are not results.

    AdamW with a short warm-up and a cosine to nearly zero, one output, nnU-Net's
    augmentation without mirroring (which would make prediction four to eight times as
    long).
    """

    def set_up(self) -> None:
        """Use one output, and the learning rate of the plans."""
        self.save_every = 1
        self.enable_deep_supervision = False
        self.initial_lr = float(self.steps["learning_rate"])
        self.oversample_foreground_percent = float(self.steps["foreground_share"])
        self._step = 0

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Return AdamW; `train_step` sets its learning rate, not the scheduler.

        The outputs that one output leaves out get no gradient: several GPUs need to
        know it.
        """
        network = plain_network(self.network)
        network.decoder.seg_layers[:-1].requires_grad_(requires_grad=False)
        if self.device.type == "cpu":
            speed_up_steps(network)
        rate, weights = self.initial_lr, self.network.parameters()
        adam = torch.optim.AdamW(weights, lr=rate, weight_decay=1e-2, fused=True)
        return adam, _PerStep()

    def on_train_start(self) -> None:
        """Start as nnU-Net does; on a CPU, keep freed memory for the next step."""
        if self.device.type == "cpu":
            keep_freed_memory()
        super().on_train_start()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Set the learning rate of this step, then train as nnU-Net does."""
        steps = self.num_iterations_per_epoch
        step = self.current_epoch * steps + self._step
        self._step = (self._step + 1) % steps
        share = share_of_learning_rate(step / (self.num_epochs * steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.initial_lr * share
        result: dict[str, Any] = super().train_step(batch)
        return result

    def _do_i_compile(self) -> bool:
        """Never compile: it takes longer than the training."""
        return False

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(  # noqa: N802 - nnU-Net's name
        self,
    ) -> tuple[Any, bool, Any, None]:
        """Augment as nnU-Net does, without mirroring, which makes prediction slow."""
        theirs = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return *theirs[:3], None

    def set_deep_supervision_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - nnU-Net's signature
        """Keep one output; nnU-Net switches deep supervision around its validation."""
        super().set_deep_supervision_enabled(enabled and self.enable_deep_supervision)


class _PerStep:
    """A scheduler that does nothing."""

    def step(self, epoch: int) -> None:
        """Do nothing."""


def share_of_learning_rate(progress: float) -> float:
    """Return the learning rate at `progress` (0..1), as a share of its maximum.

    Examples
    --------
    >>> share_of_learning_rate(WARM_UP), round(share_of_learning_rate(1.0), 2)
    (1.0, 0.02)
    """
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.02)
    down = (progress - WARM_UP) / (1 - WARM_UP)
    cosine = 0.5 * (1 + math.cos(math.pi * min(down, 1.0)))
    return LAST_LEARNING_RATE + (1 - LAST_LEARNING_RATE) * cosine
