"""nnU-Net's process: what is called, and that nothing of it outlives us."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_model import NOWHERE

from nnunet_bridge.core.errors import EnvironmentFault, NnUNetError
from nnunet_bridge.nnunet.commands import (
    NnUNetProcess,
    Resources,
    nnunet_environment,
    predict_command,
    train_command,
    trusting,
)
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.machine import Machine, chosen_device
from nnunet_bridge.nnunet.names import PARENT_VARIABLE, Dataset, Run, Workspace

DATASET = Dataset(NOWHERE, "Dataset001_Tibia")
RUN = Run(DATASET, "2d", 0, "nnUNetTrainer", "nnUNetPlans")
CPU = Resources("cpu", threads=1, workers=1, loaders=0)
LAPTOP = Machine(cores=2, free_memory_bytes=8 << 30, gpus=0)
SERVER = Machine(cores=32, free_memory_bytes=256 << 30, gpus=4)


def python(program):
    return [sys.executable, "-c", program]


def run(program, log_file, task):
    process = NnUNetProcess(python(program), os.environ, log_file)
    Host(LAPTOP).finish(process, task)


def lives(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")")[-1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_training_is_called_with_all_that_names_it():
    command = train_command(RUN, CPU, resume=True)

    assert command == [
        *(sys.executable, "-P", "-m", "nnunet_bridge.nnunet.launch", "train"),
        *("--threads", "1", "--workers", "1"),
        *("--dataset", "Dataset001_Tibia", "--configuration", "2d", "--fold", "0"),
        *("--trainer", "nnUNetTrainer", "--plans", "nnUNetPlans"),
        *(
            "--device",
            "cpu",
            "--gpus",
            "1",
            "--events",
            str(RUN.events_file),
            "--resume",
        ),
    ]


def test_every_fold_of_a_prediction_is_named():
    command = predict_command(
        {Path("flat"): [0, 1], Path("deep"): ["all"]},
        Path("in"),
        Path("out"),
        CPU,
        progress_file=Path("progress"),
    )

    assert command[-7:] == ["--member", "flat", "0", "1", "--member", "deep", "all"]


def test_two_trainings_on_two_cores_get_one_thread_each():
    assert Host(LAPTOP).share(2, "cpu") == Resources("cpu", 1, 1, loaders=0)


def test_beside_a_gpu_the_cores_prepare_the_data():
    resources = Host(SERVER).share(1, "cuda")

    assert resources.loaders == 12
    assert resources.workers > 1


def test_cores_and_workers_are_divided_among_runs_and_gpus():
    host = Host(replace(SERVER, cores=16))
    one, two = (host.share(n, "cuda") for n in (1, 2))

    assert (one.loaders, two.loaders) == (12, 7)
    assert (one.workers, two.workers) == (8, 4)


def test_a_process_sees_the_gpus_that_are_its_own_and_compiles_where_it_can(tmp_path):
    workspace = Workspace.at(tmp_path, environment={})
    gpu = Resources("cuda", 0, 1, loaders=1, visible="GPU-bb")

    def variables(**inherited):
        return nnunet_environment(workspace, gpu, {"PATH": "/nowhere", **inherited})

    assert variables(CUDA_VISIBLE_DEVICES="0,1")["CUDA_VISIBLE_DEVICES"] == "GPU-bb"
    assert variables()["nnUNet_compile"] == "false"
    assert variables(nnUNet_compile="true")["nnUNet_compile"] == "true"
    assert "CUDA_VISIBLE_DEVICES" not in nnunet_environment(workspace, CPU, {})


def test_the_environment_holds_what_was_found_to_matter(tmp_path):
    workspace = Workspace.at(tmp_path, environment={})

    environment = nnunet_environment(
        workspace, CPU, {"HOME": "/h", "nnUNet_compile": "1", "nnUNet_raw": "/old"}
    )

    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["nnUNet_n_proc_DA"] == "0"
    assert environment["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    assert environment["nnUNet_raw"] == str(workspace.raw_dir)
    assert environment["HOME"] == "/h"
    assert "nnUNet_compile" not in environment


def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(EnvironmentFault, match="shows no NVIDIA GPU") as caught:
        chosen_device("cuda", LAPTOP, None)

    assert caught.value.exit_code == 5
    assert chosen_device("auto", LAPTOP, None) == ("cpu", "")
    assert chosen_device("auto", SERVER, None) == ("cuda", "")


def test_a_failure_is_reported_with_the_relevant_line(tmp_path):
    program = "print('Predicting msk_001'); raise RuntimeError('no such plans')"

    with pytest.raises(NnUNetError, match=r"plan it.*RuntimeError: no such plans"):
        run(program, tmp_path / "log", "plan it")

    assert "Predicting msk_001" in (tmp_path / "log").read_text()


def test_an_older_log_is_kept_and_not_mistaken_for_this_call(tmp_path):
    (tmp_path / "log").write_text("ValueError: of yesterday\n")

    with pytest.raises(NnUNetError, match="KeyError: 'today'"):
        run("{}['today']", tmp_path / "log", "task")

    assert "of yesterday" in (tmp_path / "log").read_text()


def test_a_killed_process_is_reported_as_out_of_memory(tmp_path):
    program = "import os; os.kill(os.getpid(), 9)"

    with NnUNetProcess(python(program), os.environ, tmp_path / "log") as process:
        assert wait_until(lambda: process.ended)

        with pytest.raises(NnUNetError, match="memory ran out"):
            process.check("task")


PARENT_AND_WORKER = (
    "import subprocess, sys, time;"
    "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    "print(worker.pid, flush=True); time.sleep(60)"
)


def test_leaving_the_block_ends_the_process_and_its_workers(tmp_path):
    with NnUNetProcess(
        python(PARENT_AND_WORKER), os.environ, tmp_path / "log"
    ) as process:
        assert wait_until(lambda: process.output().strip().isdigit())
        worker = int(process.output())
        assert lives(worker)

    assert wait_until(lambda: not lives(worker))
    assert process.ended


def test_workers_are_gone_soon_after_their_grandparent_was_killed(tmp_path):
    """The launcher watches its parent: kill -9 of ours leaves nothing behind."""
    ours = (
        "import sys, time; from pathlib import Path;"
        "from nnunet_bridge.nnunet.commands import NnUNetProcess;"
        "import os;"
        f"launch = [sys.executable, '-c', {_launcher_with_a_worker()!r}];"
        f"p = NnUNetProcess(launch, os.environ, Path({str(tmp_path / 'log')!r}));"
        "time.sleep(60)"
    )
    parent = subprocess.Popen(python(ours))
    log = tmp_path / "log"
    assert wait_until(lambda: log.exists() and len(log.read_text().split()) == 2, 60)
    launcher, worker = map(int, log.read_text().split())

    parent.send_signal(signal.SIGKILL)
    parent.wait()

    assert wait_until(lambda: not lives(launcher) and not lives(worker), 5)


def test_a_launcher_whose_parent_was_killed_while_it_imported_ends_at_once():
    """Then it is somebody else's child already when it begins to watch."""
    gone = subprocess.Popen(python(""))
    gone.wait()
    environment = {**os.environ, PARENT_VARIABLE: str(gone.pid)}

    launcher = subprocess.Popen(
        python(_launcher_with_a_worker()),
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )

    assert launcher.wait(timeout=60) == -signal.SIGKILL


@pytest.mark.training
@pytest.mark.parametrize("after_s", [0.3, 1.0, 1.6])
def test_nnunet_ends_with_its_parent_while_it_imports_torch(after_s):
    """It would stay for two minutes: the time that it takes depends on the machine."""
    launcher_program = (
        "import time; from nnunet_bridge.nnunet import launch;"
        "launch.main(['gpu']); time.sleep(120)"
    )
    program = (
        "import os, pathlib, sys, time;"
        "from nnunet_bridge.nnunet.commands import NnUNetProcess;"
        f"words = [sys.executable, '-c', {launcher_program!r}];"
        "p = NnUNetProcess(words, os.environ, pathlib.Path(os.devnull));"
        "print(p._process.pid, flush=True); time.sleep(60)"
    )
    words = python(program)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        launcher = int(parent.stdout.readline())
        time.sleep(after_s)
        parent.kill()

    assert wait_until(lambda: not lives(launcher), 30)


def _launcher_with_a_worker():
    """A process that prepares itself as the launcher does, without torch."""
    return (
        "import sys, types, os, subprocess, time;"
        "sys.modules['torch'] = types.ModuleType('torch');"
        "from nnunet_bridge.nnunet.parent import end_with_parent;"
        "end_with_parent();"
        "w = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(os.getpid(), w.pid, flush=True); time.sleep(60)"
    )


def test_trainers_of_others_are_found_only_by_a_process_that_may_run_their_code():
    inherited = {"nnUNet_extTrainer": "/lab"}

    environment = nnunet_environment(NOWHERE, CPU, inherited)

    assert "/lab" not in environment["nnUNet_extTrainer"]
    assert trusting("LabTrainer") == ["--trusted-trainer", "LabTrainer"]
    assert trusting("") == []
