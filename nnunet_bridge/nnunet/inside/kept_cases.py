"""Keep small preprocessed cases in memory while this process loads its own batches.

nnU-Net opens two files and reads a pickle for every patch, and looks for the thread
pools of all libraries for every batch. Beside a network on a GPU, loader processes hide
that. In a CPU training there are none, and with small images it was a quarter of a
step. Patches and random numbers are the same.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import threadpoolctl
from nnunetv2.training.dataloading import data_loader
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

MOST_BYTES = 128_000_000
"""Memory for the cases of a training; those that do not fit are read every time."""

_Case = tuple[Any, Any, Any, dict[str, Any]]


def keep_small_cases(trainer: Any) -> None:  # noqa: ANN401 - nnU-Net's types
    """Let the datasets of a trainer keep their cases, if it has no loader processes."""
    if get_allowed_n_proc_DA() != 0:
        return
    data_loader.threadpool_limits = threadpoolctl.ThreadpoolController().limit
    open_datasets = trainer.get_tr_and_val_datasets

    def open_and_keep() -> tuple[Any, Any]:
        datasets: tuple[Any, Any] = open_datasets()
        for dataset in datasets:
            dataset.load_case = KeptCases(dataset.load_case, MOST_BYTES // 2)
        return datasets

    trainer.get_tr_and_val_datasets = open_and_keep


class KeptCases:
    """Returns cases as `load` does, and keeps them while they fit into `most_bytes`."""

    def __init__(self, load: Callable[[str], _Case], most_bytes: int) -> None:
        self._load, self._left = load, most_bytes
        self._kept: dict[str, _Case] = {}

    def __call__(self, case: str) -> _Case:
        """Return image, labels, labels of the previous stage and facts of a case."""
        if case not in self._kept:
            *arrays, facts = self._load(case)
            size = _bytes_of([*arrays, facts.get("class_locations", {})])
            if size > self._left:
                return (*arrays, facts)
            self._left -= size
            image, labels, previous = map(_in_memory, arrays)
            self._kept[case] = image, labels, previous, facts
        return self._kept[case]


class _InMemory(np.ndarray[Any, Any]):
    """An array whose parts are copies, as those of an array on the disk are."""

    def __getitem__(self, place: Any) -> Any:  # noqa: ANN401 - as the original
        return np.array(super().__getitem__(place), subok=False)


def _in_memory(array: Any) -> _InMemory | None:  # noqa: ANN401 - of blosc2, or None
    return None if array is None else np.asarray(array[:]).view(_InMemory)


def _bytes_of(arrays: Any) -> int:  # noqa: ANN401 - lists and dicts of arrays
    if isinstance(arrays, dict):
        return _bytes_of(list(arrays.values()))
    if isinstance(arrays, list):
        return sum(map(_bytes_of, arrays))
    return 0 if arrays is None else int(np.prod(arrays.shape)) * arrays.dtype.itemsize
