"""Python files that lie beside the data are never loaded (S13).

A folder gets a module for every name that Python's library and all installed packages
have; each leaves a mark when it is loaded. Every command starts there.
"""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from small_study import LAB

from nnunet_bridge.cli import main
from nnunet_bridge.nnunet.commands import PYTHON, Resources, nnunet_environment
from nnunet_bridge.nnunet.names import Workspace
from nnunet_bridge.pipeline.doctor import examine

COMMAND = (str(Path(sys.executable).with_name("nnunet-bridge")),)
AS_MODULE = (sys.executable, "-m", "nnunet_bridge")
BEFORE_OURS = {
    *("importlib", "warnings", "contextlib", "collections", "keyword", "operator"),
    *("reprlib", "functools", "types", "threading", "nnunet_bridge"),
}
"""What `python -m` loads from the current folder before it loads the package."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Return a folder of modules that leave a mark, and the folder of the marks."""
    folder, marks = (tmp_path_factory.mktemp(name) for name in ("data", "marks"))
    installed = (name.partition(".")[0] for name in metadata.packages_distributions())
    names = {*sys.stdlib_module_names, *installed, "usercustomize", "sitecustomize"}
    for name in filter(str.isidentifier, names - {"nnunet_bridge"}):
        mark = f"open({str(marks / name)!r}, 'w').close()\n"
        (folder / f"{name}.py").write_text(mark)
    for name in ("nnunetv2", "torch"):  # a package wins over a module of its name
        (folder / name).mkdir()
        (folder / f"{name}.py").rename(folder / name / "__init__.py")
    assert {"torch", "json", "numpy", "random", "pydicom", "nnunetv2"} < names
    return folder, marks


def started(hostile, words, *, environment=None):
    """Run a command in the folder; return its exit code after a look at the marks."""
    folder, marks = hostile
    variables = {**os.environ, **(environment or {})}
    variables.pop("PYTHONSAFEPATH", None)
    done = subprocess.run(
        list(map(str, words)),
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    loaded = sorted(mark.name for mark in marks.iterdir())
    for mark in marks.iterdir():
        mark.unlink()
    assert loaded == [], f"{words[:6]} loaded modules from the current folder"
    return done


def quick_calls(lab, out):
    """Return a call of every command that starts no other process, or fails before."""
    study, work = lab / "study", ("-w", lab / "work")
    labels = lab / "work" / "nnUNet_raw" / LAB / "labelsTr"
    scan = next((study / "Raw DICOM MRI Scans").iterdir())
    return {
        "doctor": (),
        "info": (),
        "describe": (LAB, *work),
        "results": (out, "-o", out / "tables"),
        "init": (study, "-o", out / "new.toml"),
        "check": (study, "-r", study / "dataset.toml", *work),
        "convert": (study, "-r", study / "dataset.toml", *work),
        "image": (scan, "-o", out / "image.nii.gz"),
        "status": (LAB, *work),
        "select": (LAB, *work),
        "audit": (LAB, "-o", out / "audited", *work),
        "clean": (labels, out / "cleaned"),
        "score": (labels, labels, "-o", out / "scores"),
        "mesh": (labels, "-o", out / "meshes"),
        "view": (scan, "-o", out / "view.png"),
        "compare": (LAB, "-o", out / "compared", *work),
        "run": (study / "dataset.toml", "-r", study / "dataset.toml", *work),
        "demo": (study / "dataset.toml",),
        "gui": ("--port", "0", "--no-browser", "--root", out / "absent"),
    }


SMOKE = ("-c", "2d", "-f", "0", "--budget", "smoke")
END_BEFORE = {"select": 3, "compare": 3, "run": 3, "demo": 2, "gui": 2, "results": 3}
"""Commands that cannot do their work here, and their exit code."""

START_OTHERS = {"plan", "train", "predict", "pack", "unpack"}


@pytest.mark.training
def test_S13_no_command_loads_a_module_from_the_current_folder(hostile, lab, tmp_path):
    calls = quick_calls(lab, tmp_path)

    assert {*calls, *START_OTHERS} == main.commands.keys(), "a command is missing"
    for name, words in calls.items():
        done = started(hostile, [*COMMAND, name, *words])
        assert done.returncode in (0, END_BEFORE.get(name, 0)), done.stderr


@pytest.mark.training
@pytest.mark.usefixtures("few_steps")
def test_S13_nothing_that_a_command_starts_loads_one_either(hostile, lab, tmp_path):
    study, work = lab / "study", ("-w", lab / "work")
    scan = next((study / "Raw DICOM MRI Scans").iterdir())
    train = ("train", LAB, *SMOKE, *work)
    model = tmp_path / "model.zip"
    (tmp_path / "other").mkdir()
    for words in (
        ("plan", LAB, "-c", "2d", "--force", *work),
        (*train, "--on", "script"),
        train,
        ("predict", LAB, scan, "-o", tmp_path / "predicted", *work),
        ("pack", LAB, "-o", model, *work),
        ("unpack", model, "-w", tmp_path / "other"),
    ):
        assert words[0] in START_OTHERS
        done = started(hostile, [*COMMAND, *words])
        assert done.returncode == 0, done.stderr

    script = lab / "work" / "runs" / LAB / "train.sbatch"
    done = started(hostile, ["bash", script], environment={"SLURM_ARRAY_TASK_ID": "0"})

    assert done.returncode == 0, done.stderr
    first = Path(*COMMAND).read_text().partition("\n")[0]
    assert f"{first.removeprefix('#!')} -P -m nnunet_bridge" in script.read_text()
    assert "export PYTHONSAFEPATH=1\n" in script.read_text()


def test_S13_python_m_removes_the_current_folder_before_it_loads_more(hostile):
    folder, _ = hostile
    for name in BEFORE_OURS:
        (folder / f"{name}.py").unlink(missing_ok=True)

    # Not with `few_steps`, whose `sitecustomize` imports the package before all this.
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join(one for one in entries if Path(one).name != "few_steps")

    done = started(
        hostile, [*AS_MODULE, "doctor", "-w", "."], environment={"PYTHONPATH": path}
    )

    assert done.returncode == 0, done.stderr


def test_S13_spawned_workers_load_none(hostile):
    program = (
        "import multiprocessing, json\n"
        "with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
        "    print(pool.map(json.dumps, [1, 2]))\n"
    )
    environment = environment_of({"PYTHONPATH": os.environ.get("PYTHONPATH", "")})

    done = started(hostile, [*PYTHON, "-c", program], environment=environment)

    assert done.stdout == "['1', '2']\n", done.stderr


def environment_of(inherited):
    nowhere = Workspace(*map(Path, "abcd"))
    return nnunet_environment(nowhere, Resources("cpu", 1, 1, 0), inherited)


@pytest.mark.parametrize("path", [":", ":/lib", "/lib:", "/lib::/more", "/lib"])
def test_S13_an_empty_entry_of_pythonpath_is_not_passed_on(path):
    passed = environment_of({"PYTHONPATH": path})["PYTHONPATH"]

    assert "" not in passed.split(":") or passed == ""
    assert passed.replace(":", "") == path.replace(":", "")


@pytest.mark.parametrize(
    ("path", "ok"), [("", True), ("/lib", True), ("/lib:", False), (".:/lib", False)]
)
def test_S13_doctor_names_a_path_that_leads_to_the_current_folder(
    monkeypatch, tmp_path, path, ok
):
    monkeypatch.setenv("PYTHONPATH", path)

    checks = {check.name: check for check in examine(tmp_path).checks}

    assert checks["PYTHONPATH"].ok is ok
    assert ("S13" in checks["PYTHONPATH"].detail) is not ok
