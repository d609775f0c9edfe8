"""The budget `full` is nnU-Net: loss by loss, also when a training goes on."""

import json
import os
import subprocess
import sys

import pytest

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
