"""What a cluster is asked for; the stories send it to a real Slurm."""

import os
import subprocess
import sys

import pytest
from small_study import CONTENT

from nnunet_bridge.core.errors import EnvironmentFault, RecipeError
from nnunet_bridge.formats.recipe import SlurmPart, recipe_from
from nnunet_bridge.nnunet.slurm import batch_script, still_known, submit

SETTINGS = SlurmPart(
    partition="gpu", time="1-12:00:30", gpus=2, at_once=3, options=("--qos=long",)
)

STOPS = """
import os, signal, time
signal.signal(signal.SIGINT, lambda *_: os._exit(3))
os.kill(os.getppid(), signal.SIGUSR1)
time.sleep(50)
"""
"""A training that stops when it is interrupted; Slurm signals its shell at once."""


def script(tmp_path, commands=(("train", "2d"), ("train", "3d fullres; rm -rf /"))):
    return batch_script(
        commands,
        SETTINGS,
        name="nnunet-bridge-001",
        log_dir=tmp_path / "logs",
        environment={"nnUNet_raw": "/lab/the raw data"},
    )


def test_a_script_asks_for_what_the_recipe_says(tmp_path):
    asked = [line[8:] for line in script(tmp_path).splitlines() if "#SBATCH" in line]

    assert asked == [
        "--job-name=nnunet-bridge-001",
        "--array=0-1%3",
        "--time=1-12:00:30",
        "--partition=gpu",
        "--gres=gpu:2",
        "--cpus-per-task=8",
        "--mem=32G",
        f"--output={tmp_path}/logs/%A_%a.log",
        "--open-mode=append",
        "--signal=B:USR1@120",
        "--requeue",
        "--qos=long",
    ]


HOSTILE = (
    *("gpu\ntouch MARK", "gpu\r\ntouch MARK", "$(touch MARK)", "`touch MARK`", "a;b"),
    *("gpu\n#SBATCH --export=BASH_ENV=x", "a b", "", "-p q", "ä\u2028touch MARK"),
)


@pytest.mark.parametrize("word", HOSTILE)
@pytest.mark.parametrize("field", ["partition", "account", "time", "options"])
def test_S10_a_word_of_the_recipe_never_becomes_a_line_or_a_command(field, word):
    value = [f"--qos={word}"] if field == "options" else word

    with pytest.raises(RecipeError, match=rf"slurm\.{field}"):
        recipe_from({**CONTENT, "slurm": {field: value}})


@pytest.mark.parametrize(
    "option",
    [
        *(
            "--export=ALL,LD_PRELOAD=/tmp/a.so",
            "--expor=ALL,BASH_ENV=/tmp/a",
            "--wrap=a",
        ),
        *("--output=/home/me/.bashrc", "--out=/home/me/.bashrc", "--error=x", "--bb=x"),
        *("--chdir=/tmp", "--get-user-env", "--prolog=/tmp/a", "-J", "--", "qos=long"),
        *("--array=0-9", "--job-name=x", "--container=/tmp/x", "--qos=a\tb", "--QOS=a"),
    ],
)
def test_S10_options_that_set_variables_or_name_files_are_refused(option):
    with pytest.raises(RecipeError, match=r"slurm\.options"):
        recipe_from({**CONTENT, "slurm": {"options": [option]}})


def test_usual_words_of_slurm_are_accepted_as_before():
    part = {
        "partition": "gpu,gpu-long",
        "account": "lab_a.b",
        "time": "1-00:00:00",
        "options": [
            "--qos=long",
            "--constraint=[a100*2&ib]",
            "--exclusive",
            "--nice=5",
        ],
    }

    assert recipe_from({**CONTENT, "slurm": part}).slurm.options == tuple(
        part["options"]
    )


def test_S10_a_workspace_with_a_line_break_in_its_name_gets_no_script(tmp_path):
    with pytest.raises(EnvironmentFault, match="rename the folder") as refused:
        script(tmp_path / "a\ntouch MARK\n")

    assert refused.value.code == "S10"


@pytest.mark.parametrize("task", [0, 1])
def test_a_task_runs_its_own_command_and_no_word_becomes_a_command(tmp_path, task):
    file = tmp_path / "train.sbatch"
    file.write_text(script(tmp_path).replace('"$@" &', "printf '<%s>' \"$@\" &"))

    done = subprocess.run(
        ["bash", file],
        env={"SLURM_ARRAY_TASK_ID": str(task), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == ("<train><2d>", "<train><3d fullres; rm -rf />")[task]


@pytest.mark.parametrize(("count", "word"), [("", "--restart"), ("1", "--resume")])
def test_a_task_that_comes_back_from_the_queue_goes_on(tmp_path, count, word):
    file = tmp_path / "train.sbatch"
    text = script(tmp_path, commands=[("train", "2d", "--restart")])
    file.write_text(text.replace('"$@" &', "printf '<%s>' \"$@\" &"))
    variables = {"SLURM_ARRAY_TASK_ID": "0", "PATH": "/usr/bin:/bin"}

    done = subprocess.run(
        ["bash", file],
        env=variables | ({"SLURM_RESTART_COUNT": count} if count else {}),
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == f"<train><2d><{word}>"


def sbatch_that(folder, does):
    """Put an `sbatch` on the path that does what a shell line says."""
    command = folder / "sbatch"
    command.write_text(f"#!/bin/sh\n{does}\n")
    command.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize("answer", ["42", "42;cluster"])
def test_every_task_of_a_submitted_array_has_a_job_id(monkeypatch, tmp_path, answer):
    monkeypatch.setenv("PATH", sbatch_that(tmp_path, f"echo '{answer}'"), prepend=":")

    assert submit(tmp_path / "train.sbatch", 3) == ["42_0", "42_1", "42_2"]


def test_what_slurm_refuses_is_reported_with_its_reason(monkeypatch, tmp_path):
    refusing = "echo 'sbatch: error: Invalid partition' >&2; exit 1"
    monkeypatch.setenv("PATH", sbatch_that(tmp_path, refusing), prepend=":")

    with pytest.raises(EnvironmentFault, match=r"Slurm refuses the jobs: .* partition"):
        submit(tmp_path / "train.sbatch", 1)


@pytest.mark.parametrize(("restarts", "code"), [("0", 0), ("99", 0), ("100", 1)])
def test_a_task_whose_time_is_up_stops_and_goes_back_to_the_queue(
    tmp_path, restarts, code
):
    """The training ends at INT; `scontrol` notes what it is asked for."""
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    command.chmod(0o755)
    file = tmp_path / "train.sbatch"
    file.write_text(script(tmp_path, commands=[(sys.executable, "-c", STOPS)]))
    variables = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7"}

    done = subprocess.run(
        ["bash", file],
        env=os.environ
        | variables
        | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        | {"SLURM_RESTART_COUNT": restarts},
        check=False,
        timeout=60,
    )

    assert done.returncode == code
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == (
        "" if code else "requeue 7_0\n"
    )


def test_where_there_is_no_slurm_no_job_is_known(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert still_known(["1_0", "1_1"]) == set()


@pytest.mark.parametrize(
    "part",
    [
        {"time": "2 days"},
        {"gpus": -1},
        {"cpus": 0},
        {"options": ["--a b"]},
        {"options": ["qos=long"]},
        {"queue": "gpu"},
    ],
)
def test_a_request_without_sense_is_refused_with_its_place(part):
    content = {"dataset": {"id": 1, "name": "T"}, "labels": {"tibia": 1}}

    with pytest.raises(RecipeError, match=f"slurm.{next(iter(part))}"):
        recipe_from({**content, "slurm": part})


def test_what_a_cluster_is_asked_for_decides_about_no_case():
    content = {"dataset": {"id": 1, "name": "T"}, "labels": {"tibia": 1}}

    asked = recipe_from({**content, "slurm": {"partition": "gpu"}})

    assert asked.digest() == recipe_from(content).digest()
