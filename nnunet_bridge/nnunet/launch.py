"""What nnU-Net's process starts with: `python -m nnunet_bridge.nnunet.launch TASK ...`.

Every task prepares the process (`inside.safety`) and then calls nnU-Net's own entry
points (the other files of `inside`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from nnunet_bridge.nnunet.inside import (
    encoder_weights,
    planning,
    prediction,
    second_opinion,
    stripping,
    training,
)
from nnunet_bridge.nnunet.inside.safety import prepare

TASKS: dict[
    str,
    tuple[
        Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], None]
    ],
] = {
    "plan": (planning.add_arguments, planning.plan),
    "train": (training.add_arguments, training.train),
    "predict": (prediction.add_arguments, prediction.predict),
    "encoder": (encoder_weights.add_arguments, encoder_weights.prepare_encoder),
    "second-opinion": (
        second_opinion.add_arguments,
        second_opinion.give_second_opinion,
    ),
    "checkpoint": (stripping.add_arguments, stripping.strip_checkpoints),
}
"""Word -> what adds its arguments, and what does it."""


def main(arguments: list[str] | None = None) -> None:
    """Run one task; the arguments are those that `nnunet.commands` builds."""
    asked = _parser().parse_args(arguments)
    prepare(asked.threads)
    _, do = TASKS[asked.task]
    do(asked)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nnunet_bridge.nnunet.launch")
    words = parser.add_subparsers(dest="task", required=True)
    for name, (add_arguments, _) in TASKS.items():
        task = words.add_parser(name)
        task.add_argument("--threads", type=int, default=0)
        task.add_argument("--workers", type=int, default=1)
        add_arguments(task)
    return parser


if __name__ == "__main__":
    main()
