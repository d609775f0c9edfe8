"""Seed every generator of a training by its run, fold, first epoch, rank and loader.

nnU-Net's loaders are copies of the process that starts them. Unseeded, each would draw
the same numbers from torch (mirroring, which transform applies), and a resumed training
those of its first epochs again.
"""

import hashlib
import itertools
import random
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_bridge.formats.system import ended_by
from nnunet_bridge.nnunet.failures import FAILED_WORKER
from nnunet_bridge.nnunet.names import SEED_PART
from nnunet_bridge.nnunet.training_options import SEED


def seed_of(*place: object) -> int:
    """Return a seed of 32 bits for a place, such as a run, a rank and an epoch.

    Examples
    --------
    >>> seed_of("fold_0", 0, 3) == seed_of("fold_0", 0, 3)
    True
    >>> len({seed_of("fold_0", 0, epoch) for epoch in range(1000)})
    1000
    """
    digest = hashlib.sha256("/".join(map(str, (SEED, *place))).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def seed_by_run(trainer: Any, rank: int) -> None:  # noqa: ANN401 - nnU-Net's types
    """Seed this process for the weights of a trainer, and again for its data.

    A CPU training with one thread and no loader is then repeatable.
    """
    parts = Path(trainer.output_folder).parts
    repeat = [part for part in parts[:-3] if SEED_PART in part][-1:]
    run = "/".join([*repeat, *parts[-3:]])  # dataset, model, fold
    _seed_all(seed_of(run, rank, "weights"))
    module: Any = import_module("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")
    plain, load = module.NonDetMultiThreadedAugmenter, trainer.get_dataloaders

    def load_seeded() -> Any:  # noqa: ANN401 - nnU-Net's types
        place = run, rank, trainer.current_epoch
        _seed_all(seed_of(*place))
        kinds = itertools.count()  # the loaders for training, then for validation

        class Seeded(plain):  # type: ignore[misc, valid-type]
            """Loaders that each have a seed of their own."""

            def __init__(self, *, num_processes: int, **options: Any) -> None:  # noqa: ANN401 - as the original
                kind = next(kinds)
                loaders = range(num_processes)
                options["seeds"] = [seed_of(*place, kind, loader) for loader in loaders]
                super().__init__(num_processes=num_processes, **options)

            def _finish(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - as the original
                if any(ended_by(p.exitcode, "SIGBUS") for p in self._processes):
                    print(f"{FAILED_WORKER}:\nOSError: it ended by SIGBUS")  # noqa: T201 - into the log, for `failures`
                super()._finish(*arguments, **options)

        module.NonDetMultiThreadedAugmenter = Seeded
        try:
            return load()
        finally:
            module.NonDetMultiThreadedAugmenter = plain

    trainer.get_dataloaders = load_seeded


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - nnU-Net draws from the global generator
    torch.manual_seed(seed)
