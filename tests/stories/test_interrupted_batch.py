"""A batch of predictions is cut short, or its files are spoilt; nothing is lost (N03).

The parent is killed as a scheduler kills it, so that it can say and clean nothing.
"""

import contextlib
import gzip
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from stand_in import (
    DATASET,
    GRID,
    TABLE,
    StandIn,
    finished_workspace,
    image_with_bone,
)
from tiny_model import run_of, tiny_plans, untrained_checkpoint, write_model

from nnunet_bridge.core.findings import Outcome, Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Labelmap
from nnunet_bridge.formats.files import sha256_of
from nnunet_bridge.formats.nifti import read_labelmap, write_labelmap
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.pipeline.prediction.network import ImagesTooLarge
from nnunet_bridge.pipeline.prediction.options import PredictionOptions
from nnunet_bridge.pipeline.prediction.predict import predict_images

CASES = [f"leg_{number}" for number in range(5)]
WAIT_S = 600


@pytest.fixture
def batch(tmp_path):
    """A model and five images."""
    workspace = finished_workspace(tmp_path / "work")
    for number, case in enumerate(CASES):
        image_with_bone(tmp_path / "images" / f"{case}.nii.gz", 20, 30 + number)
    return workspace


def predicted(workspace, root, network=None, **options):
    """Predict the batch by brightness; return the summary and the predicted cases."""
    network = network or StandIn()
    summary = predict_images(
        Dataset(workspace, DATASET),
        [root / "images"],
        root / "out",
        PredictionOptions(device="cpu", **options),
        network=network,
    )
    return summary, [sorted(call) for call in network.calls]


def in_the_child(root):
    workspace = Workspace.at(root / "work", environment={})
    predicted(workspace, root, StandIn(pause_s=0.5))


def records(root):
    return sorted(file.parent.name for file in root.glob("out/*/prediction.json"))


def wait_for(count, root, alive):
    end = time.monotonic() + WAIT_S
    while len(records(root)) < count:
        assert alive(), "the batch ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)


def assert_every_record_is_true(root):
    for case in records(root):
        folder = root / "out" / case
        record = json.loads((folder / "prediction.json").read_text())
        assert record["outputs"]
        for name, sha256 in record["outputs"].items():
            assert sha256_of(folder / name) == sha256


@pytest.mark.parametrize("count", [1, 3])
def test_N03_a_kill_after_k_cases_leaves_k_finished_ones_that_are_not_done_again(
    batch, tmp_path, count
):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["nnunet_bridge.pipeline.prediction.predict", "stand_in"]
    )
    process = context.Process(target=in_the_child, args=(tmp_path,))
    process.start()
    wait_for(count, tmp_path, process.is_alive)
    process.kill()
    process.join()

    finished = records(tmp_path)
    assert count <= len(finished) < len(CASES)
    assert_every_record_is_true(tmp_path)
    times = {c: (tmp_path / "out" / c / "labels.nii.gz").stat() for c in finished}

    summary, shown = predicted(batch, tmp_path)

    assert shown == [[case for case in CASES if case not in finished]]
    assert [case.case_id for case in summary.cases] == CASES
    assert records(tmp_path) == CASES
    for case, before in times.items():
        now = (tmp_path / "out" / case / "labels.nii.gz").stat()
        assert now.st_mtime_ns == before.st_mtime_ns
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]


def other_grid(file):
    moved = Grid(GRID.shape, np.diag([1.0, 1.0, 2.5, 1.0]))
    write_labelmap(file, Labelmap(moved, np.zeros(GRID.shape, np.uint8), TABLE))


def changed_bytes(file):
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[-1] ^= 1
    file.write_bytes(gzip.compress(bytes(content)))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("labels.nii.gz", lambda file: file.write_bytes(b"")),
        ("labels.nii.gz", lambda file: file.write_bytes(b"\x1f\x8b\x08\x00")),
        ("labels.nii.gz", lambda file: file.write_bytes(file.read_bytes()[:-9])),
        ("labels.nii.gz", changed_bytes),
        ("labels.nii.gz", other_grid),
        ("labels.nii.gz", Path.unlink),
        ("meshes/all.ply", Path.unlink),
        ("meshes/tibia.ply", lambda file: file.write_bytes(b"ply")),
        ("prediction.json", lambda file: file.write_text("{")),
        ("prediction.json", Path.unlink),
    ],
    ids=[
        *("0 bytes", "4 bytes", "cut", "a voxel", "another grid", "no labels"),
        *("no mesh", "a cut mesh", "a cut record", "no record"),
    ],
)
def test_N03_an_output_that_does_not_verify_is_made_anew_and_no_other(
    batch, tmp_path, name, spoil
):
    predicted(batch, tmp_path, meshes=True)
    folder = tmp_path / "out" / CASES[2]
    outputs = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".json"]
    whole = {path: sha256_of(path) for path in outputs}
    spoil(folder / name)

    _, shown = predicted(batch, tmp_path, meshes=True)

    assert shown == [[CASES[2]]]
    assert {path: sha256_of(path) for path in whole} == whole
    assert predicted(batch, tmp_path, meshes=True)[1] == []


def test_N03_a_record_that_was_rewritten_to_fit_spoilt_labels_is_not_believed(
    batch, tmp_path
):
    predicted(batch, tmp_path)
    folder = tmp_path / "out" / CASES[0]
    labels = folder / "labels.nii.gz"
    labels.write_bytes(b"")
    record = json.loads((folder / "prediction.json").read_text())
    record["outputs"]["labels.nii.gz"] = sha256_of(labels)
    (folder / "prediction.json").write_text(json.dumps(record))

    assert predicted(batch, tmp_path)[1] == [[CASES[0]]]


@pytest.mark.parametrize("kept", [200, 0.5, 0.99])
def test_N02_K19_a_truncated_image_is_refused_by_name_and_never_predicted(
    batch, tmp_path, kept
):
    file = tmp_path / "images" / f"{CASES[1]}.nii.gz"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])

    summary, shown = predicted(batch, tmp_path)

    assert shown == [[case for case in CASES if case != CASES[1]]]
    refused = summary.cases[1]
    assert (str(refused.outcome), refused.findings[0].code) == ("refused", "K19")
    assert file.name in refused.findings[0].message
    assert not (tmp_path / "out" / CASES[1]).exists()
    assert summary.exit_code == 4


class HalfWritten:
    """Writes a labelmap piece by piece, as a process does that is still at it."""

    def __init__(self):
        self.seen = []
        self.calls = []

    def __call__(self, model, work, _resources, *, advanced):
        folder = work / model.configurations[0]
        whole = StandIn()(model, work, _resources, advanced=lambda _: None)
        contents = {file: file.read_bytes() for file in sorted(whole.glob("*.nii.gz"))}
        for file in contents:
            file.unlink()
        for file, content in contents.items():
            for share in (0, 0.3, 0.9):
                file.write_bytes(content[: int(share * len(content))])
                advanced(0.5)
                advanced(0.5)
            case = file.name.removesuffix(".nii.gz")
            self.seen.append((folder.parent.parent / case / "labels.nii.gz").exists())
            file.write_bytes(content)
        return folder


def test_N03_a_labelmap_that_is_still_being_written_is_not_taken(batch, tmp_path):
    network = HalfWritten()

    predicted(batch, tmp_path, network)

    assert network.seen == [False] * len(CASES)
    assert records(tmp_path) == CASES
    for number, case in enumerate(CASES):
        labels = read_labelmap(tmp_path / "out" / case / "labels.nii.gz", TABLE)
        held = np.flatnonzero(labels.voxels.any(axis=(0, 1)))
        assert (held[0], held[-1]) == (20, 29 + number)


class OneTooLarge(StandIn):
    """Has memory for all images but one."""

    def __call__(self, model, work, resources, *, advanced):
        if (work / "images" / f"{CASES[1]}_0000.nii.gz").exists():
            refusal = Refused.because("F10", f"Predicting {CASES[1]} needs too much.")
            raise ImagesTooLarge({CASES[1]: refusal})
        return super().__call__(model, work, resources, advanced=advanced)


def test_F10_an_image_that_does_not_fit_is_refused_and_the_others_go_on(
    batch, tmp_path
):
    summary, _ = predicted(batch, tmp_path, OneTooLarge())

    refused = [case for case in summary.cases if case.outcome is Outcome.REFUSED]
    assert [case.case_id for case in refused] == [CASES[1]]
    assert [finding.code for finding in refused[0].findings] == ["F10"]
    assert summary.exit_code == 4
    assert records(tmp_path) == [case for case in CASES if case != CASES[1]]


@pytest.mark.training
def test_N03_a_batch_of_nnunet_itself_is_killed_and_goes_on_where_it_was(tmp_path):
    """Real networks of a few thousand weights, which nobody trained."""
    (tmp_path / "work").mkdir()
    workspace = Workspace.at(tmp_path / "work", environment={})
    plans = tiny_plans()
    write_model(
        run_of(workspace), untrained_checkpoint(run_of(workspace), plans), plans=plans
    )
    grid = Grid((48, 48, 24), np.diag([0.8, 0.8, 3.0, 1.0]))
    for case in CASES:
        image_with_bone(tmp_path / "images" / f"{case}.nii.gz", 5, 20, grid=grid)
    command = [
        *(sys.executable, "-m", "nnunet_bridge", "predict", DATASET),
        *(tmp_path / "images", "-o", tmp_path / "out", "--device", "cpu", "--json"),
        *("-w", tmp_path / "work"),
    ]
    words = list(map(str, command))
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(1, tmp_path, lambda: process.poll() is None)
    finally:
        network = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        process.kill()
        process.wait()
        for child in network.split():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(child), signal.SIGKILL)
    finished = records(tmp_path)
    assert 1 <= len(finished) < len(CASES)
    assert_every_record_is_true(tmp_path)
    before = {c: (tmp_path / "out" / c / "labels.nii.gz").stat() for c in finished}

    again = subprocess.run(words, capture_output=True, text=True, check=True)

    assert [c["case"] for c in json.loads(again.stdout)["cases"]] == CASES
    assert_every_record_is_true(tmp_path)
    assert records(tmp_path) == CASES
    for case, stat in before.items():
        now = (tmp_path / "out" / case / "labels.nii.gz").stat()
        assert now.st_mtime_ns == stat.st_mtime_ns
    shutil.rmtree(tmp_path / "out")
