"""Without a GPU, the time of the budget full is reported before anything starts."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys

import pytest
from command import bridge
from spheres import DATASET, write_spheres
from tiny_model import golden_plans

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.progress import Silent
from nnunet_bridge.formats.files import write_json
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.machine import Accelerator, Machine, TorchBuild
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.planned import Planned
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.training.memory import DAY_S, cpu_seconds
from nnunet_bridge.pipeline.training.planned_data import dataset_state
from nnunet_bridge.pipeline.training.request import TrainingRequest
from nnunet_bridge.pipeline.training.train import train_dataset

LARGE = Machine(cores=4, free_memory_bytes=1 << 40, gpus=0)
ONE_CORE = {"SLURM_CPUS_PER_TASK": "1"}


class Called(Exception):  # noqa: N818 - it is an event
    """nnU-Net would have been called."""


def call(*_words):
    raise Called


class Heard(Silent):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def planned(tmp_path):
    """A dataset that looks planned; its network fits into the memory of any machine."""
    write_spheres(tmp_path, size=12)
    dataset = Dataset(Workspace.at(tmp_path, environment={}), DATASET)
    plans = golden_plans() | {"dataset_name": DATASET}
    small = plans["configurations"]["2d"]
    small["batch_size"], network = 1, small["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [4] * network["n_stages"]
    plans["configurations"]["3d_fullres"] |= {"patch_size": [32] * 3, "batch_size": 2}
    write_json(dataset.plans_file("nnUNetPlans"), plans)
    shutil.copy(dataset.raw_dir / "dataset.json", dataset.planned_dir)
    folds = [{"train": ["ball_000"], "val": ["ball_001"]}] * 5
    write_json(dataset.splits_file, folds)
    Planned(dataset_state(dataset), {"default": ("2d", "3d_fullres")}).write(dataset)
    return dataset


def request(*configurations, budget="full", folds=("0",), device="cpu"):
    options = TrainingOptions(device)
    method = method_of("nnunet", budget)
    return TrainingRequest(method, configurations, folds, options)


def seconds(dataset, request, machine=LARGE):
    method = request.method
    pairs = [(c, int(f)) for c in request.configurations for f in request.folds]
    runs = [method.run(dataset, *pair) for pair in pairs]
    return cpu_seconds(runs, method, machine)


def test_twice_the_folds_take_twice_as_long_and_twice_the_cores_half(planned):
    one = seconds(planned, request("3d_fullres"))

    assert seconds(planned, request("3d_fullres", folds="01")) == pytest.approx(2 * one)
    eight = Machine(cores=8, free_memory_bytes=1, gpus=0)
    assert seconds(planned, request("3d_fullres"), eight) == pytest.approx(one / 2)
    assert seconds(planned, request("3d_fullres", budget="smoke")) is None


def test_standard_costs_a_quarter_of_full(planned):
    full = seconds(planned, request("3d_fullres"))

    standard = request("3d_fullres", budget="standard")

    assert seconds(planned, standard) == pytest.approx(full / 4)


def test_what_is_trained_already_does_not_count(planned):
    run = method_of("nnunet", "full").run(planned, "3d_fullres", 0)
    one = seconds(planned, request("3d_fullres"))
    run.events_file.parent.mkdir(parents=True)
    report = [{"event": "start", "epochs": 1000}]
    report += [{"event": "epoch", "epoch": n, "seconds": 9.0} for n in range(250)]
    run.events_file.write_text("".join(json.dumps(one) + "\n" for one in report))

    assert seconds(planned, request("3d_fullres")) == pytest.approx(0.75 * one)


def test_a_short_training_is_announced_and_starts(planned):
    plain, heard = request("2d"), Heard()
    assert seconds(planned, plain) < DAY_S

    def never(_sentence):
        pytest.fail("no question is needed")

    with pytest.raises(Called):
        train_dataset(
            planned, plain, host=Host(LARGE, start=call), progress=heard, consent=never
        )

    (sentence,) = [line for line in heard.lines if "Without a GPU" in line]
    assert re.search(
        r"1 training at the budget full will take about .+ on 4 cores", sentence
    )


@pytest.mark.parametrize("wanted", [True, False])
def test_above_a_day_the_training_needs_consent(planned, wanted):
    asked = []

    def consent(sentence):
        asked.append(sentence)
        if not wanted:
            raise UsageError(sentence)

    with pytest.raises(Called if wanted else UsageError):
        train_dataset(
            planned,
            request("3d_fullres"),
            host=Host(LARGE, start=call),
            consent=consent,
        )

    assert re.search(r"about (\d+ d \d+ h|\d+ h \d+ min) on 4 cores", asked[0])


@pytest.mark.parametrize(("budget", "gpus"), [("quick", 0), ("smoke", 0), ("full", 1)])
def test_nothing_is_asked_with_a_gpu_or_for_another_budget(planned, budget, gpus):
    accelerators = (Accelerator("NVIDIA", 1 << 40, 1 << 40),) * gpus
    machine = Machine(4, 1 << 40, gpus, accelerators)
    device = "cuda" if gpus else "cpu"

    def never(_sentence):
        pytest.fail("no question is needed")

    with pytest.raises(Called):
        train_dataset(
            planned,
            request("3d_fullres", budget=budget, device=device),
            host=Host(machine, start=call, torch=lambda: TorchBuild("2.9", "13.0")),
            consent=never,
        )


def words(dataset):
    root = dataset.workspace.runs_dir.parent
    return ("train", "7", "-c", "3d_fullres", "-w", root, "--device", "cpu")


def test_without_a_terminal_the_command_ends_with_exit_code_2_and_the_sentence(planned):
    result = bridge(*words(planned), "--json", check=False, environment=ONE_CORE)

    assert result.exit_code == 2
    message = json.loads(result.stdout)["error"]
    assert re.search(r"take about \d+ d \d+ h on 1 core\..*Add --yes", message)
    assert not planned.results_dir.exists()


@pytest.mark.parametrize(("answer", "exit_code"), [(b"n\n", 130), (b"\n", 130)])
def test_on_a_terminal_the_command_asks(planned, answer, exit_code):
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "nnunet_bridge", *map(str, words(planned))],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, **ONE_CORE, "COLUMNS": "300"},
    ) as process:
        os.close(theirs)
        message = b""
        while b"Start it?" not in message:
            message += os.read(ours, 4096)
        os.write(ours, answer)
        process.wait(60)

    assert process.returncode == exit_code
    assert b"at the budget full will take about" in message
    assert not planned.results_dir.exists()


def test_N04_a_missing_description_is_named_with_the_way_out(planned):
    (planned.planned_dir / "dataset.json").unlink()

    with pytest.raises(InputError, match=r"dataset\.json is missing: run `nnunet-br"):
        train_dataset(planned, request("2d"), host=Host(LARGE, start=call))
