"""A training has four names and a fold that nnU-Net knows."""

from dataclasses import replace

import pytest

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.runs import TrainingRun

RUN = TrainingRun("Dataset001_Leg", "2d", 0, "nnUNetTrainer", "nnUNetPlans")


@pytest.mark.parametrize("fold", [0, 4, 17, "all"])
def test_a_fold_is_a_number_from_0_or_all(fold):
    assert replace(RUN, fold=fold).fold == fold


@pytest.mark.parametrize("fold", [-1, "0", "", "best", None, True, 1.0])
def test_any_other_fold_is_refused_by_name(fold):
    with pytest.raises(InputError, match=r"Unknown fold .* Give a number from 0"):
        replace(RUN, fold=fold)


@pytest.mark.parametrize("name", ["dataset", "configuration", "trainer", "plans"])
def test_an_empty_name_is_refused(name):
    with pytest.raises(InputError, match="four names"):
        replace(RUN, **{name: ""})
