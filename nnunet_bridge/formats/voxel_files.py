"""Find the voxels that lie in another file than their header.

NIfTI and Analyze pairs are ``.hdr`` and ``.img``; the headers ``.nhdr``, ``.nrrd``,
``.mhd`` and ``.mha`` may name a file. It must lie beside the header: a header from
outside could else make us read any file of the machine.
"""

import re
from contextlib import suppress
from pathlib import Path

from nnunet_bridge.core.errors import BridgeError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.quoting import quoted

_NAMED = re.compile(
    rb"^(?:data ?file|ElementDataFile)\s*[:=]\s*(\S[^\r\n]*)",
    re.MULTILINE | re.IGNORECASE,
)
_WITH_TEXT = (".nhdr", ".nrrd", ".mhd", ".mha")
_IN_PAIRS = (".img", ".img.gz", ".IMG")
_HEADER_BYTES = 1 << 16


def voxel_file(file: Path) -> Path | None:
    """Return the file with the voxels of a header; None if they follow the header.

    Raises `Refused` if it does not lie beside the header (K19).
    """
    name = file.name.lower()
    if name.endswith(".hdr"):
        beside = [file.with_suffix(ending) for ending in _IN_PAIRS]
        return _checked(file, next((one for one in beside if one.exists()), beside[0]))
    if not name.endswith(_WITH_TEXT):
        return None
    with file.open("rb") as stream:
        text = stream.read(_HEADER_BYTES)
    header = re.split(rb"\r?\n\r?\n", text, maxsplit=1)[0]
    match = _NAMED.search(header)
    if match is None or match[1].strip() == b"LOCAL":
        return None
    named = match[1].strip().decode("utf-8", "surrogateescape").removeprefix("./")
    return _checked(file, file.parent / named)


def with_voxel_file(file: Path) -> tuple[Path, ...]:
    """Return a file, and the one with its voxels if that is another."""
    with suppress(BridgeError, OSError):
        beside = voxel_file(file)
        return (file,) if beside is None else (file, beside)
    return (file,)


def _checked(header: Path, file: Path) -> Path:
    if file.parent == header.parent and file.is_file() and not file.is_symlink():
        return file
    raise Refused.because(
        "K19",
        f"{quoted(header.name)} keeps its voxels in another file, {quoted(file.name)}, "
        "which is not beside it: put both into one folder, or save it as one file.",
    )
