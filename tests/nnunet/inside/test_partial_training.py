"""What is wrapped around a trainer whose cases are partly drawn."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
import torch
from command import bridge
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.spatial.transform import Rotation
from small_study import LAB, MASKS

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import LabelTable, Volume
from nnunet_bridge.core.partly import Midline, PartlyDrawn
from nnunet_bridge.core.words import Side
from nnunet_bridge.formats.nifti import write_volume
from nnunet_bridge.nnunet.inside.partly_drawn import (
    Drawn,
    _Cases,
    _Coded,
    judged_copies,
    learn_from_partly_drawn,
)
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.trainers.report_augmentation import FlipLeftRight

PLACE = ("spacing", "origin", "direction")
SIDED = {"background": 0, "hip_left": 1, "hip_right": 2, "sacrum": 3}


def drawn_of(labels, **not_drawn):
    return Drawn(labels, {c: PartlyDrawn(frozenset(n)) for c, n in not_drawn.items()})


def cases_of(shape=(1, 1, 4), **facts):
    loaded = np.zeros((1, *shape)), None, None, facts
    data = SimpleNamespace(identifiers=["a", "b"], load_case=lambda _case: loaded)
    cases = _Cases(data)
    cases.lowest = [0, 0, 0]
    return cases


def test_the_set_of_a_case_is_written_into_its_own_labels_only():
    drawn = drawn_of(SIDED, b=["sacrum"], c=["sacrum", "hip_left"])
    cases = cases_of()
    code = _Coded(cases, drawn, lambda **patch: patch["segmentation"], [0, 1, 2])
    patch = torch.tensor([[[-1, 0, 1, 2]], [[3, 0, 1, -1]]], dtype=torch.int16)

    cases.load_case("a")
    assert torch.equal(code(segmentation=patch, image=None), patch)
    cases.load_case("b")
    coded = code(segmentation=patch, image=None)

    base, (number, _) = drawn.coding.base, drawn.codes_of["b"]
    assert drawn.coding.sets[number] == {3}
    assert coded[0].tolist() == [[-1, *(number * base + n for n in (0, 1, 2))]]
    assert torch.equal(coded[1], patch[1])  # the previous stage of a cascade
    assert patch[0].tolist() == [[-1, 0, 1, 2]]


@pytest.mark.parametrize("flat", [False, True], ids=["3d", "2d"])
def test_beyond_the_midline_a_patch_has_the_other_set(flat):
    """Every voxel of a patch is followed back to the scan, as SimpleITK places it."""
    image = sitk.Image(40, 30, 20, sitk.sitkUInt8)  # i, j, k
    image.SetSpacing((2.0, 1.5, 4.0))
    image.SetOrigin((-35.0, 10.0, 5.0))
    turn = Rotation.from_euler("xyz", (5, -8, 12), degrees=True).as_matrix()
    image.SetDirection(turn.ravel().tolist())
    transpose, bbox, new = [1, 2, 0], [(2, 27), (4, 38), (3, 19)], (50, 17, 8)
    plane = Midline((3.0, 30.0, 40.0), (0.96, 0.28, 0.0))
    one = PartlyDrawn(side=Side.RIGHT, midline=plane, on_both=frozenset({"sacrum"}))
    labels = {"background": 0, "hip": 1, "sacrum": 2}
    drawn = Drawn(labels, {"a": one})
    cases = cases_of(
        new,
        sitk_stuff={n: getattr(image, f"Get{n.title()}")() for n in PLACE},
        bbox_used_for_cropping=bbox,
        shape_after_cropping_and_before_resampling=[h - low for low, h in bbox],
    )
    cases.load_case("a")
    cases.lowest = [10, 3, 2]
    shape = (9, 4) if flat else (20, 9, 4)
    code = _Coded(cases, drawn, lambda **patch: patch["segmentation"], transpose)

    coded = code(segmentation=torch.zeros((1, *shape), dtype=torch.int16), image=None)

    here, beyond = drawn.codes_of["a"]
    assert drawn.coding.sets[here] == frozenset()
    assert here > 0  # not the number of complete cases
    assert drawn.coding.sets[beyond] == {1}
    for index in np.ndindex((1,) * flat + shape):
        read = [0.0] * 3
        for t, (low, high) in enumerate(bbox):
            step = (high - low) / new[t]
            at = low + (cases.lowest[t] + index[t] + 0.5) * step - 0.5
            read[transpose[t]] = at  # axes k, j, i
        place = image.TransformContinuousIndexToPhysicalPoint(read[::-1])
        left = np.dot(np.subtract(place, plane.point_mm), plane.normal) > 0
        expected = (beyond if left else here) * drawn.coding.base
        assert coded[0][index[1:] if flat else index] == expected


@given(st.data())
@examples(30)
def test_a_flip_exchanges_the_sides_of_what_was_drawn_and_of_what_was_not(data):
    sets = st.sets(st.sampled_from(sorted(SIDED)[1:]), min_size=1)
    names = data.draw(st.lists(sets, min_size=1, max_size=4))
    drawn = drawn_of(SIDED, **{f"c{n}": names[n] for n in range(len(names))})
    base, sets = drawn.coding.base, drawn.coding.sets
    other = {0: 0, 1: 2, 2: 1, 3: 3}
    coded = torch.arange(base * len(sets), dtype=torch.int16)[None, None]

    flip = FlipLeftRight(1, drawn.coded_swaps(), probability=1)
    flipped = flip(image=coded.float(), segmentation=coded)["segmentation"].flip(-1)

    for before, after in zip(coded.flatten(), flipped.flatten(), strict=True):
        assert after % base == other[int(before % base)]
        mirrored = {other[value] for value in sets[before // base]}
        assert sets[after // base] == mirrored


def test_nnunets_summary_is_of_what_was_drawn(tmp_path):
    """On one side two structures, of which one was not drawn in the first case."""
    rng, plane = np.random.default_rng(0), Midline((3.0, 0.0, 0.0), (1.0, 0.0, 0.0))
    one = PartlyDrawn(frozenset({"femur"}), Side.RIGHT, plane)
    names, grid = ["tibia", "femur"], Grid((8, 6, 4), np.eye(4))
    table = replace(LabelTable.from_names(names), partly_drawn={"a": one})
    for kind in ("reference", "prediction"):
        for case in ("a", "b"):
            voxels = rng.integers(0, 3, grid.shape).astype(np.uint8)
            kept = voxels.copy()
            if case == "a":
                kept[4:] = 0  # left of x = 3
                kept[kept == 2] = 0
            for folder, content in ((kind, voxels), (f"right_{kind}", kept)):
                write_volume(
                    tmp_path / folder / f"{case}.nii.gz", Volume(grid, content)
                )

    (tmp_path / "work").mkdir()
    folders = [tmp_path / kind for kind in ("reference", "prediction")]

    copies = judged_copies(folders, table, tmp_path / "work")

    wanted = [tmp_path / f"right_{kind}" for kind in ("reference", "prediction")]
    for case in ("a", "b"):
        found, expected = (
            compute_metrics(
                *(str(folder / f"{case}.nii.gz") for folder in both),
                SimpleITKIO(),
                [1, 2],
            )["metrics"]
            for both in (copies, wanted)
        )
        for label in (1, 2):
            assert found[label] == pytest.approx(expected[label], nan_ok=True)
            assert math.isnan(found[label]["Dice"]) == ((case, label) == ("a", 2))


def a_trainer(folder, **dataset):
    (folder / "a.pkl").touch()
    content = {"labels": {"background": 0, "tibia": 1, "femur": 2}, **dataset}
    (folder / "dataset.json").write_text(json.dumps(content))
    return SimpleNamespace(
        dataset_json=content,
        preprocessed_dataset_folder=str(folder),
        preprocessed_dataset_folder_base=str(folder),
        print_to_log_file=print,
        get_dataloaders=None,
        perform_actual_validation=None,
        _build_loss=torch.nn.MSELoss,
    )


def test_a_trainer_of_complete_cases_is_left_as_it_is(tmp_path):
    for dataset in ({}, {"partly_drawn": {"in_a_test_case": {"not_drawn": ["femur"]}}}):
        trainer = a_trainer(tmp_path, **dataset)
        before = dict(vars(trainer))
        learn_from_partly_drawn(trainer)
        assert vars(trainer) == before


def test_N12_regions_and_a_loss_of_another_kind_are_refused_by_name(tmp_path):
    partly = {"partly_drawn": {"a": {"not_drawn": ["femur"]}}}
    with pytest.raises(InputError, match=r"regions .* cannot be partly drawn") as fault:
        learn_from_partly_drawn(
            a_trainer(tmp_path, **partly, labels={"background": 0, "leg": [1, 2]})
        )
    assert fault.value.code == "N12"
    trainer = a_trainer(tmp_path, **partly)
    learn_from_partly_drawn(trainer)
    with pytest.raises(InputError, match=r"SimpleNamespace has .* own \(MSELoss\)"):
        trainer._build_loss()


# one training, from the study to its validation


@pytest.fixture(scope="module")
def trained(lab, few_steps):
    """The five patients; the femur of two was not drawn, and fold 0 is trained."""
    few_steps.setenv("OMP_NUM_THREADS", "1")
    study = lab / "study"
    for index in (1, 2):
        (study / MASKS / f"{index}_femur_{index}A.nii.gz").unlink()
    with (study / "dataset.toml").open("a") as file:
        file.write('[merge]\nmissing = "partial"\n')
    work = ("-w", lab / "work")
    bridge("convert", study, *work)
    planned = bridge("plan", LAB, "-c", "2d", "--force", "--json", *work)
    words = ("-c", "2d", "-f", "0", "--budget", "smoke", "--device", "cpu")
    answer = bridge("train", LAB, *words, "--json", *work)
    dataset = Dataset(Workspace.at(lab / "work", environment={}), LAB)
    run = method_of("nnunet", "smoke").run(dataset, "2d", 0)
    return SimpleNamespace(
        warnings=json.loads(planned.stdout)["warnings"],
        state=json.loads(answer.stdout)["runs"][0],
        run=run,
        splits=json.loads(dataset.splits_file.read_text()),
    )


@pytest.mark.training
def test_partly_drawn_patients_train_and_are_validated_where_they_were_drawn(trained):
    assert trained.state["state"] == "done"
    assert math.isfinite(trained.state["train_loss"])
    (log,) = trained.run.fold_dir.glob("training_log_*.txt")
    assert "Partly drawn: 2 cases (without femur; 0 of one side)." in log.read_text()
    checkpoint = torch.load(trained.run.checkpoint_file, weights_only=False)
    assert checkpoint["trainer_name"] == "BridgeSmokeTrainer"  # nnU-Net finds it
    summary = json.loads((trained.run.validation_dir / "summary.json").read_text())
    for case in summary["metric_per_case"]:
        name = case["prediction_file"].rpartition("/")[2]
        left_out = name in ("msk_001.nii.gz", "msk_002.nii.gz")
        assert np.isnan(case["metrics"]["2"]["Dice"]) == left_out or not left_out
        assert case["metrics"]["1"]["n_ref"] > 0


@pytest.mark.training
def test_the_folds_spread_what_was_drawn_and_a_rare_structure_is_named(trained):
    validated = [set(fold["val"]) for fold in trained.splits]
    assert [len(fold) for fold in validated] == [1] * 5
    assert [text[:5] for text in trained.warnings] == ["[N12]"]
    assert "femur was drawn in 3 patients" in trained.warnings[0]
