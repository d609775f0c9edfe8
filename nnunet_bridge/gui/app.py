"""The addresses of the page, and those of jobs and files."""

from collections import Counter
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from nnunet_bridge.core.errors import BridgeError, UsageError
from nnunet_bridge.core.findings import Outcome
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.gui import look, predict, study, train
from nnunet_bridge.gui.commands import words_of
from nnunet_bridge.gui.desk import Asked, Desk, endpoint, paged, refused
from nnunet_bridge.gui.guard import FILES_PATH
from nnunet_bridge.gui.jobs import command_line
from nnunet_bridge.gui.state import Watch, events, state

_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_ABOUT = ("dataset", "outcome", "train", "test", "files", "messages")


def application(desk: Desk) -> Starlette:
    """Return the page of a workspace, without its guard."""
    app = Starlette(
        routes=[
            Route("/", _asset),
            Route("/assets/{name}", _asset),
            Route("/api/events", events),
            endpoint("/api/state", state),
            endpoint("/api/folder", _folder),
            endpoint("/api/command", _command, "POST"),
            endpoint("/api/jobs", _start, "POST"),
            endpoint("/api/job", _job),
            endpoint("/api/cases", _cases),
            endpoint("/api/stop", _stop, "POST"),
            endpoint(FILES_PATH, _file),
            *(each for step in (study, train, look, predict) for each in step.routes),
        ],
        exception_handlers={BridgeError: refused},
    )
    app.state.desk = desk
    app.state.watch = Watch(desk)
    return app


def _asset(request: Request) -> Response:
    """Return a file of the page, or the page itself."""
    name = request.path_params.get("name", "index.html")
    kind = _KINDS.get(Path(name).suffix)
    for package in ("nnunet_bridge.gui.assets", "nnunet_bridge.formats.html"):
        asset = files(package) / name
        if kind and asset.is_file():
            return Response(asset.read_bytes(), media_type=kind)
    return Response("There is no such file.", 404)


def _folder(desk: Desk, asked: Asked) -> JsonObject:
    return desk.roots.listing(str(asked.get("path", "")))


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
    summary = job.summary()
    result = job.result if summary["state"] != "running" else {}
    lines, progress = job.log()
    return {**summary, "log": lines, "progress": progress, "result": result}


def _cases(desk: Desk, asked: Asked) -> JsonObject:
    """Return cases of a `check` or `convert` with one outcome, or all, and counts."""
    job = desk.jobs.find(str(asked.get("job", "")))
    facts, result = job.facts, job.result
    if facts.get("command") not in ("check", "convert"):
        raise UsageError(f"Job {job.id} checks no cases.")
    cases = result.get("cases", [])
    counts = Counter(case["outcome"] for case in cases)
    wanted = str(asked.get("outcome", ""))
    kept = [case for case in cases if wanted in ("", case["outcome"])]
    words = [str(outcome) for outcome in reversed(Outcome)]
    return {
        "job": job.id,
        "command": facts["command"],
        **{name: facts["values"].get(name) for name in ("study", "recipe")},
        **{name: result.get(name) for name in _ABOUT},
        "counts": {word: counts[word] for word in words if counts[word]},
        "total": len(cases),
        **paged(kept, asked, lambda case: " ".join(map(str, case.values()))),
    }


def _stop(desk: Desk, asked: Asked) -> JsonObject:
    job = desk.jobs.find(str(asked.get("id", "")))
    job.stop()
    return job.summary()


def _file(desk: Desk, asked: Asked) -> Response:
    """Return a file, to be shown or saved."""
    file = desk.path(asked)
    if not file.is_file():
        return Response(f"{file.name} is not there.", 404)
    place = "attachment" if "save" in asked else "inline"
    return FileResponse(file, filename=file.name, content_disposition_type=place)
