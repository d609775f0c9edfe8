"""Labels of another tool as one more model of a comparison."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.formats.label_map import LabelMap
from nnunet_bridge.formats.nifti import write_labelmap
from nnunet_bridge.nnunet.names import FILE_ENDING
from nnunet_bridge.ops.outcomes import NOT_TRAINED
from nnunet_bridge.pipeline.labels.folders import label_files
from nnunet_bridge.pipeline.labels.other_tools import mapped_labels
from nnunet_bridge.pipeline.models.run_facts import FoldRun, ModelRun

NO_FOLD = NOT_TRAINED  # fold of a model that has no folds


@dataclass(frozen=True, slots=True)
class Baseline:
    """Another tool's labels for cases of the dataset."""

    name: str  # name in the comparison
    folder: Path  # with ``<case>.nii.gz`` or ``<case>/labels.nii.gz``


def baseline_of(word: str) -> Baseline:
    """Return the baseline of the option ``NAME=FOLDER``."""
    name, equals, folder = word.partition("=")
    if not (equals and name.strip() and folder) or not name.strip().isprintable():
        raise UsageError(f"Invalid --baseline {word!r}. Write NAME=FOLDER.")
    return Baseline(name.strip(), Path(folder))


def baseline_run(
    baseline: Baseline,
    label_map: LabelMap | None,
    out_dir: Path,
    table: LabelTable,
    grids: Mapping[str, Callable[[], Grid]],
) -> ModelRun:
    """Write the labels of a baseline as the validation predictions of a model.

    `out_dir` gets ``<case>.nii.gz`` for every case; `grids` maps a case to a function
    that reads the grid of its reference. Without a `label_map`, its labels are ours.

    Raises `InputError` if it has no labels for any case, or some cannot be used; all
    are listed.
    """
    files = label_files(baseline.folder)
    used = {case: file for case, file in files.items() if case in grids}
    if not used:
        raise InputError(
            f"{baseline.folder} contains no labels of the dataset's cases, such as "
            f"{next(iter(grids), 'case')}{FILE_ENDING}. Name the files like the cases."
        )
    values = {label.name: label.value for label in table}
    chosen = label_map or LabelMap({name: name for name in values}, values)
    problems = []
    for case_id, file in used.items():
        try:
            labelmap, _ = mapped_labels(file, grids[case_id](), table, chosen)
        except Refused as error:
            problems.append(f"{case_id}: {error}")
        else:
            write_labelmap(out_dir / f"{case_id}{FILE_ENDING}", labelmap)
    if problems:
        raise InputError(f"{baseline.name} cannot be compared:\n" + "\n".join(problems))
    return ModelRun(baseline.name, "another tool", (FoldRun(NO_FOLD, out_dir),))
