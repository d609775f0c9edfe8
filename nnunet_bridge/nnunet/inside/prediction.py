"""Predict a folder of images with one configuration, or with the mean of several.

The planes of the last configuration are averaged with those of the others as they come.
The others wait in files without a name: at most the logits of one image are on the
disk, and the system removes them however the process ends.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from nnunet_bridge.formats.files import open_to_write, write_json
from nnunet_bridge.nnunet.estimates import FAST_STEP
from nnunet_bridge.nnunet.inside.converted import NotConvertedError
from nnunet_bridge.nnunet.inside.label_planes import labels_of
from nnunet_bridge.nnunet.inside.member import Cropped, Member, Prepared
from nnunet_bridge.nnunet.inside.overlaps import Overlaps
from nnunet_bridge.nnunet.inside.resampling import Resampled
from nnunet_bridge.nnunet.inside.sliding import NotFiniteError, ahead
from nnunet_bridge.nnunet.names import (
    ENGINE_FILE,
    FILE_ENDING,
    agreement_file,
    images_by_case,
)

_REPORT_EVERY_S = 0.25
_Labels: TypeAlias = npt.NDArray[np.uint8]
_Dice: TypeAlias = dict[str, float | None]
_Taker: TypeAlias = Callable[[Resampled], None]


def add_arguments(predict: argparse.ArgumentParser) -> None:
    """Declare the arguments of the task."""
    predict.add_argument("--member", action="append", nargs="+", required=True)
    predict.add_argument("--images", type=Path, required=True)
    predict.add_argument("--out", type=Path, required=True)
    predict.add_argument("--progress", type=Path, required=True)
    predict.add_argument("--previous", type=Path)
    predict.add_argument("--openvino", type=Path)
    predict.add_argument("--body-only", action="store_true")
    predict.add_argument("--fast", action="store_true")
    predict.add_argument("--part", nargs=2, type=int, default=(0, 1))


def predict(asked: argparse.Namespace) -> None:
    """Predict every image of a folder.

    A member is a model folder and its folds; several are averaged. Beside every
    labelmap lies its `names.agreement_file`: the Dice between folds and members. Of
    several processes, each predicts a part of the images. With ``--openvino``, the
    folder of converted networks, OpenVINO predicts; `names.ENGINE_FILE` says whether it
    did.
    """
    device = torch.device(asked.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    members = _members(asked, device)
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.openvino:
        try:
            _to_openvino(members, asked.openvino)
            answer = {"engine": "openvino"}
        except NotConvertedError as error:
            answer = {"engine": "torch", "reason": str(error)}
            members = _members(asked, device)
        write_json(asked.out / ENGINE_FILE, answer)
    first, step = asked.part
    ending = members[0].dataset["file_ending"]
    found = images_by_case(asked.images) or images_by_case(asked.images, ending)
    cases = dict(list(found.items())[first::step])
    jobs = [
        Job(files, member, _labels_of(case_id, asked.previous))
        for case_id, files in cases.items()
        for member in members
    ]
    report = Report(asked.progress, [job.member.work(job.files) for job in jobs])
    # Half copies of weights are not kept in inference mode.
    with torch.no_grad() if device.type == "cuda" else torch.inference_mode():
        # With workers, the next image is prepared while this one is predicted.
        prepared = (
            ahead(Job.prepare, jobs, 1) if asked.workers > 1 else map(Job.prepare, jobs)
        )
        for case_id in cases:
            case = Case(asked.out, report)
            for member in members[:-1]:
                case.keep(member, next(prepared))
            case.finish(members[-1], next(prepared), f"{case_id}{FILE_ENDING}")
            write_json(agreement_file(asked.out, case_id), case.agreement())


def _members(asked: argparse.Namespace, device: torch.device) -> list[Member]:
    members = [
        Member(Path(model), folds, device, asked.trusted_trainer)
        for model, *folds in asked.member
    ]
    for member in members:
        member.body_only = asked.body_only
        if asked.fast:
            member.networks = replace(member.networks, mirror_axes=(), step=FAST_STEP)
    return members


@torch.inference_mode()
def _to_openvino(members: Sequence[Member], kept: Path) -> None:
    """Let OpenVINO compute all networks; if one fails, members must be loaded anew."""
    for member in members:
        networks = member.converted(kept)
        member.networks = replace(member.networks, folds=networks)


def _labels_of(case_id: str, folder: Path | None) -> Path | None:
    return folder and folder / f"{case_id}{FILE_ENDING}"


@dataclass(frozen=True, slots=True)
class Job:
    """One image for one member."""

    files: Sequence[Path]  # one file a channel
    member: Member
    previous: Path | None  # labelmap of the first stage, for a member of the cascade

    def prepare(self) -> Prepared:
        """Return the image, preprocessed for the member."""
        return self.member.prepare(self.files, self.previous)


@dataclass(slots=True)
class Report:
    """A file to which the share of the work that is done is appended, as JSON."""

    file: Path
    work: Sequence[float]  # work of every job
    job: int = 0
    last_s: float = -1.0

    def show(self, share: float) -> None:
        """Append the total share, given the share of the current job; not too often."""
        now_s = time.monotonic()
        if share < 1 and now_s - self.last_s < _REPORT_EVERY_S:
            return
        self.last_s = now_s
        done = sum(self.work[: self.job]) + share * self.work[self.job]
        line = json.dumps({"done": round(done / sum(self.work), 6)})
        with open_to_write(self.file, "ab") as stream:
            stream.write(line.encode() + b"\n")


@dataclass(frozen=True, slots=True)
class _Kept:
    """Logits of a member, on the disk until those of the last member come."""

    cropped: Cropped
    file: IO[bytes]
    kind: np.dtype[np.generic]
    shape: tuple[int, ...]  # shape of a plane, heads first

    @classmethod
    def of(
        cls, planes: Iterator[torch.Tensor], cropped: Cropped, folder: Path
    ) -> _Kept:
        """Write the planes to a file without a name."""
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open while its planes are needed
        for plane in planes:
            voxels = plane.cpu().numpy()
            file.write(voxels.tobytes())
        return cls(cropped, file, voxels.dtype, voxels.shape)

    def planes(self) -> Iterator[torch.Tensor]:
        """Yield the planes in their order."""
        self.file.seek(0)
        for _ in range(self.cropped.shape[0]):
            size = int(np.prod(self.shape)) * self.kind.itemsize
            plane = np.frombuffer(bytearray(self.file.read(size)), self.kind)
            yield torch.from_numpy(plane.reshape(self.shape))


@dataclass(slots=True)
class Case:
    """One image, from its first member to its labelmap."""

    out: Path
    report: Report
    kept: list[_Kept] = field(default_factory=list)
    between_folds: list[_Dice] = field(default_factory=list)
    between_members: _Dice | None = None

    def keep(self, member: Member, prepared: Prepared) -> None:
        """Predict with a member and keep its logits for the mean."""

        def keep(found: Resampled) -> None:
            self.kept.append(_Kept.of(found.logits(), prepared.cropped, self.out))

        self._predict(member, prepared, keep)

    def finish(self, member: Member, prepared: Prepared, name: str) -> None:
        """Predict with the last member and write the labelmap of the mean.

        Raises `ValueError` if the members crop the image differently.
        """
        cropped = prepared.cropped
        if any(kept.cropped != cropped for kept in self.kept):
            raise ValueError("The configurations crop the image differently.")

        def finish(found: Resampled) -> None:
            labelmap = cropped.put_back(self._labels(found, member.networks.heads))
            writer = member.plans.image_reader_writer_class()
            writer.write_seg(labelmap, str(self.out / name), prepared.properties)

        self._predict(member, prepared, finish)

    def agreement(self) -> dict[str, _Dice]:
        """Return the mean Dice between folds and between members, if several.

        Of several members the lowest agreement of folds counts.
        """
        found = {}
        if self.between_folds:
            lowest: _Dice = {}
            for label in self.between_folds[0]:
                of_members = (dice[label] for dice in self.between_folds)
                known = [dice for dice in of_members if dice is not None]
                lowest[label] = min(known, default=None)
            found["between_folds"] = lowest
        if self.between_members is not None:
            found["between_configurations"] = self.between_members
        return found

    def _predict(self, member: Member, prepared: Prepared, take: _Taker) -> None:
        """Pass the logits of a member to `take`.

        If the GPU fails, whatever it says, compute once more with the sums on the host,
        as nnU-Net does. If an output is not finite in half precision, compute this
        image once more in single precision. Raises `NotFiniteError` if it is not finite
        in single precision either.
        """
        networks = member.networks
        networks.to_device()
        manners = list(networks.manners)
        while manners:
            manner = manners.pop(0)
            torch.cuda.empty_cache()  # the sums of a failed attempt are gone by now
            overlaps = Overlaps(len(networks.folds), networks.heads)
            try:
                take(member.logits(prepared, overlaps, manner, self.report.show))
            except NotFiniteError:
                if manner.single:
                    raise
                manners = [replace(one, single=True) for one in (manner, *manners)]
            except RuntimeError:
                if not manners:
                    raise
            else:
                break
        if len(networks.folds) > 1:
            self.between_folds.append(overlaps.mean_dice())
        networks.to_host()
        self.report.job += 1

    def _labels(self, last: Resampled, heads: int) -> Iterator[_Labels]:
        """Yield the labels of the mean, plane by plane of the cropped image.

        A single member needs no softmax: it does not change the largest logit.
        """
        if not self.kept:
            yield from last.labels()
            return
        overlaps = Overlaps(len(self.kept) + 1, heads)
        for planes in zip(
            *(kept.planes() for kept in self.kept), last.logits(), strict=True
        ):
            overlaps.add([labels_of(plane) for plane in planes])
            place = planes[-1].device
            mean, *others = (
                torch.softmax(plane.to(place).float(), 0) for plane in planes
            )
            for probabilities in others:
                mean += probabilities
            yield labels_of(mean / len(planes))
        self.between_members = overlaps.mean_dice()
