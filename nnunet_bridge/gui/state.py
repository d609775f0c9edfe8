"""What all tabs show: datasets with their runs, and jobs; read from files alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse

from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.gui.desk import Asked, Desk
from nnunet_bridge.gui.study import current
from nnunet_bridge.nnunet.names import DATASET_FOLDER, Dataset, number_of
from nnunet_bridge.pipeline.training.status import status_of

EVERY_S = 1.0
_NOTHING = '{"workspace": "", "roots": [], "datasets": [], "jobs": []}'
_SILENCE_S = 15.0  # after which a comment shows that the connection lives


def state(desk: Desk, _asked: Asked | None = None) -> JsonObject:
    """Return the datasets, their runs, and the newest jobs."""
    return {
        "workspace": str(desk.root),
        "roots": [str(folder) for folder in desk.roots.folders],
        "study": current(desk),
        "datasets": [_dataset(desk, each) for each in _datasets(desk)],
        "jobs": [job.summary() for job in desk.jobs.all()],
    }


def _datasets(desk: Desk) -> list[Dataset]:
    folders = [folder for folder in desk.workspace.nnunet_dirs if folder.is_dir()]
    names = {entry.name for folder in folders for entry in folder.iterdir()}
    found = sorted(name for name in names if DATASET_FOLDER.fullmatch(name))
    return [Dataset(desk.workspace, name) for name in found]


def _dataset(desk: Desk, dataset: Dataset) -> JsonObject:
    images = dataset.raw_dir / "imagesTr"
    return {
        "name": dataset.name,
        "number": number_of(dataset.name),
        "converted": images.is_dir(),
        "planned": dataset.splits_file.is_file(),
        "runs": [run.as_json() for run in status_of(dataset, desk.run_state).runs],
    }


@dataclass(slots=True)
class Watch:
    """The state as text, read once a second for all tabs while there is one."""

    desk: Desk
    text: str = ""
    ended: bool = False
    _tabs: int = 0
    _task: "asyncio.Task[None] | None" = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def _look(self) -> None:
        while self._tabs and not self.ended:
            try:
                found = await run_in_threadpool(partial(state, self.desk))
                text = json.dumps(found)
            except Exception as error:  # noqa: BLE001 - a damaged file must not end it
                fault = f"The workspace cannot be read: {type(error).__name__}: {error}"
                text = json.dumps({**json.loads(self.text or _NOTHING), "error": fault})
            if text != self.text:
                self.text = text
                self._changed.set()
                self._changed = asyncio.Event()
            await asyncio.sleep(EVERY_S)

    async def events(self, gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[str]:
        """Yield an event whenever the state has changed, until the tab is gone."""
        self._tabs += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        seen, silent_s = "", 0.0
        try:
            while not (self.ended or await gone()):
                if self.text and self.text != seen:
                    seen, silent_s = self.text, 0.0
                    yield f"data: {seen}\n\n"
                elif silent_s >= _SILENCE_S:
                    silent_s = 0.0
                    yield ": waiting\n\n"
                silent_s += await self._next(seen)
        finally:
            self._tabs -= 1

    async def _next(self, seen: str) -> float:
        """Wait for a change, at most a second; return the seconds."""
        if self.text == seen:
            try:
                await asyncio.wait_for(self._changed.wait(), EVERY_S)
            except TimeoutError:
                return EVERY_S
        return 0.0


async def events(request: Request) -> StreamingResponse:
    """Send the state as server-sent events."""
    stream = request.app.state.watch.events(request.is_disconnected)
    return StreamingResponse(stream, media_type="text/event-stream")
