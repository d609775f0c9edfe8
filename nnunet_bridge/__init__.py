"""Train nnU-Net on DICOM MRI and 3D Slicer masks; compare 2D with 3D.

The names below are the public interface: one function for each step, and the values
that these functions take and return. A name is loaded when it is first used, so that
importing the package is quick.
"""

import sys

if sys.argv[:1] == ["-m"] and "runpy" in sys.modules and not sys.flags.safe_path:
    # `python -m` has just put the current folder first on the path, where a `json.py`
    # beside the data would run. No module of ours has been imported before this line.
    sys.path.pop(0)

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnunet_bridge.core.version import __version__

if TYPE_CHECKING:
    from nnunet_bridge.core.errors import BridgeError
    from nnunet_bridge.core.grid import Grid
    from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
    from nnunet_bridge.formats.recipe import read_recipe
    from nnunet_bridge.nnunet.methods import method_of
    from nnunet_bridge.nnunet.names import Dataset, Workspace
    from nnunet_bridge.ops.metrics import bone_scores
    from nnunet_bridge.pipeline.comparison.compare import (
        ComparisonOptions,
        compare_dataset,
    )
    from nnunet_bridge.pipeline.ingest.convert import convert_study
    from nnunet_bridge.pipeline.labels.mesh import MeshOptions, mesh_labels
    from nnunet_bridge.pipeline.labels.score import ScoreOptions, score_folders
    from nnunet_bridge.pipeline.models.choose import ModelRequest
    from nnunet_bridge.pipeline.prediction.options import PredictionOptions
    from nnunet_bridge.pipeline.prediction.predict import predict_images
    from nnunet_bridge.pipeline.training.plan import PlanningOptions, plan_dataset
    from nnunet_bridge.pipeline.training.request import TrainingRequest
    from nnunet_bridge.pipeline.training.train import train_dataset

__all__ = [
    "BridgeError",
    "ComparisonOptions",
    "Dataset",
    "Grid",
    "LabelTable",
    "Labelmap",
    "MeshOptions",
    "ModelRequest",
    "PlanningOptions",
    "PredictionOptions",
    "ScoreOptions",
    "TrainingRequest",
    "Volume",
    "Workspace",
    "__version__",
    "bone_scores",
    "compare_dataset",
    "convert_study",
    "mesh_labels",
    "method_of",
    "plan_dataset",
    "predict_images",
    "read_recipe",
    "score_folders",
    "train_dataset",
]

_HOMES = {
    name: home
    for home, names in {
        "core.errors": "BridgeError",
        "core.grid": "Grid",
        "core.image": "LabelTable Labelmap Volume",
        "formats.recipe": "read_recipe",
        "nnunet.methods": "method_of",
        "nnunet.names": "Dataset Workspace",
        "ops.metrics": "bone_scores",
        "pipeline.comparison.compare": "ComparisonOptions compare_dataset",
        "pipeline.ingest.convert": "convert_study",
        "pipeline.labels.mesh": "MeshOptions mesh_labels",
        "pipeline.labels.score": "ScoreOptions score_folders",
        "pipeline.models.choose": "ModelRequest",
        "pipeline.prediction.options": "PredictionOptions",
        "pipeline.prediction.predict": "predict_images",
        "pipeline.training.plan": "PlanningOptions plan_dataset",
        "pipeline.training.request": "TrainingRequest",
        "pipeline.training.train": "train_dataset",
    }.items()
    for name in names.split()
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Load a public name from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
