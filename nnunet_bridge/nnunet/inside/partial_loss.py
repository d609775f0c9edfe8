"""The loss where some structures were not drawn: they may be in what looks empty.

Every voxel of a target holds its label and the set of structures that were drawn there
(`Coding`). Where a structure was not drawn, its probability counts as background:

- the probability of background is the sum over background and all structures that were
  not drawn there, joined by log-sum-exp;
- the Dice of a structure takes its intersection and both its sums over the voxels where
  it was drawn, and leaves the mean where there is none.

Source: the marginal loss of Shi et al., *Marginal loss and exclusion loss for partially
supervised multi-organ segmentation* (Medical Image Analysis, 2021); see also Fidon et
al., *Label-set Loss Functions for Partial Supervision* (MICCAI 2021).

All sums are in float32, also under autocast. Where all was drawn, the losses are those
of nnU-Net and of the source report.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import nn

from nnunet_bridge.nnunet.trainers.report_losses import ALPHA, GAMMA

SMOOTH = 1e-5  # nnU-Net's and the report's


@dataclass(frozen=True, slots=True)
class Coding:
    """How one number holds a label and the set of structures that were not drawn.

    The number is ``label + base * set``, so that a set follows its voxels through every
    augmentation. Numbers below `base` are of cases in which all was drawn, and of
    voxels outside an image.
    """

    outputs: int  # of the network: background and structures
    has_ignore: bool  # whether the value `outputs` marks voxels that count nowhere
    sets: tuple[frozenset[int], ...]
    """Values of the structures that were not drawn; the first set is empty."""

    @property
    def base(self) -> int:
        """The number of labels, with nnU-Net's ignore label."""
        return self.outputs + self.has_ignore

    def left_open(self) -> torch.Tensor:
        """Return (sets, outputs): whether a structure was not drawn in a set."""
        table = torch.zeros(len(self.sets), self.outputs, dtype=torch.bool)
        for number, values in enumerate(self.sets):
            table[number, list(values)] = True
        return table


@dataclass(frozen=True, slots=True)
class Target:
    """A decoded target, flattened: N samples of V voxels, for C outputs."""

    label: torch.Tensor  # (N, 1, V) int64; 0 where ignored
    counted: torch.Tensor | None  # (N, 1, V) bool; None if nothing is ignored
    joined: torch.Tensor  # (N, C, V) bool: what counts as background
    drawn: torch.Tensor  # (N, C, V) bool: where the structure was drawn
    held: torch.Tensor  # (N, C) bool: whether it was drawn anywhere in the sample

    @classmethod
    def of(cls, coded: torch.Tensor, coding: Coding) -> Target:
        """Decode an (N, 1, ...) target.

        Voxels outside the image say nothing of a set: they take that of their sample.
        """
        code = coded.long().flatten(2)
        label, number = code % coding.base, (code // coding.base)[:, 0]
        counted = label != coding.outputs if coding.has_ignore else None
        if counted is not None:
            label = torch.where(counted, label, 0)
        left_open = coding.left_open().to(code.device)
        samples, sets = len(code), len(left_open)
        present = torch.zeros(samples, sets, device=code.device).scatter_(1, number, 1)
        partly = present[:, 1:].any(dim=1, keepdim=True)
        held = (present[:, 1:] @ (~left_open[1:]).float() > 0) | ~partly
        known = (~left_open).expand(samples, -1, -1).clone()
        known[:, 0] = held
        rows = torch.arange(samples, device=code.device)[:, None]
        joined = left_open.clone()
        joined[:, 0] = True
        return cls(
            label,
            counted,
            joined[number].movedim(-1, 1),
            known[rows, number].movedim(-1, 1),
            held,
        )

    def log_background(self, log_p: torch.Tensor) -> torch.Tensor:
        """Return the (N, 1, V) logarithm of the probability of background."""
        hidden = log_p.masked_fill(~self.joined, -torch.inf)
        together: torch.Tensor = hidden.logsumexp(dim=1, keepdim=True)
        return together

    def weights(self) -> torch.Tensor:
        """Return (N, C, V): whether a voxel counts in the Dice of a structure."""
        return self.drawn if self.counted is None else self.drawn & self.counted

    def mean(self, losses: torch.Tensor) -> torch.Tensor:
        """Return the mean of (N, 1, V) losses over the voxels that count."""
        if self.counted is None:
            return losses.mean()
        return (losses * self.counted).sum() / self.counted.sum().clamp_min(1)


@dataclass(frozen=True, slots=True)
class DiceForm:
    """The form of a soft Dice."""

    batch: bool  # over the whole batch, or sample by sample
    background: bool  # whether the background is one of the structures
    ddp: bool  # whether the batch lies on several GPUs

    def of(self, p: torch.Tensor, target: Target) -> torch.Tensor:
        """Return the mean soft Dice of (N, C, V) probabilities."""
        weights = target.weights()
        truth = torch.zeros_like(p).scatter_(1, target.label, 1) * weights
        sums = torch.stack([(p * truth).sum(2), (p * weights).sum(2), truth.sum(2)])
        held = target.held.float()
        if not self.background:
            sums, held = sums[..., 1:], held[:, 1:]
        if self.batch:
            sums, held = sums.sum(1), held.sum(0)
            if self.ddp:
                sums = AllGatherGrad.apply(sums).sum(0)
                held = AllGatherGrad.apply(held).sum(0)
            held = (held > 0).float()
        common, predicted, drawn = sums
        dice = (2 * common + SMOOTH) / (predicted + drawn + SMOOTH).clamp_min(1e-8)
        mean: torch.Tensor = (dice * held).sum() / held.sum().clamp_min(1)
        return mean


class PartialLoss(nn.Module):  # type: ignore[misc, unused-ignore]
    """Soft Dice and a loss of every voxel, where structures may not be drawn.

    `voxels` names the second: ``ce`` (cross-entropy, nnU-Net's), ``focal`` (the
    report's) or empty for none.
    """

    def __init__(self, coding: Coding, dice: DiceForm, voxels: str) -> None:
        super().__init__()
        self.coding, self.dice, self.voxels = coding, dice, voxels

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of (N, C, ...) logits for an (N, 1, ...) coded target."""
        found = Target.of(target, self.coding)
        log_p = torch.log_softmax(logits.float().flatten(2), dim=1)
        log_background = found.log_background(log_p)
        log_own = log_p.gather(1, found.label)
        log_own = torch.where(found.label == 0, log_background, log_own)
        if self.dice.background:
            log_p = torch.cat([log_background, log_p[:, 1:]], dim=1)
        most = 1 if self.dice.background else 0  # the report's loss is 1 - Dice
        loss = most - self.dice.of(log_p.exp(), found)
        if self.voxels == "ce":
            loss = loss + found.mean(-log_own)
        elif self.voxels == "focal":
            focal = -ALPHA * (1 - log_own.exp()) ** GAMMA * log_own
            loss = loss + found.mean(focal) / logits.shape[1]
        return loss

    def hard_counts(
        self, logits: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return true positives, false positives and false negatives, each (C,).

        They count the voxels where the structure was drawn.
        """
        found = Target.of(target, self.coding)
        weights = found.weights().float()
        guess = logits.argmax(dim=1, keepdim=True).flatten(2)
        predicted = torch.zeros_like(weights).scatter_(1, guess, 1) * weights
        truth = torch.zeros_like(weights).scatter_(1, found.label, 1) * weights
        both = (predicted * truth).sum((0, 2))
        return both, predicted.sum((0, 2)) - both, truth.sum((0, 2)) - both
