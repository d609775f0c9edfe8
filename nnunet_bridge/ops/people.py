"""Decide which scans are of one person: by pixels, headers and names, in that order.

Equal pixels are always one person. A *Patient ID*, with the birth date where there is
one, overrules the codes in names. A scan that lacks an ID or a date joins all scans
that it may belong to, so that no person is on both sides of a fold.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

_PLACEHOLDER = re.compile(
    r"0*|x+|9{3,}|(.)\1{3,}|12345\d*"
    r"|(?:no|none|null|na|nan|(?:no)?id|test|phantom|qa|unknown|unnamed|removed|redacted|default"
    r"|(?:no)?(?:patient|subject)(?:id|name)?|(?:de)?identified|anon(?:ym\w*)?)"
)
"""Patient IDs, without blanks and signs, that software writes for anybody."""


@dataclass(frozen=True, slots=True)
class PersonEvidence:
    """What tells whose a scan is; hashes or plain texts, empty where unknown."""

    code: str  # as names or the case table have it
    patient_id: str = ""
    birth: str = ""  # ID and birth date as one
    pixels: str = ""


def is_placeholder(patient_id: str) -> bool:
    """Whether a *Patient ID* identifies nobody.

    Examples
    --------
    >>> [is_placeholder(text) for text in ("", "Anonymous", "0000", "7C", "ANON-017")]
    [True, True, True, False, False]
    """
    return bool(_PLACEHOLDER.fullmatch(re.sub(r"[\W_]", "", patient_id.casefold())))


def believed(scans: Mapping[str, PersonEvidence]) -> dict[str, PersonEvidence]:
    """Return the evidence without IDs that more than half of the scans share."""
    shared = {
        key
        for key, group in _groups(scans, lambda one: one.patient_id).items()
        if 2 * len(group) > len(scans)
    }
    return {
        name: replace(one, patient_id="", birth="") if one.patient_id in shared else one
        for name, one in scans.items()
    }


def people_of(scans: Mapping[str, PersonEvidence]) -> dict[str, str]:
    """Return for each scan the first scan of the same person.

    Examples
    --------
    >>> same = PersonEvidence("1", "ID7"), PersonEvidence("2", "ID7")
    >>> other = PersonEvidence("2", "ID8"), PersonEvidence("3", "ID9")
    >>> people_of(dict(zip("abcd", (*same, *other))))
    {'a': 'a', 'b': 'a', 'c': 'c', 'd': 'd'}
    """
    known = believed(scans)
    person = {name: name for name in known}
    for group in _united(known):
        joined = {person[name] for name in group}
        if len(joined) > 1:
            first = min(joined)
            person = {n: first if who in joined else who for n, who in person.items()}
    return person


def _united(scans: Mapping[str, PersonEvidence]) -> Iterator[list[str]]:
    """Yield groups of scans of one person; they may overlap."""
    yield from _groups(scans, lambda one: one.pixels).values()
    yield from _groups(scans, lambda one: one.birth).values()
    for group in _groups(scans, lambda one: one.patient_id).values():
        if not all(scans[name].birth for name in group):
            yield group
    for group in _groups(scans, lambda one: one.code).values():
        if not all(scans[name].patient_id for name in group):
            yield group


def _groups(
    scans: Mapping[str, PersonEvidence], key: Callable[[PersonEvidence], str]
) -> dict[str, list[str]]:
    """Return the scans by a piece of evidence, without those that lack it."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, one in scans.items():
        if key(one):
            groups[key(one)].append(name)
    return groups


def same_pixels(scans: Mapping[str, PersonEvidence]) -> list[list[str]]:
    """Return the groups of scans that are one image."""
    groups = _groups(scans, lambda one: one.pixels).values()
    return [group for group in groups if len(group) > 1]


def codes_and_people(
    scans: Mapping[str, PersonEvidence],
) -> tuple[list[list[str]], list[list[str]]]:
    """Return scans of one person with unequal codes, and of one code and two persons.

    Scans that are one image are not in the first list.
    """
    person, known = people_of(scans), believed(scans)
    pixels = {frozenset(group) for group in same_pixels(scans)}
    whose = _groups(
        {n: replace(one, code=person[n]) for n, one in known.items()}, _code
    )
    unequal = [
        group
        for group in whose.values()
        if len({known[name].code for name in group}) > 1
        and frozenset(group) not in pixels
    ]
    mixed = [
        group
        for group in _groups(known, _code).values()
        if len({person[name] for name in group}) > 1
    ]
    return unequal, mixed


def _code(one: PersonEvidence) -> str:
    return one.code
