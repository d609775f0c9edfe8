"""Every model at every budget has a name of its own, and the command line knows it."""

import pytest
from tiny_model import NOWHERE

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.words import ModelName
from nnunet_bridge.nnunet.methods import METHODS, method_named, method_of, method_of_run
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.nnunet.plans import BUDGETS

DATASET = Dataset(NOWHERE, "Dataset001_Tibia")


def test_every_model_has_every_budget_that_is_shorter_than_its_full_training():
    short = {ModelName.UNET_2D, ModelName.RESNET_34, ModelName.RESNET_34_FROZEN}

    assert set(METHODS) == {
        (model, budget)
        for model in ModelName
        for budget in BUDGETS
        if (model in short, budget) != (True, "standard")
    }


def test_no_two_methods_share_a_folder():
    assert len({(method.trainer, method.plans) for method in METHODS.values()}) == len(
        METHODS
    )


@pytest.mark.parametrize("words", list(METHODS))
def test_the_method_of_a_training_is_recognised(words):
    method = method_of(*words)

    run = method.run(DATASET, method.configurations[0], 0)

    assert method_of_run(run) is method


def test_an_unknown_model_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="nnunet"):
        method_of("vnet", "smoke")


def test_a_configuration_that_a_model_does_not_know_is_refused():
    with pytest.raises(UsageError, match="not 4d"):
        method_of("nnunet", "full").run(DATASET, "4d", 0)


def test_trainer_and_plans_name_a_model_of_ours_and_any_other():
    of_lab = method_named("LabTrainer__nnUNetResEncUNetMPlans", "full")

    assert method_named("unet2d", "quick") is method_of("unet2d", "quick")
    smoke = method_of("nnunet", "smoke")
    assert method_named("BridgeSmokeTrainer__nnUNetPlansSmoke", "full") is smoke
    assert (of_lab.trainer, of_lab.plans) == ("LabTrainer", "nnUNetResEncUNetMPlans")
    assert (of_lab.planner, of_lab.asked_budget) == ("resenc-m", None)


@pytest.mark.parametrize(
    ("word", "budget", "message"),
    [
        ("LabTrainer__nnUNetPlans_iso", "full", "train with nnUNetv2_train"),
        ("LabTrainer__nnUNetPlans", "quick", "LabTrainer sets its own number of steps"),
    ],
)
def test_what_cannot_be_trained_of_others_is_refused(word, budget, message):
    with pytest.raises(UsageError, match=message):
        method_named(word, budget)
