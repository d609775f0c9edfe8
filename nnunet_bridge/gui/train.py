"""Step 3 of the page: what can be trained, what it takes, and curves."""

from typing import Any, Literal

from starlette.responses import Response
from starlette.routing import BaseRoute

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.events import curve_of
from nnunet_bridge.formats.html.charts import curve_picture
from nnunet_bridge.gui.desk import Asked, Desk, endpoint
from nnunet_bridge.nnunet.methods import DEFAULT_MODEL, method_named
from nnunet_bridge.nnunet.runs import known_runs
from nnunet_bridge.nnunet.training_logs import events_of
from nnunet_bridge.nnunet.training_options import TrainingOptions
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
    return TrainingRequest(
        method_named(str(model), str(budget)),
        _words(asked.get("configuration")),
        _words(asked.get("fold")) or ("0",),
        TrainingOptions(str(asked.get("device") or "auto")),
    )


def _words(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - whatever JSON holds
    values = value if isinstance(value, list) else [value]
    return tuple(str(each) for each in values if each not in (None, ""))


def _curve(desk: Desk, asked: Asked) -> Response:
    """Return a picture of the curve of a run, which its folder in the state names."""
    runs = known_runs(desk.dataset(asked), desk.run_state)
    found = [one.run for one in runs if str(one.folder) == asked.get("folder")]
    if not found:
        raise UsageError("There is no such run.")
    curve = curve_of("", "", events_of(found[0])[0])
    kind: Literal["dice", "loss"] = "dice" if asked.get("picture") == "dice" else "loss"
    return Response(curve_picture(curve, kind), media_type="image/svg+xml")


routes: list[BaseRoute] = [
    endpoint("/api/training", _choices),
    endpoint("/api/forecast", _forecast, "POST"),
    endpoint("/api/curve", _curve),
]
