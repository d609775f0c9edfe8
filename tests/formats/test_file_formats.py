"""One mask in every format that programs write, by those programs' own writers."""

import gzip
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.spatial.transform import Rotation

from nnunet_bridge.core.findings import Refused
from nnunet_bridge.formats.slicer import MASK_ENDINGS, read_mask, read_segments
from nnunet_bridge.formats.volume_header import read_volume_header
from nnunet_bridge.formats.voxel_files import with_voxel_file
from nnunet_bridge.pipeline.ingest.inputs import files_of, find_images, read_image

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_lps(turn=(0.1, -0.2, 0.3)):
    affine = np.eye(4)
    axes = Rotation.from_rotvec(turn).as_matrix() * [0.7, 0.5, 3]
    affine[:3, :3], affine[:3, 3] = axes, [-30.25, 12.5, -700.125]
    return affine


def blob():
    mask = np.zeros((10, 9, 8), np.uint8)
    mask[2:6, 3:7, 1:5] = 1
    mask[7, 1, 6] = 1
    return mask


def by_nibabel(kind):
    def save(file, affine):
        image = kind(blob(), LPS @ affine)
        if hasattr(image, "set_sform"):
            image.set_sform(LPS @ affine, 1)
            image.set_qform(LPS @ affine, 1)
        nibabel.save(image, file)

    return save


def by_itk(*, packed):
    def save(file, affine):
        image = sitk.GetImageFromArray(blob().transpose())
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        image.SetSpacing(spacing)
        image.SetDirection((affine[:3, :3] / spacing).ravel())
        image.SetOrigin(affine[:3, 3])
        sitk.WriteImage(image, str(file), packed)

    return save


def big_endian(file, affine):
    header = nibabel.Nifti2Header(endianness=">")
    header.set_data_dtype(np.uint8)
    image = nibabel.Nifti2Image(blob(), LPS @ affine, header)
    image.set_sform(LPS @ affine, 1)
    nibabel.save(image, file)


FORMATS = {
    "NIfTI-1": (".nii", by_nibabel(nibabel.Nifti1Image)),
    "NIfTI-2": (".nii", by_nibabel(nibabel.Nifti2Image)),
    "NIfTI-2, packed": (".nii.gz", by_nibabel(nibabel.Nifti2Image)),
    "NIfTI-2, big-endian": (".nii.gz", big_endian),
    "pair": (".hdr", by_nibabel(nibabel.Nifti1Pair)),
    "pair of NIfTI-2": (".hdr", by_nibabel(nibabel.Nifti2Pair)),
    "pair of ITK": (".hdr", by_itk(packed=False)),
    "MGH": (".mgh", by_nibabel(nibabel.MGHImage)),
    "MGZ": (".mgz", by_nibabel(nibabel.MGHImage)),
    "MetaImage": (".mhd", by_itk(packed=False)),
    "MetaImage, packed": (".mhd", by_itk(packed=True)),
    "MetaImage in one file": (".mha", by_itk(packed=True)),
    "NRRD": (".nhdr", by_itk(packed=False)),
    "NRRD, packed": (".nhdr", by_itk(packed=True)),
    "NRRD in one file": (".nrrd", by_itk(packed=True)),
}
every_format = pytest.mark.parametrize("name", FORMATS)


@every_format
@examples(10)
@given(turn=st.tuples(*[st.floats(-3, 3)] * 3))
def test_a_mask_is_the_same_in_every_format(tmp_path_factory, name, turn):
    ending, save = FORMATS[name]
    file = tmp_path_factory.mktemp("formats") / f"m{ending}"
    affine = affine_lps(turn)
    save(file, affine)

    mask = read_mask(file, name="tibia")

    assert np.array_equal(mask.voxels, blob().astype(bool))
    np.testing.assert_allclose(mask.grid.affine, affine, atol=1e-3)
    header = read_volume_header(file)
    assert header.grid.displacement_mm(mask.grid) < 1e-3
    assert header.kind.itemsize == 1


@pytest.mark.parametrize("name", [name for name in FORMATS if "NIfTI-" in name])
@examples(150)
@given(turn=st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.just(0.0)))
def test_half_a_turn_is_read_in_every_nifti(tmp_path_factory, name, turn):
    """Then the component that a quaternion leaves out is 0, but for rounding.

    From LPS to RAS it is half a turn about z, which one across z keeps half a turn.
    """
    ending, save = FORMATS[name]
    file = tmp_path_factory.mktemp("turned") / f"m{ending}"
    affine = affine_lps(turn)
    save(file, affine)

    mask = read_mask(file, name="tibia")

    np.testing.assert_allclose(mask.grid.affine, affine, atol=1e-3)


def test_every_ending_of_a_mask_is_covered():
    covered = {ending for ending, _ in FORMATS.values()}

    assert covered | {".seg.nrrd"} == set(MASK_ENDINGS)


@every_format
def test_K19_half_a_file_is_refused_in_every_format(tmp_path, name):
    ending, save = FORMATS[name]
    file = tmp_path / f"m{ending}"
    save(file, affine_lps())
    largest = with_voxel_file(file)[-1]
    content = largest.read_bytes()
    for cut in (len(content) * 9 // 10, len(content) // 2, 0):
        largest.write_bytes(content[:cut])

        with pytest.raises(Refused) as caught:
            read_mask(file, name="tibia")

        assert caught.value.code == "K19", cut


def test_K19_voxels_without_their_file_are_named(tmp_path):
    for name in ("pair", "MetaImage", "NRRD"):
        ending, save = FORMATS[name]
        file = tmp_path / f"m{ending}"
        save(file, affine_lps())
        beside = with_voxel_file(file)[1]
        beside.unlink()

        with pytest.raises(Refused, match=beside.name) as caught:
            read_mask(file, name="tibia")

        assert caught.value.code == "K19"
        assert with_voxel_file(file) == (file,)


def test_K11_an_analyze_file_has_no_place(tmp_path):
    nibabel.save(nibabel.AnalyzeImage(blob(), None), tmp_path / "m.hdr")

    with pytest.raises(Refused, match="is an Analyze file") as caught:
        read_mask(tmp_path / "m.hdr", name="tibia")

    assert caught.value.code == "K11"


@pytest.mark.parametrize("name", ["pair", "pair of NIfTI-2"])
@pytest.mark.parametrize("field", ["descrip", "aux_file", "intent_name"])
def test_the_letters_of_the_magic_elsewhere_in_a_header_decide_nothing(
    tmp_path, name, field
):
    file = tmp_path / "m.hdr"
    FORMATS[name][1](file, affine_lps())
    pair = nibabel.load(file, mmap=False)
    pair.header[field] = b"ni1, ni2, n+1"
    nibabel.save(pair, file)

    mask = read_mask(file, name="tibia")

    assert np.array_equal(mask.voxels, blob().astype(bool))


@pytest.mark.parametrize("at", [4, 60, 148, 253, 328])
def test_K11_nor_do_they_make_an_analyze_file_a_pair(tmp_path, at):
    file = tmp_path / "m.hdr"
    nibabel.save(nibabel.AnalyzeImage(blob(), None), file)
    header = bytearray(file.read_bytes())
    header[at : at + 2] = b"ni"
    file.write_bytes(header)

    with pytest.raises(Refused, match="is an Analyze file") as caught:
        read_mask(file, name="tibia")

    assert caught.value.code == "K11"


def test_K11_an_mgh_without_a_place_is_refused(tmp_path):
    by_nibabel(nibabel.MGHImage)(tmp_path / "m.mgh", affine_lps())
    content = bytearray((tmp_path / "m.mgh").read_bytes())
    content[28:30] = bytes(2)  # goodRASFlag
    (tmp_path / "m.mgh").write_bytes(content)

    with pytest.raises(Refused) as caught:
        read_mask(tmp_path / "m.mgh", name="tibia")

    assert caught.value.code == "K11"


def nrrd_file(file: Path, fields="", body=None, encoding="raw"):
    affine = affine_lps()
    directions = " ".join("({},{},{})".format(*affine[:3, i]) for i in range(3))
    packed = blob().tobytes(order="F")
    head = (
        "NRRD0004\ntype: unsigned char\ndimension: 3\nsizes: 10 9 8\n"
        f"space: left-posterior-superior\nspace directions: {directions}\n"
        "space origin: ({},{},{})\n".format(*affine[:3, 3])
    )
    packed = body(packed) if body else packed
    file.write_bytes(f"{head}encoding: {encoding}\n{fields}\n".encode() + packed)
    return file


@pytest.mark.parametrize(
    ("fields", "body", "encoding"),
    [
        ("byte skip: -1\n", None, "raw"),
        ("byteskip: -1\n", lambda voxels: b"garbage" + voxels, "raw"),
        ("byte skip: 0\nline skip: 0\n", None, "raw"),
        ("byte skip: 7\n", lambda voxels: b"garbage" + voxels, "raw"),
        ("line skip: 2\nbyte skip: 1\n", lambda v: b"one\ntwo\n." + v, "raw"),
        ("byte skip: 7\n", lambda v: gzip.compress(b"garbage" + v), "gzip"),
        ("line skip: 1\n", lambda v: b"text\n" + gzip.compress(v), "gzip"),
        ("sizes: 10 9 8\nspace:left-posterior-superior\n", None, "raw"),
        ("# a comment\nSegmentation_Source:=Größe\r\n", None, "raw"),
    ],
)
def test_an_nrrd_that_skips_bytes_or_repeats_a_field_is_read(
    tmp_path, fields, body, encoding
):
    file = nrrd_file(tmp_path / "m.nrrd", fields, body, encoding)

    assert np.array_equal(read_mask(file, name="tibia").voxels, blob() > 0)


@pytest.mark.parametrize(
    "fields",
    [
        *("byte skip: -2\n", "line skip: -1\n", "byte skip: 7\n", "sizes: 10 9 7\n"),
        f"line skip: {10**9}\n",
    ],
)
def test_K19_an_nrrd_that_skips_voxels_or_contradicts_itself_is_refused(
    tmp_path, fields
):
    with pytest.raises(Refused) as caught:
        read_mask(nrrd_file(tmp_path / "m.nrrd", fields), name="tibia")

    assert caught.value.code == "K19"


def segments(tmp_path, voxels, names, **header):
    """Write a segmentation as 3D Slicer does, with one layer unless `voxels` is 4-D."""
    affine = affine_lps()
    directions = affine[:3, :3].T.tolist()
    layered = voxels.ndim > blob().ndim
    header |= {
        "space": "left-posterior-superior",
        "space directions": [[np.nan] * 3] * layered + directions,
        "space origin": affine[:3, 3].tolist(),
        "kinds": ["list"] * layered + ["domain"] * 3,
    }
    for number, (name, layer, value) in enumerate(names):
        header[f"Segment{number}_Name"] = name
        header[f"Segment{number}_Layer"] = str(layer)
        header[f"Segment{number}_LabelValue"] = str(value)
    file = tmp_path / "m.seg.nrrd"
    nrrd.write(str(file), voxels, header)
    return file


BOTH = [("tibia", 0, 1), ("femur", 0, 2)]


def two_bones():
    voxels = blob()
    voxels[0, :4, :4] = 2
    return voxels


@examples(40)
@given(
    noise=st.floats(0, 9e-4),
    kind=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 99),
)
def test_K07_a_segmentation_of_nearly_whole_numbers_keeps_every_voxel(
    tmp_path_factory, noise, kind, seed
):
    random = np.random.default_rng(seed)
    exact = two_bones()
    stored = (exact + random.uniform(-noise, noise, exact.shape)).astype(kind)
    file = segments(tmp_path_factory.mktemp("seg"), stored, BOTH)

    tibia, femur = read_segments(file)

    assert np.array_equal(tibia.voxels, exact == 1)
    assert np.array_equal(femur.voxels, exact == 2)
    codes = {finding.code for finding in tibia.findings}
    assert codes == ({"K07"} if (stored != np.rint(stored)).any() else set())


@pytest.mark.parametrize("value", [0.6, 1.4, 2.01, np.nan, np.inf])
def test_K07_a_segmentation_with_fractions_is_refused(tmp_path, value):
    """Else only the inside of a bone would be read, and its border be lost."""
    voxels = two_bones().astype(np.float32)
    voxels[2, 3, 1] = value

    with pytest.raises(Refused) as caught:
        list(read_segments(segments(tmp_path, voxels, BOTH)))

    assert caught.value.code == "K07"


@pytest.mark.parametrize("layered", [False, True])
def test_K24_drawn_voxels_that_no_segment_names_are_counted(tmp_path, layered):
    voxels = two_bones()
    voxels[8:, 7:, 6:] = 3
    if layered:  # values begin again in every layer: 2 is not named in the second
        voxels = np.stack([two_bones(), (voxels == 3) * np.uint8(2)])

    tibia, femur = read_segments(segments(tmp_path, voxels, BOTH))

    assert np.array_equal(tibia.voxels, blob() > 0)
    assert femur.voxels.sum() == np.count_nonzero(two_bones() == 2)
    (finding,) = tibia.findings
    assert (finding.code, str(finding.outcome)) == ("K24", "warned")
    assert "8 voxels of" in finding.message


@examples(40)
@given(
    st.lists(
        st.text(
            st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1
        ).filter(lambda name: not name.startswith("=")),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_segments_are_named_in_any_script(tmp_path_factory, names):
    file = segments(
        tmp_path_factory.mktemp("seg"), two_bones(), [("A", 0, 1), ("B", 0, 2)]
    )
    head, _, body = file.read_bytes().partition(b"\n\n")
    for plain, name in zip("AB", names, strict=True):
        old, new = f"_Name:={plain}\n", f"_Name:={name}\n"
        head = head.replace(old.encode(), new.encode())
    file.write_bytes(head + b"\n\n" + body)

    assert [mask.name for mask in read_segments(file)] == names
    assert list(read_volume_header(file).segments) == names


def test_a_name_in_the_encoding_of_windows_is_read(tmp_path):
    file = segments(tmp_path, two_bones(), [("Knochen", 0, 1), ("femur", 0, 2)])
    content = file.read_bytes().replace(b"Knochen", "Röhre".encode("cp1252"))
    file.write_bytes(content)

    assert next(read_segments(file)).name == "Röhre"


@every_format
def test_an_image_in_every_format_is_found_and_read(tmp_path, name):
    """A folder with headers and the files of their voxels holds one image each."""
    ending, save = FORMATS[name]
    for number in (1, 2):
        save(tmp_path / f"knee_{number}{ending}", affine_lps())

    sources = find_images([tmp_path])

    assert [source.case_id for source in sources] == ["knee_1", "knee_2"]
    reading = read_image(sources[0].path)
    assert np.array_equal(reading.volume.voxels, blob())
    beside = with_voxel_file(sources[0].path)
    assert dict(files_of(sources[0].path)) == {file.name: file for file in beside}
