"""The source report's augmentation in nnU-Net: `--model report-augmentation`.

Source: *Automatic Segmentation for Lower Limb Bones & Muscles using Deep Learning*
(2023), its data augmentation; network, loss and optimiser stay nnU-Net's.

Settings:

- the report adds four augmented copies to each slice: one patch of five stays as it is;
- the others are rotated in the plane of their slice, uniformly by -15 to +15 degrees;
- with probability 1/2 it is flipped from left to right, if that is the same axis of the
  array in every case, within 30 degrees, and lies in the patch;
- a flip exchanges sided labels; if a structure has a label on one side only, there is
  no flip;
- nothing is mirrored at prediction.
"""

import math
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import (
    Convert2DTo3DTransform,
    Convert3DTo2DTransform,
)
from nnunetv2.training.data_augmentation.compute_initial_patch_size import (
    get_patch_size,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_bridge.nnunet.inside.sides import components_of
from nnunet_bridge.nnunet.sides import (
    axis_that_swaps_sides,
    has_sided_labels,
    swapped_labels,
)
from nnunet_bridge.nnunet.trainers.budgets import (
    BridgeQuickTrainer,
    BridgeSmokeTrainer,
    BridgeStandardTrainer,
)

LARGEST_ROTATION = math.radians(15)
FLIP_PROBABILITY = 0.5
COPIES = 4  # augmented copies that the report adds to each original slice


class FlipLeftRight(BasicTransform):  # type: ignore[misc]
    """Flip a patch and exchange the labels of the sides, with a probability.

    `axis` counts no channels; `swaps` maps a label to the same structure on the other
    side.
    """

    def __init__(
        self, axis: int, swaps: dict[int, int], probability: float = FLIP_PROBABILITY
    ) -> None:
        super().__init__()
        self.axis = axis
        self.swaps = swaps
        self.probability = probability

    def get_parameters(self, **data_dict: Any) -> dict[str, bool]:  # noqa: ANN401, ARG002 - as the original
        """Decide at random whether this patch is flipped."""
        return {"flipped": bool(torch.rand(1) < self.probability)}

    def _apply_to_image(self, img: torch.Tensor, **params: bool) -> torch.Tensor:
        return torch.flip(img, [self.axis + 1]) if params["flipped"] else img

    def _apply_to_segmentation(
        self, segmentation: torch.Tensor, **params: bool
    ) -> torch.Tensor:
        if not params["flipped"]:
            return segmentation
        flipped = torch.flip(segmentation, [self.axis + 1])
        swapped = flipped.clone()
        for value, other in self.swaps.items():
            swapped[flipped == value] = other
        return swapped


class WithOriginals(BasicTransform):  # type: ignore[misc]
    """Apply `augment` to `COPIES` patches for each one to which `keep` is applied."""

    def __init__(self, keep: BasicTransform, augment: BasicTransform) -> None:
        super().__init__()
        self.keep, self.augment = keep, augment

    def get_parameters(self, **data_dict: Any) -> dict[str, bool]:  # noqa: ANN401, ARG002 - as the original
        """Decide at random whether this patch is an original."""
        return {"original": bool(torch.rand(1) < 1 / (1 + COPIES))}

    def apply(self, data_dict: dict[str, Any], **params: bool) -> Any:  # noqa: ANN401 - as the original
        """Return the patch, transformed by one of the two."""
        return (self.keep if params["original"] else self.augment)(**data_dict)


class ReportAugmentation:
    """Mixin for trainers: the report's augmentation instead of nnU-Net's."""

    flip: FlipLeftRight | None = None
    """The flip of this dataset; set once its cases are known."""

    augmentation_name = "the report's"

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(  # noqa: N802 - nnU-Net's name
        self: Any,
    ) -> tuple[tuple[float, float], bool, Any, None]:
        """Rotate slices by at most 15 degrees; our own transform flips."""
        patch_size = list(self.configuration_manager.patch_size)
        rotation = (-LARGEST_ROTATION, LARGEST_ROTATION)
        flat = len(patch_size) == 3  # noqa: PLR2004 - rotate within the slices
        in_plane = get_patch_size(patch_size[-2:], rotation, (0, 0), (0, 0), (1, 1))
        first = patch_size[:1] if flat else []
        self.flip = self.left_right_flip(len(patch_size))
        self.inference_allowed_mirroring_axes = None
        return rotation, flat, [*first, *(int(edge) for edge in in_plane)], None

    def left_right_flip(self: Any, dimensions: int) -> FlipLeftRight | None:
        """Return the flip of this dataset, or None; the log names it."""
        labels = self.dataset_json["labels"]
        axis = axis_that_swaps_sides(components_of(self), dimensions)
        swaps = swapped_labels(labels) if has_sided_labels(labels) else {}
        if axis is None or swaps is None:
            why = "no axis is left-right" if axis is None else "a label lacks its twin"
            self.print_to_log_file(f"The report's flip is left out: {why}.")
            return None
        self.print_to_log_file(f"Flipped along axis {axis}; labels swapped: {swaps}.")
        return FlipLeftRight(axis, swaps)

    def get_training_transforms(
        self: Any,
        patch_size: Any,  # noqa: ANN401 - nnU-Net's types
        rotation_for_DA: tuple[float, float],  # noqa: N803 - nnU-Net's name
        deep_supervision_scales: Any,  # noqa: ANN401 - nnU-Net's types
        mirror_axes: tuple[int, ...] | None,
        do_dummy_2d_data_aug: bool,  # noqa: FBT001 - nnU-Net's signature
        use_mask_for_norm: list[bool] | None = None,
        **labels: Any,  # noqa: ANN401 - passed on as it comes
    ) -> Any:  # noqa: ANN401 - nnU-Net's types
        """Return rotation and flip, then nnU-Net's transforms before every loss."""
        if mirror_axes:
            raise AssertionError("the report mirrors from left to right only")
        flat = do_dummy_2d_data_aug
        turned = [
            SpatialTransform(
                patch_size[1:] if flat else patch_size,
                patch_center_dist_from_border=0,
                random_crop=False,
                p_rotation=probability,
                rotation=rotation_for_DA,
                border_mode_seg="constant",
                padding_value_seg=-1,
            )
            for probability in (0, 1)
        ]
        there, back = Convert3DTo2DTransform(), Convert2DTo3DTransform()
        if flat:
            turned = [ComposeTransforms([there, turn, back]) for turn in turned]
        original, rotated = turned
        copy = ComposeTransforms([rotated, *([self.flip] if self.flip else [])])
        transforms: list[Any] = [WithOriginals(original, copy)]
        masked = [n for n, used in enumerate(use_mask_for_norm or []) if used]
        if masked:
            outside = {"channel_idx_in_seg": 0, "set_outside_to": 0}
            transforms.append(MaskImageTransform(apply_to_channels=masked, **outside))
        last = self.get_validation_transforms(deep_supervision_scales, **labels)
        return ComposeTransforms([*transforms, last])


class BridgeReportAugmentationTrainer(ReportAugmentation, nnUNetTrainer):  # type: ignore[misc]
    """At the full budget: nnU-Net's 1000 epochs."""


class BridgeReportAugmentationStandardTrainer(
    ReportAugmentation, BridgeStandardTrainer
):
    """At the budget `standard`."""


class BridgeReportAugmentationQuickTrainer(ReportAugmentation, BridgeQuickTrainer):
    """At the budget `quick`."""


class BridgeReportAugmentationSmokeTrainer(ReportAugmentation, BridgeSmokeTrainer):
    """At the budget `smoke`."""
