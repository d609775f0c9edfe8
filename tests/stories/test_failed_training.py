"""A training with loaders fails in its second step: the reason is its own exception."""

import pytest
from failing_training import FULL, failing_host
from small_study import LAB

from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.runs import run_state
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.training.request import TrainingRequest
from nnunet_bridge.pipeline.training.train import train_dataset

pytestmark = pytest.mark.training


@pytest.mark.usefixtures("few_steps")
def test_the_exception_of_the_step_is_reported_once_with_a_way_out(
    lab,
):
    dataset = Dataset(Workspace.at(lab / "work", environment={}), LAB)
    method = method_of("nnunet", "smoke")
    options = TrainingOptions("cpu")
    request = TrainingRequest(method, ("2d",), options=options)

    summary = train_dataset(dataset, request, host=failing_host("full gpu"))

    (failure,) = summary.failures
    assert f"OutOfMemoryError: {FULL}." in failure
    assert "--gpu-memory-target" in failure
    assert "killed" not in failure
    assert not any("Retrying" in warning for warning in summary.warnings)
    state = run_state(method.run(dataset, "2d", 0))
    assert (state.state, state.reason) == ("failed", failure)
