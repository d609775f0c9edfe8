"""nnU-Net's cascade: coarse images first, then fine ones with what that said.

Two folds of ``3d_lowres`` and one of the cascade are trained on noisy balls, for a few
steps; the long form has the whole budget `smoke`. A planner that is given little GPU
memory plans the coarse stage for small images too.
"""

from pathlib import Path

import numpy as np
import pytest
from spheres import DATASET, TABLE, write_spheres

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.formats.nifti import read_labelmap, read_volume
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.splits import Splitting
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.models.choose import ModelRequest
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images
from nnunet_bridge.pipeline.training.plan import PlanningOptions, plan_dataset
from nnunet_bridge.pipeline.training.request import TrainingRequest
from nnunet_bridge.pipeline.training.status import status_of
from nnunet_bridge.pipeline.training.train import train_dataset

pytestmark = pytest.mark.training

CASCADE, COARSE = "3d_cascade_fullres", "3d_lowres"


@pytest.fixture(
    scope="module", params=["few steps", pytest.param("smoke", marks=pytest.mark.long)]
)
def steps(request):
    if request.param == "few steps":
        request.getfixturevalue("few_steps")
    return request.param


@pytest.fixture(scope="module")
def work(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp(steps.replace(" ", "_"))
    write_spheres(folder, cases=4, size=64, unseen=1)
    found = Dataset(Workspace.at(folder, environment={}), DATASET)
    little = PlanningOptions(
        (CASCADE,),
        splitting=Splitting(folds=2),
        own_arguments=("-gpu_memory_target", "0.08"),
    )
    plan_dataset(found, little)
    return found


def train(work, configuration, *folds):
    request = TrainingRequest(
        method_of("nnunet", "smoke"), (configuration,), folds, TrainingOptions("cpu")
    )
    return train_dataset(work, request)


def test_the_cascade_waits_for_all_folds_of_its_first_stage(work):
    with pytest.raises(InputError, match=r"of every fold; not trained: fold 0, 1\."):
        train(work, CASCADE, "0")


@pytest.fixture(scope="module")
def trained(work):
    assert train(work, COARSE, "all5").exit_code == 0
    assert train(work, CASCADE, "0").exit_code == 0
    return work


def test_the_first_stage_predicts_every_case_and_the_second_learns_from_it(trained):
    runs = status_of(trained).runs

    assert {(one.run.configuration, one.run.fold, one.state) for one in runs} == {
        (COARSE, 0, "done"),
        (COARSE, 1, "done"),
        (CASCADE, 0, "done"),
    }
    results = trained.workspace.results_dir / DATASET
    (folder,) = results.glob(f"*__{COARSE}/predicted_next_stage/{CASCADE}")
    assert {file.name for file in folder.glob("*.b2nd")} == {
        f"ball_{n:03d}.b2nd" for n in range(4)
    }


def predict(work, out):
    images = [work.workspace.raw_dir / DATASET / "imagesTs"]
    options = PredictionOptions(ModelRequest((CASCADE,)), device="cpu")
    return predict_images(work, images, out, options)


def test_the_cascade_predicts_an_unseen_image(trained, steps, tmp_path):
    """A smoke training paints too much: nnU-Net's validation says 0.59 to 1.00."""
    raw = trained.workspace.raw_dir / DATASET

    (case,) = predict(trained, tmp_path).cases

    predicted = read_labelmap(tmp_path / case.case_id / "labels.nii.gz", TABLE)
    image = read_volume(raw / "imagesTs" / "ball_004_0000.nii.gz")
    assert predicted.grid.matches(image.grid)
    if steps == "smoke":
        expected = read_labelmap(raw / "labelsTs" / "ball_004.nii.gz", TABLE)
        overlap = np.sum((predicted.voxels > 0) & (expected.voxels > 0))
        sizes = np.sum(predicted.voxels > 0) + np.sum(expected.voxels > 0)
        assert overlap > 0.9 * np.sum(expected.voxels > 0)
        assert 2 * overlap / sizes > 0.4


def test_the_cascade_without_its_first_stage_predicts_nothing(trained, tmp_path):
    (coarse,) = (trained.workspace.results_dir / DATASET).glob(f"*__{COARSE}")
    hidden = Path(f"{coarse}.away")
    coarse.rename(hidden)
    try:
        with pytest.raises(InputError, match="builds upon 3d_lowres, of which fold 0 "):
            predict(trained, tmp_path)
    finally:
        hidden.rename(coarse)
