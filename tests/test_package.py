"""Wheel, sdist, container and workflows: the package works outside its checkout."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import nnunet_bridge
from nnunet_bridge.core.version import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = ROOT / ".github" / "workflows"


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Build sdist and wheel; return their folder."""
    out = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "hatchling", "build", "-d", str(out))
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return out


def files_of(archive):
    if archive.suffix == ".whl":
        return set(zipfile.ZipFile(archive).namelist())
    with tarfile.open(archive) as tar:
        return {name.partition("/")[2] for name in tar.getnames()}


def test_the_wheel_holds_the_whole_package_and_nothing_else(dist):
    (wheel,) = dist.glob("*.whl")
    package = Path(nnunet_bridge.__file__).parent
    ours = {
        f"nnunet_bridge/{file.relative_to(package).as_posix()}"
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    recipes = {
        f"nnunet_bridge/{file.relative_to(ROOT).as_posix()}"
        for file in (ROOT / "datasets").rglob("*")
        if file.is_file()
    }

    found = {n for n in files_of(wheel) if ".dist-info/" not in n}
    assert found == ours | recipes
    assert wheel.stat().st_size < 2_000_000


def test_the_sdist_holds_the_tests_and_no_data(dist):
    (sdist,) = dist.glob("*.tar.gz")
    found = files_of(sdist)

    assert {"pyproject.toml", "LICENSE", "Makefile", "tests/test_package.py"} <= found
    assert not [f for f in found if f.endswith((".dcm", ".nii.gz", ".pth", ".zip"))]


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """Install the wheel where the checkout is not; return its folder of commands.

    Only the package itself is installed. The libraries are those of this environment,
    by a `.pth`: that they install as well was tried by hand (docs/how-to/install.md).
    """
    place = tmp_path_factory.mktemp("empty") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    (wheel,) = dist.glob("*.whl")
    python = str(place / "bin" / "python")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps")
    subprocess.run([*pip, "--no-index", wheel], check=True, capture_output=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return place / "bin"


def answer(installed, *words, folder, **more):
    """Run a command of the environment outside the checkout."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    variables = kept | more
    command = [installed / words[0], *words[1:]]
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_command_is_that_of_the_wheel(installed, tmp_path):
    where = "import nnunet_bridge; print(nnunet_bridge.__file__)"

    assert __version__ in answer(
        installed, "nnunet-bridge", "--version", folder=tmp_path
    )
    assert "predict" in answer(installed, "nnunet-bridge", "--help", folder=tmp_path)
    info = answer(installed, "nnunet-bridge", "info", folder=tmp_path)
    assert "Faults: " in info  # a table that is package data
    place = answer(installed, "python", "-c", where, folder=tmp_path).strip()
    assert Path(place).is_relative_to(installed.parent)


@pytest.mark.long
@pytest.mark.training
def test_the_demo_runs_from_the_wheel(installed, tmp_path):
    few = {"PYTHONPATH": str(ROOT / "tests" / "few_steps")}
    text = answer(installed, "nnunet-bridge", "demo", "here", folder=tmp_path, **few)

    assert "index.html" in text
    assert list(tmp_path.glob("here/**/comparison/index.html"))


def test_the_extras_are_gui_cpu_and_dev():
    assert set(PROJECT["optional-dependencies"]) == {"gui", "cpu", "dev"}


def test_the_constraints_have_a_version_of_each_dependency_and_no_address():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()[1:]
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in lines}
    extras = [
        need for needs in PROJECT["optional-dependencies"].values() for need in needs
    ]
    wanted = {
        re.split(r"[<>=!~\[]", need)[0].lower().replace("_", "-")
        for need in (*PROJECT["dependencies"], *extras)
    }

    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines)
    assert wanted - pinned == {"nnunet-bridge"}


def steps(workflow):
    content = yaml.safe_load((WORKFLOWS / workflow).read_text("utf-8"))
    (job,) = content["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("workflow", ["ci.yml", "release.yml"])
def test_a_workflow_runs_what_runs_everywhere(workflow):
    assert ".ci/run" in steps(workflow)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = [step.split()[1] for step in steps(workflow) if step.startswith("make ")]
    assert all(f"\n{target}:" in makefile for target in targets)


def test_the_container_follows_our_few_rules():
    """No engine runs here: the file is read, not built."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    words = [line.split() for line in lines if line[:1].isalpha()]
    order = [line[0] for line in words]
    copied = [
        word.rstrip("/") for line in words if line[0] == "COPY" for word in line[1:-1]
    ]
    kept = (ROOT / ".dockerignore").read_text("utf-8").splitlines()

    assert re.fullmatch(r"FROM python:3\.\d+-slim", " ".join(words[0]))
    assert "ADD" not in order
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert not {"root", "0"} & {line[1] for line in words if line[0] == "USER"}
    assert "--no-cache-dir" in text
    assert "rm -rf /var/lib/apt/lists" in text
    assert all((ROOT / name).exists() and f"!{name}" in kept for name in copied)


def test_the_citation_has_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))

    assert citation["version"] == __version__
    assert {"title", "authors", "message", "cff-version"} <= citation.keys()
