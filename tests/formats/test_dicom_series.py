"""FAULTS 3.1 and 3.2: which files make one volume, and where it lies.

The codes, messages and counts of each row are in `stories/test_every_dicom_row.py`.
"""

import copy
import itertools
import random
import shutil

import nibabel
import numpy as np
import pytest
from dicom_base import base, each, enhanced, expected, new_uids, save
from highdicom.spatial import get_series_volume_positions
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from pydicom.uid import generate_uid

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.findings import Outcome, worst
from nnunet_bridge.formats.dicom import SeriesOptions, SeriesRefused, read_series
from nnunet_bridge.formats.dicom.headers import HeaderReader
from nnunet_bridge.formats.dicom.stack import _appearance
from nnunet_bridge.formats.nifti import write_volume


def codes(reading):
    return [finding.code for finding in reading.findings]


def refusal(folder, **options):
    with pytest.raises(SeriesRefused) as caught:
        read_series(folder, SeriesOptions(**options))
    files = caught.value.files
    assert files.used == ()
    assert files.found == sum(1 for f in folder.rglob("*") if f.is_file())
    return caught.value


def assert_base_stack(reading, n=12):
    np.testing.assert_array_equal(reading.volume.voxels, expected(n))
    np.testing.assert_allclose(
        reading.volume.grid.affine,
        [[0.75, 0, 0, -12], [0, 0.75, 0, -12], [0, 0, 4, -100], [0, 0, 0, 1]],
        atol=1e-9,
    )


def test_a_clean_stack_is_accepted_as_it_is(tmp_path):
    save(base(), tmp_path)

    reading = read_series(tmp_path)

    assert reading.findings == ()
    assert_base_stack(reading)
    assert reading.volume.voxels.dtype == np.int16
    assert reading.volume.voxels.flags.f_contiguous
    assert len(reading.files.used) == reading.files.found == 12


def test_a_folder_that_does_not_exist_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        read_series(tmp_path / "nowhere")


def dixon(folder, kinds=("IN_PHASE", "OPP_PHASE", "WATER", "FAT")):
    uids = new_uids()
    for number, kind in enumerate(kinds):
        slices = base(uids=uids)
        for ds in slices:
            ds.ImageType = ["ORIGINAL", "PRIMARY", "DIXON", kind]
            values = np.frombuffer(ds.PixelData, "<u2") + 500 * number
            ds.PixelData = values.astype("<u2").tobytes()
            ds.SeriesDescription = "DIXON"
        save(slices, folder, prefix=kind)


def test_D04_the_contrasts_of_a_dixon_series_are_never_interleaved(tmp_path):
    dixon(tmp_path)

    assert refusal(tmp_path).code == "D04"
    water = read_series(tmp_path, SeriesOptions(image_type="water"))
    np.testing.assert_array_equal(water.volume.voxels, expected() + 1000)
    assert len(water.files.excluded) == 36
    assert len(water.rejected_groups) == 3


def test_D04_a_contrast_that_is_not_there_is_refused(tmp_path):
    dixon(tmp_path, kinds=("FAT",))

    assert refusal(tmp_path, image_type="WATER").code == "D04"


def two_stations(folder, *, more=0, offset=0.0, **attributes):
    """Write stations at 0..44 and 36..80 mm; the second one is brighter by `more`."""
    uids = new_uids()
    first = base(uids=uids)
    second = base(uids=uids, zs=[36 + offset + 4 * k for k in range(12)])
    for ds in second:
        values = np.frombuffer(ds.PixelData, "<u2") + more
        ds.PixelData = values.astype("<u2").tobytes()
    for keyword, (one, other) in attributes.items():
        for ds in first:
            setattr(ds, keyword, one)
        for ds in second:
            setattr(ds, keyword, other)
    save(first, folder)
    save(second, folder, prefix="s2")


@pytest.mark.parametrize("attributes", [{}, {"AcquisitionNumber": (1, 2)}])
@pytest.mark.parametrize("how", ["first", "mean"])
def test_D09_stations_on_one_grid_are_joined_if_asked_for(tmp_path, how, attributes):
    two_stations(tmp_path, more=1000, **attributes)

    reading = read_series(tmp_path, SeriesOptions(overlap=how))

    one, other = expected().astype(int), expected().astype(int) + 1000
    joined = np.concatenate([one, other[:, :, 3:]], axis=2)
    if how == "mean":
        joined[:, :, 9:12] = np.rint((one[:, :, 9:] + other[:, :, :3]) / 2)
    np.testing.assert_array_equal(reading.volume.voxels, joined)
    np.testing.assert_allclose(reading.volume.grid.affine[:3, 3], [-12, -12, -100])
    difference = np.abs(one[:, :, 9:] - other[:, :, :3]).mean()
    assert codes(reading) == ["D09"]
    assert worst(reading.findings) is Outcome.WARNED
    assert "3 places" in reading.findings[0].message
    assert f"difference of the images: {difference:.1f}" in reading.findings[0].message
    assert reading.interventions["overlap"] == {
        "how": how,
        "stations": 2,
        "slices": [9, 10, 11],
    }
    assert len(reading.files.used) == (24 if how == "mean" else 21)
    assert reading.files.found == 24


@pytest.mark.parametrize("seed", range(6))
def test_D09_the_first_station_is_the_lower_one_whatever_the_names(tmp_path, seed):
    two_stations(tmp_path, more=1000, AcquisitionNumber=(2, 1))
    names = [f"{n}.dcm" for n in range(24)]
    random.Random(seed).shuffle(names)  # noqa: S311 - repeatable, not secret
    for file, name in zip(sorted(tmp_path.iterdir()), names, strict=True):
        file.rename(tmp_path / name)

    voxels = read_series(tmp_path, SeriesOptions(overlap="first")).volume.voxels

    np.testing.assert_array_equal(voxels[:, :, :12], expected())


def test_D09_stations_that_nearly_agree_are_fixed_and_a_small_offset_is_one_grid(
    tmp_path,
):
    two_stations(tmp_path, offset=0.05)
    uids = new_uids()
    save(base(uids=uids), tmp_path / "alike")
    alike = base(uids=uids, zs=[36 + 4 * k for k in range(12)])
    for k in range(3):
        alike[k].PixelData = base()[9 + k].PixelData
    save(alike, tmp_path / "alike", prefix="s2")
    options = SeriesOptions(overlap="mean", series=None)

    fixed = read_series(tmp_path / "alike", options)

    assert worst(fixed.findings) is Outcome.FIXED
    shutil.rmtree(tmp_path / "alike")
    assert read_series(tmp_path, options).volume.grid.shape == (32, 32, 21)


@pytest.mark.parametrize("how", ["first", "mean"])
def test_D08_a_stranger_at_one_place_is_no_station(tmp_path, how):
    slices = base()
    stranger = copy.deepcopy(slices[3])
    stranger.SOPInstanceUID = generate_uid()
    save([*slices, stranger], tmp_path)

    assert refusal(tmp_path, overlap=how).code == "D08"


@pytest.mark.parametrize(
    "tag", ["PatientID", "StudyInstanceUID", "FrameOfReferenceUID"]
)
def test_D11_slices_of_two_patients_are_refused_without_naming_them(tmp_path, tag):
    slices = base()
    secret = generate_uid() if tag.endswith("UID") else "SECRET-2"
    for ds in slices[6:]:
        setattr(ds, tag, secret)
    save(slices, tmp_path)

    refused = refusal(tmp_path)

    assert refused.code == "D11"
    assert secret not in str(refused)
    assert "P1" not in str(refused)


def test_D14_a_file_without_preamble_is_read(tmp_path):
    for number, ds in enumerate(base()):
        del ds.file_meta
        ds.save_as(tmp_path / f"{number}.ima", implicit_vr=True, little_endian=True)

    assert_base_stack(read_series(tmp_path))


def test_D15_an_empty_folder_is_refused(tmp_path):
    assert refusal(tmp_path).code == "D15"


def test_F01_links_out_of_the_folder_and_loops_are_not_followed(tmp_path):
    outside = save(base(), tmp_path / "outside")
    inside = tmp_path / "scan"
    save(base(), inside)
    (inside / "loop").symlink_to(inside, target_is_directory=True)
    (inside / "stranger.dcm").symlink_to(outside[0])

    reading = read_series(inside)

    assert_base_stack(reading)
    assert set(dict(reading.files.excluded)) == {"loop", "stranger.dcm"}


def shuffled(folder, seed):
    """Write the base stack under shuffled names, numbers and order of writing."""
    slices = base(uids=("1.2.3", "1.2.4", "1.2.5"))
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    numbers = rng.sample(range(1, 200), len(slices))
    names = rng.sample(
        [f"{n}.dcm" for n in (1, 10, 100, 2, 20, 3, 4, 5, 6, 7, 8, 9)], 12
    )
    for ds, number in zip(slices, numbers, strict=True):
        ds.InstanceNumber = number
    save(slices, folder, names=names)


def test_R2_any_of_a_hundred_shufflings_gives_the_same_bytes(tmp_path):
    save(base(uids=("1.2.3", "1.2.4", "1.2.5")), tmp_path / "in_order")
    in_order = read_series(tmp_path / "in_order").volume
    write_volume(tmp_path / "in_order.nii", in_order)

    for seed in range(100):
        shuffled(tmp_path / "dicom", seed)
        volume = read_series(tmp_path / "dicom").volume
        shutil.rmtree(tmp_path / "dicom")

        assert volume.voxels.tobytes("F") == in_order.voxels.tobytes("F"), seed
        assert volume.grid.affine.tobytes() == in_order.grid.affine.tobytes(), seed
    write_volume(tmp_path / "shuffled.nii", volume)
    written = (tmp_path / "shuffled.nii").read_bytes()
    assert written == (tmp_path / "in_order.nii").read_bytes()


def test_G05_a_small_jitter_is_accepted_and_the_mean_spacing_used(tmp_path):
    heights = [4 * k + (0.03 if k % 2 else -0.03) for k in range(12)]
    save(base(zs=heights), tmp_path)

    reading = read_series(tmp_path)

    assert reading.findings == ()
    assert reading.max_position_error_mm < 0.08
    assert reading.volume.grid.spacing_mm[2] == pytest.approx(
        (heights[-1] - heights[0]) / 11
    )


BLOCKS = [*range(0, 28, 4), *range(32, 72, 8)]


def ramp(zs, **other):
    """Return slices whose values are ten times their height, and 3 a column."""
    slices = base(len(zs), zs=zs, **other)
    for ds, z in zip(slices, zs, strict=True):
        values = np.full((32, 32), 10 * z) + 3 * np.arange(32)
        ds.PixelData = np.rint(values).astype("<u2").tobytes()
    return slices


def test_G06_an_uneven_stack_is_resampled_if_asked_for_and_says_which_slices(tmp_path):
    save(ramp(BLOCKS), tmp_path)

    reading = read_series(tmp_path, SeriesOptions(resample="uneven"))

    assert codes(reading) == ["G06"]
    assert worst(reading.findings) is Outcome.WARNED
    assert reading.volume.grid.shape == (32, 32, 17)
    np.testing.assert_allclose(reading.volume.grid.spacing_mm, [0.75, 0.75, 4])
    heights, columns = np.arange(0, 68, 4), np.arange(32)
    ramped = 10 * heights + 3 * columns[:, None, None] + np.zeros((1, 32, 1))
    np.testing.assert_array_equal(reading.volume.voxels, ramped)
    resampled = reading.interventions["resampled"]
    assert resampled["interpolated_slices"] == [7, 9, 11, 13, 15]
    assert resampled["heights_mm"] == BLOCKS
    assert resampled["widened_by"] == [0, 0]


def test_G06_a_missing_slice_is_not_interpolated_whatever_is_allowed(tmp_path):
    slices = base()
    del slices[5]
    save(slices, tmp_path)

    assert refusal(tmp_path, resample="any").code == "G03"


@examples(25)
@given(
    # A step of less than 0.01 mm counts as none: the stack is not resampled.
    tilt=st.tuples(*[st.floats(0.01, 1.5) | st.just(0.0) | st.floats(-1.5, -0.01)] * 2),
    uneven=st.booleans(),
    turn=st.floats(-40, 40),
)
def test_G07_a_resampled_stack_shows_every_place_as_it_was(
    tmp_path_factory, tilt, uneven, turn
):
    """An image that is linear in space is carried without loss by linear weights."""
    folder = tmp_path_factory.mktemp("sheared")
    axes = rotation("x", turn)
    zs = BLOCKS if uneven else range(0, 48, 4)
    iop = [round(float(v), 9) for v in axes[:, :2].T.ravel()]
    shear = axes[:, 0] * tilt[0] + axes[:, 1] * tilt[1]
    slices = base(len(zs), zs=list(zs), iop=iop, shear=shear, size=16)
    slope = np.array([9.0, -4.0, 6.0])
    for ds in slices:
        place = np.array(list(map(float, ds.ImagePositionPatient)))
        columns, rows = np.meshgrid(np.arange(16), np.arange(16))
        points = (
            place
            + 0.75 * columns[..., None] * axes[:, 0]
            + 0.75 * rows[..., None] * axes[:, 1]
        )
        del ds.PixelData
        ds.BitsAllocated = ds.BitsStored = 32
        ds.HighBit = 31
        ds.FloatPixelData = (points @ slope + 5000).astype("<f4").tobytes()
    save(slices, folder)

    volume = read_series(folder, SeriesOptions(resample="any")).volume

    indices = np.moveaxis(np.indices(volume.grid.shape), 0, -1)
    points = volume.grid.to_patient(indices)
    away = points - np.array(list(map(float, slices[0].ImagePositionPatient)))
    moved = away @ axes
    moved -= moved[..., 2:] / 4 * [*tilt, 0]
    margin = 1 + 2 * np.abs(tilt) / 0.75  # of two slices, either may end first
    inside = np.all(
        (moved[..., :2] / 0.75 > margin) & (moved[..., :2] / 0.75 < 15 - margin),
        axis=-1,
    )
    assert inside.any()
    assert np.abs(volume.voxels - (points @ slope + 5000))[inside].max() < 0.05


def test_G07_an_upright_stack_is_left_alone_whatever_is_allowed(tmp_path):
    save(base(), tmp_path)

    reading = read_series(tmp_path, SeriesOptions(resample="any"))

    assert_base_stack(reading)
    assert reading.findings == ()
    assert reading.interventions == {}


def rotation(axis, degrees):
    angle = np.radians(degrees)
    c, s = np.cos(angle), np.sin(angle)
    return {
        "x": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        "y": np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        "z": np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    }[axis]


ORIENTATIONS = [
    (1, 0, 0, 0, 1, 0),
    (0, 1, 0, 0, 0, -1),
    (1, 0, 0, 0, 0, -1),
    *(
        tuple((rotation(a, d) @ rotation("x", 20))[:, :2].T.ravel())
        for a, d in itertools.product("xyz", (13, 45))
    ),
]


@pytest.mark.parametrize("iop", ORIENTATIONS)
def test_G09_any_orientation_keeps_its_native_grid(tmp_path, iop):
    slices = base(iop=[round(float(v), 9) for v in iop])
    save(slices, tmp_path)

    reading = read_series(tmp_path)

    assert worst(reading.findings) <= Outcome.FIXED
    grid = reading.volume.grid
    np.testing.assert_array_equal(reading.volume.voxels, expected())
    positions = [list(map(float, ds.ImagePositionPatient)) for ds in slices]
    np.testing.assert_allclose(
        grid.to_patient([[0, 0, k] for k in range(12)]), positions, atol=1e-3
    )
    assert np.linalg.det(grid.affine[:3, :3]) > 0


def test_G09_positions_agree_with_simpleitk(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    save(base(iop=[round(float(v), 9) for v in ORIENTATIONS[4]]), tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))

    image = reader.Execute()
    volume = read_series(tmp_path).volume

    np.testing.assert_array_equal(
        volume.voxels, sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    )
    for index in ((0, 0, 0), (31, 0, 0), (0, 31, 11), (31, 31, 11)):
        np.testing.assert_allclose(
            volume.grid.to_patient(index),
            image.TransformIndexToPhysicalPoint(index),
            atol=1e-4,
        )


def test_G11_cosines_that_are_nearly_directions_are_corrected(tmp_path):
    save(each(base(), ImageOrientationPatient=[1.0004, 0, 0, 0, 1.0004, 0]), tmp_path)

    reading = read_series(tmp_path)

    assert codes(reading) == ["G11"]
    np.testing.assert_allclose(reading.volume.grid.spacing_mm, [0.75, 0.75, 4])


@pytest.mark.parametrize("spacing", [[0, 0], [-1, -1], [50, 50], [0.01, 0.75]])
def test_G13_an_impossible_pixel_spacing_is_refused(tmp_path, spacing):
    save(base(px=spacing), tmp_path)

    assert refusal(tmp_path).code == "G13"


def test_G13_a_pixel_spacing_that_is_no_number_is_refused(tmp_path):
    for file in save(base(), tmp_path):
        stored = file.read_bytes()
        assert rb"0.75\0.75" in stored
        file.write_bytes(stored.replace(rb"0.75\0.75", rb"NaN\NaN  "))

    assert refusal(tmp_path).code == "G13"


def test_G13_slices_absurdly_far_apart_are_refused(tmp_path):
    save(base(dz=50.0), tmp_path)

    assert refusal(tmp_path).code == "G13"


def test_G15_the_first_pixel_spacing_is_between_rows(tmp_path):
    save(base(px=(0.5, 1.0)), tmp_path)

    np.testing.assert_allclose(
        read_series(tmp_path).volume.grid.spacing_mm, [1.0, 0.5, 4.0]
    )


@pytest.mark.parametrize("which", [slice(5, 6), slice(None)])
def test_G16_a_missing_position_is_refused(tmp_path, which):
    slices = base()
    for ds in slices[which]:
        del ds.ImagePositionPatient
    save(slices, tmp_path)

    assert refusal(tmp_path).code == "G16"


def test_G12_a_spacing_given_by_hand_is_used_and_recorded(tmp_path):
    slices = base(px=(0.5, 0.75))
    for ds in slices:
        del ds.PixelSpacing
    save(slices, tmp_path)

    reading = read_series(tmp_path, SeriesOptions(pixel_spacing_mm=(0.5, 0.75)))

    np.testing.assert_allclose(reading.volume.grid.spacing_mm, [0.75, 0.5, 4])
    assert codes(reading) == ["G12"]
    assert worst(reading.findings) is Outcome.WARNED
    assert reading.interventions == {"pixel_spacing_mm": [0.5, 0.75]}


def test_D06_one_of_several_acquisitions_can_be_chosen(tmp_path):
    uids = new_uids()
    for number in (1, 2):
        slices = base(uids=uids)
        for ds in slices:
            ds.TemporalPositionIdentifier = number
        save(slices, tmp_path, prefix=f"t{number}")

    assert refusal(tmp_path).code == "D06"
    chosen = read_series(tmp_path, SeriesOptions(repetition="temporal position 2"))
    assert_base_stack(chosen)
    assert {name[:2] for name in chosen.files.used} == {"t2"}
    assert refusal(tmp_path, repetition="3").code == "D06"


def test_D12_frames_of_an_enhanced_image_are_placed_one_by_one(tmp_path):
    slices = base()
    order = random.Random(3).sample(slices, len(slices))  # noqa: S311 - repeatable
    save([enhanced(order)], tmp_path)

    reading = read_series(tmp_path)

    assert_base_stack(reading)
    assert len(reading.files.used) == 1


def test_D12_frames_of_another_orientation_are_left_out(tmp_path):
    uids = new_uids()
    scout = base(1, uids=uids, iop=(0, 1, 0, 0, 0, -1))
    save([enhanced([*base(uids=uids), *scout])], tmp_path)

    reading = read_series(tmp_path)

    assert_base_stack(reading)
    assert codes(reading) == ["D02"]


@examples(40)
@given(
    spacing=st.tuples(*[st.floats(0.2, 5)] * 2),
    step=st.floats(0.5, 8),
    turn=st.tuples(st.sampled_from("xyz"), st.floats(-45, 45)),
)
def test_R1_every_slice_lies_where_its_header_says(
    tmp_path_factory, spacing, step, turn
):
    folder = tmp_path_factory.mktemp("stack")
    cosines = rotation(*turn)[:, :2].T.ravel()
    slices = base(
        4,
        size=8,
        px=[round(s, 6) for s in spacing],
        dz=round(step, 6),
        iop=[round(float(v), 9) for v in cosines],
    )
    save(slices, folder)

    reading = read_series(folder)
    write_volume(folder.with_suffix(".nii.gz"), reading.volume)

    ras = nibabel.load(folder.with_suffix(".nii.gz")).affine
    placed = [(ras @ [0, 0, k, 1])[:3] * [-1, -1, 1] for k in range(4)]
    stated = [list(map(float, ds.ImagePositionPatient)) for ds in slices]
    assert np.abs(np.subtract(placed, stated)).max() <= min(0.1, 0.02 * step)
    assert reading.max_position_error_mm <= min(0.1, 0.02 * step)


@examples(15)
@given(
    step=st.floats(0.5, 8),
    turn=st.tuples(st.sampled_from("xyz"), st.floats(-180, 180)),
    order=st.permutations(range(5)),
)
def test_highdicom_gives_the_slices_the_same_order_and_distance(
    tmp_path_factory, step, turn, order
):
    folder = tmp_path_factory.mktemp("stack")
    cosines = rotation(*turn)[:, :2].T.ravel()
    slices = base(5, size=8, dz=step, iop=[float(v) for v in cosines])
    files = save([slices[k] for k in order], folder)

    reading = read_series(folder)

    spacing_mm, places = get_series_volume_positions(
        [slices[k] for k in order], index_convention=("R", "D")
    )
    ours = [source.file for source in reading.slices]
    assert [ours.index(file) for file in files] == places
    assert reading.volume.grid.spacing_mm[2] == pytest.approx(spacing_mm, rel=1e-4)


@pytest.mark.parametrize(
    "faulty",
    [{"zs": [0, 4, 8, 16, 20]}, {"zs": [0, 4, 8, 8, 12]}, {"shear": (0, 2, 0)}],
    ids=["missing", "repeated", "sheared"],
)
def test_what_highdicom_does_not_call_a_volume_is_refused(tmp_path, faulty):
    slices = base(5, **faulty)
    save(slices, tmp_path)

    assert get_series_volume_positions(slices) == (None, None)
    refusal(tmp_path)


def test_messages_of_a_refusal_carry_no_header_identity(tmp_path):
    slices = base()
    del slices[5]
    save(slices, tmp_path)

    assert "DOE" not in str(refusal(tmp_path))


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ((5, 5, 5), ["G01"]),
        ((7, 6, 5), []),
        ((2, 3, 4), ["G04"]),
        ((4, 3, 2), ["G04"]),
        ((1, 2, 3), []),
        ((2, 4, 6), []),
    ],
)
def test_G01_G04_numbers_that_repeat_or_begin_at_2_are_named(tmp_path, numbers, found):
    slices = base(3, size=8)
    for ds, number in zip(slices, numbers, strict=True):
        ds.InstanceNumber = number
    save(slices, tmp_path)

    assert codes(read_series(tmp_path)) == found


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"SpacingBetweenSlices": 4, "SliceThickness": 9}, None),
        ({"SpacingBetweenSlices": 5, "SliceThickness": 4}, "Spacing Between Slices is"),
        ({"SliceThickness": 5}, "Slice Thickness is 5 mm"),
        ({"SliceThickness": 4.39}, None),
    ],
)
def test_G08_the_spacing_counts_before_the_thickness(tmp_path, declared, words):
    slices = base(3, size=8)
    for ds in slices:
        for keyword, value in declared.items():
            setattr(ds, keyword, value)
    save(slices, tmp_path)

    findings = read_series(tmp_path).findings

    assert [finding.code for finding in findings] == (["G08"] if words else [])
    assert words is None or findings[0].message.startswith(words)


def test_D09_the_first_names_at_one_place_are_told(tmp_path):
    uids = new_uids()
    save(base(uids=uids, size=8), tmp_path, prefix="b")
    save(base(uids=uids, size=8), tmp_path, prefix="a")

    message = str(refusal(tmp_path))

    assert "12 places hold more than one image" in message
    assert "“a-0000.dcm” and “b-0000.dcm”" in message


@pytest.mark.parametrize(("slices", "codes"), [(128, []), (129, ["S07"])])
def test_S07_a_series_has_at_most_two_to_the_31_voxels(tmp_path, slices, codes):
    ds = base(1, size=8)[0]
    ds.Rows = ds.Columns = 4096
    (file,) = save([ds], tmp_path)
    headers = HeaderReader().read(file, "one") * slices

    assert [finding.code for finding in _appearance(headers)] == codes
