"""`index.html` of a comparison: one file that needs nothing else."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from markupsafe import Markup

from nnunet_bridge.core.comparison import ALL_STRUCTURES, Comparison
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.events import Curve
from nnunet_bridge.formats.files import write_text
from nnunet_bridge.formats.html import charts
from nnunet_bridge.formats.html.content import CaseView, PageContent
from nnunet_bridge.formats.html.meshes import packed_mesh
from nnunet_bridge.formats.html.parts import number, rendered, sentence, typeset
from nnunet_bridge.formats.html.tables import agreement_rows, metric_tables, rank_rows
from nnunet_bridge.formats.sprites import SEVERAL_COLOUR
from nnunet_bridge.ops.along import Profile

MAX_BYTES = 15_000_000  # the page stays below this, so that it can be sent by mail
MESH_FACES = (6000, 3000, 1500, 700, 300, 0)
"""Faces per structure, tried in turn until the page is small enough; 0 for none."""

_BYTES_OF_A_FACE = 11  # at least, with its share of the vertices

_SCALES_MM = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0)


def write_page(file: Path, content: PageContent, *, max_bytes: int = MAX_BYTES) -> int:
    """Write the page, whole or not at all; return its size in bytes."""
    sets = [mesh_set for case in content.cases for mesh_set in case.meshes]
    faces = [len(mesh.faces) for mesh_set in sets for mesh in mesh_set.meshes]
    bare = len(page_text(content, max_faces=0).encode())
    for max_faces in MESH_FACES:
        least = _BYTES_OF_A_FACE * sum(min(count, max_faces) for count in faces)
        if max_faces and bare + least > max_bytes:
            continue  # thinning takes seconds, and would be for nothing
        page = page_text(content, max_faces=max_faces)
        size = len(page.encode())
        if size <= max_bytes:
            break
    write_text(file, page)
    return size


def page_text(content: PageContent, *, max_faces: int = MESH_FACES[0]) -> str:
    """Return the page as text."""
    comparison = content.comparison
    scale_mm = distance_scale_mm(content.cases)
    return rendered(
        "comparison.html.j2",
        models=comparison.models,
        surfaces=max_faces > 0 and any(case.meshes for case in content.cases),
        content=content,
        typeset=typeset,
        several_colour="#{:02x}{:02x}{:02x}".format(*SEVERAL_COLOUR),
        comparison=comparison,
        banner=sentence(content.caveat),
        colours=dict(content.colours),
        tables=metric_tables(comparison, plots=True),
        test_tables=metric_tables(content.test, plots=False) if content.test else (),
        agreements=agreement_rows(comparison),
        ranks=rank_rows(comparison),
        forest=_forest(comparison),
        curves=curve_figures(content.curves, comparison.models),
        cases=[case_object(case, max_faces, scale_mm) for case in content.cases],
        scale_mm=scale_mm,
        profiles=_profile_figures(content.profiles),
    )


def _forest(comparison: Comparison) -> Markup:
    """Return the Dice differences of the first pair, all structures first."""
    if len(comparison.models) != 2:  # noqa: PLR2004 - a pair
        return Markup()
    rows = [row for row in comparison.rows if row.metric.key == "dice" and row.n]
    rows.sort(key=lambda row: row.structure != ALL_STRUCTURES)
    return charts.forest_plot(rows, 3) if rows else Markup()


@dataclass(frozen=True, slots=True)
class CurveFigure:
    """The two drawings of the trainings of one model."""

    model: str
    folds: tuple[str, ...]
    loss: Markup
    dice: Markup


def curve_figures(
    curves: Sequence[Curve], models: Sequence[str]
) -> tuple[CurveFigure, ...]:
    """Return loss and pseudo-Dice of every model, all on the same axes."""
    figures = []
    for place, model in enumerate(models):
        own = [curve for curve in curves if curve.model == model and curve.epochs]
        if own:
            folds = tuple(curve.fold for curve in own)
            loss = charts.curves_plot(own, place, curves, "loss")
            dice = charts.curves_plot(own, place, curves, "dice")
            figures.append(CurveFigure(model, folds, loss, dice))
    return tuple(figures)


def distance_scale_mm(cases: Sequence[CaseView]) -> float:
    """Return the one end of the scale of all surfaces: few distances are beyond it."""
    sets = [mesh_set for case in cases for mesh_set in case.meshes]
    every = [d[np.isfinite(d)] for s in sets for d in s.distances_mm if d is not None]
    size = float(np.percentile(np.abs(np.concatenate([[0.0], *every])), 95))
    return next((mm for mm in _SCALES_MM if mm >= size), _SCALES_MM[-1])


def _profile_figures(
    profiles: Sequence[Profile],
) -> list[tuple[str, int, Markup, Markup]]:
    """Return name, number of cases, and drawings of each structure."""
    figures = []
    for structure in dict.fromkeys(profile.structure for profile in profiles):
        own = [profile for profile in profiles if profile.structure == structure]
        dice, error = (charts.profile_plot(own, kind) for kind in ("dice", "error_mm"))
        figures.append((structure, own[0].cases, dice, error))
    return figures


def case_object(case: CaseView, max_faces: int, scale_mm: float) -> JsonObject:
    """Return a case as `page.js` reads it."""
    return {
        "id": case.case_id,
        "reason": case.reason,
        "failures": case.failures,
        "dice": [[model, number(dice, 3)] for model, dice in case.dice],
        "planes": [asdict(stack) for stack in case.stacks],
        "meshes": [
            {
                "name": one.name,
                "meshes": [
                    packed_mesh(mesh, max_faces, distances, scale_mm)
                    for mesh, distances in zip_longest(one.meshes, one.distances_mm)
                ],
            }
            for one in (case.meshes if max_faces else ())
        ],
    }
