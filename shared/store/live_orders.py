"""Live orders as they are stored."""

from typing import Any

from sqlalchemy import Row, Select, and_, func, select

from shared.clock import ms_of
from shared.orders import Leg, LiveOrder, OrderStatus
from shared.store.tables import orders, positions

_OWN = (
    *("client_order_id", "bot_id", "user_id", "shard", "credential_id", "venue", "pair"),
    *("position_sequence", "leg", "attempt", "quantity", "limit_price", "decided_price"),
    *("status", "venue_order_id", "mode", "market_time", "committed_at", "settled_at"),
)


def select_orders() -> Select[Any]:
    """Orders with what `live_order` reads, and their mode."""
    position = and_(
        positions.c.bot_id == orders.c.bot_id,
        positions.c.pair == orders.c.pair,
        positions.c.sequence == orders.c.position_sequence,
    )
    send_by = func.coalesce(orders.c.send_by, orders.c.committed_at)
    return select(
        *(orders.c[name] for name in _OWN), send_by.label("send_by"), positions.c.regime
    ).outerjoin_from(orders, positions, position)


def live_order(row: Row[Any]) -> LiveOrder:
    """A row of `select_orders`."""
    return LiveOrder(
        client_order_id=row.client_order_id,
        bot_id=row.bot_id,
        user_id=row.user_id,
        shard=row.shard,
        credential_id=row.credential_id,
        venue=row.venue,
        pair=row.pair,
        position_sequence=row.position_sequence,
        leg=Leg(row.leg),
        attempt=row.attempt,
        quantity=row.quantity,
        limit_price=row.limit_price,
        decided_price=row.decided_price,
        status=OrderStatus(row.status),
        venue_order_id=row.venue_order_id,
        market_time_ms=ms_of(row.market_time),
        committed_at_ms=ms_of(row.committed_at),
        send_by_ms=ms_of(row.send_by),
        settled_at_ms=None if row.settled_at is None else ms_of(row.settled_at),
        regime=row.regime,
    )
