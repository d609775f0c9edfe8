"""The losses of the source report's networks.

Source: the report uses ``DiceLoss`` and ``CategoricalFocalLoss`` of the Keras package
*segmentation_models* with their defaults. The focal loss is that of Lin et al., *Focal
Loss for Dense Object Detection* (2017), with alpha for every class.

Settings: Dice over the whole batch, the mean of all classes with the background, 1e-5
added above and below; focal alpha 0.25, gamma 2, the mean over pixels *and* classes (so
that its weight beside the Dice loss is the report's). Softmax comes first; the sum of
both has no weights. Voxels of nnU-Net's ignore label count in neither.
"""

import torch
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import nn

SMOOTH = 1e-5
ALPHA = 0.25
GAMMA = 2.0


class ReportLoss(nn.Module):  # type: ignore[misc, unused-ignore]
    """Dice loss, with or without the categorical focal loss.

    `ddp` for a batch on several GPUs.
    """

    def __init__(
        self, *, with_focal: bool, ignore_label: int | None = None, ddp: bool = False
    ) -> None:
        super().__init__()
        self.with_focal = with_focal
        self.ignore_label = ignore_label
        self.dice = MemoryEfficientSoftDiceLoss(
            apply_nonlin=softmax_helper_dim1,
            batch_dice=True,
            do_bg=True,
            smooth=SMOOTH,
            ddp=ddp,
        )

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of (N, C, H, W) logits for (N, 1, H, W) labels."""
        counted = None
        if self.ignore_label is not None:
            counted = target != self.ignore_label
            target = torch.where(counted, target, 0)
        loss: torch.Tensor = 1 + self.dice(logits, target, loss_mask=counted)
        if self.with_focal:
            loss = loss + categorical_focal_loss(logits, target, counted)
        return loss


def categorical_focal_loss(
    logits: torch.Tensor, target: torch.Tensor, counted: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean over pixels and classes of -alpha y (1 - p)^gamma log p.

    `logits` are (N, C, H, W); `target` holds the (N, 1, H, W) labels, and `counted`
    whether a pixel counts, by default all.
    """
    log_p = torch.log_softmax(logits.float(), dim=1).gather(1, target.long())
    loss = -ALPHA * (1 - log_p.exp()) ** GAMMA * log_p
    if counted is None:
        return loss.mean() / logits.shape[1]
    return (loss * counted).sum() / counted.sum().clamp_min(1) / logits.shape[1]
