"""What goes wrong between a venue and whoever asks it: before, or after the work was done.

Each request draws for itself. A refusal here is certain to have changed nothing; whatever is
told wrongly, late or not at all has happened all the same.
"""

import asyncio
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from tests.other_venues.books import Books

PUBLIC_SHARE: Final = 0.2
"""How much rarer public requests are harmed: without prices nobody trades."""

PLACING: Final = frozenset({("POST", "/api/v3/order"), ("POST", "/0/private/AddOrder")})
PLACING_SHARE: Final = 2.0
"""How much more often what places an order is harmed: it is what must not be done twice."""

TOO_LATE_SECS: Final = 7.0
"""Beyond the patience of any client."""

ARRIVED_SECS: Final = web.RequestKey("arrived_secs", float)
BEFORE: Final = ("reset in the body", "out of step", "too many requests", "held up")
AFTER: Final = ("reset", "late", "proxy", "empty", "cut", "cut in silence")
PROXY_PAGE: Final = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n"
    "<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A reply of a venue, as JSON."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> web.Response:
        return web.json_response(self.body, status=self.status, headers=self.headers)


Answering = Callable[[web.Request], Awaitable[Told]]


class Line:
    """The way to one venue. `out_of_step` and `too_many` are that venue's own refusals."""

    def __init__(
        self, books: Books, answer: Answering, *, out_of_step: Told, too_many: Told
    ) -> None:
        self._books = books
        self._answer = answer
        self._refusals = {"out of step": out_of_step, "too many requests": too_many}

    async def public(self, request: web.Request) -> web.StreamResponse:
        wrong = self._drawn(AFTER[2:], PUBLIC_SHARE)
        return await self._told(request, await self._answer(request), wrong)

    async def private(self, request: web.Request) -> web.StreamResponse:
        placing = (request.method, request.path) in PLACING
        wrong = self._drawn((*BEFORE, *AFTER), PLACING_SHARE if placing else 1.0)
        if wrong:
            self._books.write("trouble", what=wrong, path=request.path, method=request.method)
        request[ARRIVED_SECS] = time.time()
        if wrong == "held up":
            # Somewhere on the way: whoever sent it may have given up when it is looked at.
            await request.read()
            await asyncio.sleep(self._books.draw.uniform(1.0, 6.0))
        if wrong == "reset in the body":
            await request.content.readany()
            return _reset(request)
        if wrong == "too many requests" and self._books.draw.random() < 0.5:
            page = PROXY_PAGE.format("429 Too Many Requests")
            return web.Response(
                text=page, status=429, content_type="text/html", headers={"Retry-After": "2"}
            )
        if wrong in self._refusals:
            return self._refusals[wrong].response()
        return await self._told(request, await self._answer(request), wrong)

    def _drawn(self, kinds: tuple[str, ...], share: float) -> str:
        return self._books.draw.choice(kinds) if self._books.trouble(share) else ""

    async def _told(self, request: web.Request, told: Told, wrong: str) -> web.StreamResponse:
        body = json.dumps(told.body).encode()
        cut = self._books.draw.randrange(len(body))
        if wrong == "reset":
            return _reset(request)
        if wrong == "late":
            await asyncio.sleep(TOO_LATE_SECS)
        elif wrong == "proxy":
            status, text = self._books.draw.choice(
                [(502, "Bad Gateway"), (504, "Gateway Time-out")]
            )
            page = PROXY_PAGE.format(f"{status} {text}")
            return web.Response(text=page, status=status, content_type="text/html")
        elif wrong == "empty":
            return web.Response(status=200)
        elif wrong == "cut in silence":
            return web.Response(body=body[:cut], content_type="application/json")
        elif wrong == "cut":
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.content_length = len(body)
            await response.prepare(request)
            await response.write(body[:cut])
            if request.transport is not None:
                request.transport.close()
            return response
        return told.response()


def _reset(request: web.Request) -> web.StreamResponse:
    """Ends the connection with a TCP reset: whoever waits reads no reply."""
    if request.transport is not None:
        peer = request.transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()
