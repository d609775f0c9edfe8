"""`index.html` of an audit: training masks, the most suspicious first, and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.audit import SUSPICIOUS, AuditedMask, AuditRecord
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.formats.files import write_if_changed
from nnunet_bridge.formats.html.parts import rendered
from nnunet_bridge.formats.sprites import SlicePicture


@dataclass(frozen=True, slots=True)
class ShownMask:
    """One mask and its pictures."""

    mask: AuditedMask
    pictures: Sequence[SlicePicture]  # one for each plane; none without an image
    link: str  # address of the file to correct, relative to the page


def write_audit_page(
    file: Path, record: AuditRecord, shown: Sequence[ShownMask], labels: LabelTable
) -> None:
    """Write the page, whole or not at all; `shown` are the masks with pictures."""
    colours: Mapping[str, str] = {label.name: label.hex_colour for label in labels}
    page = rendered(
        "audit.html.j2",
        models=(),
        record=record,
        shown=shown,
        banner="",
        colours=colours,
        limit=SUSPICIOUS,
    )
    write_if_changed(file, page.encode())
