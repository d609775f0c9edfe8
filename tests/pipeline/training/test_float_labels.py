"""Labels of nearly whole numbers in a raw dataset: planned as whole, or refused."""

import nibabel
import numpy as np
import pytest
from spheres import DATASET, write_spheres

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.pipeline.training.plan import PlanningOptions, plan_dataset


def with_floats(work, away):
    """Store the labels as floats beside whole numbers; return the voxels of a ball."""
    raw = write_spheres(work, size=12)
    balls = {}
    for file in sorted((raw / "labelsTr").iterdir()):
        image = nibabel.load(file)
        voxels = np.asarray(image.dataobj).astype(np.float32)
        balls[file.name.removesuffix(".nii.gz")] = int(voxels.sum())
        voxels[voxels > 0] -= np.float32(away)
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine), file)
    return Dataset(Workspace.at(work, environment={}), DATASET), balls


def test_K07_labels_with_fractions_are_refused_before_nnunet_is_called(tmp_path):
    dataset, _ = with_floats(tmp_path, 0.01)

    with pytest.raises(InputError, match="holds fractions, not labels") as caught:
        plan_dataset(dataset, PlanningOptions(("2d",)))

    assert caught.value.code == "N01"


@pytest.mark.training
def test_K07_labels_of_nearly_whole_numbers_keep_every_voxel_when_planned(tmp_path):
    """nnU-Net alone refuses 0.9995, and its preprocessing would cut it to 0."""
    import blosc2

    dataset, balls = with_floats(tmp_path, 5e-4)

    plan_dataset(dataset, PlanningOptions(("2d",)))

    (folder,) = dataset.planned_dir.glob("nnUNetPlans_2d")
    for name, count in balls.items():
        (file,) = folder.glob(f"{name}_seg.b2nd")
        labels = blosc2.open(str(file), mode="r")[:]
        assert np.count_nonzero(labels == 1) == count
