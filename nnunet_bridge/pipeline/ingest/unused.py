"""Find the files of a study that look like masks and belong to no case.

A mask that is left out by mistake is learnt as background, so each is reported. A file
looks like a mask if it is a segmentation or a surface, if its name says so, or if it
holds few whole numbers on the grid of a scan.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from nnunet_bridge.core.errors import BridgeError, InputError
from nnunet_bridge.core.findings import Finding, warning
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.units import counted, some_of
from nnunet_bridge.formats.dicom.drawn import may_be_drawn
from nnunet_bridge.formats.files import is_regular
from nnunet_bridge.formats.mask_values import are_labels
from nnunet_bridge.formats.recipe import Recipe, folded
from nnunet_bridge.formats.slicer import is_mask_file, is_segmentation, read_values
from nnunet_bridge.formats.surfaces import SURFACE_ENDINGS
from nnunet_bridge.formats.vocabulary import read_vocabulary
from nnunet_bridge.ops.naming import natural_key
from nnunet_bridge.pipeline.ingest.planned import StudyPlan, places_of

_MOST_VALUES = 128  # a file with more values than these is an image
_SAME_GRID = 0.1
"""Largest displacement on one grid, as a share of the smallest spacing (K04)."""

_DICOM_SUFFIXES = ("", ".dcm")
_HOW = {
    True: "Give each a row in the case table, with the role ignore if it is not meant.",
    False: "Correct [masks] of the recipe, or run `init`, which writes a case table.",
}


def require_masks(study: Path, plan: StudyPlan, recipe: Recipe) -> None:
    """Refuse a study in which no case has a mask, although it holds files of masks."""
    if any(case.masks for case in plan.cases):
        return
    files = list(_candidates(study, plan))
    if not files:
        return
    many, how = counted(len(files), "file"), _HOW[recipe.case_table is not None]
    text = f"No case has a mask, but the study holds {many} that may be masks:"
    raise InputError(f"{text} {_named(study, files)}. {how}", code="K21")


def unused_masks(
    study: Path, plan: StudyPlan, recipe: Recipe, grids: Sequence[Grid]
) -> list[Finding]:
    """Name the files that look like masks and are not used, in one warning.

    `grids` are those of the images.
    """
    reported = "\n".join(finding.message for finding in plan.findings)
    words = set(map(folded, chain(recipe.structures, *recipe.aliases.values())))
    files = [
        file
        for file in _candidates(study, plan)
        if quoted(file.name) not in reported and _looks_like_a_mask(file, words, grids)
    ]
    if not files:
        return []
    how = _HOW[recipe.case_table is not None]
    what = counted(len(files), "file", ("looks like a mask", "look like masks"))
    text = f"{what} and no case uses it: {_named(study, files)}. {how}"
    return [warning("K21", text)]


def _candidates(study: Path, plan: StudyPlan) -> Iterator[Path]:
    """Yield the files that may be masks by their kind, and belong to no case."""
    used = {place for case in plan.cases for place in places_of(case)}
    known = used | plan.ignored
    for parent, folders, names in os.walk(study):
        kept = (name for name in folders if Path(parent, name) not in plan.ignored)
        folders[:] = sorted((n for n in kept if not n.startswith(".")), key=natural_key)
        files = [Path(parent, name) for name in sorted(names, key=natural_key)]
        others = [file for file in files if file not in known and is_regular(file)]
        yield from (file for file in others if may_be_a_mask(file.name))
        folder = Path(parent)
        if used.isdisjoint((folder, *folder.parents)):  # scans account for their files
            rest = (file for file in others if file.suffix.lower() in _DICOM_SUFFIXES)
            yield from filter(may_be_drawn, rest)


def may_be_a_mask(name: str) -> bool:
    """Whether a file name has the ending of a mask or a surface."""
    return is_mask_file(name) or name.lower().endswith((*SURFACE_ENDINGS, ".vtp"))


def _named(study: Path, files: Sequence[Path]) -> str:
    return some_of([quoted(file.relative_to(study).as_posix()) for file in files])


def _looks_like_a_mask(file: Path, words: set[str], grids: Sequence[Grid]) -> bool:
    name = file.name
    if is_segmentation(name) or not is_mask_file(name):
        return True
    vocabulary, plain = read_vocabulary(), folded(re.sub(r"[^\w]|[\d_]", " ", name))
    if any(word in plain for word in (*vocabulary.mask_parts, *words)):
        return True
    if not vocabulary.mask_abbreviations.isdisjoint(plain.split()):
        return True
    with suppress(BridgeError):
        return _holds_labels(file, grids)
    return False


def _holds_labels(file: Path, grids: Sequence[Grid]) -> bool:
    """Whether a file holds few whole numbers, on the grid of a scan."""
    grid, values, _ = read_values(file)
    near_mm = _SAME_GRID * float(grid.spacing_mm.min())
    if not any(grid.matches(known, tolerance_mm=near_mm) for known in grids):
        return False
    return bool(values.any()) and are_labels(values, _MOST_VALUES)
