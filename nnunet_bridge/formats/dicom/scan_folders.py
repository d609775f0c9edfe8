"""Which folders below a folder are one scan each: found from what the files say.

People name a series, a patient, a folder of patients, or what a scanner exported
(``DICOMDIR``, then folders of patients, studies and series). Names tell little; the
study that a header names tells which folders belong together.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

from nnunet_bridge.formats.dicom.headers import Damaged, HeaderReader, NotUsed

INDEX = "DICOMDIR"
"""The index of an exported medium (PS3.10 section 8.6); it is never followed."""


def scan_folders(folder: Path) -> tuple[Path, ...]:
    """Return the folders below `folder` that hold one scan each, sorted by name.

    Parameters
    ----------
    folder : Path
        If it holds slices itself, or if its subfolders belong to one study, it is the
        scan; otherwise each of its subfolders is one. Of an exported medium (with an
        index) only subfolders with images count.
    """
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # what matters about a header, the reader checks
        found = _scans(folder, of_medium=(folder / INDEX).is_file())
    return (folder,) if len(found) == 1 and (folder / INDEX).is_file() else found


def _scans(folder: Path, *, of_medium: bool) -> tuple[Path, ...]:
    if any(_study_of(file) is not None for file in _visible(folder) if file.is_file()):
        return (folder,)
    studies = {
        place: _first_study(place) for place in _visible(folder) if place.is_dir()
    }
    if of_medium:
        studies = {p: study for p, study in studies.items() if study is not None}
    if not studies:
        return (folder,)
    if len(studies) == 1:
        (only,) = studies
        inner = _scans(only, of_medium=of_medium)
        return inner if len(inner) > 1 else (only,)
    shared = set(studies.values())
    if len(shared) == 1 and shared.pop():
        return (folder,)
    return tuple(studies)


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _first_study(folder: Path) -> str | None:
    """Return the study of the first slice in `folder` or below, or None without one."""
    return next(
        (s for file in _files(folder) if (s := _study_of(file)) is not None), None
    )


def _files(folder: Path) -> Iterator[Path]:
    """Go through the files, those of a folder before those of its subfolders."""
    inside = [path for path in _visible(folder) if not path.is_symlink()]
    yield from (path for path in inside if path.is_file())
    for path in inside:
        if path.is_dir():
            yield from _files(path)


def _study_of(file: Path) -> str | None:
    """Return the study that a slice names (perhaps empty); None if it is no slice."""
    try:
        headers = HeaderReader().read(file, file.name)
    except Damaged:
        return ""  # the reader will say what is wrong with it
    except (NotUsed, OSError):
        return None
    return headers[0].identity.study if headers else None
