"""FAULTS 3.3: pixels, encodings and damaged files."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from dicom_base import base, each, expected, pixels, save
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from test_dicom_series import assert_base_stack, codes, refusal

from nnunet_bridge.core.findings import Outcome, worst
from nnunet_bridge.formats.dicom import SeriesOptions, read_series

ROOT = Path(__file__).parents[2]


def test_P01_each_slice_is_scaled_by_its_own_slope(tmp_path):
    slices = base()
    for k, ds in enumerate(slices):
        slope = 1 + 0.1 * k
        stored = np.rint(pixels(k) / slope).astype("<u2")
        ds.PixelData = stored.tobytes()
        ds.RescaleSlope, ds.RescaleIntercept = f"{slope:.1f}", "0"
    save(slices, tmp_path)

    reading = read_series(tmp_path)

    assert reading.volume.voxels.dtype == np.float32
    assert reading.rescale_slopes == pytest.approx((1.0, 2.1))
    assert np.abs(reading.volume.voxels - expected()).max() <= 1.05


def test_P01_whole_results_of_a_scale_stay_whole_numbers(tmp_path):
    save(each(base(), RescaleSlope="2", RescaleIntercept="-1024"), tmp_path)

    voxels = read_series(tmp_path).volume.voxels

    assert voxels.dtype == np.int16
    np.testing.assert_array_equal(voxels, expected().astype(int) * 2 - 1024)


def test_P02_the_private_scale_of_philips_is_noted_and_never_used(tmp_path):
    slices = base()
    for ds in slices:
        ds.add_new(0x20050010, "LO", "Philips MR Imaging DD 001")
        ds.add_new(0x2005100E, "FL", 0.00345)
        ds.RescaleSlope, ds.RescaleIntercept = "2", "-5"
    save(slices, tmp_path)

    reading = read_series(tmp_path)

    assert codes(reading) == ["P02"]
    assert worst(reading.findings) is Outcome.ACCEPTED
    assert reading.interventions == {"private_scale_ignored": True}
    np.testing.assert_array_equal(reading.volume.voxels, expected().astype(int) * 2 - 5)


@pytest.mark.parametrize("signed", [False, True])
def test_P03_an_inverted_series_is_turned_over_if_asked_for(tmp_path, signed):
    slices = base()
    for k, ds in enumerate(slices):
        ds.PhotometricInterpretation = "MONOCHROME1"
        if signed:
            ds.PixelRepresentation = 1
            ds.PixelData = (pixels(k).astype("<i2") - 1500).tobytes()
    save(slices, tmp_path)

    reading = read_series(tmp_path, SeriesOptions(invert_monochrome1=True))

    assert codes(reading) == ["P03"]
    assert reading.interventions == {"inverted_monochrome1": True}
    stored = expected().astype(int) - (1500 if signed else 0)
    turned = -1 - stored if signed else 4095 - stored
    np.testing.assert_array_equal(reading.volume.voxels, turned)


def test_P03_turning_over_agrees_with_simpleitk(tmp_path):
    import SimpleITK as sitk  # noqa: N813 - its common name

    files = save(each(base(), PhotometricInterpretation="MONOCHROME1"), tmp_path)

    ours = read_series(tmp_path, SeriesOptions(invert_monochrome1=True)).volume

    for k, file in enumerate(files):
        theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[0]
        np.testing.assert_array_equal(ours.voxels[:, :, k].T, theirs)


def test_P04_each_slice_is_decoded_by_its_own_sign(tmp_path):
    slices = base()
    for k, ds in enumerate(slices):
        ds.BitsStored, ds.HighBit = 16, 15
        if k % 2:
            ds.PixelRepresentation = 1
            ds.PixelData = (pixels(k).astype("<i2") - 3000).tobytes()
    slices[0].PixelData = (pixels(0) + 40000).astype("<u2").tobytes()
    save(slices, tmp_path)

    voxels = read_series(tmp_path).volume.voxels

    assert voxels[0, 0, 0] == 40100
    assert voxels[0, 0, 1] == 110 - 3000


def test_P04_a_sign_bit_below_the_top_is_a_sign(tmp_path):
    slices = each(
        base(),
        PixelRepresentation=1,
        PixelData=np.full((32, 32), 0x0FFF, "<u2").tobytes(),
    )
    slices[1].PixelData = pixels(1).tobytes()
    save(slices, tmp_path)

    voxels = read_series(tmp_path).volume.voxels

    assert voxels[0, 0, 0] == -1


def test_P05_padding_becomes_the_smallest_real_value(tmp_path):
    slices = base()
    for k, ds in enumerate(slices):
        values = pixels(k)
        values[:, 25:] = 63536
        ds.PixelData = values.tobytes()
        ds.add_new("PixelPaddingValue", "US", 63536)
    save(slices, tmp_path)

    reading = read_series(tmp_path)

    assert codes(reading) == ["P05"]
    assert reading.volume.voxels[25:].max() == 100
    np.testing.assert_array_equal(reading.volume.voxels[:25], expected()[:25])


def test_P06_rubbish_above_the_high_bit_is_masked(tmp_path):
    slices = base()
    for k, ds in enumerate(slices):
        ds.PixelData = (pixels(k) | 0x8000).tobytes()
    save(slices, tmp_path)

    assert_base_stack(read_series(tmp_path))


def by_imagecodecs(name, **options):
    """Return a way to encode a frame with the codec of that name."""

    def encode(ds):
        import imagecodecs

        values = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)
        return getattr(imagecodecs, f"{name}_encode")(values, **options)

    return encode


ENCODERS = {
    "JPEG lossless .57": ("57", by_imagecodecs("ljpeg", bitspersample=16)),
    "JPEG lossless .70": ("70", by_imagecodecs("ljpeg", bitspersample=16)),
    "JPEG-LS .80": ("80", by_imagecodecs("jpegls")),
    "JPEG 2000 .90": (
        "90",
        by_imagecodecs("jpeg2k", reversible=True, level=0, codecformat="j2k"),
    ),
    "HTJ2K .201": ("201", by_imagecodecs("htj2k", reversible=True)),
    "HTJ2K .203": ("203", by_imagecodecs("htj2k", reversible=True)),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_P07_what_another_library_compressed_is_decoded_to_the_same_values(
    tmp_path, name
):
    ending, encode = ENCODERS[name]
    slices = base()
    for ds in slices:
        ds.BitsStored, ds.HighBit = 16, 15
        ds.PixelData = encapsulate([encode(ds)])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.4.{ending}"
    save(slices, tmp_path)

    reading = read_series(tmp_path)

    assert_base_stack(reading)
    assert codes(reading) == (["P07"] if ending == "203" else [])


def test_P07_run_length_encoding_is_decoded(tmp_path):
    slices = base()
    for ds in slices:
        ds.compress(RLELossless)
    save(slices, tmp_path)

    assert_base_stack(read_series(tmp_path))


def test_P07_every_decoder_is_a_declared_dependency_under_a_free_licence():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split("[>=<]", line)[0] for line in project["dependencies"]}

    for package in ("python-gdcm", "pylibjpeg", "pylibjpeg-openjpeg", "pillow"):
        assert package in declared
        about = metadata.metadata(package)
        words = " ".join(
            [
                *about.get_all("Classifier", []),
                *about.get_all("License", []),
                *about.get_all("License-Expression", []),
            ]
        )
        assert re.search(r"MIT|Apache|BSD|HPND", words), package
        assert "GPL" not in words, package
    assert "pylibjpeg-libjpeg" not in declared


@pytest.mark.parametrize(
    ("syntax", "implicit", "little"),
    [
        (DeflatedExplicitVRLittleEndian, False, True),
        (ImplicitVRLittleEndian, True, True),
        (ExplicitVRBigEndian, False, False),
    ],
)
def test_P08_the_other_plain_syntaxes_are_read(tmp_path, syntax, implicit, little):
    for k, ds in enumerate(base()):
        ds.file_meta.TransferSyntaxUID = syntax
        order = "<" if little else ">"
        ds.PixelData = pixels(k).astype(f"{order}u2").tobytes()
        ds.save_as(tmp_path / f"{k}.dcm", implicit_vr=implicit, little_endian=little)

    assert_base_stack(read_series(tmp_path))


def floats(values):
    slices = base(3)
    for ds in slices:
        del ds.PixelData
        ds.BitsAllocated = ds.BitsStored = 32
        ds.HighBit = 31
        ds.FloatPixelData = np.asarray(values, "<f4").tobytes()
    return slices


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_P11_values_that_are_no_numbers_are_refused(tmp_path, poison):
    values = np.linspace(0, 1, 1024).reshape(32, 32)
    values[4, 4] = poison
    save(floats(values), tmp_path)

    assert refusal(tmp_path).code == "P11"


def test_P11_float_pixels_are_read(tmp_path):
    values = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    save(floats(values), tmp_path)

    voxels = read_series(tmp_path).volume.voxels

    np.testing.assert_array_equal(voxels[:, :, 1], values.T)


def test_P12_text_in_the_wrong_character_set_changes_nothing(tmp_path):
    folder = tmp_path / "Größe 測定"
    files = save(
        each(base(), SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg"),
        folder,
    )
    for file in files:
        file.write_bytes(file.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 999"))

    assert_base_stack(read_series(folder))


def test_S06_a_deflated_bomb_is_refused(tmp_path):
    ds = base(1)[0]
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.add_new(0x00091001, "OB", bytes(300 * 2**20))
    ds.add_new(0x00090010, "LO", "BOMB")
    ds.save_as(tmp_path / "bomb.dcm", enforce_file_format=True)

    refused = refusal(tmp_path)

    assert "S06" in {finding.code for finding in refused.findings}


def test_S07_an_absurd_matrix_is_refused(tmp_path):
    slices = base()
    slices[2].Rows = slices[2].Columns = 65535
    save(slices, tmp_path)

    assert "S07" in {finding.code for finding in refusal(tmp_path).findings}
