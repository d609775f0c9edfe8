"""A trainer of another lab, as nnU-Net finds it through ``nnUNet_extTrainer``."""

import os
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

Path(os.environ["LAB_TRAINER_WAS_IMPORTED"]).touch()


class LabTrainer(nnUNetTrainer):
    """Three epochs of two steps."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 3
        self.num_iterations_per_epoch = 2
        self.num_val_iterations_per_epoch = 1
