"""A venue whose private replies are written in the test, and which notes what it was asked."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from shared.clock import wall_ms

REPLIES = Path(__file__).parents[1] / "data" / "venue_replies"
MARKETS = {
    "/0/public/AssetPairs": "kraken_asset_pairs",
    "/api/v3/exchangeInfo": "binance_exchange_info",
}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One private request: its parameters in the order in which they were sent."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str] = field(repr=False)


class ScriptedVenue:
    """`answers[path]` are used up in order, the last one for ever; `asked` is what came."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = defaultdict(list)
        self.asked: list[Asked] = []
        self.base_url = ""
        self.ahead_ms = 0
        """How far the venue's clock is ahead of this machine's."""
        self.time_down = False

    def answer(self, path: str, *answers: Answer | object, status: int = 200) -> None:
        """What to answer there from now on: functions, or JSON bodies."""
        self.answers[path] = [one if callable(one) else said(one, status=status) for one in answers]

    def params_of(self, path: str) -> list[dict[str, str]]:
        return [asked.params for asked in self.asked if asked.path == path]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path in MARKETS:
            text = (REPLIES / f"{MARKETS[request.path]}.json").read_text()
            return web.Response(text=text, content_type="application/json")
        if request.path in ("/0/public/Time", "/api/v3/time"):
            return self._time(request.path)
        text = await request.text() or request.query_string
        self.asked.append(
            Asked(request.method, request.path, dict(parse_qsl(text)), dict(request.headers))
        )
        waiting = self.answers[request.path]
        if not waiting:
            return web.Response(status=404, text="no answer was written for this path")
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return await answer(request)

    def _time(self, path: str) -> web.Response:
        if self.time_down:
            return web.Response(status=503)
        now_ms = wall_ms() + self.ahead_ms
        if path == "/api/v3/time":
            return web.json_response({"serverTime": now_ms})
        return web.json_response({"error": [], "result": {"unixtime": now_ms // 1000}})


@asynccontextmanager
async def scripted_venue() -> AsyncIterator[ScriptedVenue]:
    """The venue on a free port of the loopback interface."""
    venue = ScriptedVenue()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", venue.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        venue.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield venue
    finally:
        await runner.cleanup()


def said(body: object, *, status: int = 200, **headers: str) -> Answer:
    """Answers with this JSON, or with this text; `retry_after="7"` is the header `Retry-After`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    text = body if isinstance(body, str) else json.dumps(body)

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(
            text=text, status=status, headers=named, content_type="application/json"
        )

    return answer


def kraken_error(*errors: str, status: int = 200) -> Answer:
    return said({"error": list(errors), "result": {}}, status=status)


def kraken_result(**result: Any) -> Answer:
    return said({"error": [], "result": result})


def binance_error(code: int, message: str, *, status: int = 400, **headers: str) -> Answer:
    return said({"code": code, "msg": message}, status=status, **headers)


async def dropped(request: web.Request) -> web.StreamResponse:
    """Closes the connection instead of answering."""
    if request.transport is not None:
        request.transport.abort()
    await asyncio.sleep(0)
    return web.Response()


async def cut(request: web.Request) -> web.StreamResponse:
    """Promises a long body, sends a little of it and closes the connection."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"error": [], "result"')
    if request.transport is not None:
        request.transport.abort()
    return response


def never(released: asyncio.Event) -> Answer:
    """Does not answer until the event."""

    async def answer(_: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response(text="{}")

    return answer
