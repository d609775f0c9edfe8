"""Step 3 of the page: what can be trained and what it takes, curves, and results."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.events import curve_of
from nnunet_bridge.formats.files import readable_object
from nnunet_bridge.formats.html.charts import curve_picture
from nnunet_bridge.gui.desk import Asked, Desk, endpoint
from nnunet_bridge.nnunet.methods import DEFAULT_MODEL, method_named
from nnunet_bridge.nnunet.runs import known_runs
from nnunet_bridge.nnunet.training_logs import events_of
from nnunet_bridge.nnunet.training_options import TrainingOptions
from nnunet_bridge.pipeline.models.choose import choice_file
from nnunet_bridge.pipeline.training.forecast import forecast, training_choices
from nnunet_bridge.pipeline.training.request import TrainingRequest


def _choices(desk: Desk, asked: Asked) -> JsonObject:
    return training_choices(desk.dataset(asked))


def _forecast(desk: Desk, asked: Asked) -> JsonObject:
    """Return what a command `train` with these values takes."""
    found = forecast(
        desk.dataset(asked),
        _request(asked),
        state_of=desk.run_state,
        on_cluster=asked.get("on", "local") != "local",
    )
    return found.as_json()


def _request(asked: Asked) -> TrainingRequest:
    """Return the request that the values of `train` mean."""
    model, budget = asked.get("model") or DEFAULT_MODEL, asked.get("budget") or "full"
    count = str(asked.get("repeat") or 1)
    if not re.fullmatch("[1-9][0-9]?", count):
        message = f"Trainings per fold: {count[:20]!r} is not a number from 1 to 99."
        raise UsageError(message)
    return TrainingRequest(
        method_named(str(model), str(budget)),
        _words(asked.get("configuration")),
        _words(asked.get("fold")) or ("0",),
        TrainingOptions(str(asked.get("device") or "auto")),
        int(count),
    )


def _words(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - whatever JSON holds
    values = value if isinstance(value, list) else [value]
    return tuple(str(each) for each in values if each not in (None, ""))


def _curve(desk: Desk, asked: Asked) -> JsonObject | Response:
    """Return the curve of the run with a folder of the state, or a picture of it."""
    runs = known_runs(desk.dataset(asked), desk.run_state)
    found = [one.run for one in runs if str(one.folder) == asked.get("folder")]
    if not found:
        raise UsageError("There is no such run.")
    curve = curve_of("", "", events_of(found[0])[0])
    if (kind := asked.get("picture")) in ("loss", "dice"):
        return Response(curve_picture(curve, kind), media_type="image/svg+xml")
    return asdict(curve)


def _results(desk: Desk, asked: Asked) -> JsonObject:
    """Return the newest results of a dataset, where the page has them written."""
    dataset = desk.dataset(asked)
    comparison = desk.root / "comparison" / dataset.name
    verdict = readable_object(comparison / "comparison.json")[0].get("verdict")
    choice = readable_object(choice_file(dataset))[0]
    return {
        "verdict": verdict.get("sentences", []) if isinstance(verdict, dict) else [],
        "choice": str(choice.get("reason", "")),
        "compare": _file(comparison / "index.html"),
        "audit": _file(desk.root / "audit" / dataset.name / "index.html"),
        "pack": _file(desk.root / f"{dataset.name}.zip"),
    }


def _file(file: Path) -> JsonObject | None:
    """Return a file with its time, by which a tab knows a new one."""
    if not file.is_file():
        return None
    return {"path": str(file), "time": file.stat().st_mtime}


routes: list[BaseRoute] = [
    endpoint("/api/training", _choices),
    endpoint("/api/forecast", _forecast, "POST"),
    endpoint("/api/curve", _curve),
    endpoint("/api/results", _results),
]
