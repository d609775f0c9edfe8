"""nnU-Net's own arguments after ``--``: refused by name, with the option to use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from nnunet_bridge.core.errors import UsageError

_MODEL = "use --model and --budget"
_WORKERS = "the number of workers follows the free memory"
_LOG = "the output of nnU-Net is in plan.log"

OF_PLANNING = {
    "-gpu_memory_target": "use --gpu-memory-target",
    "-overwrite_target_spacing": "use --target-spacing",
    "-d": "the dataset is the first argument",
    "-c": "use -c before `--`",
    "-pl": "use --planner",
    "-np": _WORKERS,
    "-npfp": _WORKERS,
    "-overwrite_plans_name": "trainings find plans by nnU-Net's names for them",
    "-preprocessor_name": "planners share the preprocessed data",
    "-fpe": "planners share the fingerprint",
    "--clean": "the fingerprint is always that of the current dataset",
    "--no_pp": "training needs the preprocessed data",
    "--verify_dataset_integrity": "this is always done",
    "--verbose": _LOG,
    "--no_pbar": _LOG,
}
"""Argument of ``nnUNetv2_plan_and_preprocess`` -> what to do instead."""

OF_TRAINING = {
    "--npz": "use --probabilities",
    "--val_best": "use --validate-best",
    "-pretrained_weights": "use --pretrained",
    "-tr": _MODEL,
    "-p": _MODEL,
    "-num_gpus": "use --gpus",
    "-device": "use --device",
    "--c": "use --resume or --restart",
    "--val": "run train again: it makes up for a missing validation",
    "--disable_checkpointing": "a training without checkpoints leaves no model",
}
"""Argument of ``nnUNetv2_train`` -> what to do instead."""


def refuse(words: Sequence[str], instead: Mapping[str, str]) -> None:
    """Refuse every argument of nnU-Net by name; `words` are all after ``--``.

    Raises `UsageError` if there are any.
    """
    if not words:
        return
    named = [word for word in words if re.match("--?[A-Za-z]", word)] or words
    faults = [f"{word}: {instead.get(word, 'unknown')}." for word in named]
    raise UsageError("Arguments of nnU-Net are not passed on:\n" + "\n".join(faults))
