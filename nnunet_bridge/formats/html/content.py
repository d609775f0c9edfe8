"""The content of the comparison page; empty parts are left out."""

from dataclasses import dataclass

from nnunet_bridge.core.comparison import Comparison, Setting, Verdict
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.mesh import Mesh
from nnunet_bridge.formats.events import Curve
from nnunet_bridge.formats.sprites import SliceStack
from nnunet_bridge.ops.along import Profile


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The card of a model at the top of the page."""

    name: str
    configuration: str
    folds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MeshSet:
    """The surfaces of one labelmap."""

    name: str  # ``reference``, or the name of a model
    meshes: tuple[Mesh, ...]
    distances_mm: tuple[FloatArray | None, ...] = ()
    """(V,) distance of each vertex from the reference, negative inside; none of it."""


@dataclass(frozen=True, slots=True)
class CaseView:
    """One case with its slices and surfaces."""

    case_id: str
    reason: str  # such as ``worst case``; empty for most
    dice: tuple[tuple[str, float], ...]  # model and mean Dice over the structures
    stacks: tuple[SliceStack, ...]  # one for each plane
    meshes: tuple[MeshSet, ...]
    failures: tuple[str, ...] = ()  # such as ``2d missed fibula``


@dataclass(frozen=True, slots=True)
class PageContent:
    """The input of the page."""

    title: str
    dataset: str
    created: str  # date and time, as text
    caveat: str  # warning at the top of the page; empty for none
    verdict: Verdict
    comparison: Comparison
    models: tuple[ModelCard, ...]  # in the order of `comparison.models`
    colours: tuple[tuple[str, str], ...] = ()  # structure and its colour as ``#rrggbb``
    curves: tuple[Curve, ...] = ()
    cases: tuple[CaseView, ...] = ()  # the worst first
    profiles: tuple[Profile, ...] = ()
    test: Comparison | None = None  # the same models on the test set
    settings: tuple[Setting, ...] = ()
    costs: tuple[Setting, ...] = ()
    versions: tuple[Setting, ...] = ()
    notes: tuple[str, ...] = ()  # limits of the numbers, one sentence each
    tolerance_mm: float | None = 1.0  # of the normalised surface Dice, if known
