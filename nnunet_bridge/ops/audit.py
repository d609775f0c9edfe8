"""Which masks of a training set to check first.

Figures of each mask are compared with those of the same structure in all other cases:
its distance from a prediction that never saw it, its size and place, and the steps,
gaps and specks of its slices. A figure is as suspicious as it lies away from the median
of the others, in robust standard deviations (1.4826 times the median absolute
deviation); a mask is as suspicious as its worst figure. No weight is fitted.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nnunet_bridge.core.audit import SUSPICIOUS, AuditedMask
from nnunet_bridge.core.grid import FloatArray
from nnunet_bridge.core.image import BoolArray, Labelmap
from nnunet_bridge.ops.components import connected
from nnunet_bridge.ops.metrics import bone_scores
from nnunet_bridge.ops.occupancy import label_boxes, pair_counts
from nnunet_bridge.ops.quality import StructureFigures, structure_figures

LEAST_DICE = 0.8
"""Least median Dice of a structure whose predictions are compared: as for two models
that agree (`ops.quality.AGREEMENT_LIMITS`)."""

FEWEST_OTHERS = 3  # other cases with a figure, below which it is not compared
MOST = 99.0  # suspicion that stands for any larger one
_NORMAL = 1.4826  # standard deviation of a normal distribution, in MADs
_PLACES = ("across", "depth", "height")
_WHERE = "{} the other structures (usually {} them)"


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a figure is compared and said."""

    text: str  # of the figure and the median of the other cases
    least: float
    """Smallest standard deviation: differences that no reader minds."""

    form: str = ".2f"
    scale: float = 1.0  # from the figure to the unit of the text
    ratio: bool = False  # whether the logarithms are compared, both ways
    ways: tuple[str, ...] = ()
    """Words for a figure above and below zero; it is then compared both ways."""

    def shown(self, figure: float) -> str:
        """Return a figure in the unit of the text."""
        if self.ways:
            return f"{abs(figure):{self.form}} mm {self.ways[figure < 0]}"
        return format(figure * self.scale, self.form)


_RULES: Mapping[str, _Rule] = {
    "distance": _Rule("{} mm on average from its prediction (usually {} mm)", 0.1),
    "other": _Rule(
        "{} % predicted as another structure (usually {} %)", 0.05, ".0f", 100
    ),
    "ratio": _Rule("{} times its predicted volume (usually {})", 0.05, ratio=True),
    "volume": _Rule("{} cm\u00b3 (usually {} cm\u00b3)", 0.05, ".3g", 1e-3, ratio=True),
    "share": _Rule(
        "{} times the volume of other structures (usually {})", 0.05, ratio=True
    ),
    "area": _Rule(
        "area jumps by {} % from slice to slice (usually {} %)", 0.05, ".0f", 100
    ),
    "steps": _Rule("centre steps {} mm from slice to slice (usually {} mm)", 0.1),
    "gaps": _Rule(
        "{} % missing in holes or skipped slices (usually {} %)", 0.003, ".1f", 100
    ),
    "specks": _Rule(
        "{} % outside its largest piece (usually {} %)", 0.005, ".1f", 100
    ),
    "across": _Rule(_WHERE, 1.0, ".1f", ways=("left of", "right of")),
    "depth": _Rule(_WHERE, 1.0, ".1f", ways=("behind", "in front of")),
    "height": _Rule(_WHERE, 1.0, ".1f", ways=("above", "below")),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MeasuredMask:
    """The figures of one mask."""

    volume_mm3: float
    sha256: str  # of its voxels
    figures: Mapping[str, float]
    """By the names of `_RULES`, in mm, mm3, or a share 0..1; a figure that does not
    exist is left out."""

    by_prediction: Mapping[str, float] = field(default_factory=dict)
    """Figures that add to these, or replace them, if the model predicts the structure
    well. A distance from a prediction without the structure is infinite."""

    dice: float | None = None  # of the prediction; None without one


def measure_masks(
    reference: Labelmap, prediction: Labelmap | None = None
) -> dict[str, MeasuredMask]:
    """Measure every structure that is drawn in a reference.

    `prediction` is by a model that was not trained on the case. Place is that of the
    centre of a mask from the mean centre of the other structures, as drawn or as
    predicted. The volume of other structures is their median, as drawn.

    Raises `GeometryError` if both lie on different grids.
    """
    drawn, shapes = _centres(reference), structure_figures(reference)
    predicted = {} if prediction is None else _centres(prediction)
    compared = {} if prediction is None else dict(_against(prediction, reference))
    found = {}
    for label, box in zip(reference.labels, label_boxes(reference), strict=True):
        if box is None:
            continue
        mask, name = reference.voxels[box] == label.value, label.name
        figures = _shape(mask, reference.grid.spacing_mm, shapes[name])
        figures |= _place(name, drawn[name], drawn)
        if volumes := [shapes[other].volume_mm3 for other in drawn if other != name]:
            figures["share"] = shapes[name].volume_mm3 / float(np.median(volumes))
        dice, more = compared.get(name, (None, {}))
        more |= _place(name, drawn[name], predicted)
        content = repr(box).encode() + np.packbits(mask).tobytes()
        sha256 = hashlib.sha256(content).hexdigest()
        volume = shapes[name].volume_mm3
        found[name] = MeasuredMask(volume, sha256, figures, more, dice)
    return found


def badly_predicted(
    cases: Mapping[str, Mapping[str, MeasuredMask]],
) -> dict[str, float]:
    """Return the median Dice of structures that the model does not predict well.

    Their predictions say more about the network than about the masks.
    """
    found: dict[str, list[float]] = {}
    for structures in cases.values():
        for name, mask in structures.items():
            if mask.dice is not None:
                found.setdefault(name, []).append(mask.dice)
    medians = {name: float(np.median(dice)) for name, dice in found.items()}
    return {name: dice for name, dice in medians.items() if dice < LEAST_DICE}


def rank_masks(
    cases: Mapping[str, Mapping[str, MeasuredMask]],
) -> tuple[AuditedMask, ...]:
    """Compare what `measure_masks` found in all cases; the most suspicious mask first.

    A figure that fewer than `FEWEST_OTHERS` other cases have is not compared.
    """
    masks, bad = [], badly_predicted(cases)
    used = {
        (case, name): {**mask.figures, **({} if name in bad else mask.by_prediction)}
        for case, structures in cases.items()
        for name, mask in structures.items()
    }
    for case, structures in cases.items():
        for name, mask in structures.items():
            others = [used[o, name] for o in cases if o != case and name in cases[o]]
            own = used[case, name].items()
            known = (_doubt(check, value, others) for check, value in own)
            doubts = sorted(filter(None, known), reverse=True)
            suspicion, worst = doubts[0] if doubts else (0.0, "")
            reasons = tuple(words for size, words in doubts if size >= SUSPICIOUS)
            words = reasons, worst, mask.volume_mm3, mask.sha256
            masks.append(AuditedMask(case, name, suspicion, *words))
    return tuple(sorted(masks, key=lambda mask: (-mask.suspicion, *mask.key)))


def _doubt(
    check: str, value: float, others: Sequence[Mapping[str, float]]
) -> tuple[float, str] | None:
    """Return how suspicious a figure is, and the figure in words."""
    rule = _RULES[check]
    usual = np.array([figures[check] for figures in others if check in figures])
    enough = len(usual) >= FEWEST_OTHERS
    median = float(np.median(usual)) if enough else math.inf
    if not math.isfinite(median):
        return None
    away = np.log(usual / median) if rule.ratio else usual - median
    own = math.log(value / median) if rule.ratio else value - median
    spread = max(_NORMAL * float(np.median(np.abs(away))), rule.least)
    odd = abs(own) if rule.ratio or rule.ways else max(own, 0.0)
    if not math.isfinite(value):
        return MOST, "its prediction holds none of it"
    words = rule.text.format(rule.shown(value), rule.shown(median))
    return min(odd / spread, MOST), words


def _shape(
    mask: BoolArray, spacing_mm: FloatArray, known: StructureFigures
) -> dict[str, float]:
    """Return the figures of the mask by itself; slices are along the largest edge."""
    through = 2 - int(np.argmax(spacing_mm[::-1]))
    slices = np.moveaxis(mask, through, 0)
    area = np.count_nonzero(slices, axis=(1, 2))
    pieces = np.sort(connected(mask, across_planes=True).sizes())
    kept = pieces[-2:] if known.sides_mm3 else pieces[-1:]
    jumps = np.abs(area[1:-1] - (area[:-2] + area[2:]) / 2)
    return {
        "volume": known.volume_mm3,
        "steps": known.step_mm,
        "gaps": _enclosed(slices) / int(area.sum()),
        "specks": 1 - float(kept.sum() / pieces.sum()),
        "area": float(jumps.max(initial=0) / area.max()),
    }


def _enclosed(slices: BoolArray) -> int:
    """Return the voxels that the mask encloses in a slice, or before and after."""
    outside = connected(~np.pad(slices, ((0, 0), (1, 1), (1, 1))), across_planes=False)
    # The rim joins all that lies outside in a slice, so its first run is of that.
    _, firsts = np.unique(outside.planes, return_index=True)
    sizes = outside.sizes()
    holes = sizes.sum() - sizes[outside.owners[firsts]].sum()
    skipped = slices[:-2] & slices[2:] & ~slices[1:-1]
    return int(holes + np.count_nonzero(skipped))


def _centres(labelmap: Labelmap) -> dict[str, FloatArray]:
    """Return the (3,) centre of every structure that is there, in mm, LPS+."""
    centres = {}
    for label, box in zip(labelmap.labels, label_boxes(labelmap), strict=True):
        if box is not None:
            inside = np.argwhere(labelmap.voxels[box] == label.value).mean(axis=0)
            first = [along.start for along in box]
            centres[label.name] = labelmap.grid.to_patient(inside + first)
    return centres


def _place(
    name: str, centre: FloatArray, frame: Mapping[str, FloatArray]
) -> dict[str, float]:
    """Return how far a centre lies from the mean of other structures, in mm."""
    others = [other for key, other in frame.items() if key != name]
    away = centre - np.mean(others, axis=0) if others else ()
    return dict(zip(_PLACES, map(float, away), strict=bool(others)))


def _against(
    prediction: Labelmap, reference: Labelmap
) -> Iterator[tuple[str, tuple[float | None, dict[str, float]]]]:
    """Yield every structure that is drawn, with its Dice and the figures by it."""
    scores = bone_scores(prediction, reference, case_id="")
    counts = pair_counts(prediction, reference)  # of (predicted, drawn) values
    for score in scores:
        value = reference.labels[score.structure].value
        drawn, predicted = counts[:, value], int(counts[value].sum())
        if size := int(drawn.sum()):
            far = math.inf if score.assd_mm is None else score.assd_mm
            other = size - int(drawn[0] + drawn[value])
            ratio = {"ratio": size / predicted} if predicted else {}
            figures = {"distance": far, "other": other / size, **ratio}
            yield score.structure, (score.dice, figures)
