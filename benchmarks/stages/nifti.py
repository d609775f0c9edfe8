"""Write an MR image and a labelmap as ``.nii.gz``."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from limb import Limb
from race import Contender, Facts, Stage, sha256

from nnunet_bridge.core.image import Labelmap, Volume
from nnunet_bridge.formats.nifti import LPS_FROM_RAS, write_labelmap, write_volume

SLICES = 128
LARGER_AT_MOST = 1.04
"""What an image may be larger than SimpleITK's."""


def _image(limb: Limb, _: Path) -> Volume:
    return Limb((*limb.shape[:2], min(SLICES, limb.shape[2]))).image


def _labelmap(limb: Limb, _: Path) -> Labelmap:
    return limb.reference


def _ours(written: Volume | Labelmap, folder: Path) -> Path:
    file = folder / "ours.nii.gz"
    if isinstance(written, Volume):
        write_volume(file, written)
    else:
        write_labelmap(file, written)
    return file


def _source(written: Volume | Labelmap, folder: Path) -> Path:
    import SimpleITK as sitk  # noqa: N813 - its common name

    file, affine = folder / "source.nii.gz", written.grid.affine
    image = sitk.GetImageFromArray(written.voxels.T)
    image.SetSpacing(written.grid.spacing_mm.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / written.grid.spacing_mm).ravel().tolist())
    sitk.WriteImage(image, file)
    return file


def _in_nibabel(written: Volume | Labelmap) -> Any:
    import nibabel

    return nibabel.Nifti1Image(written.voxels, LPS_FROM_RAS @ written.grid.affine)


def _nibabel(written: Volume | Labelmap, folder: Path) -> Path:
    file = folder / "nibabel.nii.gz"
    _in_nibabel(written).to_filename(file)
    return file


def _libdeflate(written: Volume | Labelmap, folder: Path) -> Path:
    import deflate

    content = io.BytesIO()
    _in_nibabel(written).to_stream(content)
    file = folder / "libdeflate.nii.gz"
    file.write_bytes(deflate.gzip_compress(content.getvalue(), 4))
    return file


def _facts(file: Path) -> Facts:
    """Return what nibabel, which wrote none of the compared two, reads back."""
    import nibabel

    image = nibabel.load(file)
    return {
        "voxels": sha256(np.asarray(image.dataobj)),
        "affine": image.affine,
        "bytes": file.stat().st_size,
    }


def _agree(baseline: Facts, other: Facts) -> bool:
    same_place = np.allclose(baseline["affine"], other["affine"], rtol=0, atol=1e-3)
    return same_place and baseline["voxels"] == other["voxels"]


def _size(baseline: Facts, ours: Facts) -> str:
    sizes = (ours["bytes"], baseline["bytes"])
    written, theirs = (size / 1e6 for size in sizes)
    return f"{written:.2f} MB; source {theirs:.2f} MB ({written / theirs:.2f})"


def _size_of_an_image(baseline: Facts, ours: Facts) -> str:
    fits = ours["bytes"] <= LARGER_AT_MOST * baseline["bytes"]
    verdict = "met" if fits else "missed"
    return f"{_size(baseline, ours)}; at most {LARGER_AT_MOST}: {verdict}"


_WRITERS: dict[str, Any] = {
    "baseline": Contender("source: SimpleITK", _source, needs=("SimpleITK",)),
    "ours": Contender("nnunet-bridge, read back as proof", _ours),
    "others": (
        Contender("nibabel", _nibabel),
        Contender("libdeflate, level 4", _libdeflate, needs=("deflate",)),
    ),
    "target": 0.2,
    "facts": _facts,
    "agree": _agree,
}

IMAGE = Stage(
    name="write MR .nii.gz",
    prepare=_image,
    remark=_size_of_an_image,
    **_WRITERS,
)
LABELS = Stage(
    name="write labels .nii.gz",
    prepare=_labelmap,
    remark=_size,
    **_WRITERS,
)
