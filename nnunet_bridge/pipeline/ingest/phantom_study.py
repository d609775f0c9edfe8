"""Write a study of synthetic patients in the form of a scanner and of 3D Slicer.

The folder follows the convention of the source report: one folder of DICOM files per
patient, and one mask file per bone and side. One patient's masks are cropped, and those
of another one are segments of a single file, as 3D Slicer can save them. Two calls with
the same parameters give the same bytes, and the second one writes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, default_colour
from nnunet_bridge.core.progress import Progress, steps
from nnunet_bridge.core.summary import json_of
from nnunet_bridge.formats.dicom.write import write_series
from nnunet_bridge.formats.files import write_text
from nnunet_bridge.formats.kept import Kept
from nnunet_bridge.formats.nifti import write_labelmap
from nnunet_bridge.formats.slicer import SEGMENTATION_ENDING
from nnunet_bridge.formats.slicer_write import write_segmentation
from nnunet_bridge.ops.phantom import (
    GENERATION,
    STRUCTURES,
    Phantom,
    lower_limb,
    places,
)

SCANS = "Raw DICOM MRI Scans"
MASKS = "Raw NIFTI Segmentation Masks (3D Slicer Output)"
TEST_MASKS = "test_masks"
RECIPE = "dataset.toml"
PARAMETERS = "phantom.json"

SCAN_NAME = "AutoBindWATER_650"
WATER_IMAGE = ("ORIGINAL", "PRIMARY", "M", "WATER")
"""*Image Type* of a Dixon water image; the recipe selects the series by it."""

CROPPED_PATIENT = 2
"""The patient whose masks are cropped to their bone, as 3D Slicer can export them."""

SEGMENTED_PATIENT = 3
"""The patient whose masks, if for training, are segments of one file."""

LAYOUT = 2
"""Version of the files; raised when the same patients are written in another form."""

CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # without I and O, which look like 1 and 0
SEEDS_PER_STUDY = 1000
"""Distance of the seeds of two studies, so that they share no patient."""


@dataclass(frozen=True, slots=True)
class PhantomStudy:
    """A folder of synthetic patients, ready for ``convert``."""

    folder: Path
    recipe_file: Path  # the `dataset.toml` that fits the folder
    train_ids: tuple[str, ...]  # cases with masks for training
    test_ids: tuple[str, ...]
    """Cases whose masks are kept apart, for scoring predictions."""


@dataclass(frozen=True, slots=True)
class PhantomParameters:
    """The parameters that determine every byte of a study."""

    patients: int = 10  # number of patients with masks for training
    unseen: int = 2  # number of further patients, whose masks go to ``test_masks``
    seed: int = 0
    shape: tuple[int, int, int] = (96, 48, 64)
    """Voxels, as for `ops.phantom.lower_limb`."""

    spacing_mm: tuple[float, float, float] = (4.0, 4.0, 12.0)
    generation: int = GENERATION
    layout: int = LAYOUT


@dataclass(frozen=True, slots=True)
class _Patient:
    """The files of one patient."""

    index: int
    code: str  # de-identified code, such as ``9K``
    scan_dir: Path
    masks_dir: Path
    slices: int
    segmented: bool  # whether one segmentation holds all masks

    @property
    def case_id(self) -> str:
        """The id that the recipe gives this patient."""
        return f"msk_{self.index:03d}"

    def mask_file(self, structure: str, side: str) -> Path:
        """Return the file of one mask."""
        letter = side[0].upper()
        return self.masks_dir / f"{self.index}_{letter}_{structure}_{self.code}.nii.gz"

    @property
    def segmentation_file(self) -> Path:
        """The file of all masks as segments."""
        return self.masks_dir / f"{self.index}_{self.code}{SEGMENTATION_ENDING}"

    def mask_files(self) -> list[Path]:
        """Return every file that holds masks of this patient."""
        if self.segmented:
            return [self.segmentation_file]
        return [self.mask_file(*place) for place in places()]

    def is_written(self) -> bool:
        """Whether every file of this patient exists (each is whole or absent)."""
        scanned = len(list(self.scan_dir.glob("*.dcm"))) == self.slices
        return scanned and all(file.is_file() for file in self.mask_files())


def write_phantom_study(
    folder: Path,
    parameters: PhantomParameters | None = None,
    *,
    progress: Progress | None = None,
) -> PhantomStudy:
    """Write a study of synthetic patients and the recipe that reads it.

    An interrupted call is continued; a complete study with the same parameters is not
    written again. The folder is created if necessary.

    Raises `InputError` if the folder holds another study.
    """
    chosen = parameters or PhantomParameters()
    _claim(folder, chosen)
    everyone = [(one.case_id, one) for one in _everyone(folder, chosen)]
    for _, patient in steps(progress, "synthetic patients", everyone):
        if not patient.is_written():
            seed = chosen.seed * SEEDS_PER_STUDY + patient.index
            limb = lower_limb(seed, shape=chosen.shape, spacing_mm=chosen.spacing_mm)
            _write_patient(patient, limb)
    case_ids = tuple(case_id for case_id, _ in everyone)
    train_ids, test_ids = case_ids[: chosen.patients], case_ids[chosen.patients :]
    return PhantomStudy(folder, folder / RECIPE, train_ids, test_ids)


def _claim(folder: Path, parameters: PhantomParameters) -> None:
    """Mark the folder as this study's, or refuse the folder of another study."""
    stamp = Kept(folder / PARAMETERS, json_of(parameters))
    if stamp.load() is None:
        if stamp.file.is_file():
            raise InputError(
                f"{folder} holds synthetic patients of other parameters "
                f"({PARAMETERS}): choose another folder, or remove it."
            )
        if (folder / SCANS).exists():
            raise InputError(
                f"{folder} holds a study that is not synthetic: choose another folder."
            )
        stamp.save({})
    if not (folder / RECIPE).is_file():
        write_text(folder / RECIPE, RECIPE_TEXT)


def _everyone(folder: Path, parameters: PhantomParameters) -> Iterator[_Patient]:
    """Yield the patients for training, then the unseen ones."""
    for index in range(1, parameters.patients + parameters.unseen + 1):
        known = index <= parameters.patients
        code = f"{index}{CODE_LETTERS[index % len(CODE_LETTERS)]}"
        yield _Patient(
            index,
            code,
            scan_dir=folder / SCANS / f"{index}_{SCAN_NAME}_{code}",
            masks_dir=folder / (MASKS if known else TEST_MASKS),
            slices=parameters.shape[2],
            segmented=known and index == SEGMENTED_PATIENT,
        )


def _write_patient(patient: _Patient, limb: Phantom) -> None:
    write_series(
        patient.scan_dir,
        limb.volume,
        patient_id=patient.code,
        description=f"{SCAN_NAME}_synthetic",
        image_type=WATER_IMAGE,
        series_number=1,
    )
    for (structure, side), mask in () if patient.segmented else limb.masks.items():
        labels = LabelTable.from_names([structure])
        segment = Labelmap(limb.volume.grid, mask.astype(np.uint8), labels)
        if patient.index == CROPPED_PATIENT:
            segment = _cropped(segment)
        write_labelmap(patient.mask_file(structure, side), segment)
    if patient.segmented:
        colours = [default_colour(1 + STRUCTURES.index(name)) for name, _ in limb.masks]
        names = [f"{side} {structure}" for structure, side in limb.masks]
        segments = list(zip(names, colours, limb.masks.values(), strict=True))
        write_segmentation(patient.segmentation_file, limb.volume.grid, segments)


def _cropped(segment: Labelmap) -> Labelmap:
    """Return the smallest labelmap that holds the whole segment, in the same place."""
    where = np.argwhere(segment.voxels > 0)
    lows, highs = where.min(axis=0).tolist(), (where.max(axis=0) + 1).tolist()
    box = tuple(slice(low, high) for low, high in zip(lows, highs, strict=True))
    affine = segment.grid.affine.copy()
    affine[:3, 3] = segment.grid.to_patient(lows)
    voxels = segment.voxels[box]
    size_i, size_j, size_k = voxels.shape
    return Labelmap(Grid((size_i, size_j, size_k), affine), voxels, segment.labels)


RECIPE_TEXT = rf"""# Synthetic lower limbs by nnunet_bridge: there is no patient.

[dataset]
id = 1
name = "LowerLimb"
channel = "MRI"
case = "msk_{{index:03d}}"

[scans]
folder = "{SCANS}"
pattern = '(?P<index>\d+)_.*_(?P<code>[^_]+)'
image_type = "WATER"

[masks]
folder = "{MASKS}"
pattern = '(?P<index>\d+)_(?:(?P<side>[LRM])_)?(?P<structure>[^_]+)_(?P<code>[^_.]+)'
segmentation = '(?P<index>\d+)_(?P<code>[^_.]+)\.seg\.nrrd'
test = "{TEST_MASKS}"

[labels]
tibia = 1
femur = 2
fibula = 3
pelvis = 4

[merge]
sides = "merge"
overlap = "background"
missing = "refuse"
"""
