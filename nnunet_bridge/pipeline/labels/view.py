"""Draw slices of an image: one as panels, or every n-th on one sheet."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.image import Labelmap, Volume
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.images import read_labelmap, read_volume
from nnunet_bridge.formats.preview import write_contact_sheet, write_panels
from nnunet_bridge.pipeline.labels.folders import table_file_for, table_for


@dataclass(frozen=True, slots=True)
class ViewSummary:
    """The picture and the slices on it."""

    file: Path
    plane: str
    slices: tuple[int, ...]  # their indices, in the order of the picture

    @property
    def exit_code(self) -> int:
        """Return 0: the picture is written."""
        return 0

    def as_json(self) -> JsonObject:
        """Return the place of the picture and the indices of its slices."""
        only = self.slices[0] if len(self.slices) == 1 else None
        return {
            "file": str(self.file),
            "plane": self.plane,
            "slice": only,
            "slices": list(self.slices),
        }

    def as_text(self) -> str:
        """Return one line."""
        if len(self.slices) == 1:
            return f"{self.file}: {self.plane} slice {self.slices[0]}"
        return (
            f"{self.file}: {len(self.slices)} {self.plane} slices, "
            f"{self.slices[0]} to {self.slices[-1]}"
        )


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """Which slices are drawn: by default the axial one with the most labels."""

    plane: str = "axial"  # ``axial``, ``coronal`` or ``sagittal``
    slice_number: int | None = None  # index along the array, from 0
    every: int | None = None
    """Draw every n-th slice on one sheet instead, labels over the image."""

    labels_file: Path | None = None
    """A ``dataset.json`` with the names; by default the one beside the labelmap."""

    def __post_init__(self) -> None:
        """Refuse a single slice together with every n-th."""
        if self.every is not None and self.slice_number is not None:
            raise UsageError("Give one slice (--slice) or every n-th (--every).")


def write_view(
    image: Path,
    labels: Path | None,
    out: Path,
    options: ViewOptions | None = None,
    *,
    read_image: Callable[[Path], Volume] = read_volume,
) -> ViewSummary:
    """Draw one slice of an image, its labels and both together; or every n-th slice.

    `read_image` reads the image; the labels are a NIfTI labelmap on the same grid, and
    `out` is the PNG.

    Raises `UsageError` if there is no such slice, `GeometryError` if image and labels
    do not lie on the same grid.
    """
    options = options or ViewOptions()
    plane, volume = options.plane, read_image(image)
    labelmap = _labelmap(labels, options.labels_file)
    if options.every is not None:
        drawn = write_contact_sheet(
            out, volume, labelmap, plane=plane, every=options.every
        )
        return ViewSummary(out, plane, drawn)
    index = options.slice_number
    one = write_panels(out, volume, labelmap, plane=plane, slice_index=index)
    return ViewSummary(out, plane, (one,))


def _labelmap(labels: Path | None, labels_file: Path | None) -> Labelmap | None:
    if labels is None:
        return None
    table = table_for(table_file_for([labels], labels_file), [labels])
    return read_labelmap(labels, table)
