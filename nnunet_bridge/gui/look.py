"""Images, labels, scores and surfaces of a case, for the viewer."""

from pathlib import Path

from starlette.responses import Response

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.gui.desk import Asked, Desk, endpoint, paged
from nnunet_bridge.gui.worker import in_worker
from nnunet_bridge.pipeline.comparison.case_views import case_surfaces
from nnunet_bridge.pipeline.labels.score import score_case
from nnunet_bridge.pipeline.labels.shown import packed_image, packed_labels
from nnunet_bridge.pipeline.prediction.browse import (
    dataset_cases,
    folder_cases,
    known_scores,
)

PREDICTIONS = "predictions"  # folder of the workspace
_VOXELS = "application/octet-stream"


def _cases(desk: Desk, asked: Asked) -> JsonObject:
    """Return a page of the cases of a dataset or of a folder."""
    if asked.get("folder"):
        found = folder_cases(desk.path(asked, "folder"))
    else:
        part = "Ts" if asked.get("part") == "Ts" else "Tr"
        found = dataset_cases(desk.dataset(asked), part, desk.root / PREDICTIONS)
    page = paged(found, asked, lambda case: case.case_id)
    return {**page, "cases": [case.as_json() for case in page["cases"]]}


def scan_of(desk: Desk, asked: Asked) -> tuple[list[Path], str, str, str]:
    """Return paths, case, series and image type of the scan that a request names."""
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise UsageError("The inputs are not a list of paths.")
    case, series, kind = (str(asked.get(n) or "") for n in ("case", "series", "kind"))
    return [desk.roots.path(str(each)) for each in inputs], case, series, kind


def _table(desk: Desk, asked: Asked) -> Path | None:
    """Return the ``dataset.json`` of the dataset that a request names, if any."""
    named = asked.get("dataset")
    return desk.dataset(asked).raw_dir / "dataset.json" if named else None


def _image(desk: Desk, asked: Asked) -> Response:
    """Return the voxels of an image."""
    body = in_worker(packed_image, *scan_of(desk, asked))
    return Response(body, media_type=_VOXELS)


def _labels(desk: Desk, asked: Asked) -> Response:
    """Return the voxels of a labelmap, on the grid of an image if one is given."""
    words = desk.path(asked), asked.get("onto"), _table(desk, asked)
    body = in_worker(packed_labels, *words)
    return Response(body, media_type=_VOXELS, headers={"Content-Encoding": "gzip"})


def _scores(desk: Desk, asked: Asked) -> JsonObject:
    """Return the scores of a prediction: those on record, or computed now."""
    file, case = desk.path(asked, "prediction"), str(asked.get("case", ""))
    if not asked.get("compute"):
        source, rows = in_worker(known_scores, file, case, _table(desk, asked))
        return {"source": source and str(source), "rows": rows}
    reference = desk.path(asked, "reference")
    scored = in_worker(score_case, file, reference, case, _table(desk, asked))
    if scored.refused:
        raise InputError("\n".join(scored.messages))
    return {"source": None, "rows": scored.details()["structures"]}


def _surfaces(desk: Desk, asked: Asked) -> JsonObject:
    """Return the surfaces of the reference and of a prediction."""
    drawn = desk.path(asked, "reference") if asked.get("reference") else None
    found = {}
    if asked.get("prediction"):
        found[str(asked.get("name", ""))] = desk.path(asked, "prediction")
    case = str(asked.get("case", ""))
    return in_worker(case_surfaces, case, drawn, found, _table(desk, asked))


routes = [
    endpoint("/api/look/cases", _cases),
    endpoint("/api/look/image", _image, "POST"),
    endpoint("/api/look/labels", _labels, "POST"),
    endpoint("/api/look/scores", _scores, "POST"),
    endpoint("/api/look/surfaces", _surfaces, "POST"),
]
