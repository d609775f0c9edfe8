"""Real series: each is converted as its reference says, or refused for its fault."""

import sys
from dataclasses import dataclass, field

import nibabel
import numpy as np
import pytest

from nnunet_bridge.core.findings import Outcome, worst
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.formats.dicom import (
    FileAccount,
    SeriesOptions,
    SeriesRefused,
    read_series,
)
from nnunet_bridge.formats.slicer import read_mask, read_segments
from nnunet_bridge.ops.regrid import placed_on

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def in_order_of(volume, reference):
    """Return reference voxels and grid, axes swapped and flipped to the volume's."""
    to_volume = np.linalg.inv(volume.grid.affine) @ LPS @ reference.affine
    turn = np.rint(to_volume[:3, :3] / np.abs(to_volume[:3, :3]).max(axis=0))
    order = [int(np.abs(row).argmax()) for row in turn]
    voxels = np.asarray(reference.dataobj)
    voxels = voxels.reshape(voxels.shape[:3]).transpose(order)
    affine = (LPS @ reference.affine)[:, [*order, 3]]
    for axis, source in enumerate(order):
        if turn[axis, source] < 0:
            voxels = np.flip(voxels, axis)
            affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
            affine[:3, axis] *= -1
    return voxels, Grid(voxels.shape, affine)


@dataclass(frozen=True)
class Series:
    """A real series, what becomes of it, and what it is compared with."""

    folder: str
    outcome: str
    codes: tuple = ()
    options: SeriesOptions = field(default_factory=SeriesOptions)
    reference: str = ""
    """An image made by others; its intensities and positions must be ours."""

    drawn_on: str = ""
    """A mask drawn on this series; its positions must be ours."""


TRUTH = "001_ground_truth.nii.gz"
ECHOES = [SeriesOptions(echo=1), SeriesOptions(echo=2)]
ALL = [
    Series("dicom/headerless_HCropVolume", "warned", ("D03",)),
    Series("dicom/ico_fail_missing_slice", "refused", ("D03", "G03")),
    Series("dicom/ico_fail_orientation", "refused", ("D15",)),
    Series("dicom/ico_ge_sag", "accepted", reference=TRUTH),
    Series("dicom/ico_generic_sag", "accepted", reference=TRUTH),
    Series("dicom/ico_generic_sag_j2k", "accepted", reference=TRUTH),
    Series("dicom/ico_generic_sag_rle", "accepted", reference=TRUTH),
    Series("dicom/ico_philips_enhanced", "accepted", reference=TRUTH),
    Series(
        "dicom/siemens_axial_obl_T1post",
        "accepted",
        reference="ref_dcm2niix_local/dcm_11_e1.nii.gz",
    ),
    Series("dicom/siemens_gre_2echo", "refused", ("D05",)),
    *(
        Series(
            "dicom/siemens_gre_2echo",
            "accepted",
            options=options,
            reference=f"Ref/me_FieldMap_GRE_2_e{options.echo}.nii",
        )
        for options in ECHOES
    ),
    Series("dicom/siemens_mosaic_ts", "refused", ("D12",)),
    Series(
        "dicom_seg/dcmqi_ct3",
        "warned",
        ("D03", "G08", "P05"),
        drawn_on="liver_seg.nrrd",
    ),
    Series(
        "dicom_seg/totalseg_ct_j2k",
        "warned",
        ("D03", "G08"),
        drawn_on="seg_multiclass.nii.gz",
    ),
]


@dataclass(frozen=True)
class Judged:
    """A line of the table of real series."""

    series: Series
    files: FileAccount
    outcome: str
    codes: tuple
    shape: tuple | None = None
    spacing_mm: tuple | None = None
    difference: float | None = None
    displacement_mm: float | None = None

    def __str__(self):
        echo = f" (echo {self.series.options.echo})" if self.series.options.echo else ""
        against = self.series.reference or self.series.drawn_on
        columns = (
            self.series.folder + echo,
            (
                f"{self.files.found} = {len(self.files.used)} used + "
                f"{len(self.files.excluded)} excluded + {len(self.files.failed)} failed"
            ),
            self.outcome,
            " ".join(self.codes),
            "" if self.shape is None else " x ".join(map(str, self.shape)),
            ""
            if self.spacing_mm is None
            else " x ".join(f"{size:.4g}" for size in self.spacing_mm),
            against,
            "" if self.difference is None else f"{self.difference:g}",
            "" if self.displacement_mm is None else f"{self.displacement_mm:.6f}",
        )
        return f"| {' | '.join(columns)} |"


HEAD = (
    "| folder | files | outcome | codes | shape | spacing (mm) | compared with "
    "| max. difference | max. displacement (mm) |\n" + "|---" * 9 + "|"
)


def judged(test_data, series):
    home = test_data / series.folder
    try:
        reading = read_series(home / "dcm", series.options)
    except SeriesRefused as refused:
        codes = tuple(sorted({f.code for f in refused.findings}))
        return Judged(series, refused.files, "refused", codes)
    difference = displacement = None
    if series.reference:
        voxels, grid = in_order_of(
            reading.volume, nibabel.load(home / series.reference)
        )
        ours = reading.volume.voxels.astype(np.float64)
        difference = float(np.abs(ours - voxels).max())
        displacement = reading.volume.grid.displacement_mm(grid)
    elif series.drawn_on.endswith(".nrrd"):
        mask = read_mask(home / series.drawn_on, name="mask")
        displacement = reading.volume.grid.displacement_mm(mask.grid)
    elif series.drawn_on:
        # The mask covers a part of the slices: its first voxel lies at one of ours.
        _, grid = in_order_of(reading.volume, nibabel.load(home / series.drawn_on))
        index = reading.volume.grid.to_voxel(grid.to_patient([[0, 0, 0]]))
        nearest = reading.volume.grid.to_patient(np.rint(index))
        displacement = float(
            np.linalg.norm(nearest - grid.to_patient([[0, 0, 0]]), axis=1)[0]
        )
    return Judged(
        series,
        reading.files,
        str(worst(reading.findings)),
        tuple(sorted({finding.code for finding in reading.findings})),
        reading.volume.grid.shape,
        tuple(map(float, reading.volume.grid.spacing_mm)),
        difference,
        displacement,
    )


@pytest.mark.parametrize("series", ALL, ids=lambda s: f"{s.folder} {s.options.echo}")
def test_a_real_series_is_converted_or_refused_for_the_right_reason(test_data, series):
    found = judged(test_data, series)

    assert (found.outcome, found.codes) == (series.outcome, series.codes)
    folder = test_data / series.folder / "dcm"
    assert found.files.found == sum(1 for f in folder.rglob("*") if f.is_file())
    if series.reference:
        assert found.difference == 0
    if series.reference or series.drawn_on:
        assert found.displacement_mm <= 0.01


def test_no_real_series_is_forgotten_and_all_stand_in_one_table(test_data):
    """Show the table with ``pytest -s``."""
    homes = [
        folder.parent.relative_to(test_data).as_posix()
        for kind in ("dicom", "dicom_seg")
        for folder in sorted((test_data / kind).glob("*/dcm"))
    ]

    lines = [str(judged(test_data, series)) for series in ALL]
    sys.stdout.write("\n" + "\n".join([HEAD, *lines, ""]))

    assert set(homes) == {series.folder for series in ALL}
    assert all(line.count("|") == HEAD.partition("\n")[0].count("|") for line in lines)


def test_headers_that_a_script_wrote_are_read_with_a_warning(test_data):
    reading = read_series(test_data / "dicom" / "headerless_HCropVolume" / "dcm")

    assert reading.volume.grid.shape == (34, 50, 40)
    assert worst(reading.findings) is Outcome.WARNED


def test_a_real_label_lies_on_its_real_series(test_data):
    home = test_data / "dicom_seg" / "totalseg_ct_j2k"
    grid = read_series(home / "dcm").volume.grid
    labels = nibabel.load(home / "seg_multiclass.nii.gz")
    voxels = np.asarray(labels.dataobj) > 0

    placed = placed_on(grid, Grid(voxels.shape, LPS @ labels.affine), voxels, name="m")

    assert placed.method == "pasted"
    assert placed.voxels_before == placed.voxels_after == int(voxels.sum())


def test_real_nrrd_masks_lie_on_their_series(test_data):
    home = test_data / "dicom_seg" / "dcmqi_ct3"
    grid = read_series(home / "dcm").volume.grid

    for name in ("liver_seg", "heart_seg", "spine_seg", "spine_seg_label5"):
        mask = read_mask(home / f"{name}.nrrd", name=name)
        placed = placed_on(grid, mask.grid, mask.voxels, name=name)
        assert placed.method == "same grid"
        assert placed.voxels_after > 0


def test_real_slicer_segmentations_are_read(test_data):
    home = test_data / "seg" / "slicerio"

    one_layer = list(read_segments(home / "Segmentation.seg.nrrd"))
    two_layers = list(read_segments(home / "SegmentationOverlapping.seg.nrrd"))

    assert [s.name for s in one_layer][:2] == ["ribs", "cervical vertebral column"]
    assert len(one_layer) == 7
    assert len(two_layers) == 8
    assert two_layers[-1].name == "overlapping sphere"
    others = np.any([segment.voxels for segment in two_layers[:-1]], axis=0)
    assert (two_layers[-1].voxels & others).any()
    assert all(segment.voxels.any() for segment in two_layers)
