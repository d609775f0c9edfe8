"""Read DICOM series, in LPS+ as they are stored.

``series`` reads a folder in five steps: ``folder`` finds the files, ``headers`` reads
their headers (with ``walker`` where they are plain), ``groups`` chooses the slices that
belong together, ``stack`` sorts and places them (``stations`` joins overlapping ones),
``pixels`` decodes them. ``options`` holds the user's choices. ``segmentation`` writes
DICOM SEG, ``write`` synthetic series. ``scan_folders`` and ``zipped`` find the scans in
folders and zips.
"""

from nnunet_bridge.formats.dicom.folder import FileAccount
from nnunet_bridge.formats.dicom.options import SeriesOptions
from nnunet_bridge.formats.dicom.series import (
    SeriesReading,
    SeriesRefused,
    SourceSlice,
    read_series,
)
from nnunet_bridge.formats.dicom.write import write_series

__all__ = [
    "FileAccount",
    "SeriesOptions",
    "SeriesReading",
    "SeriesRefused",
    "SourceSlice",
    "read_series",
    "write_series",
]
