"""The training of the source report's networks, inside nnU-Net.

Source: *Automatic Segmentation for Lower Limb Bones & Muscles using Deep Learning*
(2023), its U-Net and its transfer learning.

Settings, in the plans under ``nnunet_bridge`` (so that a checkpoint carries them):

- ``epochs``, ``iterations``, ``validation_iterations``;
- Adam with ``learning_rate``, lowered by ``learning_rate_fall`` every epoch;
- the report's augmentation (`report_augmentation`);
- the weights of the epoch with the best validation F1 are the final model. F1 of
  voxels is the Dice coefficient: nnU-Net's pseudo-Dice of that epoch, not its moving
  average.

Early stopping is in `inside.stopping`, with the report's patience from the plans.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_bridge.nnunet.inside.wrappers import plain_network
from nnunet_bridge.nnunet.names import CHECKPOINT_BEST
from nnunet_bridge.nnunet.trainers.budgets import BridgeQuickTrainer
from nnunet_bridge.nnunet.trainers.report_augmentation import ReportAugmentation
from nnunet_bridge.nnunet.trainers.report_losses import ReportLoss


class ReportTrainer(ReportAugmentation, BridgeQuickTrainer):
    """Common base of the report's networks."""

    network_class: Callable[[int, int, Sequence[int]], torch.nn.Module]
    size: str  # entry of the plans that defines the network
    with_focal = False  # whether the categorical focal loss is added to the Dice loss

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,  # noqa: ANN401 - nnU-Net's types
        configuration_manager: Any,  # noqa: ANN401, ARG003 - nnU-Net's signature
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,  # noqa: ARG003, FBT001, FBT002 - nnU-Net's signature
    ) -> torch.nn.Module:
        """Return the network that the plans describe, with random weights."""
        size = plans_manager.plans["nnunet_bridge"]["2d"][cls.size]
        return cls.network_class(num_input_channels, num_output_channels, size)

    def set_up(self) -> None:
        """Use one output, and the learning rate of the plans."""
        self.save_every = 1
        self.enable_deep_supervision = False
        self.initial_lr = float(self.steps["learning_rate"])
        if "foreground_share" in self.steps:
            self.oversample_foreground_percent = float(self.steps["foreground_share"])
        self._best_ema = math.inf  # nnU-Net's moving average saves no checkpoint

    def _build_loss(self) -> ReportLoss:
        return ReportLoss(
            with_focal=self.with_focal,
            ignore_label=self.label_manager.ignore_label,
            ddp=self.is_ddp,
        )

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, FallingRate]:
        """Return Adam over what is not frozen, and the report's schedule."""
        learning = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(learning, lr=self.initial_lr)
        fall = float(self.steps.get("learning_rate_fall", 0))
        return optimizer, FallingRate(optimizer, self.initial_lr, fall)

    def on_epoch_end(self) -> None:
        """Save the weights of this epoch if its F1 is the best so far."""
        if is_best(self.logger.get_value("mean_fg_dice", step=None)):
            self.save_checkpoint(str(self._best_file))
        super().on_epoch_end()

    def on_train_end(self) -> None:
        """Make the weights of the best epoch the final model."""
        if self._best_file.exists():
            place = self.device
            best = torch.load(self._best_file, map_location=place, weights_only=True)
            plain_network(self.network).load_state_dict(best["network_weights"])
        super().on_train_end()

    @property
    def _best_file(self) -> Path:
        return Path(self.output_folder, CHECKPOINT_BEST)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - nnU-Net's signature
        """Do nothing: these networks have one output."""


@dataclass(frozen=True, slots=True)
class FallingRate:
    """A learning rate that falls by the same amount every epoch, never below 0."""

    optimizer: torch.optim.Optimizer
    initial: float
    fall: float

    def step(self, epoch: int) -> None:
        """Set the learning rate of an epoch, counted from 0."""
        for group in self.optimizer.param_groups:
            group["lr"] = max(self.initial - self.fall * epoch, 0.0)


def is_best(f1: Sequence[float]) -> bool:
    """Whether the last of the epochs so far has the best F1; the first of equals wins.

    Examples
    --------
    >>> is_best([0.5]), is_best([0.5, 0.5]), is_best([0.5, 0.6])
    (True, False, True)
    """
    known = [value for value in f1[:-1] if not math.isnan(value)]
    return not known or f1[-1] > max(known)
