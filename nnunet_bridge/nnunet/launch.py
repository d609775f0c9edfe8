"""Entry of nnU-Net's process: `python -m nnunet_bridge.nnunet.launch TASK ...`.

Every task prepares the process (`inside.safety`) and then calls nnU-Net's own entry
points (the other files of `inside`). Only the file of the task is loaded: to look at a
checkpoint takes torch, but not half of nnU-Net.
"""

import argparse
import atexit
import os
import sys
import threading
from importlib import import_module

from nnunet_bridge.nnunet.names import EXT_TRAINERS, TRUSTED_VARIABLE
from nnunet_bridge.nnunet.parent import end_with_parent
from nnunet_bridge.nnunet.pickles import read_pickles_as_data
from nnunet_bridge.nnunet.postponed import nothing_is_compiled, postponed

TASKS = {
    "plan": ("planning", "plan"),
    "train": ("training", "train"),
    "predict": ("prediction", "predict"),
    "encoder": ("encoder_weights", "prepare_encoder"),
    "second-opinion": ("second_opinion", "give_second_opinion"),
    "gpu": ("gpu", "report"),
    "checkpoint": ("stripping", "strip_checkpoints"),
}
"""Word -> module of `inside`, and its function that does the task."""


def main(arguments: list[str] | None = None) -> None:
    """Run one task; the arguments are those that `nnunet.commands` builds."""
    end_with_parent()
    words = sys.argv[1:] if arguments is None else arguments
    prog = "nnunet_bridge.nnunet.launch"
    parser = argparse.ArgumentParser(prog=prog, allow_abbrev=False)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--trusted-trainer", default="")
    name, do = TASKS.get(words[0] if words else "", ("", ""))
    if not name:
        parser.parse_args(words)
    read_pickles_as_data()
    if words[0] in ("plan", "train"):
        _read_labels_as_whole_numbers()
    known, _ = parser.parse_known_args(words)
    if known.device == "cpu" and not known.trusted_trainer:
        nothing_is_compiled()
    with postponed():
        task = import_module(f"nnunet_bridge.nnunet.inside.{name}")
        if words[0] == "predict":  # imports it later
            import_module("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")
    task.add_arguments(parser)
    asked = parser.parse_args(words)
    if asked.trusted_trainer:  # the user named a trainer, whose code will run
        places = os.environ[EXT_TRAINERS], os.environ.get(TRUSTED_VARIABLE, "")
        os.environ[EXT_TRAINERS] = os.pathsep.join(filter(None, places))
    import_module("nnunet_bridge.nnunet.inside.safety").prepare(asked.threads)
    getattr(task, do)(asked)


def _read_labels_as_whole_numbers() -> None:
    labels = import_module("nnunet_bridge.nnunet.inside.whole_labels")
    labels.read_labels_as_whole_numbers()


def _end() -> None:
    """End the process without freeing torch's modules, which takes two seconds.

    What else Python does at its end is done: it waits for threads, runs the functions
    for the exit (of `multiprocessing`, `logging` and `tempfile`) and flushes streams.
    """
    threading._shutdown()  # type: ignore[attr-defined] # noqa: SLF001
    atexit._run_exitfuncs()  # noqa: SLF001
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
    _end()
elif __name__ == "__mp_main__":  # a worker process that nnU-Net has spawned
    read_pickles_as_data()
    _read_labels_as_whole_numbers()
