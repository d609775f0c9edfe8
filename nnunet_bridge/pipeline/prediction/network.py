"""Predict the images of a folder with nnU-Net: one model, or the mean of several."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from nnunet_bridge.core.errors import BridgeError, EnvironmentFault
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.units import format_bytes
from nnunet_bridge.core.words import Fold
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.formats.memory import require_memory
from nnunet_bridge.formats.nifti import read_grid
from nnunet_bridge.formats.system import link_or_copy
from nnunet_bridge.nnunet.commands import (
    NnUNetProcess,
    Resources,
    predict_command,
    trusting,
)
from nnunet_bridge.nnunet.estimates import PlannedMember, host_bytes, waiting_disk_bytes
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.models import DATASET_FILE, PLANS_FILE
from nnunet_bridge.nnunet.names import Dataset, images_by_case
from nnunet_bridge.nnunet.plans import CASCADE, LOWRES, resolved
from nnunet_bridge.nnunet.runs import RunState
from nnunet_bridge.pipeline.models.choose import Model

IMAGES = "images"  # folder of the work folder with ``<case>_0000.nii.gz``
PREDICTED = "predicted"
"""Folder of the work folder with ``<case>.nii.gz`` and ``<case>.agreement.json``."""

_SMALLER = (
    "predict a part of the image, with fewer folds or one configuration, close other "
    "programs, or use a machine with more memory"
)


class ImagesTooLarge(BridgeError):  # noqa: N818 - it lists cases
    """Some images fit neither memory (F10) nor disk (F06); predict the others."""

    def __init__(self, cases: Mapping[str, Refused]) -> None:
        super().__init__("\n".join(map(str, cases.values())), code="F10")
        self.cases = cases


@dataclass(frozen=True, slots=True)
class Inference:
    """How the networks are computed."""

    engine: str = "torch"  # or ``openvino``
    body_only: bool = False  # whether windows far from the body are left out
    fast: bool = False  # whether in larger steps and not mirrored

    def words(self, dataset: Dataset) -> list[str]:
        """Return the arguments of a call of nnU-Net for a model of a dataset."""
        kept = dataset.record_dir / "openvino"
        words = ["--openvino", str(kept)] if self.engine == "openvino" else []
        words += ["--body-only"] if self.body_only else []
        return [*words, *(["--fast"] if self.fast else [])]


class Network(Protocol):
    """Predicts the images of a work folder, as `predict_folder` does."""

    def __call__(
        self,
        model: Model,
        work: Path,
        resources: Resources,
        *,
        advanced: Callable[[float], None],
    ) -> Path:
        """Return the folder of ``<case>.nii.gz``; call `advanced` with the share."""


def predict_folder(
    model: Model,
    work: Path,
    resources: Resources,
    *,
    advanced: Callable[[float], None],
    host: Host | None = None,
    inference: Inference | None = None,
) -> Path:
    """Predict every image of a folder; return the folder of ``<case>.nii.gz``.

    Beside each lies its `names.agreement_file`: the mean Dice between folds, and
    between configurations, where there are several. `work` contains the images in
    `IMAGES`; one worker predicts if the memory is not enough for several. Each GPU
    predicts a part of the images.

    Raises
    ------
    SecurityError
        If the model could do harm (S01, S02, S07-S10).
    ImagesTooLarge
        If some images do not fit into memory (F10); nothing was predicted.
    EnvironmentFault
        If the disk is too small for an image (F06).
    NnUNetError
        If nnU-Net fails.
    """
    host = host or Host()
    model.check()
    members = _planned_members(model)
    images = images_by_case(work / IMAGES).items()
    grids = {case_id: read_grid(files[0]) for case_id, files in images}
    gpus = host.visible(1) if resources.device == "cuda" else ("",)
    parts = _within(host.free_memory(), members, grids, resources, gpus)
    _require_disk(members, grids, host.free_bytes(work))
    call = _Call(model, work, parts, host, inference or Inference())
    previous = work / f"{LOWRES}_for_{CASCADE}" if model.previous else None
    if previous:
        call.predict([model.previous], previous)
    states = list(model.members().values())
    call.predict(states, work / PREDICTED, previous_dir=previous, advanced=advanced)
    return work / PREDICTED


@dataclass(frozen=True, slots=True)
class _Call:
    """Calls of nnU-Net on the same images."""

    model: Model
    work: Path
    parts: Sequence[Resources]
    """Resources of each process; each predicts a part of the images."""

    host: Host
    inference: Inference

    def predict(
        self,
        members: Sequence[Sequence[RunState]],
        out_dir: Path,
        *,
        previous_dir: Path | None = None,
        advanced: Callable[[float], None] | None = None,
    ) -> None:
        """Predict with the mean of `members`."""
        task = f"predict {self.model.name}"
        folders = {
            _folder_of(states, self.work): [state.run.fold for state in states]
            for states in members
        }
        with ExitStack() as running:
            processes = []
            files = [self.work / f"{n}.progress.jsonl" for n in range(len(self.parts))]
            for number, file in enumerate(files):
                process = self._started(folders, out_dir, number, file, previous_dir)
                processes.append(running.enter_context(process))

            def report() -> None:
                if advanced:
                    advanced(statistics.fmean(map(_share_done, files)))

            for process in processes:
                self.host.finish(process, task, report)

    def _started(
        self,
        folders: Mapping[Path, Sequence[Fold]],
        out_dir: Path,
        number: int,
        progress_file: Path,
        previous_dir: Path | None,
    ) -> NnUNetProcess:
        """Start the process that predicts a part of the images."""
        progress_file.unlink(missing_ok=True)
        command = predict_command(
            folders,
            self.work / IMAGES,
            out_dir,
            self.parts[number],
            progress_file=progress_file,
            previous_dir=previous_dir,
        )
        command += trusting(self.model.trusted)
        command += self.inference.words(self.model.dataset)
        if len(self.parts) > 1:
            command += ["--part", str(number), str(len(self.parts))]
        dataset = self.model.dataset
        log_file = dataset.record_dir / f"predict{number or ''}.log"
        return self.host.launch(
            dataset.workspace, command, self.parts[number], log_file
        )


def _folder_of(states: Sequence[RunState], work: Path) -> Path:
    """Return the model folder that holds all folds of a configuration.

    Each further training of a fold has its own; links to several are put into one.
    """
    own = states[0].run.model_dir
    if all(state.run.model_dir == own for state in states):
        return own
    folder = work / "models" / own.parent.name / own.name
    folder.mkdir(parents=True)
    for name in (PLANS_FILE, DATASET_FILE):
        link_or_copy(folder / name, (own / name).absolute())
    for run in (state.run for state in states):
        link_or_copy(folder / f"fold_{run.fold}", run.fold_dir.absolute())
    return folder


def _planned_members(model: Model) -> list[PlannedMember]:
    members = []
    for configuration, states in model.members().items():
        folder = states[0].run.model_dir
        size = sum(state.run.checkpoint_file.stat().st_size for state in states)
        plans, dataset = (read_json(folder / f"{n}.json") for n in ("plans", "dataset"))
        planned = plans, dataset, resolved(plans, configuration)
        member = PlannedMember.of(*planned, folds=len(states), weights_bytes=size)
        members.append(member)
    return members


def _within(
    free: int,
    members: Sequence[PlannedMember],
    grids: Mapping[str, Grid],
    resources: Resources,
    gpus: Sequence[str],
) -> list[Resources]:
    """Return the resources of each process: one a GPU, if images and memory suffice.

    Each has one worker, if memory is not enough for more. Raise `ImagesTooLarge` with
    every image that does not fit even alone (F10).
    """
    on_gpu, alone, ahead = resources.device == "cuda", 1, 1
    too_large: dict[str, Refused] = {}
    for case_id, grid in grids.items():
        shape, spacing_mm = grid.shape[::-1], grid.spacing_mm[::-1].tolist()
        needed = host_bytes(members, shape, spacing_mm, on_gpu=on_gpu)
        try:
            require_memory(needed, free, f"Predicting {case_id}", way_out=_SMALLER)
        except Refused as refusal:
            too_large[case_id] = refusal
        two = host_bytes(members, shape, spacing_mm, on_gpu=on_gpu, ahead=True)
        alone, ahead = max(alone, needed), max(ahead, two)
    if too_large:
        raise ImagesTooLarge(too_large)
    processes = max(1, min(len(gpus), len(grids), free // alone))
    workers = max(2 if on_gpu else 1, resources.workers // processes)
    if processes * ahead > free:
        workers = 1
    shared = replace(resources, workers=workers, gpus=1)
    return [replace(shared, visible=gpu) for gpu in gpus[:processes]]


def _require_disk(
    members: Sequence[PlannedMember], grids: Mapping[str, Grid], free: int
) -> None:
    """Refuse images whose mean of several members does not fit on the disk (F06).

    Raise `EnvironmentFault` if none fits.
    """
    too_large: dict[str, Refused] = {}
    for case_id, grid in grids.items():
        needed = waiting_disk_bytes(members, grid.shape)
        if needed > free:
            too_large[case_id] = Refused.because(
                "F06",
                f"The mean of {len(members)} configurations needs "
                f"{format_bytes(needed)} of disk for {case_id}, but "
                f"{format_bytes(free)} are free where the results go: free some "
                "space, or predict with one configuration (-c).",
            )
    if too_large and len(too_large) == len(grids):
        first = next(iter(too_large.values())).findings[0]
        raise EnvironmentFault(first.message, code=first.code)
    if too_large:
        raise ImagesTooLarge(too_large)


def _share_done(progress_file: Path) -> float:
    """Return the share in the last complete line that nnU-Net's process has written."""
    if not progress_file.exists():
        return 0.0
    *lines, _ = progress_file.read_text(encoding="utf-8").split("\n")
    return float(json.loads(lines[-1])["done"]) if lines else 0.0
