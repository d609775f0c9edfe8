"""What trainings take is known, and long ones are asked for, before anything starts."""

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

from nnunet_bridge.core.errors import EnvironmentFault, InputError, UsageError
from nnunet_bridge.core.progress import Silent
from nnunet_bridge.formats.files import read_json, write_json
from nnunet_bridge.nnunet.estimates import checkpoint_bytes, feature_map_size
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.machine import Accelerator, Machine, TorchBuild
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.planned import Planned
from nnunet_bridge.nnunet.plans import resolved
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.training.forecast import forecast, training_choices
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


def foreseen(dataset, asked, machine=LARGE, free_bytes=10**12):
    host = Host(machine, start=call, free_bytes=lambda _folder: free_bytes)
    return forecast(dataset, asked, host=host)


def test_the_forecast_of_the_budget_full_is_what_train_says_and_asks(planned):
    asked, sentences = request("3d_fullres", folds="01"), []
    with pytest.raises(Called):
        train_dataset(
            planned, asked, host=Host(LARGE, start=call), consent=sentences.append
        )

    found = foreseen(planned, asked)

    assert [found.question] == sentences
    assert found.seconds == pytest.approx(seconds(planned, asked))
    assert not found.measured
    assert found.trainings == 2


def test_a_shorter_budget_is_foreseen_by_its_share_of_the_steps(planned):
    full, quick = (
        foreseen(planned, request("2d", "3d_fullres", budget=budget))
        for budget in ("full", "quick")
    )

    assert quick.seconds == pytest.approx(full.seconds * 50 / 1000 * 100 / 250)
    assert quick.question == ""
    assert any("2 % of nnU-Net's steps" in warning for warning in quick.warnings)


@pytest.mark.parametrize(("device", "expected"), [("cpu", 90 * 14 / 4), ("cuda", None)])
def test_epochs_of_this_device_foretell_those_that_are_left(planned, device, expected):
    """Fold 0 has 40 of 50 epochs left, fold 1 all; two cores took 7 s for each."""
    run = method_of("nnunet", "quick").run(planned, "3d_fullres", 0)
    start = {"event": "start", "epochs": 50, "device": "cpu", "threads": 2,
             "iterations_per_epoch": 100}  # fmt: skip
    epochs = [{"event": "epoch", "epoch": n, "seconds": 7.0} for n in range(10)]
    run.events_file.parent.mkdir(parents=True)
    lines = [json.dumps(line) for line in (start, *epochs)]
    run.events_file.write_text("".join(f"{line}\n" for line in lines))
    gpu = (Accelerator("T4", 1 << 40, 1 << 40, word="a"),)
    machine = LARGE if device == "cpu" else Machine(4, 1 << 40, 1, gpu)
    host = Host(machine, torch=lambda: TorchBuild("2.9", "13.0"))
    asked = request("3d_fullres", budget="quick", folds="01", device=device)

    found = forecast(planned, asked, host=host)

    assert found.seconds == (expected and pytest.approx(expected))
    assert found.measured is (device == "cpu")
    assert found.done == 0


def test_F10_the_forecast_warns_in_the_words_with_which_train_refuses(planned):
    small = Machine(cores=4, free_memory_bytes=10**9, gpus=0)
    with pytest.raises(EnvironmentFault) as refused:
        train_dataset(planned, request("2d"), host=Host(small, start=call))

    found = foreseen(planned, request("2d"), small, free_bytes=1000)

    assert str(refused.value) in found.warnings
    planned_2d = resolved(read_json(planned.plans_file("nnUNetPlans")), "2d")
    classes = 1 + len(read_json(planned.raw_dir / "dataset.json")["labels"]) - 1
    numbers = feature_map_size(planned_2d, classes) * planned_2d["batch_size"]
    assert found.memory_bytes == 1792 * 2**20 + 22 * numbers
    assert found.free_memory_bytes == 10**9
    labels = (planned.raw_dir / "labelsTr" / "ball_001.nii.gz").stat().st_size
    channels = len(read_json(planned.raw_dir / "dataset.json")["channel_names"])
    checkpoint = checkpoint_bytes(planned_2d, channels)
    assert found.disk_bytes == 4 * checkpoint + labels
    assert any("free some space" in warning for warning in found.warnings)


def test_a_forecast_needs_plans_and_writes_nothing(planned):
    before = sorted(planned.workspace.runs_dir.parent.rglob("*"))

    with pytest.raises(InputError, match=r"not planned for 3d_lowres.*-c 3d_lowres`"):
        foreseen(planned, request("3d_lowres"))
    with pytest.raises(InputError, match="--planner resenc-m"):
        foreseen(planned, TrainingRequest(method_of("resenc-m", "full")))
    foreseen(planned, request("2d", budget="smoke"))
    unknown = foreseen(planned, TrainingRequest(method_of("unet2d", "quick")))

    assert (unknown.seconds, unknown.memory_bytes, unknown.disk_bytes) == (None,) * 3
    assert sorted(planned.workspace.runs_dir.parent.rglob("*")) == before
    assert training_choices(planned, Host(LARGE))["devices"] == ["auto", "cpu"]


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
