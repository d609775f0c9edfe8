"""Our trainers are found at once; those of nnU-Net as nnU-Net finds them."""

import subprocess
import sys

import pytest

from nnunet_bridge.nnunet.methods import METHODS
from nnunet_bridge.nnunet.models import TRAINERS

OURS = sorted({method.trainer for method in METHODS.values()} - {"nnUNetTrainer"})


@pytest.mark.parametrize("name", OURS)
@pytest.mark.filterwarnings("ignore")  # of torch and nnU-Net
def test_a_trainer_of_ours_is_that_of_our_package(name):
    from nnunet_bridge.nnunet.inside.safety import our_trainer

    found = our_trainer(name)

    assert found.__name__ == name
    assert found.__module__.startswith("nnunet_bridge.nnunet.trainers.")


@pytest.mark.parametrize("name", ["nnUNetTrainer", "BridgeTrainerOfOthers", "Bridge"])
@pytest.mark.filterwarnings("ignore")  # of torch and nnU-Net
def test_another_trainer_is_not_ours(name):
    from nnunet_bridge.nnunet.inside.safety import our_trainer

    assert our_trainer(name) is None


def test_nnunet_finds_ours_without_its_own_and_its_own_as_before():
    others = "nnUNetTrainer_5epochs"
    assert others in TRAINERS
    code = f"""
import sys
from nnunet_bridge.nnunet.inside.safety import find_our_trainers_first
find_our_trainers_first()
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
print(find("BridgeSmokeTrainer").__module__, "timm" in sys.modules)
print(find("{others}").__module__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    ours, timm, theirs = done.stdout.split()
    assert (ours, timm) == ("nnunet_bridge.nnunet.trainers.budgets", "False")
    assert theirs.startswith("nnunetv2.training.nnUNetTrainer.variants")
