"""Images, labels, scores and surfaces of a case, for the viewer.

What reads voxels is imported where it is used: by the worker, and not at the start.
"""

import json
from pathlib import Path
from typing import Any

from starlette.responses import Response

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.gui.desk import Asked, Desk, endpoint, paged
from nnunet_bridge.gui.worker import in_worker

PREDICTIONS = "predictions"  # folder of the workspace
_VOXELS = "application/octet-stream"


def _cases(desk: Desk, asked: Asked) -> JsonObject:
    """Return a page of the cases of a dataset or of a folder."""
    from nnunet_bridge.pipeline.prediction.browse import dataset_cases, folder_cases

    scans: JsonObject = {}
    if asked.get("folder"):
        folder = desk.path(asked, "folder")
        found = folder_cases(folder)
        scans = _predicted_from(desk, folder)
    else:
        part = "Ts" if asked.get("part") == "Ts" else "Tr"
        found = dataset_cases(desk.dataset(asked), part, desk.root / PREDICTIONS)
    page = paged(found, asked, lambda case: case.case_id)
    return {**page, "cases": [case.as_json() for case in page["cases"]], **scans}


def _predicted_from(desk: Desk, folder: Path) -> JsonObject:
    """Return the scans from which a job of this page predicted into a folder."""
    for job in desk.jobs.all():
        values = job.facts.get("values", {})
        if job.facts.get("command") == "predict" and values.get("out") == str(folder):
            return {
                each: values.get(each) for each in ("inputs", "series", "image_type")
            }
    return {}


def _parsed(asked: Asked, name: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return json.loads(str(asked.get(name, "")))
    except ValueError as error:
        raise UsageError(f"The value of {name} is not JSON.") from error


def scan_of(desk: Desk, asked: Asked) -> tuple[list[Path], str, str, str]:
    """Return paths, case, series and image type of the scan that a request names."""
    inputs = _parsed(asked, "inputs")
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
    from nnunet_bridge.pipeline.labels.shown import packed_image

    body = in_worker(packed_image, *scan_of(desk, asked))
    return Response(body, media_type=_VOXELS)


def _labels(desk: Desk, asked: Asked) -> Response:
    """Return the voxels of a labelmap, on the grid of an image if one is given."""
    from nnunet_bridge.pipeline.labels.shown import packed_labels

    onto = _parsed(asked, "onto") if asked.get("onto") else None
    body = in_worker(packed_labels, desk.path(asked), onto, _table(desk, asked))
    return Response(body, media_type=_VOXELS, headers={"Content-Encoding": "gzip"})


def _scores(desk: Desk, asked: Asked) -> JsonObject:
    """Return the scores of a prediction: those on record, or computed now."""
    from nnunet_bridge.pipeline.labels.score import score_case
    from nnunet_bridge.pipeline.prediction.browse import known_scores

    file, case = desk.path(asked, "prediction"), str(asked.get("case", ""))
    if "compute" not in asked:
        source, rows = in_worker(known_scores, file, case, _table(desk, asked))
        return {"source": source and str(source), "rows": rows}
    reference = desk.path(asked, "reference")
    scored = in_worker(score_case, file, reference, case, _table(desk, asked))
    if scored.refused:
        raise InputError("\n".join(scored.messages))
    return {"source": None, "rows": scored.details()["structures"]}


def _surfaces(desk: Desk, asked: Asked) -> JsonObject:
    """Return the surfaces of the reference and of a prediction."""
    from nnunet_bridge.pipeline.comparison.case_views import case_surfaces

    kinds = "reference", "prediction"
    files = {kind: desk.path(asked, kind) for kind in kinds if asked.get(kind)}
    reference = files.pop("reference", None)
    predicted = {str(asked.get("name") or kind): file for kind, file in files.items()}
    case = str(asked.get("case", ""))
    return in_worker(case_surfaces, case, reference, predicted, _table(desk, asked))


routes = [
    endpoint("/api/look/cases", _cases),
    endpoint("/api/look/image", _image),
    endpoint("/api/look/labels", _labels),
    endpoint("/api/look/scores", _scores),
    endpoint("/api/look/surfaces", _surfaces),
]
