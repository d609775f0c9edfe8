"""What plans, labels and names of a model may be: whole lists, and nothing else."""

import ast
import json
import pydoc
import re
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import (
    DATASET,
    DATASET_JSON,
    NOWHERE,
    changed,
    golden_plans,
    refusal_of,
    tiny_plans,
)

from nnunet_bridge.core.errors import SecurityError
from nnunet_bridge.nnunet.methods import REPORT_NETWORK_OF, method_of
from nnunet_bridge.nnunet.models import (
    TRAINERS,
    ModelFolder,
    check_trainer,
    checked_dataset,
    checked_plans,
    parsed,
    sorted_contents,
)
from nnunet_bridge.nnunet.names import Workspace
from nnunet_bridge.nnunet.plans import BUDGETS

LOCATED = {
    *(f"torch.nn.modules.conv.Conv{n}d" for n in (2, 3)),
    *(f"torch.nn.modules.instancenorm.InstanceNorm{n}d" for n in (2, 3)),
    *(f"torch.nn.modules.batchnorm.BatchNorm{n}d" for n in (2, 3)),
    *(f"torch.nn.modules.dropout.Dropout{n}d" for n in (2, 3)),
    *("torch.nn.LeakyReLU", "torch.nn.ReLU"),
    *(f"torch.nn.modules.activation.{name}" for name in ("LeakyReLU", "ReLU")),
    "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
}
"""All that nnU-Net may look up and call for a model that passed."""


def name_of(plans, configuration="2d", trainer="nnUNetTrainer"):
    return ModelFolder(DATASET, trainer, plans["plans_name"], configuration)


@pytest.mark.parametrize("planner", ["nnUNetPlans", "nnUNetResEncUNetMPlans"])
@pytest.mark.parametrize(
    "configuration", ["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"]
)
def test_plans_of_nnunets_own_planners_pass_unchanged(planner, configuration):
    plans = golden_plans(planner)

    assert checked_plans(deepcopy(plans), name_of(plans, configuration)) == plans


@pytest.mark.parametrize("budget", list(BUDGETS))
def test_plans_of_every_budget_pass_unchanged(budget):
    plans = method_of("nnunet", budget).plans_from(golden_plans())

    assert checked_plans(deepcopy(plans), name_of(plans)) == plans


def paths_in(content, path=()):
    """Yield the path of every value in nested dicts and lists."""
    parts = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in parts:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from paths_in(value, (*path, key))


PLANS = golden_plans("nnUNetResEncUNetMPlans")
PLACES = list(paths_in(PLANS))
EVIL = ("os.system", "subprocess.Popen", "builtins.exec", "torch.load", "a b", "")
JSON_VALUES = st.recursive(
    st.sampled_from([None, True, False, *EVIL, -1, 0, 10**9, 1e300, 0.5]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["inherits_from", "args", "x"]), inner)
    ),
    max_leaves=4,
)


@given(place=st.sampled_from(PLACES), value=JSON_VALUES)
def test_S02_whatever_replaces_whatever_only_listed_classes_can_pass(place, value):
    plans = changed(PLANS, *place, value)

    refusal = refusal_of(checked_plans, plans, name_of(PLANS))
    if refusal is not None:
        assert refusal in ("S02", "S07")
        return
    looked_up = {
        word
        for planned in plans["configurations"].values()
        for part in (planned.get("architecture", {}),)
        for word in (
            part.get("network_class_name"),
            *(part["arch_kwargs"][key] for key in part.get("_kw_requires_import", [])),
        )
        if word
    }
    assert looked_up <= LOCATED
    assert not any(word in json.dumps(plans) for word in EVIL[:5])


@given(place=st.sampled_from(PLACES))
def test_S02_a_key_beside_any_other_is_refused(place):
    plans = deepcopy(PLANS)
    inner = plans
    for key in place[:-1]:
        inner = inner[key]
    if not isinstance(inner, dict):
        return
    inner["zz_unknown"] = {}

    with pytest.raises(SecurityError) as caught:
        checked_plans(plans, name_of(PLANS))

    assert caught.value.code == "S02"


@pytest.mark.parametrize("word", sorted(LOCATED))
def test_every_listed_class_is_one_that_nnunet_would_find(word):
    assert isinstance(pydoc.locate(word), type)


NETWORKS_OF_ITS_OWN = set(REPORT_NETWORK_OF)
"""Their sizes stand in the plans, where they are judged."""


def test_S09_every_trainer_on_the_list_is_in_nnunet_or_ours_and_keeps_its_network():
    """Read from nnU-Net's files: a list with a name nobody has would help nobody."""
    folder = Path(find_spec("nnunetv2").origin).parent / "training" / "nnUNetTrainer"
    ours = Path(__file__).parents[2] / "nnunet_bridge" / "nnunet" / "trainers"
    classes = {
        node.name: {
            part.name for part in node.body if isinstance(part, ast.FunctionDef)
        }
        for file in (*folder.rglob("*.py"), *ours.glob("*.py"))
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }

    assert set(classes) >= TRAINERS
    for trainer in TRAINERS - {"nnUNetTrainer"} - NETWORKS_OF_ITS_OWN:
        assert "build_network_architecture" not in classes[trainer]


@pytest.mark.parametrize("trainer", ["", "EvilTrainer", "os.system", "nnunettrainer"])
def test_S09_other_trainers_are_refused(trainer):
    with pytest.raises(SecurityError) as caught:
        check_trainer(trainer)

    assert caught.value.code == "S09"


NEARLY_NAMES = st.from_regex(r"Dataset[0-9]{3}_[A-Za-z0-9._-]{1,6}.?", fullmatch=True)
NEARLY_FOLDERS = st.builds(
    "{}__{}__{}".format,
    st.sampled_from([*sorted(TRAINERS), "Evil"]),
    st.from_regex(r"[A-Za-z_]{1,6}.?", fullmatch=True),
    st.sampled_from(["2d", "3d_fullres", "4d", ""]),
)


@given(NEARLY_NAMES | st.text(max_size=9), NEARLY_FOLDERS | st.text(max_size=9))
def test_S10_only_plain_names_become_folders(dataset, folder):
    refusal = refusal_of(ModelFolder.from_folders, dataset, folder)
    if refusal is not None:
        assert refusal in ("S04", "S09", "S10")
        return
    name = ModelFolder.from_folders(dataset, folder)
    assert name.path == f"{dataset}/{folder}"
    assert re.fullmatch(r"Dataset[0-9]{3}_[A-Za-z0-9._-]+/[A-Za-z0-9_]+", name.path)


def test_a_name_and_its_folders_say_the_same():
    name = ModelFolder(DATASET, "BridgeQuickTrainer", "nnUNetPlansQuick", "3d_fullres")

    assert ModelFolder.from_folders(*name.path.split("/")) == name
    assert ModelFolder.of(name.run(NOWHERE, "all")) == name
    assert name.run(NOWHERE, "3").fold == 3


def test_only_what_prediction_needs_of_a_description_is_kept():
    kept = checked_dataset(
        {**DATASET_JSON, "description": "DOE^JANE", "training": ["/home/jdoe"]}
    )

    assert kept == DATASET_JSON


def test_regions_and_a_reader_are_kept():
    content = {
        **DATASET_JSON,
        "labels": {"background": 0, "leg": [1, 2], "tibia": 1},
        "regions_class_order": [1, 2],
        "overwrite_image_reader_writer": "SimpleITKIO",
    }

    assert checked_dataset(content) == content


@given(st.binary(max_size=200))
def test_S08_whatever_bytes_a_json_file_holds_it_is_read_or_refused(content):
    assert refusal_of(parsed, content, "plans.json") in (None, "S08")


def test_contents_are_sorted_by_what_they_are_for():
    folder = f"{DATASET}/nnUNetTrainer__nnUNetPlans__2d"
    names = ("plans.json", "dataset.json", "fold_all/checkpoint_final.pth")
    left = ("fold_all/progress.png", "fold_all/validation/summary.json")

    found = sorted_contents([f"{folder}/{name}" for name in (*names, *left)])

    assert found.name.path == folder
    assert found.checkpoints == {"all": f"{folder}/fold_all/checkpoint_final.pth"}
    assert set(found.texts) == {"plans.json", "dataset.json"}


@pytest.mark.parametrize("fold", ["fold_00", "fold_-1", "fold_100", "fold_\u0663"])
def test_S04_a_fold_that_is_no_number_is_refused(fold):
    folder = f"{DATASET}/nnUNetTrainer__nnUNetPlans__2d"

    with pytest.raises(SecurityError) as caught:
        sorted_contents([f"{folder}/{fold}/checkpoint_final.pth"])

    assert caught.value.code == "S04"


def test_the_model_folder_of_a_run_is_the_one_its_name_says(tmp_path):
    plans = tiny_plans()
    name = name_of(plans, trainer="BridgeSmokeTrainer")
    workspace = Workspace.at(tmp_path, environment={})

    assert name.run(workspace, "0").model_dir == workspace.results_dir / name.path


def report_plans(model, **network):
    """Return plans of one of the report's networks, with some keys changed or gone."""
    method = method_of(model, "smoke")
    plans = method.plans_from(golden_plans())
    steps = plans["nnunet_bridge"]["2d"] | network
    plans["nnunet_bridge"]["2d"] = {k: v for k, v in steps.items() if v is not None}
    return plans, name_of(plans, trainer=method.trainer)


@pytest.mark.parametrize("model", ["unet2d", "resnet34", "resnet34-frozen"])
def test_the_plans_of_the_reports_networks_pass(model):
    plans, name = report_plans(model)

    assert checked_plans(plans, name) == plans


@pytest.mark.parametrize(
    ("model", "network", "code"),
    [
        ("unet2d", {"features": None}, "S02"),
        ("unet2d", {"features": [32, 10**6]}, "S07"),
        ("unet2d", {"features": [32] * 9}, "S07"),
        ("resnet34", {"decoder": None}, "S02"),
        ("resnet34", {"decoder": [8, 8]}, "S07"),
        ("resnet34", {"patience": 10**9}, "S07"),
        ("resnet34", {"learning_rate_fall": -1.0}, "S07"),
        ("resnet34", {"weights": "/home/somebody/resnet34.pth"}, "S02"),
    ],
)
def test_S07_a_report_network_of_no_size_or_an_absurd_one_is_refused(
    model, network, code
):
    assert refusal_of(checked_plans, *report_plans(model, **network)) == code
