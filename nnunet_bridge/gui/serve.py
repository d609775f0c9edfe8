"""Start the page on this machine, until Ctrl-C or SIGTERM."""

import asyncio
import contextlib
import os
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
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise EnvironmentFault(
            f"Port {port} cannot be used ({os.strerror(error.errno or 0)}): choose "
            "another with --port, or --port 0 for a free one."
        ) from error
    with listening:
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(24)
        app = application(desk)
        config = uvicorn.Config(
            Guard(app, token, port),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
            lifespan="off",
        )
        app.state.server = server = uvicorn.Server(config)
        address = f"http://{HOST}:{port}/?token={token}"
        if started:
            started(server)
        announce(address)
        if browser:
            webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(server.serve(sockets=[listening]))
