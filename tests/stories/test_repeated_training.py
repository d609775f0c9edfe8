"""A fold is trained twice: other random numbers, a folder of its own, same record."""

import re

import pytest
from small_study import LAB

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.formats.files import sha256_of
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.training.cluster import ClusterOptions, train_on_cluster
from nnunet_bridge.pipeline.training.request import TrainingRequest
from nnunet_bridge.pipeline.training.train import train_dataset

pytestmark = pytest.mark.training


@pytest.mark.usefixtures("few_steps")
def test_each_training_of_a_fold_has_its_own_network_and_the_first_its_usual_place(lab):
    dataset = Dataset(Workspace.at(lab / "work", environment={}), LAB)
    method = method_of("nnunet", "smoke")
    request = TrainingRequest(method, ("2d",), options=TrainingOptions("cpu"), repeat=2)

    summary = train_dataset(dataset, request)

    first, second = (state.run for state in summary.runs)
    assert [(s.state, s.run.repeat) for s in summary.runs] == [("done", 0), ("done", 1)]
    assert first.fold_dir.is_relative_to(dataset.results_dir)
    assert second.fold_dir.is_relative_to(dataset.record_dir)
    assert second.run_dir.name == "fold_0_seed_1"
    assert second.page_file.is_file()
    assert sha256_of(first.checkpoint_file) != sha256_of(second.checkpoint_file)
    losses = [run.events_file.read_text() for run in (first, second)]
    assert losses[0] != losses[1]


def test_one_job_trains_a_fold_as_often_as_requested(lab, tmp_path, monkeypatch):
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 77\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    dataset = Dataset(Workspace.at(lab / "work", environment={}), LAB)
    method = method_of("nnunet", "smoke")
    request = TrainingRequest(method, ("3d_fullres",), ("0", "1"), repeat=2)

    summary = train_on_cluster(dataset, request, ClusterOptions())

    script = (dataset.record_dir / "train.sbatch").read_text()
    tasks = re.findall(
        r"^\d\) set -- .* -f (\d) .* --repeat (\d) ", script, re.MULTILINE
    )
    assert tasks == [("0", "2"), ("1", "2")]
    assert "#SBATCH --array=0-1\n" in script
    assert {(s.run.fold, s.run.repeat): (s.state, s.job) for s in summary.runs} == {
        (fold, repeat): ("queued", f"77_{fold}") for fold in (0, 1) for repeat in (0, 1)
    }
    assert "4 trainings handed to Slurm as 77;" in summary.notes[0]


def test_the_cascade_is_not_repeated():
    with pytest.raises(UsageError, match="--repeat cannot train 3d_cascade_fullres"):
        TrainingRequest(
            method_of("nnunet", "smoke"), ("3d_cascade_fullres",), repeat=2
        ).check()
