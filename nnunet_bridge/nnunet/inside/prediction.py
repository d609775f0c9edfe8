"""Predicting a folder of images with one configuration, or the mean of several.

The planes of the last member are averaged with the others' as they come; the others'
wait in files without a name, so that the logits of one image at most lie on the disk,
and none are left there however the process ends.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from nnunet_bridge.formats.files import write_json
from nnunet_bridge.nnunet.inside.member import Cropped, Member, Prepared, labels_of
from nnunet_bridge.nnunet.inside.overlaps import Overlaps
from nnunet_bridge.nnunet.names import agreement_file, images_by_case

_REPORT_EVERY_S = 0.25
_Labels: TypeAlias = npt.NDArray[np.uint8]
_Dice: TypeAlias = dict[str, float | None]


def add_arguments(predict: argparse.ArgumentParser) -> None:
    """Add what a prediction is told."""
    predict.add_argument("--member", action="append", nargs="+", required=True)
    predict.add_argument("--images", type=Path, required=True)
    predict.add_argument("--out", type=Path, required=True)
    predict.add_argument("--device", required=True)
    predict.add_argument("--progress", type=Path, required=True)
    predict.add_argument("--previous", type=Path)


def predict(asked: argparse.Namespace) -> None:
    """Predict every image of a folder.

    A member is a model folder and its folds; several are averaged. Beside every
    labelmap lies what `names.agreement_file` names: how well folds and members agree.
    """
    device = torch.device(asked.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    members = [Member(Path(model), folds, device) for model, *folds in asked.member]
    asked.out.mkdir(parents=True, exist_ok=True)
    ending = members[0].dataset["file_ending"]
    cases = images_by_case(asked.images, ending)
    jobs = [
        Job(files, member, asked.previous and asked.previous / f"{case_id}{ending}")
        for case_id, files in cases.items()
        for member in members
    ]
    report = Report(asked.progress, [job.work() for job in jobs])
    with torch.inference_mode():
        prepared = _prepared(jobs, ahead=asked.workers > 1)
        for case_id in cases:
            case = Case(asked.out, report)
            for member in members[:-1]:
                case.keep(member, next(prepared))
            case.finish(members[-1], next(prepared), f"{case_id}{ending}")
            write_json(agreement_file(asked.out, case_id), case.agreement())


@dataclass(frozen=True, slots=True)
class Job:
    """One image for one member."""

    files: Sequence[Path]
    """One a channel."""

    member: Member
    previous: Path | None
    """The labelmap of the configuration before, for a member that corrects it."""

    def work(self) -> float:
        """Return how much the networks have to do, in any unit."""
        return self.member.work(self.files)

    def prepare(self) -> Prepared:
        """Return the image as the member sees it."""
        return self.member.prepare(self.files, self.previous)


def _prepared(jobs: Sequence[Job], *, ahead: bool) -> Iterator[Prepared]:
    """Go through the images of the jobs; prepare one `ahead` where there is room."""
    if not ahead:
        for job in jobs:
            yield job.prepare()
        return
    with ThreadPoolExecutor(1) as thread:
        coming: Future[Prepared] | None = thread.submit(jobs[0].prepare)
        for following in [*jobs[1:], None]:
            prepared = coming.result() if coming else None
            coming = thread.submit(following.prepare) if following else None
            if prepared:
                yield prepared
            del prepared


@dataclass(slots=True)
class Report:
    """A file that gets a line of JSON now and then: which share is done."""

    file: Path
    work: Sequence[float]
    """Of every job."""

    job: int = 0
    last_s: float = -1.0

    def show(self, share: float) -> None:
        """Tell which share of the current job is done."""
        now_s = time.monotonic()
        if share < 1 and now_s - self.last_s < _REPORT_EVERY_S:
            return
        self.last_s = now_s
        done = sum(self.work[: self.job]) + share * self.work[self.job]
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"done": round(done / sum(self.work), 6)}) + "\n")

    def next_job(self) -> None:
        """Begin the next job."""
        self.job += 1


@dataclass(frozen=True, slots=True)
class _Kept:
    """The logits of a member that wait for the last one's."""

    cropped: Cropped
    file: IO[bytes]
    kind: np.dtype[np.generic]
    shape: tuple[int, ...]
    """Of a plane, heads first."""

    @classmethod
    def of(
        cls, planes: Iterator[torch.Tensor], cropped: Cropped, folder: Path
    ) -> _Kept:
        """Write the planes into a file that is gone when nobody needs it."""
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - it lives as long as its planes are needed
        for plane in planes:
            voxels = plane.cpu().numpy()
            file.write(memoryview(np.ascontiguousarray(voxels)).cast("B"))
        return cls(cropped, file, voxels.dtype, voxels.shape)

    def planes(self) -> Iterator[torch.Tensor]:
        """Go through the planes as they came."""
        self.file.seek(0)
        for _ in range(self.cropped.shape[0]):
            plane = np.fromfile(self.file, self.kind, int(np.prod(self.shape)))
            yield torch.from_numpy(plane.reshape(self.shape))


@dataclass(slots=True)
class Case:
    """One image on its way to a labelmap."""

    out: Path
    report: Report
    kept: list[_Kept] = field(default_factory=list)
    between_folds: list[_Dice] = field(default_factory=list)
    between_members: _Dice | None = None

    def keep(self, member: Member, prepared: Prepared) -> None:
        """Let a member predict, and keep its logits for the mean."""

        def keep(planes: Iterator[torch.Tensor]) -> None:
            self.kept.append(_Kept.of(planes, prepared.cropped, self.out))

        self._predict(member, prepared, keep)

    def finish(self, member: Member, prepared: Prepared, name: str) -> None:
        """Let the last member predict, and write the labelmap of the mean.

        Raises
        ------
        ValueError
            If the members do not look at the same part of the image.
        """
        cropped = prepared.cropped
        if any(kept.cropped != cropped for kept in self.kept):
            raise ValueError("The configurations disagree about how to crop the image.")

        def finish(planes: Iterator[torch.Tensor]) -> None:
            labelmap = cropped.put_back(self._labels(planes, member.networks.heads))
            writer = member.plans.image_reader_writer_class()
            writer.write_seg(labelmap, str(self.out / name), prepared.properties)

        self._predict(member, prepared, finish)

    def agreement(self) -> dict[str, _Dice]:
        """Return the mean Dice between folds, and between members, where several."""
        found = {}
        if self.between_folds:
            found["between_folds"] = {
                label: min(
                    (dice[label] for dice in self.between_folds),
                    key=lambda value: 2.0 if value is None else value,
                )
                for label in self.between_folds[0]
            }
        if self.between_members is not None:
            found["between_configurations"] = self.between_members
        return found

    def _predict(
        self,
        member: Member,
        prepared: Prepared,
        take: Callable[[Iterator[torch.Tensor]], None],
    ) -> None:
        """Hand a member's planes on; where a GPU is too small for sums, on the host."""
        networks = member.networks
        networks.to_device()
        places = dict.fromkeys([networks.sums_on, torch.device("cpu")])
        for place in places:
            overlaps = Overlaps(len(networks.folds), networks.heads)
            try:
                take(member.logits(prepared, overlaps, place, self.report.show))
            except torch.cuda.OutOfMemoryError:
                if place.type == "cpu":
                    raise
                torch.cuda.empty_cache()
            else:
                break
        if len(networks.folds) > 1:
            self.between_folds.append(overlaps.mean_dice())
        networks.to_host()
        self.report.next_job()

    def _labels(self, last: Iterator[torch.Tensor], heads: int) -> Iterator[_Labels]:
        """Go through the labels of the mean, in the planes of the cropped image."""
        if not self.kept:
            yield from map(labels_of, last)
            return
        overlaps = Overlaps(len(self.kept) + 1, heads)
        for planes in zip(*(kept.planes() for kept in self.kept), last, strict=True):
            overlaps.add([labels_of(plane) for plane in planes])
            mean, *others = (torch.softmax(plane.cpu().float(), 0) for plane in planes)
            for probabilities in others:
                mean += probabilities
            yield labels_of(mean / len(planes))
        self.between_members = overlaps.mean_dice()
