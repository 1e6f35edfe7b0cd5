"""What stands before the explorer's answers: only this machine, only small requests, only so many, no other site."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

MAX_BODY = 256 * 1024
"""Bytes of a request."""
TOO_LARGE = f"a request has at most {MAX_BODY:,} bytes"
RATE = 20.0
"""Requests a second over time; twice as many at once."""
HOSTS = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Limits:
    """ASGI middleware.

    A page of another site can make a browser send requests here (the Host header then names that site after DNS
    rebinding, or Origin names it), so both are looked at; requests with a body must be JSON, which such a page cannot
    send unasked.
    """

    def __init__(self, app: Any, *, rate: float = RATE) -> None:
        self.app, self.rate = app, rate
        self.tokens, self.filled = 2 * rate, time.monotonic()
        self.lock = threading.Lock()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        refusal = self._refusal(scope["method"], headers)
        if refusal is None and not self._take():
            refusal = (429, f"more than {self.rate:.0f} requests a second; wait a moment")
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        body, too_large = await _body(receive)
        if too_large:
            await _refuse(send, 413, TOO_LARGE)
            return
        await self.app(scope, _replayed(body), _with_headers(send))

    def _refusal(self, method: str, headers: dict[str, str]) -> tuple[int, str] | None:
        host = re.sub(r":\d+$", "", headers.get("host", ""))
        if host not in HOSTS:
            return 403, "this page answers on 127.0.0.1 and localhost alone"
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{headers['host']}":
            return 403, "another site may not ask this page"
        if method not in ("GET", "HEAD", "POST"):
            return 405, "GET and POST alone"
        if method == "POST" and headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "expected application/json"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            return 413, TOO_LARGE
        return None

    def _take(self) -> bool:
        with self.lock:
            now = time.monotonic()
            self.tokens = min(2 * self.rate, self.tokens + (now - self.filled) * self.rate)
            self.filled = now
            if self.tokens < 1:
                return False
            self.tokens -= 1
            return True


async def _body(receive: Receive) -> tuple[bytes, bool]:
    """The whole body, and whether it is larger than allowed, whatever its header said."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            return b"", True
        parts.append(part)
        more = message.get("more_body", False) and message["type"] == "http.request"
    return b"".join(parts), False


def _replayed(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
        await send(message)

    return sent


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(key.encode(), value.encode()) for key, value in HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
