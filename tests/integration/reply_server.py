"""A venue that answers with stored replies, and misbehaves on request."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

KRAKEN_PATHS = {
    "/0/public/AssetPairs": "asset_pairs",
    "/0/public/Ticker": "ticker",
    "/0/public/Time": "time",
    "/0/public/OHLC": "ohlc",
}
BINANCE_PATHS = {
    "/api/v3/exchangeInfo": "exchange_info",
    "/api/v3/ticker/24hr": "ticker_24hr",
    "/api/v3/time": "time",
    "/api/v3/klines": "klines",
}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ReplyServer:
    """`replies` by name, `asked` as (name, query), `instead` what to answer by name instead."""

    def __init__(self, paths: Mapping[str, str], replies: Mapping[str, str]) -> None:
        self.replies = dict(replies)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.instead: dict[str, Answer] = {}
        self.base_url = ""
        self._paths = paths

    def queries(self, name: str) -> list[dict[str, str]]:
        """What was asked under a name."""
        return [query for asked, query in self.asked if asked == name]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = self._paths.get(request.path)
        if name is None:
            return web.Response(status=404, text="no such path")
        self.asked.append((name, dict(request.query)))
        if name in self.instead:
            return await self.instead[name](request)
        return web.Response(text=self.replies[name], content_type="application/json")


@asynccontextmanager
async def serving(venue: str, replies: Mapping[str, str]) -> AsyncIterator[ReplyServer]:
    """The server on a free port of the loopback interface."""
    server = ReplyServer(KRAKEN_PATHS if venue == "kraken" else BINANCE_PATHS, replies)
    application = web.Application()
    application.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()


def stored(folder: Path, venue: str) -> dict[str, str]:
    """The replies of a venue by name, from files called `<venue>_<name>.json`."""
    return {
        path.stem.removeprefix(f"{venue}_"): path.read_text()
        for path in sorted(folder.glob(f"{venue}_*.json"))
    }


def text(body: str, *, status: int = 200, **headers: str) -> Answer:
    """Answers with this body and status; `retry_after="7"` is the header `Retry-After`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(
            text=body, status=status, headers=named, content_type="application/json"
        )

    return answer


def never(released: asyncio.Event) -> Answer:
    """Does not answer until the event."""

    async def answer(_: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response(text="{}")

    return answer


async def cut(request: web.Request) -> web.StreamResponse:
    """Promises a long body, sends a little of it and closes the connection."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"error": [')
    transport = request.transport
    if transport is not None:
        transport.abort()
    return response
