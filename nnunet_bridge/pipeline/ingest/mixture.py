"""Planes, axes and positions that differ between the cases of a dataset (FAULTS G19).

nnU-Net learns all cases as one kind of image; it does not use patient axes.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nnunet_bridge.core.findings import Finding, warning
from nnunet_bridge.core.grid import plane_of

_WAY_OUT = (
    "nnU-Net learns them as one kind: leave these out, or make a dataset of them."
)


@dataclass(frozen=True, slots=True)
class Look:
    """How an image lies in the patient, and the patient in the scanner."""

    axis_letters: str
    patient_position: str  # such as ``HFS``; empty if unknown


def mixture_findings(looks: Mapping[str, Look]) -> Iterator[Finding]:
    """Yield a warning for each property that differs; `looks` are by case."""
    planes = {case: plane_of(look.axis_letters) for case, look in looks.items()}
    yield from _differing("The slices are", planes)
    axes: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for case, look in looks.items():
        axes[planes[case]][case] = look.axis_letters
    for plane, letters in axes.items():
        yield from _differing(f"The axes of {plane} images run", letters)
    positions = {case: look.patient_position for case, look in looks.items()}
    yield from _differing("The Patient Position is", positions)


def _differing(what: str, values: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a warning that names the cases of all but the usual value."""
    cases: defaultdict[str, list[str]] = defaultdict(list)
    for case, value in values.items():
        if value:
            cases[value].append(case)
    usual, *others = sorted(cases, key=lambda value: (-len(cases[value]), value)) or [
        ""
    ]
    if others:
        named = "; ".join(f"{value} in {', '.join(cases[value])}" for value in others)
        yield warning(
            "G19", f"{what} {usual} in {len(cases[usual])} cases, {named}. {_WAY_OUT}"
        )
