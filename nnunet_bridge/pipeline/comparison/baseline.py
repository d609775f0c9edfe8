"""Labels that another tool made: by our names, on our grid, beside our models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, VoxelArray
from nnunet_bridge.formats.files import quoted
from nnunet_bridge.formats.label_map import LabelMap, label_map_of, names_beside
from nnunet_bridge.formats.nifti import read_array, write_labelmap
from nnunet_bridge.nnunet.names import FILE_ENDING
from nnunet_bridge.ops.regrid import placed_on
from nnunet_bridge.pipeline.comparison.facts import FoldRun, ModelRun
from nnunet_bridge.pipeline.labels.folders import label_files

NO_FOLD = "-"
"""Fold of a model that was not trained here."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Another tool's labels for cases of ours."""

    name: str
    """How the comparison calls it."""

    folder: Path
    """Holds ``<case>.nii.gz`` or ``<case>/labels.nii.gz``."""


def baseline_of(word: str) -> Baseline:
    """Return the baseline that ``NAME=FOLDER`` means.

    Raises
    ------
    UsageError
        If the word has another form.
    """
    name, equals, folder = word.partition("=")
    if not (equals and name.strip() and folder) or not name.strip().isprintable():
        raise UsageError(f"--baseline {word}: write NAME=FOLDER.")
    return Baseline(name.strip(), Path(folder))


def mapped_labels(
    file: Path, grid: Grid, table: LabelTable, label_map: LabelMap
) -> tuple[Labelmap, tuple[str, ...]]:
    """Return another tool's labels as ours, and what had no place in the map.

    Parameters
    ----------
    file : Path
        NIfTI with whole numbers; on `grid`, or on another one of the same image.
    grid : Grid
        Where the labels are needed.
    table : LabelTable
        Our structures.
    label_map : LabelMap

    Returns
    -------
    labelmap : Labelmap
        On `grid`.
    left_out : tuple of str
        Labels that the file holds and the map does not.

    Raises
    ------
    InputError
        If the map does not fit the table.
    Refused
        If the file holds no labels, lies elsewhere (K05) or leaves the image (K02).
    """
    places = label_map.by_value(table)
    theirs, voxels = read_array(file)
    values = _whole_values(file, voxels)
    ours = np.zeros(grid.shape, np.uint8 if len(table) < 256 else np.uint16, order="F")  # noqa: PLR2004 - what a byte holds
    for label in table:
        parts = [value for value, own in places.items() if own == label.value]
        mask = np.isin(voxels, parts)
        placement = placed_on(grid, theirs, mask, name=f"{file.name}, {label.name}")
        ours[placement.voxels & (ours == 0)] = label.value
    left_out = [label_map.name_of(v) for v in values if v and v not in places]
    return Labelmap(grid, ours, table), tuple(left_out)


def read_map(words: Sequence[str], files: Sequence[Path]) -> LabelMap:
    """Return the map that the words of a command mean, with the names beside files."""
    return label_map_of(words).with_values(names_beside(files))


def identity_map(table: LabelTable) -> LabelMap:
    """Return the map of labels that are ours already."""
    values = {label.name: label.value for label in table}
    return LabelMap({name: name for name in values}, values)


def baseline_run(
    baseline: Baseline,
    label_map: LabelMap | None,
    out_dir: Path,
    table: LabelTable,
    grids: Mapping[str, Callable[[], Grid]],
) -> ModelRun:
    """Write a baseline's labels as a model's validation, so that it can be compared.

    Parameters
    ----------
    baseline : Baseline
    label_map : LabelMap or None
        None if its labels are ours.
    out_dir : Path
        Gets ``<case>.nii.gz`` for every case.
    table : LabelTable
    grids : mapping
        Case id -> what reads the grid of its reference.

    Raises
    ------
    InputError
        If it has no labels for any case, or some cannot be used; all are named.
    """
    files = label_files(baseline.folder)
    used = {case: file for case, file in files.items() if case in grids}
    if not used:
        raise InputError(
            f"{baseline.folder} has no labels for a case of the dataset, such as "
            f"{next(iter(grids), 'any')}{FILE_ENDING}: name files like the cases."
        )
    chosen = label_map or identity_map(table)
    problems = []
    for case_id, file in used.items():
        try:
            labelmap, _ = mapped_labels(file, grids[case_id](), table, chosen)
        except Refused as error:
            problems.append(f"{case_id}: {error}")
        else:
            write_labelmap(out_dir / f"{case_id}{FILE_ENDING}", labelmap)
    if problems:
        raise InputError(f"{baseline.name} cannot be compared:\n" + "\n".join(problems))
    return ModelRun(baseline.name, "another tool", (FoldRun(NO_FOLD, out_dir),))


def _whole_values(file: Path, voxels: VoxelArray) -> list[int]:
    """Return the values in a file of labels, in their order."""
    values = np.unique(voxels)
    if (values != np.rint(values)).any() or values[0] < 0:
        raise Refused.because(
            "K06",
            f"{quoted(file.name)} holds values that are no labels: is this an image?",
        )
    return [int(value) for value in values]
