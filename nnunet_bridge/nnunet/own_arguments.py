"""nnU-Net's own arguments, as somebody writes them after ``--``.

Those that make sense here stand in a table and are handed on; those that would decide
what a word of ours decides are refused with that word, and unknown ones by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class OwnArguments:
    """The arguments of one of nnU-Net's commands."""

    command: str
    """Ours, to which they are added."""

    numbers: Mapping[str, int]
    """Word -> how many positive numbers follow it."""

    switches: frozenset[str]
    files: frozenset[str]
    """Words that a file follows."""

    refused: Mapping[str, str]
    """Word -> what to use instead."""

    def checked(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return the words in one order, so that the same wishes read the same.

        Raises
        ------
        UsageError
            With every word that is refused, and why.
        """
        asked: dict[str, tuple[str, ...]] = {}
        faults, left = [], list(words)
        while left:
            word = left.pop(0)
            values = tuple(left[: self._values(word, left)])
            del left[: len(values)]
            fault = self._fault(word, values)
            if fault:
                faults.append(fault)
            asked[word] = self._plain(word, values)
        if faults:
            known = [*self.numbers, *self.switches, *self.files]
            raise UsageError(
                f"After `--`, {self.command} takes arguments of nnU-Net "
                f"({', '.join(sorted(known))}):\n" + "\n".join(faults)
            )
        return tuple(part for word in sorted(asked) for part in (word, *asked[word]))

    def value_of(self, words: Sequence[str], word: str) -> tuple[str, ...] | None:
        """Return what follows a word; None if it was not said."""
        if word not in words:
            return None
        begin = list(words).index(word) + 1
        return tuple(words[begin : begin + self._values(word, ())])

    def _values(self, word: str, left: Sequence[str]) -> int:
        """Return how many of the words that are left belong to a word."""
        if word in self.refused:
            return next((n for n, w in enumerate(left) if w[:1] == "-"), len(left))
        return 1 if word in self.files else self.numbers.get(word, 0)

    def _fault(self, word: str, values: tuple[str, ...]) -> str:
        """Return what is wrong with a word and what follows it; empty if nothing."""
        if word in self.refused:
            return f"{word} is refused: {self.refused[word]}."
        if word in self.switches:
            return ""
        if word in self.files:
            there = values and Path(values[0]).is_file()
            return "" if there else f"{word} needs the path of a file that is there."
        if word in self.numbers:
            count = self.numbers[word]
            right = len(values) == count and all(_is_positive(v) for v in values)
            many = "a positive number" if count == 1 else f"{count} positive numbers"
            return "" if right else f"{word} needs {many}."
        return f"{word} is unknown."

    def _plain(self, word: str, values: tuple[str, ...]) -> tuple[str, ...]:
        """Return values that read the same where they mean the same."""
        if word in self.files:
            return tuple(str(Path(value).absolute()) for value in values)
        return tuple(f"{float(v):g}" if _is_positive(v) else v for v in values)


def _is_positive(word: str) -> bool:
    try:
        number = float(word)
    except ValueError:
        return False
    return math.isfinite(number) and number > 0


_WORKERS = "the number of workers follows the memory that is free"

PLANNING = OwnArguments(
    "plan",
    numbers={"-gpu_memory_target": 1, "-overwrite_target_spacing": 3},
    switches=frozenset(),
    files=frozenset(),
    refused={
        "-d": "the dataset is the first word",
        "-c": "say -c before `--`",
        "-pl": "say --planner",
        "-np": _WORKERS,
        "-npfp": _WORKERS,
        "-overwrite_plans_name": "trainings are found by the names of their plans",
        "-preprocessor_name": "planners share what is preprocessed",
        "-fpe": "planners share one fingerprint",
        "--clean": "the fingerprint is always that of the dataset as it is",
        "--no_pp": "what is planned here is preprocessed, or training refuses it",
        "--verify_dataset_integrity": "that is always done",
        "--verbose": "all that nnU-Net says is in plan.log",
        "--no_pbar": "all that nnU-Net says is in plan.log",
    },
)
"""Of ``nnUNetv2_plan_and_preprocess``."""

TRAINING = OwnArguments(
    "train",
    numbers={},
    switches=frozenset({"--npz", "--val_best"}),
    files=frozenset({"-pretrained_weights"}),
    refused={
        "-tr": "say --model and --budget",
        "-p": "say --model and --budget",
        "-num_gpus": "say --gpus",
        "-device": "say --device",
        "--c": "say --resume or --restart",
        "--val": "a validation that is missing is made up for by calling train again",
        "--disable_checkpointing": "without a checkpoint nothing is left of a training",
    },
)
"""Of ``nnUNetv2_train``."""
