"""The cases of the comparison page: slices, surfaces, and errors along each bone."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

import numpy as np

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.image import Labelmap, Volume
from nnunet_bridge.core.mesh import Mesh
from nnunet_bridge.core.progress import Progress, steps
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.html.content import CaseView, MeshSet
from nnunet_bridge.formats.html.meshes import thinned
from nnunet_bridge.formats.html.page import (
    MAX_BYTES,
    MESH_FACES,
    case_object,
    distance_scale_mm,
)
from nnunet_bridge.formats.images import read_labelmap
from nnunet_bridge.formats.pictures import PLANES
from nnunet_bridge.formats.sprites import SliceStack, slice_stack
from nnunet_bridge.ops.along import (
    Parts,
    Profile,
    along_length,
    distances_mm,
    longest_axis,
    mean_profiles,
)
from nnunet_bridge.ops.surface import surfaces_of
from nnunet_bridge.pipeline.models.validation import ValidatedStudy

_DETAILS = ((256, 32), (208, 26), (160, 18), (128, 14), (104, 10), (80, 6), (64, 4))
"""Longest side of a frame in pixels, and most frames of a plane; tried in turn."""
_CaseDice: TypeAlias = Mapping[str, Mapping[str, float]]


def case_views(
    study: ValidatedStudy, dice: _CaseDice, progress: Progress | None = None
) -> tuple[tuple[CaseView, ...], tuple[Profile, ...]]:
    """Return every case, the worst first, and the models along each structure.

    `dice` is the mean Dice of each case and model. Slices get as much detail as leaves
    the page below its limit.
    """
    predictions = study.predictions()  # none where the scores come from tables
    known = [case_id for case_id in dice if case_id in predictions]
    ranked = sorted(known, key=lambda case_id: fmean(dice[case_id].values()))
    views = _Views(study, len(ranked))
    found = []
    cases = [(case_id, case_id) for case_id in ranked]
    for _, case_id in steps(progress, "page", cases):
        files = predictions[case_id].items()
        predicted = {model: study.prediction(paths[0]) for model, paths in files}
        found.append(views.view(case_id, predicted, dice[case_id]))
    if len(ranked) > 1:
        found[len(ranked) // 2] = replace(found[len(ranked) // 2], reason="median case")
        found[0] = replace(found[0], reason="worst case")
    return tuple(found), mean_profiles(views.along, views.axes)


def case_surfaces(
    case_id: str,
    reference: Path | None,
    predictions: Mapping[str, Path],
    table_file: Path | None = None,
) -> JsonObject:
    """Return the surfaces of a case as `surfaces.js` reads them, and their scale.

    Predicted surfaces have the distance of each vertex from the reference, where there
    is one. Raises `InputError` if no file holds a structure.
    """
    from nnunet_bridge.pipeline.labels.folders import table_file_for, table_for

    files = [file for file in (reference, *predictions.values()) if file is not None]
    table = table_for(table_file_for(files, table_file), files, regions=True)
    sets, drawn, judge = [], {}, None
    if reference is not None:
        judge = read_labelmap(reference, table).without_ignored()
        drawn = surfaces_of(judge)
        sets.append(_thin_set("reference", [(mesh, None) for mesh in drawn.values()]))
    for name, file in predictions.items():
        found = []
        for structure, mesh in surfaces_of(read_labelmap(file, table)).items():
            far = None
            if mesh is not None and judge is not None:
                far = distances_mm(mesh, drawn[structure], judge)
            found.append((mesh, far))
        sets.append(_thin_set(name, found))
    sets = [one for one in sets if one.meshes]
    if not sets:
        raise InputError(f"The labels of {case_id} hold no structure.")
    view = CaseView(case_id, "", (), (), tuple(sets))
    scale_mm = distance_scale_mm([view])
    shown = case_object(view, MESH_FACES[0], scale_mm)
    return {"case": shown, "scale_mm": scale_mm}


@dataclass(slots=True)
class _Views:
    """The views so far."""

    study: ValidatedStudy
    to_come: int  # cases
    bytes_left: float = 0.6 * MAX_BYTES  # for slices; surfaces get the rest
    details: list[tuple[int, int]] = field(default_factory=lambda: list(_DETAILS))
    """Those that fitted so far, and coarser ones."""

    axes: dict[str, int] = field(default_factory=dict)
    """Structure -> the patient axis of its length, as the first case has it."""

    along: dict[tuple[str, str], list[tuple[Parts, Parts]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def view(
        self, case_id: str, predicted: Mapping[str, Labelmap], dice: Mapping[str, float]
    ) -> CaseView:
        """Return a case, and note where its predictions err."""
        reference = self.study.reference(case_id).without_ignored()
        image = self.study.image(case_id)
        stacks = () if image is None else self._stacks(image, reference, predicted)
        sets = self._surfaces(reference, predicted)
        meshes = tuple(mesh_set for mesh_set in sets if mesh_set.meshes)
        return CaseView(case_id, "", tuple(dice.items()), stacks, meshes)

    def _stacks(
        self, image: Volume, reference: Labelmap, predicted: Mapping[str, Labelmap]
    ) -> tuple[SliceStack, ...]:
        """Return the slices of a case in its share of what is left of the page."""
        stacks: tuple[SliceStack, ...] = ()
        for side, frames in self.details.copy():
            options = {"frames": frames, "longest_side": side}
            stacks = tuple(
                slice_stack(image, reference, predicted, plane=plane, **options)
                for plane in PLANES
            )
            if self.to_come * _bytes(stacks) <= self.bytes_left:
                break
            self.details = self.details[1:] or self.details
        self.to_come -= 1
        self.bytes_left -= _bytes(stacks)
        return stacks

    def _surfaces(
        self, reference: Labelmap, predicted: Mapping[str, Labelmap]
    ) -> Iterator[MeshSet]:
        """Yield thin surfaces, and note how far the predicted ones are off."""
        drawn = surfaces_of(reference)
        yield _thin_set("reference", [(mesh, None) for mesh in drawn.values()])
        for model, labelmap in predicted.items():
            found, far = surfaces_of(labelmap), {}
            for label in reference.labels:
                name, mesh, own = label.name, found[label.name], drawn[label.name]
                far[name] = distances_mm(mesh, own, reference) if mesh else np.empty(0)
                if own is None:
                    continue
                if name not in self.axes:
                    self.axes[name] = longest_axis(reference, label)
                parts = along_length(
                    *(reference, labelmap, label, self.axes[name], mesh, far[name])
                )
                self.along[name, model].append(parts)
            yield _thin_set(model, [(mesh, far[name]) for name, mesh in found.items()])


def _thin_set(
    name: str, surfaces: Iterable[tuple[Mesh | None, FloatArray | None]]
) -> MeshSet:
    """Return surfaces with few faces; distances are averaged with the vertices."""
    meshes, distances = [], []
    for mesh, far in surfaces:
        if mesh is None:
            continue
        column = np.zeros(len(mesh.vertices_mm)) if far is None else far
        points = np.column_stack([mesh.vertices_mm, column])
        points, faces = thinned(points, mesh.faces, MESH_FACES[0])
        meshes.append(
            replace(mesh, vertices_mm=points[:, :3], faces=faces.astype(np.int32))
        )
        distances.append(None if far is None else points[:, 3])
    return MeshSet(name, tuple(meshes), tuple(distances))


def _bytes(stacks: Sequence[SliceStack]) -> int:
    pictures = [text for s in stacks for text in (s.image, s.picture)]
    sprites = [layer.sprite for stack in stacks for layer in stack.layers]
    return sum(map(len, (*pictures, *sprites)))
