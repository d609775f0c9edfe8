"""Hostile files by the thousand: what comes out is an answer or a `BridgeError` (R9).

    python tests/fuzz.py                  10,000 files: 2,500 of each format
    python tests/fuzz.py --each 10000     10,000 files of each format

File n of a format is always the same. Every format is read in a process of its own,
which measures the CPU time and the peak memory (VmHWM, reset for every file) of
every single one. Prints one line a format, and one for each file that broke the rule.
"""

import argparse
import contextlib
import gzip
import io
import multiprocessing
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from dicom_base import base, new_uids
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from nnunet_bridge.core.errors import BridgeError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.dicom import read_series
from nnunet_bridge.formats.dicom.drawn import read_drawn
from nnunet_bridge.formats.nifti import read_array, write_volume
from nnunet_bridge.formats.slicer import read_mask, read_segments
from nnunet_bridge.formats.slicer_write import write_segmentation
from nnunet_bridge.formats.surfaces import filled_surface, read_surface

SECONDS, MEBIBYTES = 2.0, 512
"""What one file may cost at most: CPU time of a fast core, added memory."""

COPIES_S = 0.025
"""What a fast core takes for the copies of `fast_seconds`."""

HANGS_AFTER_S = 60
ADDRESS_SPACE = 6 << 30
EXTREMES = (
    *(b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff", b"\x00\x80", b"\xff\x7f"),
    *(b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\xc0\x7f"),
)
WORDS = (
    *("0", "-1", "1", "65536", "2147483648", "99999999999999", "1e308", "nan", "inf"),
    *("", "none", "(", "\0", "é", "\N{RIGHT-TO-LEFT OVERRIDE}", "1 2 3", "0.0.0"),
)
GRID = Grid((16, 16, 6), np.diag([0.75, 0.75, 4.0, 1.0]))


@dataclass
class Account:
    """What came of the files of one format."""

    outcomes: Counter[str] = field(default_factory=Counter)
    worst_seconds: float = 0.0
    worst_mebibytes: float = 0.0
    findings: list[str] = field(default_factory=list)


# --- files to spoil


def _voxels():
    voxels = np.zeros(GRID.shape, np.uint8)
    voxels[4:12, 4:12, 1:5] = 1
    return voxels


@cache
def originals(kind):
    """Return sound files of a format, as bytes, by the ending that they need."""
    with tempfile.TemporaryDirectory() as name:
        return [
            (ending, file.read_bytes())
            for ending, file in globals()[f"_{kind}_files"](Path(name))
        ]


def _nifti_files(folder):
    noise = np.random.default_rng(0).integers(0, 2, GRID.shape)
    kinds = (np.uint8, np.int16, np.float32, np.float64)
    for number, ending in enumerate((".nii", ".nii.gz") * 4):
        file = folder / f"{number}{ending}"
        voxels = noise if number > 3 else _voxels()
        write_volume(file, Volume(GRID, voxels.astype(kinds[number % 4])))
        yield ending, file


def _nrrd_files(folder):
    import nrrd

    for encoding in ("raw", "gzip"):
        for space in ("left-posterior-superior", "right-anterior-superior"):
            file = folder / f"{encoding}{space}.nrrd"
            header = {
                "space": space,
                "space directions": GRID.affine[:3, :3],
                "space origin": [1.0, 2.0, 3.0],
                "encoding": encoding,
            }
            nrrd.write(str(file), _voxels(), header)
            yield ".nrrd", file
    import SimpleITK as sitk  # noqa: N813 - its usual name

    for packed in (True, False):
        file = folder / f"{packed}.mha"
        sitk.WriteImage(sitk.GetImageFromArray(_voxels().T), str(file), packed)
        yield ".mha", file


def _other_files(folder):
    """Yield the rarer formats; `_apart` has the voxels that lie in other files."""
    import nibabel
    import SimpleITK as sitk  # noqa: N813 - its usual name

    kinds = {
        "mgh": nibabel.MGHImage,
        "mgz": nibabel.MGHImage,
        "nii.gz": nibabel.Nifti2Image,
        "hdr": nibabel.Nifti1Pair,
    }
    for ending, kind in kinds.items():
        nibabel.save(kind(_voxels(), GRID.affine), folder / f"mask.{ending}")
        yield f".{ending}", folder / f"mask.{ending}"
    for ending in ("mhd", "nhdr"):
        file = folder / f"mask.{ending}"
        sitk.WriteImage(sitk.GetImageFromArray(_voxels().T), str(file))
        (folder / "mask.raw").rename(folder / f"{ending}.raw")
        file.write_bytes(
            file.read_bytes().replace(b"mask.raw", f"{ending}.raw".encode())
        )
        yield f".{ending}", file


@cache
def _apart():
    with tempfile.TemporaryDirectory() as name:
        list(_other_files(Path(name)))
        names = ("mask.img", "mhd.raw", "nhdr.raw")
        return {one: Path(name, one).read_bytes() for one in names}


def _seg_files(folder):
    drawn = _voxels() > 0
    other = np.roll(drawn, 3, axis=0)
    for number, masks in enumerate(([drawn], [drawn, other], [drawn, ~drawn])):
        file = folder / f"{number}.seg.nrrd"
        names = ("tibia", "femur")
        write_segmentation(
            file,
            GRID,
            [(names[n], (200, 100, n), mask) for n, mask in enumerate(masks)],
        )
        yield ".seg.nrrd", file


def _dicom_files(folder):
    variants = (None, ImplicitVRLittleEndian, ExplicitVRBigEndian)
    uids = new_uids()
    for number, syntax in enumerate(
        (*variants, DeflatedExplicitVRLittleEndian, RLELossless, "nested", "long")
    ):
        ds = base(3, size=16, uids=uids)[1]
        if syntax == "nested":
            ds.RequestAttributesSequence = _nested(12)
        elif syntax == "long":
            ds.ImageComments = "x" * 5000
        elif syntax == RLELossless:
            ds.compress(syntax)
        elif syntax is not None:
            ds.file_meta.TransferSyntaxUID = syntax
            if syntax == ExplicitVRBigEndian:
                ds["PixelData"].VR = "OW"
        file = folder / f"{number}.dcm"
        ds.save_as(file, enforce_file_format=True)
        yield ".dcm", file


def _surface_files(folder):
    import trimesh

    box = trimesh.creation.box(bounds=[[2.1, 2.1, 4], [9, 9, 19]])
    for number, ending in enumerate((".ply", ".stl", ".obj", ".ply", ".stl")):
        text = {".ply": {"encoding": "ascii"}, ".stl": {}}[ending] if number > 2 else {}
        kind = "stl_ascii" if number > 3 else ending[1:]
        file = folder / f"{number}{ending}"
        box.export(file, file_type=kind, **text)
        yield ending, file
    points = "\n".join(" ".join(map(str, point)) for point in box.vertices)
    faces = "\n".join(f"3 {a} {b} {c}" for a, b, c in box.faces)
    head = "# vtk DataFile Version 4.2\nbox\nASCII\nDATASET POLYDATA\n"
    file = folder / "box.vtk"
    body = f"POINTS 8 float\n{points}\nPOLYGONS 12 48\n{faces}\n"
    file.write_text(head + body)
    yield ".vtk", file


def _drawn_files(folder):
    from drawn_dicom import completed, write_seg, write_structures

    slices = completed(base(6, size=16))
    for kind in ("BINARY", "LABELMAP"):
        file = folder / f"{kind}.dcm"
        yield ".dcm", write_seg(file, slices, _voxels(), ["tibia"], kind)
    square = [[(2, 2, k), (9, 2, k), (9, 9, k), (2, 9, k)] for k in (1, 2)]
    contours = {"tibia": [GRID.to_patient(points) for points in square]}
    yield ".dcm", write_structures(folder / "rt.dcm", slices, contours)


def _nested(depth):
    inner = Dataset()
    inner.PatientComments = "deep"
    for _ in range(depth):
        outer = Dataset()
        outer.RequestAttributesSequence = DicomSequence([inner])
        inner = outer
    return DicomSequence([inner])


# --- ways to spoil them


def flip(content, rng):
    """Change some bits, more often near the beginning, where the header is."""
    spoilt = bytearray(content)
    reach = len(spoilt) if rng.random() < 0.3 else min(len(spoilt), 1400)
    for _ in range(rng.randint(1, 12)):
        spoilt[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def cut(content, rng):
    """Lose the end."""
    return content[: rng.randrange(len(content))]


def insert(content, rng):
    """Put bytes in between."""
    at = rng.randrange(len(content))
    return content[:at] + rng.randbytes(rng.randint(1, 64)) + content[at:]


def remove(content, rng):
    """Take bytes out."""
    at = rng.randrange(len(content))
    return content[:at] + content[at + rng.randint(1, 64) :]


def repeat(content, rng):
    """Say something twice, or very often."""
    at = rng.randrange(len(content))
    part = content[at : at + rng.randint(1, 200)]
    return content[:at] + part * rng.choice((2, 3, 500)) + content[at:]


def extremes(content, rng):
    """Put the largest, smallest and strangest numbers into the header."""
    spoilt = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        value = rng.choice(EXTREMES)
        at = rng.randrange(max(1, min(len(spoilt), 1400) - len(value)))
        spoilt[at : at + len(value)] = value
    return bytes(spoilt)


def words(content, rng):
    """Exchange a number that is written in letters (NRRD, DICOM's DS and IS)."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", content[:3000]))
    if not found:
        return flip(content, rng)
    match = rng.choice(found)
    word = rng.choice(WORDS).encode()
    if rng.random() < 0.5:
        word = word[: len(match[0])].ljust(len(match[0]))
    return content[: match.start()] + word + content[match.end() :]


def dimensions(content, rng):
    """Announce sizes that nothing could hold."""
    sizes = [rng.choice((0, 1, 2, 255, 32767, 65535, 2**31 - 1)) for _ in range(4)]
    if content[344:347] == b"n+1":
        shape = struct.pack("<5H", rng.randrange(9), *(s & 0x7FFF for s in sizes))
        return content[:40] + shape + content[50:]
    if content.startswith(b"NRRD"):
        line = f"sizes: {' '.join(map(str, sizes[: rng.randint(1, 4)]))}".encode()
        return re.sub(rb"sizes: [^\n]*", line, content)
    if b"DimSize" in content[:600]:
        line = f"DimSize = {' '.join(map(str, sizes[:3]))}".encode()
        return re.sub(rb"DimSize = [^\n]*", line, content)
    for tag, at in ((b"\x28\0\x10\0", 8), (b"\x28\0\x11\0", 8), (b"\x28\0\0\1", 8)):
        place = content.find(tag)
        if place > 0 and rng.random() < 0.7:
            value = struct.pack("<H", rng.choice((0, 1, 17, 4095, 4096, 65535)))
            content = content[: place + at] + value + content[place + at + 2 :]
    return content


def inside(content, rng):
    """Spoil what a packed file holds and pack it again, so that its CRC is right."""
    if content[:2] == b"\x1f\x8b":
        return gzip.compress(_any(gzip.decompress(content), rng), 1)
    if content.startswith(b"NRRD") and b"encoding: gzip" in content:
        head, _, body = content.partition(b"\n\n")
        with contextlib.suppress(OSError, zlib.error):
            return head + b"\n\n" + gzip.compress(_any(gzip.decompress(body), rng), 1)
    return _any(content, rng)


def _any(content, rng):
    return rng.choice((flip, cut, insert, remove, extremes, words, dimensions))(
        content, rng
    )


def bomb(content, rng):
    """Let a small file grow on reading, or go down without end."""
    if content[:2] == b"\x1f\x8b":
        return _gzip_bomb(gzip.decompress(content))
    if content.startswith(b"NRRD"):
        head, _, _ = content.partition(b"\n\n")
        head = re.sub(rb"encoding: \w+", b"encoding: gzip", head)
        return head + b"\n\n" + _gzip_bomb(b"")
    if content[128:132] == b"DICM":
        return rng.choice((_deflated_bomb, _deep))()
    return dimensions(content, rng)


@cache
def _zeros():
    """Return 700 MB of zeros, deflated: the same block again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(7_000_000)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * 100 + packer.flush()


def _gzip_bomb(begin):
    first = zlib.compressobj(1, zlib.DEFLATED, 31)
    packed = first.compress(begin) + first.flush(zlib.Z_FULL_FLUSH)
    return packed + _zeros() + bytes(8)


@cache
def _deflated_bomb():
    stream = io.BytesIO()
    ds = base(3, size=16)[0]
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(stream, enforce_file_format=True)
    content = stream.getvalue()
    length = struct.unpack_from("<I", content, 140)[0]
    head, body = content[: 144 + length], zlib.decompress(content[144 + length :], -15)
    first = zlib.compressobj(1, zlib.DEFLATED, -15)
    packed = first.compress(body) + first.flush(zlib.Z_FULL_FLUSH)
    return head + packed + _zeros()


@cache
def _deep():
    """Return a file with 2000 sequences, one in the other, of undefined length."""
    stream = io.BytesIO()
    base(3, size=16)[0].save_as(stream, enforce_file_format=True)
    content = stream.getvalue()
    begin = b"\x40\0\x75\2SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    at = content.find(b"\xe0\x7f\x10\0")
    return content[:at] + begin * 2000 + end * 2000 + content[at:]


WAYS = (
    *(flip, flip, flip, cut, insert, remove, repeat, extremes, extremes),
    *(words, words, dimensions, inside, inside),
)


def spoilt(kind, number):
    """Return ending and bytes of file `number` of a format; always the same."""
    rng = Random(f"{kind} {number}")  # noqa: S311 - repeatable, not secret
    ending, content = rng.choice(originals(kind))
    way = bomb if number % 100 == 50 else rng.choice(WAYS)
    return way.__name__, ending, way(content, rng)


# --- reading them


def read(kind, folder, ending, content, number):
    """Read one file as `convert` would."""
    if kind == "dicom":
        alike = number % 2
        for index, ds in enumerate(_companions()):
            (folder / f"{index}.dcm").write_bytes(content if alike and index else ds)
        (folder / "spoilt.dcm").write_bytes(content)
        read_series(folder)
        return
    file = folder / f"mask{ending}"
    file.write_bytes(content)
    for name, voxels in _apart().items() if kind == "other" else ():
        (folder / name).write_bytes(voxels)
    if kind == "nifti" and number % 2:
        read_array(file)
    elif kind == "surface":
        filled_surface(read_surface(file), GRID, frame="LPS", name="tibia")
    elif kind in ("seg", "drawn"):
        _read_all_segments(file)
    else:
        read_mask(file, name="tibia")


def _read_all_segments(file):
    on_grid = {"own_names": True, "grid": GRID, "scan": None}
    dicom = file.suffix == ".dcm"
    for _ in read_drawn(file, (), **on_grid) if dicom else read_segments(file):
        pass


@cache
def _companions():
    with tempfile.TemporaryDirectory() as name:
        slices = base(3, size=16)
        for index, ds in enumerate(slices):
            ds.save_as(Path(name, str(index)), enforce_file_format=True)
        return [Path(name, str(index)).read_bytes() for index in range(len(slices))]


KINDS = ("dicom", "nifti", "nrrd", "seg", "other", "surface", "drawn")


def fuzz(kind, numbers):
    """Read spoilt files of a format in another process; in a new one after a crash."""
    account, left = Account(), list(numbers)
    context = multiprocessing.get_context("spawn")
    while left:
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(kind, left, sender))
        worker.start()
        sender.close()
        with contextlib.suppress(EOFError):
            while left:
                _note(account, kind, receiver.recv())
                del left[0]
        worker.join()
        if left:
            way = spoilt(kind, left[0])[0]
            what = f"ended the process ({worker.exitcode})"
            account.findings.append(f"{kind} {left.pop(0)} ({way}): {what}")
    return account


def _note(account, kind, result):
    number, way, outcome, seconds, mebibytes = result
    account.outcomes[outcome] += 1
    account.worst_seconds = max(account.worst_seconds, seconds)
    account.worst_mebibytes = max(account.worst_mebibytes, mebibytes)
    if outcome not in ("read", "refused") or (
        seconds > SECONDS or mebibytes > MEBIBYTES
    ):
        account.findings.append(
            f"{kind} {number} ({way}): {outcome}, {seconds:.2f} s, {mebibytes:.0f} MiB"
        )


def _work(kind, numbers, sender):
    warnings.simplefilter("ignore")
    signal.alarm(0)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    ending, content = originals(kind)[0]
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(BridgeError):
        read(kind, Path(name), ending, content, 0)  # imports are not measured
    _zeros(), _deflated_bomb(), _deep()
    for number in numbers:
        way, ending, content = spoilt(kind, number)
        signal.alarm(HANGS_AFTER_S)
        with tempfile.TemporaryDirectory() as name:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            before, begin = _peak_mebibytes(), time.process_time()
            outcome = _outcome(kind, Path(name), ending, content, number)
            seconds = fast_seconds(time.process_time() - begin)
            above = _peak_mebibytes() - before
        sender.send((number, way, outcome, seconds, above))
    sender.close()


def _outcome(kind, folder, ending, content, number):
    try:
        read(kind, folder, ending, content, number)
    except BridgeError:
        return "refused"
    except BaseException as error:  # noqa: BLE001 - this is what we are looking for
        return f"{type(error).__name__}: {str(error)[:80]}"
    return "read"


def _peak_mebibytes():
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def fast_seconds(seconds):
    """Return what a fast core would take, if the seconds of this one are too many."""
    if seconds <= SECONDS:
        return seconds
    begin = time.process_time()
    deepcopy([{"number": n, "parts": [n]} for n in range(10_000)])
    return seconds / max(1.0, (time.process_time() - begin) / COPIES_S)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--each", type=int, default=2500, help="files of each format")
    parser.add_argument("--only", choices=KINDS, help="one format")
    options = parser.parse_args(arguments)
    findings = []
    for kind in (options.only,) if options.only else KINDS:
        account = fuzz(kind, range(options.each))
        findings += account.findings
        counts = ", ".join(f"{n} {name}" for name, n in account.outcomes.most_common(4))
        print(  # noqa: T201 - the report
            f"{kind}: {options.each} files: {counts}; worst "
            f"{account.worst_seconds:.2f} s, {account.worst_mebibytes:.0f} MiB; "
            f"{len(account.findings)} findings",
            *account.findings[:40],
            sep="\n  ",
            flush=True,
        )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
