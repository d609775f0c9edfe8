"""Planning never replaces plans, data or splits that it did not write (N11)."""

import hashlib
import json
import pickle
import shutil

import pytest
from command import bridge
from file_states import file_states
from spheres import DATASET, TABLE, write_spheres
from tiny_model import HARMLESS, golden_plans, write_model

from nnunet_bridge.core.errors import InputError, SecurityError
from nnunet_bridge.formats.files import read_json, write_json
from nnunet_bridge.formats.nifti import read_labelmap, write_labelmap
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.planned import Planned, planned_file
from nnunet_bridge.pipeline.training.plan import PlanningOptions, plan_dataset
from nnunet_bridge.pipeline.training.planned_data import (
    dataset_state,
    require_plan,
    write_plans,
)

CASES = [f"ball_{n:03d}" for n in range(4)]
SPLITS = [
    {"train": CASES[:2], "val": CASES[2:]},
    {"train": CASES[2:], "val": CASES[:2]},
]
PLANS, DATA = "nnUNetPlans.json", "nnUNetPlans_2d"


def forbidden(*_call):
    pytest.fail("nnU-Net was called")


NO_NNUNET = Host(start=forbidden)


class Called(Exception):  # noqa: N818 - it is an event
    """nnU-Net would have been called."""


def call(*_words):
    raise Called


@pytest.fixture
def theirs(tmp_path):
    """A dataset planned, preprocessed and trained with nnU-Net's own commands."""
    write_spheres(tmp_path, size=12)
    dataset = Dataset(Workspace.at(tmp_path, environment={}), DATASET)
    folder = dataset.planned_dir
    plans = {**golden_plans(), "dataset_name": DATASET}
    plans["configurations"]["2d"]["batch_size"] = 7  # set by hand
    write_json(folder / PLANS, plans)
    write_json(folder / "splits_final.json", SPLITS)
    fingerprint = {"spacings": [[1.0] * 3], "shapes_after_crop": [[12] * 3]}
    write_json(folder / "dataset_fingerprint.json", fingerprint)
    shutil.copy(dataset.raw_dir / "dataset.json", folder)
    shutil.copytree(dataset.raw_dir / "labelsTr", folder / "gt_segmentations")
    for name in (DATA, "nnUNetPlans_mine_3d_fullres"):
        (folder / name).mkdir()
        for case in CASES:
            for part in (".b2nd", "_seg.b2nd"):
                (folder / name / f"{case}{part}").write_bytes(case.encode())
            (folder / name / f"{case}.pkl").write_bytes(pickle.dumps({"case": case}))
    for fold in (0, 1):
        write_model(method_of("nnunet", "full").run(dataset, "2d", fold), HARMLESS)
    return dataset


def contents(dataset):
    folders = dataset.planned_dir, dataset.results_dir
    return {
        f"{folder.parent.name}/{folder.name}/{file}": state
        for folder in folders
        for file, state in file_states(folder).items()
    }


def plan(dataset, *configurations, host=NO_NNUNET, **options):
    options = PlanningOptions(configurations or ("2d",), **options)
    return plan_dataset(dataset, options, host=host)


def refused(dataset, *configurations, **options):
    before = contents(dataset)
    with pytest.raises(InputError) as caught:
        plan(dataset, *configurations, **options)
    assert contents(dataset) == before
    assert caught.value.code == "N11"
    assert "--force" in str(caught.value)
    return str(caught.value)


def test_N11_what_nnunets_own_commands_made_is_adopted_and_not_touched(theirs):
    before = contents(theirs)
    with pytest.raises(InputError, match=r"run `nnunet-bridge plan \w+` first. It ad"):
        require_plan(theirs, ("2d",))

    summary = plan(theirs)

    assert contents(theirs) == before
    assert summary.already_done
    assert summary.folds == 2
    assert PLANS in summary.warnings[0]
    assert DATA in summary.warnings[0]
    assert "splits_final.json" in summary.warnings[0]
    assert require_plan(theirs, ("2d",))
    words = "1", "-w", str(theirs.workspace.runs_dir.parent)
    states = json.loads(bridge("status", "7", *words[1:], "--json").stdout)["runs"]
    assert [state["state"] for state in states] == ["done", "done"]
    plan(theirs)
    assert contents(theirs) == before


def test_N11_only_what_is_missing_is_made_beside_what_was_adopted(theirs):
    before = contents(theirs)

    with pytest.raises(Called):
        plan(theirs, "2d", "3d_fullres", host=Host(start=call))

    assert contents(theirs) == before
    known = Planned.read(theirs)
    assert known.planners == {"default": ("2d",)}
    assert known.adopted == (DATA,)
    assert known.pending == {"nnUNetPlans_3d_fullres"}


@pytest.mark.parametrize("lost", ["ball_001.pkl", "ball_003_seg.b2nd"])
def test_N11_data_that_lack_a_case_are_refused_by_name(theirs, lost):
    (theirs.planned_dir / DATA / lost).unlink()

    assert f"{DATA} lacks {lost[:8]}" in refused(theirs)


def test_N11_labels_that_changed_since_are_refused_by_name(theirs):
    change_label(theirs)

    assert "The label of ball_002 has changed since" in refused(theirs)


def test_N11_splits_of_other_cases_are_refused(theirs):
    write_json(theirs.splits_file, [{"train": ["ball_000"], "val": ["ball_009"]}])

    assert "splits_final.json names ball_009" in refused(theirs)


def test_N11_splits_that_are_asked_for_replace_no_others(theirs):
    from nnunet_bridge.nnunet.splits import Splitting

    assert "splits_final.json was not written" in refused(
        theirs, splitting=Splitting(4)
    )


def test_N11_other_arguments_of_nnunet_replace_no_adopted_plans(theirs):
    own = ("-gpu_memory_target", "4")
    assert f"{PLANS} was not written" in refused(theirs, own_arguments=own)
    plan(theirs)
    message = refused(theirs, own_arguments=own)
    assert f"{PLANS} was not written" in message
    assert f"{DATA}/ was not written" in message


def test_N11_plans_of_an_older_nnunet_are_refused(theirs):
    plans = {**golden_plans(), "dataset_name": DATASET}
    plans["configurations"]["2d"].pop("architecture")
    write_json(theirs.planned_dir / PLANS, plans)

    assert "of an older nnU-Net" in refused(theirs)


def test_N11_data_without_plans_are_not_written_over(theirs):
    (theirs.planned_dir / PLANS).unlink()

    assert f"{DATA}/ was not written by `plan`" in refused(theirs)


def test_force_replaces_what_is_in_the_way_and_nothing_else(theirs):
    with pytest.raises(Called):
        plan(theirs, force=True, host=Host(start=call))

    left = {path.name for path in theirs.planned_dir.iterdir()}
    assert left == {"splits_final.json", "nnUNetPlans_mine_3d_fullres"}
    assert len(read_json(theirs.splits_file)) == 4
    assert len(list(theirs.results_dir.rglob("checkpoint_final.pth"))) == 2


# --- what `plan` wrote and was changed since -----------------------------------------


@pytest.fixture
def ours(theirs):
    """The same, as if `plan` had written all of it."""
    plan(theirs)
    known = read_json(planned_file(theirs))
    known["adopted"] = []
    known["files"] = {
        name: hashlib.sha256((theirs.planned_dir / name).read_bytes()).hexdigest()
        for name in (PLANS, "splits_final.json")
    }
    write_json(planned_file(theirs), known)
    return theirs


def change_label(dataset):
    file = dataset.raw_dir / "labelsTr" / "ball_002.nii.gz"
    label = read_labelmap(file, TABLE)
    write_labelmap(file, label.with_voxels(label.voxels[::-1].copy()))


def add_case(dataset):
    for file in [*dataset.raw_dir.rglob("ball_000*.nii.gz")]:
        shutil.copy(file, file.with_name(file.name.replace("ball_000", "ball_009")))
    description = read_json(dataset.raw_dir / "dataset.json")
    write_json(dataset.raw_dir / "dataset.json", {**description, "numTraining": 5})


def edit_plans(dataset):
    plans = read_json(dataset.planned_dir / PLANS)
    plans["configurations"]["2d"]["batch_size"] = 3
    write_json(dataset.planned_dir / PLANS, plans)


def test_a_changed_label_makes_plans_and_data_again_and_keeps_the_splits(ours):
    change_label(ours)
    splits = ours.splits_file.read_bytes()

    with pytest.raises(Called):
        plan(ours, host=Host(start=call))

    left = {path.name for path in ours.planned_dir.iterdir()}
    assert left == {"splits_final.json", "nnUNetPlans_mine_3d_fullres"}
    assert ours.splits_file.read_bytes() == splits
    assert "splits_final.json" in Planned.read(ours).files


def test_N11_a_new_case_does_not_cost_the_splits_of_finished_folds(ours):
    add_case(ours)

    message = refused(ours)

    assert (
        "splits_final.json holds the folds of nnUNetTrainer__nnUNetPlans 2d fold 0"
        in message
    )


def test_a_new_case_gives_new_splits_where_nothing_was_trained(ours):
    shutil.rmtree(ours.results_dir)
    add_case(ours)

    with pytest.raises(Called):
        plan(ours, host=Host(start=call))

    assert any("ball_009" in fold["val"] for fold in read_json(ours.splits_file))


@pytest.mark.parametrize("older", [False, True])
def test_N11_plans_that_were_edited_are_kept_and_named(ours, older):
    if older:  # a record of an earlier version tells no hashes
        known = read_json(planned_file(ours))
        del known["files"], known["adopted"]
        write_json(planned_file(ours), known)
    edit_plans(ours)
    assert plan(ours).already_done
    change_label(ours)

    assert f"{PLANS} was not written by `plan`" in refused(ours)


def test_N11_data_that_were_changed_are_kept_and_named(ours):
    (ours.planned_dir / DATA / "ball_001.b2nd").write_bytes(b"changed")
    with pytest.raises(InputError) as caught:
        require_plan(ours, ("2d",))
    assert "--force" not in str(caught.value)
    change_label(ours)

    assert f"{DATA}/ was not written by `plan`, or was changed" in refused(ours)


def test_N04_lost_data_are_made_again_with_the_same_plans_and_splits(ours):
    shutil.rmtree(ours.planned_dir / DATA)
    before = contents(ours)

    with pytest.raises(Called):
        plan(ours, host=Host(start=call))

    assert contents(ours) == before
    assert Planned.read(ours).pending == {DATA}


def test_lost_splits_are_written_again_and_nothing_else(ours):
    ours.splits_file.unlink()
    before = contents(ours)

    assert len(read_splits(plan(ours))) == 4

    after = contents(ours)
    assert {name for name in after if name not in before} == {
        f"nnUNet_preprocessed/{DATASET}/splits_final.json"
    }
    assert before.items() <= after.items()


def read_splits(summary):
    return range(summary.folds)


def test_an_interrupted_planning_is_taken_up(tmp_path):
    write_spheres(tmp_path, size=12)
    dataset = Dataset(Workspace.at(tmp_path, environment={}), DATASET)
    data = dataset.planned_dir / DATA

    def die(*_words):
        write_json(dataset.planned_dir / PLANS, golden_plans())
        data.mkdir()
        (data / "ball_000.pkl").write_bytes(b"half")
        raise Called

    for _ in range(2):
        with pytest.raises(Called):
            plan(dataset, host=Host(start=die))
        with pytest.raises(InputError, match="interrupted, or has not ended"):
            require_plan(dataset, ("2d",))


def test_the_splits_of_the_raw_dataset_are_used(tmp_path):
    raw = write_spheres(tmp_path, size=12)
    write_json(raw / "splits_final.json", SPLITS)
    dataset = Dataset(Workspace.at(tmp_path, environment={}), DATASET)

    with pytest.raises(Called):
        plan(dataset, host=Host(start=call))

    assert read_json(dataset.splits_file) == SPLITS


def test_N11_edited_plans_of_a_budget_are_kept_and_named_by_train(ours):
    method = method_of("nnunet", "quick")
    write_plans(ours, method)
    file = ours.plans_file(method.plans)
    edited = {**read_json(file), "batch": "mine"}
    write_json(file, edited)

    with pytest.raises(InputError, match="it was edited") as caught:
        write_plans(ours, method)

    assert caught.value.code == "N11"
    assert read_json(file) == edited
    assert dataset_state(ours)


def test_plans_of_a_budget_that_are_ours_go_with_those_they_were_made_from(ours):
    quick, smoke = (method_of("nnunet", budget) for budget in ("quick", "smoke"))
    for method in (quick, smoke):
        write_plans(ours, method)
    file = ours.plans_file(smoke.plans)
    write_json(file, {**read_json(file), "batch": "mine"})
    change_label(ours)

    with pytest.raises(Called):
        plan(ours, host=Host(start=call))

    assert not ours.plans_file(quick.plans).exists()
    assert file.exists()


@pytest.mark.parametrize("identifier", ["../../../precious", "..", "{root}/precious"])
def test_S02_plans_that_would_let_nnunet_remove_another_folder_are_refused(
    theirs, tmp_path, identifier
):
    """nnU-Net empties the folder `data_identifier` before it preprocesses."""
    (tmp_path / "precious").mkdir()
    plans = read_json(theirs.planned_dir / PLANS)
    for one in plans["configurations"].values():
        if "data_identifier" in one:
            one["data_identifier"] = identifier.format(root=tmp_path)
    write_json(theirs.planned_dir / PLANS, plans)
    before = contents(theirs)

    with pytest.raises(SecurityError, match="data_identifier"):
        plan(theirs)

    assert contents(theirs) == before
