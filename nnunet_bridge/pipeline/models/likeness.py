"""Compare an image with the training cases of a model (FAULTS N08).

nnU-Net predicts whatever it is given: a fat image where it was trained on water, a
sagittal stack where it was trained on axial ones. Nothing fails, and the result is
nonsense. So every new image is compared with the spacings, orientations, sizes and
contrasts of the training cases, and a warning names each difference with its figures.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from nnunet_bridge.core.findings import Finding, Outcome
from nnunet_bridge.core.grid import Grid, plane_of
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.dicom import SeriesReading
from nnunet_bridge.formats.dicom.headers import Contrast
from nnunet_bridge.nnunet.schemas import TrainingRange
from nnunet_bridge.ops.turn import turn_towards

LESS, MORE = 0.5, 2.0
"""An image may be finer or coarser, smaller or larger, than any case by this factor."""

_OF_PROCESSING = re.compile(
    r"ORIGINAL|DERIVED|PRIMARY|SECONDARY|OTHER|NONE|M|ND|NORM|RETRO|MFSPLIT|"
    r"COMPOSED|COMP_\w+|DIS[23]D|DIXON|FIL\w*|FM\w*|SH\w*|SN\w*|M_(FFE|SE|IR)|"
    r"FFE|SE|IR"
)
"""Words of *Image Type* that name how an image was made, not its contrast."""

_KNOWN_WORD = re.compile(
    r"WATER|FAT|W|F|(IN|OUT|OPP|OP|IP)(_?PHASE)?|PHASE(_?MAP)?|P|MAGNITUDE|REAL|R|"
    r"IMAGINARY|I|T[12]|T[12]_?(MAP|STAR|STAR_MAP)|R[12](_?MAP|_STAR|_STAR_MAP)?|PD|"
    r"PROTON_DENSITY|B[01](_MAP)?|FIELD_?MAP|DIFFUSION|DWI|ADC|FA|EADC|TRACEW?|TENSOR|"
    r"PERFUSION|ASL|CBF|CBV|MTT|TTP|ANGIO|TOF|MIP|MNIP|MPR|PROJECTION_IMAGE|SWI|VIBE|"
    r"SUB|SUBTRACTION|STIR|FLAIR|MEAN|LOCALIZER|AXIAL|VOLUME|RESAMPLED|DYNAMIC|FLOW|"
    r"VELOCITY|CARDIAC|CINE|FMRI|FLUID_ATTENUATED|MIXED|UNKNOWN|METABOLITE|STRUCTURAL"
)
"""Words of the standard (PS3.3 C.8.13.3.1) and of vendors; others may name anything."""

WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
_CT = "CT"
_AIR_HU = -500
_AIR_SHARE = 0.01


def geometry_warnings(grid: Grid, seen: TrainingRange | None) -> tuple[Finding, ...]:
    """Report a spacing, orientation or size outside the training cases.

    `grid` is that of the image, before `turn_towards` the training cases; without
    `seen`, it is not compared.
    """
    if seen is None:
        return ()
    turn = turn_towards(grid, seen.orientations)
    turned = turn.grid(grid) if turn else grid
    spacing, size = list(_other_spacing(turned, seen)), _other_size(turned, seen)
    if turn is None:
        return _warnings([*spacing, *size])
    trained, letters = ", ".join(seen.orientations or ()), grid.axis_letters
    plane, planes = (
        plane_of(letters),
        sorted(set(map(plane_of, seen.orientations or ()))),
    )
    if spacing and plane not in planes:
        sentence = (
            f"Its slices are {plane} (axes run {letters}); those of the training cases "
            f"are {' and '.join(planes)} ({trained}). It was turned for the network, "
            "but predictions of another plane are unreliable."
        )
        return _warnings([sentence, *size])
    sentence = (
        f"Its axes run {letters}, those of the training cases {trained}: the network "
        "saw it turned to their order, and the labels lie on its own grid."
    )
    done = Finding("N08", Outcome.FIXED, sentence)
    return (done, *_warnings([*spacing, *size]))


def contrast_warnings(
    volume: Volume,
    series: SeriesReading | None,
    seen: TrainingRange | None,
    channel: str,
) -> tuple[Finding, ...]:
    """Warn of a modality or contrast that the training cases do not have.

    Without `series`, the headers of DICOM, only the values count; without `seen`, only
    `channel`, the model's name of its image: nnU-Net takes ``CT`` literally.
    """
    modalities = (seen and seen.modalities) or []
    if series is None:
        known = _CT in (*modalities, channel.upper())
        return () if known else _warnings(_looks_like_ct(volume))
    if not modalities and channel.upper() == _CT:
        modalities = [_CT]
    sentences, modality = [], series.contrast.modality
    if modalities and modality not in modalities:
        trained = f"the model was trained on {' and '.join(modalities)}"
        sentences += [f"Its modality is {modality or 'not stated'}; {trained}."]
    if seen is not None:
        sentences += _other_image_type(series.contrast, seen)
        sentences += _other_echo(series.contrast, seen)
    return _warnings(sentences)


def _warnings(sentences: Iterable[str]) -> tuple[Finding, ...]:
    return tuple(Finding("N08", Outcome.WARNED, sentence) for sentence in sentences)


def _other_spacing(grid: Grid, seen: TrainingRange) -> Iterator[str]:
    spacing = grid.spacing_mm
    low = np.array(seen.smallest_spacing_mm)
    high = np.array(seen.largest_spacing_mm)
    if np.any((spacing < LESS * low) | (spacing > MORE * high)):
        yield (
            f"Its voxels are {_by(spacing)} mm; those of the training cases are "
            f"{_ranges(low, high)} mm. Predictions are unreliable beyond half or twice "
            "that."
        )


def _other_size(grid: Grid, seen: TrainingRange) -> Iterator[str]:
    size = grid.spacing_mm * grid.shape
    low = np.multiply(seen.smallest_spacing_mm, seen.smallest_shape)
    high = np.multiply(seen.largest_spacing_mm, seen.largest_shape)
    if np.any((size < LESS * low) | (size > MORE * high)):
        longer = bool(size[2] > MORE * high[2])
        way_out = " Cut it with `--region auto` or `--slices`." if longer else ""
        yield (
            f"It covers {_by(size.round())} mm; the training cases cover "
            f"{_ranges(low.round(), high.round())} mm. Is it another part of the body?"
            f"{way_out}"
        )


def _other_image_type(contrast: Contrast, seen: TrainingRange) -> Iterator[str]:
    words, trained = contrast_words(contrast.image_type), seen.image_types
    # A packed model holds known words only.
    same = words in [sorted(kind) for kind in trained or ()]
    packed = [sorted(kind) for kind in trained or () if kind == known_words(kind)]
    if trained and not same and known_words(words) not in packed:
        yield (
            f"Its Image Type is {_kind(words)}, that of the training cases "
            f"{' or '.join(map(_kind, trained))}. Is it another contrast? Select the "
            "one you trained on with --image-type."
        )


def _other_echo(contrast: Contrast, seen: TrainingRange) -> Iterator[str]:
    echo_ms, echoes = contrast.echo_time_ms, seen.echo_times_ms
    if echo_ms and echoes and not LESS * echoes[0] <= echo_ms <= MORE * echoes[1]:
        yield (
            f"Its echo time is {echo_ms:g} ms, that of the training cases "
            f"{echoes[0]:g} to {echoes[1]:g} ms. Is it another contrast?"
        )


def _looks_like_ct(volume: Volume) -> Iterator[str]:
    share = float(np.mean(volume.voxels < _AIR_HU))
    if share >= _AIR_SHARE:
        yield (
            f"{share:.0%} of its voxels lie below {_AIR_HU}, like air in CT; the model "
            "was not trained on CT."
        )


def contrast_words(image_type: Iterable[str]) -> list[str]:
    """Return the words of an *Image Type* that name the contrast, sorted.

    Examples
    --------
    >>> contrast_words(["DERIVED", "PRIMARY", "M", "NORM", "WATER", "DIS2D"])
    ['WATER']
    """
    words = {word.strip().upper().replace(" ", "_") for word in image_type}
    named = filter(WORD.fullmatch, words)
    return sorted(word for word in named if not _OF_PROCESSING.fullmatch(word))


def known_words(words: Iterable[str]) -> list[str]:
    """Return the words of contrast that may leave the house with a model."""
    return list(filter(_KNOWN_WORD.fullmatch, words))


def _kind(words: Sequence[str]) -> str:
    return "\\".join(words) or "without a word of contrast"


def _by(numbers: Iterable[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _ranges(low: Iterable[float], high: Iterable[float]) -> str:
    return " x ".join(
        f"{a:.4g}" if a == b else f"{a:.4g} to {b:.4g}"
        for a, b in zip(low, high, strict=True)
    )
