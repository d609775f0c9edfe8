"""The content of the comparison page; empty parts are left out."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_bridge.core.comparison import Comparison, Setting, Verdict
from nnunet_bridge.core.mesh import Mesh
from nnunet_bridge.formats.events import Curve
from nnunet_bridge.formats.sprites import SliceStack


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The card of a model at the top of the page."""

    name: str
    configuration: str
    folds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MeshSet:
    """The surfaces of one labelmap."""

    name: str
    """``reference``, or the name of a model."""

    meshes: tuple[Mesh, ...]


@dataclass(frozen=True, slots=True)
class CaseView:
    """One case with its slices and surfaces."""

    case_id: str
    reason: str
    """Why it is shown, such as ``worst case``."""

    dice: tuple[tuple[str, float], ...]
    """Model and mean Dice over the structures."""

    stacks: tuple[SliceStack, ...]
    """One for each plane."""

    meshes: tuple[MeshSet, ...]


@dataclass(frozen=True, slots=True)
class PageContent:
    """The input of the page."""

    title: str
    dataset: str
    created: str
    """Date and time, as text."""

    caveat: str
    """Warning at the top of the page; empty for none."""

    verdict: Verdict
    comparison: Comparison
    models: tuple[ModelCard, ...]
    """In the order of `comparison.models`."""

    colours: tuple[tuple[str, str], ...] = ()
    """Structure and its colour as ``#rrggbb``."""

    curves: tuple[Curve, ...] = ()
    cases: tuple[CaseView, ...] = ()
    test: Comparison | None = None
    """The same models on the test set."""

    settings: tuple[Setting, ...] = ()
    costs: tuple[Setting, ...] = ()
    versions: tuple[Setting, ...] = ()
    notes: tuple[str, ...] = ()
    """Limits of the numbers, one sentence each."""

    tolerance_mm: float = 1.0
    """Of the normalised surface Dice."""
