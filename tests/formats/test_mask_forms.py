"""R4, R5, K01-K03, K06, K07: every format carries every form of a mask without loss."""

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import given
from hypothesis import strategies as st
from laws import examples

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.formats.nifti import write_labelmap
from nnunet_bridge.formats.slicer import read_mask, read_segments
from nnunet_bridge.ops.regrid import placed_on

ANGLE = 0.4
AFFINE = np.eye(4)
AFFINE[:3, :3] = np.array(
    [
        [np.cos(ANGLE), -np.sin(ANGLE), 0],
        [np.sin(ANGLE), np.cos(ANGLE), 0],
        [0, 0, 1],
    ]
) * [0.75, 0.8, 4.0]
AFFINE[:3, 3] = [-12.5, 33, -100]
GRID = Grid((20, 18, 12), AFFINE)
BONE = (slice(5, 12), slice(4, 13), slice(3, 9))
PLAIN = ("nii.gz", "nii", "nrrd", "mha")
SEGMENTED = ("seg.nrrd, one layer", "seg.nrrd, two layers")


def bone(seed=0):
    mask = np.zeros(GRID.shape, np.uint8)
    mask[BONE] = np.random.default_rng(seed).random((7, 9, 6)) < 0.6
    return mask


def image_of(voxels):
    """Return SimpleITK's image of an array on the grid."""
    image = sitk.GetImageFromArray(voxels.transpose(2, 1, 0).copy())
    image.SetSpacing(GRID.spacing_mm.tolist())
    image.SetDirection((AFFINE[:3, :3] / GRID.spacing_mm).ravel().tolist())
    image.SetOrigin(AFFINE[:3, 3].tolist())
    return image


def doubled(image):
    """Return an image with half the spacing, cell by cell in the same place."""
    spacing = np.array(image.GetSpacing())
    direction = np.array(image.GetDirection()).reshape(3, 3)
    origin = np.array(image.GetOrigin()) - direction @ (spacing / 4)
    return sitk.Resample(
        image,
        [2 * size for size in image.GetSize()],
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        origin.tolist(),
        (spacing / 2).tolist(),
        image.GetDirection(),
    )


FORMS = {
    "as it is": lambda image: image,
    "cropped": lambda image: image[5:12, 4:13, 3:9],
    "enlarged": lambda image: sitk.ConstantPad(image, [3, 0, 2], [1, 4, 0]),
    "flipped": lambda image: sitk.Flip(image, [True, False, True]),
    "permuted": lambda image: sitk.PermuteAxes(image, [2, 0, 1]),
    "oversampled": doubled,
    "0 and 255": lambda image: image * 255,
    "floats": lambda image: sitk.Cast(image, sitk.sitkFloat32),
}
CHANGES_VALUES = ("0 and 255", "floats")


def written(folder, image, kind):
    """Write a mask in a format; return what the package reads of it."""
    if kind in PLAIN:
        file = folder / f"m.{kind}"
        sitk.WriteImage(image, str(file))
        return read_mask(file, name="tibia")
    voxels = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    header = {
        "space": "left-posterior-superior",
        "space directions": (direction * image.GetSpacing()).T.tolist(),
        "space origin": image.GetOrigin(),
        "kinds": ["domain"] * 3,
        "Segmentation_ReferenceImageExtentOffset": "-7 3 -40",
    }
    other = 1 - voxels if "two" in kind else np.zeros_like(voxels)
    for number, (name, layer) in enumerate((("tibia", 0), ("femur", 1))):
        header[f"Segment{number}_Name"] = name
        header[f"Segment{number}_Layer"] = str(layer if "two" in kind else 0)
        header[f"Segment{number}_LabelValue"] = str(
            number + 1 - layer * ("two" in kind)
        )
    if "two" in kind:
        voxels = np.stack([voxels, other])
        header["kinds"] = ["list", *header["kinds"]]
        header["space directions"] = [[np.nan] * 3, *header["space directions"]]
    file = folder / "m.seg.nrrd"
    nrrd.write(str(file), voxels, header)
    return next(iter(read_segments(file)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [*PLAIN, *SEGMENTED])
def test_R4_K01_K02_K03_K06_K07_K09_every_form_comes_back_in_every_format(
    tmp_path, kind, form
):
    if kind in SEGMENTED and form in CHANGES_VALUES:
        form = "flipped"  # label values belong to the segments there
    mask = written(tmp_path, FORMS[form](image_of(bone())), kind)

    placed = placed_on(GRID, mask.grid, mask.voxels, name="m")

    np.testing.assert_array_equal(placed.voxels, bone() == 1)
    assert placed.voxels_outside == 0


@examples(200)
@given(
    kind=st.sampled_from([*PLAIN, *SEGMENTED]),
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.booleans()] * 3),
    low=st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 3)),
    seed=st.integers(0, 9),
)
def test_R4_no_voxel_changes_through_any_file(
    tmp_path_factory, kind, order, flips, low, seed
):
    i, j, k = low
    image = sitk.PermuteAxes(
        sitk.Flip(image_of(bone(seed))[i:13, j:14, k:10], list(flips)), list(order)
    )

    mask = written(tmp_path_factory.mktemp("r4"), image, kind)

    placed = placed_on(GRID, mask.grid, mask.voxels, name="m")
    np.testing.assert_array_equal(placed.voxels, bone(seed) == 1)


@examples(200)
@given(
    spacing=st.tuples(*[st.floats(0.1, 8)] * 3),
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    seed=st.integers(0, 99),
)
def test_R5_a_volume_is_voxels_times_the_determinant_on_any_grid(
    tmp_path_factory, spacing, angles, origin, seed
):
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        one = np.eye(3)
        a, b = [n for n in range(3) if n != axis]
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ one
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = origin
    voxels = np.random.default_rng(seed).integers(0, 3, (6, 5, 4)).astype(np.uint8)
    table = LabelTable.from_names(["tibia", "femur"])
    file = tmp_path_factory.mktemp("r5") / "labels.nii.gz"
    labelmap = Labelmap(Grid(voxels.shape, affine), voxels, table)

    write_labelmap(file, labelmap)
    image = sitk.ReadImage(str(file))

    counts = np.bincount(sitk.GetArrayFromImage(image).ravel(), minlength=3)
    for value, volume_mm3 in enumerate(labelmap.volumes_mm3().values(), start=1):
        determinant = abs(np.linalg.det(affine[:3, :3]))
        assert volume_mm3 == pytest.approx(counts[value] * determinant, rel=1e-6)
        read = counts[value] * np.prod(image.GetSpacing())
        assert volume_mm3 == pytest.approx(read, rel=1e-6)


def test_K09_what_3d_slicer_wrote_itself_is_read_as_its_layers_say(test_data):
    file = test_data / "seg" / "slicerio" / "SegmentationOverlapping.seg.nrrd"
    if not file.is_file():
        pytest.skip(f"{file} is absent")
    stored, header = nrrd.read(str(file))

    segments = list(read_segments(file))

    assert len(segments) == 8
    for number, segment in enumerate(segments):
        layer = int(header[f"Segment{number}_Layer"])
        value = int(header[f"Segment{number}_LabelValue"])
        assert segment.name == header[f"Segment{number}_Name"]
        np.testing.assert_array_equal(segment.voxels, stored[layer] == value)


@pytest.mark.parametrize("kind", ["nii.gz", "mha"])
def test_K08_a_fourth_axis_of_one_entry_is_dropped_and_of_two_refused(tmp_path, kind):
    from nnunet_bridge.core.findings import Refused

    file = tmp_path / f"m.{kind}"
    sitk.WriteImage(sitk.JoinSeries([image_of(bone())]), str(file))
    mask = read_mask(file, name="t")
    assert mask.grid.matches(GRID, tolerance_mm=1e-3)
    np.testing.assert_array_equal(mask.voxels, bone() == 1)

    sitk.WriteImage(sitk.JoinSeries([image_of(bone())] * 2), str(file))
    with pytest.raises(Refused) as caught:
        read_mask(file, name="t")
    assert caught.value.code == "K08"


@pytest.mark.parametrize(
    ("last", "direction"),
    [("domain", [np.nan] * 3), ("list", [np.nan] * 3), ("domain", [0.0, 0.0, 1.0])],
)
def test_K08_a_fourth_axis_of_an_nrrd_is_dropped_where_it_has_one_entry(
    tmp_path, last, direction
):
    file = tmp_path / "m.nrrd"
    header = {
        "space": "left-posterior-superior",
        "space directions": [*AFFINE[:3, :3].T.tolist(), direction],
        "space origin": AFFINE[:3, 3].tolist(),
        "kinds": ["domain"] * 3 + [last],
    }
    nrrd.write(str(file), bone()[..., np.newaxis], header)

    mask = read_mask(file, name="t")

    assert [(f.code, str(f.outcome)) for f in mask.findings] == [("K08", "fixed")]
    np.testing.assert_array_equal(mask.voxels, bone() == 1)


def test_F03_a_case_that_would_end_like_a_channel_is_refused():
    from nnunet_bridge.core.dataset import checked_case_id
    from nnunet_bridge.core.errors import InputError

    with pytest.raises(InputError, match="“knee_0001” cannot name a case") as caught:
        checked_case_id("knee_0001")

    assert (caught.value.code, caught.value.exit_code) == ("F03", 3)
