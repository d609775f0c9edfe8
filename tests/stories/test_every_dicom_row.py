"""FAULTS 3.1 to 3.3, row by row, as a user meets them: `check` and `convert`.

Every row spoils a scan as the specification says. A second, sound patient stands beside
it, so that a refusal ends with exit code 4 and everything else with 0.
"""

import copy
import gc
import json
import re
import shutil
import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest
from click.testing import CliRunner
from dicom_base import base, each, enhanced, new_uids, pixels, save
from pydicom.fileset import FileSet
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from small_study import SCANS, scan

from nnunet_bridge.cli import main

RECIPE = f"""
[dataset]
id = 1
name = "Tibia"
case = "msk_{{index:03d}}"

[scans]
folder = "{SCANS}"

[labels]
tibia = 1
"""
ROWS = {}


@dataclass(frozen=True)
class Row:
    """What a row promises."""

    make: object
    outcome: str
    codes: set
    says: str = ""
    """A regular expression that the messages match."""

    used: int = 12
    excluded: int = 0
    failed: int = 0
    words: tuple = field(default=())
    """Options of the command line."""


def row(name, outcome, codes="", says="", words=(), **files):
    def keep(make):
        expected = set(codes.split()) if codes else set()
        if outcome == "refused":
            files.setdefault("used", 0)
        ROWS[name] = Row(make, outcome, expected, says, words=words, **files)
        return make

    return keep


def lifted(slices, by):
    for ds in slices:
        ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") + by).tobytes()
    return slices


@row(
    "D01 two series",
    "refused",
    "D01",
    r"series 6 .*\n.*series 7 .*`--series`",
    excluded=24,
)
@row("D01 one chosen", "accepted", words=("--series", "7"), excluded=12)
@row("D01 none of that", "refused", "D01", words=("--series", "8"), excluded=24)
def two_series(folder):
    save(base(), folder, prefix="a")
    save(each(base(dz=6), SeriesNumber=7), folder, prefix="b")


@row(
    "D02 localiser",
    "warned",
    "D02",
    r"2 of 14 images differ in orientation",
    excluded=2,
)
def localiser(folder):
    uids = new_uids()
    save(base(uids=uids), folder)
    save(base(1, uids=uids, iop=(0, 1, 0, 0, 0, -1)), folder, prefix="x")
    save(base(1, uids=uids, iop=(1, 0, 0, 0, 0, -1)), folder, prefix="y")


@row("D02 two stacks", "refused", "D02", r"12 agree, 5 differ", excluded=17)
def two_stacks(folder):
    uids = new_uids()
    save(base(uids=uids), folder)
    save(base(5, uids=uids, iop=(0, 1, 0, 0, 0, -1)), folder, prefix="x")


@row("D03 screenshot", "accepted", "D03", r"Secondary Capture", excluded=1)
def screenshot(folder):
    save(base(), folder)
    ds = base(1)[0]
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 3, "RGB"
    ds.PlanarConfiguration, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 0, 8, 8, 7
    ds.PixelData = bytes(3 * 32 * 32)
    del ds.ImagePositionPatient, ds.ImageOrientationPatient
    save([ds], folder, prefix="shot")


@row("D03 derived", "warned", "D03", r"DERIVED\\SECONDARY")
def derived(folder):
    save(each(base(), ImageType=["DERIVED", "SECONDARY", "M"]), folder)


def dixon(folder):
    uids = new_uids()
    for number, contrast in enumerate(["IN_PHASE", "OPP_PHASE", "WATER", "FAT"]):
        slices = lifted(base(uids=uids), 1000 * number)
        each(slices, ImageType=["ORIGINAL", "PRIMARY", "M", contrast])
        save(slices, folder, prefix=contrast)


row("D04 Dixon", "refused", "D04", r"4 sets.*`--image-type`", excluded=48)(dixon)
row("D04 water named", "accepted", words=("--image-type", "WATER"), excluded=36)(dixon)


@row("D05 two echoes", "refused", "D05", r"TE 2.46 ms.*\n.*TE 3.69 ms", excluded=24)
@row("D05 one chosen", "accepted", words=("--echo", "2"), excluded=12)
@row("D05 none of that", "refused", "D05", words=("--echo", "3"), excluded=24)
def echoes(folder):
    uids = new_uids()
    save(base(uids=uids), folder)
    save(each(base(uids=uids), EchoTime=3.69, EchoNumbers=2), folder, prefix="e2")


@row("D06 repeats", "refused", "D06", r"acquisition 1.*\n.*acquisition 2", excluded=24)
@row("D06 one chosen", "accepted", words=("--repetition", "2"), excluded=12)
def repeats(folder):
    uids = new_uids()
    save(each(base(uids=uids), AcquisitionNumber=1), folder)
    save(each(base(uids=uids), AcquisitionNumber=2), folder, prefix="r2")


@row("D07 copy", "fixed", "D07", r"1 slice exists twice", excluded=1)
def copied(folder):
    slices = base()
    save([*slices, copy.deepcopy(slices[4])], folder)


@row(
    "D07 two contents", "refused", "D07 D08", r"IM-0004.* and .*IM-0012.*", excluded=13
)
def two_contents(folder):
    slices = base()
    save([*slices, *lifted([copy.deepcopy(slices[4])], 1)], folder)


@row("D08 other image", "refused", "D08", r"IM-0003.*IM-0012.*-88\.00", excluded=13)
def other_image(folder):
    slices = base()
    other = lifted([copy.deepcopy(slices[3])], 500)[0]
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    save([*slices, other], folder)


def stations(folder, start=36.0, more=1000):
    uids = new_uids()
    save(base(uids=uids), folder)
    second = base(uids=uids, zs=[start + 4 * k for k in range(12)])
    save(lifted(second, more), folder, prefix="s2")


row("D09 overlap", "refused", "D09", r"3 places hold more than one", excluded=24)(
    stations
)
row(
    "D09 first", "warned", "D09", r"3 places.*Mean difference.*912\.8",
    words=("--overlap", "first"), used=21, excluded=3,
)(stations)  # fmt: skip
row("D09 mean", "warned", "D09", r"averaged", words=("--overlap", "mean"), used=24)(
    stations
)


@row("D09 alike", "fixed", "D09", words=("--overlap", "mean"), used=24)
def stations_alike(folder):
    uids = new_uids()
    save(base(uids=uids), folder)
    second = base(uids=uids, zs=[36 + 4 * k for k in range(12)])
    for k in range(3):
        second[k].PixelData = (pixels(9 + k) + 4).astype("<u2").tobytes()
    save(second, folder, prefix="s2")


@row("D10 off the grid", "refused", "D10", r"1\.70 to 4\.00|1\.70 to", excluded=24)
@row("D10 never joined", "refused", "D10", words=("--overlap", "mean"), excluded=24)
def off_grid(folder):
    stations(folder, 37.7)


@row("D11 two patients", "refused", "D11", r"2 patients.*hashes", excluded=12)
def two_patients(folder):
    slices = base()
    each(slices[6:], PatientID="P2")
    save(slices, folder)


@row("D12 multi-frame", "accepted", used=1)
def multi_frame(folder):
    save([enhanced(base())], folder)


@row("D12 no groups", "refused", "D12", r"12 frames, .* where 0", failed=1)
def no_groups(folder):
    whole = enhanced(base())
    del whole.PerFrameFunctionalGroupsSequence
    save([whole], folder)


@row("D13 index", "accepted", "D13", r"1 file left out \(index", excluded=1)
def index(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # its temporary folders
        files = FileSet()
        for ds in each(base(), StudyDate="20260101", StudyTime="120000", StudyID="1"):
            files.add(ds)
        files.write(folder)
        del files
        gc.collect()


@row("D13 index that leads out", "accepted", "D13", excluded=1)
def index_leading_out(folder):
    index(folder)
    outside = folder.parent.parent / "outside.dcm"
    save(base(1), outside.parent, names=[outside.name])
    listing = folder / "DICOMDIR"
    content = listing.read_bytes()
    found = re.search(rb"\x04\x00\x00\x15CS(..)", content, re.DOTALL)
    length = int.from_bytes(found[1], "little")
    leading = b"..\\..\\OUTSIDE".ljust(length)[:length]
    listing.write_bytes(
        content[: found.end()] + leading + content[found.end() + length :]
    )


@row(
    "D14 foreign files",
    "warned",
    "D14",
    r"1 file is empty",
    excluded=4,
)
def foreign(folder):
    save(base(), folder)
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / "notes.txt").write_text("scanned on a Monday")
    (folder / "IM-0099.DCM").touch()


@row("D14 no preamble", "accepted")
def no_preamble(folder):
    folder.mkdir(parents=True)
    for number, ds in enumerate(base()):
        del ds.file_meta
        ds.save_as(folder / f"{number}", implicit_vr=True, little_endian=True)


@row("D15 two slices", "refused", "D15", r"at least 3", excluded=2)
def two_slices(folder):
    save(base(2), folder)


@row("G01 names and numbers", "fixed", "G01")
def shuffled(folder):
    slices = base()
    for ds, number in zip(
        slices, [7, 1, 10, 100, 2, 3, 5, 9, 8, 4, 6, 11], strict=True
    ):
        ds.InstanceNumber = number
    save(slices, folder, names=[f"{n}.dcm" for n in (1, 10, 100, 2, *range(20, 28))])


@row("G02 descending", "accepted")
def descending(folder):
    save(base(zs=[-4 * k for k in range(12)]), folder)


@row(
    "G03 missing inside",
    "refused",
    "G03",
    r"4 and 5 are 8\.00 mm.*1 slice is",
    excluded=11,
)
def missing_inside(folder):
    slices = base()
    del slices[5]
    save(slices, folder)


@row("G04 missing at the end", "warned", "G04", r"announces 12 images", used=11)
def missing_at_end(folder):
    save(each(base(), ImagesInAcquisition=12)[:-1], folder)


def jittered(by):
    return base(zs=[4 * k + (by if k % 2 else -by) * (0 < k < 11) for k in range(12)])


@row("G05 small jitter", "accepted")
def small_jitter(folder):
    save(jittered(0.03), folder)


@row("G06 jitter", "warned", "G06", r"misplaces a slice by 0\.15 mm")
@row("G06 jitter resampled", "warned", "G06", r"uneven", words=("--resample", "uneven"))
def jitter(folder):
    save(jittered(0.15), folder)


@row(
    "G06 blocks", "refused", "G06", r"spacing varies.*`--resample uneven`", excluded=12
)
@row(
    "G06 blocks resampled",
    "warned",
    "G06",
    r"onto 17 .* 5 of",
    words=("--resample", "any"),
)
def blocks(folder):
    save(base(zs=[*range(0, 28, 4), *range(32, 72, 8)]), folder)


@row("G07 sheared", "refused", "G07", r"1\.000 mm beside.*14\.0 degrees", excluded=12)
@row("G07 resampled", "warned", "G07", r"sheared", words=("--resample", "sheared"))
@row("G07 not that", "refused", "G07", words=("--resample", "uneven"), excluded=12)
def sheared(folder):
    save(base(shear=(0, 1, 0)), folder)


@row("G08 thickness", "warned", "G08", r"4 mm, but the slices lie 6\.000 mm")
def thickness(folder):
    slices = base(dz=6)
    save(each(slices, SliceThickness=4, SpacingBetweenSlices=4), folder)


@row("G09 sagittal", "accepted")
def sagittal(folder):
    save(base(iop=(0, 1, 0, 0, 0, -1)), folder)


@row("G09 oblique", "accepted")
def oblique(folder):
    c = 0.70710678
    save(base(iop=(c, c, 0, 0, 0, -1)), folder)


def tilting(by):
    slices = base()
    each(slices[1::2], ImageOrientationPatient=[1, by, 0, -by, 1, 0])
    return slices


@row("G10 tiny tilt", "accepted")
def tiny_tilt(folder):
    save(tilting(1e-4), folder)


@row("G10 small tilt", "warned", "G10", r"differ by 5\.0e-04")
def small_tilt(folder):
    save(tilting(5e-4), folder)


@row("G10 other group", "warned", "D02", r"differ in orientation", excluded=1)
def one_tilted(folder):
    slices = base(13)
    each(slices[-1:], ImageOrientationPatient=[1, 0.01, 0, -0.01, 1, 0])
    save(slices, folder)


@row("G11 nearly", "fixed", "G11", r"off by 5\.0e-04")
def nearly_unit(folder):
    save(each(base(), ImageOrientationPatient=[1.0005, 0, 0, 0, 1, 0]), folder)


@row("G11 no directions", "refused", "G11", r"off by 0\.01", excluded=12)
def no_directions(folder):
    save(each(base(), ImageOrientationPatient=[1.01, 0, 0, 0, 1.01, 0]), folder)


@row("G12 no spacing", "refused", "G12", r"12 of 12 .*`--pixel-spacing`", excluded=12)
@row(
    "G12 given", "warned", "G12", r"0\.75 x 0\.75 mm is used",
    words=("--pixel-spacing", "0.75", "0.75"),
)  # fmt: skip
def no_spacing(folder):
    slices = base()
    for ds in slices:
        del ds.PixelSpacing
    save(slices, folder)


@row(
    "G12 contradicted", "refused", "G12", r"Pixel Spacing in the headers is 0\.75",
    words=("--pixel-spacing", "0.5", "0.5"), excluded=12,
)  # fmt: skip
def spacing_known(folder):
    save(base(), folder)


@row(
    "G13 zero",
    "refused",
    "G13",
    r"0 x 0 mm, outside the possible 0\.05 to 10",
    excluded=12,
)
def zero_spacing(folder):
    save(each(base(), PixelSpacing=[0, 0]), folder)


@row("G14 other spacing", "refused", "G03 G14", r"differ in pixel spacing", excluded=12)
def other_spacing(folder):
    slices = base()
    slices[6].PixelSpacing = [0.8, 0.8]
    save(slices, folder)


@row("G14 other matrix", "refused", "G03 G14", r"or matrix", excluded=12)
def other_matrix(folder):
    uids = new_uids()
    slices = base(uids=uids)
    slices[6] = base(1, uids=uids, size=16, zs=[24])[0]
    save(slices, folder)


@row("G15 anisotropic", "accepted")
def anisotropic(folder):
    save(base(px=(0.5, 1.0)), folder)


@row("G16 one position missing", "refused", "G16", r"1 of 12 slices", excluded=12)
def position_missing(folder):
    slices = base()
    del slices[5].ImagePositionPatient
    save(slices, folder)


@row("G17 one place", "refused", "G17", r"All 12 slices", excluded=12)
def one_place(folder):
    save(each(base(), ImagePositionPatient=[0, 0, 0]), folder)


@row("G18 posture", "accepted")
def posture(folder):
    save(each(base(), PatientPosition="FFP"), folder)


@row("P01 slopes", "accepted")
def slopes(folder):
    slices = base()
    for k, ds in enumerate(slices):
        slope = round(1 + 0.1 * k, 1)
        ds.PixelData = np.rint(pixels(k) / slope).astype("<u2").tobytes()
        ds.RescaleSlope, ds.RescaleIntercept = str(slope), "0"
    save(slices, folder)


@row("P02 private scale", "accepted", "P02", r"\(2005,100E\)")
def private_scale(folder):
    slices = base()
    for ds in slices:
        ds.add_new(0x20050010, "LO", "Philips MR Imaging DD 001")
        ds.add_new(0x2005100E, "FL", 0.00345)
        ds.RescaleSlope, ds.RescaleIntercept = "2", "0"
    save(slices, folder)


@row("P03 inverted", "refused", "P03", r"12 of 12.*`--invert-monochrome1`", excluded=12)
@row("P03 turned over", "warned", "P03", words=("--invert-monochrome1",))
def inverted(folder):
    save(each(base(), PhotometricInterpretation="MONOCHROME1"), folder)


@row(
    "P03 mixed",
    "refused",
    "P03",
    r"4 of 12",
    words=("--invert-monochrome1",),
    excluded=12,
)
def mixed_grey(folder):
    slices = base()
    each(slices[:4], PhotometricInterpretation="MONOCHROME1")
    save(slices, folder)


@row("P04 mixed signs", "accepted")
def mixed_signs(folder):
    slices = each(base(), BitsStored=16, HighBit=15)
    for k in range(1, 12, 2):
        slices[k].PixelRepresentation = 1
        slices[k].PixelData = (pixels(k).astype("<i2") - 3000).tobytes()
    save(slices, folder)


def padded(first):
    slices = base()
    for k, ds in enumerate(slices):
        values = pixels(k)
        values[:, first:] = 63536
        ds.PixelData = values.tobytes()
        ds.add_new("PixelPaddingValue", "US", 63536)
    return slices


@row("P05 padding", "fixed", "P05", r"\(21\.9%\).*smallest real value, 100")
def padding(folder):
    save(padded(25), folder)


@row("P05 mostly padding", "warned", "P05", r"\(62\.5%\)")
def mostly_padding(folder):
    save(padded(12), folder)


@row("P06 rubbish above", "accepted")
def rubbish(folder):
    slices = base()
    for k, ds in enumerate(slices):
        ds.PixelData = (pixels(k) | 0x8000).tobytes()
    save(slices, folder)


@row("P07 RLE", "accepted")
def rle(folder):
    slices = base()
    for ds in slices:
        ds.compress(RLELossless)
    save(slices, folder)


@row("P07 no decoder", "refused", "P07", r"MPEG2.*install", excluded=12)
def no_decoder(folder):
    slices = base()
    for ds in slices:
        ds.compress(RLELossless)
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    save(slices, folder)


@row("P07 lossy", "warned", "P07", r"12 of 12 slices were compressed with loss")
def lossy(folder):
    save(each(base(), LossyImageCompression="01"), folder)


@row("P08 deflated", "accepted")
def deflated(folder):
    slices = base()
    for ds in slices:
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(slices, folder)


@row("P08 big endian", "accepted")
def big_endian(folder):
    folder.mkdir(parents=True)
    for k, ds in enumerate(base()):
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        ds.PixelData = pixels(k).astype(">u2").tobytes()
        ds.save_as(folder / f"{k}.dcm", implicit_vr=False, little_endian=False)


@row("P09 cut pixels", "refused", "P09", r"2048 bytes .* 1348 found", excluded=12)
def cut_pixels(folder):
    file = save(base(), folder)[5]
    file.write_bytes(file.read_bytes()[:-700])


@row(
    "P10 cut header",
    "refused",
    "P10 G03",
    r"IM-0005\.dcm.* is damaged",
    excluded=11,
    failed=1,
)
def cut_header(folder):
    file = save(base(), folder)[5]
    file.write_bytes(file.read_bytes()[:500])


@row("P11 zeros", "refused", "P11", r"Every voxel of the image is 0", excluded=12)
def zeros(folder):
    save(each(base(), PixelData=bytes(2048)), folder)


@row("P11 one empty slice", "warned", "P11", r"1 slice holds one value")
def empty_slice(folder):
    slices = base()
    slices[6].PixelData = bytes(2048)
    save(slices, folder)


@row("P11 not a number", "refused", "P11", r"NaN or infinite", excluded=12)
def not_a_number(folder):
    slices = each(base(), BitsAllocated=32, BitsStored=32, HighBit=31)
    for ds in slices:
        del ds.PixelData
        ds.FloatPixelData = np.linspace(0, 1, 1024, dtype="<f4").tobytes()
    slices[4].FloatPixelData = np.full(1024, np.nan, "<f4").tobytes()
    save(slices, folder)


@row("P12 odd text", "accepted")
def odd_text(folder):
    slices = base()
    each(slices, SpecificCharacterSet="ISO_IR 192", PatientName="Müller^測定")
    for file in save(slices, folder / "Größe 測定"):
        file.write_bytes(file.read_bytes().replace(b"ISO_IR 192", b"ISO_IR 999"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Return the scan of a sound patient, written once."""
    return scan(tmp_path_factory.mktemp("sound"), 2, "2B")


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_fault_matrix_reaches_the_user(tmp_path, sound, name):
    row = ROWS[name]
    study = tmp_path / "study"
    row.make(study / SCANS / "1_AutoBindWATER_650_1A")
    alone = bool(row.words)  # what is asked for would concern the other one as well
    if not alone:
        shutil.copytree(sound, study / SCANS / sound.name)
    recipe = tmp_path / "dataset.toml"
    recipe.write_text(RECIPE)

    checked = run("check", study, recipe, *row.words)
    converted = run("convert", study, recipe, *row.words, "-w", tmp_path)

    for exit_code, summary in (checked, converted):
        refused = 3 if alone else 4
        assert exit_code == (refused if row.outcome == "refused" else 0), summary
        case, *sound = summary["cases"]
        assert (case["case"], case["outcome"]) == ("msk_001", row.outcome), case
        assert set(case["codes"]) == row.codes, case
        assert re.search(row.says, "\n".join(case["messages"]), re.DOTALL), case
        assert [other["codes"] for other in sound] == [] if alone else [[]]
        assert summary["files"] == {
            "found": row.used + row.excluded + row.failed + (0 if alone else 12),
            "used": row.used + (0 if alone else 12),
            "excluded": row.excluded,
            "failed": row.failed,
        }
    if alone and row.outcome == "refused":
        return  # there is no dataset, and no manifest
    check_manifest(tmp_path / "nnUNet_raw" / "Dataset001_Tibia" / "manifest.json", row)


def check_manifest(file, row):
    """Every file that was not used stands there, with its reason."""
    record = json.loads(file.read_text())["cases"][0]
    assert record["outcome"] == row.outcome
    assert {found["code"] for found in record["findings"]} - {""} == row.codes
    assert record["files"] == {
        "used": row.used,
        "excluded": row.excluded,
        "failed": row.failed,
    }
    unused = [entry for entry in record["inputs"] if entry["state"] != "used"]
    states = [entry["state"] for entry in unused]
    assert states.count("excluded") == row.excluded
    assert states.count("failed") == row.failed
    assert all(entry["reason"] for entry in unused)
    names = {entry["name"] for entry in record["inputs"]}
    assert len(names) == row.used + row.excluded + row.failed
    assert bool(record.get("outputs")) is (row.outcome != "refused")


def run(command, study, recipe, *words):
    given = [command, study, "-r", recipe, "--json", "-q", *words]
    result = CliRunner().invoke(main, list(map(str, given)))
    return result.exit_code, json.loads(result.stdout)


def test_every_row_of_the_three_tables_has_a_test():
    """The ids of FAULTS 3.1 to 3.3; the last numbers are those of the specification."""
    wanted = {
        f"{family}{number:02d}"
        for family, last in (("D", 15), ("G", 18), ("P", 12))
        for number in range(1, last + 1)
    }

    assert {name.split()[0] for name in ROWS} == wanted
