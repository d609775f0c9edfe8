"""What the viewer gets: voxels, labels, scores and surfaces, against other readers."""

import gzip
import json
import os
import signal
import sys

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.gui.worker import in_worker
from nnunet_bridge.pipeline.labels.shown import packed_image, shown_image

RAMP = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
LPS = np.diag([-1.0, -1, 1, 1])  # between NIfTI's frame and that of the page


def unpacked(body):
    """Return header and (I, J, K) values of what the viewer reads."""
    body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
    line, _, rest = body.partition(b"\n")
    assert (len(line) + 1) % 8 == 0
    header = json.loads(line)
    kind = f"<u{header['bits'] // 8}"
    voxels = np.frombuffer(rest, kind).reshape(header["shape"], order="F")
    return header, voxels


def look(page, what, **values):
    """Return what the page sends of an image or a labelmap."""
    body = json.dumps(values).encode()
    status, _, answer = page.ask(f"/api/look/{what}", "POST", body)
    return status, answer


def saved(file, voxels, affine):
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), file)
    return str(file)


def test_the_only_image_is_that_of_a_case_with_the_id_of_a_dataset(page, tmp_path):
    """`predict` names a scan as its dataset does, not as its folder."""
    scans = [saved(tmp_path / "s" / f"{n}.nii", RAMP, np.eye(4)) for n in "ab"]

    assert look(page, "image", inputs=scans[:1], case="msk_009")[0] == 200
    status, body = look(page, "image", inputs=scans, case="msk_009")
    assert status == 400
    assert "There is no image of msk_009" in json.loads(body)["error"]


def some_affine(rng):
    """Return any orientation, with axes permuted, flipped, tilted and anisotropic."""
    turn = Rotation.from_euler("xyz", rng.uniform(-20, 20, 3), degrees=True).as_matrix()
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes @ np.diag(rng.uniform(0.4, 6, 3))
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    return affine


@pytest.mark.parametrize("seed", range(6))
def test_voxels_are_those_of_nibabel_in_the_order_of_the_patient(page, tmp_path, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(3, 9, 3))
    kind = [np.int16, np.float32][seed % 2]
    voxels = rng.uniform(-900, 3000, shape).astype(kind)
    affine = some_affine(rng)
    image = saved(tmp_path / "scan.nii.gz", voxels, affine)
    drawn = rng.integers(0, 4, shape).astype(np.uint8)
    labels = saved(tmp_path / "drawn.nii.gz", drawn, affine)

    header, found = unpacked(look(page, "image", inputs=[image])[1])
    asked = {"path": labels, "onto": header["source"]}
    of_labels, values = unpacked(look(page, "labels", **asked)[1])

    expected = nib.as_closest_canonical(nib.Nifti1Image(voxels, affine))
    canonical = np.asarray(expected.dataobj)[::-1, ::-1]  # RAS+ to LPS+
    own = LPS @ expected.affine
    own[:3, 3] += own[:3, :3] @ [canonical.shape[0] - 1, canonical.shape[1] - 1, 0]
    own = own @ np.diag([-1.0, -1, 1, 1])
    np.testing.assert_allclose(header["affine"], own, atol=1e-3)
    step = 1.0 if kind is np.int16 else float(np.ptp(voxels)) / 65535
    assert header["step"] == pytest.approx(step)
    np.testing.assert_allclose(
        header["low"] + header["step"] * found, canonical, atol=0.51 * step
    )
    turned = nib.as_closest_canonical(nib.Nifti1Image(drawn, affine))
    assert (values == np.asarray(turned.dataobj)[::-1, ::-1]).all()
    assert of_labels["affine"] == header["affine"]
    axes = nib.io_orientation(affine)[:, 0].astype(int)  # file axis -> patient axis
    for axis in range(3):
        first, way = header["numbers"][axes[axis]]
        along = [first + way * n for n in range(shape[axis])]
        assert sorted(along) == list(range(shape[axis]))
        # The slice that bears a number is that slice of the file.
        shown = np.take(values, 0, axes[axis])
        of_file = np.take(drawn, first, axis)
        assert np.array_equal(np.sort(shown.ravel()), np.sort(of_file.ravel()))


def test_a_large_image_is_thinned_in_plane_and_stays_in_place():
    rng = np.random.default_rng(3)
    voxels = rng.integers(0, 900, (17, 12, 5)).astype(np.int16)
    grid = Grid(voxels.shape, np.diag([-0.5, 0.5, 3.0, 1.0]))

    shown = shown_image(Volume(grid, voxels), most_bytes=17 * 12 * 5 * 2 // 5)

    assert (shown.spared, shown.grid.shape) == (4, (5, 3, 5))
    assert shown.numbers == ((16, -4), (0, 4), (0, 1))
    assert (shown.low + shown.voxels == voxels[::4, ::4][::-1]).all()
    np.testing.assert_allclose(shown.grid.to_patient([0, 1, 2]), [-8, 2, 6])


def test_labels_are_first_shown_where_most_is_drawn(page, tmp_path):
    drawn = np.zeros((9, 8, 7), np.uint8)
    drawn[1, 2, :], drawn[:, 2, 5], drawn[1, 6, 5] = 3, 1, 2
    labels = saved(tmp_path / "a.nii.gz", drawn, np.eye(4))
    none = saved(tmp_path / "b.nii.gz", np.zeros_like(drawn), np.eye(4))

    starts = [
        unpacked(look(page, "labels", path=f)[1])[0]["start"] for f in (labels, none)
    ]

    assert starts == [[9 - 1 - 1, 8 - 1 - 2, 5], [4, 4, 3]]  # RAS+ to LPS+


def test_labels_beside_the_image_are_refused(page, tmp_path):
    image = saved(tmp_path / "a.nii.gz", RAMP, np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = 1.0
    labels = saved(tmp_path / "b.nii.gz", np.ones((4, 5, 6), np.uint8), moved)
    header, _ = unpacked(look(page, "image", inputs=[image])[1])

    status, body = look(page, "labels", path=labels, onto=header["source"])

    assert status == 400
    assert "does not lie on the voxels" in json.loads(body)["error"]


def test_a_damaged_file_a_foreign_path_and_a_dead_worker_end_no_server(page, tmp_path):
    sound = saved(tmp_path / "a.nii.gz", RAMP, np.eye(4))
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:-9])
    huge = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    huge[42:48] = np.array([30000] * 3, "<i2").tobytes()
    (tmp_path / "c.nii").write_bytes(huge)

    for name in ("b.nii.gz", "c.nii"):
        status, body = look(page, "image", inputs=[str(tmp_path / name)])
        assert (status, name in json.loads(body)["error"]) == (400, True), body
    for inputs in (["/etc/passwd"], [f"{tmp_path}/../../x.nii"]):
        assert look(page, "image", inputs=inputs)[0] == 403
    for inputs in ([], "a.nii", [{}]):
        assert look(page, "image", inputs=inputs)[0] in (400, 403)
    os.kill(in_worker(os.getpid), signal.SIGKILL)
    assert look(page, "image", inputs=[sound])[0] == 200


@pytest.fixture
def dataset(page):
    """A dataset of three cases and the validation of one run, without our tables."""
    root = page.workspace
    raw = root / "nnUNet_raw" / "Dataset001_Tibia"
    run = "nnUNetTrainer__nnUNetPlans__2d/fold_0/validation"
    validation = root / "nnUNet_results" / "Dataset001_Tibia" / run
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "tibia": 1, "femur": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    rng = np.random.default_rng(2)
    affine, per_case = np.diag([0.8, 0.8, 3.0, 1]), []
    for n in range(3):
        drawn = np.zeros((20, 18, 9), np.uint8)
        drawn[3:9, 3:12, 2:7], drawn[11:17, 4:13, 2:8] = 1, 2
        predicted = np.roll(drawn, n, axis=1)
        image = rng.normal(100, 9, drawn.shape).astype(np.int16)
        saved(raw / "imagesTr" / f"c{n}_0000.nii.gz", image, affine)
        saved(raw / "labelsTr" / f"c{n}.nii.gz", drawn, affine)
        file = saved(validation / f"c{n}.nii.gz", predicted, affine)
        metrics = {str(v): {"Dice": dice(drawn, predicted, v)} for v in (1, 2)}
        per_case.append({"metrics": metrics, "prediction_file": file})
    (raw / "dataset.json").write_text(json.dumps(description))
    summary = {"metric_per_case": per_case, "mean": {}}
    (validation / "summary.json").write_text(json.dumps(summary))
    return validation


def dice(drawn, predicted, value):
    one, other = drawn == value, predicted == value
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


def test_the_cases_of_a_dataset_with_their_predictions_in_pages(page, dataset):
    asked = {"dataset": "1", "part": "Tr", "query": "C"}
    status, found = page.get("/api/look/cases", **asked)

    assert (status, found["found"], len(found["cases"])) == (200, 3, 3)
    case = found["cases"][1]
    assert case["case"] == "c1"
    assert case["reference"].endswith("labelsTr/c1.nii.gz")
    assert list(case["predictions"].values()) == [str(dataset / "c1.nii.gz")]
    assert page.get("/api/look/cases", dataset="1", query="nobody")[1]["found"] == 0
    assert page.get("/api/look/cases", dataset="7")[0] == 400


def test_scores_are_those_of_the_record_and_of_an_independent_count(page, dataset):
    case = page.get("/api/look/cases", dataset="1")[1]["cases"][1]
    prediction = str(dataset / "c1.nii.gz")
    asked = {"dataset": "1", "case": "c1", "prediction": prediction}
    drawn, predicted = (
        np.asarray(nib.load(file).dataobj) for file in (case["reference"], prediction)
    )
    expected = {
        name: dice(drawn, predicted, value)
        for value, name in ((1, "tibia"), (2, "femur"))
    }

    known = page.post("/api/look/scores", **asked)[1]
    measured = page.post(
        "/api/look/scores", **asked, reference=case["reference"], compute=1
    )[1]

    assert known["source"] == str(dataset / "summary.json")
    for rows in (known["rows"], measured["rows"]):
        assert {r["structure"]: r["dice"] for r in rows} == pytest.approx(expected)
    volume = float((drawn == 1).sum()) * 0.8 * 0.8 * 3
    assert measured["rows"][0]["volume_reference_mm3"] == pytest.approx(volume)
    # One voxel of 0.8 mm along y: the farthest surfaces are that far apart.
    assert measured["rows"][0]["hd95_mm"] == pytest.approx(0.8, abs=0.01)


def test_scores_of_a_table_beside_the_predictions_come_first(page, dataset):
    table = dataset.parent / "scores.csv"
    table.write_text("case,structure,dice,nsd\nc0,tibia,0.25,0.5\nc1,tibia,0.75,\n")
    asked = {"prediction": str(dataset / "c0.nii.gz"), "dataset": "1"}

    found = page.post("/api/look/scores", **asked, case="c0")[1]
    (dataset / "summary.json").write_text('{"metric_per_case": [3]}')
    other = page.post("/api/look/scores", **asked, case="c2")

    assert found["source"] == str(table)
    assert [(row["dice"], row["nsd"]) for row in found["rows"]] == [(0.25, 0.5)]
    assert (other[0], "cannot be read" in other[1]["error"]) == (400, True)


def test_labels_and_prediction_differ_in_the_browser_where_the_files_differ(
    page, dataset
):
    case = page.get("/api/look/cases", dataset="1")[1]["cases"][1]
    files = [case["reference"], str(dataset / "c1.nii.gz")]

    shown = [unpacked(look(page, "labels", path=f, dataset="1")[1])[1] for f in files]

    stored = [np.asarray(nib.load(file).dataobj) for file in files]
    differ = np.argwhere(stored[0] != stored[1])
    in_lps = {(19 - i, 17 - j, k) for i, j, k in differ.tolist()}
    assert len(in_lps) == 2 * (6 * 5 + 6 * 6)  # a row at either end of both
    assert set(map(tuple, np.argwhere(shown[0] != shown[1]).tolist())) == in_lps


def test_surfaces_lie_where_the_labels_do(page, dataset):
    case = page.get("/api/look/cases", dataset="1")[1]["cases"][2]
    asked = {"case": "c2", "dataset": "1", "reference": case["reference"]}

    found = page.post(
        "/api/look/surfaces", **asked, prediction=str(dataset / "c2.nii.gz"), name="2d"
    )[1]["case"]

    assert [one["name"] for one in found["meshes"]] == ["reference", "2d"]
    assert [m["name"] for m in found["meshes"][0]["meshes"]] == ["tibia", "femur"]
    drawn, predicted = (one["meshes"][0]["centre_mm"] for one in found["meshes"])
    # RAS+ y of NIfTI is -y here: two voxels of 0.8 mm.
    np.testing.assert_allclose(np.subtract(predicted, drawn), [0, -1.6, 0], atol=0.05)


def test_torch_is_not_loaded_for_an_image(tmp_path):
    saved(tmp_path / "a.nii.gz", RAMP, np.eye(4))

    in_worker(packed_image, [tmp_path / "a.nii.gz"])

    assert "torch" not in in_worker(_loaded)


def _loaded():
    return list(sys.modules)
