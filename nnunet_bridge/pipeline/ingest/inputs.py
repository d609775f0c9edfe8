"""Find and read images: DICOM, studies, zips, NIfTI, NRRD and MetaImage files."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_bridge.core.dataset import case_id_of
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.findings import Finding, Outcome, Refused, worst
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.dicom.folder import is_in_annex
from nnunet_bridge.formats.dicom.scan_folders import scan_folders
from nnunet_bridge.formats.dicom.zipped import is_zip, unpack_scans
from nnunet_bridge.formats.files import is_regular
from nnunet_bridge.formats.slicer import is_mask_file, is_segmentation
from nnunet_bridge.formats.voxel_files import with_voxel_file
from nnunet_bridge.ops.checks import image_findings, require_possible_length

if TYPE_CHECKING:
    from nnunet_bridge.formats.dicom import (
        FileAccount,
        SeriesOptions,
        SeriesReading,
        SourceSlice,
    )

SCANS_FOLDER = "Raw DICOM MRI Scans"
"""Folder of a study with one folder of DICOM files per patient."""

NIFTI_ENDINGS = (".nii.gz", ".nii")
_CHANNEL = re.compile(r"_(\d{4})(\.nii\.gz|\.[a-z]+)$")


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image that can be read, and the id of its case."""

    case_id: str
    path: Path  # a file, or a folder with the DICOM files of one scan
    series: str = ""  # number, description or UID, where a case table names one
    others: frozenset[Path] = frozenset()
    """Files and folders below a DICOM folder that belong to other images."""

    packed: Path | None = None  # the zip that the image was unpacked from
    more: tuple[ImageSource, ...] = ()
    """Further channels, where they are not series of the same folder."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageReading:
    """An image, and the findings of its reader.

    Of several channels this is the first; `more` are the others, on its grid.
    """

    volume: Volume
    findings: tuple[Finding, ...]
    series: SeriesReading | None = None  # the DICOM series; None for other images
    name: str = ""  # of the file, where it is one
    channel: str = ""  # its name, of an image with several channels
    prefix: str = ""  # of its file names in the account of all
    more: tuple[ImageReading, ...] = ()
    placed: str = ""  # how a further channel was put on the grid of the first
    share_outside: float = 0.0  # of the voxels of that grid, in a further channel

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """The volume of every channel, all on one grid."""
        return (self.volume, *(channel.volume for channel in self.more))

    @property
    def files(self) -> FileAccount:
        """The use of every file."""
        if self.more:
            return joined_accounts(
                (c.prefix, c.files) for c in (replace(self, more=()), *self.more)
            )
        from nnunet_bridge.formats.dicom import FileAccount

        whole = FileAccount(used=(self.name,))
        return whole if self.name or self.series is None else self.series.files

    @property
    def slices(self) -> tuple[SourceSlice, ...]:
        """The files of a DICOM series by slice; empty for others, or if resampled."""
        return () if self.series is None else self.series.slices

    def sha256(self) -> str:
        """Return a hash of the voxels of all channels, and of the affine."""
        digest = hashlib.sha256(self.volume.grid.affine.tobytes())
        for volume in self.volumes:
            in_file_order: Any = np.asfortranarray(volume.voxels).ravel(order="K")
            digest.update(memoryview(in_file_order).cast("B"))
        return digest.hexdigest()


def channel_prefixes(paths: Sequence[Path]) -> list[str]:
    """Return what tells apart equal names of files of several channels.

    The files of the first, and of all in its folder, keep their names.
    """
    first = [paths.index(path) for path in paths]
    return [f"channel{place}/" if place else "" for place in first]


def joined_accounts(accounts: Iterable[tuple[str, FileAccount]]) -> FileAccount:
    """Return the use of every file by several channels; used by one is used."""
    from nnunet_bridge.formats.dicom import FileAccount

    uses: dict[str, tuple[int, str]] = {}
    for prefix, one in accounts:
        kinds = (((name, "") for name in one.used), one.failed, one.excluded)
        for kind, named in enumerate(kinds):
            for name, why in named:
                known = uses.get(prefix + name, (kind, why))
                uses[prefix + name] = min(known, (kind, why))
    used, failed, excluded = (
        tuple((name, why) for name, (own, why) in sorted(uses.items()) if own == kind)
        for kind in range(3)
    )
    return FileAccount(tuple(name for name, _ in used), excluded, failed)


def find_images(
    paths: Sequence[Path], *, unpack_dir: Path | None = None, channels: int = 1
) -> tuple[ImageSource, ...]:
    """Return the images at the paths of a command.

    Parameters
    ----------
    paths : sequence of Path
        Each an image file, a folder of image files, a folder of DICOM files, a folder
        of such folders (a study, an exported medium), or a zip of one of these.
    unpack_dir : Path, optional
        Folder for the content of zips; the caller removes it.
    channels : int
        Of several, the files ``NAME_0000``, ``NAME_0001``, ... are one image.

    Raises
    ------
    InputError
        If a path holds no image, two images would get the same name (F02), or two files
        are channels of one image, of which only one is read (N08).
    SecurityError
        If a zip could do harm (S04, S06, S08).
    """
    sources = [
        source
        for number, path in enumerate(paths)
        for source in _images_in(path, unpack_dir and unpack_dir / str(number))
    ]
    return without_twins(_with_channels(sources, channels))


def _with_channels(
    sources: Sequence[ImageSource], channels: int
) -> tuple[ImageSource, ...]:
    """Return the images, each with its further channels by nnU-Net's convention."""
    if channels == 1:
        return tuple(sources)
    joined: dict[Path, ImageSource] = {}
    for source in sources:
        if _channel_of(source.path) is None:
            joined[source.path] = source
            continue
        files = [_sibling(source.path, number) for number in range(channels)]
        parts = [replace(source, path=file) for file in files]
        joined[files[0]] = replace(parts[0], more=tuple(parts[1:]))
    return tuple(joined.values())


def _sibling(file: Path, channel: int) -> Path:
    """Return the file of another channel of the same image."""
    return file.with_name(_CHANNEL.sub(rf"_{channel:04d}\2", file.name))


def without_twins(sources: Sequence[ImageSource]) -> tuple[ImageSource, ...]:
    """Return the images; refuse two of one name (F02), or two channels of one (N08)."""
    by_id: dict[str, ImageSource] = {}
    for source in sources:
        twin = by_id.setdefault(source.case_id.casefold(), source)
        if twin is not source:
            _refuse_twins(twin, source)
    return tuple(sources)


def is_image_file(path: Path) -> bool:
    """Whether a path is named like an image that is no DICOM file."""
    return is_mask_file(path.name) and not is_segmentation(path.name)


def files_of(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and path of the files of an image, sorted; of links, git-annex's."""
    if path.is_file():
        yield from ((file.name, file) for file in with_voxel_file(path))
    below = (Path(p, name) for p, _, names in os.walk(path) for name in names)
    for file in sorted(below):
        if is_regular(file) and (not file.is_symlink() or is_in_annex(file)):
            yield file.relative_to(path).as_posix(), file


def read_image(
    path: Path,
    options: SeriesOptions | None = None,
    *,
    leave_out: Collection[Path] = (),
) -> ImageReading:
    """Read the image at a path, with every check.

    Parameters
    ----------
    path : Path
        A NIfTI, NRRD or MetaImage file; any other file, or a folder, is read as DICOM.
    options : SeriesOptions, optional
        The series of a DICOM folder.
    leave_out : collection of Path
        Files and folders below a DICOM folder that are not looked at.

    Raises `Refused` if the image cannot be used.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if path.is_dir() or not is_image_file(path):
        from nnunet_bridge.formats.dicom import read_series

        series = read_series(path, options, leave_out=leave_out)
        require_possible_length(series.volume.grid)
        return ImageReading(series.volume, series.findings, series)
    from nnunet_bridge.formats.slicer import read_values

    grid, voxels, findings = read_values(path)
    require_possible_length(grid)
    volume = Volume(grid, voxels)
    findings += image_findings(volume)
    if worst(findings) is Outcome.REFUSED:
        raise Refused(findings)
    return ImageReading(volume, tuple(findings), name=path.name)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Provide a path as it is, or the content of a zip while the block runs.

    Raises `SecurityError` if a zip could do harm (S04, S06, S08).
    """
    if not is_zip(path) or not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / path.stem
        unpack_scans(path, target)
        yield target


def read_one_image(path: Path, options: SeriesOptions | None = None) -> ImageReading:
    """Read the only image at a path; a zip is unpacked temporarily.

    Raises
    ------
    InputError
        If a zip holds several images.
    Refused
        If the image cannot be used.
    SecurityError
        If a zip could do harm (S04, S06, S08).
    """
    with unpacked(path) as place:
        if place == path:
            return read_image(path, options)
        sources = _images_in(place, None)
        if len(sources) > 1:
            names = ", ".join(source.case_id for source in sources)
            raise InputError(
                f"{path} holds {len(sources)} images ({names}): unpack it and name one."
            )
        reading = read_image(sources[0].path, options)
        return replace(reading, name=path.name)


@contextmanager
def images_at(paths: Sequence[Path]) -> Iterator[list[ImageSource]]:
    """Provide the images at some paths while the block runs, with those in zips.

    Two may have one case: they are channels, or `find_images` refuses them.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield [
            source
            for number, path in enumerate(paths)
            for source in _images_in(path, Path(folder, str(number)))
        ]


def read_case_image(
    paths: Sequence[Path], case_id: str, options: SeriesOptions | None = None
) -> ImageReading:
    """Read the image of one case among the inputs of a command.

    Without a case, the only image at the only path. Of several channels it is the
    first. The only image may have any id: `predict` gives it the one that it has in a
    dataset. Raises as `read_one_image`, and `InputError` if there is no such case.
    """
    if not case_id and len(paths) == 1:
        return read_one_image(paths[0], options)
    with images_at(paths) as sources:
        is_only = len({source.case_id for source in sources}) == 1
        for source in sources:
            if source.case_id == case_id or is_only:
                return read_image(source.path, options, leave_out=source.others)
    raise InputError(f"There is no image of {case_id} in {', '.join(map(str, paths))}.")


def _refuse_twins(one: ImageSource, other: ImageSource) -> None:
    """Refuse two images with one case id (F02), or two channels of one image (N08)."""
    channels = {_channel_of(one.path), _channel_of(other.path)}
    if one.path.parent == other.path.parent and len(channels - {None}) > 1:
        raise InputError(
            f"{one.path.name} and {other.path.name} are two channels of one image, by "
            "nnU-Net's convention. The model has one channel: name only its files.",
            code="N08",
        )
    raise InputError(
        f"{one.path} and {other.path} would both be case {one.case_id}: predict "
        "them into separate folders.",
        code="F02",
    )


def _channel_of(path: Path) -> str | None:
    match = _CHANNEL.search(path.name)
    return match[1] if match and is_image_file(path) else None


def _images_in(path: Path, unpack_dir: Path | None) -> list[ImageSource]:
    if path.is_file():
        return _images_of_file(path, unpack_dir)
    if not path.is_dir():
        raise InputError(f"{path} does not exist.")
    visible = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    if not visible:
        raise InputError(f"{path} is empty: name a folder with DICOM or NIfTI files.")
    images = [p for p in visible if p.is_file() and is_image_file(p)]
    nifti = [p for p in images if p.name.lower().endswith(NIFTI_ENDINGS)]
    if nifti or {f for p in images for f in with_voxel_file(p)} >= set(visible):
        return [ImageSource(case_id_of(file), file) for file in nifti or images]
    zips = [p for p in visible if is_zip(p) and p.is_file()]
    if zips and unpack_dir is not None and len(zips) == len(visible):
        return [
            source
            for file in zips
            for source in _images_of_file(file, unpack_dir / file.name)
        ]
    scans = path / SCANS_FOLDER
    if scans.is_dir():
        folders = sorted(p for p in scans.iterdir() if not p.name.startswith("."))
        return [ImageSource(case_id_of(p), p) for p in folders if p.is_dir()]
    return [ImageSource(case_id_of(place), place) for place in scan_folders(path)]


def _images_of_file(file: Path, unpack_dir: Path | None) -> list[ImageSource]:
    """Return the image of a file, or the images in a zip."""
    if is_zip(file) and unpack_dir is not None:
        target = unpack_dir / file.stem
        unpack_scans(file, target)
        found = _images_in(target, None)
        if len(found) > 1:
            return found
        case_id = case_id_of(file.with_suffix(""))
        return [replace(found[0], case_id=case_id, packed=file)]
    if not is_image_file(file):
        raise InputError(
            f"{file} is neither NIfTI, NRRD, MetaImage, MGH nor a zip. For DICOM, name "
            "the folder."
        )
    return [ImageSource(case_id_of(file), file)]
