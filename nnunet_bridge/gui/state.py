"""What all tabs show: datasets with their runs, and jobs; read from files alone."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse

from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.gui.desk import Asked, Desk
from nnunet_bridge.gui.study import current
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.pipeline.training.status import status_of

EVERY_S = 1.0


def state(desk: Desk, _asked: Asked | None = None) -> JsonObject:
    """Return the datasets, their runs, and the newest jobs."""
    return {
        "workspace": str(desk.root),
        "roots": [str(folder) for folder in desk.roots.folders],
        "study": current(desk),
        "datasets": [_dataset(desk, each) for each in Dataset.all(desk.workspace)],
        "jobs": [job.summary() for job in desk.jobs.all()],
    }


def _dataset(desk: Desk, dataset: Dataset) -> JsonObject:
    images = dataset.raw_dir / "imagesTr"
    comparison = desk.root / "comparison" / dataset.name / "index.html"
    return {
        "name": dataset.name,
        "number": dataset.number,
        "converted": images.is_dir(),
        "planned": dataset.splits_file.is_file(),
        "compared": comparison.stat().st_mtime if comparison.is_file() else None,
        "runs": [run.as_json() for run in status_of(dataset, desk.run_state).runs],
    }


@dataclass(slots=True)
class Watch:
    """The state as text, read once a second at most for all tabs together."""

    desk: Desk
    _text: str = ""
    _read_at: float = -EVERY_S
    _one_reader: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def _latest(self) -> str:
        async with self._one_reader:
            if time.monotonic() - self._read_at >= EVERY_S:
                try:
                    found = await run_in_threadpool(state, self.desk)
                except Exception as error:  # noqa: BLE001 - a damaged file is no end
                    what = f"{type(error).__name__}: {error}"
                    found = {"error": f"The workspace cannot be read: {what}"}
                self._text = json.dumps(found)
                self._read_at = time.monotonic()
            return self._text

    async def events(self, over: Callable[[], Awaitable[bool]]) -> AsyncIterator[str]:
        """Yield an event whenever the state has changed, until it is over."""
        seen = ""
        while not await over():
            text = await self._latest()
            if text != seen:
                seen = text
                yield f"data: {seen}\n\n"
            await asyncio.sleep(EVERY_S / 2)


async def events(request: Request) -> StreamingResponse:
    """Send the state as server-sent events while the tab and the server are there."""
    app = request.app.state

    async def over() -> bool:
        return app.server.should_exit or await request.is_disconnected()

    return StreamingResponse(app.watch.events(over), media_type="text/event-stream")
