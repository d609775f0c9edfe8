"""Pictures of slices: one of them three ways, or every n-th on one sheet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.image import Labelmap, Volume
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.nifti import read_labelmap, read_volume
from nnunet_bridge.formats.preview import write_contact_sheet, write_panels
from nnunet_bridge.pipeline.labels.folders import table_file_for, table_for


@dataclass(frozen=True, slots=True)
class ViewSummary:
    """One picture that was written."""

    file: Path
    plane: str
    slices: tuple[int, ...]
    """Which slices it shows, in their order on it."""

    @property
    def exit_code(self) -> int:
        """Return 0: the picture is there."""
        return 0

    def as_json(self) -> JsonObject:
        """Return where the picture is, and what it shows."""
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


def write_view(  # noqa: PLR0913 - two inputs, one output, and four choices
    image: Path,
    labels: Path | None,
    out: Path,
    *,
    plane: str = "axial",
    slice_number: int | None = None,
    every: int | None = None,
    read_image: Callable[[Path], Volume] = read_volume,
    labels_file: Path | None = None,
) -> ViewSummary:
    """Draw one slice of an image, its labels and both together; or every n-th slice.

    Parameters
    ----------
    image : Path
        Whatever `read_image` reads.
    labels : Path or None
        A NIfTI labelmap on the same grid.
    out : Path
        The PNG.
    plane : str
        ``axial``, ``coronal`` or ``sagittal``.
    slice_number : int, optional
        Index along the array, from 0; by default the slice with the most labels.
    every : int, optional
        Draw every `every`-th slice on one sheet instead, labels over the image.
    read_image : callable
        Path -> Volume.
    labels_file : Path, optional
        A ``dataset.json`` with the names; by default the one beside the labelmap.

    Raises
    ------
    UsageError
        If there is no such slice, or one slice and every n-th are asked for.
    GeometryError
        If image and labels do not lie on the same grid.
    """
    if every is not None and slice_number is not None:
        raise UsageError("Ask for one slice or for every n-th, not for both.")
    volume = read_image(image)
    labelmap = _labelmap(labels, labels_file)
    if every is not None:
        drawn = write_contact_sheet(out, volume, labelmap, plane=plane, every=every)
        return ViewSummary(out, plane, drawn)
    one = write_panels(out, volume, labelmap, plane=plane, slice_index=slice_number)
    return ViewSummary(out, plane, (one,))


def _labelmap(labels: Path | None, labels_file: Path | None) -> Labelmap | None:
    if labels is None:
        return None
    table = table_for(table_file_for([labels], labels_file), [labels])
    return read_labelmap(labels, table)
