"""Files that are written only when they would change (FAULTS R12)."""

from __future__ import annotations

from pathlib import Path

from nnunet_bridge.formats.files import whole_file


def write_if_changed(
    final: Path, content: bytes | memoryview, *, to_disk: bool = True
) -> bool:
    """Write a file that is whole or absent, unless it already holds this content.

    Parameters
    ----------
    final : Path
    content : bytes
    to_disk : bool
        As `whole_file` has it.

    Returns
    -------
    written : bool
        False if the file was left as it was.
    """
    if _holds(final, content):
        return False
    with whole_file(final, to_disk=to_disk) as temporary:
        temporary.write_bytes(content)
    return True


def _holds(file: Path, content: bytes | memoryview) -> bool:
    if not file.is_file() or file.stat().st_size != len(content):
        return False
    try:
        return file.read_bytes() == content
    except OSError:
        return False
