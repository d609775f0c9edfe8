"""The short way through a plain file and pydicom's way end in the same headers."""

import warnings
from dataclasses import fields, replace

import numpy as np
import pydicom
import pytest
from dicom_base import base, enhanced, save
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from nnunet_bridge.formats.dicom import headers as headers_module
from nnunet_bridge.formats.dicom import read_series
from nnunet_bridge.formats.dicom.headers import (
    Damaged,
    HeaderReader,
    NotUsed,
    PixelPlace,
    SliceHeader,
    _read_by_pydicom,
)
from nnunet_bridge.formats.dicom.walker import Unusual, Walker


def by_pydicom(file):
    """Return headers, or the kind and words of the verdict."""
    return outcome(_read_by_pydicom, file)


def by_ourselves(file, reader=None):
    return outcome((reader or HeaderReader()).read, file)


def outcome(read, file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read(file, file.name)
        except (NotUsed, Damaged) as verdict:
            return type(verdict), verdict.code, str(verdict)


def is_plain(file):
    try:
        Walker(headers_module._WALKED_TAGS).walk(file)
    except Unusual:
        return False
    return True


numbers = st.sampled_from(["1", " 0.75", "+1.50", "7.5E-1", ".5 ", "-3.", "00012"])
wholes = st.sampled_from(["0", "7", "007", "+12", " 3 ", "-1"])
plain_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
texts = plain_text.map(lambda text: text.replace("\\", "/"))
WANTED = {
    "SeriesDescription": texts,
    "PatientID": texts,
    "SeriesNumber": wholes,
    "InstanceNumber": wholes,
    "AcquisitionNumber": wholes,
    "EchoNumbers": wholes | st.lists(wholes, min_size=2, max_size=3),
    "EchoTime": numbers,
    "TriggerTime": numbers,
    "SliceThickness": numbers | st.just(""),
    "SpacingBetweenSlices": numbers,
    "RescaleSlope": numbers,
    "RescaleIntercept": numbers,
    "PixelSpacing": st.lists(numbers, min_size=1, max_size=3),
    "ImagePositionPatient": st.lists(numbers, min_size=3, max_size=3),
    "ImageType": st.lists(st.sampled_from(["ORIGINAL", "WATER ", "", "M"]), max_size=5),
    "PixelPaddingValue": st.integers(0, 65535),
    "LossyImageCompression": st.sampled_from(["00", "01", ""]),
    "BurnedInAnnotation": st.sampled_from(["YES", "NO"]),
    "SpecificCharacterSet": st.sampled_from(["ISO_IR 100", "ISO_IR 192", "ISO_IR 13"]),
    "PhotometricInterpretation": st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    "NumberOfFrames": st.sampled_from(["1", "2"]),
    "Rows": st.integers(0, 65535),
    "Modality": st.sampled_from(["MR", "CT", "OT"]),
    "SamplesPerPixel": st.sampled_from([1, 3]),
}


@st.composite
def nested(draw, depth=2):
    """Return a private block with values and sequences of any kind of length."""
    block = Dataset()
    block.add_new(0x00090010, "LO", "SOMEBODY")
    for place in draw(st.sets(st.integers(0x01, 0x20), max_size=5)):
        kind = draw(st.sampled_from(["LO", "DS", "OB", "UN", "FD", "UT", "SQ"]))
        tag = 0x00091000 + place
        if kind == "SQ":
            items = st.lists(nested(depth=depth - 1), max_size=3 if depth else 0)
            sequence = Sequence(draw(items))
            sequence.is_undefined_length = draw(st.booleans())
            for item in sequence:
                item.is_undefined_length_sequence_item = draw(st.booleans())
            block.add_new(tag, "SQ", sequence)
            block[tag].is_undefined_length = sequence.is_undefined_length
        else:
            block.add_new(tag, kind, draw(VALUES[kind]))
    return block


VALUES = {
    "LO": texts,
    "DS": numbers,
    "FD": st.floats(allow_nan=False),
    "UT": st.text("abc ", max_size=9000),
    "OB": st.binary(max_size=9000).map(lambda value: value + bytes(len(value) % 2)),
    "UN": st.binary(max_size=60).map(lambda value: value + bytes(len(value) % 2)),
}


@examples(200)
@given(
    attributes=st.fixed_dictionaries({}, optional=WANTED),
    private=nested(),
    deleted=st.sets(st.sampled_from(["Rows", "Modality", "PixelSpacing", "ImageType"])),
)
def test_both_ways_give_the_same_headers(
    tmp_path_factory, attributes, private, deleted
):
    ds = base(1, size=8)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        for keyword in deleted - set(attributes):
            delattr(ds, keyword)
        ds.update(private)
        (file,) = save([ds], tmp_path_factory.mktemp("one"))

    assert by_ourselves(file) == by_pydicom(file)


@examples(300)
@given(
    damage=st.lists(
        st.tuples(st.integers(128, 1300), st.integers(0, 255)), min_size=1, max_size=3
    ),
    cut=st.none() | st.integers(0, 1300),
)
def test_both_ways_agree_about_damaged_files(tmp_path_factory, damage, cut):
    (file,) = save(base(1, size=8), tmp_path_factory.mktemp("one"))
    content = spoilt(file.read_bytes(), damage)
    file.write_bytes(content[: len(content) if cut is None else len(content) - cut])

    assert by_ourselves(file) == by_pydicom(file)


@examples(200)
@given(
    damage=st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), max_size=3)
)
def test_damage_in_a_skipped_sequence_changes_no_header(tmp_path_factory, damage):
    ds = base(1, size=8)[0]
    ds.add_new(0x00091001, "SQ", Sequence([Dataset(), base(1, size=2)[0]]))
    ds[0x00091001].is_undefined_length = True
    (file,) = save([ds], tmp_path_factory.mktemp("one"))
    sound = by_pydicom(file)
    content = file.read_bytes()
    first = content.index(b"\x09\x00\x01\x10SQ")
    end = content.index(b"\xfe\xff\xdd\xe0", first)
    inside = [
        (first + 12 + place % (end - first - 12), value) for place, value in damage
    ]
    file.write_bytes(spoilt(content, inside))

    assert by_ourselves(file) in (sound, by_pydicom(file))


def spoilt(content, damage):
    content = bytearray(content)
    for place, value in damage:
        content[place % len(content)] = value
    return content


def test_a_plain_file_is_walked_and_not_handed_on(tmp_path):
    ds = base(1)[0]
    inner = Dataset()
    inner.PatientComments = "inner"
    ds.ReferencedImageSequence = Sequence([inner])
    ds["ReferencedImageSequence"].is_undefined_length = True
    inner.is_undefined_length_sequence_item = True
    (file,) = save([ds], tmp_path)

    assert is_plain(file)


@pytest.mark.parametrize("kind", ["implicit", "compressed", "no preamble", "frames"])
def test_anything_else_is_handed_to_pydicom(tmp_path, kind):
    ds = base(1)[0]
    file = tmp_path / "one.dcm"
    if kind == "implicit":
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        ds.save_as(file, enforce_file_format=True)
    elif kind == "compressed":
        ds.compress(RLELossless)
        ds.save_as(file, enforce_file_format=True)
    elif kind == "frames":
        ds.NumberOfFrames = 2
        ds.save_as(file, enforce_file_format=True)
    else:
        ds.save_as(file, enforce_file_format=True)
        file.write_bytes(file.read_bytes()[132:])
    asked = []
    reader = HeaderReader(
        lambda *words: asked.append(words) or _read_by_pydicom(*words)
    )

    by_ourselves(file, reader)

    assert len(asked) == 1


def test_runs_learnt_from_one_file_do_not_change_the_next(tmp_path):
    slices = base(30, size=8)
    rng = np.random.default_rng(5)
    for ds in slices:
        block = ds.private_block(0x0019, "VENDOR", create=True)
        for place in range(40):
            kept = rng.random() < 0.8  # most elements repeat, some are not there
            text = f"value {place}" if rng.random() < 0.9 else rng.bytes(3).hex()
            if kept:
                block.add_new(place, "LO", text)
        ds.EchoTime = round(float(rng.uniform(1, 3)), 3)
    reader = HeaderReader()

    for file in save(slices, tmp_path):
        assert by_ourselves(file, reader) == by_pydicom(file)


def real_files(test_data):
    folders = [test_data / "dicom", test_data / "dicom_seg"]
    return [
        file
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "dcm" in file.parts
    ]


def test_both_ways_give_the_same_headers_of_every_real_file(test_data):
    reader, plain = HeaderReader(), 0
    for file in real_files(test_data):
        assert by_ourselves(file, reader) == by_pydicom(file), file
        plain += is_plain(file)

    assert plain >= 100


def test_both_ways_give_the_same_volume(tmp_path):
    slices = base()
    slices[3].BitsStored, slices[3].HighBit = 16, 15
    slices[4].PixelRepresentation = 1
    save(slices, tmp_path / "plain")
    for ds in slices:
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    save(slices, tmp_path / "implicit")

    walked, parsed = (read_series(tmp_path / way) for way in ("plain", "implicit"))

    np.testing.assert_array_equal(walked.volume.voxels, parsed.volume.voxels)
    np.testing.assert_array_equal(walked.volume.grid.affine, parsed.volume.grid.affine)
    assert walked.findings == parsed.findings
    assert walked.files == parsed.files


def read_one(tmp_path, ds):
    (file,) = save([ds], tmp_path)
    assert by_ourselves(file) == by_pydicom(file)
    return by_pydicom(file)


def vars_of(value):
    return [getattr(value, field.name) for field in fields(value)]


PLAIN = {"BitsStored": 16, "HighBit": 15}


@pytest.mark.parametrize(
    ("attributes", "is_plain"),
    [
        ({}, True),
        ({"BitsStored": 12, "HighBit": 11}, True),
        ({"BitsStored": 12, "HighBit": 15}, False),
        ({"RescaleSlope": "2"}, False),
        ({"RescaleIntercept": "-1"}, False),
        ({"RescaleSlope": "1", "RescaleIntercept": "0"}, True),
        ({"PixelPaddingValue": 0}, False),
        ({"PhotometricInterpretation": "MONOCHROME1"}, False),
    ],
)
def test_stored_numbers_are_values_only_if_nothing_changes_them(
    tmp_path, attributes, is_plain
):
    ds = base(1, size=8)[0]
    for keyword, value in {**PLAIN, **attributes}.items():
        setattr(ds, keyword, value)

    (header,) = read_one(tmp_path, ds)

    assert header.encoding.is_plain == is_plain
    if attributes == {}:
        packed = replace(header.encoding, syntax=RLELossless)
        assert not packed.is_plain


def test_what_a_header_leaves_out_of_its_encoding_is_the_plain_way(tmp_path):
    ds = base(1, size=8)[0]
    for keyword in ("BitsStored", "HighBit", "SamplesPerPixel"):
        delattr(ds, keyword)

    (header,) = read_one(tmp_path, ds)

    encoding = header.encoding
    assert (encoding.bits_allocated, encoding.bits_stored) == (16, 16)
    assert (encoding.high_bit, encoding.slope, encoding.intercept) == (15, 1.0, 0.0)
    (tmp_path / "8").mkdir()
    ds.BitsAllocated, ds.PixelData = 8, bytes(64)
    (eight,) = read_one(tmp_path / "8", ds)
    assert (eight.encoding.bits_allocated, eight.encoding.high_bit) == (8, 7)


@pytest.mark.parametrize(
    ("sop_class", "modality", "verdict"),
    [
        ("1.2.840.10008.5.1.4.1.1.7", "OT", "not an MR image but Secondary Capture"),
        ("1.2.3.4", "OT", "a file of an unknown class"),
        ("1.2.840.10008.5.1.4.1.1.7", "MR", None),
        ("1.2.3.4", "MR", None),
        (None, "MR", None),
        (None, "CT", None),
        (None, "OT", "a file without an SOP class"),
    ],
)
def test_D03_the_class_counts_and_the_modality_only_where_there_is_no_class(
    tmp_path, sop_class, modality, verdict
):
    ds = base(1, size=8)[0]
    ds.Modality, ds.SOPClassUID = modality, sop_class or ""
    if sop_class is None:
        del ds.SOPClassUID
        del ds.file_meta.MediaStorageSOPClassUID
    else:
        ds.file_meta.MediaStorageSOPClassUID = sop_class
    file = tmp_path / "one.dcm"
    pydicom.dcmwrite(file, ds, enforce_file_format=False)

    found = by_pydicom(file)

    assert by_ourselves(file) == found
    if verdict is None:
        assert found[0].contrast.modality == modality
    else:
        assert found[:2] == (NotUsed, "D03")
        assert verdict in found[2]


@pytest.mark.parametrize(("samples", "is_grey"), [(1, True), (2, False), (3, False)])
def test_D03_an_image_of_several_samples_a_pixel_is_not_grey(
    tmp_path, samples, is_grey
):
    ds = base(1, size=8)[0]
    ds.SamplesPerPixel = samples

    found = read_one(tmp_path, ds)

    assert (found[0] is not NotUsed) == is_grey
    assert is_grey or found == (NotUsed, "D03", "colour image")


def test_frames_share_what_the_shared_groups_hold(tmp_path):
    whole = enhanced(base(3, size=8))
    for frame in whole.PerFrameFunctionalGroupsSequence:
        measures = frame.PixelMeasuresSequence
        del frame.PixelMeasuresSequence
    whole.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = measures
    (file,) = save([whole], tmp_path)

    headers = by_pydicom(file)

    assert {header.plane.pixel_spacing_mm for header in headers} == {(0.75, 0.75)}
    assert {header.thickness_mm for header in headers} == {4.0}
    assert [header.frame for header in headers] == [0, 1, 2]
    del whole.SharedFunctionalGroupsSequence
    (file,) = save([whole], tmp_path)
    assert {header.plane.pixel_spacing_mm for header in by_pydicom(file)} == {None}


echoes = st.sampled_from([None, 0.0, 1.5, 30.25])
frame_types = st.lists(st.sampled_from(["ORIGINAL", "M", "WATER", ""]), max_size=4)


@st.composite
def groups_of_frames(draw):
    """Draw the functional groups of three frames, with lengths of both kinds."""
    frames = []
    for ds in base(3, size=2):
        frame, content, echo, kind, scale = (Dataset() for _ in range(5))
        place, sizes, turn = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = draw(st.lists(numbers, min_size=3, max_size=3))
        sizes.PixelSpacing = draw(st.lists(numbers, min_size=1, max_size=3))
        turn.ImageOrientationPatient = ds.ImageOrientationPatient
        content.FrameAcquisitionNumber = draw(st.integers(0, 3))
        content.TemporalPositionIndex = draw(st.integers(0, 70_000))
        content.add_new(0x00291010, "UN", draw(st.binary(max_size=9)) + b"\0")
        echo.EffectiveEchoTime = draw(echoes)
        kind.FrameType = draw(frame_types)
        scale.RescaleSlope = draw(numbers)
        frame.PlanePositionSequence, frame.PixelMeasuresSequence = [place], [sizes]
        frame.PlaneOrientationSequence = [turn]
        for name, group in (
            ("FrameContentSequence", content),
            ("MREchoSequence", echo),
            ("MRImageFrameTypeSequence", kind),
            ("PixelValueTransformationSequence", scale),
        ):
            if draw(st.booleans()):
                setattr(frame, name, draw(st.sampled_from([[group], [group] * 2, []])))
        for element in frame:
            element.is_undefined_length = draw(st.booleans())
            for item in element.value:
                item.is_undefined_length_sequence_item = draw(st.booleans())
        frames.append(frame)
    return frames


@examples(60)
@given(frames=groups_of_frames(), shared=st.integers(0, 2))
def test_frames_are_the_same_whether_they_are_walked_or_not(
    tmp_path_factory, frames, shared
):
    """Implicit VR goes to pydicom, explicit VR is walked."""
    found = []
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        whole = enhanced(base(3, size=2))
        whole.file_meta.TransferSyntaxUID = syntax
        whole.SOPInstanceUID = "1.2.3"
        whole.PerFrameFunctionalGroupsSequence = frames
        whole.SharedFunctionalGroupsSequence = [frames[shared]]
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(whole, name, "1.2")
        (file,) = save([whole], tmp_path_factory.mktemp("frames"))
        found.append(by_ourselves(file))

    walked, parsed = found
    assert type(walked) is type(parsed)
    if not isinstance(walked[0], SliceHeader):
        assert walked == parsed
        return
    for one, other in zip(walked, parsed, strict=True):
        encoding = replace(other.encoding, syntax=one.encoding.syntax)
        same = {"file": one.file, "pixels": one.pixels, "encoding": encoding}
        assert one == replace(other, **same)
        assert one.pixels.length == other.pixels.length == 3 * 2 * 2 * 2


def test_groups_of_explicit_vr_are_walked(tmp_path):
    (file,) = save([enhanced(base(3))], tmp_path)
    with file.open("rb") as stream:
        headers_module._read(stream, headers_module._FRAMES_TAG, announced=True)

        groups = headers_module._walked_groups(stream)

        assert len(groups["PerFrameFunctionalGroupsSequence"]) == 3
        assert headers_module._at_pixels(stream)


@pytest.mark.parametrize("cut", [0, 10, 128])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_place_of_the_pixels_is_that_of_their_bytes(tmp_path, syntax, cut):
    ds = base(1, size=8)[0]
    ds.file_meta.TransferSyntaxUID = syntax
    (file,) = save([ds], tmp_path)
    content = file.read_bytes()
    begin = content.index(ds.PixelData)
    file.write_bytes(content[: len(content) - cut])

    (header,) = by_pydicom(file)

    assert header.pixels == PixelPlace("PixelData", begin, 128, 128 - cut)


def test_a_file_that_ends_before_its_pixels_has_none(tmp_path):
    ds = base(1, size=8)[0]
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    (file,) = save([ds], tmp_path)
    content = file.read_bytes()
    begin = content.index(ds.PixelData) - 8
    for kept in (begin, begin + 5):
        file.write_bytes(content[:kept])
        (header,) = by_pydicom(file)
        assert (header.pixels.length, header.pixels.available) == (0, 0)


def test_F12_a_header_shows_no_identity_when_it_is_printed(tmp_path):
    (header,) = read_one(tmp_path, base(1, size=8)[0])

    shown = repr(header)

    for text in (*vars_of(header.identity), header.description):
        assert text
        assert repr(text) not in shown
