"""No mirrored image under the label of the other side: at training and prediction.

The rule is in `nnunet.sides`; here it meets nnU-Net's objects. It holds for every
trainer, nnU-Net's own among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

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


def mirrored_in_prediction(
    axes: tuple[int, ...],
    labels: Iterable[str],
    direction: Any,  # noqa: ANN401 - a tuple of numbers, if it is there
    transpose: Any,  # noqa: ANN401 - nnU-Net's types
    dimensions: int,
) -> tuple[int, ...]:
    """Return along which axes an image may be mirrored, of those of the model.

    It may lie in another direction than those that the model has seen, and the model
    may come from elsewhere.

    Parameters
    ----------
    axes : tuple of int
        Of the patch, as the checkpoint names them.
    labels : iterable of str
        Of the model.
    direction, transpose
        As `left_right_components` takes them; no direction if it is unknown.
    dimensions : int
        Of the patch.
    """
    if not axes or not sides_are_apart(labels):
        return axes
    keeping = axes_that_keep_sides([_components(direction, transpose)], dimensions)
    return allowed_axes(axes, keeping, (0, 0))
