"""The reason of a failure, in the words of torch, batchgenerators and nnU-Net."""

import pytest
from failing_training import COMPILER, FAULTS, FOREIGN, OLD, SHARED

from nnunet_bridge.nnunet.failures import reason_of

GONE = (
    "RuntimeError: One or more background workers are no longer alive. Exiting. Please "
    "check the print statements above for the actual error message"
)
TRACE = 'Traceback (most recent call last):\n  File "x.py", line 64, in run\n'
NOISE = f"""Exception in thread Thread-1 (results_loop):
{TRACE}    raise RuntimeError("One or more background workers are no longer alive.")
{GONE}
Exception in thread Thread-2 (results_loop):
{TRACE}    item = in_queue.get(timeout=wait_time)
EOFError

During handling of the above exception, another exception occurred:

{TRACE}ConnectionResetError: [Errno 104] Connection reset by peer
Exception ignored in: <function NonDetMultiThreadedAugmenter.__del__ at 0x7f>
{TRACE}AttributeError: 'NoneType' object has no attribute 'put'
"""
"""What the threads and destructors of batchgenerators print when the process ends."""


@pytest.mark.parametrize("noise", ["", NOISE])
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if FAULTS[fault][0]])
def test_an_exception_of_the_main_process_is_the_reason_whatever_follows(fault, noise):
    name, message = FAULTS[fault]

    reason = reason_of(f"Epoch 0\n{TRACE}torch.{name}: {message}\n{noise}")

    first = message.splitlines()[0].rstrip(".")
    assert reason.startswith(f"torch.{name}: {first}.")


@pytest.mark.parametrize(
    ("line", "way_out"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory.", "nvidia-smi"),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when", "nvidia-smi"),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "nvidia-smi"),
        (f"torch.AcceleratorError: {FOREIGN}", "doctor"),
        (f"RuntimeError: {OLD}", "Update the driver"),
        (f"torch._inductor.exc.InductorError: RuntimeError: {COMPILER}", "gcc"),
        (f"RuntimeError: {SHARED}: No space left on device (28)", "--shm-size=8g"),
        ("OSError: it ended by SIGBUS", "--shm-size=8g"),
        ("FloatingPointError: the loss was not a number in epoch 3", "--restart"),
    ],
)
def test_each_known_fault_of_a_gpu_has_its_way_out(line, way_out):
    assert way_out in reason_of(f"{TRACE}{line}\n")


def test_a_fault_without_a_known_way_out_is_reported_as_it_is():
    assert reason_of(f"{TRACE}ValueError: no such plans.\n") == (
        "ValueError: no such plans."
    )


def test_the_exception_of_a_process_on_another_gpu_is_the_reason():
    spawned = (
        f"{TRACE}torch.multiprocessing.spawn.ProcessRaisedException: \n\n"
        f"-- Process 1 terminated with the following error:\n{TRACE}"
        "torch.OutOfMemoryError: CUDA out of memory.\n"
    )

    assert reason_of(NOISE + spawned).startswith("torch.OutOfMemoryError")


@pytest.mark.parametrize(
    "last",
    [
        GONE,
        "torch.ProcessExitedException: process 1 terminated with signal SIGKILL",
    ],
)
def test_without_an_exception_of_its_own_a_worker_was_killed(last):
    assert reason_of(f"Epoch 3\n{NOISE}{TRACE}{last}\n") is None


def test_a_traceback_that_was_caught_earlier_does_not_hide_a_killed_worker():
    caught = f"{TRACE}ImageFileError: not a PNG\nEpoch 3\n"

    assert reason_of(f"{caught}{NOISE}{TRACE}{GONE}\n") is None
