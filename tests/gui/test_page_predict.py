"""Files from the browser, what there is to predict, and the limits of the slices."""

import json
import socket
import time
import zipfile
from urllib.parse import urlencode

import nibabel as nib
import numpy as np
import pytest
from dicom_base import base, each, new_uids, save
from stand_in import DATASET, StandIn, finished_workspace, image_with_bone

from nnunet_bridge.core.errors import SecurityError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.gui import predict
from nnunet_bridge.gui.predict import safe_parts
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.ops.region import RegionRequest
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images


@pytest.fixture
def upload(page):
    """A new upload: send a file by its name, or the headers of one."""
    made = page.post("/api/uploads")[1]

    def send(name, body=b"content", upload_id=made["id"], **headers):
        query = urlencode({"name": name})
        path = f"/api/uploads/{upload_id}?{query}"
        status, _, answer = page.ask(path, "POST", body, **headers)
        return status, json.loads(answer)

    send.folder = page.workspace / "uploads" / made["id"]
    send.id = made["id"]
    return send


def files_below(folder):
    return sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file()
    )


def test_files_keep_their_folders_and_bytes_and_are_removed_when_asked(page, upload):
    body = np.random.default_rng(0).bytes(3_000_000)

    status, answer = upload("anna/scan 1/IM1", body)

    assert status == 200, answer
    assert (upload.folder / "anna/scan 1/IM1").read_bytes() == body
    assert page.post("/api/uploads/remove", id=upload.id)[0] == 200
    assert not upload.folder.exists()
    assert upload("late")[0] == 400


def test_two_files_of_one_name_are_both_kept(upload):
    upload("a/scan.nii.gz", b"one")
    upload("a/scan.nii.gz", b"two")

    assert files_below(upload.folder) == ["a/scan.nii.gz", "a/scan_2.nii.gz"]
    assert (upload.folder / "a/scan_2.nii.gz").read_bytes() == b"two"


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/x", "..", "", "\\\\host\\x", "a\0b", "a//b",
             "/".join("abcdefghijklmnop")],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(page, upload, name):
    before = files_below(page.workspace)

    status, answer = upload(name)

    assert status == 403
    assert "name" in answer["error"]
    assert files_below(page.workspace) == before


def test_names_are_made_safe():
    assert safe_parts("-rf/.hidden/a b.nii") == ["rf", "hidden", "a b.nii"]
    assert safe_parts("Müller\\IM:1*?.dcm") == ["Müller", "IM_1__.dcm"]
    assert len(safe_parts("x" * 300 + ".nii.gz")[0]) == 120
    with pytest.raises(SecurityError):
        safe_parts("...")


@pytest.mark.parametrize("upload_id", ["upload-00000000", "..", "x", "%2e%2e", "."])
def test_an_upload_that_was_not_made_gets_no_file(page, upload, upload_id):
    before = files_below(page.workspace)
    page.ask(f"/api/uploads/{upload_id}?name=a", "POST", b"x")

    assert files_below(page.workspace) == before
    assert page.post("/api/uploads/remove", id=upload_id)[0] == 400
    assert upload.folder.is_dir()


def test_a_file_larger_than_the_disk_is_refused_before_it_is_sent(page, upload):
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as client:
        client.sendall(request_of(page, upload.id, length=10**15))
        answer = client.recv(4000).decode()

    assert answer.startswith("HTTP/1.1 507")
    assert files_below(upload.folder) == []


@pytest.mark.parametrize(("room", "status"), [(9, 200), (8, 507)])
def test_a_file_in_chunks_is_kept_if_there_is_room(
    page, upload, room, status, monkeypatch
):
    """A browser sends the files of a dropped folder without their size."""
    free = predict.KEPT_FREE_BYTES + room
    monkeypatch.setattr(predict.files, "free_bytes", lambda _: free)
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as client:
        client.sendall(request_of(page, upload.id, length=None))
        client.sendall(b"4\r\nsome\r\n5\r\nbytes\r\n0\r\n\r\n")
        answer = client.recv(4000).decode()

    assert answer.startswith(f"HTTP/1.1 {status}")
    found = [(upload.folder / f).read_bytes() for f in files_below(upload.folder)]
    assert found == ([b"somebytes"] if status == 200 else [])


def test_an_upload_that_breaks_off_leaves_nothing(page, upload):
    with socket.create_connection(("127.0.0.1", page.port), timeout=20) as client:
        client.sendall(request_of(page, upload.id, length=1000) + b"only this")
        until = time.monotonic() + 20
        while not files_below(upload.folder):
            assert time.monotonic() < until
            time.sleep(0.02)
        assert all(name.startswith(".") for name in files_below(upload.folder))

    until = time.monotonic() + 20
    while files_below(upload.folder):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert upload("a.nii")[0] == 200


def request_of(page, upload_id, length):
    return (
        f"POST /api/uploads/{upload_id}?name=a.nii HTTP/1.1\r\nHost: {page.host}\r\n"
        f"Cookie: nnunet_bridge_{page.port}={page.token}\r\n"
        + (f"Content-Length: {length}" if length else "Transfer-Encoding: chunked")
        + "\r\n\r\n"
    ).encode()


def test_a_zip_is_looked_into_and_a_harmful_one_is_refused(page, upload, tmp_path):
    sound, harmful = tmp_path / "two.zip", tmp_path / "harm.zip"
    image = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "a.nii.gz")
    with zipfile.ZipFile(sound, "w") as archive:
        for name in ("anna.nii.gz", "berta.nii.gz"):
            archive.write(tmp_path / "a.nii.gz", name)
    with zipfile.ZipFile(harmful, "w") as archive:
        archive.write(tmp_path / "a.nii.gz", "../outside.nii.gz")

    paths = [upload(f.name, f.read_bytes())[1]["path"] for f in (sound, harmful)]
    status, found = page.post("/api/predict/inputs", inputs=paths[:1])
    refused = page.post("/api/predict/inputs", inputs=paths[1:])
    asked = json.dumps({"inputs": paths[:1], "case": "berta"}).encode()
    body = page.ask("/api/look/image", "POST", asked)[2]

    assert status == 200, found
    assert [each["case"] for each in found["cases"]] == ["anna", "berta"]
    assert refused[0] == 403
    assert json.loads(body.partition(b"\n")[0])["source"]["shape"] == [3, 4, 5]


def test_series_are_offered_by_the_word_that_chooses_them(page, tmp_path):
    study, first, frame = new_uids()
    water = base(6, uids=(study, first, frame))
    localiser = each(base(4, uids=(study, new_uids()[1], frame), dz=9.0),
                     SeriesNumber=2, SeriesDescription="T1 <b>")  # fmt: skip
    save(water, tmp_path / "anna", prefix="W")
    save(localiser, tmp_path / "anna", prefix="L")
    asked = {"inputs": [str(tmp_path / "anna")]}

    found = page.post("/api/predict/inputs", **asked)[1]["cases"]

    series = [(s["word"], s["description"], s["slices"]) for s in found[0]["series"]]
    assert series == [("6", "WATER", 6), ("2", "T1 <b>", 4)]
    status, refused = page.post("/api/predict/preview", **asked)
    assert (status, "series 6" in refused["error"]) == (400, True)
    chosen = page.post("/api/predict/preview", **asked, series="2")[1]
    assert len(chosen["positions_mm"]) == 4


@pytest.mark.parametrize("flip", [1, -1])
def test_the_lines_are_millimetres_of_the_slices_of_a_tilted_grid(page, tmp_path, flip):
    """Centre of slice k in NIfTI's frame, by hand; z is the same in the page's."""
    tilt = np.deg2rad(12)
    affine = np.eye(4)
    affine[:3, 0] = [-0.8, 0, 0]
    affine[1:3, 1] = 0.5 * np.cos(tilt), 0.5 * np.sin(tilt)
    affine[1:3, 2] = -3 * np.sin(tilt) * flip, 3 * np.cos(tilt) * flip
    affine[:3, 3] = 40, -60, -250
    voxels = np.random.default_rng(1).integers(0, 99, (9, 11, 7)).astype(np.int16)
    file = tmp_path / "leg.nii.gz"
    nib.save(nib.Nifti1Image(voxels, affine), file)
    middle_row, step = 5 * 0.5 * np.sin(tilt), 3 * np.cos(tilt) * flip
    by_hand = [-250 + middle_row + k * step for k in range(7)]

    view = page.post("/api/predict/preview", inputs=[str(file)])[1]

    assert view["positions_mm"] == pytest.approx(sorted(by_hand, reverse=True))
    assert view["letters"] == "RLHF"
    assert view["picture"].startswith("data:image/png;base64,")
    # Rows 2 to 4 between the lines, rounded outwards: the slices that predict takes.
    low = np.floor(view["positions_mm"][4] * 100) / 100
    high = np.ceil(view["positions_mm"][2] * 100) / 100
    grid = Grid(voxels.shape, np.diag([-1.0, -1, 1, 1]) @ affine)
    region = RegionRequest(from_mm=low, to_mm=high).resolve(grid)
    assert (region.first, region.end) == (2, 5)


@pytest.mark.parametrize(
    ("axes", "letters"), [("yxz", "RLHF"), ("xzy", "RLAP"), ("yzx", "APRL")]
)
def test_the_picture_shows_the_slices_as_rows_in_any_plane(
    page, tmp_path, axes, letters
):
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, ["xyz".index(axis) for axis in axes]]
    voxels = np.arange(210, dtype=np.int16).reshape(5, 6, 7)
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
    asked = [str(tmp_path / "a.nii.gz")]

    view = page.post("/api/predict/preview", inputs=asked)[1]

    assert view["letters"] == letters
    # NIfTI's x runs to the right and y to the front, so theirs are negative here.
    sign = 1 if axes[2] == "z" else -1
    assert view["positions_mm"] == [sign * float(k) for k in range(6, -1, -1)]


@pytest.fixture
def predicted(page, tmp_path):
    """What `predict` reported, and its folder in the workspace."""
    workspace = finished_workspace(page.workspace)
    image = image_with_bone(tmp_path / "leg.nii.gz", 20, 31)
    out = page.workspace / "predictions" / "first"
    options = PredictionOptions(device="cpu", meshes=True, seg_nrrd=True)
    dataset = Dataset(workspace, DATASET)
    return predict_images(dataset, [image], out, options, network=StandIn()), out


def test_what_was_predicted_is_listed_with_rating_volumes_and_files(page, predicted):
    _, out = predicted
    folders = page.get("/api/predict/folders")[1]["folders"]
    found = page.get("/api/predict/results", path=str(out))[1]

    assert folders == [str(out)]
    assert found["quality"] == str(out / "quality.html")
    (case,) = found["cases"]
    assert case["case"] == "leg"
    stored = np.asarray(nib.load(out / "leg/labels.nii.gz").dataobj)
    edges = np.linalg.norm(nib.load(out / "leg/labels.nii.gz").affine[:3, :3], axis=0)
    voxel = float(np.prod(edges))
    volumes = [float((stored == value).sum()) * voxel for value in (1, 2)]
    assert list(case["volumes_mm3"].values()) == pytest.approx(volumes)
    assert case["level"] in ("green", "amber", "red")
    names = {"labels.nii.gz", "volumes.csv", "labels.seg.nrrd"}
    assert names <= set(case["files"])
    assert any(name.startswith("meshes/") for name in case["files"])
    assert (found["found"], found["pages"]) == (1, 1)
    nothing = page.get("/api/predict/results", path=str(out), query="arm")[1]
    assert nothing["cases"] == []


def test_every_file_of_a_prediction_is_saved_and_the_case_is_shown(page, predicted):
    _, out = predicted
    (case,) = page.get("/api/predict/results", path=str(out))[1]["cases"]

    for file in case["files"].values():
        status, headers, _ = page.ask(f"/file?{urlencode({'path': file, 'save': 1})}")
        assert status == 200
        assert headers["content-disposition"].startswith("attachment")
    shown = page.get("/api/look/cases", folder=str(out))[1]
    assert [each["case"] for each in shown["cases"]] == ["leg"]
