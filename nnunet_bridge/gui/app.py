"""The addresses of the page."""

from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.gui import check, look, predict, study, train
from nnunet_bridge.gui.commands import words_of
from nnunet_bridge.gui.desk import Asked, Desk, endpoint
from nnunet_bridge.gui.guard import FILES_PATH
from nnunet_bridge.gui.jobs import command_line
from nnunet_bridge.gui.state import Watch, events, state

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SHOWN = {".html", ".png", ".jpg", ".txt", ".json", ".csv", ".log"}
"""Files that a browser shows; others are downloaded."""


def application(desk: Desk) -> Starlette:
    """Return the page of a workspace, without its guard."""
    app = Starlette(
        routes=[
            Route("/", _index),
            Route("/assets/{name}", _asset),
            Route("/api/events", events),
            endpoint("/api/state", state),
            endpoint(
                "/api/folder", lambda d, a: d.roots.listing(str(a.get("path", "")))
            ),
            endpoint("/api/command", _command, "POST"),
            endpoint("/api/jobs", _start, "POST"),
            endpoint("/api/job", _job),
            endpoint("/api/stop", _stop, "POST"),
            endpoint(FILES_PATH, _file),
            *study.routes,
            *check.routes,
            *look.routes,
            *predict.routes,
            *train.routes,
        ]
    )
    app.state.desk = desk
    app.state.watch = Watch(desk)
    return app


def _asset_of(name: str) -> Response:
    for package in ("nnunet_bridge.gui.assets", "nnunet_bridge.formats.html"):
        asset = files(package) / name
        if Path(name).suffix in _KINDS and asset.is_file():
            kind = _KINDS[Path(name).suffix]
            return Response(asset.read_bytes(), media_type=kind)
    return Response("There is no such file.", 404)


def _index(_request: Request) -> Response:
    return _asset_of("index.html")


def _asset(request: Request) -> Response:
    return _asset_of(request.path_params["name"])


def _words(desk: Desk, asked: Asked) -> list[str]:
    values = asked.get("values")
    if not isinstance(values, dict):
        raise UsageError("This request has no values.")
    command = str(asked.get("command", ""))
    return words_of(command, values, desk.roots, workspace=str(desk.root))


def _command(desk: Desk, asked: Asked) -> JsonObject:
    """Return the command that a form means, for the terminal."""
    return {"line": command_line(_words(desk, asked))}


def _start(desk: Desk, asked: Asked) -> JsonObject:
    words = _words(desk, asked)
    return desk.jobs.start(asked["command"], asked["values"], words).summary()


def _job(desk: Desk, asked: Asked) -> JsonObject:
    """Return everything about a job: its log and its result too."""
    job = desk.jobs.find(str(asked.get("id", "")))
    lines, progress = job.log()
    summary = {**job.summary(), "log": lines, "progress": progress}
    return {**summary, "result": job.result if summary["state"] != "running" else {}}


def _stop(desk: Desk, asked: Asked) -> JsonObject:
    job = desk.jobs.find(str(asked.get("id", "")))
    job.stop()
    return job.summary()


def _file(desk: Desk, asked: Asked) -> Response:
    """Return a file: a page or a picture to be shown, others to be saved."""
    file = desk.path(asked)
    if not file.is_file():
        return Response(f"{file.name} is not there.", 404)
    shown = file.suffix.lower() in _SHOWN and "save" not in asked
    place = "inline" if shown else "attachment"
    return FileResponse(file, filename=file.name, content_disposition_type=place)
