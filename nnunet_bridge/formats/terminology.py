"""SNOMED CT codes of structures, found from their names.

The codes are those that DICOM lists (PS3.16, CID 4031, 7151 and 244), so that a viewer
or an archive recognises a femur whatever the structure is called here. A structure
that is not in the list is coded as tissue, as in 3D Slicer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

SCHEME = "SCT"  # DICOM's name of SNOMED CT


@dataclass(frozen=True, slots=True)
class Concept:
    """One concept of SNOMED CT."""

    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Terms:
    """Category, kind and side of a segment."""

    category: Concept
    kind: Concept
    side: Concept | None = None


TISSUE = Concept("85756007", "Tissue")
ANATOMY = Concept("91723000", "Anatomical Structure")
"""Category of everything that has a code of its own."""

SIDE_CONCEPTS: Mapping[str, Concept] = {
    "left": Concept("7771000", "Left"),
    "right": Concept("24028007", "Right"),
}
_SIDE_WORDS = {"left": "left", "l": "left", "right": "right", "r": "right"}

_CODES = {
    "femur": "71341001", "tibia": "12611008", "fibula": "87342007",
    "patella": "64234005", "pelvis": "118645006", "ilium": "22356005",
    "ischium": "85710004", "sacrum": "54735007", "coccyx": "64688005",
    "talus": "67453005", "calcaneus": "80144004", "foot": "56459004",
    "vertebra": "51282000", "l1": "66794005", "l2": "14293000", "l3": "36470004",
    "l4": "11994002", "l5": "49668003", "spine": "421060004", "humerus": "85050009",
    "radius": "131190003", "ulna": "23416004", "scapula": "79601000",
    "clavicle": "51299004", "rib": "113197003", "skull": "89546000",
    "mandible": "91609006", "hippocampus": "5366008", "bone": "272673000",
    "muscle": "71616004", "cartilage": "309312004",
}  # fmt: skip
_VERTEBRAE = {"l1", "l2", "l3", "l4", "l5"}
KINDS: Mapping[str, Concept] = {
    word: Concept(code, word.capitalize() + (" vertebra" if word in _VERTEBRAE else ""))
    for word, code in _CODES.items()
}
"""Word of a structure's name -> its concept."""

_SAME_WORD = {
    "hip": "pelvis", "innominate": "pelvis", "vertebrae": "vertebra",
    "heel": "calcaneus",
}  # fmt: skip
_IDLE_WORDS = {"bone", "bones", "of", "the", "label", "body"}
"""Words that may stand beside the name of a bone."""


def find_terms(name: str) -> Terms:
    """Return the concepts of a structure by its name.

    Examples
    --------
    >>> find_terms("femur_left").kind, find_terms("femur_left").side
    (Concept(value='71341001', meaning='Femur'), Concept(value='7771000', meaning='Left'))
    >>> find_terms("tibial plateau").kind.meaning
    'Tissue'
    """  # noqa: E501 - the second line is what Python prints
    words = re.findall(r"[a-z]+\d*", name.casefold())
    sides = {_SIDE_WORDS[word] for word in words if word in _SIDE_WORDS}
    side = SIDE_CONCEPTS[sides.pop()] if len(sides) == 1 else None
    named = [_SAME_WORD.get(w, w) for w in words if w not in _SIDE_WORDS]
    kinds = [w for w in named if w not in _IDLE_WORDS]
    if not kinds:  # such as "bone" alone
        kinds = [w for w in named if w in KINDS]
    if len(kinds) > 1 and kinds[0] == "vertebra" and kinds[1] in KINDS:
        kinds = kinds[1:]
    if len(kinds) == 1 and kinds[0] in KINDS:
        return Terms(ANATOMY, KINDS[kinds[0]], side)
    return Terms(TISSUE, TISSUE, side)
