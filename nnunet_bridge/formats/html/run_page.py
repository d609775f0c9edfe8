"""`index.html` of one training: its curves, scores, slices, settings and versions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.comparison import Setting
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.words import ScoreState
from nnunet_bridge.formats.events import Curve
from nnunet_bridge.formats.files import write_text
from nnunet_bridge.formats.html.page import curve_figures
from nnunet_bridge.formats.html.parts import number, rendered, sentence
from nnunet_bridge.formats.sprites import SlicePicture
from nnunet_bridge.ops.means import StructureMean, mean_scores


@dataclass(frozen=True, slots=True)
class ShownSlice:
    """One slice to look at, and why this one."""

    case_id: str
    title: str
    """Such as ``worst slice``."""

    reason: str
    """One sentence."""

    picture: SlicePicture


@dataclass(frozen=True, slots=True)
class RunContent:
    """The input of the page of one training; a part that is empty is left out."""

    model: str
    """Its configuration, such as ``2d``."""

    fold: str
    dataset: str
    created: str
    caveat: str
    scores: tuple[BoneScore, ...]
    """Of the cases held out, structure by structure."""

    curve: Curve | None = None
    slices: tuple[ShownSlice, ...] = ()
    settings: tuple[Setting, ...] = ()
    costs: tuple[Setting, ...] = ()
    versions: tuple[Setting, ...] = ()
    colours: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    tolerance_mm: float = 1.0


_MEASURES = (
    ("dice", "Dice", 3),
    ("iou", "IoU", 3),
    ("hd95_mm", "HD95 (mm)", 2),
    ("assd_mm", "ASSD (mm)", 2),
    ("nsd", "NSD", 3),
    ("volume_error_cm3", "volume error (cm\u00b3)", 2),
)
"""Field of a score, its title, digits after the point."""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One case, or the mean over all, of one structure."""

    case_id: str
    structure: str
    cells: tuple[str, ...]
    remark: str = ""
    total: bool = False


def write_run_page(file: Path, content: RunContent) -> int:
    """Write the page, whole or not at all; return its size in bytes."""
    page = run_page_text(content)
    write_text(file, page)
    return len(page.encode())


def run_page_text(content: RunContent) -> str:
    """Return the page as text."""
    curves = [content.curve] if content.curve else []
    return rendered(
        "run.html.j2",
        models=(content.model,),
        content=content,
        banner=sentence(content.caveat),
        colours=dict(content.colours),
        heads=[title for _, title, _ in _MEASURES],
        rows=score_rows(content.scores),
        cases_count=len({score.case_id for score in content.scores}),
        curves=curve_figures(curves, (content.model,)),
        cases=[],
    )


def score_rows(scores: tuple[BoneScore, ...]) -> tuple[ScoreRow, ...]:
    """Return the mean of every structure, then every case."""
    means = [
        ScoreRow("mean", mean.structure, _cells(mean), total=True)
        for mean in mean_scores(scores)
    ]
    cases = [
        ScoreRow(
            score.case_id,
            score.structure,
            _cells(score if score.state is not ScoreState.BOTH_EMPTY else None),
            remark=score.state.replace("_", " ").removeprefix("scored"),
        )
        for score in scores
    ]
    return (*means, *cases)


def _cells(measured: BoneScore | StructureMean | None) -> tuple[str, ...]:
    return tuple(
        number(getattr(measured, key, None), digits, signed=key == "volume_error_cm3")
        for key, _, digits in _MEASURES
    )
