"""Whose the scans of a study are; warnings where names and headers disagree (K24)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_bridge.core.findings import Finding, warning
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.ops.people import (
    PersonEvidence,
    codes_and_people,
    is_placeholder,
    same_pixels,
)
from nnunet_bridge.pipeline.ingest.inputs import ImageReading
from nnunet_bridge.pipeline.ingest.planned import CasePlan


def evidence_of(
    plan: CasePlan, reading: ImageReading, hashed: Callable[[str], str]
) -> PersonEvidence:
    """Return what tells whose a scan is, as keyed hashes only."""
    in_order: Any = np.asfortranarray(reading.volume.voxels).ravel(order="K")
    digest = hashlib.sha256(memoryview(in_order).cast("B")).hexdigest()
    found = {"code": hashed(plan.patient), "pixels": hashed(digest)}
    series = reading.series
    if series and not is_placeholder(series.patient_id):
        found["patient_id"] = hashed(f"Patient ID\n{series.patient_id}")
        if series.birth_date:
            both = f"{series.patient_id}\n{series.birth_date}"
            found["birth"] = hashed(f"Patient ID and birth date\n{both}")
    return PersonEvidence(**found)


def people_findings(
    scans: Mapping[str, PersonEvidence], plans: Sequence[CasePlan], study: Path
) -> Iterator[Finding]:
    """Yield a warning, with its folders, for each person whose names disagree."""
    split = {plan.case_id: plan.split for plan in plans}
    names = {plan.case_id: _named(plan, study) for plan in plans}

    def listed(group: Sequence[str]) -> str:
        *most, last = (names[case] for case in group)
        return f"{', '.join(most)} and {last}"

    def both_sides(group: Sequence[str]) -> str:
        sides = {split[case] for case in group}
        return " Some train and some test: test scores are too good." * (len(sides) > 1)

    unequal, mixed = codes_and_people(scans)
    for group in same_pixels(scans):
        text = f"{listed(group)} hold the same image: they count as one patient. Remove"
        yield warning("K24", f"{text} all but one.{both_sides(group)}")
    for group in unequal:
        text = f"{listed(group)} are scans of one person by their headers or pixels:"
        text = f"{text} they count as one patient. Give them one code, in their names"
        yield warning("K24", f"{text} or in the case table.{both_sides(group)}")
    for group in mixed:
        text = f"{listed(group)} have the code of one patient, but their headers name"
        yield warning(
            "K24",
            f"{text} two or more persons, who count as different patients: correct the "
            "code.",
        )


def _named(plan: CasePlan, study: Path) -> str:
    """Return case and folder of a scan."""
    if plan.scan is None:
        return plan.case_id
    path = plan.scan.path
    inside = path.is_relative_to(study)
    place = path.relative_to(study).as_posix() if inside else path.name
    return f"{plan.case_id} ({quoted(place)})"
