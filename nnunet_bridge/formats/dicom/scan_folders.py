"""Find the folders that hold one scan each, from the content of their files.

A user may name a series, a patient, a folder of patients, or an exported medium
(``DICOMDIR``, then folders of patients, studies and series). Folder names differ from
site to site; the study that the headers name tells which folders belong together.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

from nnunet_bridge.formats.dicom.headers import Damaged, HeaderReader, NotUsed

INDEX = "DICOMDIR"
"""The index of an exported medium (PS3.10 section 8.6); it is never followed."""


def scan_folders(folder: Path) -> tuple[Path, ...]:
    """Return the folders below `folder` that hold one scan each, sorted by name.

    A folder that holds slices itself, or whose subfolders belong to one study, is one
    scan; otherwise each of its subfolders is one. On an exported medium (with an index)
    only subfolders with images count.
    """
    with warnings.catch_warnings(action="ignore"):  # the scan's reader checks them
        found = _scans(folder, of_medium=(folder / INDEX).is_file())
    return (folder,) if len(found) == 1 and (folder / INDEX).is_file() else found


def _scans(folder: Path, *, of_medium: bool) -> tuple[Path, ...]:
    if any(_study_of(file) is not None for file in _visible(folder) if file.is_file()):
        return (folder,)
    places = [place for place in _visible(folder) if place.is_dir()]
    studies = {place: _first_study(place) for place in places}
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
    studies = map(_study_of, _files(folder))
    return next((study for study in studies if study is not None), None)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files, those of a folder before those of its subfolders."""
    inside = [p for p in _visible(folder) if p.is_file() or not p.is_symlink()]
    yield from (path for path in inside if path.is_file())
    for path in inside:
        if path.is_dir():
            yield from _files(path)


def _study_of(file: Path) -> str | None:
    """Return the study of a slice, empty if unknown; None if the file is no slice."""
    try:
        headers = HeaderReader().read(file, file.name)
    except Damaged:
        return ""  # the reader of the scan reports the damage
    except (NotUsed, OSError):
        return None
    return headers[0].identity.study if headers else None
