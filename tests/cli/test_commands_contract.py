"""The contract of every command: help, exit codes, one JSON object."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from rich.console import Console

from nnunet_bridge.cli import main
from nnunet_bridge.cli.progress import Forecast, _Bar, _Lines
from nnunet_bridge.core.units import format_duration

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
    [("iou=0.01", "names no metric"), ("dice=none", "a margin is a positive number")],
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


def test_the_time_left_counts_the_stages_to_come_at_the_pace_seen():
    forecast = Forecast()
    forecast.outline([("convert", 10.0), ("train", 100.0), ("predict", 20.0)])
    forecast.begin("convert", 4, now_s=0.0)
    assert forecast.left_s(now_s=0.0) == pytest.approx(130.0)

    forecast.begin("train", 10, now_s=20.0)
    forecast.advance(5)

    # half of train took 100 s; a stage takes about (20 + 200) / (10 + 100) as long
    # as outlined, softened by 30 s of doubt
    pace = (20 + 200 + 30) / (10 + 100 + 30)
    assert forecast.left_s(now_s=120.0) == pytest.approx(100.0 + 20.0 * pace)
    assert forecast.number == "[2/3]"


def test_progress_never_falls_back():
    forecast = Forecast()
    forecast.begin("train", 10, now_s=0.0)
    forecast.advance(5)
    forecast.advance(3)

    assert forecast.share == 0.5


def test_without_a_stage_there_is_a_table_and_no_bar():
    bar = _Bar()
    bar.show(lambda _columns: "the table")
    console = Console(width=200)

    with console.capture() as shown:
        console.print(bar.display.get_renderable())

    assert [line.strip() for line in shown.get().splitlines()] == ["the table"]


def test_without_a_terminal_progress_is_plain_lines():
    written = []
    lines = _Lines(every_s=0.0, write=written.append)
    lines.outline([("convert", 10.0), ("train", 100.0)])
    lines.stage("train", 10)
    lines.advance(5, "epoch 5")

    assert written[0].startswith("[2/2] train, about 1 min 40 s left")
    assert written[1].startswith("  train 50 %")
    assert written[1].endswith(": epoch 5\n")


def test_on_a_terminal_a_table_stands_above_the_bar_and_is_drawn_for_its_width():
    bar = _Bar()
    bar.stage("train", 10)
    bar.show(lambda columns: f"drawn for {columns}\nbefore")
    bar.show(lambda columns: f"drawn for {columns}\nsecond line")
    console = Console(width=200)

    with console.capture() as shown:
        console.print(bar.display.get_renderable())

    first, second, last = shown.get().splitlines()
    assert first.strip() == f"drawn for {bar.display.console.width}"
    assert second.strip() == "second line"
    assert "train" in last


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (61, "1 min 1 s")]
)
def test_durations_read_well(seconds, text):
    assert format_duration(seconds) == text
