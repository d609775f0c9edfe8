"""A disk that really is full: a small tmpfs in a mount namespace of its own (F06, R7).

The mount vanishes with the child that made it. Where neither root nor unprivileged user
namespaces may mount, the limit of a file's size (``ulimit -f``) takes its place for the
test that needs no more.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from dicom_base import base
from small_study import CONTENT, SCANS, draw, scan

from nnunet_bridge.core.grid import Grid
from nnunet_bridge.formats.manifest import read_manifest

SIZE, SLICES = 128, 12
CASE_BYTES = SIZE * SIZE * SLICES * 3
"""Image and labelmap, not compressed."""

CHILD = """
import json, sys
from pathlib import Path
from nnunet_bridge.core.errors import BridgeError
from nnunet_bridge.formats import nifti
from nnunet_bridge.formats.recipe import recipe_from
from nnunet_bridge.pipeline.ingest import convert
from nnunet_bridge.pipeline.ingest import dataset_writer

study, disk, free, content = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
real = nifti.write_labelmap if free == "labels" else nifti.write_volume

def eat_then_write(file, image):
    '''Another program fills the disk after the space was asked for.'''
    if int(disk_free() > LEFT):
        (disk / "other").write_bytes(bytes(disk_free() - LEFT))
    real(file, image)

def disk_free():
    import shutil
    return shutil.disk_usage(disk).free

LEFT = 100_000
if free == "image":
    dataset_writer.write_volume = eat_then_write
if free == "labels":
    LEFT = 0
    dataset_writer.write_labelmap = eat_then_write
answer = {}
try:
    convert.convert_study(study, recipe_from(json.loads(content)), disk / "nnUNet_raw")
except BridgeError as error:
    answer = {"text": str(error), "code": error.code, "exit": error.exit_code}
files = [p for p in disk.rglob("*") if p.is_file()]
answer["files"] = sorted(p.relative_to(disk).as_posix() for p in files)
print(json.dumps(answer))
"""


@pytest.fixture
def study(tmp_path):
    """One case, noisy, so that its image hardly shrinks."""
    import numpy as np

    root, rng = tmp_path / "study", np.random.default_rng(0)
    slices = base(SLICES, size=SIZE)
    for ds in slices:
        ds.PixelData = rng.integers(0, 4096, (SIZE, SIZE)).astype("<u2").tobytes()
    scan(root, 1, "1A", slices)
    affine = np.diag([0.75, 0.75, 4, 1.0])
    affine[:3, 3] = [-12, -12, -100]
    grid = Grid((SIZE, SIZE, SLICES), affine)
    for number, bone in enumerate(("tibia", "femur")):
        mask = np.zeros(grid.shape, np.uint8)
        mask[40 * number : 40 * number + 30, 20:80, 3:9] = 1
        draw(root, f"1_{bone}_1A", mask, grid=grid)
    return root


def namespace():
    """Return the words that give a command mounts of its own, if this machine may."""
    unshare = shutil.which("unshare")
    kinds = ["-m"] if os.geteuid() == 0 else ["-rm"]
    if (
        unshare is None
        or subprocess.run([unshare, *kinds, "true"], check=False).returncode
    ):
        pytest.skip("neither root nor a user namespace may mount a small disk here")
    return [unshare, *kinds]


def on_a_small_disk(study, tmp_path, size, free=""):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift && shift && exec "$@"'
    done = subprocess.run(
        [
            *(*namespace(), "sh", "-c", mount, "sh", str(size), str(disk)),
            *(sys.executable, "-c", CHILD, str(study), str(disk), free),
            json.dumps(CONTENT),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    assert not list(disk.iterdir())  # the mount was the child's alone
    return json.loads(done.stdout)


def test_F06_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    study, tmp_path
):
    answer = on_a_small_disk(study, tmp_path, 2 * CASE_BYTES - 4096)

    assert (answer["exit"], answer["code"]) == (5, "F06")
    assert "The next case may need 1.2 MB, but 1.2 MB are free" in answer["text"]
    assert not [name for name in answer["files"] if name.startswith("nnUNet_raw")]


@pytest.mark.parametrize("full_at", ["image", "labels"])
def test_F06_a_disk_that_fills_up_in_the_middle_leaves_nothing_half(
    study, tmp_path, full_at
):
    """The space that was there when the case began is taken by another program."""
    answer = on_a_small_disk(study, tmp_path, 3 << 20, full_at)

    assert (answer["exit"], answer["code"]) == (5, "F06")
    assert "the disk is full (" in answer["text"]
    assert " MB free, up to 0." in answer["text"]
    assert answer["text"].endswith("needed): free some space.")
    assert answer["files"] == [
        *(".nnunet_bridge/key", ".nnunet_bridge/locks/Dataset001_Tibia.lock"),
        "other",
    ]


def test_F06_the_same_study_fits_on_a_disk_that_is_large_enough(study, tmp_path):
    answer = on_a_small_disk(study, tmp_path, 3 << 20)

    assert "text" not in answer
    assert "nnUNet_raw/Dataset001_Tibia/manifest.json" in answer["files"]


def test_F06_a_file_that_may_not_grow_leaves_nothing_half(study, tmp_path):
    """As on a disk with a quota; needs no rights."""
    disk = tmp_path / "disk"
    disk.mkdir()
    limited = 'ulimit -f "$1" && shift && exec "$@"'
    words = [
        sys.executable,
        "-c",
        CHILD,
        str(study),
        str(disk),
        "",
        json.dumps(CONTENT),
    ]

    done = subprocess.run(
        ["bash", "-c", limited, "bash", "100", *words],
        check=True,
        capture_output=True,
        text=True,
    )

    answer = json.loads(done.stdout)
    assert (answer["exit"], answer["code"]) == (5, "F06")
    assert "larger than allowed" in answer["text"]
    assert not [name for name in answer["files"] if "nnUNet_raw" in name]


def test_F06_check_warns_of_a_disk_that_is_too_small(study, tmp_path, monkeypatch):
    from nnunet_bridge.formats.recipe import recipe_from
    from nnunet_bridge.pipeline.ingest.convert import check_study

    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))

    summary = check_study(study, recipe_from(CONTENT), tmp_path / "work" / "nnUNet_raw")

    (finding,) = summary.findings
    assert finding.code == "F06"
    assert "may need up to 0.6 MB, but 0.1 MB are free" in finding.message
    assert summary.exit_code == 0
    assert not (tmp_path / "work").exists()


def test_F06_a_redone_case_that_finds_the_disk_full_leaves_a_true_manifest(
    study, tmp_path, monkeypatch
):
    from nnunet_bridge.formats.recipe import recipe_from
    from nnunet_bridge.pipeline.ingest import dataset_writer
    from nnunet_bridge.pipeline.ingest.convert import convert_study

    raw_dir = tmp_path / "work" / "nnUNet_raw"
    scan(study, 2, "2B")
    folder = convert_study(study, recipe_from(CONTENT), raw_dir).dataset_dir
    (study / SCANS / "1_AutoBindWATER_650_1A" / "note.txt").write_text("changed")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset_writer, "write_volume", full)
    with pytest.raises(OSError, match="No space"):
        convert_study(study, recipe_from(CONTENT), raw_dir)

    manifest = read_manifest(folder)
    assert manifest.complete is False
    assert [record.case for record in manifest.cases] == ["msk_002"]
    assert sorted(file.name for file in folder.rglob("*.nii.gz")) == [
        "msk_002_0000.nii.gz"
    ]
