"""`convert` is killed again and again; the disk never holds a lie (R6, F07).

A server that has the imports done forks a child for every conversion, so that the kill
falls into the work. Eight kills; the long form has 60.
"""

import gzip
import hashlib
import json
import multiprocessing
import random
import shutil
import time

import pytest
from small_study import FEMUR, box, draw, four_patients, recipe

from nnunet_bridge.formats.files import PARTIAL
from nnunet_bridge.formats.manifest import RECORDS, read_manifest
from nnunet_bridge.formats.nifti import read_array
from nnunet_bridge.pipeline.ingest.convert import convert_study

PRELOADED = [
    *("nibabel", "isal.igzip_lib", "isal.isal_zlib", "nrrd", "scipy.ndimage"),
    *("pydicom", "nnunet_bridge.pipeline.ingest.convert", "small_study"),
]
OF_THE_RUN = ("started", "ended", "command")
RAW = "nnUNet_raw"


def convert(study, workspace, begun):
    """Run in the child: say that it begins, then work."""
    begun.send(None)
    convert_study(study, recipe(), workspace / RAW)


@pytest.fixture(scope="module")
def server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@pytest.fixture
def study(tmp_path):
    return four_patients(tmp_path / "study")


def started(server, study, workspace):
    begun, tell = server.Pipe(duplex=False)
    process = server.Process(target=convert, args=(study, workspace, tell))
    process.start()
    begun.recv()
    return process


def undisturbed_s(server, study, workspace, before):
    """Convert in a child that nobody kills; return how long the work takes."""
    fresh(workspace, before)
    process = started(server, study, workspace)
    begin = time.monotonic()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - begin


def fresh(workspace, source=None):
    """Make a workspace whose key is always the same, so that manifests can be equal."""
    shutil.rmtree(workspace, ignore_errors=True)
    if source is not None:
        shutil.copytree(source, workspace)
        return
    (workspace / ".nnunet_bridge").mkdir(parents=True)
    (workspace / ".nnunet_bridge" / "key").write_bytes(b"k" * 32)


def content(workspace):
    """Return what the dataset holds; of the manifest, all but the run's own words."""
    found = {}
    for file in sorted((workspace / RAW).rglob("*")):
        if file.is_file() and not file.name.endswith(PARTIAL):
            name = str(file.relative_to(workspace))
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
            if file.name == "manifest.json":
                manifest = json.loads(file.read_text())
                found[name] = {
                    key: value
                    for key, value in manifest.items()
                    if key not in OF_THE_RUN
                }
    return found


def assert_nothing_on_the_disk_lies(workspace, whole):
    for file in (workspace / RAW).rglob("*"):
        if file.name.endswith(".nii.gz"):
            assert not file.name.startswith(".")
            gzip.decompress(file.read_bytes())  # checks CRC and length
            _, voxels = read_array(file)
            assert voxels.shape == (32, 32, 12)
        elif file.name.endswith(".json"):
            json.loads(file.read_text())
    manifest_file = workspace / RAW / "Dataset001_Tibia" / "manifest.json"
    if not manifest_file.exists():
        return
    manifest = json.loads(manifest_file.read_text())
    assert manifest["complete"] or not manifest["cases"]
    for record in read_manifest(manifest_file.parent).as_json()["cases"]:
        for output in record.get("outputs", []):
            file = manifest_file.parent / output["file"]
            assert hashlib.sha256(file.read_bytes()).hexdigest() == output["sha256"]
    if manifest["complete"]:  # records left beside it do not count any more
        found = content(workspace)
        assert {name: found[name] for name in found if RECORDS not in name} in whole


@pytest.mark.parametrize("redo", [False, True], ids=["from nothing", "after a change"])
@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.long)])
def test_R6_a_conversion_that_is_killed_at_any_time_leaves_only_whole_files(
    server, study, tmp_path, kills, redo
):
    """A killed run of an empty workspace, and of one where two cases have changed."""
    rng = random.Random(redo)  # noqa: S311 - repeatable
    before, undisturbed, killed = (tmp_path / name for name in ("old", "all", "now"))
    fresh(before)
    if redo:
        convert_study(study, recipe(), before / RAW)
        draw(study, "1_tibia_1A", box(slice(4, 13)))
        draw(study, "2_femur_2B", FEMUR * 255)
    first = content(before)
    duration_s = min(undisturbed_s(server, study, undisturbed, before) for _ in "123")
    whole = content(undisturbed)
    assert len(whole) == 9

    done = in_the_middle = attempts = 0
    while done < kills:
        fresh(killed, before)
        process = started(server, study, killed)
        time.sleep((attempts % kills + rng.random()) / kills * duration_s)
        process.kill()
        process.join()
        attempts += 1
        assert attempts < 3 * kills, "the conversion ends before it can be killed"
        done += process.exitcode == -9
        in_the_middle += content(killed) not in ({}, first, whole)

        assert_nothing_on_the_disk_lies(killed, (first, whole))
        convert_study(study, recipe(), killed / RAW)
        assert content(killed) == whole
        assert not list(killed.rglob(f"*{PARTIAL}"))
    parts = f"{in_the_middle} left a part of the dataset"
    print(f"{done} kills within {duration_s:.2f} s: {parts}")  # noqa: T201 - for -s
