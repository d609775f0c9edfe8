"""Predictions plane by plane are those of nnU-Net, which holds the whole volume."""

import json
import subprocess
import sys
import threading
import time
import warnings
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from tiny_model import DATASET, DATASET_JSON, tiny_plans

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Volume
from nnunet_bridge.formats.nifti import read_array, write_volume

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch and nnU-Net warn while they are imported
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.preprocessing.resampling.default_resampling import (
        resample_data_or_seg_to_shape,
    )
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    from nnunet_bridge.nnunet.inside import prediction
    from nnunet_bridge.nnunet.inside.overlaps import Overlaps
    from nnunet_bridge.nnunet.inside.resampling import Resampling
    from nnunet_bridge.nnunet.inside.sliding import (
        Manner,
        Networks,
        NotFiniteError,
        Sweep,
        ahead,
        mirrored,
        weights_kept,
    )

torch.set_num_threads(1)  # more would wait for each other where cores are few
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and nnU-Net
HEADS = 3
DEFAULT = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}


@dataclass(frozen=True)
class Setting:
    """An image, and how a network was planned."""

    configuration: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    planned_mm: tuple[float, ...]
    transposed: tuple[int, int, int] = (0, 1, 2)
    resampling: str = "resample_data_or_seg_to_shape"
    folds: int = 1


SETTINGS = {
    "2d, planes of another size": Setting(
        "2d", (30, 26, 7), (1.0, 1.1, 3.5), (0.9, 0.8), folds=2
    ),
    "2d, nothing to resample": Setting("2d", (20, 26, 6), (1, 1, 3), (1.0, 1.0)),
    "2d, planes smaller than the patch": Setting(
        "2d", (13, 11, 5), (1, 1, 3), (1.0, 1.0)
    ),
    "2d, slices along another axis": Setting(
        "2d", (6, 22, 24), (4.0, 1, 1), (0.9, 1.2), transposed=(2, 0, 1)
    ),
    "3d, finer on all axes": Setting(
        "3d_fullres", (24, 26, 28), (1.2, 1.2, 1.4), (1.0, 1.1, 1.0), folds=3
    ),
    "3d, coarser on all axes": Setting(
        "3d_fullres", (30, 34, 60), (0.7, 0.8, 0.7), (1.0, 1.1, 1.2)
    ),
    "3d, thick slices, another number of them": Setting(
        "3d_fullres", (24, 22, 14), (1.0, 1.0, 5.0), (4.0, 0.9, 0.9)
    ),
    "3d, thick slices along the last axis": Setting(
        "3d_fullres", (9, 22, 24), (5.0, 1.0, 1.0), (1.2, 1.0, 4.0)
    ),
    "3d, thick slices along the middle axis": Setting(
        "3d_fullres", (22, 9, 24), (1.0, 5.0, 1.0), (1.2, 4.0, 1.0)
    ),
    "3d, transposed": Setting(
        "3d_fullres", (24, 20, 30), (1.0, 1.5, 1.1), (1.2, 1.1, 1.2), (1, 2, 0)
    ),
    "3d, thinner than the patch, several rows of windows": Setting(
        "3d_fullres", (40, 12, 70), (1, 1, 1), (1.0, 1.0, 1.0), folds=2
    ),
    "3d, resampled by torch": Setting(
        "3d_fullres",
        (24, 22, 20),
        (1.0, 1.1, 1.2),
        (1.3, 1.0, 1.0),
        resampling="resample_torch_fornnunet",
    ),
}


def plans_of(setting):
    plans = tiny_plans()
    plans["transpose_forward"] = list(setting.transposed)
    plans["transpose_backward"] = np.argsort(setting.transposed).tolist()
    planned = plans["configurations"][setting.configuration]
    planned["spacing"] = list(setting.planned_mm)
    planned["resampling_fn_probabilities"] = setting.resampling
    if setting.resampling != "resample_data_or_seg_to_shape":
        options = {"is_seg": False, "force_separate_z": False}
        planned["resampling_fn_probabilities_kwargs"] = options
    return plans


def write_model(folder, setting, *, configuration=None, channels=1, seed=0):
    """Write networks with seeded random weights; their answers change everywhere."""
    plans = plans_of(setting)
    name = configuration or setting.configuration
    folder = folder / DATASET / f"nnUNetTrainer__{plans['plans_name']}__{name}"
    planned = plans["configurations"][setting.configuration]
    architecture = planned["architecture"]
    for fold in range(setting.folds):
        torch.manual_seed(seed + fold)
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            channels,
            HEADS,
            deep_supervision=False,
        )
        noise = torch.randn(1, channels, *planned["patch_size"])
        with torch.no_grad():  # so that no class wins everywhere
            means = network(noise).transpose(0, 1).flatten(1).mean(1)
            network.decoder.seg_layers[-1].bias -= means
        content = {
            "network_weights": network.state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": name},
            "inference_allowed_mirroring_axes": (0, 1),
        }
        (folder / f"fold_{fold}").mkdir(parents=True)
        torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    return folder


def write_image(folder, setting, case="case"):
    """Write noise with a border of nothing, which nnU-Net crops."""
    voxels = np.zeros(setting.shape, dtype=np.float32)
    inner = voxels[2:-1, 1:, :-1]
    inner[:] = np.random.default_rng(7).normal(size=inner.shape) + 5
    grid = Grid(setting.shape, np.diag([*setting.spacing_mm, 1.0]))
    write_volume(folder / f"{case}_0000.nii.gz", Volume(grid, voxels))
    return folder


def streamed(images, out, *members, workers=1, previous=None, **more):
    """Predict as the program does; return the labels and the agreement."""
    run_part(images, out, *members, workers=workers, previous=previous, **more)
    agreement = json.loads((out / "case.agreement.json").read_text())
    return read_array(out / "case.nii.gz")[1], agreement


def run_part(images, out, *members, workers=1, previous=None, part=(0, 1), **more):
    asked = Namespace(
        member=[[str(folder), *map(str, range(folds))] for folder, folds in members],
        images=images,
        out=out,
        device="cpu",
        progress=Path(f"{out}.jsonl"),
        previous=previous,
        workers=workers,
        part=part,
        trusted_trainer="",
        **{"openvino": None, "body_only": False, "fast": False, **more},
    )
    prediction.predict(asked)


def whole(images, out, folder, folds, *, probabilities=False, previous=None, **manner):
    """Predict as nnU-Net does; return the labels.

    Files are named one by one: to list a folder, nnU-Net forks this process, which has
    threads, and the child can hang.
    """
    out.mkdir()
    files = [[str(file)] for file in sorted(images.glob("*.nii.gz"))]
    cpu = torch.device("cpu")
    predictor = nnUNetPredictor(
        perform_everything_on_device=False, device=cpu, allow_tqdm=False, **manner
    )
    predictor.initialize_from_trained_model_folder(str(folder), tuple(range(folds)))
    predictor.predict_from_files_sequential(
        files, str(out), probabilities, True, previous and str(previous)
    )
    return read_array(out / "case.nii.gz")[1]


def mean_by_nnunet(folders, out):
    """Average as nnU-Net does, in a process that may fork: it has no threads yet."""
    words = f"{[str(folder) for folder in folders]}, {str(out)!r}, num_processes=1"
    program = f"import nnunetv2.ensembling.ensemble as e; e.ensemble_folders({words})"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def dice_of(one, other, label):
    both, total = (one == label) & (other == label), (one == label).sum()
    return 2 * both.sum() / (total + (other == label).sum())


@pytest.mark.parametrize("name", SETTINGS)
def test_every_voxel_has_the_label_that_nnunet_gives_it(name, tmp_path):
    setting = SETTINGS[name]
    images = write_image(tmp_path / "images", setting)
    model = write_model(tmp_path / "model", setting)

    labels, _ = streamed(images, tmp_path / "ours", (model, setting.folds))

    expected = whole(images, tmp_path / "whole", model, setting.folds)
    assert len(np.unique(expected)) == HEADS
    assert np.array_equal(labels, expected)


@pytest.mark.parametrize(
    ("name", "slices"),
    [("2d, planes of another size", 4), ("3d, coarser on all axes", 40)],
)
def test_the_fast_way_is_nnunets_with_larger_steps_and_without_mirroring(
    name, slices, tmp_path
):
    setting = replace(SETTINGS[name], shape=(42, 38, slices), folds=2)
    images = write_image(tmp_path / "images", setting)
    model = write_model(tmp_path / "model", setting)
    exact = {"tile_step_size": 0.5, "use_mirroring": True}
    fewer = {"tile_step_size": 0.75, "use_mirroring": False}

    labels, _ = streamed(images, tmp_path / "ours", (model, 2), fast=True)

    whole_as = partial(whole, images, folder=model, folds=2)
    assert np.array_equal(labels, whole_as(out=tmp_path / "whole", **fewer))
    assert not np.array_equal(labels, whole_as(out=tmp_path / "exact", **exact))


def test_the_mean_of_two_configurations_is_nnunets(tmp_path):
    flat, deep = (
        SETTINGS["2d, planes of another size"],
        Setting("3d_fullres", (30, 26, 7), (1.0, 1.1, 3.5), (3.0, 1.0, 1.0), folds=2),
    )
    images = write_image(tmp_path / "images", flat)
    models = {"2d": (flat, 0), "3d_fullres": (deep, 10)}
    folders = {
        name: write_model(tmp_path / name, setting, seed=seed)
        for name, (setting, seed) in models.items()
    }
    alone = [
        whole(images, tmp_path / f"whole_{name}", folder, 2, probabilities=True)
        for name, folder in folders.items()
    ]
    mean_by_nnunet([tmp_path / f"whole_{name}" for name in models], tmp_path)

    labels, agreement = streamed(
        images, tmp_path / "ours", *((folder, 2) for folder in folders.values())
    )

    assert np.array_equal(labels, read_array(tmp_path / "case.nii.gz")[1])
    assert agreement["between_configurations"] == {
        str(label): pytest.approx(dice_of(*alone, label), abs=1e-6)
        for label in range(1, HEADS)
    }
    assert sorted(file.name for file in (tmp_path / "ours").iterdir()) == [
        "case.agreement.json",
        "case.nii.gz",
    ]


def test_agreement_between_folds_is_the_mean_dice_of_their_own_labels(tmp_path):
    setting = SETTINGS["3d, thinner than the patch, several rows of windows"]
    images = write_image(tmp_path / "images", setting)
    model = write_model(tmp_path / "model", setting)
    one = replace(setting, folds=1)
    alone = [
        streamed(
            images,
            tmp_path / f"alone_{fold}",
            (write_model(tmp_path / f"fold_{fold}", one, seed=fold), 1),
        )
        for fold in range(setting.folds)
    ]

    _, agreement = streamed(images, tmp_path / "ours", (model, setting.folds))

    assert [found for _, found in alone] == [{}, {}]
    (first, _), (second, _) = alone
    assert agreement == {
        "between_folds": {
            str(label): pytest.approx(dice_of(first, second, label), abs=1e-6)
            for label in range(1, HEADS)
        }
    }


def test_a_second_stage_sees_the_labels_of_the_first(tmp_path):
    setting = SETTINGS["3d, finer on all axes"]
    images = write_image(tmp_path / "images", setting)
    first = write_model(tmp_path / "first", setting)
    second = write_model(
        tmp_path / "second",
        setting,
        configuration="3d_cascade_fullres",
        channels=HEADS,
        seed=5,
    )
    before, _ = streamed(images, tmp_path / "before", (first, 1))

    labels, _ = streamed(
        images, tmp_path / "ours", (second, 1), previous=tmp_path / "before"
    )

    expected = whole(
        images, tmp_path / "whole", second, 1, previous=tmp_path / "before"
    )
    assert np.array_equal(labels, expected)
    assert not np.array_equal(labels, before)
    with pytest.raises(ValueError, match="is missing"):
        streamed(images, tmp_path / "without", (second, 1))


def test_an_image_prepared_ahead_is_predicted_the_same(tmp_path):
    setting = SETTINGS["2d, nothing to resample"]
    images = write_image(tmp_path / "images", setting)
    write_image(images, setting, case="another")
    model = write_model(tmp_path / "model", setting)

    labels, _ = streamed(images, tmp_path / "one", (model, 1))
    ahead, _ = streamed(images, tmp_path / "two", (model, 1), workers=2)

    assert np.array_equal(ahead, labels)
    assert (tmp_path / "two" / "another.nii.gz").exists()


def test_progress_only_grows_and_ends_at_all(tmp_path):
    setting = SETTINGS["3d, coarser on all axes"]
    images = write_image(tmp_path / "images", setting)
    model = write_model(tmp_path / "model", setting)

    streamed(images, tmp_path / "ours", (model, 1))

    lines = (tmp_path / "ours.jsonl").read_text().splitlines()
    shares = [json.loads(line)["done"] for line in lines]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_an_answer_that_is_not_finite_is_an_error(tmp_path):
    setting = SETTINGS["2d, nothing to resample"]
    images = write_image(tmp_path / "images", setting)
    model = write_model(tmp_path / "model", setting)
    file = model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=True)
    for weights in content["network_weights"].values():
        weights.fill_(torch.nan)
    torch.save(content, file)

    with pytest.raises(ArithmeticError, match="not finite"):
        streamed(images, tmp_path / "ours", (model, 1))


def test_an_answer_too_large_for_half_precision_is_computed_in_single(tmp_path):
    """Half precision ends at 65504; the labels are those of the network itself."""
    setting = Setting("3d_fullres", (16, 16, 16), (1, 1, 1), (1.0, 1.0, 1.0))
    images = tmp_path / "images"
    voxels = np.random.default_rng(7).normal(5, 1, setting.shape).astype(np.float32)
    grid = Grid(setting.shape, np.eye(4))
    write_volume(images / "case_0000.nii.gz", Volume(grid, voxels))
    model = write_model(tmp_path / "model", setting)
    file = model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=True)
    for name, weights in content["network_weights"].items():
        if ".seg_layers.0." in name:
            weights.mul_(2.0**20)
    torch.save(content, file)

    labels, _ = streamed(images, tmp_path / "ours", (model, 1))

    cpu = torch.device("cpu")
    predictor = nnUNetPredictor(perform_everything_on_device=False, device=cpu)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    volume = torch.from_numpy((voxels - voxels.mean()) / voxels.std()).T[None, None]
    with torch.inference_mode():
        logits = predictor._internal_maybe_mirror_and_predict(volume.contiguous())[0]
    assert logits.abs().max() > 65504
    expected = logits.argmax(0).numpy().T
    assert len(np.unique(expected)) > 1
    assert np.mean(labels == expected) > 0.999  # the mean and deviation are rounded


class Scripted:
    """A member whose attempts end as a script says; remembers their manners."""

    def __init__(self, device, script):
        self.script, self.tried = list(script), []
        networks = Networks((None,), (8, 8), HEADS, (), torch.device(device))
        self.networks = SimpleNamespace(
            folds=networks.folds,
            heads=HEADS,
            manners=networks.manners,
            to_device=lambda: None,
            to_host=lambda: None,
        )

    def logits(self, _prepared, _overlaps, manner, _progress):
        precision = "single" if manner.single else "half"
        batch = ", at once" if manner.at_once else ""
        self.tried.append(f"{manner.sums_on.type}, {precision}{batch}")
        error = self.script.pop(0)
        if error:
            raise error
        return iter(())


FULL = RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
NOT_FINITE = NotFiniteError("not finite")


@pytest.mark.parametrize(
    ("device", "script", "tried"),
    [
        ("cuda", [None], ["cuda, half, at once"]),
        ("cuda", [FULL, None], ["cuda, half, at once", "cuda, half"]),
        (
            "cuda",
            [FULL, FULL, None],
            ["cuda, half, at once", "cuda, half", "cpu, half"],
        ),
        ("cuda", [NOT_FINITE, None], ["cuda, half, at once", "cuda, single, at once"]),
        (
            "cuda",
            [FULL, NOT_FINITE, FULL, None],
            ["cuda, half, at once", "cuda, half", "cuda, single", "cpu, single"],
        ),
        ("cpu", [NOT_FINITE, None], ["cpu, half", "cpu, single"]),
        ("mps", [None], ["cpu, half"]),
    ],
)
def test_an_image_is_computed_again_in_the_manner_that_may_succeed(
    tmp_path, device, script, tried
):
    member = Scripted(device, [*script, None])
    report = prediction.Report(tmp_path / "progress", [1.0, 1.0])
    case = prediction.Case(tmp_path, report)

    case._predict(member, None, list)
    assert member.tried == tried
    case._predict(member, None, list)  # the next image begins anew

    assert member.tried[len(tried) :] == tried[:1]


@pytest.mark.parametrize(
    ("device", "script"),
    [("cuda", [FULL] * 3), ("cpu", [FULL]), ("cpu", [NOT_FINITE] * 2)],
)
def test_a_fault_that_stays_is_an_error(tmp_path, device, script):
    member = Scripted(device, script)
    case = prediction.Case(tmp_path, prediction.Report(tmp_path / "p", [1.0]))

    with pytest.raises(type(script[-1])):
        case._predict(member, None, list)


@pytest.mark.parametrize("axes", [(), (1,), (0, 1, 2)])
def test_a_window_and_its_mirrored_forms_in_one_batch_have_the_same_mean(axes):
    torch.manual_seed(3)
    network = torch.nn.Conv3d(1, HEADS, 3, padding=1)
    window = torch.randn(1, 1, 8, 9, 10)

    with torch.inference_mode():
        one, many = (mirrored(network, window, axes, at_once=b) for b in (True, False))

    torch.testing.assert_close(one, many)
    assert one.shape == (1, HEADS, 8, 9, 10)


def test_half_copies_of_the_weights_are_made_once_for_all_windows():
    """Counted with bfloat16 on the CPU, where autocast does the same."""
    network, window = torch.nn.Conv2d(1, 2, 3), torch.ones(1, 1, 8, 8)

    def copies(block):
        with torch.profiler.profile() as seen, torch.no_grad(), block:
            for _ in range(5):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    network(window)
        return sum(e.count for e in seen.key_averages() if e.key == "aten::_to_copy")

    dropped, kept = copies(nullcontext()), copies(weights_kept())

    assert (dropped, kept) == (5 * 3, 5 + 2)  # the window, the weight and the bias


class Uneven(torch.nn.Module):
    """A network that needs another time for every window, some of them at once."""

    def __init__(self, at_once):
        super().__init__()
        self.at_once, self.running, self.most = at_once, 0, 0
        self.lock, self.waits = threading.Lock(), iter(np.tile([0.02, 0.0, 0.01], 99))

    def forward(self, window):
        with self.lock:
            self.running += 1
            self.most, wait = max(self.most, self.running), next(self.waits)
        time.sleep(wait)
        with self.lock:
            self.running -= 1
        return torch.cat([window, -window, window * window], dim=1)


@pytest.mark.parametrize("patch", [(6, 5), (4, 6, 5)], ids=["2d", "3d"])
def test_windows_that_are_computed_at_once_are_added_in_their_order(patch):
    volume = torch.randn(1, 7, 9, 8, generator=torch.Generator().manual_seed(0))
    found, manner = {}, Manner(torch.device("cpu"))
    for at_once in (1, 3):
        network, done = Uneven(at_once), []
        networks = Networks((network, network), patch, HEADS, (0,), manner.sums_on)
        sweep = Sweep.over(networks, volume, manner, lambda d=done: d.append(1))
        found[at_once] = torch.stack(list(sweep.planes()))
        assert (network.most, len(done)) == (at_once, sweep.windows)

    assert torch.equal(found[1], found[3])


def test_a_fault_in_a_window_ends_those_that_are_computed_at_once():
    def double(number):
        if number == 3:
            raise ValueError("the fourth")
        return 2 * number

    computed = ahead(double, range(100), 4)

    assert [next(computed) for _ in range(3)] == [0, 2, 4]
    with pytest.raises(ValueError, match="the fourth"):
        next(computed)


def test_several_processes_predict_each_image_once(tmp_path):
    setting = SETTINGS["2d, nothing to resample"]
    images = write_image(tmp_path / "images", setting)
    for case in ("a", "b"):
        write_image(images, setting, case=case)
    model = write_model(tmp_path / "model", setting)

    for number in (0, 1):
        run_part(images, tmp_path / str(number), (model, 1), part=(number, 2))

    found = [{f.name for f in (tmp_path / n).glob("*.nii.gz")} for n in ("0", "1")]
    assert found == [{"a.nii.gz", "case.nii.gz"}, {"b.nii.gz"}]


sizes = st.integers(1, 9)
lengths = st.sampled_from([0.5, 0.8, 1.0, 1.7, 4.0])


@examples(150)
@given(
    seen=st.tuples(sizes, sizes, sizes),
    wanted=st.tuples(sizes, sizes, sizes),
    seen_mm=st.tuples(lengths, lengths, lengths),
    wanted_mm=st.tuples(lengths, lengths, lengths),
    separate=st.sampled_from([None, False]),
)
def test_logits_are_resampled_as_nnunet_resamples_them(
    seen, wanted, seen_mm, wanted_mm, separate
):
    found, expected = both_resampled(seen, wanted, seen_mm, wanted_mm, separate)

    # sums in another order may round to the neighbouring half
    np.testing.assert_array_max_ulp(found, expected, maxulp=1)


def test_hardly_a_logit_rounds_to_the_neighbouring_half():
    spacing_mm = (1.0, 1.0, 1.0)
    found, expected = both_resampled(
        (20, 23, 31), (27, 20, 40), spacing_mm, spacing_mm, separate=None
    )

    assert np.mean(found != expected) < 1e-3


def both_resampled(seen, wanted, seen_mm, wanted_mm, separate):
    """Return the same logits resampled plane by plane and by nnU-Net."""
    options = {**DEFAULT, "force_separate_z": separate}
    function = partial(resample_data_or_seg_to_shape, **options)
    logits = np.random.default_rng(0).normal(size=(2, *seen)).astype(np.float16)
    planes = iter(torch.from_numpy(logits).unbind(1))
    resampled = Resampling(function, wanted, seen_mm, wanted_mm).planes(planes, seen)
    found = torch.stack(list(resampled), dim=1).numpy()
    return found, function(logits, wanted, seen_mm, wanted_mm)


def test_a_structure_that_only_some_have_counts_where_one_has_it():
    overlaps = Overlaps(labelmaps=3, classes=3)

    overlaps.add([np.uint8([[1, 1]]), np.uint8([[0, 0]]), np.uint8([[0, 0]])])

    assert overlaps.mean_dice() == {"1": 0.0, "2": None}


def test_agreement_adds_up_over_planes():
    rng = np.random.default_rng(3)
    volumes = rng.integers(0, HEADS, (3, 6, 5, 4)).astype(np.uint8)
    overlaps = Overlaps(labelmaps=3, classes=HEADS)

    for planes in volumes.swapaxes(0, 1):
        overlaps.add(list(planes))

    for label, dice in overlaps.mean_dice().items():
        pairs = combinations(volumes, 2)
        assert dice == pytest.approx(
            np.mean([dice_of(*pair, int(label)) for pair in pairs]), abs=1e-6
        )
