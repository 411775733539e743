"""The simulator's HTTP side: the venues' paths, the faults on them, and its own status."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from aiohttp import web

from ecosystem.venue_simulator.binance import BINANCE_API
from ecosystem.venue_simulator.clock import MarketClock
from ecosystem.venue_simulator.faults import FaultBoard, fault_of
from ecosystem.venue_simulator.kraken import KRAKEN_API
from ecosystem.venue_simulator.market import Market
from ecosystem.venue_simulator.venue_api import Call, Endpoint, VenueApi, VenueRefusal
from shared.errors import Refused
from shared.venues import VENUES

VENUE_APIS: Final = (KRAKEN_API, BINANCE_API)

Handler = Callable[[web.Request], Awaitable[web.Response]]

_GARBAGE: Final = b'{"error":[],"result":{"XXB'
_UNAVAILABLE: Final = "<html><head><title>503 Service Unavailable</title></head></html>"


def venue_routes(
    api: VenueApi, *, market: Market, clock: MarketClock, faults: FaultBoard
) -> list[web.RouteDef]:
    """A venue's paths."""

    def handler(endpoint: Endpoint) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            refused = faults.refused(api.venue)
            listings = [
                listing for listing in market.listings(api.venue) if listing.pair not in refused
            ]
            try:
                selected = endpoint.select(request.query, listings)
                spoiled = faults.spoil(
                    venue=api.venue,
                    endpoint=endpoint.name,
                    pairs=[listing.pair for listing in selected],
                )
                if spoiled.delay_secs:
                    await asyncio.sleep(spoiled.delay_secs)
                if spoiled.fails:
                    return web.Response(status=503, text=_UNAVAILABLE, content_type="text/html")
                if spoiled.is_garbage:
                    return web.Response(body=_GARBAGE, content_type="application/json")
                call = Call(
                    query=request.query,
                    listings=selected,
                    market=market,
                    now_ms=clock.now_ms(),
                    spoiled=spoiled,
                )
                if endpoint.name == "candles":
                    # A month of candles met for the first time takes some 30 ms to compute.
                    return _json(await asyncio.to_thread(endpoint.answer, call))
                return _json(endpoint.answer(call))
            except VenueRefusal as refusal:
                return _json(refusal.body, status=refusal.status)

        return handle

    return [web.get(endpoint.path, handler(endpoint)) for endpoint in api.endpoints]


def fault_routes(faults: FaultBoard) -> list[web.RouteDef]:
    """`/simulator/faults`: POST sets one (a JSON object with the fields of `Fault`), GET lists
    them, DELETE clears those of `?venue=`, or all. A bad fault is answered with 400."""

    async def show(_: web.Request) -> web.Response:
        return _json(faults.all())

    async def create(request: web.Request) -> web.Response:
        try:
            fields = orjson.loads(await request.read())
            if not isinstance(fields, dict):
                raise Refused("a fault must be a JSON object")
            faults.set(fault_of(fields))
        except (orjson.JSONDecodeError, Refused) as exc:
            return _json({"error": str(exc)}, status=400)
        return _json(faults.all(), status=201)

    async def clear(request: web.Request) -> web.Response:
        venue = request.query.get("venue")
        if venue not in (None, *VENUES):
            return _json(
                {"error": f"venue must be one of {', '.join(VENUES)}, was {venue!r}"}, status=400
            )
        faults.clear(venue)
        return _json(faults.all())

    path = "/simulator/faults"
    return [web.get(path, show), web.post(path, create), web.delete(path, clear)]


def status_route(status: Callable[[], dict[str, object]]) -> web.RouteDef:
    """`GET /simulator/status`."""

    async def show(_: web.Request) -> web.Response:
        return _json(status())

    return web.get("/simulator/status", show)


def _json(body: object, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
