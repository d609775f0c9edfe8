"""Let nnU-Net read labels that are nearly whole numbers as whole ones (FAULTS K07).

It would refuse 0.9999, and cut it to 0 in the preprocessed data. Labels further than
`mask_values.WHOLE_WITHIN` from a whole number are refused before a process starts.
"""

from typing import Any

import numpy as np
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO


def read_labels_as_whole_numbers() -> None:
    """Replace the functions by which nnU-Net reads a labelmap."""
    for reader in (SimpleITKIO, NibabelIO, NibabelIOWithReorient):
        _read_as_whole_numbers(reader)


def _read_as_whole_numbers(kind: Any) -> None:  # noqa: ANN401 - nnU-Net's own type
    read = kind.read_seg

    def read_seg(reader: Any, file: str) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401 - nnU-Net's own type
        voxels, properties = read(reader, file)
        return np.rint(voxels), properties

    kind.read_seg = read_seg
