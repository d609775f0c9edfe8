"""The budget `full` is nnU-Net: loss by loss, also when a training goes on."""

import argparse
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from nnunet_bridge.core.errors import SecurityError
from nnunet_bridge.nnunet.commands import Resources, train_command
from nnunet_bridge.nnunet.inside import training
from nnunet_bridge.nnunet.names import Dataset, Run, Workspace

FIRST_LOSSES = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from nnunetv2.run import run_training as nnunet
from nnunet_bridge.nnunet.inside.random_numbers import _seed_all, seed_of
from nnunet_bridge.nnunet.inside.training import TrainerHooks, prepare_training

def losses(configuration, epoch, ours):
    trainer = nnunet.get_trainer_from_args(
        "Dataset001_Tibia", configuration, 0, "nnUNetTrainer", "nnUNetPlans",
        device=torch.device("cpu"))
    run = "/".join(Path(trainer.output_folder).parts[-3:])
    if not ours:
        _seed_all(seed_of(run, 0, "weights"))
    trainer.initialize()
    trainer.current_epoch = epoch
    if not ours:
        _seed_all(seed_of(run, 0, epoch))
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    steps = 2 if epoch == 0 else 1
    batches = [next(trainer.dataloader_train) for _ in range(steps)]
    return [float(trainer.train_step(batch)["loss"]) for batch in batches]

asked = [(name, epoch) for name in ("2d", "3d_fullres") for epoch in (0, 7)]
plain = [losses(*one, ours=False) for one in asked]
prepare_training(TrainerHooks(Path(sys.argv[1])))
ours = [losses(*one, ours=True) for one in asked]
print(json.dumps([plain, ours]))
"""


@pytest.mark.training
def test_the_budget_full_has_the_losses_of_plain_nnunet_also_after_a_resume(
    planned_lab, tmp_path
):
    work = planned_lab / "work"
    folders = {
        f"nnUNet_{kind}": str(work / f"nnUNet_{kind}")
        for kind in ("raw", "preprocessed")
    }
    one_process = {"nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"}
    environment = {
        **os.environ,
        **folders,
        **one_process,
        "nnUNet_results": str(tmp_path),
    }

    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FIRST_LOSSES, str(tmp_path / "events")],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )

    assert answer.returncode == 0, answer.stderr[-2000:]
    plain, ours = json.loads(answer.stdout.splitlines()[-1])
    for theirs, found in zip(plain, ours, strict=True):
        assert found == pytest.approx(theirs, rel=0, abs=1e-8)
    first, resumed, *_ = ours
    assert first != resumed  # other batches than those of the first epoch


@pytest.mark.parametrize("path", ["../../elsewhere", "/elsewhere", "a/b"])
@pytest.mark.parametrize("side", [0, 1])
def test_S10_a_case_of_the_splits_is_no_path(path, side):
    sides = (["msk_001"], ["msk_002"])
    trainer = SimpleNamespace(do_split=lambda: sides)
    training._refuse_paths_as_cases(trainer)
    assert trainer.do_split() == sides

    sides[side].append(path)

    with pytest.raises(SecurityError, match="a path"):
        trainer.do_split()


def test_S10_arguments_on_record_do_not_replace_ours(tmp_path):
    """`run.json` keeps nnU-Net's own arguments, and anybody may have edited it."""
    dataset = Dataset(Workspace.at(tmp_path, environment={}), "Dataset001_Tibia")
    run = Run(dataset, "2d", 0, "nnUNetTrainer", "nnUNetPlans")
    own = ("--npz", "--events", "/elsewhere", "--trainer", "Evil", "--device", "cuda")
    command = train_command(
        run, Resources("cpu", 1, 1, 0), resume=False, own_arguments=own
    )
    parser = argparse.ArgumentParser()
    for name in ("--threads", "--workers", "--device"):
        parser.add_argument(name)
    training.add_arguments(parser)

    asked = parser.parse_args(command[command.index("train") + 1 :])

    assert asked.npz
    assert asked.events == run.events_file
    assert (asked.trainer, asked.device) == ("nnUNetTrainer", "cpu")
