"""The venues' public paths over HTTP, and the faults on them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from aiohttp import web

from ecosystem.venue_simulator.binance import BINANCE_API
from ecosystem.venue_simulator.clock import MarketClock
from ecosystem.venue_simulator.faults import FaultBoard
from ecosystem.venue_simulator.http_replies import plain
from ecosystem.venue_simulator.kraken import KRAKEN_API
from ecosystem.venue_simulator.market import Market
from ecosystem.venue_simulator.private_api import PrivateApi
from ecosystem.venue_simulator.venue_api import (
    Call,
    Endpoint,
    Reply,
    VenueApi,
    VenueRefusal,
    closes,
    refused_reply,
)

VENUE_APIS: Final = (KRAKEN_API, BINANCE_API)

Handler = Callable[[web.Request], Awaitable[web.Response]]


def venue_routes(
    api: VenueApi, private: PrivateApi, *, market: Market, clock: MarketClock, faults: FaultBoard
) -> list[web.RouteDef]:
    """A venue's public paths. `private` is the same venue's private side, which counts requests
    and says how the venue turns them away."""

    async def answered(request: web.Request, endpoint: Endpoint) -> Reply:
        refused = faults.refused(api.venue)
        listings = [each for each in market.listings(api.venue) if each.pair not in refused]
        selected = endpoint.select(request.query, listings)
        spoiled = faults.spoil(
            venue=api.venue,
            endpoint=endpoint.name,
            pairs=[listing.pair for listing in selected],
        )
        if spoiled.delay_secs:
            await asyncio.sleep(spoiled.delay_secs)
        turned_away = spoiled.turned_away
        if turned_away is not None and not (endpoint.name == "status" and closes(spoiled)):
            return private.turned_away(turned_away, endpoint.name, clock.now_ms())
        skew_ms = faults.skew_ms(api.venue) if endpoint.name == "time" else 0
        call = Call(
            query=request.query,
            listings=selected,
            market=market,
            now_ms=clock.now_ms() + skew_ms,
            spoiled=spoiled,
        )
        if endpoint.name == "candles":
            # A month of candles met for the first time takes some 30 ms to compute.
            return Reply(body=await asyncio.to_thread(endpoint.answer, call))
        return Reply(body=endpoint.answer(call))

    def handler(endpoint: Endpoint) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            headers: Mapping[str, str] = {}
            try:
                weight = endpoint.weight(request.query)
                headers = private.weigh(request.remote or "", weight, clock.counting_ms())
                reply = await answered(request, endpoint)
            except VenueRefusal as refusal:
                reply = refused_reply(refusal)
            return plain(replace(reply, headers={**headers, **reply.headers}))

        return handle

    return [web.get(endpoint.path, handler(endpoint)) for endpoint in api.endpoints]
