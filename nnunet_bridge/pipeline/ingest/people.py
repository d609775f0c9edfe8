"""Whose the scans of a study are; warnings where names and headers disagree (K25)."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_bridge.core.findings import Finding, warning
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.ops.people import (
    PersonEvidence,
    disagreements,
    groups_of,
    have_one_code,
    is_placeholder,
    people_of,
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
    """Yield warnings of names that disagree with headers or pixels, with the folders.

    And of persons with scans for training and scans for testing.
    """
    places = {plan.case_id: _place(plan, study) for plan in plans}

    def listed(group: Sequence[str]) -> str:
        *most, last = (f"{case} ({quoted(places[case])})" for case in group)
        return f"{', '.join(most)} and {last}"

    images, people, codes = disagreements(scans)
    for groups, words in (
        (images, "hold the same image: they count as one patient. Remove all but one."),
        (
            people,
            f"{_ONE_PERSON} Give them one code, in their names or the case table.",
        ),
        (codes, f"{_ONE_CODE} Correct the code."),
    ):
        for group in groups:
            yield warning("K25", f"{listed(group)} {words}")
    person = people_of(scans)
    if have_one_code(scans) and len(set(person.values())) == len(scans):
        yield warning("K25", _CODE_OF_ALL)
    yield from _on_both_sides(person, plans)


def _on_both_sides(
    person: Mapping[str, str], plans: Sequence[CasePlan]
) -> Iterator[Finding]:
    for group in groups_of(person):
        sides: dict[str, list[str]] = {"train": [], "test": []}
        for plan in plans:
            if plan.case_id in group:
                sides[plan.split].append(plan.case_id)
        if all(sides.values()):
            training, test = (", ".join(cases) for cases in sides.values())
            text = f"{training} (training) and {test} (test) are scans of one patient:"
            yield warning("", f"{text} test scores will be too good.")


_ONE_PERSON = "are of one person by headers or pixels: they count as one patient."
_CODE_OF_ALL = (
    "All scans have the same patient code in their names: each counts as one patient. "
    "If some are of one person, give each person a code of their own."
)
_ONE_CODE = (
    "have one code, but their headers name different persons, who count as such."
)


def _place(plan: CasePlan, study: Path) -> str:
    """Return the scan of a case as a path in the study."""
    path = plan.scan.path if plan.scan else study
    inside = path.is_relative_to(study)
    return path.relative_to(study).as_posix() if inside else path.name
