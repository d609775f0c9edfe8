"""Images, labels, scores and surfaces of a case, for the viewer.

What reads voxels is imported where it is used: by the worker, and not at the start.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from starlette.responses import Response

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.gui.desk import Asked, Desk, endpoint
from nnunet_bridge.gui.worker import in_worker

if TYPE_CHECKING:
    from nnunet_bridge.pipeline.ingest.inputs import ImageReading
    from nnunet_bridge.pipeline.labels.shown import ShownVolume

PREDICTIONS = "predictions"  # folder of the workspace
_PAGE = 50  # cases
_ALIGNED = 8
_LEVEL = 1  # of compression: labels shrink a hundredfold at the lowest


def _cases(desk: Desk, asked: Asked) -> JsonObject:
    """Return some cases of a dataset or of a folder whose names hold a text."""
    from nnunet_bridge.pipeline.prediction.browse import dataset_cases, folder_cases

    scans: JsonObject = {}
    if asked.get("folder"):
        folder = desk.path(asked, "folder")
        found = folder_cases(folder)
        scans = _predicted_from(desk, folder)
    else:
        part = "Ts" if asked.get("part") == "Ts" else "Tr"
        found = dataset_cases(desk.dataset(asked), part, desk.root / PREDICTIONS)
    text = str(asked.get("find", "")).casefold()
    fitting = [case for case in found if text in case.case_id.casefold()]
    start = max(0, int(number(asked, "start")))
    page = [case.as_json() for case in fitting[start : start + _PAGE]]
    return {"cases": page, "start": start, "total": len(fitting), **scans}


def _predicted_from(desk: Desk, folder: Path) -> JsonObject:
    """Return the scans from which a job of this page predicted into a folder."""
    for job in desk.jobs.all():
        values = job.facts.get("values", {})
        if job.facts.get("command") == "predict" and values.get("out") == str(folder):
            names = "inputs", "series", "image_type"
            return {name: values.get(name) for name in names}
    return {}


def number(asked: Asked, name: str) -> float:
    """Return a number of a request; 0 without one."""
    try:
        return float(asked.get(name) or 0)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} is not a number.") from error


Scan: TypeAlias = tuple[list[Path], str, str, str]
"""Paths, case, series and image type."""


def scan_of(desk: Desk, asked: Asked) -> Scan:
    """Return the scan that a request names."""
    try:
        inputs = json.loads(str(asked.get("inputs", "")))
    except ValueError as error:
        raise UsageError("The inputs are not a list of paths.") from error
    if not isinstance(inputs, list) or not inputs:
        raise UsageError("The inputs are not a list of paths.")
    paths = [desk.roots.path(str(each)) for each in inputs]
    case, series, kind = (str(asked.get(n) or "") for n in ("case", "series", "kind"))
    return paths, case, series, kind


def _optional(desk: Desk, asked: Asked, name: str) -> Path | None:
    return desk.path(asked, name) if asked.get(name) else None


def _table(desk: Desk, asked: Asked) -> Path | None:
    """Return the ``dataset.json`` of the dataset that a request names, if any."""
    if not asked.get("dataset"):
        return None
    return desk.dataset(asked).raw_dir / "dataset.json"


def _image(desk: Desk, asked: Asked) -> Response:
    """Return the voxels of an image."""
    body = in_worker(image_body, scan_of(desk, asked))
    return Response(body, media_type="application/octet-stream")


def image_body(scan: Scan, most_bytes: int | None = None) -> bytes:
    """Return an image as `volume_body` packs it."""
    from nnunet_bridge.pipeline.labels.shown import MOST_BYTES, shown_image

    reading = reading_of(scan)
    messages = [str(finding) for finding in reading.findings]
    shown = shown_image(reading.volume, most_bytes=most_bytes or MOST_BYTES)
    return volume_body(shown, findings=messages)


def reading_of(scan: Scan) -> ImageReading:
    """Read a scan."""
    from nnunet_bridge.formats.dicom import SeriesOptions
    from nnunet_bridge.pipeline.ingest.inputs import read_case_image

    paths, case_id, series, kind = scan
    options = SeriesOptions(series or None, kind or None)
    return read_case_image(paths, case_id, options)


def volume_body(shown: ShownVolume, **more: Any) -> bytes:  # noqa: ANN401 - any JSON
    """Return a line of JSON, then the voxels: i runs fastest, little-endian.

    The line ends at a multiple of eight bytes, where an array may begin.
    """
    line = json.dumps({**shown.header(), **more}).encode()
    spaces = b" " * (-(len(line) + 1) % _ALIGNED)
    return b"".join([line, spaces, b"\n", shown.voxels.tobytes(order="F")])


def _labels(desk: Desk, asked: Asked) -> Response:
    """Return the voxels of a labelmap, on the grid of an image if one is given."""
    body = in_worker(
        labels_body, desk.path(asked), str(asked.get("onto", "")), _table(desk, asked)
    )
    headers = {"Content-Encoding": "gzip"}
    return Response(body, media_type="application/octet-stream", headers=headers)


def labels_body(
    file: Path, onto: str, table_file: Path | None, most_bytes: int | None = None
) -> bytes:
    """Return a labelmap as `volume_body` packs it, compressed."""
    from isal import igzip

    from nnunet_bridge.pipeline.labels.shown import MOST_BYTES, shown_labels

    try:
        source = json.loads(onto) if onto else None
        grid = source and Grid(tuple(source["shape"]), source["affine"])
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError("The grid of the image is not valid.") from error
    shown = shown_labels(file, grid, table_file, most_bytes=most_bytes or MOST_BYTES)
    return bytes(igzip.compress(volume_body(shown), _LEVEL))


def _scores(desk: Desk, asked: Asked) -> JsonObject:
    """Return the scores of a prediction: those on record, or computed now."""
    from nnunet_bridge.pipeline.labels.score import score_case
    from nnunet_bridge.pipeline.prediction.browse import known_scores

    file, case = desk.path(asked, "prediction"), str(asked.get("case", ""))
    if "compute" not in asked:
        source, rows = known_scores(file, case, _table(desk, asked))
        return {"source": source and str(source), "rows": rows}
    reference = desk.path(asked, "reference")
    scored = in_worker(score_case, file, reference, case, _table(desk, asked))
    if scored.refused:
        raise InputError("\n".join(scored.messages))
    return {"source": None, "rows": scored.details()["structures"]}


def _surfaces(desk: Desk, asked: Asked) -> JsonObject:
    """Return the surfaces of the reference and of a prediction."""
    from nnunet_bridge.pipeline.comparison.case_views import case_surfaces

    reference = _optional(desk, asked, "reference")
    file = _optional(desk, asked, "prediction")
    predicted = {str(asked.get("name") or "prediction"): file} if file else {}
    case = str(asked.get("case", ""))
    return in_worker(case_surfaces, case, reference, predicted, _table(desk, asked))


routes = [
    endpoint("/api/look/cases", _cases),
    endpoint("/api/look/image", _image),
    endpoint("/api/look/labels", _labels),
    endpoint("/api/look/scores", _scores),
    endpoint("/api/look/surfaces", _surfaces),
]
