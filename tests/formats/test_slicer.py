"""FAULTS K06-K12, K19: mask files are read as a clear yes or no, or refused.

`test_nifti.py` reads spoilt NIfTI files, `stories/test_mask_faults.py` has every row.
"""

import gzip
import signal

import nibabel
import nrrd
import numpy as np
import pytest

from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.formats.slicer import (
    is_mask_file,
    read_mask,
    read_segments,
)

AFFINE_RAS = np.array(
    [[-0.75, 0, 0, 12], [0, -0.8, 0, 9], [0, 0, 4, -100], [0, 0, 0, 1.0]]
)
AFFINE_LPS = np.diag([-1, -1, 1, 1]) @ AFFINE_RAS


def blob():
    mask = np.zeros((10, 9, 8), np.uint8)
    mask[2:6, 3:7, 1:5] = 1
    return mask


def nifti(folder, voxels, name="m.nii.gz", **forms):
    image = nibabel.Nifti1Image(voxels, AFFINE_RAS)
    image.set_sform(forms.get("sform", AFFINE_RAS), forms.get("sform_code", 1))
    image.set_qform(forms.get("qform", AFFINE_RAS), forms.get("qform_code", 1))
    if "units" in forms:
        image.header.set_xyzt_units(forms["units"])
    nibabel.save(image, folder / name)
    return folder / name


def refused(file):
    with pytest.raises(Refused) as caught:
        read_mask(file, name="tibia")
    return caught.value


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_K07_fractions_and_no_numbers_are_refused(tmp_path, value):
    voxels = blob().astype(np.float32)
    voxels[3, 3, 3] = value

    assert refused(nifti(tmp_path, voxels)).code == "K07"


def nrrd_header(space="left-posterior-superior", affine=AFFINE_LPS):
    return {
        "space": space,
        "space directions": affine[:3, :3].T.tolist(),
        "space origin": affine[:3, 3].tolist(),
        "kinds": ["domain"] * 3,
        "encoding": "gzip",
    }


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (1, 1, 1)),
        ("right-anterior-superior", (-1, -1, 1)),
        ("left-anterior-superior", (1, -1, 1)),
        ("LPS", (1, 1, 1)),
        ("RAS", (-1, -1, 1)),
        ("LAS", (1, -1, 1)),
    ],
)
def test_K01_any_nrrd_space_is_turned_into_lps(tmp_path, space, signs):
    written = np.diag([*signs, 1.0]) @ AFFINE_LPS
    nrrd.write(str(tmp_path / "m.nrrd"), blob(), nrrd_header(space, written))

    mask = read_mask(tmp_path / "m.nrrd", name="t")

    assert mask.grid.matches(Grid((10, 9, 8), AFFINE_LPS))
    np.testing.assert_array_equal(mask.voxels, blob() == 1)


def test_K11_an_nrrd_without_a_place_is_refused(tmp_path):
    nrrd.write(str(tmp_path / "m.nrrd"), blob())

    assert refused(tmp_path / "m.nrrd").code == "K11"


def test_S06_an_nrrd_that_inflates_beyond_its_sizes_is_refused(tmp_path):
    nrrd.write(str(tmp_path / "m.nrrd"), blob(), nrrd_header())
    head = (tmp_path / "m.nrrd").read_bytes().split(b"\n\n", 1)[0]
    (tmp_path / "m.nrrd").write_bytes(head + b"\n\n" + gzip.compress(bytes(10**7)))

    assert refused(tmp_path / "m.nrrd").code == "K19"


@pytest.mark.parametrize("named", ["../v.raw", "sub/v.raw", "/etc/passwd", "LIST", "l"])
@pytest.mark.parametrize("ending", [".nhdr", ".nrrd", ".mhd", ".mha"])
def test_K19_voxels_that_do_not_lie_beside_their_header_are_refused(
    tmp_path, ending, named
):
    """A header from outside could make us read any file of the machine."""
    folder = tmp_path / "masks"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path / "v.raw", folder / "sub" / "v.raw"):
        place.write_bytes(bytes(blob().size))
    (folder / "l").symlink_to(tmp_path / "v.raw")
    file = folder / f"m{ending}"
    if ending.startswith(".n"):
        nrrd.write(str(folder / "whole.nrrd"), blob(), nrrd_header())
        head = (folder / "whole.nrrd").read_bytes().split(b"\n\n", 1)[0]
        file.write_bytes(head + f"\ndata file: {named}\n\n".encode())
    else:
        sizes = " ".join(map(str, blob().shape))
        file.write_text(
            f"NDims = 3\nDimSize = {sizes}\nElementType = MET_UCHAR\n"
            f"ElementDataFile = {named}\n"
        )

    refusal = refused(file)

    assert refusal.code == "K19"
    assert "which is not beside it" in str(refusal)


def segmentation(file, layers, segments, *, listed=True):
    header = nrrd_header()
    for number, (name, layer, value) in enumerate(segments):
        header[f"Segment{number}_Name"] = name
        header[f"Segment{number}_Layer"] = str(layer)
        header[f"Segment{number}_LabelValue"] = str(value)
    voxels = np.stack(layers)
    if listed:
        header["kinds"] = ["list", *header["kinds"]]
        header["space directions"] = [[np.nan] * 3, *header["space directions"]]
    else:
        voxels = voxels[0]
    nrrd.write(str(file), voxels, header)
    return file


def test_K09_segments_of_one_layer_are_separated_by_value(tmp_path):
    voxels = blob()
    voxels[7:9, :2, :2] = 5
    file = segmentation(
        tmp_path / "a.seg.nrrd",
        [voxels],
        [("Femur L", 0, 1), ("tibia", 0, 5)],
        listed=False,
    )

    femur, tibia = read_segments(file)

    assert (femur.name, tibia.name) == ("Femur L", "tibia")
    np.testing.assert_array_equal(femur.voxels, voxels == 1)
    np.testing.assert_array_equal(tibia.voxels, voxels == 5)
    assert femur.grid.matches(Grid((10, 9, 8), AFFINE_LPS))


def test_K09_label_values_begin_again_in_every_layer(tmp_path):
    first, second = blob(), np.roll(blob(), 2, axis=0)
    file = segmentation(
        tmp_path / "a.seg.nrrd", [first, second], [("femur", 0, 1), ("tibia", 1, 1)]
    )

    femur, tibia = read_segments(file)

    np.testing.assert_array_equal(femur.voxels, first == 1)
    np.testing.assert_array_equal(tibia.voxels, second == 1)
    assert (femur.voxels & tibia.voxels).any()


def test_K09_a_segment_without_its_keys_is_refused(tmp_path):
    file = segmentation(tmp_path / "a.seg.nrrd", [blob()], [], listed=False)
    with pytest.raises(Refused) as caught:
        list(read_segments(file))
    assert caught.value.code == "K09"

    segmentation(file, [blob()], [("femur", 3, 1)], listed=False)
    with pytest.raises(Refused, match="layer 3"):
        list(read_segments(file))


@pytest.mark.parametrize(
    ("name", "is_mask"),
    [
        ("tibia.nii.gz", True),
        ("tibia.nii", True),
        ("a.SEG.NRRD", True),
        ("a.nrrd", True),
        ("a.mha", True),
        (".tibia.nii.gz", False),
        ("._tibia.nii.gz", False),
        ("tibia.txt", False),
        ("nii.gz.zip", False),
    ],
)
def test_a_mask_file_is_known_by_its_ending_and_is_not_hidden(name, is_mask):
    assert is_mask_file(name) == is_mask


METAIO = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2",
    "MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
"""Element types of MetaIO's reference, with their size in a file."""


def metaimage_by_hand(file, voxels, kind, sizes):
    spacing, origin = [0.75, 0.8, 4.0, 1.0], [*AFFINE_LPS[:3, 3], 0.0]
    turn = np.eye(4)[: len(sizes), : len(sizes)].astype(int).ravel()
    fields = {
        "ObjectType": ["Image"], "NDims": [len(sizes)], "BinaryData": ["True"],
        "BinaryDataByteOrderMSB": ["False"], "CompressedData": ["False"],
        "TransformMatrix": turn, "Offset": origin[: len(sizes)],
        "ElementSpacing": spacing[: len(sizes)], "DimSize": sizes,
        "ElementType": [kind], "ElementDataFile": ["LOCAL"],
    }  # fmt: skip
    lines = [f"{name} = {' '.join(map(str, of))}\n" for name, of in fields.items()]
    content = voxels.astype(METAIO[kind]).tobytes(order="F")
    file.write_bytes("".join(lines).encode() + content)
    return file


LOCAL = b"ElementDataFile = LOCAL"
HOSTILE_HEADERS = {
    "another file first": b"ElementDataFile = secret\n" + LOCAL,
    "the same after a blank": b" \tElementDataFile = secret\n" + LOCAL,
    "after a vertical tab": b"\x0bElementDataFile = secret\n" + LOCAL,
    "with a colon": b"ElementDataFile : secret\n" + LOCAL,
    "behind a line without a value": b"foo\n" + LOCAL + b"\nElementDataFile = secret",
    "a list of files": b"ElementDataFile = LIST\nsecret",
    "a pattern of files": b"ElementDataFile = %03d 1 8 1\nsecret",
    "sizes twice": b"DimSize = 1 1 1\n" + LOCAL,
    "voxels from another place": b"HeaderSize = 3\n" + LOCAL,
    "a long name": b"A" * 5000 + b" = 1\n" + LOCAL,
    "a long value": b"Comment = " + b"A" * 33000 + b"\n" + LOCAL,
    "a carriage return": b"Comment = a\rElementDataFile = secret\r" + LOCAL,
}


@pytest.mark.parametrize("line", HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS)
def test_K19_a_metaimage_never_makes_us_read_a_file_that_is_elsewhere(tmp_path, line):
    (tmp_path / "elsewhere").mkdir()
    secret = tmp_path / "elsewhere" / "secret"
    secret.write_bytes(blob().tobytes(order="F"))
    file = metaimage_by_hand(tmp_path / "m.mha", blob(), "MET_UCHAR", blob().shape)
    line = line.replace(b"secret", bytes(secret))
    file.write_bytes(file.read_bytes().replace(LOCAL, line))

    assert refused(file).code == "K19"


@pytest.mark.parametrize("name", ["LIST", "list 2", "%03d.raw 1 8 1", "LOCAL"])
def test_K19_a_file_beside_a_metaimage_is_no_list_and_no_pattern(tmp_path, name):
    (tmp_path / name).write_bytes(blob().tobytes(order="F"))
    file = metaimage_by_hand(tmp_path / "m.mhd", blob(), "MET_UCHAR", blob().shape)
    head = file.read_bytes().partition(b"ElementDataFile")[0]
    file.write_bytes(head + b"ElementDataFile = " + name.encode() + b"\n")

    assert refused(file).code == "K19"


@pytest.mark.parametrize(
    "line", [b"0008|0050 = ", b"Comment = a = b", b"Note x = 1", b""]
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_other_lines_of_a_metaimage_are_read_over(tmp_path, line, end):
    file = metaimage_by_hand(tmp_path / "m.mha", blob(), "MET_UCHAR", blob().shape)
    file.write_bytes(file.read_bytes().replace(LOCAL, line + end + LOCAL))

    assert read_mask(file, name="t").voxels.sum() == blob().sum()


@pytest.mark.parametrize("kind", METAIO)
def test_a_metaimage_may_hold_any_type_of_number_and_needs_all_its_bytes(
    tmp_path, kind
):
    file = metaimage_by_hand(tmp_path / "m.mha", blob(), kind, blob().shape)

    assert read_mask(file, name="t").voxels.sum() == blob().sum()
    file.write_bytes(file.read_bytes()[:-1])
    assert refused(file).code == "K19"


@pytest.mark.parametrize("name", ["TransformMatrix", "Orientation", "Rotation"])
@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("number", ["1e308", "-1.7e308", "1e300"])
def test_K19_a_metaimage_with_axes_of_an_impossible_length_is_refused(
    tmp_path, name, place, number
):
    """ITK decomposes the matrix of the axes, and for such numbers never ends."""
    file = metaimage_by_hand(tmp_path / "m.mha", blob(), "MET_UCHAR", blob().shape)
    matrix = np.eye(3).ravel().astype(str)
    matrix[place] = number
    line = f"{name} = {' '.join(matrix)}".encode()
    plain = b"TransformMatrix = 1 0 0 0 1 0 0 0 1"
    file.write_bytes(file.read_bytes().replace(plain, line))
    assert line in file.read_bytes()

    signal.alarm(10)
    try:
        assert refused(file).code == "K19"
    finally:
        signal.alarm(0)


@pytest.mark.parametrize("sizes", ["0 9 8", "-10 -9 8", "3000 3000 3000"])
def test_S07_impossible_sizes_of_an_nrrd_are_refused(tmp_path, sizes):
    nrrd.write(str(tmp_path / "m.nrrd"), blob(), nrrd_header())
    content = (tmp_path / "m.nrrd").read_bytes()
    (tmp_path / "m.nrrd").write_bytes(
        content.replace(b"sizes: 10 9 8", f"sizes: {sizes}".encode())
    )

    assert refused(tmp_path / "m.nrrd").code == "S07"
