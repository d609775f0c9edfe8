"""Every command of the documentation is valid, and runs.

The commands of a page run in one folder, block after block, in the process of the test.
Those that need no trained model run in every test; the others, and what stands before
them on their page, run in the long form with two models that have learnt nothing.
"""

import contextlib
import re
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import rich_click as click
from command import bridge
from small_study import LAB_PATIENTS, SCANS, four_patients

from nnunet_bridge.cli import main, options

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(?:bash|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAM = "nnunet-bridge"
INLINE = re.compile(r"(?<!`)`(nnunet-bridge [a-z][^`]*)`(?!`)")
NEED_A_MODEL = {"demo", "run", "train", "select", "predict", "pack", "unpack"}
BEFORE_PLANNING = {"init", "check", "convert"}
RUN_ELSEWHERE = {
    "demo": "stories/test_demo.py",
    "gui": "stories/test_gui_in_chromium.py",
    "train": "stories",
    "--watch": "cli/test_status.py: it does not end by itself",
    "--model": "stories/test_report_models.py, stories/test_trainer_of_others.py",
    "--slices": "pipeline/prediction: the page means a scan of the whole body",
    "--from-mm": "as --slices",
}
"""Words of commands that the tests of this module leave out -> where they run."""


def shell_lines(page):
    """Return the words of every line of the shell blocks, without comments."""
    lines = "".join(BLOCK.findall(page.read_text("utf-8"))).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def our_commands(page):
    return [words for program, *words in shell_lines(page) if program == PROGRAM]


def runs(words):
    """Whether a command needs no trained model, and ends by itself."""
    compares_models = words[0] == "compare" and "--scores" not in words
    waits = words[0] == "gui" or {"--tune", "--watch"} & {*words}
    return not (words[0] in NEED_A_MODEL | {"doctor"} or waits or compares_models)


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_is_valid(page, monkeypatch):
    for kind in (click.Path, options._Existing):  # the files of a reader are not here
        monkeypatch.setattr(kind, "convert", lambda _, value, *__: Path(value))

    for name, *arguments in our_commands(page):
        main.commands[name].make_context(name, arguments)
    for inline in INLINE.findall(page.read_text("utf-8")):
        _, name, *arguments = shlex.split(inline)
        with contextlib.suppress(click.MissingParameter):  # `nnunet-bridge train`
            main.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_scripts_and_make_targets_of_a_page_exist(page):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)

    for program, *words in shell_lines(page):
        if program == "python" and words[0].endswith(".py"):
            assert (ROOT / words[0]).is_file()
        if program == "make":
            assert words[0] in targets


@pytest.fixture(scope="module")
def desk(planned_lab, tmp_path_factory):
    """Return a folder with the files that the pages name."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(planned_lab / "work", folder / "planned")
    for study in ("my_study", "study"):
        four_patients(folder / study)
    for scan in ("SCAN_FOLDER", "scan"):
        shutil.copytree(next((folder / "study" / SCANS).iterdir()), folder / scan)
    raw = next((folder / "planned" / "nnUNet_raw").iterdir())
    shutil.copy(raw / "labelsTr" / "msk_001.nii.gz", folder / "labels.nii.gz")
    for labels in ("labelsTr", "labelsTs", "references", "rater_b", "out", "2d"):
        shutil.copytree(raw / "labelsTr", folder / labels)
        shutil.copy(raw / "dataset.json", folder / labels)
    _label_as_another_tool(raw / "labelsTr", folder)
    bridge("score", folder / "2d", raw / "labelsTr", "-o", folder / "2d")
    cases = [f"msk_{n:03d},{n}" for n in range(1, LAB_PATIENTS + 1)]
    (folder / "patients.csv").write_text("\n".join(["case,patient", *cases]))
    return folder


def _label_as_another_tool(labels, folder):
    """Write the labels with the values of the example, and the example's map."""
    page = (ROOT / "docs" / "how-to" / "compare-with-another-tool.md").read_text(
        "utf-8"
    )
    (folder / "theirs.toml").write_text(
        re.search(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]
    )
    (folder / "theirs").mkdir()
    for file in labels.iterdir():
        image = nib.load(file)
        values = np.array([0, 12, 75], np.uint8)[np.asarray(image.dataobj)]
        nib.save(nib.Nifti1Image(values, image.affine), folder / "theirs" / file.name)


@pytest.mark.training  # the planned dataset
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(map(runs, our_commands(page)))], ids=name_of
)
def test_the_commands_of_a_page_run(page, desk, tmp_path, monkeypatch):
    shutil.copytree(desk, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for words in filter(runs, our_commands(page)):
        work = str(tmp_path / ("new" if words[0] in BEFORE_PLANNING else "planned"))
        here = [work if word == "/data/work" else word for word in words]
        bridge(*here, environment={"NNUNET_BRIDGE_WORKSPACE": work})


def needs_a_model(words):
    return not runs(words) and words[0] != "doctor" and not RUN_ELSEWHERE.keys() & words


@pytest.fixture(scope="module")
def trained_desk(desk, few_steps, tmp_path_factory):  # noqa: ARG001 - few_steps acts
    """Return such a folder with new patients and two trained models."""
    folder = tmp_path_factory.mktemp("trained") / "desk"
    shutil.copytree(desk, folder)
    for scan in ("new_patient", "whole_body"):
        shutil.copytree(folder / "scan", folder / scan)
    words = ("--budget", "smoke", "-f", "0", "-f", "1", "-w", folder / "planned")
    bridge("train", "1", *words)
    return folder


@pytest.mark.long
@pytest.mark.training
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(map(needs_a_model, our_commands(page)))],
    ids=name_of,
)
def test_the_commands_of_a_page_run_with_a_model(
    page, trained_desk, tmp_path, monkeypatch
):
    shutil.copytree(trained_desk, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    work = tmp_path / "planned"
    for words in filter(needs_a_model, our_commands(page)):
        if words[0] == "unpack":  # at the colleague who is sent the model
            work = tmp_path / "received"
            work.mkdir()
        here = [str(work) if word == "/data/work" else word for word in words]
        bridge(*here, environment={"NNUNET_BRIDGE_WORKSPACE": str(work)})
