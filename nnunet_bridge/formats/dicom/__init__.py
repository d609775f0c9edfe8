"""DICOM series: the door through which images come in, LPS+ as they are.

``folder`` finds the files, ``headers`` reads what they say (through ``walker`` where
they are plain), ``groups`` finds the slices that belong together, ``stack`` puts them
in order, ``stations`` joins overlapping ones, ``pixels`` decodes them, and ``series``
tells that story in one function. ``options`` is what a user decides. ``write`` makes
synthetic series.
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
