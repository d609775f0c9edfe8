"""Run all steps on synthetic lower limbs, on a CPU."""

from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.core.words import ALWAYS_PLANNED
from nnunet_bridge.formats.files import clear_os_errors
from nnunet_bridge.formats.recipe import read_recipe
from nnunet_bridge.nnunet.methods import DEFAULT_MODEL, method_of
from nnunet_bridge.nnunet.names import Workspace
from nnunet_bridge.pipeline.ingest.phantom_study import (
    PhantomParameters,
    PhantomStudy,
    write_phantom_study,
)
from nnunet_bridge.pipeline.study import StudyOptions, StudySummary, run_study

UNSEEN = 2  # patients that are kept for testing
FEWEST_FOR_TRAINING = 2


@dataclass(frozen=True, slots=True)
class SyntheticPatients:
    """What ``demo --only-study`` prints."""

    study: Path
    recipe: Path
    patients: int
    exit_code = 0

    def as_json(self) -> JsonObject:
        """Return the object that ``demo --only-study --json`` prints."""
        return json_of(self)

    def as_text(self) -> str:
        """Return the folder, and the command that continues."""
        return (
            f"{self.patients} synthetic patients are in {self.study}. Continue with: "
            f"nnunet-bridge check {self.study} -r {self.recipe}"
        )


def write_demo_study(
    folder: Path, *, patients: int = 10, progress: Progress | None = None
) -> SyntheticPatients:
    """Make the synthetic patients of the demo in ``folder/study``, and no more."""
    study = _demo_study(folder, patients, progress or Silent())
    return SyntheticPatients(study.folder, study.recipe_file, patients)


def _demo_study(folder: Path, patients: int, progress: Progress) -> PhantomStudy:
    if patients < UNSEEN + FEWEST_FOR_TRAINING:
        raise UsageError(
            f"The demo needs {UNSEEN + FEWEST_FOR_TRAINING} patients: two for testing, "
            "one to train on, one to validate."
        )
    parameters = PhantomParameters(patients - UNSEEN, UNSEEN)
    return write_phantom_study(folder / "study", parameters, progress=progress)


def run_demo(
    folder: Path,
    *,
    patients: int = 10,
    device: str = "auto",
    progress: Progress | None = None,
) -> StudySummary:
    """Make synthetic patients in `folder` and run all steps on them.

    The folder gets ``study/`` (DICOM and masks) and ``work/`` (everything made from
    them). The last two patients are kept for testing; too few are a `UsageError`.
    """
    shown = progress or Silent()
    study = _demo_study(folder, patients, shown)
    work = folder / "work"
    with clear_os_errors(f"write {work}"):
        work.mkdir(parents=True, exist_ok=True)
    method = method_of(DEFAULT_MODEL, "smoke")
    options = StudyOptions(method, ALWAYS_PLANNED, ("0",), device)
    workspace, recipe = (
        Workspace.at(work, environment={}),
        read_recipe(study.recipe_file),
    )
    return run_study(study.folder, recipe, workspace, options, progress=shown)
