"""`train --gpus 2`, from the command to the record; two processes on the CPU."""

import json
import warnings

import pytest
from small_study import LAB

from nnunet_bridge.formats.events import readable_events
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.machine import Machine
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.runs import run_state
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.training.request import TrainingRequest
from nnunet_bridge.pipeline.training.train import train_dataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns while it is imported
    import gloo_training

TWO_GPUS = Machine(cores=4, free_memory_bytes=8 << 30, gpus=2)


@pytest.mark.training
def test_a_run_on_two_gpus_trains_stops_resumes_validates_and_is_recorded(
    lab, few_steps
):
    few_steps.setenv("OMP_NUM_THREADS", "1")
    few_steps.setenv("STOP_AT_EPOCH", "1")
    few_steps.setenv("FEW_STAGES", "3")  # outputs that deep supervision would use
    dataset = Dataset(Workspace.at(lab / "work", environment={}), LAB)
    method = method_of("nnunet", "smoke")
    run = method.run(dataset, "2d", 0)
    request = TrainingRequest(method, ("2d",), options=TrainingOptions("cuda", gpus=2))
    host = Host(TWO_GPUS, gloo_training.start)

    stopped = train_dataset(dataset, request, host=host)
    few_steps.delenv("STOP_AT_EPOCH")
    resumed = train_dataset(dataset, request, host=host)

    (failure,) = stopped.failures
    assert "RuntimeError: stopped by the test." in failure
    assert resumed.failures == ()
    assert run_state(run).done
    events, _ = readable_events(run.events_file)
    answer = [(e["event"], e.get("epoch", e.get("first_epoch"))) for e in events]
    assert [fact for fact in answer if fact[0] != "summary"] == [
        *(("start", 0), ("epoch", 0), ("start", 1), ("epoch", 1)),
        *(("validation", None), ("end", None)),
    ]
    start = events[0]
    assert start["architecture"] == "PlainConvUNet"
    assert start["learning_parameters"] < start["parameters"]  # one output learns
    cases = json.loads(dataset.splits_file.read_text())[0]["val"]
    predicted = sorted(f.name for f in run.validation_dir.glob("*.nii.gz"))
    assert predicted == [f"{case}.nii.gz" for case in sorted(cases)]
    record = json.loads(run.record_file.read_text())
    assert record["command"][record["command"].index("--gpus") + 1] == "2"
    assert (record["state"], record["loaders"]) == ("done", 1)
    assert [attempt["exit"] for attempt in record["attempts"]] == ["failed", "finished"]
