"""Cases and datasets, as values."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.errors import GeometryError, InputError
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.core.quoting import quoted

CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
LONGEST_CASE_ID = 63
LOOKS_LIKE_A_CHANNEL = re.compile(r".*_\d{4}")


def checked_case_id(case_id: str) -> str:
    """Return `case_id`, or refuse one that is not a portable file name.

    nnU-Net cuts ``_0000`` from image names, so no id may end like that.
    """
    if not CASE_ID.fullmatch(case_id):
        raise InputError(
            f"{quoted(case_id)} cannot name a case: use letters, digits, '-' and '_', "
            "63 at most, a letter or digit first.",
            code="F02",
        )
    if LOOKS_LIKE_A_CHANNEL.fullmatch(case_id):
        raise InputError(
            f"{quoted(case_id)} cannot name a case: nnU-Net reads '_0000' at the end "
            "of a name as a channel.",
            code="F03",
        )
    return case_id


def case_id_of(path: Path) -> str:
    """Return a case id made from a file or folder name.

    An id cannot hold letters of other scripts; a hash of the name replaces them.

    Examples
    --------
    >>> case_id_of(Path("msk_013_0000.nii.gz")), case_id_of(Path("Anna's left leg"))
    ('msk_013', 'Anna-s-left-leg')
    """
    name = re.sub(
        r"(?i)\.(nii|nii\.gz|hdr|nhdr|nrrd|mh[ad]|mg[zh])$", "", path.absolute().name
    )
    name = re.sub(r"(_\d{4})+$", "", name) or name
    others = [c for c in name if c.isalpha() and "LATIN" not in unicodedata.name(c, "")]
    composed = unicodedata.normalize("NFC", name).encode("utf-8", "replace")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:LONGEST_CASE_ID]
    if others:
        digest = hashlib.sha256(composed).hexdigest()[:8]
        name = f"{name[:50] or 'case'}-{digest}"
    return checked_case_id(name or "case")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One patient's images on one grid, with a reference labelmap or without."""

    case_id: str  # pseudonym; contains no patient name
    images: tuple[Volume, ...]  # one volume a channel; all on the same grid
    reference: Labelmap | None = None

    def __post_init__(self) -> None:
        """Refuse images and a reference on different grids."""
        checked_case_id(self.case_id)
        if not self.images:
            raise InputError(f"Case {self.case_id} has no image.")
        grids = [image.grid for image in self.images]
        if self.reference is not None:
            grids.append(self.reference.grid)
        if not all(grids[0].matches(grid) for grid in grids[1:]):
            text = f"Case {self.case_id}: image and reference lie on different grids."
            raise GeometryError(text)


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """Number, name, channels and labels of a dataset."""

    number: int  # 1..999
    name: str  # letters, digits and inner underscores, such as ``Tibia``
    channels: tuple[str, ...]
    """Name of every channel; nnU-Net chooses the normalisation by it."""

    labels: LabelTable

    def __post_init__(self) -> None:
        """Refuse a number or name that nnU-Net cannot find."""
        if not 1 <= self.number <= 999:  # noqa: PLR2004 - nnU-Net writes three digits
            raise InputError(f"A dataset number lies in 1..999, not {self.number}.")
        if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?", self.name):
            raise InputError(f"{self.name!r} cannot name a dataset.")
        if not self.channels:
            raise InputError("A dataset needs a channel.")
