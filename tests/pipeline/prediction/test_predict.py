"""A call of `predict`: what it reads, writes and reports."""

import csv
import json
import sys

import numpy as np
import pytest
from stand_in import DATASET, GRID, StandIn, finished_workspace, image_with_bone
from tiny_model import run_of

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.progress import Silent
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.ops.region import RegionRequest
from nnunet_bridge.pipeline.ingest.inputs import read_image
from nnunet_bridge.pipeline.labels.mesh import MeshOptions, mesh_labels
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images

_opened = []


def _note_open(event, arguments):
    if event == "open":
        _opened.append(str(arguments[0]))


@pytest.fixture(scope="module")
def opened():
    """The names of all files that this process opens from now on."""
    sys.addaudithook(_note_open)  # it cannot be removed, and costs next to nothing
    return _opened


@pytest.fixture
def predict_legs(tmp_path):
    dataset = Dataset(finished_workspace(tmp_path), DATASET)
    images = [image_with_bone(tmp_path / f"leg_{n}.nii.gz", 20, 30 + n) for n in (1, 2)]

    def call(**options):
        return predict_images(
            dataset,
            images,
            tmp_path / "out",
            PredictionOptions(device="cpu", **options),
            network=StandIn(),
        )

    return call


def rows(file):
    with file.open() as stream:
        return list(csv.DictReader(stream))


def test_a_labelmap_is_not_read_again_for_the_table_of_volumes(
    predict_legs, tmp_path, opened
):
    labels = str(tmp_path / "out" / "leg_1" / "labels.nii.gz")
    opened.clear()
    predict_legs()
    assert opened.count(labels) == 1  # for its hash

    opened.clear()
    predict_legs()
    assert opened.count(labels) == 2  # for its hash, and as a proof of wholeness


def test_the_table_of_volumes_joins_those_of_all_cases_new_and_finished(
    predict_legs, tmp_path
):
    predict_legs()
    table = (tmp_path / "out" / "volumes.csv").read_bytes()
    assert rows(tmp_path / "out" / "volumes.csv") == [
        *rows(tmp_path / "out" / "leg_1" / "volumes.csv"),
        *rows(tmp_path / "out" / "leg_2" / "volumes.csv"),
    ]

    (tmp_path / "out" / "leg_2" / "prediction.json").unlink()
    predict_legs()

    assert (tmp_path / "out" / "volumes.csv").read_bytes() == table


def test_the_report_of_a_case_lists_its_files_and_volumes_and_again_when_finished(
    predict_legs, tmp_path
):
    new, finished = (predict_legs().as_json()["cases"] for _ in range(2))

    folder = tmp_path / "out" / "leg_1"
    files = [f.relative_to(tmp_path / "out") for f in folder.rglob("*") if f.is_file()]
    assert new[0]["files"] == sorted(map(str, files))
    assert "leg_1/prediction.json" in new[0]["files"]
    record = read_json(folder / "prediction.json")
    assert new[0]["volumes_mm3"] == record["volumes_mm3"] == {"tibia": 660, "femur": 0}
    assert finished == new


def test_meshes_are_smoothed_as_mesh_smooths_them(predict_legs, tmp_path):
    predict_legs(meshes=True)
    file = tmp_path / "out" / "leg_1" / "meshes" / "tibia.ply"
    rough = file.read_bytes()

    predict_legs(meshes=True, smooth=3)

    labels = tmp_path / "out" / "leg_1" / "labels.nii.gz"
    table = tmp_path / "out" / "dataset.json"
    mesh_labels(labels, tmp_path / "m", MeshOptions(smooth=3, labels_file=table))
    assert file.read_bytes() == (tmp_path / "m" / "tibia.ply").read_bytes() != rough


def test_M08_a_mesh_that_smoothing_shrinks_too_much_is_named(predict_legs, tmp_path):
    (case, _) = predict_legs(meshes=True, smooth=2000).as_json()["cases"]

    assert (case["outcome"], case["codes"]) == ("warned", ["M08"])
    assert "--smooth 2000 changes the volume of tibia" in case["messages"][0]
    assert not (tmp_path / "out" / "leg_1" / "meshes" / "tibia.ply").exists()


def test_smoothing_needs_meshes():
    with pytest.raises(UsageError, match="give --mesh too"):
        PredictionOptions(smooth=3)


def test_a_case_is_reported_in_the_form_of_all_commands(predict_legs):
    region = RegionRequest.from_words(slices="20:500")

    (case, _) = predict_legs(region=region).as_json()["cases"]

    assert case["outcome"] == "refused"
    assert case["codes"] == ["K20"]
    assert [message[:6] for message in case["messages"]] == ["[K20] "]
    assert (case["volumes_mm3"], case["files"], case["quality"]) == ({}, [], None)


def test_N08_an_image_that_may_take_days_is_warned_of_before_it_is_predicted(tmp_path):
    work = finished_workspace(tmp_path)
    origin = run_of(work).fold_dir / "unpacked.json"
    size = {"smallest": 1.0, "largest": 1.0}
    seen = {f"{end}_spacing_mm": [mm] * 3 for end, mm in size.items()}
    seen |= {f"{end}_shape": [20] * 3 for end in size}
    origin.write_text(json.dumps({"training_range": {"cases": 2, **seen}}))
    grid = Grid(GRID.shape, np.diag([9.0, 9.0, 9.0, 1.0]))
    image = image_with_bone(tmp_path / "leg.nii.gz", 20, 30, grid=grid)
    said, before = [], []

    class Listener(Silent):
        def say(self, line):
            said.append(line)

    class Network(StandIn):
        def __call__(self, *arguments, **named):
            before.extend(said)
            return super().__call__(*arguments, **named)

    done = predict_images(
        Dataset(work, DATASET),
        [image],
        tmp_path / "out",
        PredictionOptions(device="cpu"),
        progress=Listener(),
        network=Network(),
    )

    warned = "voxels are 9 x 9 x 9 mm"
    assert any("N08" in line and warned in line for line in before), done.cases


def test_G13_an_image_longer_than_anybody_is_refused(tmp_path):
    grid = Grid((4, 4, 600), np.diag([19.0, 19.0, 19.0, 1.0]))
    image_with_bone(tmp_path / "leg.nii.gz", 1, 2, grid=grid)

    with pytest.raises(Refused, match=r"11\.4 m long") as refused:
        read_image(tmp_path / "leg.nii.gz")

    assert refused.value.code == "G13"
