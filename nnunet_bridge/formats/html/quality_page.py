"""`quality.html` of predicted cases: their ratings, the worst first, with reasons."""

from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.quality import Quality, QualityLevel, Reason
from nnunet_bridge.formats.files import write_if_changed
from nnunet_bridge.formats.html.parts import number, rendered

MARKS = {
    QualityLevel.RED: "\u25a0",
    QualityLevel.AMBER: "\u25b2",
    QualityLevel.GREEN: "\u25cf",
}
"""Shapes, so that the rating can be read without colours."""

LARGE_MM3 = 100_000  # volumes from this one on are shown in whole cm3
NOT_ASSESSED = "not assessed"  # level of a case that has no quality rating
_NO_MARK = "\u25cb"


@dataclass(frozen=True, slots=True)
class CaseQuality:
    """One predicted case."""

    case_id: str
    model: str  # title of the model that predicted it
    quality: Quality | None
    """None if it was predicted by a version without quality ratings."""

    volumes_mm3: tuple[tuple[str, float], ...]
    picture: str  # ``data:`` address
    links: tuple[tuple[str, str], ...] = ()  # words, and address relative to the page

    @property
    def level(self) -> str:
        """The quality level as a word, or `NOT_ASSESSED`."""
        return str(self.quality.level) if self.quality else NOT_ASSESSED

    @property
    def mark(self) -> str:
        """The shape of its level."""
        return MARKS[self.quality.level] if self.quality else _NO_MARK

    @property
    def agreement(self) -> str:
        """Lowest Dice between members of the model, as text."""
        return number(self.quality.lowest_agreement if self.quality else None, 2)

    @property
    def agreement_key(self) -> float:
        """Sort key of the page; cases without agreement come last."""
        lowest = self.quality.lowest_agreement if self.quality else None
        return 2.0 if lowest is None else lowest

    @property
    def reasons(self) -> tuple[tuple[Reason, ...], tuple[Reason, ...]]:
        """The reasons that decide on the level, and the lesser ones."""
        every = self.quality.reasons if self.quality else ()
        worst = max((r.level for r in every), default=QualityLevel.GREEN)
        decide = tuple(r for r in every if r.level == worst > QualityLevel.GREEN)
        return decide, tuple(reason for reason in every if reason not in decide)

    @property
    def volumes(self) -> tuple[tuple[str, str], ...]:
        """Structure and volume in cm3, as text."""
        return tuple(
            (name, number(volume / 1000, 2 if volume < LARGE_MM3 else 0))
            for name, volume in self.volumes_mm3
        )


@dataclass(frozen=True, slots=True)
class QualityContent:
    """The input of the page."""

    models: tuple[str, ...]  # titles of the models that predicted the cases
    created: str
    cases: tuple[CaseQuality, ...]  # the worst first
    colours: tuple[tuple[str, str], ...] = ()  # structure and its colour as ``#rrggbb``

    @property
    def counts(self) -> tuple[tuple[str, str, int], ...]:
        """Level, its mark, and the number of cases that have it; the worst first."""
        levels = [(str(level), mark) for level, mark in MARKS.items()]
        if any(case.quality is None for case in self.cases):
            levels.append((NOT_ASSESSED, _NO_MARK))
        return tuple(
            (level, mark, sum(case.level == level for case in self.cases))
            for level, mark in levels
        )


def write_quality_page(file: Path, content: QualityContent) -> int:
    """Write the page, whole or not at all; return its size in bytes."""
    page = rendered(
        "quality.html.j2",
        models=(),
        content=content,
        banner="",
        colours=dict(content.colours),
        marks={str(level): mark for level, mark in MARKS.items()},
    )
    content_bytes = page.encode()
    write_if_changed(file, content_bytes)
    return len(content_bytes)
