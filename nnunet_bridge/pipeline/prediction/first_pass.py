"""Find the region of the structures in new images with a coarse first pass.

A scan of the whole body contains many slices without any of the structures. They cost
time and memory, and a network that was never trained on a chest finds bones in it. The
region is a range of slices; the labels are put back on all of them, background outside.

The first pass takes a slice every few millimetres and one fold, of 2d where there is
one: 2d predicts each slice on its own, so a tenth of the slices takes a tenth of the
time.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import BoolArray, LabelTable, Volume
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.nifti import read_labelmap, write_volume
from nnunet_bridge.nnunet.commands import Resources
from nnunet_bridge.nnunet.names import FILE_ENDING, image_name
from nnunet_bridge.ops.components import connected
from nnunet_bridge.ops.region import MARGIN_MM, Region
from nnunet_bridge.ops.turn import Turn
from nnunet_bridge.pipeline.models.choose import Model, ModelRequest, choose_model
from nnunet_bridge.pipeline.prediction.network import IMAGES, Network, predict_folder

COARSE_MM = 5.0  # approximate distance between the slices of the first pass
_SPECK_SHARE = 0.01
"""A piece below this share of the largest one does not widen the region."""


def first_pass_model(model: Model) -> Model:
    """Return one fold to find the structures with: of 2d if that has finished.

    Without a finished 2d model of the same kind and budget, a fold of `model` itself.
    """
    flat = ModelRequest(("2d",), (), model.budget, model.kind)
    with suppress(InputError):
        model = choose_model(model.dataset, flat)
    return replace(model, states=model.states[:1])


@dataclass(slots=True)
class FirstPass:
    """Finds the region of the structures of several images in one call of nnU-Net."""

    model: Model  # one fold; see `first_pass_model`
    labels: LabelTable
    work: Path  # a folder of its own for thinned images and their predictions
    margin_mm: float
    network: Network = predict_folder
    turns: dict[str, Turn] = field(default_factory=dict)

    def add(
        self, case_id: str, channels: Sequence[Volume], turn: Turn | None = None
    ) -> None:
        """Write every n-th slice of an image, turned, to be predicted later."""
        if turn is not None:
            self.turns[case_id] = turn
        for number, volume in enumerate(channels):
            thin = turn.volume(thinned(volume)) if turn else thinned(volume)
            write_volume(self.work / IMAGES / image_name(case_id, number), thin)

    def regions(
        self,
        grids: Mapping[str, Grid],
        resources: Resources,
        advanced: Callable[[float], None],
    ) -> dict[str, Region | None]:
        """Predict the added images; return each region, None where it found nothing."""
        folder = self.network(self.model, self.work, resources, advanced=advanced)
        found = {}
        for case_id, grid in grids.items():
            thin = read_labelmap(folder / f"{case_id}{FILE_ENDING}", self.labels)
            turn = self.turns.get(case_id)
            held = (turn.voxels_back(thin.voxels) if turn else thin.voxels) > 0
            found[case_id] = found_region(held, grid, self.margin_mm)
        return found

    def as_json(self) -> JsonObject:
        """Return the entry ``found_by`` of the record of a prediction."""
        state = self.model.states[0]
        return {"model": state.name, "slice_every_mm": COARSE_MM}


def thinned(volume: Volume) -> Volume:
    """Return about one slice every `COARSE_MM`, the first among them."""
    step = _step(volume.grid)
    affine = volume.grid.affine.copy()
    affine[:3, 2] *= step
    voxels = volume.voxels[:, :, ::step]
    size_i, size_j, size_k = voxels.shape
    return Volume(Grid((size_i, size_j, size_k), affine), voxels)


def found_region(
    structures: BoolArray, grid: Grid, margin_mm: float = MARGIN_MM
) -> Region | None:
    """Return the slices around what was found in a thinned image; None for nothing.

    Parameters
    ----------
    structures : (I, J, M) bool
        The voxels that the first pass labelled, in every n-th slice.
    grid : Grid
        The grid of the whole image.
    margin_mm : float
        Margin beyond the first and last slice that may hold a structure.
    """
    if not structures.any():
        return None
    planes = np.ascontiguousarray(np.moveaxis(structures, 2, 0))
    pieces = connected(planes, across_planes=True)
    sizes = pieces.sizes()
    large = sizes[pieces.owners] >= _SPECK_SHARE * sizes.max()
    held, step = pieces.planes[large], _step(grid)
    margin = int(np.ceil(margin_mm / grid.spacing_mm[2]))
    first = int(held.min()) * step - (step - 1) - margin
    end = int(held.max()) * step + step + margin
    return Region(max(first, 0), min(end, grid.shape[2]), grid)


def _step(grid: Grid) -> int:
    """Return n of "every n-th slice"; at least three slices remain."""
    wanted = max(1, round(COARSE_MM / float(grid.spacing_mm[2])))
    return max(1, min(wanted, grid.shape[2] // 3))
