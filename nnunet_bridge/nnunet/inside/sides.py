"""No mirrored image under the label of the other side: at training and prediction.

The rule is in `nnunet.sides`; here it meets nnU-Net's objects. It holds for every
trainer, nnU-Net's own among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import SimpleITK
from batchgenerators.utilities.file_and_folder_operations import load_pickle

from nnunet_bridge.nnunet.sides import (
    allowed_axes,
    axes_that_keep_sides,
    left_right_components,
    sides_are_apart,
)

Components = list[tuple[float, ...]]


def components_of(trainer: Any) -> Components:  # noqa: ANN401 - nnU-Net's types
    """Return the left-right components of every case that a training knows.

    Empty for a case whose reader keeps no direction.
    """
    transpose = trainer.plans_manager.transpose_forward
    found: Components = []
    for keys in trainer.do_split():
        for key in keys:
            file = Path(trainer.preprocessed_dataset_folder, f"{key}.pkl")
            direction = (
                load_pickle(str(file)).get("sitk_stuff", {}).get("direction", ())
            )
            found.append(_components(direction, transpose))
    return found


def _components(direction: Any, transpose: Any) -> tuple[float, ...]:  # noqa: ANN401 - a tuple of numbers, if it is there
    if len(direction) != 9:  # noqa: PLR2004 - three axes in space
        return ()
    return left_right_components(direction, transpose)


def keep_sides_in_training(trainer: Any) -> None:  # noqa: ANN401 - nnU-Net's types
    """Let a trainer mirror along no axis that would exchange left and right.

    Its checkpoints carry what is left to prediction.
    """
    if not sides_are_apart(trainer.dataset_json["labels"]):
        return
    configure = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size

    def configure_and_restrict() -> tuple[Any, ...]:
        rotation, flat, patch_size, mirrored = configure()
        dimensions = len(trainer.configuration_manager.patch_size)
        keeping = axes_that_keep_sides(components_of(trainer), dimensions)
        axes = allowed_axes(mirrored or (), keeping, rotation)
        tested = trainer.inference_allowed_mirroring_axes or ()
        trainer.inference_allowed_mirroring_axes = (
            allowed_axes(tested, axes, (0, 0)) or None
        )
        trainer.print_to_log_file(
            f"Left and right are kept apart: mirrored along {axes or 'no axis'}."
        )
        return rotation, flat, patch_size, axes or None

    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size = (
        configure_and_restrict
    )


def keep_sides_in_prediction(predictor: Any, images: Iterable[Path]) -> None:  # noqa: ANN401 - nnU-Net's types
    """Let a predictor mirror along no axis that is left-right in one of the images.

    They may lie in other directions than those that the model has seen, and the model
    may come from elsewhere.
    """
    if not predictor.allowed_mirroring_axes:
        return
    if not sides_are_apart(predictor.dataset_json["labels"]):
        return
    transpose = predictor.plans_manager.transpose_forward
    found = [_components(_direction(image), transpose) for image in images]
    dimensions = len(predictor.configuration_manager.patch_size)
    keeping = axes_that_keep_sides(found, dimensions)
    predictor.allowed_mirroring_axes = (
        allowed_axes(predictor.allowed_mirroring_axes, keeping, (0, 0)) or None
    )


def _direction(image: Path) -> tuple[float, ...]:
    reader = cast("Any", SimpleITK).ImageFileReader()
    reader.SetFileName(str(image))
    reader.ReadImageInformation()
    return tuple(reader.GetDirection())
