"""Prevent mirroring that would exchange left and right, in training and prediction.

The rule is in `nnunet.sides`; here it is applied to the objects of every trainer,
nnU-Net's own included.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from batchgenerators.utilities.file_and_folder_operations import load_pickle

from nnunet_bridge.nnunet.sides import (
    allowed_axes,
    axes_that_keep_sides,
    has_sided_labels,
    left_right_components,
)

Components = list[tuple[float, ...]]


def components_of(trainer: Any) -> Components:  # noqa: ANN401 - nnU-Net's types
    """Return the left-right components of every case; empty without a direction."""
    transpose = trainer.plans_manager.transpose_forward
    found: Components = []
    for keys in trainer.do_split():
        for key in keys:
            file = Path(trainer.preprocessed_dataset_folder, f"{key}.pkl")
            facts = load_pickle(str(file)).get("sitk_stuff", {})
            found.append(_components(facts.get("direction", ()), transpose))
    return found


def _components(direction: Any, transpose: Any) -> tuple[float, ...]:  # noqa: ANN401 - a tuple of numbers, if it is there
    if len(direction) != 9:  # noqa: PLR2004 - three axes in space
        return ()
    return left_right_components(direction, transpose)


def keep_sides_in_training(trainer: Any) -> None:  # noqa: ANN401 - nnU-Net's types
    """Restrict the mirroring of a trainer to axes that keep left and right.

    Its checkpoints name the same axes for prediction.
    """
    if not has_sided_labels(trainer.dataset_json["labels"]):
        return
    name = "configure_rotation_dummyDA_mirroring_and_inital_patch_size"
    configure = getattr(trainer, name)

    def configure_and_restrict() -> tuple[Any, ...]:
        rotation, flat, patch_size, mirrored = configure()
        dimensions = len(trainer.configuration_manager.patch_size)
        keeping = axes_that_keep_sides(components_of(trainer), dimensions)
        axes = allowed_axes(mirrored or (), keeping, rotation)
        tested = trainer.inference_allowed_mirroring_axes or ()
        tested = allowed_axes(tested, axes, (0, 0))
        trainer.inference_allowed_mirroring_axes = tested or None
        along = axes or "no axis"
        trainer.print_to_log_file(f"Labels have sides: mirrored along {along}.")
        return rotation, flat, patch_size, axes or None

    setattr(trainer, name, configure_and_restrict)


def mirrored_in_prediction(
    axes: tuple[int, ...],
    labels: Iterable[str],
    direction: Any,  # noqa: ANN401 - a tuple of numbers, if it is there
    transpose: Any,  # noqa: ANN401 - nnU-Net's types
    dimensions: int,
) -> tuple[int, ...]:
    """Return the axes of the checkpoint along which this image may be mirrored.

    Its direction may differ from those of the training cases, and the model may come
    from elsewhere. `direction` and `transpose` as in `left_right_components`; no
    direction if it is unknown. `dimensions` are those of the patch.
    """
    if not axes or not has_sided_labels(labels):
        return axes
    keeping = axes_that_keep_sides([_components(direction, transpose)], dimensions)
    return allowed_axes(axes, keeping, (0, 0))
