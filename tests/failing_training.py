"""nnU-Net's process as we start it, with a fault in the second training step.

    python failing_training.py FAULT train --threads 1 ...

FAULT is a key of `FAULTS`; the other words are those of `nnunet_bridge.nnunet.launch`.
"""

import sys
from dataclasses import replace

from nnunet_bridge.nnunet.commands import NnUNetProcess, Resources
from nnunet_bridge.nnunet.host import Host

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"
FOREIGN = "CUDA error: no kernel image is available for execution on the device"
OLD = "The NVIDIA driver on your system is too old (found version 12040)."
COMPILER = "Failed to find C compiler. Please specify via CC environment variable."
SHARED = "unable to allocate shared memory(shm) for file </torch_4_5_0>"
FAULTS = {
    "full gpu": ("OutOfMemoryError", FULL),
    "foreign gpu": (
        "AcceleratorError",
        f"{FOREIGN}\nCUDA errors might be asynchronous",
    ),
    "old driver": ("RuntimeError", OLD),
    "no compiler": ("RuntimeError", COMPILER),
    "small shared memory": ("RuntimeError", f"{SHARED}: No space left on device (28)"),
    "no loss": ("", ""),
}
"""Fault -> torch's exception and its message."""


def main(fault, *words):
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunet_bridge.nnunet.launch import main as launch

    name, message = FAULTS[fault]
    error = getattr(torch, name, RuntimeError)
    train_step, steps = nnUNetTrainer.train_step, iter(range(1000))

    def fail(trainer, batch):
        if not name:
            batch["data"] = batch["data"] * float("nan")
        elif next(steps):
            raise error(message)
        return train_step(trainer, batch)

    nnUNetTrainer.train_step = fail
    launch(list(words))


class WithLoader(Host):
    """Loaders as beside a GPU, on a CPU."""

    def share(self, *_asked):
        return Resources("cpu", threads=2, workers=1, loaders=1)


def failing_host(fault):
    """Return a host whose trainings have a loader, and fail."""

    def start(command, environment, log_file):
        python, *rest = command
        words = rest[rest.index("train") :]
        return NnUNetProcess([python, __file__, fault, *words], environment, log_file)

    return replace(WithLoader(), start=start)


if __name__ == "__main__":
    main(*sys.argv[1:])
