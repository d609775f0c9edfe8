"""What there is to look at: cases of a dataset, folders of predictions, scans."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.dicom.sample import sample_folder
from nnunet_bridge.formats.files import readable_object
from nnunet_bridge.formats.labels_file import read_label_table
from nnunet_bridge.formats.tables import read_scores, score_row
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.names import images_by_case
from nnunet_bridge.nnunet.runs import known_runs
from nnunet_bridge.pipeline.ingest.inputs import images_at
from nnunet_bridge.pipeline.labels.folders import label_files, table_file_for
from nnunet_bridge.pipeline.labels.score import SCORES_TABLE
from nnunet_bridge.pipeline.prediction.record import RECORD, PredictionRecord

if TYPE_CHECKING:
    from nnunet_bridge.nnunet.names import Dataset

SUMMARY = "summary.json"  # nnU-Net's scores of a folder of predictions


@dataclass(frozen=True, slots=True)
class ShownCase:
    """A case with the files that can be shown."""

    case_id: str
    images: tuple[Path, ...] = ()  # of every channel
    reference: Path | None = None
    predictions: Mapping[str, Path] = field(default_factory=dict)
    """Run or folder -> the labelmap that it predicted."""

    def as_json(self) -> JsonObject:
        """Return the case as JSON values."""
        return {
            "case": self.case_id,
            "images": list(map(str, self.images)),
            "reference": self.reference and str(self.reference),
            "predictions": {k: str(file) for k, file in self.predictions.items()},
        }


def dataset_cases(
    dataset: Dataset, part: str, predictions_dir: Path
) -> tuple[ShownCase, ...]:
    """Return the cases of a dataset, with their predictions.

    `part` is ``Tr``, with the validation of every run, or ``Ts``, with the predictions
    in the folders of `predictions_dir`.
    """
    raw = RawDataset.open(dataset.raw_dir, regions=True)
    images = images_by_case(raw.folder / f"images{part}", raw.ending)
    found: dict[str, dict[str, Path]] = {case: {} for case in images}
    if part == "Tr":
        folders = {
            f"{state.name} ({state.budget})": state.run.validation_dir
            for state in known_runs(dataset)
        }
    else:
        folders = {
            folder.name: folder for folder in prediction_folders(predictions_dir)
        }
    for name, folder in folders.items():
        for case, file in _labels_in(folder).items():
            if case in found:
                found[case][name] = file
    cases = []
    for case, files in images.items():
        drawn = raw.label_file(case, part)
        reference = drawn if drawn.is_file() else None
        cases.append(ShownCase(case, tuple(files), reference, found[case]))
    return tuple(cases)


def folder_cases(folder: Path) -> tuple[ShownCase, ...]:
    """Return the cases of a folder of label files; raises as `label_files`."""
    return tuple(
        ShownCase(case, predictions={folder.name: file})
        for case, file in label_files(folder).items()
    )


def prediction_folders(folder: Path) -> list[Path]:
    """Return the folders below one that hold predicted cases, sorted by name."""
    if not folder.is_dir():
        return []
    inside = (each for each in folder.iterdir() if not each.name.startswith("."))
    return sorted(each for each in inside if case_dirs(each))


def case_dirs(folder: Path) -> list[Path]:
    """Return the folders of the cases that `predict` wrote, sorted by name."""
    return [record.parent for record in sorted(folder.glob(f"*/{RECORD}"))]


def predicted_case(case_dir: Path) -> JsonObject:
    """Return the record and the files of a case, or `error` if it cannot be read."""
    try:
        record = PredictionRecord.read(case_dir)
    except InputError as error:
        return {"case": case_dir.name, "error": str(error)}
    quality = record.quality
    return {
        "case": case_dir.name,
        "model": record.model,
        "volumes_mm3": record.volumes_mm3,
        "level": str(quality.level) if quality else None,
        "concerns": [str(each) for each in quality.concerns] if quality else [],
        "findings": [finding.message for finding in record.findings],
        "files": {name: str(case_dir / name) for name in sorted(record.outputs)},
    }


def known_scores(
    prediction: Path, case_id: str, table_file: Path | None = None
) -> tuple[Path | None, list[JsonObject]]:
    """Return the scores that a table beside a prediction holds, and the table.

    Our ``scores.csv``, else the Dice in nnU-Net's ``summary.json``.
    """
    for folder in (prediction.parent, prediction.parent.parent):
        file = folder / SCORES_TABLE
        if file.is_file():
            rows = [score for score in read_scores(file) if score.case_id == case_id]
            if rows:
                return file, [dict(score_row(score)) for score in rows]
    file = prediction.parent / SUMMARY
    summary, _ = readable_object(file)
    table = table_file_for([prediction], table_file)
    names = {}
    if table is not None and summary:
        labels = read_label_table(table, regions=True)
        names = {str(label.value): label.name for label in labels}
    for entry in summary.get("metric_per_case", ()):
        if Path(str(entry.get("prediction_file"))).name == prediction.name:
            measures = entry.get("metrics", {}).items()
            return file, [
                {"structure": names.get(value, value), "dice": _finite(row.get("Dice"))}
                for value, row in measures
            ]
    return None, []


def inputs_in(paths: Sequence[Path]) -> list[JsonObject]:
    """Return the images that `predict` finds at some paths, with their DICOM series.

    A series has the word of ``--series`` that means it. Raises as `find_images`, which
    also refuses two images of one case.
    """
    with images_at(paths) as sources:
        first = {source.case_id: source for source in reversed(sources)}
        return [
            {"case": case, "series": _series_in(first[case].path)}
            for case in dict.fromkeys(source.case_id for source in sources)
        ]


def _series_in(path: Path) -> list[JsonObject]:
    """Return the series of a folder, those with most slices first."""
    if not path.is_dir():
        return []
    found = [
        series
        for place, _, names in os.walk(path)
        for series in sample_folder(Path(place), names).series
    ]
    numbers = [series.number for series in found]
    return [
        {
            "word": s.number if s.number and numbers.count(s.number) == 1 else s.uid,
            "number": s.number,
            "description": s.description,
            "slices": s.slices,
            "kinds": _telling(s.kinds),
        }
        for s in sorted(found, key=lambda series: -series.slices)
    ]


def _telling(kinds: Collection[tuple[str, ...]]) -> list[str]:
    """Return the words of *Image Type* that some images of a series have, not all."""
    words = [word for kind in kinds for word in set(kind)]
    return sorted(word for word in set(words) if words.count(word) < len(kinds))


def _labels_in(folder: Path) -> dict[str, Path]:
    try:
        return label_files(folder)
    except InputError:
        return {}


def _finite(value: object) -> float | None:
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None
