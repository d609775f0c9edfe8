"""The light of a prediction: what can be told without a reference.

Seven figures of every structure are compared with what is to be expected: how alike
the folds and the configurations of the model see it, its volume, its number of pieces,
the likeness of its sides, whether the field of view cuts it, and whether it is there at
all. What is expected of the last five comes from the training labels.

No figure sees everything. Folds that learnt from the same patients can agree on the
same mistake (`docs/explanations/quality-rating.md` says how often they did).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import BoolArray, Label, Labelmap, LabelTable
from nnunet_bridge.core.quality import (
    Light,
    MemberAgreement,
    Quality,
    Reason,
    Spread,
    StructureRange,
    TrainingStructures,
)
from nnunet_bridge.ops.components import Components, connected
from nnunet_bridge.ops.occupancy import Box, label_boxes

AGREEMENT_LIMITS: Mapping[str, tuple[float, float]] = {
    "between_folds": (0.80, 0.70),
    "between_configurations": (0.70, 0.50),
}
"""Dice between members below which a structure is amber, and red.

Where half of the structures with so little agreement had a Dice below 0.8 (amber) and
below 0.7 (red) with their reference, to a tenth: `benchmarks/quality_light.py`, on 14
patients of the hippocampus study and of the set it comes from, as given and degraded
in seven ways, at the smoke budget. 14 others were kept to show what the limits are
worth (`docs/explanations/quality-rating.md`). 2d and 3d learn different things, so they
disagree sooner than folds do."""

VOLUME_AMBER_CHANCE = 0.01
"""How often a volume of the trained population may be amber by chance."""

VOLUME_RED_CHANCE = 0.0001
"""How often a volume of the trained population may be red by chance."""

LEAST_LOG_SD = 0.03
"""Volumes of different people differ by three percent at the very least."""

FEWEST_LABELS = 3
"""Training labels below which no volume is expected: two have a range, but no
spread."""

MANY_LABELS = 20
"""Training labels above which the middle 90 % tell the spread, not the extremes."""

PIECE_SHARE = 0.01
"""A piece counts from this share of the volume of its structure on: smaller specks
hardly change a Dice or a volume. Where no piece is as large, all count."""

PIECES_RED_FACTOR = 3
"""So many times the pieces of the training labels are red."""

ASYMMETRY_AMBER = 0.05
"""How far the asymmetry may lie above the largest of the training labels. The
asymmetry is ``|left - right| / (left + right)``; 0.05 is one side 10 % larger."""

ASYMMETRY_RED = 0.25
"""Likewise; 0.25 is one side two thirds larger."""

PAIRED_SHARE = 0.8
PAIRED_ASYMMETRY = 0.5
"""A structure comes in pairs if so large a share of its training labels fall into two
sides that are no more unlike than this."""

SIDE_GAP_MM = 5.0
"""Two sides that share a label lie at least so far apart, across the patient."""

BORDER_SHARE = 0.2
"""If so large a share of the training labels reaches the border of the field of view,
nobody is told that a prediction does."""

_PERCENT = (0, 5, 50, 95, 100)
_NORMAL_90 = 3.2897072539029444
"""Width in standard deviations of the middle 90 % of a normal distribution."""


@dataclass(frozen=True, slots=True)
class StructureFigures:
    """What is measured of one structure in one labelmap."""

    volume_mm3: float
    """0 if the structure is absent; then nothing else is of use."""

    pieces: int = 0
    """Face-connected pieces of at least `PIECE_SHARE` of the volume."""

    at_border: bool = False
    """Whether one of these pieces reaches the border of the field of view."""

    sides_mm3: tuple[float, float] | None = None
    """Volume on the right and on the left: of the two labels of a pair (told at the
    left one), or of a label that holds both. None if there are no two sides."""

    @property
    def asymmetry(self) -> float | None:
        """Difference of both sides by their sum, 0..1."""
        if self.sides_mm3 is None:
            return None
        right, left = self.sides_mm3
        return abs(left - right) / (left + right)


Figures = Mapping[str, StructureFigures]


def structure_figures(labelmap: Labelmap) -> dict[str, StructureFigures]:
    """Return what is measured of every structure of the table, absent ones included.

    Examples
    --------
    >>> voxels = np.zeros((9, 9, 9), np.uint8)
    >>> voxels[1:3, 2:7, 2:7] = voxels[7, 2:7, 2:7] = 1
    >>> grid = Grid((9, 9, 9), np.diag([2.0, 1.0, 1.0, 1.0]))
    >>> table = LabelTable.from_names(["femur"])
    >>> structure_figures(Labelmap(grid, voxels, table))["femur"]
    StructureFigures(volume_mm3=150.0, pieces=2, at_border=False,
    sides_mm3=(100.0, 50.0))
    """
    boxes = zip(labelmap.labels, label_boxes(labelmap), strict=True)
    found = {
        label.name: _figures_of(labelmap, label, box)
        if box is not None
        else StructureFigures(0.0)
        for label, box in boxes
    }
    for left, right in pairs_of(labelmap.labels):
        both = found[right].volume_mm3, found[left].volume_mm3
        for name, sides in ((left, both if min(both) > 0 else None), (right, None)):
            one = found[name]
            found[name] = StructureFigures(
                one.volume_mm3, one.pieces, one.at_border, sides
            )
    return found


def training_structures(labels: Iterable[Figures]) -> TrainingStructures:
    """Return the ranges over the labels that a model learns from.

    Parameters
    ----------
    labels : iterable of mapping
        `structure_figures` of every training label.
    """
    every = list(labels)
    names = list(dict.fromkeys(name for figures in every for name in figures))
    ranges = {
        name: _range_of([f[name] for f in every if name in f and f[name].volume_mm3])
        for name in names
    }
    return TrainingStructures(
        len(every), {name: found for name, found in ranges.items() if found}
    )


def judge(
    labelmap: Labelmap, agreement: MemberAgreement, training: TrainingStructures | None
) -> Quality:
    """Return the light of a prediction with its reasons.

    Parameters
    ----------
    labelmap : Labelmap
        The prediction.
    agreement : MemberAgreement
        Between the members of the model.
    training : TrainingStructures or None
        None if nothing is known of the training labels.
    """
    figures = structure_figures(labelmap)
    reasons = list(_agreement_reasons(labelmap.labels, agreement))
    reasons += _empty_reasons(figures, training)
    if training is not None:
        for name, found in figures.items():
            known = training.structures.get(name)
            if known is not None and found.volume_mm3:
                reasons += _range_reasons(labelmap.labels[name], found, known)
    return Quality(tuple(reasons), tuple(_not_judged(agreement, training)))


def expected_volume_mm3(
    spread: Spread, cases: int, chance: float
) -> tuple[float, float]:
    """Return between which volumes the next patient of a population lies.

    Parameters
    ----------
    spread : Spread
        Of the volumes of the training labels, in mm3; above 0.
    cases : int
        How many labels that were, at least 2.
    chance : float
        How often the next one lies outside, if logarithms of volumes are normal.

    Notes
    -----
    The prediction interval of one further normal value: the median, plus and minus
    Student's t times the standard deviation times ``sqrt(1 + 1/n)``. The standard
    deviation is the range over its expectation in `n` normal values, the constant d2
    of quality control (Tippett 1925); with many labels, the middle 90 % by theirs.

    Examples
    --------
    >>> spread = Spread(80_000, 82_000, 100_000, 122_000, 125_000)
    >>> low, high = expected_volume_mm3(spread, 12, 0.01)
    >>> round(low / 1000), round(high / 1000)
    (64, 156)
    """
    from scipy.stats import t

    if cases > MANY_LABELS:
        log_sd = math.log(spread.high / spread.low) / _NORMAL_90
    else:
        log_sd = math.log(spread.most / spread.least) / expected_range(cases)
    quantile = float(t.ppf(1 - chance / 2, cases - 1))
    reach = quantile * max(log_sd, LEAST_LOG_SD) * math.sqrt(1 + 1 / cases)
    return spread.median * math.exp(-reach), spread.median * math.exp(reach)


def expected_range(values: int) -> float:
    """Return the mean range of so many normal values, in standard deviations.

    Examples
    --------
    >>> round(expected_range(2), 3), round(expected_range(12), 3)
    (1.128, 3.258)
    """
    from scipy.integrate import trapezoid
    from scipy.stats import norm

    x = np.linspace(-9, 9, 3601)
    below = norm.cdf(x)
    inside = 1 - below**values - (1 - below) ** values
    return float(trapezoid(inside, x))


def pairs_of(labels: LabelTable) -> Iterator[tuple[str, str]]:
    """Go through the names of labels that are left and right of one structure.

    Examples
    --------
    >>> list(pairs_of(LabelTable.from_names(["femur_right", "femur_left", "sacrum"])))
    [('femur_left', 'femur_right')]
    """
    names = set(labels.names)
    for label in labels:
        base, _, ending = label.name.rpartition("_")
        if ending == "left" and f"{base}_right" in names:
            yield label.name, f"{base}_right"


def _figures_of(labelmap: Labelmap, label: Label, box: Box) -> StructureFigures:
    mask = labelmap.voxels[box] == label.value
    pieces = connected(mask, across_planes=True)
    sizes = pieces.sizes()
    counted = sizes >= PIECE_SHARE * sizes.sum()
    if not counted.any():  # shattered: there is nothing but specks
        counted[:] = True
    voxel_mm3 = labelmap.grid.voxel_volume_mm3
    sides = None if label.side else _sides(mask, labelmap.grid)
    return StructureFigures(
        volume_mm3=float(sizes.sum()) * voxel_mm3,
        pieces=int(counted.sum()),
        at_border=_reaches_border(pieces, counted, box, labelmap.grid.shape),
        sides_mm3=(sides[0] * voxel_mm3, sides[1] * voxel_mm3) if sides else None,
    )


def _reaches_border(
    pieces: Components, counted: BoolArray, box: Box, shape: Sequence[int]
) -> bool:
    """Whether a counted piece of what lies in `box` reaches the border of the grid."""
    runs = counted[pieces.owners]
    ends = (
        (pieces.planes[runs], pieces.planes[runs]),
        (pieces.lines[runs], pieces.lines[runs]),
        (pieces.first[runs], (pieces.first + pieces.lengths - 1)[runs]),
    )
    return any(
        int(lowest.min()) + along.start == 0
        or int(highest.max()) + along.start == size - 1
        for (lowest, highest), along, size in zip(ends, box, shape, strict=True)
    )


def _sides(mask: BoolArray, grid: Grid) -> tuple[int, int] | None:
    """Return the voxels on the right and left of the gap that parts them most evenly.

    None if no gap of `SIDE_GAP_MM` runs through the structure.
    """
    axis = int(np.argmax(np.abs(grid.affine[0, :3]) / grid.spacing_mm))
    others = tuple(other for other in range(3) if other != axis)
    profile: npt.NDArray[np.intp] = np.count_nonzero(mask, axis=others)
    held = np.flatnonzero(profile)
    gaps = np.diff(held) - 1
    before = np.cumsum(profile)[held[:-1]]
    wide = gaps * grid.spacing_mm[axis] >= SIDE_GAP_MM
    if not wide.any():
        return None
    total = int(profile.sum())
    first = int(max(before[wide], key=lambda count: min(count, total - count)))
    both = first, total - first
    return both if grid.affine[0, axis] > 0 else (both[1], both[0])


def _range_of(found: Sequence[StructureFigures]) -> StructureRange | None:
    if not found:
        return None
    asymmetries = [f.asymmetry for f in found if f.asymmetry is not None]
    alike = sum(value <= PAIRED_ASYMMETRY for value in asymmetries)
    return StructureRange(
        cases=len(found),
        at_border=sum(one.at_border for one in found),
        volume_mm3=_spread([one.volume_mm3 for one in found]),
        pieces=_spread([one.pieces for one in found]),
        asymmetry=_spread(asymmetries) if alike >= PAIRED_SHARE * len(found) else None,
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(*(float(value) for value in np.percentile(values, _PERCENT)))


def _agreement_reasons(
    labels: LabelTable, agreement: MemberAgreement
) -> Iterator[Reason]:
    for kind, found, members in (
        ("between_folds", agreement.between_folds, "the folds"),
        ("between_configurations", agreement.between_configurations, "2d and 3d"),
    ):
        for label in labels:
            dice = (found or {}).get(label.value)
            if dice is not None:
                level = agreement_level(kind, dice)
                words = ("agree", "agree only in part", "hardly agree")[level]
                amber = AGREEMENT_LIMITS[kind][0]
                limit = "" if level is Light.GREEN else f"; {amber:.2f} expected"
                said = f"{label.name}: {members} {words} (Dice {dice:.2f}{limit})."
                yield Reason(label.name, kind, level, dice, (amber, None), said)


def agreement_level(kind: str, dice: float) -> Light:
    """Return the level of a Dice between folds or between configurations."""
    amber, red = AGREEMENT_LIMITS[kind]
    if dice >= amber:
        return Light.GREEN
    return Light.AMBER if dice >= red else Light.RED


def _empty_reasons(
    figures: Figures, training: TrainingStructures | None
) -> Iterator[Reason]:
    nothing = not any(found.volume_mm3 for found in figures.values())
    for name, found in figures.items():
        if found.volume_mm3:
            continue
        level, why = _empty_level(name, training)
        if nothing:
            level, why = Light.RED, "nothing at all was"
        said = f"{name}: not found; {why}."
        yield Reason(name, "empty", level, 0.0, (None, None), said)


def _empty_level(name: str, training: TrainingStructures | None) -> tuple[Light, str]:
    if training is None or not training.cases:
        return Light.AMBER, "whether it must be there is unknown"
    known = training.structures.get(name)
    held = known.cases if known else 0
    why = f"{held} of {training.cases} training labels hold it"
    if held == training.cases:
        return Light.RED, why
    return (Light.AMBER if 2 * held >= training.cases else Light.GREEN), why


def _range_reasons(
    label: Label, found: StructureFigures, known: StructureRange
) -> Iterator[Reason]:
    """Go through what the training labels say of one structure that is there."""
    if known.cases >= FEWEST_LABELS:
        yield _volume_reason(label.name, found.volume_mm3, known)
    yield _pieces_reason(label.name, found.pieces, known)
    if known.asymmetry is not None and not (label.side and found.sides_mm3 is None):
        yield _symmetry_reason(label, found, known.asymmetry)
    yield _border_reason(label.name, found, known)


def _volume_reason(name: str, volume_mm3: float, known: StructureRange) -> Reason:
    spread = known.volume_mm3
    usual = expected_volume_mm3(spread, known.cases, VOLUME_AMBER_CHANCE)
    possible = expected_volume_mm3(spread, known.cases, VOLUME_RED_CHANCE)
    level = Light.GREEN
    if not usual[0] <= volume_mm3 <= usual[1]:
        within = possible[0] <= volume_mm3 <= possible[1]
        level = Light.AMBER if within else Light.RED
    small = volume_mm3 < spread.median
    words = ("as usual", "small", "far too small")
    word = words[level] if small else words[level].replace("small", "large")
    said = (
        f"{name}: {_cm3(volume_mm3)} cm\u00b3, {word}: {known.cases} training labels "
        f"hold {_cm3(spread.least)} to {_cm3(spread.most)}, "
        f"{_cm3(usual[0])} to {_cm3(usual[1])} is to be expected."
    )
    return Reason(name, "volume", level, volume_mm3, usual, said)


def _pieces_reason(name: str, pieces: int, known: StructureRange) -> Reason:
    most = known.pieces.most
    level = Light.GREEN
    if pieces > most:
        level = Light.RED if pieces > PIECES_RED_FACTOR * most else Light.AMBER
    said = (
        f"{name}: {pieces} {'piece' if pieces == 1 else 'pieces'}; the training "
        f"labels have {_at_most(most)}."
    )
    return Reason(name, "pieces", level, float(pieces), (None, most), said)


def _symmetry_reason(label: Label, found: StructureFigures, known: Spread) -> Reason:
    name = label.name
    limit = min(1.0, known.most + ASYMMETRY_AMBER)
    if found.sides_mm3 is None:
        said = (
            f"{name}: one side only, or both grown together; the training labels have "
            "two sides apart."
        )
        return Reason(name, "symmetry", Light.AMBER, None, (None, limit), said)
    value = found.asymmetry or 0.0
    level = Light.GREEN
    if value > limit:
        level = Light.RED if value > known.most + ASYMMETRY_RED else Light.AMBER
    right, left = (_cm3(side) for side in found.sides_mm3)
    base = name.rpartition("_")[0] if label.side else name
    said = (
        f"{base}: {right} cm\u00b3 right, {left} cm\u00b3 left: the sides differ by "
        f"{100 * value:.0f} % of their sum; the training labels by up to "
        f"{100 * known.most:.0f} %."
    )
    return Reason(name, "symmetry", level, value, (None, limit), said)


def _border_reason(name: str, found: StructureFigures, known: StructureRange) -> Reason:
    usual = known.at_border >= BORDER_SHARE * known.cases
    level = Light.AMBER if found.at_border and not usual else Light.GREEN
    does = "reaches" if found.at_border else "does not reach"
    said = (
        f"{name}: {does} the border of the field of view; {known.at_border} of "
        f"{known.cases} training labels do."
    )
    expected = (None, 1.0 if usual else 0.0)
    return Reason(name, "border", level, float(found.at_border), expected, said)


def _not_judged(
    agreement: MemberAgreement, training: TrainingStructures | None
) -> Iterator[str]:
    if agreement.between_folds is None:
        yield "One fold only: no agreement between folds."
    if agreement.between_configurations is None:
        yield "One configuration only: no agreement between 2d and 3d."
    if training is None:
        yield (
            "The training labels are unknown: volume, pieces, symmetry and border are "
            "not judged."
        )
    elif training.cases < FEWEST_LABELS:
        yield f"Fewer than {FEWEST_LABELS} training labels: no volume is expected."


def _at_most(count: float) -> str:
    whole = round(count)
    return "one" if whole == 1 else f"at most {whole}"


def _cm3(volume_mm3: float) -> str:
    """Return a volume in cm3 with three figures.

    Examples
    --------
    >>> _cm3(1_234.5), _cm3(98_765.0), _cm3(1_234_567.0)
    ('1.23', '98.8', '1235')
    """
    volume = volume_mm3 / 1000
    digits = 0 if volume <= 0 else max(0, 2 - math.floor(math.log10(volume)))
    return f"{volume:.{min(digits, 6)}f}"
