"""Planning: what is refused before nnU-Net is called, and what holds afterwards."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from malicious_models import NETWORK, Runs
from spheres import DATASET, TABLE, write_spheres
from tiny_model import changed, golden_plans

from nnunet_bridge.core.errors import (
    EnvironmentFault,
    InputError,
    SecurityError,
    UsageError,
)
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.formats.files import only_writer, read_json, write_json
from nnunet_bridge.formats.nifti import (
    read_labelmap,
    read_volume,
    write_labelmap,
    write_volume,
)
from nnunet_bridge.nnunet.commands import Resources
from nnunet_bridge.nnunet.estimates import training_memory
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.machine import Accelerator, Machine
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.planned import Planned, preprocessed_now
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.training.memory import (
    require_memory_for_training,
)
from nnunet_bridge.pipeline.training.plan import (
    PlanningOptions,
    _kept,
    plan_dataset,
)
from nnunet_bridge.pipeline.training.planned_data import dataset_state, require_plan
from nnunet_bridge.pipeline.training.request import TrainingRequest, require_patches
from nnunet_bridge.pipeline.training.train import train_dataset


@pytest.fixture
def work(tmp_path):
    write_spheres(tmp_path, size=12)
    return Dataset(Workspace.at(tmp_path, environment={}), DATASET)


@pytest.fixture
def raw(work):
    return work.raw_dir


def forbidden(*_call):
    pytest.fail("nnU-Net was called")


NO_NNUNET = Host(start=forbidden)
"""What is wrong must be found before nnU-Net is called."""


def plan(work, *configurations, host=NO_NNUNET, **options):
    return plan_dataset(work, PlanningOptions(configurations, **options), host=host)


def required(work, *configurations, plans="nnUNetPlans"):
    return require_plan(work, configurations, plans)


def moved(grid, by_mm):
    affine = grid.affine.copy()
    affine[0, 3] += by_mm
    return Grid(grid.shape, affine)


def spoil_shape(raw):
    label = Labelmap(Grid((9, 12, 12), np.eye(4)), np.zeros((9, 12, 12), "u1"), TABLE)
    write_labelmap(raw / "labelsTr" / "ball_001.nii.gz", label)


def spoil_place(raw):
    file = raw / "labelsTr" / "ball_001.nii.gz"
    label = read_labelmap(file, TABLE)
    write_labelmap(file, Labelmap(moved(label.grid, 5.0), label.voxels, TABLE))


def spoil_direction(raw):
    file = raw / "imagesTr" / "ball_001_0000.nii.gz"
    image = read_volume(file)
    turned = Grid(image.grid.shape, np.diag([-1.0, -1.0, 1.0, 1.0]))
    write_volume(file, Volume(turned, image.voxels))


def spoil_value(raw):
    file = raw / "labelsTr" / "ball_001.nii.gz"
    label = read_labelmap(file, TABLE)
    many = LabelTable.from_names([f"l{n}" for n in range(7)])
    voxels = label.voxels.copy()
    voxels[0, 0, 0] = 7
    write_labelmap(file, Labelmap(label.grid, voxels, many))


def spoil_image(raw):
    (raw / "imagesTr" / "ball_001_0000.nii.gz").unlink()


def spoil_label(raw):
    (raw / "labelsTr" / "ball_001.nii.gz").unlink()


def in_description(**changes):
    def spoil(raw):
        file = raw / "dataset.json"
        write_json(file, {**read_json(file), **changes})

    return spoil


DEFECTS = {
    "shape": (spoil_shape, "ball_001: its image has (12, 12, 12) voxels"),
    "place": (spoil_place, "ball_001: image and label lie 5.000 mm apart"),
    "direction": (spoil_direction, "ball_001: image and label lie"),
    "value": (spoil_value, "holds values from 0 to 7"),
    "image missing": (spoil_image, "ball_001: its label has no image"),
    "label missing": (spoil_label, "ball_001: its image has no label"),
    "numTraining": (in_description(numTraining=9), "announces 9 training cases"),
    "channel missing": (
        in_description(channel_names={"0": "MRI", "1": "MRI"}),
        "ball_001: ball_001_0001.nii.gz is missing",
    ),
    "gap": (in_description(labels={"background": 0, "ball": 2}), "without gap"),
    "no background": (in_description(labels={"ball": 1}), "0 must be 'background'"),
    "ignore not highest": (
        in_description(labels={"background": 0, "ignore": 1, "ball": 2}),
        "'ignore' must have the highest value",
    ),
}


@pytest.mark.parametrize("defect", list(DEFECTS))
def test_N01_every_defect_is_found_by_us_and_named(work, raw, defect):
    spoil, sentence = DEFECTS[defect]
    spoil(raw)

    with pytest.raises(InputError) as caught:
        plan(work, "2d")

    assert sentence in str(caught.value)
    assert caught.value.exit_code == 3
    assert not work.workspace.preprocessed_dir.exists()


def test_F08_a_dataset_that_is_being_planned_is_not_planned_again(work):
    held = only_writer(work.lock_file, f"Dataset {DATASET}")
    with held, pytest.raises(EnvironmentFault) as caught:
        plan(work, "2d")

    assert (caught.value.code, caught.value.exit_code) == ("F08", 5)


def test_F08_a_dataset_in_training_is_not_planned_again(work):
    run = method_of("nnunet", "smoke").run(work, "2d", 0)
    held = only_writer(run.lock_file, "fold 0")
    message = r"being trained \(2d fold 0\)"
    with held, pytest.raises(EnvironmentFault, match=message):
        plan(work, "2d")


def test_N07_two_folders_of_one_number_are_refused_before_planning(work):
    (work.workspace.raw_dir / "Dataset007_Cubes").mkdir()

    with pytest.raises(InputError, match="bear the same number") as caught:
        Dataset.find(work.workspace, "7")

    assert caught.value.code == "N07"


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_damaged_hashes_of_the_training_data_are_computed_anew(work, content):
    dataset = work
    state = dataset_state(dataset)
    (dataset.record_dir / "files.json").write_text(content)

    assert dataset_state(dataset) == state


GOLDEN_PLANS = ("nnUNetPlans", "nnUNetResEncUNetMPlans")


@pytest.fixture
def planned(work):
    """A dataset that looks planned, from plans that nnU-Net wrote for another one."""
    folder = work.planned_dir
    folder.mkdir(parents=True)
    plans = {**golden_plans(), "dataset_name": DATASET}
    for name in ("3d_lowres", "3d_cascade_fullres"):
        plans["configurations"].pop(name, None)
    write_json(work.plans_file("nnUNetPlans"), plans)
    write_json(
        work.splits_file,
        [{"train": ["ball_000"], "val": ["ball_001"]}],
    )
    write_json(
        folder / "dataset_fingerprint.json",
        {"spacings": [[1.0] * 3], "shapes_after_crop": [[12] * 3]},
    )
    dataset = work
    shutil.copy(dataset.raw_dir / "dataset.json", folder)
    Planned(dataset_state(dataset), {"default": ("2d", "3d_fullres")}).write(dataset)
    return work


def test_what_is_planned_is_not_planned_again(planned):
    summary = plan(planned, "2d")

    assert summary.already_done
    assert summary.as_json()["estimates"][0]["configuration"] == "2d"
    assert "predict the largest case (12 x " in summary.as_text()


def test_a_method_without_plans_names_the_command_that_makes_them(planned):
    with pytest.raises(InputError) as caught:
        required(planned, "2d", plans="nnUNetResEncUNetMPlans")

    assert f"`nnunet-bridge plan {DATASET} --planner resenc-m`" in str(caught.value)


@pytest.mark.parametrize("name", ["3d_lowres", "3d_cascade_fullres"])
def test_a_stage_that_nnunet_does_not_plan_is_refused_with_the_reason(planned, name):
    with pytest.raises(UsageError, match="too small to need a coarser stage"):
        plan(planned, name)
    with pytest.raises(UsageError, match="it plans 2d, 3d_fullres"):
        required(planned, name)


def test_N06_a_changed_dataset_invalidates_the_plans_of_every_planner(planned, raw):
    spoil_place(raw)

    for plans in GOLDEN_PLANS:
        with pytest.raises(InputError, match="has changed since it was planned") as it:
            required(planned, "2d", plans=plans)
        assert it.value.code == "N06"


def test_S12_a_pickle_that_would_run_is_refused_although_its_hash_is_on_record(
    planned, tmp_path
):
    dataset = planned
    pickled = dataset.planned_dir / "nnUNetPlans_2d" / "ball_000.pkl"
    pickled.parent.mkdir()
    pickled.write_bytes(pickle.dumps(Runs(tmp_path / "marker")))
    known = Planned.read(dataset)
    there = preprocessed_now(dataset, "nnUNetPlans_2d", {})
    forged = {"nnUNetPlans_2d": there}
    Planned(known.dataset_state, known.planners, (), forged).write(dataset)

    with pytest.raises(SecurityError, match=r"ball_000\.pkl is refused") as caught:
        required(planned, "2d")

    assert (caught.value.code, caught.value.exit_code) == ("S12", 6)
    assert not (tmp_path / "marker").exists()


def test_S02_plans_that_would_run_are_refused_before_a_training_starts(planned):
    dataset = planned
    file = dataset.plans_file("nnUNetPlans")
    place = *NETWORK, "nonlin"
    write_json(file, changed(read_json(file), *place, "subprocess.Popen"))
    request = TrainingRequest(
        method_of("nnunet", "full"), ("2d",), options=TrainingOptions("cpu")
    )

    with pytest.raises(SecurityError) as caught:
        train_dataset(dataset, request, host=Host(start=forbidden))

    assert caught.value.code == "S02"


def test_N04_a_half_written_preprocessed_case_is_refused_and_named(planned):
    folder = planned.planned_dir / "nnUNetPlans_2d"
    folder.mkdir()
    for part in (".b2nd", "_seg.b2nd", ".pkl"):
        (folder / f"ball_000{part}").write_bytes(pickle.dumps({"shape": 3}))
    known = Planned.read(planned)
    there = preprocessed_now(planned, "nnUNetPlans_2d", {})
    Planned(known.dataset_state, known.planners, (), {"nnUNetPlans_2d": there}).write(
        planned
    )
    assert required(planned, "2d")

    (folder / "ball_000.pkl").unlink()
    (folder / "ball_000_seg.b2nd").write_bytes(b"cont")

    with pytest.raises(InputError) as caught:
        required(planned, "2d")
    assert caught.value.code == "N04"
    for name in ("ball_000.pkl", "ball_000_seg.b2nd"):
        assert f"nnUNetPlans_2d/{name}" in str(caught.value)


def test_F11_train_reports_a_failed_planning(planned):
    known = Planned.read(planned)
    Planned(known.dataset_state, failure="a worker was killed.").write(planned)

    with pytest.raises(InputError, match="last attempt failed: a worker was killed"):
        required(planned, "2d")


def machine_with(memory_bytes, free_bytes=None):
    gpu = Accelerator("NVIDIA RTX", memory_bytes, free_bytes)
    return Machine(2, free_memory_bytes=1 << 30, gpus=1, accelerators=(gpu,))


SMALL = machine_with(1 << 28)


@pytest.mark.parametrize("model", ["nnunet", "report-augmentation"])
@pytest.mark.parametrize(
    ("device", "kind"), [("cpu", "of memory"), ("cuda", "of GPU memory")]
)
def test_F10_a_training_that_cannot_fit_is_refused_with_the_figures(
    planned, device, kind, model
):
    method = method_of(model, "full")
    run = method.run(planned, "3d_fullres", 0)

    with pytest.raises(EnvironmentFault) as caught:
        require_memory_for_training(run, method, SMALL, resources_for(device), [])

    assert (caught.value.code, caught.value.exit_code) == ("F10", 5)
    assert kind in str(caught.value)
    assert "--gpu-memory-target" in str(caught.value)


def resources_for(device, gpus=1):
    return Resources(device, threads=0, workers=1, loaders=0, gpus=gpus)


@pytest.mark.parametrize(
    ("card", "free", "gpus", "outcome"),
    [
        (1.01, None, 1, "silent"),
        (0.99, None, 1, "warned"),
        (1 / 1.29, None, 1, "warned"),
        (1 / 1.31, None, 1, "refused"),
        (2.0, 0.9, 1, "warned"),
        (0.6, None, 2, "silent"),
        (None, None, 1, "silent"),
    ],
)
def test_F10_gpu_memory_is_refused_only_where_the_estimate_is_far_off(
    planned, card, free, gpus, outcome
):
    """nnU-Net plans for a card of 8 GB, and the estimate says 8.2 to 8.5 GB."""
    method = method_of("nnunet", "full")
    run = method.run(planned, "3d_fullres", 0)
    need = training_memory(read_json(run.plans_file), "3d_fullres", 2).gpu_bytes
    sizes = (None if part is None else int(part * need) for part in (card, free))
    there, warnings = machine_with(*sizes), []
    given = method, there, resources_for("cuda", gpus), warnings

    if outcome == "refused":
        with pytest.raises(EnvironmentFault, match="of GPU memory, but"):
            require_memory_for_training(run, *given)
    else:
        require_memory_for_training(run, *given)

    assert len(warnings) == (outcome == "warned")
    assert all("NVIDIA RTX" in w and "free of" in w for w in warnings)


def test_more_gpus_than_patches_in_a_batch_are_refused_by_name(planned):
    run = method_of("nnunet", "full").run(planned, "3d_fullres", 0)

    require_patches(2, [run])
    with pytest.raises(UsageError, match=r"--gpus 3 .* 3d_fullres has 2"):
        require_patches(3, [run])


def test_F10_training_asks_the_machine_before_anything_starts(planned):
    request = TrainingRequest(
        method_of("nnunet", "full"), ("2d",), options=TrainingOptions("cpu")
    )
    with pytest.raises(EnvironmentFault) as caught:
        train_dataset(planned, request, host=Host(SMALL, start=forbidden))

    assert caught.value.code == "F10"
    assert not planned.workspace.results_dir.exists()


def test_F10_a_real_limit_of_memory_is_met_before_it_is_hit(planned):
    """The shell sets the limit: a fork beside the threads of a test may never end."""
    limited = ("bash", "-c", 'ulimit -v 1536000; exec "$@"', "bash")

    result = subprocess.run(
        [
            *(*limited, sys.executable, "-m", "nnunet_bridge", "train", DATASET),
            *("-c", "2d", "-w", str(planned.workspace.raw_dir.parent)),
            *("--device", "cpu", "--json"),
        ],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    answer = json.loads(result.stdout)
    assert (answer["code"], answer["exit_code"], result.returncode) == ("F10", 5, 5)
    assert "Training 2d at the budget full needs" in answer["error"]


@pytest.mark.training
def test_planners_share_what_they_have_in_common(tmp_path):
    """One real call of nnU-Net for each planner (about a minute)."""
    write_spheres(tmp_path, size=24)
    work = Dataset(Workspace.at(tmp_path, environment={}), DATASET)
    own, host = ("-gpu_memory_target", "0.5"), Host()
    plan(work, "2d", "3d_fullres", own_arguments=own, host=host)
    data = work.planned_dir / "nnUNetPlans_3d_fullres"
    before = {file: file.stat().st_mtime_ns for file in data.iterdir()}

    both = ("resenc-m", "default")
    summary = plan(work, "3d_fullres", planners=both, host=host)

    assert not summary.already_done
    assert {file: file.stat().st_mtime_ns for file in data.iterdir()} == before
    known = Planned.read(work)
    assert known.planners == {
        "default": ("2d", "3d_fullres"),
        "resenc-m": ("3d_fullres",),
    }
    assert known.own_arguments == own
    resenc = read_json(work.plans_file("nnUNetResEncUNetMPlans"))
    assert resenc["experiment_planner_used"] == "nnUNetPlannerResEncM"
    assert "nnUNetPlans_3d_fullres" in known.preprocessed
    for plans in GOLDEN_PLANS:
        required(work, "3d_fullres", plans=plans)
    log = (work.record_dir / "plan.log").read_text()
    assert "Preprocessing dataset" not in log

    plan(work, "2d", own_arguments=("-gpu_memory_target", "1"), host=host)

    assert json.loads((work.record_dir / "planned.json").read_text())["planners"] == {
        "default": ["2d"]
    }


def test_force_plans_again_where_the_record_is_damaged(tmp_path):
    dataset = Dataset(Workspace.at(tmp_path, environment={}), DATASET)
    dataset.record_dir.mkdir(parents=True)
    (dataset.record_dir / "planned.json").write_text("{")

    assert _kept(dataset, "state", PlanningOptions(("2d",), force=True)) is None
