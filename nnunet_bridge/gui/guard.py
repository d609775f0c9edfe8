"""What every request must show before the page answers it.

The page can start processes and read files, so a foreign web site that the browser
has open must not reach it, nor another user of the machine. A request needs the name
of this host (against DNS rebinding), no foreign origin (against cross-site requests)
and the token of this start, from the address or from the cookie that it leaves.
"""

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; frame-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
FILE_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'self'"
)
"""For pages that a command wrote: they run in an origin of their own, without the
cookie."""

FILES_PATH = "/file"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_WAY_IN = (
    "This address has no valid token. Open the address that `nnunet-bridge gui` "
    "printed when it started; each start has a new one."
)


@dataclass(frozen=True, slots=True)
class Guard:
    """ASGI middleware that refuses every request but those of the page itself."""

    app: "ASGIApp"
    token: str
    port: int

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request, or pass it on; add headers that restrict the browser."""
        if scope["type"] != "http":
            return
        policy = FILE_POLICY if scope["path"].startswith(FILES_PATH) else PAGE_POLICY

        async def sending(message: "Message") -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update({**_HEADERS, "Content-Security-Policy": policy})
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._refusal(HTTPConnection(scope)) or self.app
        await answer(scope, receive, sending)

    def _refusal(self, asked: HTTPConnection) -> Response | None:
        """Return the answer to a request that is not passed on, or None."""
        host = asked.headers.get("host", "")
        if host not in (f"127.0.0.1:{self.port}", f"localhost:{self.port}"):
            return PlainTextResponse("Unknown host.", 421)
        if asked.headers.get("origin", f"http://{host}") != f"http://{host}":
            return PlainTextResponse("Requests of other web pages are refused.", 403)
        cookie = f"nnunet_bridge_{self.port}"  # browsers share those of two ports
        word = asked.query_params.get("token", "")
        if word and asked.scope["path"] == "/" and asked.scope["method"] == "GET":
            if not self._is_token(word):
                return PlainTextResponse(_WAY_IN, 403)
            answer = RedirectResponse("/", 303)
            answer.set_cookie(cookie, self.token, httponly=True, samesite="strict")
            return answer
        if not self._is_token(asked.cookies.get(cookie, "")):
            return PlainTextResponse(_WAY_IN, 401)
        return None

    def _is_token(self, word: str) -> bool:
        return hmac.compare_digest(word.encode(), self.token.encode())
