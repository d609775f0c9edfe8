"""The validation predictions of models, beside their reference segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.image import Labelmap, LabelTable, Volume
from nnunet_bridge.core.progress import Progress
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.formats.images import read_grid, read_labelmap, read_volume
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.names import FILE_ENDING, image_name
from nnunet_bridge.ops.metrics import bone_scores
from nnunet_bridge.pipeline.models.run_facts import FoldRun, ModelRun

Scores: TypeAlias = dict[str, list[BoneScore]]  # model -> its scores


@dataclass(frozen=True, slots=True)
class ValidatedStudy:
    """The validation predictions of models, and the folders of their cases."""

    runs: tuple[ModelRun, ...]
    references_dir: Path
    images_dir: Path
    labels: LabelTable
    tolerance_mm: float | None = 1.0
    """Of the NSD; None if unknown, as in a table of others."""

    channel: int = 0  # the one in pictures
    ending: str = FILE_ENDING  # of the names of references and images

    @classmethod
    def of(
        cls, raw: RawDataset, runs: Sequence[ModelRun], tolerance_mm: float = 1.0
    ) -> ValidatedStudy:
        """Return models of a dataset, with its training cases as references."""
        folders = raw.folder / "labelsTr", raw.folder / "imagesTr"
        return cls(tuple(runs), *folders, raw.labels, tolerance_mm, ending=raw.ending)

    def predictions(self) -> dict[str, dict[str, list[Path]]]:
        """Return case -> model -> the files that predict it, in the order of cases."""
        found: dict[str, dict[str, list[Path]]] = {}
        for run in self.runs:
            for fold in run.folds:
                for case_id, file in self.predicted(fold.validation_dir).items():
                    found.setdefault(case_id, {}).setdefault(run.name, []).append(file)
        return dict(sorted(found.items()))

    def predicted(self, folder: Path) -> dict[str, Path]:
        """Return the predictions in a folder by case; those of baselines are ours."""
        found: dict[str, Path] = {}
        for ending in (FILE_ENDING, self.ending):
            files = sorted(folder.glob(f"*{ending}"))
            found |= {file.name.removesuffix(ending): file for file in files}
        return found

    def prediction(self, file: Path) -> Labelmap:
        """Read what a model predicted, where the reference can judge it."""
        case_id = file.name.removesuffix(FILE_ENDING)
        return read_labelmap(file, self.labels).judged(case_id)

    def reference(self, case_id: str) -> Labelmap:
        """Read the reference segmentation of a case."""
        return read_labelmap(self._reference_file(case_id), self.labels)

    def _reference_file(self, case_id: str) -> Path:
        return self.references_dir / f"{case_id}{self.ending}"

    def scored(
        self, prediction: Labelmap, reference: Labelmap, case_id: str, model: str
    ) -> tuple[BoneScore, ...]:
        """Score one prediction of a model."""
        named: dict[str, Any] = {"case_id": case_id, "configuration": model}
        if self.tolerance_mm is not None:
            named["tolerance_mm"] = self.tolerance_mm
        return bone_scores(prediction, reference, **named)

    def largest_edge_mm(self) -> float:
        """Return the largest edge of a voxel of any reference that is predicted."""
        files = map(self._reference_file, self.predictions())
        return max((float(read_grid(f).spacing_mm.max()) for f in files), default=0.0)

    @property
    def folds(self) -> dict[Path, FoldRun]:
        """The training behind every folder of validation predictions."""
        return {fold.validation_dir: fold for run in self.runs for fold in run.folds}

    def image(self, case_id: str) -> Volume | None:
        """Read the channel in pictures of a case; None where it is missing."""
        file = self.images_dir / image_name(case_id, self.channel, self.ending)
        return read_volume(file) if file.is_file() else None


def validation_scores(study: ValidatedStudy, progress: Progress) -> Scores:
    """Return the scores of every model, reading one case at a time.

    Raises `InputError` if a model has no validation prediction.
    """
    predictions = study.predictions()
    predicted = {model for by_model in predictions.values() for model in by_model}
    without = [run.name for run in study.runs if run.name not in predicted]
    if without or not predictions:
        raise InputError(
            f"No validation prediction of {', '.join(without) or 'any model'} was "
            "found: train first, and let the validation finish."
        )
    folds = study.folds
    scores: Scores = {run.name: [] for run in study.runs}
    progress.stage("compare", len(predictions))
    for done, (case_id, by_model) in enumerate(predictions.items(), start=1):
        reference = study.reference(case_id)
        for model, files in by_model.items():
            for file in files:
                found, fold = study.prediction(file), folds[file.parent]
                scores[model] += (
                    replace(score, fold=fold.fold, repeat=fold.repeat)
                    for score in study.scored(found, reference, case_id, model)
                )
        progress.advance(done, case_id)
    return scores
