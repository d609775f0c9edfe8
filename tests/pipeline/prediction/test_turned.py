"""An image stored in another order of axes is predicted like the training's order."""

import json
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from dicom_base import base, save
from stand_in import BRIGHT, DATASET, TABLE, finished_workspace, image_with_bone
from tiny_model import run_of, tiny_plans, untrained_checkpoint, write_model

from nnunet_bridge.core.image import Labelmap
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.formats.nifti import read_volume, write_labelmap
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.runs import ORIGIN_FILE
from nnunet_bridge.ops.region import RegionRequest
from nnunet_bridge.pipeline.models.choose import ModelRequest
from nnunet_bridge.pipeline.models.training_range import training_range
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images

ORDERS = [
    "".join(order)
    for axes in permutations(["LR", "PA", "SI"])
    for order in product(*axes)
]
SOME = ["LPS", *ORDERS[1::5]]
"""Every permutation of the axes, each axis in both directions."""
SEEN = {
    "cases": 2,
    "smallest_spacing_mm": [1.0, 1.0, 2.0],
    "largest_spacing_mm": [1.0, 1.0, 2.0],
    "smallest_shape": [12, 10, 60],
    "largest_shape": [12, 10, 60],
    "orientations": ["LPS"],
}


class LearntInLPS:
    """Labels a bright voxel by its place in the array, as a network learns places."""

    def __init__(self):
        self.seen = {}

    def __call__(self, _model, work, _resources, *, advanced):
        folder = work / "predicted"
        for file in sorted((work / "images").glob("*.nii.gz")):
            volume = read_volume(file)
            self.seen.setdefault(volume.grid.axis_letters, []).append(volume.grid.shape)
            i, j, k = np.indices(volume.grid.shape)
            first = (i < 6) ^ (j < 5) ^ (k < volume.grid.shape[2] // 2)
            labels = np.where(volume.voxels >= BRIGHT, np.where(first, 1, 2), 0)
            write_labelmap(
                folder / file.name.replace("_0000", ""),
                Labelmap(volume.grid, labels.astype(np.uint8), TABLE),
            )
        advanced(1.0)
        return folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    found = finished_workspace(tmp_path_factory.mktemp("work"))
    (fold_dir,) = found.results_dir.glob("*/*/fold_0")
    (fold_dir / ORIGIN_FILE).write_text(json.dumps({"training_range": SEEN}))
    return found


@pytest.fixture(scope="module")
def leg(tmp_path_factory):
    return image_with_bone(tmp_path_factory.mktemp("leg") / "leg.nii.gz", 20, 34)


def stored_as(order, leg, folder):
    """Store an image with its axes in another order, by nibabel alone."""
    image = nib.load(leg)
    change = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(order)
    )
    file = folder / f"{order}.nii.gz"
    image.as_reoriented(change).to_filename(file)
    return file


def predicted(workspace, images, out, **words):
    network = LearntInLPS()
    options = PredictionOptions(device="cpu", **words)
    dataset = Dataset(workspace, DATASET)
    summary = predict_images(dataset, images, out, options, network=network)
    return summary, network.seen


def in_lps(file):
    """Return the labels of a file with its axes in the order LPS, by nibabel alone."""
    image = nib.load(file)
    change = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("LPS")
    )
    turned = image.as_reoriented(change)
    return np.asarray(turned.dataobj), turned.affine


@pytest.mark.parametrize(
    "orders",
    [
        pytest.param(SOME, id="some"),
        pytest.param(ORDERS, id="all", marks=pytest.mark.long),
    ],
)
def test_N08_every_order_of_axes_gives_the_labels_of_the_trainings_order(
    workspace, leg, tmp_path, orders
):
    images = [stored_as(order, leg, tmp_path) for order in orders]

    summary, seen = predicted(workspace, images, tmp_path / "out")

    assert seen == {"LPS": [(12, 10, 60)] * len(orders)}
    expected, affine = in_lps(tmp_path / "out" / "LPS" / "labels.nii.gz")
    assert set(np.unique(expected)) == {0, 1, 2}
    for case, image in zip(summary.cases, images, strict=True):
        file = tmp_path / "out" / case.case_id / "labels.nii.gz"
        own, labels = nib.load(image), nib.load(file)
        assert labels.shape == own.shape
        np.testing.assert_allclose(labels.affine, own.affine, atol=1e-5)
        found, place = in_lps(file)
        np.testing.assert_array_equal(found, expected, err_msg=case.case_id)
        np.testing.assert_allclose(place, affine, atol=1e-5)
        outcome = "accepted" if case.case_id == "LPS" else "fixed"
        assert str(case.outcome) == outcome, case.findings
    again, seen = predicted(workspace, images, tmp_path / "out")
    assert (seen, again.as_json()) == ({}, summary.as_json())


@pytest.mark.parametrize("order", ["RAS", "LIP", "SPR"])
def test_slices_are_those_of_the_image_itself(workspace, leg, tmp_path, order):
    image = stored_as(order, leg, tmp_path)
    shape = nib.load(image).shape
    region = RegionRequest.from_words(slices=f"2:{shape[2] - 1}")

    predicted(workspace, [image], tmp_path / "out", region=region, meshes=True)

    labels = nib.load(tmp_path / "out" / order / "labels.nii.gz")
    assert labels.shape == shape
    voxels = np.asarray(labels.dataobj)
    bright = np.asarray(nib.load(image).dataobj) >= BRIGHT
    bright[:, :, :2] = bright[:, :, shape[2] - 1 :] = False
    np.testing.assert_array_equal(voxels > 0, bright)
    meshes = {f.name for f in (tmp_path / "out" / order / "meshes").iterdir()}
    assert meshes == {"tibia.ply", "femur.ply", "all.ply"}


def test_the_first_pass_finds_the_region_of_a_turned_image(workspace, leg, tmp_path):
    image = stored_as("RAI", leg, tmp_path)
    region = RegionRequest.from_words(auto=True, margin_mm=4.0)

    _, seen = predicted(workspace, [image], tmp_path / "out", region=region)

    assert set(seen) == {"LPS"}
    cut = read_json(tmp_path / "out" / "RAI" / "prediction.json")["cut"]
    assert cut["first_slice"] <= 60 - 34
    assert cut["end_slice"] >= 60 - 20
    voxels = np.asarray(nib.load(tmp_path / "out" / "RAI" / "labels.nii.gz").dataobj)
    bright = np.asarray(nib.load(image).dataobj) >= BRIGHT
    np.testing.assert_array_equal(voxels > 0, bright)


def test_a_prediction_of_an_earlier_version_is_made_again(workspace, leg, tmp_path):
    """It was of the image as it was stored: nonsense, and finished."""
    image = stored_as("RAS", leg, tmp_path)
    predicted(workspace, [image], tmp_path / "out")
    record = tmp_path / "out" / "RAS" / "prediction.json"
    content = read_json(record)
    assert content.pop("turned") == {"axes": [0, 1, 2], "flips": [0, 1]}
    record.write_text(json.dumps(content))

    _, seen = predicted(workspace, [image], tmp_path / "out")

    assert seen


def test_dicom_seg_refers_to_the_slices_of_a_turned_series(workspace, tmp_path):
    """Feet first: the rows run to the right, the slices to the feet."""
    import highdicom as hd

    slices = base(iop=(-1, 0, 0, 0, 1, 0), px=(1.0, 1.0), size=32, n=30, dz=2.0)
    save(slices, tmp_path / "feet_first")

    summary, seen = predicted(
        workspace, [tmp_path / "feet_first"], tmp_path / "out", dicom_seg=True
    )

    assert list(seen) == ["LPS"]
    assert str(summary.cases[0].outcome) != "refused"
    segments = hd.seg.segread(tmp_path / "out" / "feet_first" / "labels.dcm")
    volume = segments.get_volume(combine_segments=True)
    labels = nib.load(tmp_path / "out" / "feet_first" / "labels.nii.gz")
    voxels = np.asarray(labels.dataobj)
    assert int((volume.array > 0).sum()) == int((voxels > 0).sum()) > 0
    sources = {slice_.SOPInstanceUID for slice_ in slices}
    used = {uid for uids in segments.get_source_image_uids() for uid in uids}
    assert sources & used


def test_without_a_manifest_the_order_is_read_from_the_images(leg, tmp_path):
    images = tmp_path / "raw" / "imagesTr"
    images.mkdir(parents=True)
    stored_as("PIR", leg, images).rename(images / "a_0000.nii.gz")
    model = tmp_path / "model"
    model.mkdir()
    fingerprint = {"spacings": [[1.0] * 3], "shapes_after_crop": [[12] * 3]}
    (model / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))

    assert training_range(model, tmp_path / "raw").orientations == ["PIR"]


@pytest.mark.training
def test_nnunets_own_prediction_of_an_ensemble_is_the_same_in_another_order(
    leg, tmp_path
):
    """Untrained networks of 2d and 3d_fullres: noise, and the same noise."""
    workspace, plans = Workspace.at(tmp_path, environment={}), tiny_plans()
    for configuration in ("2d", "3d_fullres"):
        run = run_of(workspace, configuration=configuration)
        fold_dir = write_model(run, untrained_checkpoint(run, plans), plans=plans)
        (fold_dir / ORIGIN_FILE).write_text(json.dumps({"training_range": SEEN}))
    images = [stored_as(order, leg, tmp_path) for order in ("LPS", "SRA")]
    options = PredictionOptions(ModelRequest(("2d", "3d_fullres")), "cpu")

    predict_images(Dataset(workspace, DATASET), images, tmp_path / "out", options)

    expected, _ = in_lps(tmp_path / "out" / "LPS" / "labels.nii.gz")
    found, _ = in_lps(tmp_path / "out" / "SRA" / "labels.nii.gz")
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(found, expected)
