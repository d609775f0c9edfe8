"""Draw the scan of a case with its masks, before anything is converted."""

import hashlib
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from nnunet_bridge.core.case_table import DRAWN_ROLES, Role, TableRow
from nnunet_bridge.core.errors import BridgeError, InputError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.image import Labelmap
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.case_table import TableLine
from nnunet_bridge.formats.preview import write_preview, write_small
from nnunet_bridge.formats.recipe import Recipe, read_recipe
from nnunet_bridge.pipeline.ingest.cases import CaseMasks, series_options
from nnunet_bridge.pipeline.ingest.channels import read_channels
from nnunet_bridge.pipeline.ingest.matching import planned_study
from nnunet_bridge.pipeline.ingest.planned import CasePlan, StudyPlan
from nnunet_bridge.pipeline.ingest.table_editing import OpenTable
from nnunet_bridge.pipeline.ingest.table_plan import plan_rows

MOST_PICTURES = 2000  # kept in a folder: two of each case of a large study
_DRAWING = 1  # raise it when pictures change: those on the disk are then drawn anew


def case_picture(
    study: Path,
    recipe_file: Path,
    raw_dir: Path,
    case: str,
    folder: Path,
    size: str = "small",
) -> Path:
    """Return a PNG of a case: one small slice, or three planes with the structures.

    It is drawn again only if the files of the case or what the recipe says of them have
    changed. Masks that are refused, and files that are not masks, are left out of it;
    names that are not in ``[labels]`` have colours of their own. The folder keeps the
    newest `MOST_PICTURES`.

    Parameters
    ----------
    case : str
        Its id, or the name that `OpenTable.cases` gives it.
    folder : Path
        Where the pictures are kept.
    size : str
        ``small`` or ``large``.

    Raises
    ------
    BridgeError
        If there is no such case, or its scan cannot be read.
    """
    plan, recipe = _plan_of(study, recipe_file, raw_dir, case)
    files = {name: file.stat() for name, file in plan.input_files().items()}
    stamps = [(name, f.st_size, f.st_mtime_ns) for name, f in sorted(files.items())]
    facts = [_DRAWING, size, stamps, recipe.digest(plan.case_id, plan.meaning)]
    facts += [list(recipe.labels), str(study)]
    file = folder / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}.png"
    if not file.is_file():
        _draw(file, plan, recipe, title=case if size == "large" else "")
        newest = sorted(folder.glob("*.png"), key=_newest_first)
        for old in newest[MOST_PICTURES:]:
            old.unlink(missing_ok=True)
    return file


def _newest_first(file: Path) -> float:
    """Return what sorts files by their time; one that has gone comes last."""
    with suppress(FileNotFoundError):
        return -file.stat().st_mtime
    return math.inf


def planned_cases(study: Path, recipe_file: Path, raw_dir: Path) -> list[JsonObject]:
    """Return the cases of a study as `check` reads them, with the files of each."""

    def below(file: Path) -> str:
        return file.relative_to(study).as_posix()

    plan, _ = planned_study(study, read_recipe(recipe_file), raw_dir)
    return [
        {
            "case": case.case_id,
            "split": case.split,
            "image": below(case.scan.path) if case.scan else "",
            "masks": [
                {
                    "file": below(mask.path),
                    "structure": mask.structure or "",
                    "side": mask.side,
                }
                for mask in case.masks
            ],
            "messages": [str(finding) for finding in case.findings],
        }
        for case in plan.cases
    ]


def _draw(file: Path, plan: CasePlan, recipe: Recipe, *, title: str) -> None:
    """Draw a case: three planes with a title, one small slice without."""
    if plan.scan is None:
        raise InputError(f"{plan.case_id} has no image.")
    reading = read_channels(plan.scan, recipe.image_channels, series_options(recipe))
    volume, grid = reading.volume, reading.volume.grid
    labelmap = Labelmap(grid, np.zeros(grid.shape, np.uint8), recipe.table)
    if plan.masks:
        with suppress(BridgeError):  # the scan is worth a picture without them
            labelmap = CaseMasks(plan, recipe, reading).read()
    if title:
        write_preview(file, volume, labelmap, title=title)
    else:
        write_small(file, volume, labelmap)


def _plan_of(
    study: Path, recipe_file: Path, raw_dir: Path, case: str
) -> tuple[CasePlan, Recipe]:
    recipe = read_recipe(recipe_file)
    if (table := recipe.case_table) is not None:
        lines = _cases(recipe_file, table.stat().st_mtime_ns).get(case, ())
        rows = [row for line in lines if (row := line.row()) is not None]
        if rows:
            return _plan_of_rows(study, table, rows, recipe)
    stamp = (table or study).stat().st_mtime_ns, recipe_file.stat().st_mtime_ns
    found, recipe = _planned(study, recipe_file, raw_dir, stamp)
    plans = {plan.case_id: plan for plan in found.cases}
    if case not in plans:
        raise InputError(f"There is no case {case!r}.")
    return plans[case], recipe


@lru_cache(maxsize=2)
def _cases(recipe_file: Path, _stamp: int) -> dict[str, list[TableLine]]:
    return OpenTable.of(recipe_file).cases()


@lru_cache(maxsize=2)
def _planned(
    study: Path, recipe_file: Path, raw_dir: Path, _stamp: tuple[int, int]
) -> tuple[StudyPlan, Recipe]:
    return planned_study(study, read_recipe(recipe_file), raw_dir)


def _plan_of_rows(
    study: Path, table: Path, rows: Sequence[TableRow], recipe: Recipe
) -> tuple[CasePlan, Recipe]:
    """Plan one case whose structures need not be known yet."""
    named = [
        replace(row, structure=f"value {row.value}")
        if row.role is Role.LABELMAP and row.value and not row.structure
        else row
        for row in rows
        if row.structure or row.value or row.role not in (Role.MASK, Role.SURFACE)
    ]
    new = [row.structure for row in named if row.structure and row.role in DRAWN_ROLES]
    for name in dict.fromkeys(new):
        try:
            recipe.structure_of(name)
        except Refused:
            recipe = recipe.with_label(name)
    plans, recipe = plan_rows(study, table, named, recipe)
    return plans[0], recipe
