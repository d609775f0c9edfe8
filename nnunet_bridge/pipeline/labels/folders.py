"""Read folders of label files: their cases and the names of their labels."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.formats.images import ENDINGS, is_labelmap, read_values
from nnunet_bridge.formats.labels_file import (
    MOST_UNNAMED,
    find_label_file,
    number_labels,
    read_label_table,
)
from nnunet_bridge.ops.naming import composed

IN_CASE_FOLDER = "labels"
"""Stem of the label file in the folder that `predict` writes for each case."""


def label_files(path: Path, endings: tuple[str, ...] = ENDINGS) -> dict[str, Path]:
    """Return the label files at a path by case, in order of the case names.

    Parameters
    ----------
    path : Path
        One label file, or a folder of ``<case>.nii.gz``, or of
        ``<case>/labels.nii.gz`` as `predict` writes them.
    endings : tuple of str
        Endings of label files.

    Raises `InputError` if nothing is there, or two files are of the same case.
    """
    if path.is_file():
        if not (is_labelmap(path.name) and path.name.endswith(endings)):
            known = ", ".join(endings)
            raise InputError(f"{path} is not a file of labels ({known}).")
        return {_stem(path): path}
    if not path.is_dir():
        raise InputError(f"{path} does not exist.")
    found: dict[str, Path] = {}
    for file in sorted([*path.iterdir(), *path.glob(f"*/{IN_CASE_FOLDER}.nii*")]):
        named = is_labelmap(file.name) and file.name.endswith(endings)
        if file.is_file() and named:
            case_id = _stem(file) if file.parent == path else file.parent.name
            if case_id in found:
                both = f"{found[case_id]} and {file} are both of case {case_id}"
                raise InputError(f"{both}: remove one.")
            found[case_id] = file
    if not found:
        raise InputError(f"{path} holds no label files (<case>.nii.gz).")
    return dict(sorted(found.items()))


def table_file_for(paths: Iterable[Path], labels_file: Path | None) -> Path | None:
    """Return the named ``dataset.json``, or the first one beside the paths."""
    if labels_file is not None:
        return labels_file
    for path in paths:
        beside = find_label_file(path if path.is_dir() else path.absolute().parent)
        if beside is not None:
            return beside
    return None


def table_for(
    table_file: Path | None, files: Iterable[Path], *, regions: bool = False
) -> LabelTable:
    """Return the labels of a ``dataset.json``, or unnamed ones for the values found.

    It may have `regions` only where they are known.

    Raises `InputError` if the table cannot be used, or no file can be read to find
    values in.
    """
    if table_file is not None:
        return read_label_table(table_file, regions=regions)
    highest, reasons = [], []
    for file in files:
        try:
            _, voxels = read_values(file)
        except (Refused, InputError) as error:
            reasons.append(str(error))
        else:
            highest.append(round(np.nan_to_num(voxels.max(initial=0))))
    if not highest:
        raise InputError("No label file can be read:\n" + "\n".join(reasons))
    # A file with larger values is refused by itself, when it is read.
    return number_labels(max([v for v in highest if v <= MOST_UNNAMED] or highest))


def _stem(file: Path) -> str:
    ending = next(ending for ending in ENDINGS if file.name.endswith(ending))
    return composed(file.name.removesuffix(ending))
