"""The source report's ResNet34 U-Net: `--model resnet34` and `resnet34-frozen`.

Source: *Automatic Segmentation for Lower Limb Bones & Muscles using Deep Learning*
(2023), its transfer learning; encoder: He et al., *Deep Residual Learning for Image
Recognition* (2016). The network is that of segmentation-models-pytorch (MIT licence).

Settings:

- ``Unet("resnet34")`` with the library's decoder of 256, 128, 64, 32 and 16 features,
  in the plans as ``decoder``; softmax belongs to the loss;
- Dice and categorical focal loss (`report_losses`), Adam 1e-4 minus 1e-6 an epoch,
  patience 20, best F1 (`report_training`);
- the encoder starts from the weights of a file, or from random ones with
  ``--from-scratch``; frozen, it and the statistics of its batch normalisation stay;
- images with other than three channels see the first convolution summed over the
  colours, which is what the report's grey slice repeated three times sees.

Building the network loads and downloads nothing, so prediction never does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nnunet_bridge.nnunet.inside.encoder_weights import fitted, read_state_dict
from nnunet_bridge.nnunet.inside.wrappers import plain_network
from nnunet_bridge.nnunet.trainers.report_training import ReportTrainer


class ResNet34UNet(nn.Module):  # type: ignore[misc, unused-ignore]
    """The library's U-Net; `decoder` are the features of its levels, deepest first."""

    def __init__(self, channels: int, classes: int, decoder: Sequence[int]) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp

        self.net = smp.Unet(
            "resnet34",
            encoder_weights=None,
            in_channels=channels,
            classes=classes,
            decoder_channels=tuple(decoder),
        )

    @property
    def encoder(self) -> Any:  # noqa: ANN401 - the library's type
        """The ResNet34."""
        return self.net.encoder

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return (N, classes, H, W) logits of (N, channels, H, W) images.

        H and W are multiples of 32.
        """
        logits: torch.Tensor = self.net(image)
        return logits


class BridgeResNet34Trainer(ReportTrainer):
    """The report's ResNet34 U-Net, encoder and decoder fine-tuned."""

    network_class = ResNet34UNet
    size = "decoder"
    with_focal = True
    frozen = False

    encoder_weights: Path | None = None
    """Initial weights of the encoder; None for random ones."""

    def initialize(self) -> None:
        """Build the network and load the weights of the encoder."""
        super().initialize()
        if self.encoder_weights is not None:
            encoder = plain_network(self.network).encoder
            weights = read_state_dict(self.encoder_weights)
            encoder.load_state_dict(fitted(weights, encoder.state_dict()))

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - as the original
        """Freeze the encoder before the optimiser collects the weights."""
        if self.frozen:
            plain_network(self.network).encoder.requires_grad_(requires_grad=False)
        return super().configure_optimizers()

    def on_train_epoch_start(self) -> None:
        """Keep the statistics of a frozen encoder as they are."""
        super().on_train_epoch_start()
        if self.frozen:
            plain_network(self.network).encoder.eval()


class BridgeResNet34FrozenTrainer(BridgeResNet34Trainer):
    """The report's ResNet34 U-Net; only the decoder learns."""

    frozen = True
