"""Every loader of a training draws its own numbers, in every fold and after a resume.

The loaders are real, forked from a process that has no threads yet.
"""

import json
import subprocess
import sys

import pytest

DRAWS = """
import json, random, sys, types
from pathlib import Path
import numpy as np, torch
import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet
from nnunet_bridge.nnunet.inside.random_numbers import seed_by_run

class Draws:
    def set_thread_id(self, number):
        self.number = number
    def __next__(self):
        drawn = float(torch.rand(1)), float(np.random.rand())
        return {"loader": self.number, "drawn": drawn}

class Trainer:
    def __init__(self, run, epoch):
        self.output_folder, self.current_epoch = run, epoch
    def get_dataloaders(self):
        main = torch.rand(1).item(), np.random.rand(), random.random()
        return main, [nnunet.NonDetMultiThreadedAugmenter(
            data_loader=Draws(), transform=None, num_processes=count, num_cached=9,
            seeds=None, pin_memory=False, wait_time=0.002) for count in (2, 1)]

found = []
for folder, epoch, rank in json.loads(sys.argv[1]):
    trainer = Trainer(folder, epoch)
    seed_by_run(trainer, rank)
    weights = torch.rand(1).item()
    main, loaders = trainer.get_dataloaders()
    seen = {}
    for kind, loader in enumerate(loaders):
        while len([key for key in seen if key[0] == kind]) < (2, 1)[kind]:
            item = next(loader)
            seen.setdefault((kind, item["loader"]), item["drawn"])
        loader._finish()
    found.append([weights, *main, *(n for key in sorted(seen) for n in seen[key])])
assert nnunet.NonDetMultiThreadedAugmenter is type(loader).__mro__[1]
print(json.dumps(found))
"""


@pytest.mark.training
def test_each_loader_fold_rank_and_start_draws_its_own_numbers_and_a_repeat_the_same():
    first, second = (f"results/Dataset1/Trainer/fold_{fold}" for fold in (0, 1))
    repeat = f"runs/Dataset1/Trainer/fold_0_seed_1/{first}"
    places = [(first, 0, 0), (first, 7, 0), (first, 0, 1), (second, 0, 0)]
    places.append((repeat, 0, 0))
    elsewhere = f"elsewhere/{first}", 0, 0
    asked = json.dumps([*places, elsewhere])

    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DRAWS, asked],
        check=True,
        capture_output=True,
        text=True,
    )

    *found, again = json.loads(answer.stdout.splitlines()[-1])
    assert again == found[0]
    numbers = [n for one in found for n in one[1:]]
    assert len(numbers) == len(set(numbers)) == len(places) * (3 + 3 * 2)
    weights = [one[0] for one in found]
    assert weights[0] == weights[1]  # they do not depend on the epoch
    assert len(set(weights)) == 4
