"""The contract of every command: help, exit codes, one JSON object."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from nnunet_bridge.cli import main

HEAVY = ("torch", "SimpleITK", "pandas", "trimesh", "nnunetv2", "pydicom", "scipy")


def invoke(*words, **environment):
    return CliRunner().invoke(main, list(words), env=environment)


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_help_with_an_example(name):
    result = invoke(name, "--help")

    assert result.exit_code == 0
    assert f"nnunet-bridge {name}" in result.output
    assert "--json" in result.output
    assert "--workspace" in result.output


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(words):
    program = (
        "import sys; from nnunet_bridge.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )

    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert result.stderr.strip() == "[]"


def test_the_module_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "nnunet_bridge", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout.startswith("nnunet-bridge, version")


def test_a_misspelt_option_is_a_usage_error():
    assert invoke("doctor", "--jsn").exit_code == 2


def test_words_that_click_refuses_are_one_json_object_too():
    result = invoke("doctor", "--jsn", "--json")

    assert result.exit_code == 2
    assert "--jsn" in json.loads(result.stdout)["error"]


def test_an_unknown_dataset_is_a_usage_error_in_words_and_in_json(tmp_path):
    result = invoke("status", "7", "-w", str(tmp_path), "--json")

    assert result.exit_code == 2
    assert "There is no dataset 7" in json.loads(result.stdout)["error"]
    assert "There is no dataset 7" in result.stderr


def test_a_workspace_that_is_not_there_exits_5_with_one_sentence(tmp_path):
    result = invoke("status", "1", "-w", str(tmp_path / "nowhere"))

    assert result.exit_code == 5
    assert result.stdout == ""
    assert "is not a folder: make it, or name another with -w" in result.stderr


def test_the_workspace_comes_from_the_variable(tmp_path):
    (tmp_path / "nnUNet_raw" / "Dataset003_Knee").mkdir(parents=True)

    result = invoke("status", "3", NNUNET_BRIDGE_WORKSPACE=str(tmp_path))

    assert result.exit_code == 0
    assert "Dataset003_Knee: no training yet" in result.output


def test_doctor_prints_one_json_object_with_every_check(tmp_path):
    result = invoke("doctor", "-w", str(tmp_path), "--json")

    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["Python"]["ok"]
    assert checks["nnU-Net"]["detail"].startswith("2.8")
    for name in ("torch", "GPU", "cores", "memory", "disk", "decoders", "Slurm"):
        assert set(checks[name]) == {"name", "ok", "detail"}
    assert result.exit_code == 0


def test_doctor_says_that_a_workspace_is_missing(tmp_path):
    result = invoke("doctor", "-w", str(tmp_path / "nowhere"))

    assert result.exit_code == 5
    assert "MISSING  workspace" in result.stdout


def test_training_without_a_plan_says_what_to_run_first(tmp_path):
    folder = tmp_path / "nnUNet_raw" / "Dataset001_Tibia"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(
        '{"labels": {"background": 0, "tibia": 1}, "channel_names": {"0": "MRI"}}'
    )

    result = invoke("train", "1", "-w", str(tmp_path), "--device", "cpu")

    assert result.exit_code == 3
    assert "run `nnunet-bridge plan Dataset001_Tibia` first" in result.stderr


@pytest.mark.parametrize(
    ("margin", "message"),
    [("iou=0.01", "Unknown metric"), ("dice=none", "Give a positive number")],
)
def test_a_margin_that_means_nothing_is_a_usage_error(tmp_path, margin, message):
    (tmp_path / "nnUNet_raw" / "Dataset003_Knee").mkdir(parents=True)
    words = ("compare", "3", "-w", str(tmp_path), "-o", str(tmp_path / "out"))

    result = invoke(*words, "--margin", margin)

    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    os.path.exists("/dev/nvidia0"),  # noqa: PTH110 - a device, not a file of ours
    reason="this machine has an NVIDIA GPU",
)
def test_cuda_without_a_gpu_exits_5(tmp_path):
    folder = tmp_path / "nnUNet_raw" / "Dataset001_Tibia"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text("{}")

    result = invoke("train", "1", "-w", str(tmp_path), "--device", "cuda")

    assert result.exit_code == 5
    assert "shows no NVIDIA GPU" in result.stderr


def test_an_unforeseen_error_exits_1_without_a_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_bridge.pipeline.doctor._disk", lambda _root: 1 / 0)

    result = invoke("doctor", "-w", str(tmp_path))

    assert result.exit_code == 1
    assert "Internal error: ZeroDivisionError" in result.stderr
    assert "Traceback" not in result.stderr
    again = invoke("doctor", "-w", str(tmp_path), "--traceback")
    assert again.exit_code == 1
    assert "Traceback (most recent call last)" in again.stderr
