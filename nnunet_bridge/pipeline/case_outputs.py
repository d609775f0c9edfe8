"""What a predicted case is given out as: labels, meshes, and what else is asked for."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.image import Labelmap
from nnunet_bridge.formats.files import sha256_of
from nnunet_bridge.formats.labels_file import CASE_LABELS, WHOLE_SCAN_LABELS
from nnunet_bridge.formats.nifti import write_labelmap
from nnunet_bridge.ops.region import Region, put_back
from nnunet_bridge.pipeline.mesh import write_meshes


@dataclass(frozen=True, slots=True)
class WantedOutputs:
    """Which files a case gets beside its labels."""

    meshes: bool = False


def write_outputs(
    case_dir: Path, labelmap: Labelmap, region: Region | None, wanted: WantedOutputs
) -> dict[str, str]:
    """Write everything that a predicted case is given out as.

    Parameters
    ----------
    case_dir : Path
        The folder of the case.
    labelmap : Labelmap
        On the grid of the image.
    region : Region or None
        What the image was cropped from; None if nothing was.
    wanted : WantedOutputs

    Returns
    -------
    hashes : dict
        By which `predict` knows a finished case again: ``labels_sha256`` and, with a
        region, ``whole_scan_sha256``.
    """
    labels_file = case_dir / CASE_LABELS
    shutil.rmtree(case_dir / "meshes", ignore_errors=True)
    write_labelmap(labels_file, labelmap)
    hashes = {"labels_sha256": sha256_of(labels_file)}
    hashes |= write_whole_scan(case_dir, labelmap, region)
    if wanted.meshes:
        write_meshes(labelmap, case_dir / "meshes")
    return hashes


def write_whole_scan(
    case_dir: Path, labelmap: Labelmap, region: Region | None
) -> dict[str, str]:
    """Write a prediction on the grid of the scan that its image was cropped from.

    Parameters
    ----------
    case_dir : Path
        The folder of the case.
    labelmap : Labelmap
        On the grid of the image.
    region : Region or None
        What `convert` kept of the scan; None if it kept everything, and then a file of
        an earlier call is removed.

    Returns
    -------
    hashes : dict
        ``whole_scan_sha256`` of the file, if there is one.
    """
    file = case_dir / WHOLE_SCAN_LABELS
    if region is None:
        file.unlink(missing_ok=True)
        return {}
    write_labelmap(file, put_back(labelmap, region))
    return {"whole_scan_sha256": sha256_of(file)}
