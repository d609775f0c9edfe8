"""What every handler of the page gets, and how a function becomes an address."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nnunet_bridge.core.errors import EnvironmentFault, SecurityError, UsageError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.gui.jobs import Jobs
from nnunet_bridge.gui.roots import Roots
from nnunet_bridge.nnunet.names import Dataset, Workspace
from nnunet_bridge.nnunet.runs import RunReader

MOST_BYTES = 16_000_000  # of a request; a case table of 500 patients has one megabyte
A_PAGE = 20  # cases
_STATUS = {SecurityError: 403, EnvironmentFault: 507}
Asked: TypeAlias = Mapping[str, Any]
"""Values of a request: those of the address, or the JSON object in its body."""

_Case = TypeVar("_Case")


@dataclass(frozen=True, slots=True)
class Desk:
    """The workspace of the page, and what it may show."""

    root: Path  # of the workspace
    roots: Roots
    run_state: RunReader = field(default_factory=RunReader)

    @property
    def workspace(self) -> Workspace:
        """The folders of nnU-Net and ours."""
        return Workspace.at(self.root)

    @property
    def jobs(self) -> Jobs:
        """The commands that the page has started."""
        return Jobs(self.workspace.runs_dir / "jobs", self.root)

    def dataset(self, asked: Asked) -> Dataset:
        """Return the dataset that a request names."""
        return Dataset.find(self.workspace, str(asked.get("dataset", "")))

    def path(self, asked: Asked, name: str = "path") -> Path:
        """Return a path of a request, confined to the roots."""
        return self.roots.path(str(asked.get(name, "")))


class Json(JSONResponse):
    """JSON in ASCII: names of files need not be UTF-8."""

    def render(self, content: object) -> bytes:
        """Return the bytes of an answer."""
        return json.dumps(content, allow_nan=False, default=str).encode("ascii")


async def refused(_request: Request, error: Exception) -> Response:
    """Return the sentence of a `BridgeError` as an answer.

    Its status is 400, 403 for a path outside the roots, or 507 if the machine cannot.
    """
    known = (code for kind, code in _STATUS.items() if isinstance(error, kind))
    content = {"error": str(error), "code": getattr(error, "code", "")}
    return Json(content, next(known, 400))


def endpoint(
    path: str,
    handler: Callable[[Desk, Asked], JsonObject | Response],
    method: str = "GET",
) -> Route:
    """Return the route of a function, which runs in a thread."""

    async def answer(request: Request) -> Response:
        asked = await _asked(request)
        result = await run_in_threadpool(handler, request.app.state.desk, asked)
        return result if isinstance(result, Response) else Json(result)

    return Route(path, answer, methods=[method])


async def _asked(request: Request) -> Asked:
    if request.method == "GET":
        return dict(request.query_params)
    if int(request.headers.get("content-length", MOST_BYTES + 1)) > MOST_BYTES:
        raise UsageError("This request is too large, or does not say its size.")
    try:
        content = await request.json()
    except ValueError as error:
        raise UsageError("This request is not JSON.") from error
    if not isinstance(content, dict):
        raise UsageError("This request is not a JSON object.")
    return content


def paged(
    found: Sequence[_Case], asked: Asked, text: Callable[[_Case], str]
) -> JsonObject:
    """Return the asked page of a list; `query` keeps those whose text has it."""
    query = str(asked.get("query", "")).casefold()
    kept = [one for one in found if query in text(one).casefold()] if query else found
    pages = max(1, -(-len(kept) // A_PAGE))
    word = str(asked.get("page", "1"))
    page = min(pages, max(1, int(word))) if word.isdecimal() else 1
    shown = list(kept[(page - 1) * A_PAGE : page * A_PAGE])
    return {"cases": shown, "page": page, "pages": pages, "found": len(kept)}
