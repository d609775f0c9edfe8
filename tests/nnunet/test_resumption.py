"""Which checkpoint a training goes on from, whatever happened to the newest."""

import zipfile

import numpy as np
import pytest

from nnunet_bridge.core.findings import Outcome
from nnunet_bridge.nnunet.resumption import (
    DAMAGED,
    Resumption,
    is_whole,
    pick_checkpoint,
)

FINAL, LATEST, PREVIOUS, BEST = (
    f"checkpoint_{name}.pth" for name in ("final", "latest", "previous", "best")
)


def write(folder, name, words="weights"):
    """Write what a checkpoint is: a zip file of uncompressed members."""
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("archive/data/0", words * 1000)


def words_of(file):
    with zipfile.ZipFile(file) as archive:
        return archive.read("archive/data/0").decode()


def cut(file, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])


def test_a_folder_without_checkpoints_starts_from_the_beginning(tmp_path):
    assert pick_checkpoint(tmp_path / "absent") == Resumption(None, ())


def test_whole_checkpoints_stay_as_they_are(tmp_path):
    for name in (LATEST, PREVIOUS, BEST):
        write(tmp_path, name)

    found = pick_checkpoint(tmp_path)

    assert found == Resumption(LATEST, ())
    assert found.findings == ()
    assert {file.name for file in tmp_path.iterdir()} == {LATEST, PREVIOUS, BEST}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_N05_a_truncated_checkpoint_gives_way_to_the_one_before(tmp_path, share):
    write(tmp_path, LATEST, "new")
    write(tmp_path, PREVIOUS, "old")
    cut(tmp_path / LATEST, share)

    found = pick_checkpoint(tmp_path)

    assert found == Resumption(PREVIOUS, (LATEST,))
    assert words_of(tmp_path / LATEST).startswith("old")
    assert not (tmp_path / PREVIOUS).exists()
    assert (tmp_path / f"{LATEST}{DAMAGED}").exists()
    (warning,) = found.findings
    assert (warning.code, warning.outcome) == ("N05", Outcome.WARNED)
    assert "resumes from checkpoint_previous.pth" in warning.message


def test_N05_a_flipped_byte_is_noticed(tmp_path):
    write(tmp_path, LATEST)
    content = bytearray((tmp_path / LATEST).read_bytes())
    content[1000] ^= 1
    (tmp_path / LATEST).write_bytes(content)

    assert not is_whole(tmp_path / LATEST)


def test_N05_nothing_whole_starts_from_the_beginning_and_says_so(tmp_path):
    for name in (FINAL, BEST):
        (tmp_path / name).write_bytes(b"half")

    found = pick_checkpoint(tmp_path)

    assert found == Resumption(None, (FINAL, BEST))
    assert "starts from the beginning" in found.findings[0].message


def test_N05_a_damaged_end_goes_back_to_the_best(tmp_path):
    write(tmp_path, FINAL)
    write(tmp_path, BEST)
    cut(tmp_path / FINAL, 0.7)

    assert pick_checkpoint(tmp_path) == Resumption(BEST, (FINAL,))


def test_what_torch_saves_is_whole_until_it_is_cut(tmp_path):
    import torch

    file = tmp_path / LATEST
    weights = torch.from_numpy(np.arange(10_000, dtype=np.float32))
    torch.save({"network_weights": {"a": weights}, "current_epoch": 3}, file)

    assert is_whole(file)
    cut(file, 0.98)
    assert not is_whole(file)
