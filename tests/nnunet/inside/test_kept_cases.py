"""Cases kept in memory: the batches are those of nnU-Net, bit for bit."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading import data_loader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_bridge.nnunet.inside import kept_cases
from nnunet_bridge.nnunet.inside.kept_cases import KeptCases, keep_small_cases

pytestmark = pytest.mark.filterwarnings("ignore:.*chunks or blocks:UserWarning")
SHAPES = {"a": (14, 20, 17), "b": (9, 12, 30), "c": (16, 16, 16)}
LABELS = SimpleNamespace(all_labels=[0, 1, 2], has_ignore_label=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return preprocessed cases as nnU-Net's own function writes them."""
    place, rng = tmp_path_factory.mktemp("preprocessed"), np.random.default_rng(3)
    for case, shape in SHAPES.items():
        labels = rng.integers(-1, 3, (1, *shape)).astype(np.int8)
        voxels = {label: np.argwhere(labels == label) for label in (1, 2)}
        nnUNetDatasetBlosc2.save_case(
            rng.normal(size=(1, *shape)).astype(np.float32),
            labels,
            {"class_locations": voxels},
            str(place / case),
        )
    (place / "previous").mkdir()
    for case, shape in SHAPES.items():
        labels = rng.integers(0, 3, shape).astype(np.uint8)
        nnUNetDatasetBlosc2.save_seg(labels, str(place / "previous" / case))
    return place


def spoil(image, segmentation):
    """Change a patch in place, as a transform may."""
    image += 1
    segmentation += 1
    return {"image": image, "segmentation": segmentation}


def batches(load, folder, patch, previous=None):
    """Return the first batches of nnU-Net's loader with a seed."""
    dataset = nnUNetDatasetBlosc2(str(folder), sorted(SHAPES), previous)
    dataset.load_case = load(dataset.load_case)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - nnU-Net draws from the global generator
    loader = data_loader.nnUNetDataLoader(
        *(dataset, 3, patch, patch, LABELS),
        oversample_foreground_percent=0.5,
        transforms=spoil,
    )
    return [next(loader) for _ in range(8)]


@pytest.mark.parametrize("patch", [(8, 10, 12), (18, 24, 32), (10, 12), (1, 9, 12)])
@pytest.mark.parametrize("most", [0, 60_000, 10**9])
def test_batches_are_those_of_nnunet(folder, patch, most):
    expected = batches(lambda load: load, folder, patch)

    found = batches(lambda load: KeptCases(load, most), folder, patch)

    for theirs, ours in zip(expected, found, strict=True):
        assert list(ours["keys"]) == list(theirs["keys"])
        for name in ("data", "target"):
            assert ours[name].dtype == theirs[name].dtype
            assert torch.equal(ours[name], theirs[name])


def test_labels_of_the_first_stage_are_kept_too(folder):
    words = folder, (8, 10, 12), str(folder / "previous")
    expected = batches(lambda load: load, *words)

    found = batches(lambda load: KeptCases(load, 10**9), *words)

    for theirs, ours in zip(expected, found, strict=True):
        assert torch.equal(ours["target"], theirs["target"])


def test_memory_is_bounded_and_a_kept_case_is_read_once(folder):
    asked = []

    def load(case):
        asked.append(case)
        return nnUNetDatasetBlosc2.load_case(dataset, case)

    dataset = nnUNetDatasetBlosc2(str(folder), sorted(SHAPES))
    one = 14 * 20 * 17 * (4 + 1)  # image and labels; and the places of the labels
    one += sum(v.nbytes for v in load("a")[3]["class_locations"].values())
    kept = KeptCases(load, one)
    asked.clear()

    for _ in range(3):
        kept("a")
        kept("b")

    assert asked == ["a", "b", "b", "b"]


@pytest.mark.parametrize(("loaders", "keeps"), [(0, True), (2, False)])
def test_only_a_training_without_loader_processes_keeps_cases(
    folder, loaders, keeps, monkeypatch
):
    monkeypatch.setattr(kept_cases, "get_allowed_n_proc_DA", lambda: loaders)
    monkeypatch.setattr(data_loader, "threadpool_limits", None)
    pair = [nnUNetDatasetBlosc2(str(folder), [case]) for case in ("a", "b")]
    trainer = SimpleNamespace(get_tr_and_val_datasets=lambda: tuple(pair))

    keep_small_cases(trainer)

    for dataset in trainer.get_tr_and_val_datasets():
        assert isinstance(dataset.load_case, KeptCases) == keeps
    assert (data_loader.threadpool_limits is not None) == keeps
