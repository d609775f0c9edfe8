"""The case table: the files of a study, one row for each file and structure.

It says which file is an image, which one a mask, and what was drawn. `init` writes it,
a person corrects it, and conversion reads it (`formats.case_table`).
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """What a file of a study is."""

    IMAGE = "image"
    MASK = "mask"  # one structure
    LABELMAP = "labelmap"  # several structures; one row for each value
    SEGMENTATION = "segmentation"  # .seg.nrrd, DICOM SEG: its segments have names
    SURFACE = "surface"
    IGNORE = "ignore"  # left out on purpose


DRAWN_ROLES = (Role.MASK, Role.SEGMENTATION, Role.LABELMAP, Role.SURFACE)
"""Files with drawn structures, in the order in which they claim a structure."""


class Drawing(StrEnum):
    """Whether a structure of a case was drawn (FAULTS K14, K15)."""

    DRAWN = "drawn"
    ABSENT = "absent"  # the patient does not have it
    UNLABELLED = "unlabelled"  # the patient has it, but it was not drawn


class Split(StrEnum):
    """Whether a case trains a model or tests it."""

    TRAIN = "train"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class TableRow:
    """One file of a study, or one structure of a file."""

    file: str
    """Path relative to the study, with ``/``: a file or a DICOM folder. Empty only for
    a structure that was not drawn."""

    role: Role
    case: str = ""
    patient: str = ""
    visit: str = ""
    split: Split | None = None  # None: training if the case has masks, else testing
    channel: str = ""
    structure: str = ""
    side: str = ""  # `left`, `right`, `middle` or empty
    value: int | None = None
    """Value of the structure in a labelmap, or number of a segment, from 1."""

    state: Drawing = Drawing.DRAWN
    series: str = ""  # number, description or UID of the series in a DICOM folder
    note: str = ""
    line: int = field(default=0, compare=False)  # in the file, for messages; 0 if none
