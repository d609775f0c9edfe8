"""nnU-Net's own choice among configurations: `find_best_configuration`."""

import argparse
import json
from pathlib import Path

from nnunet_bridge.formats.files import write_text


def add_arguments(opinion: argparse.ArgumentParser) -> None:
    """Declare the arguments of the task."""
    opinion.add_argument("--dataset", required=True)
    opinion.add_argument("--trained", nargs=3, action="append", required=True)
    opinion.add_argument("--fold", type=int, action="append", required=True)
    opinion.add_argument("--ensembles", action="store_true")
    opinion.add_argument("--out", type=Path, required=True)


def give_second_opinion(asked: argparse.Namespace) -> None:
    """Write nnU-Net's choice as JSON."""
    from nnunetv2.evaluation.find_best_configuration import find_best_configuration

    trained = tuple(
        {"trainer": trainer, "plans": plans, "configuration": configuration}
        for trainer, plans, configuration in asked.trained
    )
    answer = find_best_configuration(
        asked.dataset,
        trained,
        allow_ensembling=asked.ensembles,
        num_processes=asked.workers,
        overwrite=True,
        folds=tuple(asked.fold),
    )
    write_text(asked.out, json.dumps(answer, default=str))
