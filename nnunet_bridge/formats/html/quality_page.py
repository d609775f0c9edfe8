"""`quality.html` of predicted cases: their lights, the worst first, with reasons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.quality import Quality, QualityLevel
from nnunet_bridge.formats.files import write_if_changed
from nnunet_bridge.formats.html.parts import number, rendered

MARKS = {
    QualityLevel.RED: "\u25a0",
    QualityLevel.AMBER: "\u25b2",
    QualityLevel.GREEN: "\u25cf",
}
"""Shapes, so that nobody depends on the colours."""

LARGE_MM3 = 100_000
"""From this volume on, the page writes whole cm3."""

NOT_ASSESSED = "unlit"
"""In place of a light, where there is none."""


@dataclass(frozen=True, slots=True)
class CaseQuality:
    """One predicted case."""

    case_id: str
    model: str
    """Which model answered, in words."""

    quality: Quality | None
    """None if it was predicted before there were lights."""

    volumes_mm3: tuple[tuple[str, float], ...]
    picture: str
    """As a ``data:`` address."""

    @property
    def light(self) -> str:
        """Its light as a word, `NOT_ASSESSED` without one."""
        return str(self.quality.level) if self.quality else NOT_ASSESSED

    @property
    def mark(self) -> str:
        """The shape of its light."""
        return MARKS[self.quality.level] if self.quality else "\u25cb"

    @property
    def agreement(self) -> str:
        """Lowest Dice between members of the model, as the page writes it."""
        return number(self.quality.lowest_agreement if self.quality else None, 2)

    @property
    def agreement_key(self) -> float:
        """By which the page sorts; cases without one come last."""
        lowest = self.quality.lowest_agreement if self.quality else None
        return 2.0 if lowest is None else lowest

    @property
    def volumes(self) -> tuple[tuple[str, str], ...]:
        """Structure and volume in cm3, as the page writes it."""
        return tuple(
            (name, number(volume / 1000, 2 if volume < LARGE_MM3 else 0))
            for name, volume in self.volumes_mm3
        )


@dataclass(frozen=True, slots=True)
class QualityContent:
    """The input of the page."""

    models: tuple[str, ...]
    """The models that answered, in words."""

    created: str
    cases: tuple[CaseQuality, ...]
    """The worst first."""

    colours: tuple[tuple[str, str], ...] = ()
    """Structure and its colour as ``#rrggbb``."""

    @property
    def counts(self) -> tuple[tuple[str, str, int], ...]:
        """QualityLevel, its mark, and how many cases have it; the worst first."""
        lights = [(str(light), mark) for light, mark in MARKS.items()]
        if any(case.quality is None for case in self.cases):
            lights.append((NOT_ASSESSED, "\u25cb"))
        return tuple(
            (light, mark, sum(case.light == light for case in self.cases))
            for light, mark in lights
        )


def write_quality_page(file: Path, content: QualityContent) -> int:
    """Write the page, whole or not at all; return its size in bytes."""
    page = rendered(
        "quality.html.j2",
        models=(),
        content=content,
        banner="",
        colours=dict(content.colours),
        marks={str(light): mark for light, mark in MARKS.items()},
        number=number,
    )
    content_bytes = page.encode()
    write_if_changed(file, content_bytes)
    return len(content_bytes)
