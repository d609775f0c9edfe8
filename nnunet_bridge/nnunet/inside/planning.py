"""Verify, plan and preprocess a dataset by nnU-Net's own entry points."""

import argparse
import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from nnunet_bridge.nnunet.inside.safety import json_read_by
from nnunet_bridge.nnunet.models import ModelFolder, judged


def add_arguments(plan: argparse.ArgumentParser) -> None:
    """Declare the arguments of the task."""
    plan.add_argument("--number", type=int, required=True)
    plan.add_argument("--dataset", required=True)
    plan.add_argument("--fingerprint", action="store_true")
    plan.add_argument("--planner", action="append", default=[])
    plan.add_argument("--preprocess", action="append", nargs=2, default=[])
    plan.add_argument("--have", action="append", default=[])
    plan.add_argument("-gpu_memory_target", type=float)
    plan.add_argument("-overwrite_target_spacing", type=float, nargs=3)


def plan(asked: argparse.Namespace) -> None:
    """Verify, plan and preprocess one dataset.

    Plans with the same `data_identifier` share preprocessed data, which are made once.
    Configurations that nnU-Net did not plan are skipped. Plans and descriptions are
    judged whenever nnU-Net reads them: `data_identifier` names a folder to remove.
    """
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api
    from nnunetv2.preprocessing.preprocessors import default_preprocessor
    from nnunetv2.utilities.plans_handling import plans_handler

    number, workers = [asked.number], asked.workers
    if asked.fingerprint:
        options = {"num_processes": workers, "check_dataset_integrity": True}
        api.extract_fingerprints(number, **options)
    for planner in asked.planner:
        api.plan_experiments(
            number,
            planner,
            gpu_memory_target_in_gb=asked.gpu_memory_target,
            overwrite_target_spacing=asked.overwrite_target_spacing,
        )
    folder = Path(os.environ["nnUNet_preprocessed"], asked.dataset)  # noqa: SIM112 - nnU-Net's name
    done = set(asked.have)
    for plans, configuration in asked.preprocess:
        name = ModelFolder(asked.dataset, "", plans, "")
        manager = plans_handler.PlansManager(judged(folder / f"{plans}.json", name))
        if configuration not in manager.available_configurations:
            continue
        identifier = manager.get_configuration(configuration).data_identifier
        if identifier not in done:
            done.add(identifier)
            chosen = {"configurations": [configuration], "num_processes": [workers]}
            with ExitStack() as block:
                for module in (api, default_preprocessor, plans_handler):
                    read = json_read_by(module, partial(judged, name=name))
                    block.enter_context(read)
                api.preprocess(number, plans, **chosen)
