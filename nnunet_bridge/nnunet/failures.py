"""Read from the output of a failed call of nnU-Net why it failed, and what to do.

When the process that trains fails, its loaders end with it, and a thread of
batchgenerators reports that "background workers are no longer alive", or an end of file
in their queue: consequences, which come last. The reason is the last exception that is
neither. Only where there is none, a worker was killed.
"""

import re
from collections.abc import Iterator

LOST_WORKER = re.compile(
    r"background worker(s are| is) (6 feet under|no longer alive)|workers? died"
    r"|terminated with signal SIGKILL",
    re.IGNORECASE,
)
"""nnU-Net's or torch's message that a process has ended."""

FAILED_WORKER = "Exception in background worker"
"""nnU-Net's message that the worker was not killed, but failed."""

_EXCEPTION = re.compile(
    r"([A-Za-z_]\w*\.)*\w*(Error|Exception|Interrupt|Failed|Warning)(:|$)"
)
_ASIDE = re.compile(r"Exception (in thread .*\(results_loop\)|ignored (in|while)\b)")
"""Begins the traceback of a consequence, not of the reason."""

_CHAINED = re.compile(r"(During handling of|The above exception was)")

_WAYS_OUT = {
    r"out of memory|CU\w+_STATUS_ALLOC_FAILED": (
        "The memory of the GPU was full. Check with `nvidia-smi` whether another "
        "program uses it, choose another GPU with CUDA_VISIBLE_DEVICES, or plan a "
        "smaller network: nnunet-bridge plan DATASET --gpu-memory-target GB."
    ),
    r"no kernel image is available|no kernel found|not compatible with the current": (
        "This torch has no code for this GPU. Run `nnunet-bridge doctor` and install "
        "the torch that it names, or use --device cpu."
    ),
    r"driver on your system is too old|driver version is insufficient"
    r"|forward compatibility was attempted|unsupported display driver": (
        "The NVIDIA driver is too old for this torch. Update the driver, or run "
        "`nnunet-bridge doctor` and install the torch that it names."
    ),
    r"Failed to find C compiler|No working C\+\+ compiler|InvalidCxxCompiler"
    r"|Python\.h: No such file": (
        "torch.compile needs a C compiler and the headers of Python. Install gcc and "
        "python3-dev, or set nnUNet_compile=false."
    ),
    r"shared memory|/torch_\w+.*No space left|SIGBUS|Bus error": (
        "The shared memory (/dev/shm) is too small for the processes that prepare the "
        "data. Start the container with --shm-size=8g or --ipc=host."
    ),
    r"operator torchvision::nms does not exist": (
        "torchvision is not of the same build as torch. Install both in one command "
        "from the same index."
    ),
    r"loss was not a number": (
        "Look for NaN or extreme values in the images. The same command resumes from "
        "the last checkpoint; if the loss fails again, train with --restart."
    ),
}
"""Pattern of an exception -> one or two sentences with the way out."""


def reason_of(output: str) -> str | None:
    r"""Return why a call failed, with the way out if it is known.

    None if a process was killed from outside.

    Examples
    --------
    >>> reason_of("ValueError: no\nException in thread T (results_loop):\nEOFError")
    'ValueError: no.'
    >>> reason_of("RuntimeError: Some background workers are no longer alive") is None
    True
    """
    named = list(_exceptions(output))
    real = [line for line in named if not LOST_WORKER.search(line)]
    if named and named[-1] not in real and FAILED_WORKER not in output:
        return None
    if real:
        line = real[-1]
    else:
        lines = [line.strip() for line in output.splitlines()]
        line = next(filter(None, lines[::-1]), "no output")
    ways = (way for pattern, way in _WAYS_OUT.items() if re.search(pattern, line))
    return f"{line.rstrip('.')}. {next(ways, '')}".rstrip()


def _exceptions(output: str) -> Iterator[str]:
    """Yield the lines that name exceptions, without those of consequences."""
    aside = was_aside = False
    for line in map(str.strip, output.splitlines()):
        if _ASIDE.match(line) or (was_aside and _CHAINED.match(line)):
            aside = was_aside = True
        elif _EXCEPTION.match(line):
            if not aside:
                yield line
            was_aside, aside = aside, False
