"""Files of one scan make one volume, whatever exporters and anonymisers did to them.

The expected volume is made with NumPy beside the files; no reader of ours is in it.
"""

import cProfile
import gzip
import io
import pstats

import numpy as np
import pytest
from dicom_base import FIRST, base, enhanced, expected, new_uids, save
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from nnunet_bridge.core.findings import Outcome, worst
from nnunet_bridge.formats.dicom import SeriesOptions, SeriesRefused, read_series

FORMS = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
ATTRIBUTES = {
    "SeriesInstanceUID": "Series Instance UID",
    "StudyInstanceUID": "Study Instance UID",
    "FrameOfReferenceUID": "Frame of Reference UID",
    "SOPInstanceUID": "SOP Instance UID",
    "PatientID": "Patient ID",
}


@pytest.fixture
def folder(tmp_path_factory):
    """Return a function that makes an empty folder, for laws with many examples."""
    return lambda: tmp_path_factory.mktemp("scan")


def brighter(slices, by):
    for ds in slices:
        ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") + by).astype("<u2").tobytes()
    return slices


def numbered(slices, numbers):
    for ds, number in zip(slices, numbers, strict=True):
        ds.InstanceNumber = number
    return slices


def each(slices, **attributes):
    for ds in slices:
        for keyword, value in attributes.items():
            put(ds, keyword, value)
    return slices


def put(ds, keyword, value):
    """Set an attribute, also to a value that the standard forbids."""
    kind, tag = dictionary_VR(keyword), tag_for_keyword(keyword)
    ds[tag] = DataElement(tag, kind, value, validation_mode=IGNORE)


def read(where, **options):
    return read_series(where, SeriesOptions(**options))


def refusal(where, **options):
    with pytest.raises(SeriesRefused) as caught:
        read(where, **options)
    return caught.value


def assert_base(reading, voxels=None, start=FIRST):
    wanted = expected() if voxels is None else voxels
    np.testing.assert_array_equal(reading.volume.voxels, wanted)
    affine = np.diag([0.75, 0.75, 4, 1])
    affine[:3, 3] = start
    np.testing.assert_allclose(reading.volume.grid.affine, affine, atol=1e-6)


def mislabelled(ds, claimed, real, *, padding):
    """Return the bytes of a file whose meta header names another form of VR."""
    if padding:
        ds.DataSetTrailingPadding = bytes(padding)
    body, head = DicomBytesIO(), DicomBytesIO()
    body.is_little_endian, body.is_implicit_VR = True, real == ImplicitVRLittleEndian
    plain = Dataset()
    plain.update({element.tag: element for element in ds})
    write_dataset(body, plain)
    ds.file_meta.TransferSyntaxUID = claimed
    head.is_little_endian, head.is_implicit_VR = True, False
    write_file_meta_info(head, ds.file_meta)
    return bytes(128) + b"DICM" + head.getvalue() + body.getvalue()


@examples(30)
@given(
    size=st.sampled_from([16, 31, 32, 64, 127]),
    form=st.sampled_from([FORMS, FORMS[::-1]]),
    padding=st.sampled_from([0, 2, 126]),
    by=st.integers(0, 1500),
)
def test_P13_the_pixels_are_those_of_the_file_whatever_form_the_meta_header_names(
    folder, size, form, padding, by
):
    where = folder()
    for number, ds in enumerate(brighter(base(4, size=size), by)):
        content = mislabelled(ds, *form, padding=padding)
        (where / f"{number}.dcm").write_bytes(content)

    reading = read(where)

    np.testing.assert_array_equal(reading.volume.voxels, expected(4, size) + by)
    assert [finding.code for finding in reading.findings] == ["P13"]


def of_several(count, order, **attributes):
    """Return images of `count` contrasts at the same places, in one series."""
    uids = new_uids()
    slices = []
    for n in range(count):
        own = brighter(base(uids=uids), 100 * n)
        places = range(12) if order != "backwards" else range(12, 0, -1)
        numbers = [12 * n + k + 1 for k in places]
        if order == "by place":
            numbers = [count * k + n + 1 for k in range(12)]
        slices.append(each(numbered(own, numbers), **attributes.get(f"of_{n}", {})))
    return slices


@examples(20)
@given(
    count=st.integers(2, 4),
    order=st.sampled_from(["by contrast", "by place", "backwards"]),
    overlap=st.sampled_from(["refuse", "first", "mean"]),
)
def test_D06_images_at_all_the_same_places_are_never_joined_and_one_set_is_chosen(
    folder, count, order, overlap
):
    where = folder()
    for n, own in enumerate(of_several(count, order)):
        save(own, where, prefix=f"c{n}")

    refused = refusal(where, overlap=overlap)

    assert refused.code == "D06"
    assert "--overlap" not in str(refused)
    for n in range(count):
        chosen = read(where, overlap=overlap, repetition=f"set {n + 1}")
        assert_base(chosen, expected() + 100 * n)


def test_D06_what_differs_between_the_sets_is_named(tmp_path):
    own = {"of_0": {"DiffusionBValue": 0.0}, "of_1": {"DiffusionBValue": 800.0}}
    for n, slices in enumerate(of_several(2, "by place", **own)):
        save(slices, tmp_path, prefix=f"c{n}")

    assert "DiffusionBValue “800.0”" in str(refusal(tmp_path))


@pytest.mark.parametrize("overlap", ["refuse", "first", "mean"])
def test_D09_images_in_no_order_and_contrasts_of_two_stations_are_not_joined(
    tmp_path, overlap
):
    first, second = of_several(2, "by contrast")
    save(numbered(first, [1, *range(3, 14)]), tmp_path / "a")
    save(numbered(second, [2, *range(14, 25)]), tmp_path / "a", prefix="second")
    uids = new_uids()
    for n in range(2):
        for station in range(2):
            zs = [36 * station + 4 * k for k in range(12)]
            own = brighter(base(uids=uids, zs=zs), 100 * n)
            first_number = 24 * station + 12 * n + 1
            own = numbered(own, range(first_number, first_number + 12))
            save(own, tmp_path / "b", prefix=f"c{n}s{station}")

    for where in (tmp_path / "a", tmp_path / "b"):
        refused = refusal(where, overlap=overlap)
        assert refused.code == "D09"
        assert "--overlap" not in str(refused)


@pytest.mark.parametrize(
    ("words", "description"),
    [
        (("M", "DIXON", "FAT_FRACTION"), "q-dixon_FF"),
        (("M", "T2*"), "T1"),
        (("T2 MAP", "T2_STAR"), "T1"),
        (("R2STAR_MAP",), "T1"),
        (("M", "NORM"), "dixon_WATER_FRACTION"),
        (("M", "NORM"), "FatFrac: 3D IDEAL IQ"),
        (("F", "F"), "dixon WATER"),
        (("P", "ND"), "field"),
        (("M", "IN_PHASE"), "T1"),
    ],
)
def test_D04_another_contrast_is_never_taken_for_the_requested_one(
    tmp_path, words, description
):
    slices = each(base(), ImageType=["DERIVED", "PRIMARY", *words])
    save(each(slices, SeriesDescription=description), tmp_path)

    assert refusal(tmp_path, image_type="WATER").code == "D04"


@pytest.mark.parametrize(
    ("words", "description"),
    [(("M", "ND", "NORM"), "t1_tse_fatsat"), (("M", "FFE"), "T1W FAT SUP")],
)
def test_D04_images_that_name_no_contrast_are_used_with_a_warning(
    tmp_path, words, description
):
    slices = each(base(), ImageType=["ORIGINAL", "PRIMARY", *words])
    save(each(slices, SeriesDescription=description), tmp_path)

    reading = read(tmp_path, image_type="WATER")

    assert [(f.code, f.outcome) for f in reading.findings] == [("D04", Outcome.WARNED)]


def stored_against(ds, *, rows, columns):
    """Store the same image with its rows, its columns, or both in reverse order."""
    pixels = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)
    along, down = np.reshape(np.array(ds.ImageOrientationPatient, float), (2, 3))
    position = np.array(ds.ImagePositionPatient, float)
    if columns:
        position = position + along * ds.PixelSpacing[1] * (ds.Columns - 1)
        along, pixels = -along, pixels[:, ::-1]
    if rows:
        position = position + down * ds.PixelSpacing[0] * (ds.Rows - 1)
        down, pixels = -down, pixels[::-1]
    ds.ImagePositionPatient = [float(f"{x:.8f}") for x in position]
    ds.ImageOrientationPatient = [*along.tolist(), *down.tolist()]
    ds.PixelData = np.ascontiguousarray(pixels).tobytes()


@examples(30)
@given(
    turns=st.lists(
        st.sampled_from([(0, 0), (0, 0), (0, 0), (1, 1), (0, 1), (1, 0)]),
        min_size=12,
        max_size=12,
    ),
    angle=st.sampled_from([0, 0.1, 0.7]),
    columns=st.sampled_from([20, 32]),
)
def test_G20_slices_stored_the_other_way_round_lie_where_the_others_do(
    folder, turns, angle, columns
):
    cos, sin = np.cos(angle), np.sin(angle)
    straight = base(iop=(cos, sin, 0, -sin, cos, 0), px=(0.75, 0.5))
    for ds in straight:
        pixels = np.frombuffer(ds.PixelData, "<u2").reshape(32, 32)[:, :columns]
        ds.Columns, ds.PixelData = columns, pixels.tobytes()
    plain, where = folder(), folder()
    save(straight, plain)
    for ds, (rows, reversed_columns) in zip(straight, turns, strict=True):
        stored_against(ds, rows=rows, columns=reversed_columns)
    save(straight, where)
    wanted = {
        tuple(np.round(wanted_place(k, i, j, cos, sin), 3)): expected()[i, j, k]
        for k in range(0, 12, 5)
        for i in (2, columns - 1)
        for j in (3, 31)
    }

    reading = read(where)

    assert reading.volume.grid.shape == (columns, 32, 12)
    for place, value in wanted.items():
        voxel = np.rint(reading.volume.grid.to_voxel([place])).astype(int)[0]
        assert reading.volume.voxels[tuple(voxel)] == value
    assert len(reading.files.used) == 12
    assert {f.code for f in reading.findings} <= {"G20"}


def wanted_place(k, i, j, cos, sin):
    """Return where DICOM places a voxel: PS3.3 equation C.7.6.2.1-1."""
    along, down = np.array([cos, sin, 0]), np.array([-sin, cos, 0])
    return np.array(FIRST) + along * 0.5 * i + down * 0.75 * j + [0, 0, 4 * k]


@examples(30)
@given(
    times=st.one_of(
        st.lists(st.sampled_from([9.41, 9.423, 9.44, None]), min_size=12, max_size=12),
        st.floats(-0.1, 0.1).map(lambda d: [9.4 + d * k for k in range(12)]),
    ).filter(any)
)
def test_D05_echo_times_that_jitter_drift_or_are_missing_are_one_echo(folder, times):
    where = folder()
    slices = base()
    for ds, time in zip(slices, times, strict=True):
        ds.EchoTime = time
    save(slices, where)

    reading = read(where)

    assert_base(reading)
    assert worst(reading.findings) in (Outcome.ACCEPTED, Outcome.FIXED)
    assert len(reading.files.used) == 12


@pytest.mark.parametrize("numbers", [(1, 2), (1, 1), (None, None)])
def test_D05_two_echoes_stay_two_though_their_times_jitter(tmp_path, numbers):
    uids = new_uids()
    for echo, (time, number) in enumerate(zip((4.92, 2.46), numbers, strict=True)):
        slices = brighter(base(uids=uids), 100 * echo)
        for k, ds in enumerate(slices):
            ds.EchoTime, ds.EchoNumbers = time + 0.01 * (k % 3), number
        if echo:
            slices[5].EchoTime = None
        save(slices, tmp_path, prefix=f"e{echo}")

    assert refusal(tmp_path).code == "D05"
    assert_base(read(tmp_path, echo_time_ms=4.9))
    assert_base(read(tmp_path, echo_time_ms=2.46), expected() + 100)
    late = 1 if numbers == (1, 2) else 2
    assert_base(read(tmp_path, echo=late))
    assert refusal(tmp_path, echo_time_ms=3.7).code == "D05"


def test_D05_echoes_of_an_enhanced_image_are_counted_by_rising_time(tmp_path):
    slices = [*brighter(base(), 100), *base(uids=new_uids())]
    whole = enhanced(slices)
    for n, groups in enumerate(whole.PerFrameFunctionalGroupsSequence):
        time = Dataset()
        time.EffectiveEchoTime = 7.38 if n < 12 else 2.46
        groups.MREchoSequence = [time]
    save([whole], tmp_path)

    assert refusal(tmp_path).code == "D05"
    for options in ({"echo": 1}, {"echo_time_ms": 2.5}):
        assert_base(read(tmp_path, **options))
    assert_base(read(tmp_path, echo=2), expected() + 100)


@pytest.mark.parametrize("other", ["0.7499999", "0.75004", "0.752"])
def test_G14_pixel_spacings_that_differ_by_rounding_are_one(tmp_path, other):
    slices = base()
    each(slices[::2], PixelSpacing=[other, other])
    save(slices, tmp_path)

    reading = read(tmp_path)

    np.testing.assert_array_equal(reading.volume.voxels, expected())
    np.testing.assert_allclose(reading.volume.grid.spacing_mm[:2], 0.75, atol=0.002)
    each(slices[::2], PixelSpacing=[0.76, 0.76])
    save(slices, tmp_path)
    assert refusal(tmp_path).code == "G14"


DAMAGE = {
    "another in every file": lambda _old, k: f"1.2.{k}",
    "a word in every file": lambda _old, k: f"ANON{k}",
    "emptied in half": lambda old, k: old if k % 2 else "",
    "one for all": lambda *_: "ANONYMOUS",
}
SOUND = {(tag, "one for all") for tag in ATTRIBUTES} - {
    ("SOPInstanceUID", "one for all")
}
SOUND |= {("SOPInstanceUID", how) for how in DAMAGE if how != "one for all"}
MANY = {("PatientID", how) for how in DAMAGE if "every" in how}


@examples(60)
@given(
    damage=st.dictionaries(
        st.sampled_from(sorted(ATTRIBUTES)), st.sampled_from(sorted(DAMAGE)), min_size=1
    ).filter(lambda damage: not MANY & set(damage.items()))
)
def test_D16_identifiers_that_an_anonymiser_damaged_are_not_believed(folder, damage):
    where = folder()
    slices = base()
    for tag, how in damage.items():
        for k, ds in enumerate(slices):
            put(ds, tag, DAMAGE[how](getattr(ds, tag), k))
    for k, ds in enumerate(slices):
        ds.preamble = bytes(128)
        ds.save_as(where / f"{k}.dcm", enforce_file_format=False)

    reading = read(where)

    assert_base(reading)
    named = {
        name
        for tag, name in ATTRIBUTES.items()
        for finding in reading.findings
        if finding.code == "D16" and name in finding.message
    }
    damaged = {ATTRIBUTES[tag] for tag, how in set(damage.items()) - SOUND}
    assert named == damaged
    assert worst(reading.findings) is (Outcome.WARNED if damaged else Outcome.ACCEPTED)


def test_D07_three_copies_of_an_enhanced_image_are_one(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}").mkdir()
    (file,) = save([enhanced(base())], tmp_path / "0")
    for n in (1, 2):
        (tmp_path / f"{n}" / "copy.dcm").write_bytes(file.read_bytes())

    reading = read(tmp_path)

    assert_base(reading)
    assert [finding.code for finding in reading.findings] == ["D07"]


@pytest.mark.parametrize("tag", ["StudyInstanceUID", "FrameOfReferenceUID"])
@pytest.mark.parametrize("blocks", [2, 3])
def test_D11_an_identifier_that_splits_the_files_into_blocks_is_believed(
    tmp_path, tag, blocks
):
    slices = base()
    for k, ds in enumerate(slices):
        setattr(ds, tag, f"1.2.{k * blocks // 12}")
    save(slices, tmp_path)

    assert refusal(tmp_path).code == "D11"


@pytest.mark.parametrize("emptied", [0, 4])
def test_D11_two_patients_are_refused_though_some_ids_are_empty(tmp_path, emptied):
    slices = base()
    each(slices[6:], PatientID="P2")
    each(slices[4 : 4 + emptied], PatientID="")
    save(each(slices, SeriesInstanceUID="1.2.3"), tmp_path)

    assert refusal(tmp_path).code == "D11"


def test_D16_two_series_with_damaged_uids_stay_two(tmp_path):
    slices = [*base(), *brighter(each(base(), SeriesNumber=7), 100)]
    for way in ("ANON", "1.2.{}"):
        for k, ds in enumerate(slices):
            put(ds, "SeriesInstanceUID", way.format(k))
        save(slices, tmp_path / way)

        assert refusal(tmp_path / way).code == "D01"
        assert_base(read(tmp_path / way, series="6"))


def stations(where, **second):
    """Write two stations at 0..44 and 36..80 mm, each a series of its own."""
    study, frame = generate_uid(), generate_uid()
    first = base(uids=(study, generate_uid(), frame))
    zs = [36 + 4 * k for k in range(12)]
    other = base(uids=(study, generate_uid(), frame), zs=zs)
    each(first, SeriesDescription="hip")
    each(other, **{"SeriesNumber": 7, "SeriesDescription": "knee", **second})
    save(brighter(first, 100), where / "hip")
    save(other, where / "knee")


@pytest.mark.parametrize("how", ["first", "mean"])
@pytest.mark.parametrize("second", [{}, {"SeriesNumber": 6}, {"EchoTime": 2.47}])
def test_D09_stations_that_are_series_are_joined_if_asked_for(tmp_path, how, second):
    stations(tmp_path, **second)
    one, other = expected() + 100, expected()
    joined = np.concatenate([one, other[:, :, 3:]], axis=2)
    if how == "mean":
        joined[:, :, 9:12] = np.rint((one[:, :, 9:] + other[:, :, :3]) / 2)

    refused = refusal(tmp_path)
    reading = read(tmp_path, overlap=how)

    assert refused.code == "D01"
    assert "--overlap first" in str(refused)
    assert_base(reading, joined)
    assert {finding.code for finding in reading.findings} >= {"D09"}


@pytest.mark.parametrize(
    "second",
    [
        {"FrameOfReferenceUID": "1.2.3"},
        {"EchoTime": 4.92},
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "FAT"]},
        {"PixelSpacing": [0.5, 0.5]},
    ],
)
def test_D01_series_of_another_kind_are_no_stations(tmp_path, second):
    stations(tmp_path, **second)

    assert "--overlap" not in str(refusal(tmp_path))
    assert refusal(tmp_path, overlap="first").code == "D01"


def test_D01_series_of_one_name_are_told_apart_and_chosen_by_uid(tmp_path):
    uids = []
    for n in range(2):
        slices = brighter(each(base(), SeriesTime=f"10153{n}"), 100 * n)
        uids.append(slices[0].SeriesInstanceUID)
        save(slices, tmp_path / "ab"[n])

    refused = str(refusal(tmp_path))

    for n, uid in enumerate(uids):
        assert uid in refused
        assert f"SeriesTime “10153{n}”" in refused
        assert f"12 files, the first is “{'ab'[n]}/IM-0000.dcm”" in refused
        assert_base(read(tmp_path, series=uid), expected() + 100 * n)


@pytest.mark.parametrize("sop_class", [SecondaryCaptureImageStorage, "1.3.46.670589.1"])
def test_D03_placed_mr_of_another_class_is_used_where_there_is_no_other(
    tmp_path, sop_class
):
    slices = each(base(), SOPClassUID=sop_class)
    for ds in slices:
        ds.file_meta.MediaStorageSOPClassUID = sop_class
    save(slices, tmp_path)

    reading = read(tmp_path)

    assert_base(reading)
    assert [(f.code, f.outcome) for f in reading.findings] == [("D03", Outcome.WARNED)]
    save(base(), tmp_path, prefix="mr")
    assert len(read(tmp_path).files.excluded) == 12


@pytest.mark.parametrize("many_frames", [False, True])
def test_P14_decimal_commas_are_read_as_points(tmp_path, many_frames):
    slices = base(4)
    (file,) = save([enhanced(slices)], tmp_path) if many_frames else [None]
    for path in [file] if file else save(slices, tmp_path):
        content = path.read_bytes()
        assert b"0.75\\0.75" in content
        path.write_bytes(content.replace(b"0.75\\0.75", b"0,75\\0,75"))

    reading = read(tmp_path)

    assert_base(reading, expected(4))
    assert [f.code for f in reading.findings] == ["P14"]


def test_D14_files_packed_with_gzip_are_read_and_their_copies_are_known(tmp_path):
    files = save(base(), tmp_path)
    for file in files:
        packed = gzip.compress(file.read_bytes())
        file.with_suffix(".dcm.gz").write_bytes(packed)
    (tmp_path / "mask.nii.gz").write_bytes(gzip.compress(bytes(4000)))
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8b broken")
    codes = [f.code for f in read(tmp_path).findings]
    for file in files:
        file.unlink()

    reading = read(tmp_path)

    assert codes == ["D14", "D07"]
    assert_base(reading)
    assert len(reading.files.excluded) == 2
    cut = tmp_path / "IM-0004.dcm.gz"
    cut.write_bytes(cut.read_bytes()[:-200])
    assert "P10" in {finding.code for finding in refusal(tmp_path).findings}


def test_S06_a_packed_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_bridge.formats.dicom.headers.MAX_INFLATED_BYTES", 9999)
    (tmp_path / "a.dcm.gz").write_bytes(
        gzip.compress(bytes(128) + b"DICM" + bytes(20_000))
    )

    assert refusal(tmp_path).code == "S06"


def test_F01_the_content_of_git_annex_is_read_and_other_links_are_named(tmp_path):
    study = tmp_path / "study"
    store, scan = study / ".git" / "annex" / "objects", study / "scans" / "1_x_A"
    scan.mkdir(parents=True)
    for file in save(base(), store):
        (scan / file.name).symlink_to(f"../../.git/annex/objects/{file.name}")
    (tmp_path / "link").symlink_to(scan)
    outside = save(base(1), tmp_path / "outside")[0]
    (scan / "out.dcm").symlink_to(outside)

    for where in (scan, tmp_path / "link"):
        reading = read(where)
        assert_base(reading)
        assert [f.code for f in reading.findings] == ["F01"]
        assert "“out.dcm”" in reading.findings[0].message


def test_the_work_grows_no_faster_than_the_frames(tmp_path):
    def calls(files):
        where = tmp_path / str(files)
        whole = [each([enhanced(base(40))], SeriesNumber=n)[0] for n in range(files)]
        save(whole, where)
        profile = cProfile.Profile()
        profile.runcall(read, where, series="0")
        return pstats.Stats(profile, stream=io.StringIO()).total_calls

    few, many = calls(2), calls(8)

    assert many < 4.4 * few
