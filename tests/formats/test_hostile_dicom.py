"""Files that ask for gigabytes or minutes: refused, or read at a small cost (R9)."""

import pytest
from fuzz import MEBIBYTES, SECONDS
from hostile_dicom import FILES, costs, jpeg, jpeg_2000, rle
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from nnunet_bridge.formats.dicom.codestreams import WrongSize, require_size

DEAR = [
    *("deflated 400 MiB, true length", "two million items"),
    *("8,192 frames", "9,000 frames"),
]
"""Files that take ten seconds to write."""


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([name for name in FILES if name not in DEAR], id="cheap ones"),
        pytest.param(DEAR, id="dear ones", marks=pytest.mark.long),
    ],
)
def test_R9_S06_S07_no_dicom_file_takes_more_than_its_header_says(tmp_path, names):
    for name, (seconds, mebibytes, outcome) in zip(
        names, costs(names, tmp_path), strict=True
    ):
        assert outcome.startswith(("refused: [S0", "read")), name
        assert mebibytes < MEBIBYTES, name
        assert seconds < SECONDS, name


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEG2000Lossless, jpeg_2000()),
        (JPEGLosslessSV1, jpeg(32, 32)),
        (RLELossless, rle(1024)),
    ],
    ids=["JPEG 2000", "JPEG", "RLE"],
)
def test_S07_a_code_stream_has_the_size_of_its_header_and_no_other(syntax, frame):
    require_size(frame, syntax, 32, 32)

    for rows, columns in ((31, 32), (32, 31), (16, 16)):
        with pytest.raises(WrongSize):
            require_size(frame, syntax, rows, columns)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLosslessSV1, RLELossless])
@pytest.mark.parametrize(
    "frame",
    [b"", b"\xff\xd8", b"\xff\xd8\xff\xff\xff\xd8", b"\xff\x4f\xff\x51", bytes(40)],
)
def test_S07_a_stream_without_a_size_is_refused(syntax, frame):
    with pytest.raises(WrongSize):
        require_size(frame, syntax, 32, 32)


@pytest.mark.parametrize("tile", [(1, 1), (0, 0), (32, 64), (4096, 1)])
def test_S07_thousands_of_tiles_are_refused(tile):
    frame = jpeg_2000(4096, 4096, tile=tile)

    if tile == (4096, 1):
        require_size(frame, JPEG2000Lossless, 4096, 4096)
        return
    with pytest.raises(WrongSize, match="too many tiles"):
        require_size(frame, JPEG2000Lossless, 4096, 4096)
