"""The live adapter on a venue of the test's, and orders for it."""

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from uuid import uuid4

from shared.clock import wall_ms
from shared.orders import Leg, LiveOrder, OrderStatus
from shared.vault import ApiKey
from shared.venues import VENUES, Venue
from trade_worker.venues import KeyOf
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
