"""Start the page on this machine, until Ctrl-C or SIGTERM."""

import asyncio
import contextlib
import secrets
import socket
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.gui.app import application
from nnunet_bridge.gui.desk import Desk
from nnunet_bridge.gui.guard import Guard
from nnunet_bridge.gui.roots import Roots

HOST = "127.0.0.1"
_GOODBYE_S = 2
_WAITING = 128  # connections


def serve(
    root: Path,
    roots: Sequence[Path],
    port: int,
    announce: Callable[[str], object],
    *,
    browser: bool = True,
    started: Callable[[uvicorn.Server], object] | None = None,
) -> None:
    """Serve the page of a workspace; `announce` gets its address with the token.

    Parameters
    ----------
    root : Path
        Folder of the workspace.
    roots : sequence of Path
        Further folders that the page may show.
    port : int
        0 takes a free one.
    started : callable, optional
        Gets the server, which ends when its `should_exit` is set.

    Raises
    ------
    EnvironmentFault
        If the port is in use.
    """
    desk = Desk(root.absolute(), Roots.of([root, *roots]))
    with contextlib.closing(_bound(port)) as listening:
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(24)
        app = application(desk)
        server = _Server(Guard(app, token, port), lambda: _end(app))
        address = f"http://{HOST}:{port}/?token={token}"
        if started:
            started(server)
        announce(address)
        if browser:
            webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(server.serve(sockets=[listening]))


def _end(app: object) -> None:
    app.state.watch.ended = True  # type: ignore[attr-defined]


class _Server(uvicorn.Server):
    """Ends the streams of all tabs first, which would otherwise keep it waiting."""

    def __init__(self, app: Guard, on_end: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GOODBYE_S,
        )
        super().__init__(config)
        self._on_end = on_end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then everything else."""
        self._on_end()
        await super().shutdown(sockets)


def _bound(port: int) -> socket.socket:
    """Return a socket that only this machine reaches."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(_WAITING)  # before the address is announced
    except OSError as error:
        listening.close()
        raise EnvironmentFault(
            f"Port {port} cannot be used ({error.strerror}): choose another with "
            "--port, or --port 0 for a free one."
        ) from error
    return listening
