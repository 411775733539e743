"""The live adapter on a venue of the test's, and orders for it."""

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

from shared.clock import monotonic_secs, wall_ms
from shared.orders import Leg, LiveOrder, OrderStatus
from shared.vault import ApiKey
from shared.venues import KRAKEN, VENUES, Venue
from tests.integration.scripted_venue import (
    Answer,
    ScriptedVenue,
    kraken_result,
    said,
    scripted_venue,
)
from trade_worker.venues import KeyOf, Sent
from trade_worker.venues.limiter import Limiter
from trade_worker.venues.live import LiveOrders

SECRET = base64.b64encode(b"a secret that must stay one").decode()


async def some_key(venue: str, credential_id: int) -> KeyOf:
    """Any key of a credential, in a shape that both venues can sign with."""
    return KeyOf(venue=venue, key=ApiKey(key=f"key-{credential_id}", secret=SECRET))


@asynccontextmanager
async def live_orders(
    venue: Venue, url: str, *, keys: Mapping[int, ApiKey] | None = None
) -> AsyncIterator[LiveOrders]:
    """The adapter, started. `keys` by credential; without it each has some key."""

    async def opened(credential_id: int) -> KeyOf:
        if keys is None:
            return await some_key(venue.name, credential_id)
        return KeyOf(venue=venue.name, key=keys[credential_id])

    orders = LiveOrders(
        urls={venue.name: url},
        keys=opened,
        limiters={name: Limiter(one) for name, one in VENUES.items()},
        proxy_url=None,
    )
    await orders.start()
    try:
        yield orders
    finally:
        await orders.close()


def live_order(venue: Venue, **changes: object) -> LiveOrder:
    """An entry at a limit, committed now."""
    now_ms = wall_ms()
    order = LiveOrder(
        client_order_id=uuid4().hex,
        bot_id=1,
        user_id=1,
        shard=0,
        credential_id=1,
        venue=venue.name,
        pair=venue.reference_pair,
        position_sequence=1,
        leg=Leg.ENTRY,
        attempt=0,
        quantity=Decimal("0.01000000"),
        limit_price=Decimal("43198.1"),
        decided_price=Decimal("43100.0"),
        status=OrderStatus.COMMITTED,
        venue_order_id=None,
        market_time_ms=now_ms,
        committed_at_ms=now_ms,
        send_by_ms=now_ms + 3000,
    )
    return replace(order, **changes)  # type: ignore[arg-type]


PATHS = {"kraken": "/0/private/AddOrder", "binance": "/api/v3/order"}


@dataclass(frozen=True, slots=True)
class OpenedVenue:
    """A venue and the adapter on it."""

    venue: Venue
    server: ScriptedVenue
    orders: LiveOrders

    @property
    def path(self) -> str:
        return PATHS[self.venue.name]

    def accept(self, order: LiveOrder, **changes: object) -> Answer:
        if self.venue is KRAKEN:
            return kraken_result(descr={"order": "buy"}, txid=["OUF4EM-FRGI2-MQMWZD"])
        return said(full_reply(order) | changes)

    async def send(self, order: LiveOrder, *, secs: float = 3.0) -> Sent:
        return await self.orders.send(order, send_by_secs=monotonic_secs() + secs)


def full_reply(order: LiveOrder) -> dict[str, Any]:
    """Binance's FULL reply to an order that filled in two trades."""
    fill = {"price": "43198.00", "commission": "0.00000500", "commissionAsset": "BTC"}
    return {
        "symbol": "BTCUSDT",
        "orderId": 28,
        "clientOrderId": order.client_order_id,
        "transactTime": 1507725176595,
        "origQty": "0.01000000",
        "executedQty": "0.01000000",
        "status": "FILLED",
        "fills": [
            {**fill, "qty": "0.00400000", "tradeId": 56},
            {**fill, "qty": "0.00600000", "tradeId": 57},
        ],
    }


async def opened(venue: Venue) -> AsyncIterator[OpenedVenue]:
    async with scripted_venue() as server, live_orders(venue, server.base_url) as orders:
        yield OpenedVenue(venue, server, orders)
