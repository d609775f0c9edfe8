"""No file is written through a link in its place; links to folders hold (S11)."""

import ast
import os
import shutil
from pathlib import Path

import pytest
from command import bridge
from small_study import LAB, RECIPE, patient
from stand_in import StandIn, image_with_bone
from tiny_model import DATASET, HARMLESS, run_of, write_model

from nnunet_bridge.cli import main
from nnunet_bridge.core.errors import EnvironmentFault, SecurityError
from nnunet_bridge.formats.files import (
    is_locked,
    only_writer,
    open_to_write,
    refuse_links,
    whole_file,
    write_text,
)
from nnunet_bridge.nnunet.commands import NnUNetProcess
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images

PACKAGE = Path(__file__).parents[2] / "nnunet_bridge"
PRECIOUS = "{}\n"


@pytest.fixture
def linked(tmp_path):
    """Return a file of somebody, and a link to it where we write."""
    target, link = tmp_path / "somebody" / "precious", tmp_path / "ours" / "out.txt"
    for file in (target, link):
        file.parent.mkdir()
    target.write_text(PRECIOUS)
    link.symlink_to(target)
    return target, link


def lock(file):
    with only_writer(file, "the dataset"):
        pass


def log(file):
    with NnUNetProcess(["true"], os.environ, file):
        pass


IN_PLACE = {
    "lock": lock,
    "log": log,
    "append": lambda file: open_to_write(file, "ab").close(),
    "write": lambda file: open_to_write(file).close(),
    "another program": lambda file: refuse_links(file.parent),
}


@pytest.mark.parametrize("write", IN_PLACE.values(), ids=IN_PLACE)
@pytest.mark.parametrize("there", [True, False])
def test_S11_a_file_written_in_place_is_not_written_through_a_link(
    linked, write, there
):
    target, link = linked
    if not there:
        target.unlink()

    with pytest.raises(SecurityError, match="a link lies there") as refused:
        write(link)

    assert (refused.value.code, refused.value.exit_code) == ("S11", 6)
    assert target.exists() is there
    assert not there or target.read_text() == PRECIOUS


@pytest.mark.parametrize("write", IN_PLACE.values(), ids=IN_PLACE)
def test_S11_nor_through_a_second_name_of_another_file(linked, write):
    target, link = linked
    link.unlink()
    link.hardlink_to(target)

    with pytest.raises(SecurityError, match="a link lies there") as refused:
        write(link)

    assert (refused.value.code, target.read_text()) == ("S11", PRECIOUS)


@pytest.mark.parametrize("there", [True, False])
def test_S11_a_look_at_a_lock_opens_no_link_and_waits_for_no_pipe(linked, there):
    target, link = linked
    if not there:
        target.unlink()
    os.mkfifo(link.with_name("pipe"))

    with pytest.raises(SecurityError, match="a link lies there"):
        is_locked(link)

    assert not is_locked(link.with_name("pipe"))
    assert not is_locked(link.with_name("nothing"))


def test_S11_a_whole_file_replaces_the_link_and_leaves_its_target(linked):
    target, link = linked

    write_text(link, "new\n")

    assert (target.read_text(), link.read_text()) == (PRECIOUS, "new\n")
    assert not link.is_symlink()


def test_S11_the_temporary_file_of_a_whole_one_is_new_and_ours(tmp_path):
    with whole_file(tmp_path / "out") as temporary:
        assert temporary.is_file()
        with pytest.raises(FileExistsError):
            temporary.touch(exist_ok=False)
        open_to_write(temporary).close()


def test_F06_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(EnvironmentFault, match="a pipe or device lies there"):
        open_to_write(tmp_path / "pipe")


def test_S11_folders_that_their_owner_linked_are_followed_once(tmp_path):
    scratch, ours = tmp_path / "scratch", tmp_path / "results"
    scratch.mkdir()
    ours.symlink_to(scratch)
    (scratch / "again").symlink_to(scratch)
    (scratch / "checkpoint_best.pth").symlink_to(tmp_path / "elsewhere")

    refuse_links(ours, but=("checkpoint_*.pth",))
    write_text(ours / "scores.csv", "a\n")

    assert (scratch / "scores.csv").read_text() == "a\n"
    (scratch / "debug.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SecurityError, match=r"debug\.json"):
        refuse_links(ours, but=("checkpoint_*.pth",))


# Every command, with a link in the place of every file that it writes.


def study_of(root):
    study = root / "study"
    for index in (1, 2):
        patient(study, index, f"{index}A")
    (study / "dataset.toml").write_text(RECIPE % "")
    return study


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a folder with a study, its dataset, and a model that predicts nothing."""
    root = tmp_path_factory.mktemp("prepared")
    study_of(root)
    (root / "work").mkdir()
    study = root / "study"
    bridge("convert", study, "-r", study / "dataset.toml", "-w", root / "work")
    write_model(run_of(Workspace.at(root / "work", environment={})), HARMLESS)
    return root


LABELS = f"work/nnUNet_raw/{LAB}/labelsTr"
SCAN = "study/Raw DICOM MRI Scans/1_AutoBindWATER_650_1A"
WORK = ("-w", "work")
RECIPE_FILE = ("-r", "study/dataset.toml")
CALLS = {
    "init": ("study", "-o", "study/new.toml"),
    "check": ("study", *RECIPE_FILE, *WORK),
    "convert anew": ("study", *RECIPE_FILE, "-w", "new"),
    "convert": ("study", *RECIPE_FILE, *WORK),
    "convert --force": ("study", "--force", *RECIPE_FILE, *WORK),
    "image": (SCAN, "-o", "out/image.nii.gz"),
    "audit": (LAB, "-o", "out", *WORK),
    "status": (LAB, *WORK),
    "clean": (LABELS, "out"),
    "score": (LABELS, LABELS, "-o", "out"),
    "mesh": (LABELS, "-o", "out"),
    "view": (SCAN, "-o", "out/view.png"),
}
EXPECTED = {"init": (0, 2)}
"""`init` overwrites nothing, a link neither."""

ELSEWHERE = {
    "plan": "with every file that nnU-Net writes, below",
    "train": "likewise",
    "compare": "a page and tables, by `write_text` (the rule below)",
    "select": "one JSON file, by `write_json` (the rule below)",
    "pack": "whole_file",
    "unpack": "a new folder, renamed",
    "run": "made of the others",
    "demo": "made of the others",
    "doctor": "writes nothing",
    "describe": "writes nothing",
    "info": "writes nothing",
    "results": "whole_file",
    "gui": "runs the others",
}


def predict():
    """Predict by brightness, as no network was ever trained here."""
    images = [image_with_bone(Path("leg.nii.gz"), 20, 30)]
    options = PredictionOptions(device="cpu", meshes=True)
    dataset = Dataset(Workspace.at(Path("work"), environment={}), DATASET)
    predict_images(dataset, images, Path("out"), options, network=StandIn())


CALLS["predict"] = predict


def run(name):
    """Run a command in the current folder; return its exit code and output."""
    if callable(CALLS[name]):
        CALLS[name]()
        return 0, ""
    command, *options = name.removesuffix(" anew").split()
    done = bridge(command, *CALLS[name], *options, check=False)
    return done.exit_code, done.output


def files_in(root):
    return {
        file.relative_to(root): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file() and not file.is_symlink()
    }


def test_every_command_is_tested_with_links_here_or_for_a_reason():
    tested = {name.partition(" ")[0] for name in CALLS}

    assert tested.isdisjoint(ELSEWHERE)
    assert {*tested, *ELSEWHERE} == main.commands.keys()


@pytest.mark.parametrize("name", CALLS)
def test_S11_no_command_changes_the_target_of_a_link_at_any_of_its_outputs(
    name, prepared, tmp_path, monkeypatch
):
    def fresh(number):
        root = tmp_path / f"{number}" / "root"
        shutil.copytree(prepared, root)
        for folder in ("out", "new"):
            (root / folder).mkdir()
        monkeypatch.chdir(root)
        return root

    root = fresh("plain")
    before = files_in(root)
    run(name)
    after = files_in(root)
    written = [file for file in after if before.get(file) != after[file]]
    locks = [file for file in after if file.suffix == ".lock"]
    for number, output in enumerate(sorted({*written, *locks})):
        root = fresh(number)
        target = root.parent / "target"
        target.write_text(PRECIOUS)
        (root / output).parent.mkdir(parents=True, exist_ok=True)
        (root / output).unlink(missing_ok=True)
        (root / output).symlink_to(target)

        code, message = run(name)

        assert target.read_text() == PRECIOUS, output
        # A planted input, such as a manifest, may be refused as damaged instead.
        assert code in EXPECTED.get(name, (0, 3, 4, 5, 6)), message
        assert code != 6 or "a link lies there" in message
    assert written or name in ("check", "status", "convert")


# What nnU-Net itself writes, planted all at once: it is not even started.

MODEL = "BridgeSmokeTrainer__nnUNetPlansSmoke__2d"
TRAIN = ("train", LAB, "-c", "2d", "-f", "0", "--budget", "smoke", "--device", "cpu")
AT_PLANNING = (
    *("nnUNetResEncUNetMPlans.json", "dataset.json", "dataset_fingerprint.json"),
    *("gt_segmentations/msk_001.nii.gz", "nnUNetPlans_3d_fullres/msk_001.b2nd"),
)
AT_TRAINING = (
    *("plans.json", "dataset.json", "fold_0/debug.json", "fold_0/progress.png"),
    *("fold_0/checkpoint_latest.pth.partial", "fold_0/validation/summary.json"),
)


@pytest.mark.parametrize(
    ("folder", "names", "words"),
    [
        (
            f"nnUNet_preprocessed/{LAB}",
            AT_PLANNING,
            ("plan", LAB, "--planner", "resenc-m"),
        ),
        (
            f"nnUNet_results/{LAB}/{MODEL}",
            AT_TRAINING,
            TRAIN,
        ),
        (
            f"runs/{LAB}/{MODEL}/fold_0",
            ("train.log", "events.jsonl", "lock"),
            TRAIN,
        ),
        (f"runs/{LAB}/slurm", ("1_0.log",), ("train", LAB, "--on", "script")),
    ],
)
@pytest.mark.training
@pytest.mark.usefixtures("few_steps")
def test_S11_nnunet_is_not_started_where_it_would_write_through_a_link(
    lab, tmp_path, folder, names, words
):
    target = tmp_path / "target"
    target.write_text(PRECIOUS)
    for name in names:
        link = lab / "work" / folder / name
        kept = link.read_bytes() if link.is_file() else None
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)

        done = bridge(*words, "-w", lab / "work", check=False)

        link.unlink(missing_ok=True)
        if kept is not None:
            link.write_bytes(kept)
        assert target.read_text() == PRECIOUS, name
        if done.exit_code == 3:  # what was not planned here is not touched at all
            assert "[N11]" in done.output
            continue
        assert done.exit_code == 6, done.output
        assert "a link lies there" in done.output


# The rule of the house: writers in place go through `open_to_write`.

ALLOWED = {
    ("cli/streams.py", "prepare_streams", "os.open"): "the null device",
    ("cli/streams.py", "prepare_streams", "open"): "the null device",
    ("cli/streams.py", "say", "os.open"): "the null device",
    ("formats/files.py", "_opened", "open"): "it is the function itself",
    ("formats/files.py", "only_writer", "FileLock"): "opens with O_NOFOLLOW",
    ("formats/manifest.py", "_make_key", "os.open"): "O_EXCL follows no link",
    ("formats/archive.py", "write_archive", "ZipFile"): "a stream of `open_to_write`",
    ("formats/archive.py", "write_archive", "archive.open"): "an entry of that zip",
    ("formats/dicom/segmentation.py", "write_dicom_seg", "save_as"): "a stream",
    ("formats/dicom/write.py", "write_series", "save_as"): "a stream",
    ("formats/pictures.py", "data_uri", "save"): "into memory",
    ("formats/preview.py", "_save", "save"): "a stream",
    ("formats/slicer_write.py", "_write", "GzipFile"): "a stream",
    ("formats/system.py", "link_or_copy", "copyfile"): "private folder",
    ("formats/system.py", "link_or_copy", "copytree"): "private folder",
    ("formats/system.py", "link_or_copy", "symlink_to"): "private folder",
    ("formats/system.py", "sync_to_disk", "os.open"): "writes nothing",
    ("nnunet/inside/encoder_weights.py", "prepare_encoder", "save"): "private folder",
    ("nnunet/inside/prediction.py", "finish", "write_seg"): "private folder",
    ("nnunet/inside/prediction.py", "of", "TemporaryFile"): "has no name",
    ("nnunet/inside/stripping.py", "strip_checkpoints", "save"): "private folder",
    ("nnunet/inside/training.py", "save_whole", "save"): "removes a link before",
    ("gui/worker.py", "__init__", "TemporaryDirectory"): "is new",
    ("pipeline/ingest/inputs.py", "images_at", "TemporaryDirectory"): "is new",
    ("pipeline/ingest/inputs.py", "unpacked", "TemporaryDirectory"): "is new",
    ("pipeline/ingest/survey.py", "_look_into_zip", "TemporaryDirectory"): "is new",
    ("pipeline/models/select.py", "_scores_again", "TemporaryDirectory"): "is new",
    ("pipeline/models/select.py", "second_opinion", "TemporaryDirectory"): "is new",
    ("pipeline/ingest/phantom_study.py", "_claim", "save"): "`Kept.save`",
    ("pipeline/models/training_range.py", "_measured", "save"): "`Kept.save`",
    ("pipeline/models/tune.py", "tune_cleaning", "save"): "`Kept.save`",
}
"""File, function and call -> why it writes through no link all the same."""

WRITERS = {
    *("write_text", "write_bytes", "touch", "save", "save_as", "savefig", "savez"),
    *("savez_compressed", "tofile", "to_file", "to_csv", "to_filename", "WriteImage"),
    *("write_seg", "symlink_to", "hardlink_to", "copy", "copy2", "copyfile", "move"),
    *("copytree", "FileLock", "NamedTemporaryFile", "TemporaryFile", "mkstemp"),
    *("TemporaryDirectory", "ZipFile", "GzipFile", "extractall", "imwrite"),
}


def writers_in(tree):
    """Yield function and name of every call that may open a file for writing."""

    def visit(node, function):
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.Call) and (name := writer(node)):
            yield function, name
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function)

    return visit(tree, "")


def writer(call):
    """Return the name of a call that may open a file for writing, else None."""
    whole = ast.unparse(call.func)
    owner, _, name = whole.rpartition(".")
    texts = [
        a.value
        for a in (*call.args, *(k.value for k in call.keywords))
        if isinstance(a, ast.Constant) and isinstance(a.value, str)
    ]
    if whole == "os.open":
        flags = ast.unparse(call.args[1])
        return whole if "O_WRONLY" in flags or "O_RDWR" in flags else None
    if name == "open" and whole != "open_to_write":
        modes = [t for t in texts if set(t) & set("wax+") and set(t) <= set("rwaxbt+")]
        known = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "mode")]
        unknown = not owner and any(
            not isinstance(mode, ast.Constant) for mode in known
        )
        return whole if modes or unknown else None
    if name == "ZipFile":
        return name if "w" in texts or "a" in texts else None
    if name in ("copy", "move") and owner != "shutil":
        return None
    if name in ("write_text", "write_bytes") and not owner:
        return None  # ours
    return name if name in WRITERS else None


def test_S11_no_writer_of_the_package_bypasses_the_one_that_follows_no_link():
    found = {
        (str(file.relative_to(PACKAGE)), function, name)
        for file in PACKAGE.rglob("*.py")
        for function, name in writers_in(ast.parse(file.read_text("utf-8")))
    }

    assert found - ALLOWED.keys() == set(), "use `files.open_to_write`"
    assert ALLOWED.keys() - found == set(), "no longer there"


@pytest.mark.parametrize(
    "code",
    [
        *("open(f, 'w')", "open(f, mode='ab')", "f.open('r+')", "open(f, mode)"),
        *("f.write_text(t)", "files.touch()", "os.open(f, os.O_RDWR)"),
        *("zipfile.ZipFile(f, 'w')", "shutil.copy(a, b)", "np.save(f, a)"),
    ],
)
def test_S11_the_rule_sees_a_writer(code):
    assert list(writers_in(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        *("open(f)", "f.open('rb')", "write_text(f, t)", "zipfile.ZipFile(f)"),
        *("os.open(f, os.O_RDONLY)", "array.copy()", "RawDataset.open(folder)"),
    ],
)
def test_the_rule_leaves_readers_alone(code):
    assert not list(writers_in(ast.parse(code)))
