"""The record of what was planned."""

import json

import pytest

from nnunet_bridge.core.errors import InputError, SecurityError
from nnunet_bridge.nnunet.methods import METHODS
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.planned import (
    Planned,
    planned_file,
    unfinished_cases,
    with_previous_stages,
)
from nnunet_bridge.nnunet.plans import planner_of

DATASET = "Dataset001_Tibia"
FILE = {"size": 1, "mtime_ns": 2, "sha256": "a"}


@pytest.fixture
def workspace(tmp_path):
    return Workspace.at(tmp_path, environment={})


def test_the_plans_of_every_method_have_a_planner():
    for method in METHODS.values():
        assert planner_of(method.stock_plans).plans == method.stock_plans


def test_what_is_recorded_is_read_back(workspace):
    planned = Planned(
        "state",
        {"default": ("2d",), "resenc-m": ("2d", "3d_fullres")},
        ("-gpu_memory_target", "16"),
        {"nnUNetPlans_2d": {"nnUNetPlans_2d/a.pkl": FILE}},
        "it failed",
    )

    planned.write(Dataset(workspace, DATASET))

    assert Planned.read(Dataset(workspace, DATASET)) == planned


def test_nothing_is_read_where_nothing_was_planned(workspace):
    assert Planned.read(Dataset(workspace, DATASET)) is None


def test_a_record_of_the_time_of_one_planner_still_holds(workspace):
    old = {
        "dataset_state": "state",
        "configurations": ["2d", "3d_fullres"],
        "preprocessed": {
            "2d": {"nnUNetPlans_2d/a.pkl": FILE},
            "3d_fullres": {"nnUNetPlans_3d_fullres/a.pkl": FILE},
        },
    }
    file = planned_file(Dataset(workspace, DATASET))
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(old))

    planned = Planned.read(Dataset(workspace, DATASET))

    assert planned.planners == {"default": ("2d", "3d_fullres")}
    assert planned.preprocessed["nnUNetPlans_2d"] == old["preprocessed"]["2d"]
    assert not planned.lacks({"default": ("2d",)})


def test_the_cascade_brings_what_it_builds_upon():
    assert with_previous_stages(("2d", "3d_cascade_fullres", "3d_lowres")) == (
        *("2d", "3d_lowres", "3d_cascade_fullres"),
    )


def test_F11_a_case_that_lacks_one_of_its_files_is_unfinished(tmp_path):
    for name in ("a.b2nd", "a_seg.b2nd", "a.pkl", "b.b2nd"):
        (tmp_path / name).touch()

    assert unfinished_cases(tmp_path, ["a", "b", "c"]) == ["b", "c"]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("{", r"planned\.json is damaged: it is not a JSON object; plan"),
        ("[]", r"planned\.json is damaged"),
        ('{"dataset_state": 1}', r"planned\.json is damaged: dataset_state: "),
        (
            '{"dataset_state": "a", "schema": 2}',
            r"schema 2 of the record .*planned\.json: update nnunet-bridge or plan",
        ),
    ],
)
def test_a_damaged_or_newer_record_is_refused_by_name(workspace, content, shown):
    file = planned_file(Dataset(workspace, DATASET))
    file.parent.mkdir(parents=True)
    file.write_text(content)

    with pytest.raises(InputError, match=shown) as refused:
        Planned.read(Dataset(workspace, DATASET))
    assert str(refused.value).endswith("plan Dataset001_Tibia again with --force.")


@pytest.mark.parametrize("key", ["preprocessed", "files"])
@pytest.mark.parametrize("name", ["../../../home", "/home", "..", ".", "", "a/../../b"])
def test_S10_a_record_that_names_a_folder_elsewhere_is_refused(workspace, key, name):
    """`plan` removes the folders on record when they no longer hold."""
    file = planned_file(Dataset(workspace, DATASET))
    file.parent.mkdir(parents=True)
    held = {"preprocessed": {name: {}}, "files": {name: ""}}[key]
    file.write_text(json.dumps({"dataset_state": "a", key: held}))

    with pytest.raises(SecurityError, match="is not the name of a file") as refused:
        Planned.read(Dataset(workspace, DATASET))

    assert refused.value.code == "S10"
