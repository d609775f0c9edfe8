"""Decide which scans are of one person: by pixels, headers and names, in that order.

Equal pixels are always one person. A *Patient ID*, with the birth date where there is
one, overrules the codes in names. A scan that lacks an ID or a date joins all scans
that it may belong to, so that no person is on both sides of a fold.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

_PLACEHOLDER = re.compile(
    r"0*|x+|9{3,}|(.)\1{3,}|12345\d*"
    r"|(?:no|none|null|na|nan|(?:no)?id|test|phantom|qa|unknown|unnamed|removed|redacted|default"
    r"|(?:no)?(?:patient|subject)(?:id|name)?|(?:de)?identified|anon(?:ym\w*)?)"
)
"""Patient IDs, without blanks and signs, that software writes as placeholders."""


@dataclass(frozen=True, slots=True)
class PersonEvidence:
    """What tells whose a scan is; hashes or plain texts, empty where unknown."""

    code: str  # as names or the case table have it
    patient_id: str = ""
    birth: str = ""  # ID and birth date as one
    pixels: str = ""


def is_placeholder(patient_id: str) -> bool:
    """Whether a *Patient ID* identifies no patient.

    Examples
    --------
    >>> [is_placeholder(text) for text in ("", "Anonymous", "0000", "7C", "ANON-017")]
    [True, True, True, False, False]
    """
    return bool(_PLACEHOLDER.fullmatch(re.sub(r"[\W_]", "", patient_id.casefold())))


def people_of(scans: Mapping[str, PersonEvidence]) -> dict[str, str]:
    """Return for each scan the first scan of the same person.

    Examples
    --------
    >>> same = PersonEvidence("1", "ID7"), PersonEvidence("2", "ID7")
    >>> other = PersonEvidence("2", "ID8"), PersonEvidence("3", "ID9")
    >>> people_of(dict(zip("abcd", (*same, *other))))
    {'a': 'a', 'b': 'a', 'c': 'c', 'd': 'd'}
    """
    known = _believed(scans)
    person = {name: name for name in known}
    united = [*_by(known, "pixels"), *_by(known, "birth")]
    for key, stronger in (("patient_id", "birth"), ("code", "patient_id")):
        groups = _by(known, key)
        united += [g for g in groups if not all(getattr(known[n], stronger) for n in g)]
    for group in (several for several in united if len(several) > 1):
        joined = {person[name] for name in group}
        person = {n: min(joined) if p in joined else p for n, p in person.items()}
    return person


def disagreements(scans: Mapping[str, PersonEvidence]) -> list[list[list[str]]]:
    """Return groups of scans whose codes mislead, by how they do.

    They are one image; are one person with several codes; have one code but are several
    persons.
    """
    person, known = people_of(scans), _believed(scans)
    images = [group for group in _by(known, "pixels") if len(group) > 1]
    people = [
        group
        for group in groups_of(person)
        if len({scans[name].code for name in group}) > 1 and group not in images
    ]
    codes = [
        group
        for group in _by(scans, "code")
        if len({person[n] for n in group}) > 1
        and any(known[n].patient_id for n in group)
    ]
    return [images, people, codes]


def groups_of(key: Mapping[str, str]) -> list[list[str]]:
    """Return the names with equal keys together, without those whose key is empty."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, value in key.items():
        groups[value].append(name)
    return [group for value, group in groups.items() if value]


def _believed(scans: Mapping[str, PersonEvidence]) -> dict[str, PersonEvidence]:
    """Return the evidence without what identifies no patient.

    That is an ID that more than half of the scans share, and a code that all of three
    or more scans share: in `1_tibia_A`, `2_tibia_A`, ... the letter is no patient.
    """
    ids, same_code = _by(scans, "patient_id"), have_one_code(scans)
    shared = {name for group in ids if 2 * len(group) > len(scans) for name in group}
    known = {}
    for name, one in scans.items():
        known[name] = replace(one, patient_id="", birth="") if name in shared else one
        if same_code:
            known[name] = replace(known[name], code="")
    return known


def have_one_code(scans: Mapping[str, PersonEvidence]) -> bool:
    """Whether three or more scans all have the same code.

    Two may be two visits of one person.
    """
    codes = [len(group) for group in _by(scans, "code")]
    return len(scans) > 2 and codes == [len(scans)]  # noqa: PLR2004 - see above


def _by(scans: Mapping[str, PersonEvidence], key: str) -> list[list[str]]:
    """Return the scans by a piece of evidence, without those that lack it."""
    return groups_of({name: getattr(one, key) for name, one in scans.items()})
