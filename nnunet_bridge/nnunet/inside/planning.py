"""Verifying, planning and preprocessing a dataset: nnU-Net's own entry points."""

from __future__ import annotations

import argparse


def add_arguments(plan: argparse.ArgumentParser) -> None:
    """Add what planning is told."""
    plan.add_argument("--number", type=int, required=True)
    plan.add_argument("--configuration", action="append", required=True)


def plan(asked: argparse.Namespace) -> None:
    """Verify, plan and preprocess one dataset."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    number = [asked.number]
    api.extract_fingerprints(
        number, num_processes=asked.workers, check_dataset_integrity=True
    )
    api.plan_experiments(number)
    api.preprocess(
        number, configurations=asked.configuration, num_processes=[asked.workers]
    )
