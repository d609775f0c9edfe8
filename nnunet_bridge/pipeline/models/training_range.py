"""What a model has seen in training, and how far a new image lies from it (N08).

nnU-Net predicts whatever it is given: a fat image where it learnt water, a sagittal
stack where it learnt axial ones. Nothing fails, and the result is nonsense. So every
new image is compared with the spacings, orientations, sizes and contrasts of the
training cases, and what differs is said with its figures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.findings import Finding, Outcome
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.dicom import SeriesReading
from nnunet_bridge.formats.dicom.headers import Contrast
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.formats.manifest import CaseRecord, GeometryRecord, read_manifest
from nnunet_bridge.nnunet.runs import ORIGIN_FILE
from nnunet_bridge.nnunet.schemas import TrainingRange

FINGERPRINT_FILE = "dataset_fingerprint.json"
LESS, MORE = 0.5, 2.0
"""An image may be finer or coarser, smaller or larger, than any case by this factor."""

_OF_PROCESSING = re.compile(
    r"ORIGINAL|DERIVED|PRIMARY|SECONDARY|OTHER|NONE|M|ND|NORM|RETRO|MFSPLIT|"
    r"COMPOSED|COMP_\w+|DIS[23]D|DIXON|FIL\w*|FM\w*|SH\w*|SN\w*|M_(FFE|SE|IR)|"
    r"FFE|SE|IR"
)
"""Words of *Image Type* that say how an image was made, not what it shows."""

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
_PLANES = {"L": "sagittal", "R": "sagittal", "P": "coronal", "A": "coronal"}
_CT = "CT"
_AIR_HU = -500
_AIR_SHARE = 0.01
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def training_range(model_dir: Path, dataset_dir: Path) -> TrainingRange | None:
    """Return what a model has seen, or None if nobody knows.

    Parameters
    ----------
    model_dir : Path
        With nnU-Net's fingerprint of the training cases, or with what a packed model
        said of itself.
    dataset_dir : Path
        The raw dataset; its manifest, if it has one, knows orientations and contrasts.
    """
    origins = sorted(model_dir.glob(f"fold_*/{ORIGIN_FILE}"))
    try:
        if origins:
            known = read_json(origins[0])["training_range"]
            return TrainingRange.model_validate(known) if known else None
        records = _training_records(dataset_dir)
        sizes = _of_fingerprint(model_dir / FINGERPRINT_FILE) or _of_records(records)
        if sizes is None:
            return None
        return TrainingRange.model_validate(sizes | _looks_of(records))
    except _MALFORMED:
        return None


def require_one_channel(channels: Sequence[str]) -> None:
    """Refuse a model that reads several images of a case at once.

    Raises
    ------
    InputError
        N08.
    """
    if len(channels) != 1:
        raise InputError(
            f"The model reads {len(channels)} channels ({', '.join(channels)}), and an "
            "image given to `predict` is one: train on one channel, or use nnU-Net's "
            "own commands.",
            code="N08",
        )


def unlike_place(grid: Grid, seen: TrainingRange | None) -> tuple[Finding, ...]:
    """Return a warning for a spacing, orientation or size unlike the training cases.

    Parameters
    ----------
    grid : Grid
        Of what the network will see.
    seen : TrainingRange or None
        None if nobody knows.
    """
    if seen is None:
        return ()
    said = [
        *_other_spacing(grid, seen),
        *_other_orientation(grid, seen),
        *_other_size(grid, seen),
    ]
    return _warnings(said)


def unlike_contrast(
    volume: Volume,
    series: SeriesReading | None,
    seen: TrainingRange | None,
    channel: str,
) -> tuple[Finding, ...]:
    """Return a warning for a modality or contrast unlike the training cases.

    Parameters
    ----------
    volume : Volume
    series : SeriesReading or None
        What its headers said; None if it was no DICOM, then only its values tell.
    seen : TrainingRange or None
        None if nobody knows; then only the channel's name counts.
    channel : str
        How the model calls its image; nnU-Net takes ``CT`` literally.
    """
    if series is None:
        return () if _learnt_ct(seen, channel) else _warnings(_looks_like_ct(volume))
    said = [*_other_modality(series.contrast, seen, channel)]
    if seen is not None:
        said += _other_image_type(series.contrast, seen)
        said += _other_echo(series.contrast, seen)
    return _warnings(said)


def _warnings(said: Iterable[str]) -> tuple[Finding, ...]:
    return tuple(Finding("N08", Outcome.WARNED, sentence) for sentence in said)


def _other_spacing(grid: Grid, seen: TrainingRange) -> Iterator[str]:
    spacing = grid.spacing_mm
    low = np.array(seen.smallest_spacing_mm)
    high = np.array(seen.largest_spacing_mm)
    if np.any((spacing < LESS * low) | (spacing > MORE * high)):
        yield (
            f"Its voxels are {_by(spacing)} mm, those of the training were "
            f"{_ranges(low, high)} mm: beyond half or twice that, the model has seen "
            "nothing like it."
        )


def _other_orientation(grid: Grid, seen: TrainingRange) -> Iterator[str]:
    letters = grid.axis_letters
    if not seen.orientations or letters in seen.orientations:
        return
    plane, planes = _plane(letters), sorted(set(map(_plane, seen.orientations)))
    trained = ", ".join(seen.orientations)
    if plane not in planes:
        yield (
            f"Its slices are {plane} (axes run {letters}), those of the training "
            f"were {' and '.join(planes)} ({trained})."
        )
    else:
        yield (
            f"Its axes run {letters}, those of the training {trained}: the network "
            "sees it turned or mirrored. Give the DICOM files, or reorient it."
        )


def _other_size(grid: Grid, seen: TrainingRange) -> Iterator[str]:
    size = grid.spacing_mm * grid.shape
    low = np.multiply(seen.smallest_spacing_mm, seen.smallest_shape)
    high = np.multiply(seen.largest_spacing_mm, seen.largest_shape)
    if np.any((size < LESS * low) | (size > MORE * high)):
        longer = bool(size[2] > MORE * high[2])
        way_out = " `--region auto` or `--slices` cuts it." if longer else ""
        yield (
            f"It covers {_by(size.round())} mm, the training covered "
            f"{_ranges(low.round(), high.round())} mm: another part of the body?"
            f"{way_out}"
        )


def _other_modality(
    contrast: Contrast, seen: TrainingRange | None, channel: str
) -> Iterator[str]:
    learnt = (seen.modalities if seen is not None else None) or []
    if not learnt and channel.upper() == _CT:
        learnt = [_CT]
    if learnt and contrast.modality not in learnt:
        yield (
            f"It is {contrast.modality or 'of no stated modality'}, the model learnt "
            f"{' and '.join(learnt)}."
        )


def _other_image_type(contrast: Contrast, seen: TrainingRange) -> Iterator[str]:
    words, trained = contrast_words(contrast.image_type), seen.image_types
    if trained and words not in [sorted(kind) for kind in trained]:
        yield (
            f"Its Image Type says {_kind(words)}, that of the training "
            f"{' or '.join(map(_kind, trained))}: another contrast? Name the one you "
            "trained on with --image-type."
        )


def _other_echo(contrast: Contrast, seen: TrainingRange) -> Iterator[str]:
    echo_ms, echoes = contrast.echo_time_ms, seen.echo_times_ms
    if echo_ms and echoes and not LESS * echoes[0] <= echo_ms <= MORE * echoes[1]:
        yield (
            f"Its echo time is {echo_ms:g} ms, that of the training {echoes[0]:g} to "
            f"{echoes[1]:g} ms: another contrast?"
        )


def _looks_like_ct(volume: Volume) -> Iterator[str]:
    share = float(np.mean(volume.voxels < _AIR_HU))
    if share >= _AIR_SHARE:
        yield (
            f"{share:.0%} of its voxels lie below {_AIR_HU}, as air in CT does; the "
            "model learnt no CT."
        )


def _learnt_ct(seen: TrainingRange | None, channel: str) -> bool:
    modalities = (seen.modalities if seen is not None else None) or []
    return _CT in (*modalities, channel.upper())


def contrast_words(image_type: Iterable[str]) -> list[str]:
    """Return the words of an *Image Type* that tell of contrast, sorted.

    Examples
    --------
    >>> contrast_words(["DERIVED", "PRIMARY", "M", "NORM", "WATER", "DIS2D"])
    ['WATER']
    """
    words = {word.strip().upper().replace(" ", "_") for word in image_type}
    return sorted(
        word
        for word in words
        if _WORD.fullmatch(word) and not _OF_PROCESSING.fullmatch(word)
    )


def _training_records(dataset_dir: Path) -> list[CaseRecord]:
    try:
        records = read_manifest(dataset_dir).cases
    except InputError:
        return []
    return [r for r in records if r.outputs and r.split == "train"]


def _of_fingerprint(file: Path) -> dict[str, Any] | None:
    """Return the spacings and shapes that nnU-Net wrote down, as i, j and k."""
    if not file.is_file():
        return None
    content = read_json(file)
    return _sizes(
        [row[::-1] for row in content["spacings"]],
        [row[::-1] for row in content["shapes_after_crop"]],
    )


def _of_records(records: Sequence[CaseRecord]) -> dict[str, Any] | None:
    places = [record.geometry for record in records if record.geometry]
    if not places:
        return None
    return _sizes([p.spacing_mm for p in places], [p.shape for p in places])


def _sizes(
    spacings_mm: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]
) -> dict[str, Any]:
    by_axis = list(zip(*spacings_mm, strict=True)), list(zip(*shapes, strict=True))
    return {
        "cases": len(spacings_mm),
        "smallest_spacing_mm": [min(axis) for axis in by_axis[0]],
        "largest_spacing_mm": [max(axis) for axis in by_axis[0]],
        "smallest_shape": [min(axis) for axis in by_axis[1]],
        "largest_shape": [max(axis) for axis in by_axis[1]],
    }


def _looks_of(records: Sequence[CaseRecord]) -> dict[str, Any]:
    """Return orientations and contrasts, as far as the manifest tells them."""
    if not records:
        return {}
    contrasts = [record.contrast for record in records if record.contrast]
    modalities = {c.modality for c in contrasts if c.modality}
    kinds = {tuple(contrast_words(c.image_type)) for c in contrasts}
    echoes = [c.echo_time_ms for c in contrasts if c.echo_time_ms]
    return {
        "orientations": sorted(
            {_letters_of(record.geometry) for record in records if record.geometry}
        ),
        "modalities": sorted(filter(_WORD.fullmatch, modalities)) or None,
        "image_types": [list(kind) for kind in sorted(kinds)],
        "echo_times_ms": [min(echoes), max(echoes)] if echoes else None,
    }


def _letters_of(geometry: GeometryRecord) -> str:
    directions = np.array(geometry.direction).reshape(3, 3).T
    affine = np.eye(4)
    affine[:3, :3] = directions
    return Grid((1, 1, 1), affine).axis_letters


def _plane(letters: str) -> str:
    return _PLANES.get(letters[2], "axial")


def _kind(words: Sequence[str]) -> str:
    return "\\".join(words) or "no word of contrast"


def _by(numbers: Iterable[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _ranges(low: Iterable[float], high: Iterable[float]) -> str:
    return " x ".join(
        f"{a:.4g}" if a == b else f"{a:.4g} to {b:.4g}"
        for a, b in zip(low, high, strict=True)
    )
