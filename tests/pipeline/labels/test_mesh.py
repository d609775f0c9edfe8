"""Meshing of folders: complete, named, and refused where a surface is distorted."""

import json

import numpy as np
import pytest
import trimesh
from some_labelmaps import AFFINE, TABLE, labelmap

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.formats.nifti import write_labelmap
from nnunet_bridge.pipeline.labels.mesh import MeshOptions, mesh_labels, write_meshes


def test_a_file_becomes_a_mesh_per_structure_and_one_of_all(folders, tmp_path):
    summary = mesh_labels(
        folders[1] / "msk_000.nii.gz", tmp_path / "m", MeshOptions(frame="RAS")
    )

    structures = summary.as_json()["structures"]
    volumes = labelmap(0).volumes_mm3()
    for name in TABLE.names:
        body = trimesh.load_mesh(tmp_path / "m" / f"{name}.ply", process=False)
        assert structures[name]["vertices"] == len(body.vertices)
        assert structures[name]["faces"] == len(body.faces)
        assert structures[name]["volume_mesh_mm3"] == pytest.approx(
            body.volume, rel=1e-4
        )
        assert structures[name]["volume_voxels_mm3"] == pytest.approx(volumes[name])
        assert structures[name]["touches_border"]
    assert (tmp_path / "m" / "all.ply").is_file()
    assert summary.as_json()["frame"] == "RAS"
    assert "tibia" in summary.as_text()


def test_a_folder_becomes_a_folder_per_case(folders, tmp_path):
    mesh_labels(folders[1], tmp_path / "m", MeshOptions(file_format="stl"))

    assert {p.name for p in (tmp_path / "m").iterdir()} == {
        "msk_000",
        "msk_001",
        "msk_002",
    }
    assert (tmp_path / "m" / "msk_001" / "femur.stl").is_file()


def test_M03_an_absent_structure_is_empty_and_no_error(folders, tmp_path):
    only_tibia = labelmap().with_voxels((labelmap().voxels == 1).astype(np.uint8))
    write_labelmap(folders[1] / "msk_000.nii.gz", only_tibia)

    summary = mesh_labels(folders[1] / "msk_000.nii.gz", tmp_path / "m")

    assert summary.exit_code == 0
    assert summary.as_json()["structures"]["femur"]["state"] == "empty"
    assert not (tmp_path / "m" / "femur.ply").exists()


def test_M08_smoothing_that_shrinks_too_much_is_refused_unless_forced(tmp_path):
    voxels = np.zeros((20, 20, 12), np.uint8)
    voxels[5:7, 5:7, 1:11] = 1
    thin = labelmap(shape=(20, 20, 12)).with_voxels(voxels)

    refused, _ = write_meshes(thin, tmp_path / "a", MeshOptions(smooth=60))
    forced, _ = write_meshes(thin, tmp_path / "b", MeshOptions(smooth=60, force=True))

    assert (refused.state, refused.file) == ("refused", None)
    assert refused.findings[0].code == "M08"
    assert not (tmp_path / "a").exists()
    assert forced.file == tmp_path / "b" / "tibia.ply"


def test_M08_a_refused_mesh_is_part_of_the_outcome(tmp_path):
    voxels = np.zeros((20, 20, 12), np.uint8)
    voxels[5:7, 5:7, 1:11] = 1
    thin = labelmap(shape=(20, 20, 12)).with_voxels(voxels)
    write_labelmap(tmp_path / "thin.nii.gz", thin)

    summary = mesh_labels(
        tmp_path / "thin.nii.gz", tmp_path / "m", MeshOptions(smooth=60)
    )

    assert summary.exit_code == 3
    assert summary.as_json()["cases"][0]["codes"] == ["M08"]


def test_M06_a_thin_structure_is_warned_about(tmp_path):
    voxels = np.zeros((60, 60, 3), np.uint8)
    voxels[2:58:2, 2:58] = 1
    plates = Labelmap(Grid(voxels.shape, AFFINE), voxels, TABLE)

    tibia, _ = write_meshes(plates, tmp_path)

    assert [finding.code for finding in tibia.findings] == ["M06"]
    assert tibia.state == "written"


def test_files_can_be_called_as_opensim_calls_bones(tmp_path):
    sides = LabelTable.from_names(["femur_left", "femur_right"])
    both = Labelmap(labelmap().grid, labelmap().voxels, sides)
    write_labelmap(tmp_path / "labels.nii.gz", both)
    content = {"labels": {"background": 0, "femur_left": 1, "femur_right": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))

    summary = mesh_labels(
        tmp_path / "labels.nii.gz",
        tmp_path / "m",
        MeshOptions(names="opensim", file_format="stl"),
    )

    assert {file.name for file in (tmp_path / "m").iterdir()} == {
        "femur_l.stl",
        "femur_r.stl",
        "all.stl",
    }
    structures = summary.as_json()["structures"]
    assert structures["femur_left"]["file"].endswith("femur_l.stl")


@pytest.mark.parametrize(
    "options",
    [
        {"frame": "XYZ"},
        {"file_format": "vtk"},
        {"smooth": -1},
        {"names": "stapl"},
        {"faces": 3},
    ],
)
def test_options_without_sense_are_refused(options):
    with pytest.raises(UsageError):
        MeshOptions(**options)
