"""From DICOM MRI and 3D Slicer masks to nnU-Net, and to the answer: 2D or 3D.

The names below are the public interface; each is loaded when it is first used, so that
importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnunet_bridge.core.version import __version__

if TYPE_CHECKING:
    from nnunet_bridge.core.errors import BridgeError
    from nnunet_bridge.core.grid import Grid
    from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
    from nnunet_bridge.formats.recipe import read_recipe
    from nnunet_bridge.nnunet.names import Workspace
    from nnunet_bridge.ops.metrics import bone_scores
    from nnunet_bridge.pipeline.convert import convert_study
    from nnunet_bridge.pipeline.predict import predict_images

__all__ = [
    "BridgeError",
    "Grid",
    "LabelTable",
    "Labelmap",
    "Volume",
    "Workspace",
    "__version__",
    "bone_scores",
    "convert_study",
    "predict_images",
    "read_recipe",
]

_HOMES = {
    "BridgeError": "core.errors",
    "Grid": "core.grid",
    "LabelTable": "core.image",
    "Labelmap": "core.image",
    "Volume": "core.image",
    "Workspace": "nnunet.names",
    "bone_scores": "ops.metrics",
    "convert_study": "pipeline.convert",
    "predict_images": "pipeline.predict",
    "read_recipe": "formats.recipe",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Load a public name from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
