"""Prepare the process of a task before it calls nnU-Net.

- No foreign pickle can run: checkpoints load by an allow-list (FAULTS S01).
- Our trainers are found without nnU-Net's search, which imports all of its own first.
- A single worker is a thread of this process: nnU-Net would start an interpreter that
  imports torch again (10 s) for every stage.
"""

import multiprocessing
import multiprocessing.pool
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from nnunet_bridge.nnunet import trainers


def prepare(threads: int = 0) -> None:
    """Prepare this process; `threads` are torch's own, 0 leaves it to torch."""
    load_only_what_is_allowed()
    find_our_trainers_first()
    one_worker_is_a_thread()
    if threads:
        torch.set_num_threads(threads)


def load_only_what_is_allowed() -> None:
    """Allow the few types that a checkpoint of nnU-Net 2.8 needs beside tensors.

    Our environment sets `TORCH_FORCE_WEIGHTS_ONLY_LOAD`, which overrides nnU-Net's
    ``weights_only=False``.
    """
    kinds = ("bool", "float16", "float32", "float64", "int16", "int32", "int64")
    scalar = import_module("numpy._core.multiarray").scalar
    allowed = [np.dtype, scalar, torch.device, *{type(np.dtype(k)) for k in kinds}]
    of_numpy_1 = (scalar, "numpy.core.multiarray.scalar")
    torch.serialization.add_safe_globals([*allowed, of_numpy_1])


@contextmanager
def json_read_by(module: ModuleType, read: Callable[[Path], Any]) -> Iterator[None]:
    """Let a module of nnU-Net read JSON files by `read`, until the block ends.

    Its own function is put back: the next model of this process has files of its own.
    """
    own = module.load_json
    module.load_json = lambda file: read(Path(file))  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.load_json = own  # type: ignore[attr-defined]


def find_our_trainers_first() -> None:
    """Let nnU-Net look for trainers of our names in our package only."""
    from nnunetv2.utilities import find_objects

    search = find_objects.recursive_find_python_class

    def found(folder: str, name: str, *place: Any, **options: Any) -> Any:  # noqa: ANN401 - as the original
        return our_trainer(name) or search(folder, name, *place, **options)

    find_objects.recursive_find_python_class = found


def our_trainer(name: str) -> type | None:
    """Return the trainer of this name, if it is ours."""
    if name.startswith("Bridge"):
        for found in pkgutil.iter_modules(trainers.__path__, f"{trainers.__name__}."):
            trainer: type | None = getattr(import_module(found.name), name, None)
            if trainer is not None:
                return trainer
    return None


def one_worker_is_a_thread() -> None:
    """Replace `spawn` pools of one worker by a thread of this process."""
    context: Any = multiprocessing.get_context("spawn")
    start_processes = context.Pool

    def pool(processes: int | None = None, *options: Any, **named: Any) -> Any:  # noqa: ANN401 - as the original
        if processes == 1 and not options and not named:
            return multiprocessing.pool.ThreadPool(1)
        return start_processes(processes, *options, **named)

    context.Pool = pool
