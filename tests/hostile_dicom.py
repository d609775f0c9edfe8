"""DICOM files that ask for gigabytes or minutes, and what each costs (R9).

    python tests/hostile_dicom.py

Each file is read in a process of its own with a limit of 6 GiB; prints CPU seconds,
mebibytes above the process, and the outcome.
"""

import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from copy import deepcopy
from pathlib import Path

from dicom_base import base, enhanced, save
from fuzz import _peak_mebibytes, fast_seconds
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

ITEM = b"\xfe\xff\x00\xe0\0\0\0\0"


def with_frame(syntax, frame):
    slices = base(3)
    for ds in slices:
        ds.PixelData = encapsulate([frame])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = syntax
    return slices


def jpeg_2000(rows=32, columns=32, **more):
    """Return a frame of 32 x 32 pixels whose code stream states other numbers."""
    (ds,) = base(1)
    ds.compress(JPEG2000Lossless)
    frame = bytearray(get_frame(ds.PixelData, 0, number_of_frames=1))
    siz = frame.index(b"\xff\x4f\xff\x51") + 6
    struct.pack_into(">2L", frame, siz + 2, columns, rows)
    struct.pack_into(">2L", frame, siz + 18, *more.get("tile", (columns, rows)))
    cod = frame.index(b"\xff\x52")
    if "layers" in more:
        struct.pack_into(">H", frame, cod + 6, more["layers"])
    return bytes(frame)


def jpeg(rows, columns, kind=0xC3, samples=1):
    head = struct.pack(">BHHB", 12, rows, columns, samples)
    parts = bytes([1, 0x11, 0]) * samples
    size = struct.pack(">H", 2 + len(head) + len(parts))
    start = b"\xff\xd8\xff\xc4\x00\x05\x00\x00\x00\xff"
    return start + bytes([kind]) + size + head + parts + b"\xff\xda\x00\x02\xff\xd9"


def rle(unpacked, segments=2):
    """Return two segments of repeated bytes, each of that length unpacked."""
    one = b"\x81\x00" * (unpacked // 128)
    offsets = [64 + n * len(one) for n in range(segments)]
    head = struct.pack("<16L", segments, *offsets, *[0] * (15 - segments))
    return head + one * segments


def bomb(folder, mebibytes, meta_bytes):
    """Write a deflated file that states a false length of its first group."""
    ds = base(1)[0]
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.PatientComments = "x"
    (file,) = save([ds], folder)
    content = file.read_bytes()
    at = content.index(b"\x02\x00\x00\x00UL\x04\x00") + 8
    (true,) = struct.unpack_from("<L", content, at)
    end = at + 4 + true
    inflated = zlib.decompressobj(-15).decompress(content[end:])
    place = inflated.index(b"\x10\x00\x00\x40")
    size = mebibytes << 20
    more = b"\x11\x00\x10\x00UN\x00\x00" + struct.pack("<L", size) + bytes(size)
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    packed = packer.compress(inflated[:place] + more) + packer.flush()
    wrong = struct.pack("<L", meta_bytes if meta_bytes >= 0 else true)
    file.write_bytes(content[:at] + wrong + content[at + 4 : end] + packed)


def many_frames(count):
    """Write frames with the groups and undefined lengths of a scanner's."""

    def write(folder):
        whole = enhanced(base(2, size=4))
        first = whole.PerFrameFunctionalGroupsSequence[0]
        frames = [frame_at(first, height) for height in range(count)]
        whole.PerFrameFunctionalGroupsSequence = frames
        whole.NumberOfFrames, whole.PixelData = count, bytes(range(32)) * count
        save([whole], folder)

    return write


def frame_at(first, height):
    """Return the groups of a frame at a height."""
    frame = deepcopy(first)
    x, y, _ = frame.PlanePositionSequence[0].ImagePositionPatient
    frame.PlanePositionSequence[0].ImagePositionPatient = [x, y, height / 4]
    content, echo, kind = Dataset(), Dataset(), Dataset()
    content.FrameAcquisitionNumber, content.InStackPositionNumber = 1, height + 1
    content.StackID, content.DimensionIndexValues = "1", [1, height + 1]
    echo.EffectiveEchoTime = 30.0
    kind.FrameType, kind.AcquisitionContrast = ["ORIGINAL", "PRIMARY", "M"], "T1"
    frame.FrameContentSequence, frame.MREchoSequence = [content], [echo]
    frame.MRImageFrameTypeSequence = [kind]
    for element in frame:
        element.is_undefined_length = True
        element.value[0].is_undefined_length_sequence_item = True
    return frame


def many_items(count, syntax=ExplicitVRLittleEndian):
    """Write a sequence of empty items."""

    def write(folder):
        ds = base(1)[0]
        ds.file_meta.TransferSyntaxUID = syntax
        (file,) = save([ds], folder)
        content = file.read_bytes()
        at = content.index(b"\x28\x00\x02\x00")
        kind = b"SQ\0\0" if syntax == ExplicitVRLittleEndian else b""
        head = b"\x08\x00\x40\x11" + kind + b"\xff" * 4
        items = ITEM * count + b"\xfe\xff\xdd\xe0\0\0\0\0"
        file.write_bytes(content[:at] + head + items + content[at:])

    return write


def frames(syntax, frame):
    return lambda folder: save(with_frame(syntax, frame()), folder)


FILES = {
    "deflated 400 MiB, true length": lambda f: bomb(f, 400, -1),
    "deflated 400 MiB, false length": lambda f: bomb(f, 400, 10**6),
    "deflated 400 MiB, length of zero": lambda f: bomb(f, 400, 0),
    "JPEG 2000 of 30000 x 30000": frames(
        JPEG2000Lossless, lambda: jpeg_2000(30_000, 30_000)
    ),
    "JPEG 2000 in 1,024 tiles": frames(
        JPEG2000Lossless, lambda: jpeg_2000(tile=(1, 1))
    ),
    "JPEG 2000 of 65535 layers": frames(
        JPEG2000Lossless, lambda: jpeg_2000(layers=65_535)
    ),
    "JPEG of 65535 x 65535": frames(JPEGLosslessSV1, lambda: jpeg(65_535, 65_535)),
    "JPEG of 255 samples": frames(JPEGLosslessSV1, lambda: jpeg(32, 32, samples=255)),
    "JPEG-LS of 65535 x 65535": frames(
        JPEGLSLossless, lambda: jpeg(65_535, 65_535, kind=0xF7)
    ),
    "RLE of 256 MiB": frames(RLELossless, lambda: rle(1 << 28)),
    "a million items": many_items(10**6, ImplicitVRLittleEndian),
    "two million items": many_items(2 * 10**6),
    "2,000 frames": many_frames(2000),
    "8,192 frames": many_frames(8192),
    "9,000 frames": many_frames(9000),
}


def read(folders):
    """Read the series of each folder; print what it cost."""
    from nnunet_bridge.core.errors import BridgeError
    from nnunet_bridge.formats.dicom import read_series

    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
    for folder in folders:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before, begin = _peak_mebibytes(), time.process_time()
        try:
            read_series(Path(folder))
            outcome = "read"
        except BridgeError as error:
            outcome = f"refused: {' '.join(str(error).split())}"
        spent = fast_seconds(time.process_time() - begin)
        row = [spent, _peak_mebibytes() - before, outcome]
        print(json.dumps(row), flush=True)  # noqa: T201 - the parent reads it


def costs(names, root):
    """Return CPU seconds, mebibytes and outcome of some of `FILES`."""
    folders = [root / "sound", *(root / str(n) for n in range(len(names)))]
    save(base(3), folders[0])
    for name, folder in zip(names, folders[1:], strict=True):
        FILES[name](folder)
    words = [sys.executable, __file__, *map(str, folders)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    _, *rows = map(json.loads, done.stdout.splitlines())
    died = [0, 0, f"died: {done.returncode} {done.stderr[-200:]}"]
    return [*rows, *[died] * (len(names) - len(rows))]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read(sys.argv[1:])
    else:
        for name in FILES:
            with tempfile.TemporaryDirectory() as folder:
                ((seconds, more, outcome),) = costs([name], Path(folder))
            print(f"{name:34} {seconds:7.2f} s {more:7.0f} MiB  {outcome[:110]}")  # noqa: T201 - the table
