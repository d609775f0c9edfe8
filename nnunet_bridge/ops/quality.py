"""The quality rating of a prediction without a reference.

Eight figures of every structure are compared with their expected ranges: the agreement
of the folds and of the configurations, the volume, the number of pieces, the symmetry
of the sides, the steps between slices, whether the field of view cuts the structure,
and whether it is there at all. The ranges of the last six come from the training
labels. A ninth figure is of the image: the strength of its edges (`ops.edges`).

Agreement is no proof: folds trained on the same patients can share a mistake
(`docs/explanations/quality-rating.md` gives the measured rates).
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nnunet_bridge.core.grid import FloatArray, Grid
from nnunet_bridge.core.image import BoolArray, Label, Labelmap, LabelTable
from nnunet_bridge.core.quality import (
    AGREEMENTS,
    MemberAgreement,
    Quality,
    QualityCheck,
    QualityLevel,
    Reason,
    Spread,
    StructureRange,
    TrainingStructures,
)
from nnunet_bridge.ops.components import Components, connected
from nnunet_bridge.ops.occupancy import Box, label_boxes

AGREEMENT_LIMITS: Mapping[str, tuple[float, float]] = {
    QualityCheck.BETWEEN_FOLDS: (0.80, 0.70),
    QualityCheck.BETWEEN_CONFIGURATIONS: (0.70, 0.50),
}
"""Lowest Dice between members that is green, and lowest that is amber.

Half of the structures below these limits had a Dice below 0.8 (amber) and below 0.7
(red) with their reference, rounded to a tenth: `benchmarks/quality_rating.py`, on 14
patients of the hippocampus study and of the set it comes from, as given and degraded
in seven ways, at the smoke budget; 14 others validate the limits
(`docs/explanations/quality-rating.md`). 2d and 3d learn different features, so they
disagree sooner than folds do."""

VOLUME_AMBER_CHANCE = 0.01
"""Share of the trained population whose volume is rated amber by chance."""

VOLUME_RED_CHANCE = 0.0001
"""Share of the trained population whose volume is rated red by chance."""

EDGES_AMBER_CHANCE = 0.05
"""The same for the strength of the edges, which is amber on its lower side only."""

LEAST_LOG_SD = 0.03
"""Lower bound of the standard deviation of the logarithm of volumes: people differ by
three percent at least."""

LEAST_STEP_MM = 0.1  # steps up to this one are no steps

FEWEST_LABELS = 3
"""Fewest training labels for an expected volume: two have a range, but no spread."""

MANY_LABELS = 20
"""With more training labels, the middle 90 % estimate the spread, not the extremes."""

PIECE_SHARE = 0.01
"""Smallest share of the volume of a structure that counts as a piece: smaller specks
hardly change a Dice or a volume. If no piece is as large, all count."""

PIECES_RED_FACTOR = 3
"""More than this many times the pieces of the training labels are rated red."""

ASYMMETRY_AMBER = 0.05
"""An asymmetry this far above the largest of the training labels is rated amber. The
asymmetry is ``|left - right| / (left + right)``; 0.05 is one side 10 % larger."""

ASYMMETRY_RED = 0.25  # the same for red; 0.25 is one side two thirds larger

PAIRED_SHARE = 0.8
PAIRED_ASYMMETRY = 0.5
"""A structure is paired if at least this share of its training labels has two sides
with an asymmetry of at most `PAIRED_ASYMMETRY`."""

SIDE_GAP_MM = 5.0
"""Two sides with a common label lie at least this far apart, from left to right."""

BORDER_SHARE = 0.2
"""If this share of the training labels reaches the border of the field of view, it is
normal for a prediction."""

_PERCENT = (0, 5, 50, 95, 100)
_NORMAL_90 = 3.2897072539029444
"""Width in standard deviations of the middle 90 % of a normal distribution."""


@dataclass(frozen=True, slots=True)
class StructureFigures:
    """The figures of one structure in one labelmap."""

    volume_mm3: float
    """0 if the structure is absent; then no other figure has a meaning."""

    pieces: int = 0  # face-connected pieces of at least `PIECE_SHARE` of the volume
    at_border: bool = False
    """Whether one of these pieces reaches the border of the field of view."""

    step_mm: float = 0.0
    """How far the centre of a slice lies from the middle of its neighbours' centres:
    root mean square, weighted by the smallest area of the three slices."""

    sides_mm3: tuple[float, float] | None = None
    """Volume on the right and on the left: of the two labels of a pair (kept with the
    left one), or of a label that holds both. None without two sides."""

    @property
    def asymmetry(self) -> float | None:
        """Difference of both sides divided by their sum, 0..1."""
        if self.sides_mm3 is None:
            return None
        right, left = self.sides_mm3
        return abs(left - right) / (left + right)


Figures = Mapping[str, StructureFigures]


def structure_figures(labelmap: Labelmap) -> dict[str, StructureFigures]:
    """Measure every structure of the table, absent ones included."""
    found = {}
    for label, box in zip(labelmap.labels, label_boxes(labelmap), strict=True):
        absent = StructureFigures(0.0)
        found[label.name] = _figures_of(labelmap, label, box) if box else absent
    for left, right in pairs_of(labelmap.labels):
        both = found[right].volume_mm3, found[left].volume_mm3
        for name, sides in ((left, both if min(both) > 0 else None), (right, None)):
            found[name] = replace(found[name], sides_mm3=sides)
    return found


def training_structures(
    labels: Iterable[Figures], edges: Iterable[float | None] = ()
) -> TrainingStructures:
    """Return the ranges over the `structure_figures` of every training label.

    All label tables have the same structures. `edges` has the `edge_strength` of every
    training image.
    """
    every = list(labels)
    names = every[0] if every else ()
    ranges = {
        name: _range_of([f[name] for f in every if f[name].volume_mm3])
        for name in names
    }
    found = {name: range_ for name, range_ in ranges.items() if range_}
    known = [strength for strength in edges if strength]
    return TrainingStructures(len(every), found, _spread(known) if known else None)


def judge(
    labelmap: Labelmap,
    agreement: MemberAgreement,
    training: TrainingStructures | None,
    edges: float | None = None,
) -> Quality:
    """Rate a prediction: its level with all reasons.

    `training` is None if the training labels are unknown. `edges` is the
    `edge_strength` of the image.
    """
    figures = structure_figures(labelmap)
    reasons = list(_agreement_reasons(labelmap.labels, agreement))
    reasons += _empty_reasons(figures, training)
    if training is not None:
        for name, found in figures.items():
            known = training.structures.get(name)
            if known is not None and found.volume_mm3:
                reasons += _range_reasons(labelmap.labels[name], found, known)
        reasons += _edge_reasons(edges, training)
    return Quality(tuple(reasons), tuple(_not_judged(agreement, training)))


def expected_volume_mm3(
    spread: Spread, cases: int, chance: float
) -> tuple[float, float]:
    """Return the range in mm3 in which the volume of the next patient lies.

    It lies outside with the probability `chance`, if logarithms of volumes are normal.
    `spread` is that of the volumes of the training labels, all above 0; there are at
    least two `cases`.

    Notes
    -----
    The prediction interval of one further normal value: the median, plus and minus
    Student's t times the standard deviation times ``sqrt(1 + 1/n)``. The standard
    deviation is the range over its expectation in `n` normal values, the constant d2
    of quality control (Tippett 1925); with many labels, the middle 90 % by theirs.
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
    """Return the expected range of `values` normal values, in standard deviations."""
    from scipy.integrate import trapezoid
    from scipy.stats import norm

    x = np.linspace(-9, 9, 3601)
    below = norm.cdf(x)
    inside = 1 - below**values - (1 - below) ** values
    return float(trapezoid(inside, x))


def pairs_of(labels: LabelTable) -> Iterator[tuple[str, str]]:
    """Yield the names of labels that are left and right of one structure.

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
    if not counted.any():  # the structure consists of specks only
        counted[:] = True
    voxel_mm3 = labelmap.grid.voxel_volume_mm3
    sides = None if label.side else _sides(mask, labelmap.grid)
    return StructureFigures(
        volume_mm3=float(sizes.sum()) * voxel_mm3,
        pieces=int(counted.sum()),
        at_border=_reaches_border(pieces, counted, box, labelmap.grid.shape),
        step_mm=_step_mm(mask, labelmap.grid.spacing_mm),
        sides_mm3=(sides[0] * voxel_mm3, sides[1] * voxel_mm3) if sides else None,
    )


def _step_mm(mask: BoolArray, spacing_mm: FloatArray) -> float:
    """Return `StructureFigures.step_mm`; slices are along the largest voxel edge."""
    through = 2 - int(np.argmax(spacing_mm[::-1]))
    slices = np.moveaxis(mask, through, 0)
    edges_mm = np.delete(spacing_mm, through)
    profiles = [np.count_nonzero(slices, axis=axis) for axis in (2, 1)]
    area = profiles[0].sum(axis=1)
    places = (profile @ np.arange(profile.shape[1]) for profile in profiles)
    both = zip(places, edges_mm, strict=True)
    centres = np.array([edge * sums / np.maximum(area, 1) for sums, edge in both])
    off = centres[:, 1:-1] - (centres[:, :-2] + centres[:, 2:]) / 2
    weights = np.min([area[:-2], area[1:-1], area[2:]], axis=0)
    return math.sqrt((off**2).sum(axis=0) @ weights / max(int(weights.sum()), 1))


def _reaches_border(
    pieces: Components, counted: BoolArray, box: Box, shape: Sequence[int]
) -> bool:
    """Whether a counted piece inside `box` reaches the border of the grid."""
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
    """Return the voxels on the right and left of the gap that divides most evenly.

    None if no gap of `SIDE_GAP_MM` divides the structure.
    """
    # Count the voxels of every sagittal plane: along the array axis nearest to x.
    axis = int(np.argmax(np.abs(grid.affine[0, :3]) / grid.spacing_mm))
    others = tuple(other for other in range(3) if other != axis)
    profile: npt.NDArray[np.intp] = np.count_nonzero(mask, axis=others)
    # A gap is a run of empty planes between two planes that hold voxels.
    held = np.flatnonzero(profile)
    gaps = np.diff(held) - 1
    before = np.cumsum(profile)[held[:-1]]
    wide = gaps * grid.spacing_mm[axis] >= SIDE_GAP_MM
    if not wide.any():
        return None
    total = int(profile.sum())
    first = int(max(before[wide], key=lambda count: min(count, total - count)))
    # x grows towards the left of the patient, so the first planes are the right side
    # unless the axis runs the other way.
    if grid.affine[0, axis] < 0:
        first = total - first
    return first, total - first


def _range_of(found: Sequence[StructureFigures]) -> StructureRange | None:
    if not found:
        return None
    asymmetries = [f.asymmetry for f in found if f.asymmetry is not None]
    alike = sum(value <= PAIRED_ASYMMETRY for value in asymmetries)
    return StructureRange(
        cases=len(found),
        at_border=sum(one.at_border for one in found),
        volume_mm3=_spread([one.volume_mm3 for one in found]),
        step_mm=_spread([max(one.step_mm, LEAST_STEP_MM) for one in found]),
        pieces=_spread([one.pieces for one in found]),
        asymmetry=_spread(asymmetries) if alike >= PAIRED_SHARE * len(found) else None,
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(*(float(value) for value in np.percentile(values, _PERCENT)))


def _agreement_reasons(
    labels: LabelTable, agreement: MemberAgreement
) -> Iterator[Reason]:
    tables = agreement.between_folds, agreement.between_configurations
    members_of = "the folds", "2d and 3d"
    for kind, found, members in zip(AGREEMENTS, tables, members_of, strict=True):
        for label in labels:
            dice = (found or {}).get(label.value)
            if dice is not None:
                level = agreement_level(kind, dice)
                words = ("agree", "agree only in part", "hardly agree")[level]
                amber = AGREEMENT_LIMITS[kind][0]
                limit = "" if level is QualityLevel.GREEN else f"; {amber:.2f} expected"
                text = f"{label.name}: {members} {words} (Dice {dice:.2f}{limit})."
                yield Reason(label.name, kind, level, dice, (amber, None), text)


def agreement_level(kind: str, dice: float) -> QualityLevel:
    """Return the level of a Dice between folds or between configurations."""
    amber, red = AGREEMENT_LIMITS[kind]
    return _level(-dice, amber=-amber, red=-red)


def _level(value: float, *, amber: float, red: float) -> QualityLevel:
    """Return the level of a figure that is green up to `amber`, and amber to `red`."""
    if value <= amber:
        return QualityLevel.GREEN
    return QualityLevel.AMBER if value <= red else QualityLevel.RED


def _empty_reasons(
    figures: Figures, training: TrainingStructures | None
) -> Iterator[Reason]:
    nothing = not any(found.volume_mm3 for found in figures.values())
    for name, found in figures.items():
        if found.volume_mm3:
            continue
        level, why = _empty_level(name, training)
        if nothing:
            level, why = QualityLevel.RED, "no structure was found"
        text = f"{name}: not found; {why}."
        yield Reason(name, QualityCheck.EMPTY, level, 0.0, (None, None), text)


def _empty_level(
    name: str, training: TrainingStructures | None
) -> tuple[QualityLevel, str]:
    if training is None or not training.cases:
        return QualityLevel.AMBER, "the training labels are unknown"
    known = training.structures.get(name)
    held = known.cases if known else 0
    why = f"{held} of {training.cases} training labels hold it"
    if held == training.cases:
        return QualityLevel.RED, why
    often = 2 * held >= training.cases
    return QualityLevel.AMBER if often else QualityLevel.GREEN, why


def _range_reasons(
    label: Label, found: StructureFigures, known: StructureRange
) -> Iterator[Reason]:
    """Yield the comparisons of a structure that is present with its training labels."""
    if known.cases >= FEWEST_LABELS:
        yield _volume_reason(label.name, found.volume_mm3, known)
        if known.step_mm is not None:
            yield _step_reason(label.name, found.step_mm, known.step_mm, known.cases)
    yield _pieces_reason(label.name, found.pieces, known)
    if known.asymmetry is not None and not (label.side and found.sides_mm3 is None):
        yield _symmetry_reason(label, found, known.asymmetry)
    yield _border_reason(label.name, found, known)


def _volume_reason(name: str, volume_mm3: float, known: StructureRange) -> Reason:
    spread = known.volume_mm3
    usual = expected_volume_mm3(spread, known.cases, VOLUME_AMBER_CHANCE)
    possible = expected_volume_mm3(spread, known.cases, VOLUME_RED_CHANCE)
    level = QualityLevel.GREEN
    if not usual[0] <= volume_mm3 <= usual[1]:
        within = possible[0] <= volume_mm3 <= possible[1]
        level = QualityLevel.AMBER if within else QualityLevel.RED
    small = volume_mm3 < spread.median
    words = ("as usual", "small", "far too small")
    word = words[level] if small else words[level].replace("small", "large")
    text = (
        f"{name}: {_cm3(volume_mm3)} cm\u00b3, {word}. Expected {_cm3(usual[0])} to "
        f"{_cm3(usual[1])} cm\u00b3 ({known.cases} training labels: "
        f"{_cm3(spread.least)} to {_cm3(spread.most)})."
    )
    return Reason(name, QualityCheck.VOLUME, level, volume_mm3, usual, text)


def _step_reason(name: str, step_mm: float, known: Spread, cases: int) -> Reason:
    amber, red = (
        expected_volume_mm3(known, cases, chance)[1]
        for chance in (VOLUME_AMBER_CHANCE, VOLUME_RED_CHANCE)
    )
    text = (
        f"{name}: steps of {step_mm:.1f} mm from slice to slice; up to {amber:.1f} mm "
        f"expected ({cases} training labels: {known.least:.1f} to {known.most:.1f})."
    )
    level = _level(step_mm, amber=amber, red=red)
    return Reason(name, QualityCheck.STEPS, level, step_mm, (None, amber), text)


def _pieces_reason(name: str, pieces: int, known: StructureRange) -> Reason:
    most = known.pieces.most
    level = _level(pieces, amber=most, red=PIECES_RED_FACTOR * most)
    usual = "one" if round(most) == 1 else f"at most {round(most)}"
    noun = "piece" if pieces == 1 else "pieces"
    text = f"{name}: {pieces} {noun}; the training labels have {usual}."
    return Reason(name, QualityCheck.PIECES, level, float(pieces), (None, most), text)


def _symmetry_reason(label: Label, found: StructureFigures, known: Spread) -> Reason:
    name = label.name
    limit = min(1.0, known.most + ASYMMETRY_AMBER)
    check = QualityCheck.SYMMETRY
    if found.sides_mm3 is None:
        text = (
            f"{name}: one side only, or both sides merged; the training labels have "
            "two separate sides."
        )
        return Reason(name, check, QualityLevel.AMBER, None, (None, limit), text)
    value = found.asymmetry or 0.0
    level = _level(value, amber=limit, red=known.most + ASYMMETRY_RED)
    right, left = (_cm3(side) for side in found.sides_mm3)
    base = name.rpartition("_")[0] if label.side else name
    text = (
        f"{base}: {right} cm\u00b3 right, {left} cm\u00b3 left: the sides differ by "
        f"{100 * value:.0f} % of their sum; the training labels by up to "
        f"{100 * known.most:.0f} %."
    )
    return Reason(name, check, level, value, (None, limit), text)


def _border_reason(name: str, found: StructureFigures, known: StructureRange) -> Reason:
    usual = known.at_border >= BORDER_SHARE * known.cases
    level = QualityLevel.AMBER if found.at_border and not usual else QualityLevel.GREEN
    does = "reaches" if found.at_border else "does not reach"
    text = (
        f"{name}: {does} the border of the field of view; {known.at_border} of "
        f"{known.cases} training labels do."
    )
    expected, value = (None, 1.0 if usual else 0.0), float(found.at_border)
    return Reason(name, QualityCheck.BORDER, level, value, expected, text)


def _edge_reasons(
    edges: float | None, training: TrainingStructures
) -> Iterator[Reason]:
    known, cases = training.edges, training.cases
    if edges is None or known is None or cases < FEWEST_LABELS:
        return
    amber, red = (
        expected_volume_mm3(known, cases, chance)[0]
        for chance in (EDGES_AMBER_CHANCE, VOLUME_RED_CHANCE)
    )
    level = _level(-edges, amber=-amber, red=-red)
    text = (
        f"image: edges of strength {edges:.3f}; at least {amber:.3f} expected "
        f"({cases} training images: {known.least:.3f} to {known.most:.3f}). "
        "Blurring, motion and averaging of several images weaken edges."
    )
    yield Reason("image", QualityCheck.EDGES, level, edges, (amber, None), text)


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
            "not checked."
        )
        return
    if training.cases < FEWEST_LABELS:
        yield f"Fewer than {FEWEST_LABELS} training labels: volumes are not checked."
    if training.edges is None:
        yield "No training images are on record: edges are not checked."


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
