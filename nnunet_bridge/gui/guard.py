"""What every request must show before the page answers it.

The page can start processes and read files, so a foreign web site that the browser
has open must not reach it, nor another user of the machine. A request needs the name
of this host (against DNS rebinding), no foreign origin (against cross-site requests)
and the token of this start, from the address or from the cookie that it leaves.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
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


@dataclass(frozen=True, slots=True)
class Guard:
    """ASGI middleware that refuses every request but those of the page itself."""

    app: "ASGIApp"
    token: str
    port: int

    @property
    def cookie(self) -> str:
        """Name of the cookie; browsers do not keep those of two ports apart."""
        return f"nnunet_bridge_{self.port}"

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        sending = _with_headers(send, scope["path"])
        await (refusal or self.app)(scope, receive, sending)

    def _refusal(self, scope: "Scope") -> Response | None:
        """Return the answer to a request that is not passed on, or None."""
        headers = Headers(scope=scope)
        hosts = {f"{name}:{self.port}" for name in ("127.0.0.1", "localhost")}
        host = headers.get("host", "")
        if host not in hosts:
            return PlainTextResponse("Unknown host.", 421)
        if headers.get("origin", f"http://{host}") != f"http://{host}":
            return PlainTextResponse("Requests of other web pages are refused.", 403)
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if asked and scope["path"] == "/" and scope["method"] == "GET":
            if not self._is_token(asked):
                return PlainTextResponse(_WAY_IN, 403)
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
            return answer
        if not self._is_token(_cookies(headers).get(self.cookie, "")):
            return PlainTextResponse(_WAY_IN, 401)
        return None

    def _is_token(self, word: str) -> bool:
        return hmac.compare_digest(word.encode(), self.token.encode())


_WAY_IN = (
    "This address has no valid token. Open the address that `nnunet-bridge gui` "
    "printed when it started; each start has a new one."
)


def _cookies(headers: Mapping[str, str]) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in headers.get("cookie", "").split(";"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _with_headers(send: "Send", path: str) -> "Send":
    """Return `send` with the headers that restrict what a browser does."""
    policy = FILE_POLICY if path.startswith(FILES_PATH) else PAGE_POLICY

    async def sending(message: "Message") -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers["Content-Security-Policy"] = policy
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
