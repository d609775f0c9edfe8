"""`index.html` of a training run: curves, scores, slices, settings, versions."""

from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.comparison import Setting
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.formats.events import Curve
from nnunet_bridge.formats.files import write_text
from nnunet_bridge.formats.html.page import curve_figures
from nnunet_bridge.formats.html.parts import rendered, sentence
from nnunet_bridge.formats.sprites import SlicePicture
from nnunet_bridge.ops.means import mean_scores


@dataclass(frozen=True, slots=True)
class ShownSlice:
    """One slice and the reason to show it."""

    case_id: str
    title: str  # such as ``worst slice``
    reason: str  # one sentence
    picture: SlicePicture


@dataclass(frozen=True, slots=True)
class RunContent:
    """The input of the page of one training; a part that is empty is left out."""

    model: str  # its configuration, such as ``2d``
    fold: str
    dataset: str
    created: str
    caveat: str
    scores: tuple[BoneScore, ...]
    """Scores of the validation cases, structure by structure."""

    curve: Curve | None = None
    slices: tuple[ShownSlice, ...] = ()
    settings: tuple[Setting, ...] = ()
    costs: tuple[Setting, ...] = ()
    versions: tuple[Setting, ...] = ()
    colours: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    tolerance_mm: float | None = 1.0


_MEASURES = (
    ("dice", "Dice", 3),
    ("iou", "IoU", 3),
    ("hd95_mm", "HD95 (mm)", 2),
    ("assd_mm", "ASSD (mm)", 2),
    ("nsd", "NSD", 3),
    ("volume_error_cm3", "volume error (cm\u00b3)", 2),
)
"""Field of a score, its title, digits after the point."""


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
        measures=_MEASURES,
        means=mean_scores(content.scores),
        cases_count=len({score.case_id for score in content.scores}),
        curves=curve_figures(curves, (content.model,)),
        cases=[],
    )
