"""Look through a study folder once: which files are images, and which hold drawings.

Of each DICOM folder a few headers are read, of other images and masks the header.
Voxels are read only of a file whose names do not show whether it is an image or a mask.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nnunet_bridge.core.case_table import Role
from nnunet_bridge.core.errors import BridgeError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.progress import Progress, steps
from nnunet_bridge.formats.archive import ArchiveLimits, open_archive
from nnunet_bridge.formats.dicom.drawn import read_drawn_header
from nnunet_bridge.formats.dicom.sample import (
    SAMPLE,
    FoundDicom,
    FoundSeries,
    sample_folder,
)
from nnunet_bridge.formats.dicom.scan_folders import INDEX
from nnunet_bridge.formats.files import is_regular
from nnunet_bridge.formats.mask_values import distinct_labels
from nnunet_bridge.formats.slicer import MASK_ENDINGS, read_values
from nnunet_bridge.formats.surfaces import SURFACE_ENDINGS
from nnunet_bridge.formats.value_names import ENDINGS, read_value_names
from nnunet_bridge.formats.volume_header import VolumeHeader, read_volume_header
from nnunet_bridge.ops.naming import words_of
from nnunet_bridge.ops.pairing import Place
from nnunet_bridge.ops.vocabulary import Vocabulary

_UNREADABLE = (".gipl", ".mnc", ".vtp")
_NEVER_DICOM = (
    *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".svg", ".webp"),
    *(".pdf", ".doc", ".docx", ".xls", ".xlsx", ".ods", ".odt", ".ppt", ".pptx"),
    *(".md", ".rst", ".html", ".htm", ".xml", ".toml", ".yaml", ".yml", ".ini"),
    *(".log", ".py", ".ipynb", ".m", ".mat", ".r", ".sh", ".npy", ".npz", ".h5"),
    *(".bval", ".bvec", ".mrml", ".mrb", ".fcsv", ".db", ".gz", ".tar", ".raw"),
    *(".zraw", ".img", ".lnk", ".url", ".exe", ".dll", ".mtl", ".acq", ".pth"),
)
_SKIPPED = ("__MACOSX", "nnUNet_preprocessed", "nnUNet_results")
_MOST_UNPACKED_BYTES = 256 << 20  # of one file in a zip
_FEW_VALUES = 64  # a mask holds at most so many
_SAMPLED_VOXELS = 1 << 17  # of a file of fractions


@dataclass(frozen=True, slots=True, eq=False)
class FoundImage:
    """An image of a patient."""

    file: str  # path relative to the study
    parts: tuple[str, ...]  # folders, and the name without its ending
    folder: tuple[str, ...]  # of a DICOM folder the folder itself
    place: Place | None
    slices: int = 0
    grid: Grid | None = None  # of an image that is one file
    dicom: FoundSeries | None = None
    shares_folder: bool = False  # with other series, so that `series` names it
    shares_patients: bool = False  # and they are of several patients


@dataclass(frozen=True, slots=True, eq=False)
class FoundDrawing:
    """A file with drawn structures."""

    file: str
    parts: tuple[str, ...]
    role: Role  # of a mask or labelmap it is not known yet which: `mask`
    grid: Grid | None = None
    segments: tuple[str, ...] = ()
    series: frozenset[str] = field(default=frozenset(), repr=False)
    """UIDs of the series that a DICOM file says it was drawn on."""

    @property
    def name(self) -> str:
        """The name of the file without its ending."""
        return self.parts[-1]


@dataclass(slots=True)
class Survey:
    """What a study folder holds."""

    images: list[FoundImage] = field(default_factory=list)
    drawings: list[FoundDrawing] = field(default_factory=list)
    value_names: dict[str, Mapping[int, str]] = field(default_factory=dict)
    """File that names values -> its names."""

    unused: list[tuple[str, str]] = field(default_factory=list)
    """File that could be an image or a drawing, and why it is not used."""


@dataclass(slots=True)
class _Folder:
    """The files of one folder, by what they may be."""

    parts: tuple[str, ...]
    volumes: list[str] = field(default_factory=list)
    surfaces: list[str] = field(default_factory=list)
    zips: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def path_of(self, name: str) -> str:
        """Return a file's path relative to the study."""
        return "/".join((*self.parts, name))


def look_through(
    study: Path, vocabulary: Vocabulary, progress: Progress | None = None
) -> Survey:
    """Return the images and drawings below a folder."""
    survey = Survey()
    folders = [
        ("/".join(folder.parts) or ".", folder)
        for folder in _folders(study, (), study.resolve(), survey)
    ]
    for _, folder in steps(progress, "look through the study", folders):
        _look_into(study, folder, vocabulary, survey)
    return survey


def _folders(
    folder: Path, parts: tuple[str, ...], root: Path, survey: Survey
) -> Iterator[_Folder]:
    """Yield every folder with its files; links that lead out are not followed (F01)."""
    found, inside = _Folder(parts), []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        survey.unused.append(("/".join(parts), f"cannot be read: {error.strerror}"))
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _SKIPPED:
            continue
        if entry.is_dir(follow_symlinks=False):
            inside.append(entry.name)
        elif is_regular(Path(entry)) and (
            not entry.is_symlink() or Path(entry).resolve().is_relative_to(root)
        ):
            _sort_in(found, entry.name)
    yield found
    for name in inside:
        yield from _folders(folder / name, (*parts, name), root, survey)


def _sort_in(folder: _Folder, name: str) -> None:
    low = name.casefold()
    kinds = {
        MASK_ENDINGS: folder.volumes,
        SURFACE_ENDINGS: folder.surfaces,
        (".zip",): folder.zips,
        ENDINGS: folder.texts,
        _UNREADABLE: folder.unreadable,
    }
    for endings, names in kinds.items():
        if low.endswith(endings):
            names.append(name)
            return
    if not low.endswith(_NEVER_DICOM) and name.upper() != INDEX:
        folder.others.append(name)


def _look_into(
    study: Path, folder: _Folder, vocabulary: Vocabulary, survey: Survey
) -> None:
    place = study.joinpath(*folder.parts)
    found = sample_folder(place, folder.others) if folder.others else FoundDicom()
    survey.images += _dicom_images(folder, found)
    for name in found.drawn:
        _look_at_drawn(place / name, folder, survey)
    for name in folder.texts:
        if names := read_value_names(place / name):
            survey.value_names[folder.path_of(name)] = names
    for name in folder.surfaces:
        parts = (*folder.parts, name.rpartition(".")[0])
        survey.drawings.append(FoundDrawing(folder.path_of(name), parts, Role.SURFACE))
    for name in folder.zips:
        _look_into_zip(place / name, folder, survey)
    for name in folder.volumes:
        _look_at_volume(place / name, folder, vocabulary, survey)
    for name in folder.unreadable:
        text = "this format is not read: save it as .nii.gz, .nrrd or .mha"
        survey.unused.append((folder.path_of(name), text))


def _look_at_drawn(file: Path, folder: _Folder, survey: Survey) -> None:
    """Add a DICOM SEG or RTSTRUCT."""
    path, parts = folder.path_of(file.name), (*folder.parts, file.stem)
    try:
        header = read_drawn_header(file)
    except BridgeError as error:
        survey.unused.append((path, str(error)))
        return
    of = header.series
    drawing = FoundDrawing(path, parts, Role.SEGMENTATION, None, header.names, of)
    survey.drawings.append(drawing)


def _dicom_images(folder: _Folder, found: FoundDicom) -> Iterator[FoundImage]:
    """Yield the series of a folder; of several patients, each with its own name."""
    patients = {series.patient for series in found.series}
    for series in found.series:
        one = FoundImage(
            "/".join(folder.parts) or ".",
            folder.parts,
            folder.parts,
            series.place,
            series.slices,
            dicom=series,
            shares_folder=len(found.series) > 1,
            shares_patients=len(patients) > 1,
        )
        if len(patients) > 1 and len(series.files) == 1:
            name = series.files[0]
            stem = name.removesuffix(".dcm")
            parts, file = (*folder.parts, stem), folder.path_of(name)
            one = replace(one, file=file, parts=parts, shares_folder=False)
        elif len(patients) > 1:
            one = replace(one, parts=(*folder.parts, series.patient or "unnamed"))
        yield one


def _look_into_zip(file: Path, folder: _Folder, survey: Survey) -> None:
    """Add the series of a zip, by a few of its files; the others are not unpacked."""
    path, parts = folder.path_of(file.name), (*folder.parts, file.stem)
    limits = ArchiveLimits(
        200_000, 20 << 30, directory_bytes=64 << 20, ratio=100, at_start=False
    )
    try:
        with (
            open_archive(file, limits) as archive,
            tempfile.TemporaryDirectory() as target,
        ):
            files = [
                entry.filename
                for entry in archive.entries
                if not entry.filename.casefold().endswith((*_NEVER_DICOM, *ENDINGS))
                and not entry.filename.startswith("__MACOSX/")
                and entry.file_size <= _MOST_UNPACKED_BYTES
            ]
            step = max(1, len(files) // SAMPLE)
            for number, name in enumerate(files[::step]):
                archive.unpack(name, Path(target) / str(number))
            found = sample_folder(
                Path(target), [str(n) for n in range(len(files[::step]))]
            )
    except (BridgeError, OSError) as error:
        survey.unused.append((path, str(error)))
        return
    if not found.series:
        survey.unused.append((path, "no DICOM image is in it: unpack it"))
        return
    series = found.series[0]
    slices = len(files) if len(found.series) == 1 else 0
    place = series.place and replace(series.place, slices=slices)
    survey.images.append(
        FoundImage(path, parts, folder.parts, place, slices, dicom=series)
    )


def _look_at_volume(
    file: Path, folder: _Folder, vocabulary: Vocabulary, survey: Survey
) -> None:
    path = folder.path_of(file.name)
    ending = next(e for e in MASK_ENDINGS if file.name.casefold().endswith(e))
    parts = (*folder.parts, file.name[: -len(ending)])
    try:
        header = read_volume_header(file)
    except BridgeError as error:
        survey.unused.append((path, str(error)))
        return
    if header.segments or file.name.casefold().endswith(".seg.nrrd"):
        survey.drawings.append(
            FoundDrawing(path, parts, Role.SEGMENTATION, header.grid, header.segments)
        )
    elif _is_drawing(file, parts, header, vocabulary):
        survey.drawings.append(FoundDrawing(path, parts, Role.MASK, header.grid))
    else:
        place = Place.of_grid(header.grid) if header.grid else None
        slices = header.grid.shape[2] if header.grid else 0
        survey.images.append(
            FoundImage(path, parts, folder.parts, place, slices, header.grid)
        )


def _is_drawing(
    file: Path, parts: tuple[str, ...], header: VolumeHeader, vocabulary: Vocabulary
) -> bool:
    """Whether a file holds masks: by its name, its folders, at last by its values."""
    words = vocabulary.split_glued(words_of(parts[-1]))
    if vocabulary.has_kind("mask", words):
        return True
    pictured = {
        kind for kind in ("image", "sequence") if vocabulary.has_kind(kind, words)
    }
    if vocabulary.read(words_of(parts[-1])).structures:
        # A scan may be called after what it shows, but it is not stored in bytes.
        return header.kind == np.uint8 or _holds_few_values(file, header)
    if pictured:
        return False
    for part in reversed(parts[:-1]):
        folder = vocabulary.split_glued(words_of(part))
        if vocabulary.has_kind("mask", folder):
            return True
        if vocabulary.has_kind("image", folder):
            return False
    return _holds_few_values(file, header)


def _holds_few_values(file: Path, header: VolumeHeader) -> bool:
    """Whether a file holds background and a few values, as masks do."""
    try:
        _, values, _ = read_values(file)
    except BridgeError:
        return False
    if header.kind.kind in "iu":
        found = distinct_labels(values)
    else:
        step = 1 + values.size // _SAMPLED_VOXELS
        found = np.unique(values.ravel(order="K")[::step])
    return bool(found.size <= _FEW_VALUES and found[0] == 0)
