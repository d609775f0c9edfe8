"""Files from the browser, what there is to predict, and what was predicted."""

import errno
import os
import re
import secrets
import shutil
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route

from nnunet_bridge.core.errors import SecurityError, UsageError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats import files
from nnunet_bridge.gui.desk import Asked, Desk, Json, endpoint, paged
from nnunet_bridge.gui.look import PREDICTIONS, scan_of
from nnunet_bridge.gui.worker import in_worker
from nnunet_bridge.pipeline.labels.shown import packed_side
from nnunet_bridge.pipeline.prediction import browse

UPLOADS = "uploads"
KEPT_FREE_BYTES = 1 << 30  # an upload leaves so much of the disk
_ID = re.compile(r"upload-[0-9a-f]{8}")
_UNSAFE = re.compile(r"[^\w .()+,=@#-]")
_DEEPEST, _LONGEST = 12, 120


def _new_upload(desk: Desk, _asked: Asked) -> JsonObject:
    """Make a folder for files from the browser."""
    name = f"upload-{secrets.token_hex(4)}"
    folder = desk.root / UPLOADS / name
    with files.clear_os_errors(f"write {folder}"):
        folder.mkdir(parents=True)
    return {"id": name, "path": str(folder)}


def _upload_dir(desk: Desk, name: str) -> Path:
    folder = desk.root / UPLOADS / name
    if not _ID.fullmatch(name) or not folder.is_dir() or folder.is_symlink():
        raise UsageError(f"There is no upload {name!r}.")
    return folder


def safe_parts(name: str) -> list[str]:
    """Return folders and name of an uploaded file, as this machine may store them.

    Raises `SecurityError` if the name leads out of its folder.
    """
    parts = name.replace("\\", "/").split("/")
    if not name or ".." in parts or name.startswith(("/", "\\")) or "\0" in name:
        raise SecurityError(f"{name!r} is not the name of a file in a folder.")
    safe = [_UNSAFE.sub("_", part).lstrip(".- ").strip() for part in parts]
    if len(safe) > _DEEPEST or not all(safe):
        raise SecurityError(f"{name!r} is not a name that can be kept.")
    return [part[-_LONGEST:] for part in safe]


async def _upload(request: Request) -> Json:
    """Write the body of a request as one file of an upload, with a name not yet used.

    A part of a body leaves no file. Raises `EnvironmentFault` if it is larger than the
    disk allows, `UsageError` if it ends early.
    """
    folder = _upload_dir(request.app.state.desk, request.path_params["id"])
    named = folder.joinpath(*safe_parts(request.query_params.get("name", "")))
    stem, dot, ending = named.name.partition(".")
    file, number = named, 2
    while file.exists():
        file, number = named.with_name(f"{stem}_{number}{dot}{ending}"), number + 1
    size = int(request.headers.get("content-length", 0))  # 0: sent in chunks
    room = files.free_bytes(file) - KEPT_FREE_BYTES
    try:
        with (
            files.whole_file(file, needed_bytes=size, to_disk=False) as temporary,
            files.open_to_write(temporary) as stream,
        ):
            _require(room - size)
            async for part in request.stream():
                room -= len(part)
                _require(room)
                await run_in_threadpool(stream.write, part)
    except ClientDisconnect as error:
        raise UsageError("The upload ended before the file was complete.") from error
    return Json({"path": str(file)})


def _require(room: int) -> None:
    if room < 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _remove_upload(desk: Desk, asked: Asked) -> JsonObject:
    folder = _upload_dir(desk, str(asked.get("id", "")))
    with files.clear_os_errors(f"remove {folder}"):
        shutil.rmtree(folder)
    return {"removed": str(folder)}


def _inputs(desk: Desk, asked: Asked) -> JsonObject:
    """Return the images at some paths, each with the series of its folder."""
    return {"cases": in_worker(browse.inputs_in, scan_of(desk, asked)[0])}


def _preview(desk: Desk, asked: Asked) -> JsonObject:
    """Return a picture of a scan across its slices, with their positions."""
    return in_worker(packed_side, *scan_of(desk, asked))


def _folders(desk: Desk, _asked: Asked) -> JsonObject:
    found = browse.prediction_folders(desk.root / PREDICTIONS)
    return {"folders": [str(folder) for folder in found]}


def _results(desk: Desk, asked: Asked) -> JsonObject:
    """Return a page of the predicted cases of a folder."""
    folder = desk.path(asked)
    page = paged(browse.case_dirs(folder), asked, lambda case_dir: case_dir.name)
    page["cases"] = list(map(browse.predicted_case, page["cases"]))
    report = folder / "quality.html"
    return {**page, "quality": str(report) if report.is_file() else None}


routes = [
    endpoint("/api/uploads", _new_upload, "POST"),
    endpoint("/api/uploads/remove", _remove_upload, "POST"),
    Route("/api/uploads/{id}", _upload, methods=["POST"]),
    endpoint("/api/predict/inputs", _inputs, "POST"),
    endpoint("/api/predict/preview", _preview, "POST"),
    endpoint("/api/predict/folders", _folders),
    endpoint("/api/predict/results", _results),
]
