"""Live orders as they are stored: what must still be asked for, what is still watched."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Float, Row, Select, and_, bindparam, func, select, text

from shared.clock import ms_of
from shared.orders import Leg, LiveOrder, Mode, OrderStatus
from shared.store.engine import Transaction
from shared.store.tables import UNSETTLED_ORDER, orders, positions
from shared.store.types import seconds_from_now

_OWN = (
    *("client_order_id", "bot_id", "user_id", "shard", "credential_id", "venue", "pair"),
    *("position_sequence", "leg", "attempt", "quantity", "limit_price", "decided_price"),
    *("status", "venue_order_id", "mode", "market_time", "committed_at", "settled_at"),
)


async def unsettled(tx: Transaction, shards: Collection[int]) -> list[LiveOrder]:
    """The live orders of these shards that block their pair, oldest first."""
    query = select_orders().where(
        text(f"orders.{UNSETTLED_ORDER}"),
        orders.c.mode == Mode.LIVE,
        orders.c.shard.in_(shards),
    )
    return [live_order(row) for row in await tx.execute(query.order_by(orders.c.id))]


async def watched(tx: Transaction, shards: Collection[int], *, for_secs: float) -> list[LiveOrder]:
    """The live orders of these shards that were found not to exist within the last `for_secs`,
    oldest first: they may show up late."""
    query = select_orders().where(
        text(f"orders.status = '{OrderStatus.NOT_PLACED}'"),
        orders.c.mode == Mode.LIVE,
        orders.c.shard.in_(shards),
        orders.c.settled_at > seconds_from_now(bindparam("ago_secs", type_=Float(53))),
    )
    rows = await tx.execute(query.order_by(orders.c.id), {"ago_secs": -for_secs})
    return [live_order(row) for row in rows]


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
