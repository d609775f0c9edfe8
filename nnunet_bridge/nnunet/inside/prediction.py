"""Predicting a folder of images with one model, and averaging several."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from nnunet_bridge.nnunet.inside.sides import keep_sides_in_prediction
from nnunet_bridge.nnunet.names import FILE_ENDING


def add_arguments(predict: argparse.ArgumentParser) -> None:
    """Add what a prediction is told."""
    predict.add_argument("--model", type=Path, required=True)
    predict.add_argument("--fold", action="append", required=True)
    predict.add_argument("--images", type=Path, required=True)
    predict.add_argument("--out", type=Path, required=True)
    predict.add_argument("--device", required=True)
    predict.add_argument("--probabilities", action="store_true")


def add_ensemble_arguments(ensemble: argparse.ArgumentParser) -> None:
    """Add what an ensemble is told."""
    ensemble.add_argument("--member", action="append", required=True)
    ensemble.add_argument("--out", type=Path, required=True)


def predict(asked: argparse.Namespace) -> None:
    """Predict every image of a folder."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    on_gpu = asked.device == "cuda"
    predictor = nnUNetPredictor(
        perform_everything_on_device=on_gpu, device=torch.device(asked.device)
    )
    folds = tuple(fold if fold == "all" else int(fold) for fold in asked.fold)
    predictor.initialize_from_trained_model_folder(str(asked.model), folds)
    keep_sides_in_prediction(predictor, sorted(asked.images.glob(f"*{FILE_ENDING}")))
    asked.out.mkdir(parents=True, exist_ok=True)
    options = {"save_probabilities": asked.probabilities, "overwrite": True}
    if asked.workers > 1:
        predictor.predict_from_files(
            str(asked.images),
            str(asked.out),
            num_processes_preprocessing=asked.workers,
            num_processes_segmentation_export=asked.workers,
            **options,
        )
    else:
        predictor.predict_from_files_sequential(
            str(asked.images), str(asked.out), **options
        )


def ensemble(asked: argparse.Namespace) -> None:
    """Average the probabilities of several models."""
    from nnunetv2.ensembling.ensemble import ensemble_folders

    ensemble_folders(asked.member, str(asked.out), num_processes=asked.workers)
