"""What a structure is called where everybody means the same: SNOMED CT.

The codes are those that DICOM lists (PS3.16, CID 4031, 7151 and 244), so that a viewer
or an archive knows a femur from a fibula without reading our names. A structure that is
not in the list is a piece of tissue, as 3D Slicer calls it as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

SCHEME = "SCT"
"""How DICOM names SNOMED CT as the source of a code."""


@dataclass(frozen=True, slots=True)
class Concept:
    """One concept of SNOMED CT."""

    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What a segment shows."""

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

KINDS: Mapping[str, Concept] = {
    "femur": Concept("71341001", "Femur"),
    "tibia": Concept("12611008", "Tibia"),
    "fibula": Concept("87342007", "Fibula"),
    "patella": Concept("64234005", "Patella"),
    "pelvis": Concept("118645006", "Pelvis"),
    "ilium": Concept("22356005", "Ilium"),
    "ischium": Concept("85710004", "Ischium"),
    "sacrum": Concept("54735007", "Sacrum"),
    "coccyx": Concept("64688005", "Coccyx"),
    "talus": Concept("67453005", "Talus"),
    "calcaneus": Concept("80144004", "Calcaneus"),
    "foot": Concept("56459004", "Foot"),
    "vertebra": Concept("51282000", "Vertebra"),
    "l1": Concept("66794005", "L1 vertebra"),
    "l2": Concept("14293000", "L2 vertebra"),
    "l3": Concept("36470004", "L3 vertebra"),
    "l4": Concept("11994002", "L4 vertebra"),
    "l5": Concept("49668003", "L5 vertebra"),
    "spine": Concept("421060004", "Spine"),
    "humerus": Concept("85050009", "Humerus"),
    "radius": Concept("131190003", "Radius"),
    "ulna": Concept("23416004", "Ulna"),
    "scapula": Concept("79601000", "Scapula"),
    "clavicle": Concept("51299004", "Clavicle"),
    "rib": Concept("113197003", "Rib"),
    "skull": Concept("89546000", "Skull"),
    "mandible": Concept("91609006", "Mandible"),
    "hippocampus": Concept("5366008", "Hippocampus"),
    "bone": Concept("272673000", "Bone"),
    "muscle": Concept("71616004", "Muscle"),
    "cartilage": Concept("309312004", "Cartilage"),
}
"""Word of a structure's name -> what it is."""

_SAME_WORD = {
    "hip": "pelvis", "innominate": "pelvis", "vertebrae": "vertebra",
    "heel": "calcaneus",
}  # fmt: skip
_IDLE_WORDS = {"bone", "bones", "of", "the", "label", "body"}
"""Words that add nothing beside the name of a bone."""


def terms_of(name: str) -> Terms:
    """Return what a structure of this name is.

    Parameters
    ----------
    name : str
        Such as ``tibia``, ``femur_left``, ``Left fibula`` or ``hip bone R``.

    Examples
    --------
    >>> terms_of("femur_left").kind, terms_of("femur_left").side
    (Concept(value='71341001', meaning='Femur'), Concept(value='7771000', meaning='Left'))
    >>> terms_of("tibial plateau").kind.meaning
    'Tissue'
    """  # noqa: E501 - the second line is what Python prints
    words = re.findall(r"[a-z]+\d*", name.casefold())
    sides = {_SIDE_WORDS[word] for word in words if word in _SIDE_WORDS}
    side = SIDE_CONCEPTS[sides.pop()] if len(sides) == 1 else None
    said = [_SAME_WORD.get(w, w) for w in words if w not in _SIDE_WORDS]
    meant = [w for w in said if w not in _IDLE_WORDS] or [w for w in said if w in KINDS]
    if len(meant) > 1 and meant[0] == "vertebra" and meant[1] in KINDS:
        meant = meant[1:]
    if len(meant) == 1 and meant[0] in KINDS:
        return Terms(ANATOMY, KINDS[meant[0]], side)
    return Terms(TISSUE, TISSUE, side)
