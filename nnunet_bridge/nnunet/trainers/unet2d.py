"""The source report's plain 2D U-Net: `--model unet2d`.

Source: *Automatic Segmentation for Lower Limb Bones & Muscles using Deep Learning*
(2023), its 2D U-Net; the shape is that of Ronneberger et al., *U-Net* (2015).

Settings:

- encoder of five levels with 32, 64, 128, 256 and 480 features, the fifth not pooled; a
  bottleneck of 480; decoder of 256, 128, 64 and 32;
- every level is twice convolution 3 x 3, batch normalisation, ReLU; 2 x 2 maximum
  pooling; transposed convolutions 3 x 3 with stride 2; the encoder's features are
  concatenated; a 1 x 1 convolution gives one output a class;
- initial weights as in Keras (Glorot's uniform, bias 0); the constants of batch
  normalisation are torch's, because Keras' slow mean lags in a short training;
- Dice loss, Adam 1e-4, 50 epochs, patience 20, best F1 (`report_training`).

The features are in the plans (``nnunet_bridge``, ``features``), the last of them the
bottleneck's as well. The budget `smoke` has a half of them and a higher learning rate.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from nnunet_bridge.nnunet.trainers.report_training import ReportTrainer


def convolutions(before: int, features: int) -> nn.Sequential:
    """Return twice convolution 3 x 3, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, features, 3, padding=1),
        nn.BatchNorm2d(features),
        nn.ReLU(inplace=True),
        nn.Conv2d(features, features, 3, padding=1),
        nn.BatchNorm2d(features),
        nn.ReLU(inplace=True),
    )


class UNet2d(nn.Module):  # type: ignore[misc, unused-ignore]
    """The report's U-Net.

    `features` are those of the encoder's levels, from the top; the last level is not
    pooled, and the bottleneck has as many.
    """

    def __init__(self, channels: int, classes: int, features: Sequence[int]) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            convolutions(before, after)
            for before, after in pairwise([channels, *features])
        )
        self.bottleneck = convolutions(features[-1], features[-1])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, here, 3, stride=2, padding=1, output_padding=1)
            for here, below in pairwise(features)
        )
        self.decoder = nn.ModuleList(
            convolutions(2 * here, here) for here in features[:-1]
        )
        self.head = nn.Conv2d(features[0], classes, 1)
        self.pool = nn.MaxPool2d(2)
        self.apply(_initialise_as_keras)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return (N, classes, H, W) logits of (N, channels, H, W) images.

        H and W are multiples of 2 to the number of poolings: 16 for five levels.
        """
        levels = [self.encoder[0](image)]
        for level in self.encoder[1:]:
            levels.append(level(self.pool(levels[-1])))
        found = self.bottleneck(levels.pop())
        for up, level in zip(reversed(self.up), reversed(self.decoder), strict=True):
            found = level(torch.cat([up(found), levels.pop()], dim=1))
        logits: torch.Tensor = self.head(found)
        return logits


def _initialise_as_keras(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class BridgeUNet2dTrainer(ReportTrainer):
    """The report's 2D U-Net and training, with the steps of the plans."""

    network_class = UNet2d
    size = "features"
