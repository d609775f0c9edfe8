"""The process that reads files: it may die, block or fail, the next request works."""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

from nnunet_bridge.core.errors import InputError, SecurityError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.formats.nifti import read_array
from nnunet_bridge.gui.worker import in_worker


def test_one_process_answers_until_it_dies_and_then_another():
    first = in_worker(os.getpid)

    assert first not in (os.getpid(), os.getppid())
    assert in_worker(os.getpid) == first
    os.kill(first, signal.SIGKILL)
    assert in_worker(os.getpid) != first


def test_a_death_at_work_is_a_sentence_and_the_next_request_works():
    with pytest.raises(InputError, match="ended before it was done"):
        in_worker(os._exit, 3)

    assert in_worker(divmod, 7, 2) == (3, 1)


def test_what_a_worker_has_unpacked_goes_with_it():
    left = Path(in_worker(tempfile.mkdtemp))
    assert left.is_dir()

    with pytest.raises(InputError):
        in_worker(os._exit, 3)
    in_worker(os.getpid)

    assert not left.parent.exists()


def test_a_function_that_takes_too_long_is_ended():
    start = time.monotonic()

    with pytest.raises(InputError, match="longer than 1 s"):
        in_worker(time.sleep, 60, limit_s=1)

    assert in_worker(divmod, 7, 2) == (3, 1)
    assert time.monotonic() - start < 30


def test_errors_are_those_of_the_readers(tmp_path):
    damaged = tmp_path / "damaged.nii.gz"
    damaged.write_bytes(b"\x1f\x8b no image")

    with pytest.raises(Refused) as here:
        read_array(damaged)
    with pytest.raises(InputError) as there:
        in_worker(read_array, damaged)
    assert (str(there.value), there.value.code) == (str(here.value), here.value.code)
    with pytest.raises(SecurityError, match=r"^no$"):
        in_worker(_refuse)
    with pytest.raises(InputError, match="ZeroDivisionError"):
        in_worker(divmod, 1, 0)


def test_torch_is_not_loaded_for_reading(tmp_path):
    import nibabel as nib
    import numpy as np

    file = tmp_path / "small.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4)), file)
    in_worker(read_array, file)

    assert not {"torch", "nnunetv2"} & set(in_worker(_loaded))


def _refuse():
    raise SecurityError("no")


def _loaded():
    return list(sys.modules)
