"""NIfTI: every doubt cleared on reading, proven on writing."""

import gzip
import logging
import struct
from functools import partial

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.spatial.transform import Rotation

from nnunet_bridge.core.errors import EnvironmentFault, InputError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats import memory
from nnunet_bridge.formats.nifti import (
    read_labelmap,
    read_volume,
    write_labelmap,
    write_volume,
)

TABLE = LabelTable.from_names(["tibia", "femur"])
NOISE = np.random.default_rng(0).integers(0, 999, (300, 200, 30)).astype(np.int16)
BIG = np.zeros((300, 300, 1200), np.uint8)


def oblique(shape=(5, 6, 7), turn=(0.1, -0.2, 0.3)):
    affine = np.eye(4)
    rotation = Rotation.from_rotvec(turn).as_matrix()
    affine[:3, :3] = rotation @ np.diag([0.7, 0.5, 3.0])
    affine[:3, 3] = [-30.25, 12.5, -700.125]
    return Grid(shape, affine)


def volume(dtype=np.int16, grid=None):
    grid = grid or oblique()
    voxels = np.arange(np.prod(grid.shape)).reshape(grid.shape, order="F")
    return Volume(grid, voxels.astype(dtype))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_an_image_comes_back_voxel_for_voxel_in_its_place(tmp_path, dtype, ending):
    before = volume(dtype)

    write_volume(tmp_path / f"a{ending}", before)
    after = read_volume(tmp_path / f"a{ending}")

    np.testing.assert_array_equal(after.voxels, before.voxels)
    assert after.voxels.dtype == dtype
    assert before.grid.displacement_mm(after.grid) < 1e-3


@examples(30)
@given(turn=st.tuples(*[st.floats(-3, 3)] * 3))
def test_simpleitk_and_nibabel_see_the_same_place(tmp_path_factory, turn):
    before = volume(grid=oblique(turn=turn))
    file = tmp_path_factory.mktemp("nifti") / "a.nii.gz"
    write_volume(file, before)

    itk = sitk.ReadImage(str(file))
    in_ras = nibabel.load(file).affine

    corner = [4, 5, 6]
    np.testing.assert_allclose(
        itk.TransformIndexToPhysicalPoint(corner),
        before.grid.to_patient(corner),
        atol=1e-3,
    )
    np.testing.assert_allclose(
        (in_ras @ [*corner, 1])[:3] * [-1, -1, 1],
        before.grid.to_patient(corner),
        atol=1e-3,
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(itk).T, before.voxels)


def test_the_same_image_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_volume(tmp_path / f"{name}.nii.gz", volume())

    first, second = (tmp_path / f"{name}.nii.gz" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_F12_the_header_holds_no_words(tmp_path):
    write_volume(tmp_path / "a.nii", volume())

    header = nibabel.load(tmp_path / "a.nii").header
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        assert bytes(header[field]).strip(b"\0") == b""
    assert len(header.extensions) == 0


@pytest.mark.parametrize("kept", [0, 5, 200, 0.5, 0.9, -1])
def test_K19_a_cut_file_is_refused_wherever_it_is_cut(tmp_path, kept):
    write_volume(tmp_path / "a.nii.gz", volume())
    whole = (tmp_path / "a.nii.gz").read_bytes()
    end = int(kept * len(whole)) if isinstance(kept, float) else kept
    (tmp_path / "cut.nii.gz").write_bytes(whole[:end])

    with pytest.raises(Refused) as caught:
        read_volume(tmp_path / "cut.nii.gz")

    assert caught.value.code == "K19"


def put(part, at, content):
    return content[:at] + part + content[at + len(part) :]


SPOILT = {
    "K19 a flipped bit": (
        ".nii.gz", lambda c: put(bytes([c[len(c) // 2] ^ 4]), len(c) // 2, c),
        "is damaged",
    ),
    "K19 cut, not packed": (
        ".nii", lambda c: c[:-10], r"announces \d+ bytes, the file holds \d+",
    ),
    "K19 voxels in another file": (
        ".nii", partial(put, b"ni1\0", 344), "keeps its voxels in another file",
    ),
    # Refused before memory is asked for.
    "S07 an absurd size": (".nii", partial(put, b"\xff\x7f" * 3, 42), None),
    "S07 no voxels": (".nii", partial(put, b"\0\0", 42), None),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPOILT)
def test_K19_S07_a_spoilt_file_is_refused(tmp_path, kind):
    ending, spoil, words = SPOILT[kind]
    file = tmp_path / f"a{ending}"
    write_volume(file, volume())
    file.write_bytes(spoil(file.read_bytes()))

    with pytest.raises(Refused, match=words) as caught:
        read_volume(file)

    assert caught.value.code == kind[:3]


def test_S06_a_file_that_unpacks_to_more_than_it_announces_is_refused(tmp_path):
    write_volume(tmp_path / "a.nii", volume())
    padded = (tmp_path / "a.nii").read_bytes() + bytes(50_000_000)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(padded))

    with pytest.raises(Refused, match="is damaged"):
        read_volume(tmp_path / "a.nii.gz")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"Cannot read .*a\.nii"):
        read_volume(tmp_path / "a.nii")


def test_both_forms_are_written_as_scanner_coordinates_and_agree(tmp_path):
    """NIfTI-1: code 1 is NIFTI_XFORM_SCANNER_ANAT, xyzt_units 2 are millimetres."""
    write_volume(tmp_path / "a.nii", volume(grid=oblique()))

    header = nibabel.load(tmp_path / "a.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(header.get_sform(), header.get_qform(), atol=1e-4)


def with_forms(tmp_path, sform, qform, codes):
    image = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), None)
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1])
    nibabel.save(image, tmp_path / "a.nii")
    return tmp_path / "a.nii"


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 1)])
def test_K11_one_form_or_two_that_agree_are_enough(tmp_path, codes):
    affine = np.diag([2.0, 2.0, 3.0, 1.0])

    found = read_volume(with_forms(tmp_path, affine, affine, codes))

    np.testing.assert_allclose(found.grid.spacing_mm, [2, 2, 3])


def test_K11_forms_that_disagree_are_refused(tmp_path):
    moved = np.diag([2.0, 2.0, 3.0, 1.0])
    moved[0, 3] = 5

    with pytest.raises(Refused, match=r"sform and qform .* 5\.000 mm apart"):
        read_volume(with_forms(tmp_path, np.diag([2.0, 2, 3, 1]), moved, (2, 1)))


def test_K11_no_form_at_all_is_refused(tmp_path):
    with pytest.raises(Refused, match="has no place in the patient"):
        read_volume(with_forms(tmp_path, np.eye(4), np.eye(4), (0, 0)))


def test_K11_a_sheared_form_is_refused(tmp_path):
    sheared = np.eye(4)
    sheared[0, 1] = 0.2

    with pytest.raises(Refused, match="not perpendicular"):
        read_volume(with_forms(tmp_path, sheared, None, (1, 0)))


@pytest.mark.parametrize(
    ("unit", "factor"), [("mm", 1), ("meter", 1e-3), ("micron", 1e3)]
)
def test_K12_lengths_are_read_in_their_unit(tmp_path, unit, factor):
    affine = np.diag([0.75 * factor, 0.75 * factor, 4 * factor, 1.0])
    image = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")

    found = read_volume(tmp_path / "a.nii").grid.spacing_mm

    np.testing.assert_allclose(found, [0.75, 0.75, 4], rtol=1e-5)


def test_K08_a_series_of_images_is_refused_and_a_single_one_is_not(tmp_path):
    for frames in (1, 2):
        image = nibabel.Nifti1Image(np.zeros((3, 4, 5, frames), np.uint8), np.eye(4))
        nibabel.save(image, tmp_path / f"{frames}.nii")

    assert read_volume(tmp_path / "1.nii").grid.shape == (3, 4, 5)
    with pytest.raises(Refused, match=r"\(3, 4, 5, 2\); one 3-D image"):
        read_volume(tmp_path / "2.nii")


def test_a_scale_in_the_header_is_applied(tmp_path):
    image = nibabel.Nifti1Image(np.full((3, 3, 3), 10, np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 2)
    nibabel.save(image, tmp_path / "a.nii")
    raw = nibabel.load(tmp_path / "a.nii").get_fdata()

    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").voxels, raw)


def test_a_header_extension_is_read_over(tmp_path):
    image = nibabel.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"labels ..."))
    nibabel.save(image, tmp_path / "a.nii.gz")

    assert read_volume(tmp_path / "a.nii.gz").voxels.all()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("size", [-16, 4, 48, 2**20, 2**31 - 1])
def test_K19_an_extension_that_leaves_the_header_is_refused(tmp_path, ending, size):
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 20))
    content = bytearray(image.to_bytes())
    assert content[348:356] == b"\1\0\0\0\x20\0\0\0"
    content[352:356] = struct.pack("<i", size)
    file = tmp_path / f"a{ending}"
    file.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)

    with pytest.raises(Refused, match="an extension of") as refused:
        read_volume(file)

    assert refused.value.code == "K19"


def test_labels_are_checked_against_their_table(tmp_path):
    grid = oblique()
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[1, 1, 1] = 2
    write_labelmap(tmp_path / "a.nii.gz", Labelmap(grid, voxels, TABLE))

    assert read_labelmap(tmp_path / "a.nii.gz", TABLE).counts().tolist()[2] == 1
    with pytest.raises(Refused, match="0 to 2, but the labels are 0 to 1") as caught:
        read_labelmap(tmp_path / "a.nii.gz", LabelTable.from_names(["tibia"]))
    assert caught.value.code == "K06"


def test_K07_fractions_are_no_labels(tmp_path):
    image = nibabel.Nifti1Image(np.full((3, 3, 3), 0.5, np.float32), np.eye(4))
    nibabel.save(image, tmp_path / "a.nii")

    with pytest.raises(Refused, match="fractions, not labels"):
        read_labelmap(tmp_path / "a.nii", TABLE)


def _flipped(content):
    return content[:-30] + bytes([content[-30] ^ 1]) + content[-29:]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "lost", [_flipped, lambda content: content[:-1], lambda content: content + b"1"]
)
def test_R7_a_file_that_the_disk_does_not_give_back_gets_no_name(
    tmp_path, lost, ending
):
    def write_but_lose(stream, piece):
        stream.write(lost(bytes(piece)) if len(piece) > 30 else piece)

    with pytest.raises(EnvironmentFault, match="did not read back"):
        write_volume(tmp_path / f"a{ending}", volume(), write=write_but_lose)
    assert list(tmp_path.iterdir()) == []


def test_R7_a_sound_archive_of_other_voxels_gets_no_name(tmp_path):
    """Its CRC is right, so only a comparison with the memory can tell."""
    write_volume(tmp_path / "a.nii", volume())
    others = [gzip.compress(_flipped((tmp_path / "a.nii").read_bytes()))]
    (tmp_path / "a.nii").unlink()

    def write_others(stream, _piece):
        if others:
            stream.write(others.pop())

    with pytest.raises(EnvironmentFault, match="did not read back"):
        write_volume(tmp_path / "a.nii.gz", volume(), write=write_others)
    assert list(tmp_path.iterdir()) == []


def test_R7_a_file_of_several_blocks_is_proven_to_its_end(tmp_path):
    before = Volume(Grid((300, 200, 30), np.eye(4)), NOISE)

    write_volume(tmp_path / "a.nii.gz", before)

    content = gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    assert content[352:] == NOISE.tobytes(order="F")


def test_an_archive_of_several_members_is_one_image(tmp_path):
    write_volume(tmp_path / "a.nii", volume())
    content = (tmp_path / "a.nii").read_bytes()
    members = [gzip.compress(part) for part in (content[:200], content[200:])]
    (tmp_path / "a.nii.gz").write_bytes(b"".join(members) + bytes(512))

    np.testing.assert_array_equal(
        read_volume(tmp_path / "a.nii.gz").voxels, volume().voxels
    )


def test_F10_an_image_that_memory_cannot_hold_is_refused_with_the_figures(
    tmp_path, monkeypatch
):
    write_volume(tmp_path / "a.nii.gz", Volume(Grid((300, 300, 1200), np.eye(4)), BIG))
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: 100_000_000)

    with pytest.raises(Refused, match=r"needs 108 MB .* but 100 MB is") as caught:
        read_volume(tmp_path / "a.nii.gz")

    assert caught.value.code == "F10"


@pytest.mark.parametrize(("drift_mm", "agree"), [(0.019, True), (0.021, False)])
def test_K11_forms_agree_within_a_hundredth_of_the_smallest_spacing(
    tmp_path, drift_mm, agree
):
    affine, moved = np.diag([2.0, 2.0, 3.0, 1.0]), np.diag([2.0, 2.0, 3.0, 1.0])
    moved[1, 3] = drift_mm
    file = with_forms(tmp_path, affine, moved, (1, 1))

    if agree:
        assert read_volume(file).grid.affine[1, 3] == 0
    else:
        with pytest.raises(Refused, match="sform and qform"):
            read_volume(file)


@pytest.mark.parametrize("code", [0, 2, 4, 5, 6, 7, 8 + 2, 16])
def test_K12_an_unknown_unit_of_length_counts_as_millimetres(tmp_path, code):
    """NIfTI-1: bits 0-2 hold the unit of length, bits 3-5 that of time."""
    write_volume(tmp_path / "a.nii", volume())
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[123] = code
    (tmp_path / "a.nii").write_bytes(content)

    found = read_volume(tmp_path / "a.nii").grid.spacing_mm

    np.testing.assert_allclose(found, [0.7, 0.5, 3.0], rtol=1e-5)


@pytest.mark.parametrize("shape", [(5, 6, 1), (1, 6, 7)])
def test_an_image_of_one_slice_keeps_its_three_axes(tmp_path, shape):
    write_volume(tmp_path / "a.nii.gz", volume(grid=oblique(shape)))

    assert read_volume(tmp_path / "a.nii.gz").grid.shape == shape


def test_K19_a_file_that_ends_after_its_header_says_how_much_is_missing(tmp_path):
    write_volume(tmp_path / "a.nii", volume())
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:352])

    with pytest.raises(Refused, match="announces 772 bytes, the file holds 352"):
        read_volume(tmp_path / "a.nii")


def test_F12_what_nibabel_says_about_a_header_reaches_no_log(tmp_path, caplog):
    write_volume(tmp_path / "a.nii", volume())
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[80:84] = struct.pack("<f", -0.7)  # pixdim[1] must be positive
    (tmp_path / "a.nii").write_bytes(content)

    assert read_volume(tmp_path / "a.nii").grid.shape == (5, 6, 7)
    (logger,) = {record.name for record in caplog.records}
    assert logger == "nnunet_bridge.formats.nifti.silent"
    assert not logging.getLogger(logger).propagate
