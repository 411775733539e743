"""Orders and their fills as people read them: newest first."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, func, select, text

from shared.errors import Refused
from shared.orders import Leg, Mode, OrderStatus, Side
from shared.store.engine import Transaction
from shared.store.tables import UNSETTLED_ORDER, bots, fills, orders, users


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order with its times and facts. `limit_price` None is an order at market. `detail` is
    what the venue, or we, said of one that went wrong.

    `market_time` is the venue's clock, `observed_at` the price stream's, `received_at`,
    `decided_at` and `sent_at` the worker's, `committed_at` and `settled_at` the database's.
    """

    id: int
    client_order_id: str
    bot_id: int
    bot: str
    user_id: int
    user: str
    shard: int
    credential_id: int
    mode: Mode
    venue: str
    pair: str
    position_sequence: int
    leg: Leg
    attempt: int
    side: Side
    quantity: Decimal
    decided_price: Decimal
    limit_price: Decimal | None
    status: OrderStatus
    filled_quantity: Decimal
    average_price: Decimal | None
    fee: Decimal
    fee_currency: str | None
    venue_order_id: str | None
    detail: str | None
    reason: str
    facts: Mapping[str, Any]
    lease_epoch: int
    send_by: datetime | None
    market_time: datetime
    observed_at: datetime
    received_at: datetime
    decided_at: datetime
    committed_at: datetime
    sent_at: datetime | None
    settled_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFill:
    """A trade of an order. `filled_at` is the venue's clock."""

    client_order_id: str
    trade_id: str
    position_sequence: int
    leg: Leg
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    filled_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFilter:
    """Which orders; None does not filter. `unsettled` true: those that block their pair."""

    bot_id: int | None = None
    user: str | None = None
    status: OrderStatus | None = None
    venue: str | None = None
    pair: str | None = None
    leg: Leg | None = None
    position_sequence: int | None = None
    unsettled: bool = False


EVERY_ORDER = OrderFilter()


async def page(
    tx: Transaction,
    which: OrderFilter = EVERY_ORDER,
    *,
    limit: int = 100,
    before: int | None = None,
) -> list[Order]:
    """Orders by id, newest first, of those below `before`."""
    query = _orders()
    for column, value in (
        (orders.c.bot_id, which.bot_id),
        (users.c.name, which.user),
        (orders.c.status, which.status),
        (orders.c.venue, which.venue),
        (orders.c.pair, which.pair),
        (orders.c.leg, which.leg),
        (orders.c.position_sequence, which.position_sequence),
    ):
        if value is not None:
            query = query.where(column == value)
    if which.unsettled:
        query = query.where(text(f"orders.{UNSETTLED_ORDER}"))
    if before is not None:
        query = query.where(orders.c.id < before)
    rows = await tx.execute(query.order_by(orders.c.id.desc()).limit(limit))
    return [_order(row._asdict()) for row in rows]


async def get(tx: Transaction, client_order_id: str) -> Order:
    """Raises `Refused` for an unknown id."""
    query = _orders().where(orders.c.client_order_id == client_order_id)
    row = (await tx.execute(query)).one_or_none()
    if row is None:
        raise Refused(f"there is no order {client_order_id}")
    return _order(row._asdict())


async def fills_of(tx: Transaction, *, bot_id: int, pair: str, sequence: int) -> list[StoredFill]:
    """The fills of one position, in the order of the venue's clock."""
    rows = await tx.execute(
        select(*(fills.c[name] for name in StoredFill.__slots__))
        .where(
            fills.c.bot_id == bot_id,
            fills.c.pair == pair,
            fills.c.position_sequence == sequence,
        )
        .order_by(fills.c.filled_at, fills.c.id)
    )
    return [StoredFill(**{**row._mapping, "leg": Leg(row.leg)}) for row in rows]


async def count(tx: Transaction, *, newest: int = 10_000) -> dict[OrderStatus, int]:
    """How many of the newest orders have which status; a status without any is absent."""
    recent = select(orders.c.status).order_by(orders.c.id.desc()).limit(newest).subquery()
    rows = await tx.execute(
        select(recent.c.status, func.count().label("orders")).group_by(recent.c.status)
    )
    return {OrderStatus(row.status): row.orders for row in rows}


async def count_unsettled(tx: Transaction) -> dict[OrderStatus, int]:
    """How many orders block their pair, by status."""
    rows = await tx.execute(
        select(orders.c.status, func.count().label("orders"))
        .where(text(UNSETTLED_ORDER))
        .group_by(orders.c.status)
    )
    return {OrderStatus(row.status): row.orders for row in rows}


def _orders() -> Select[Any]:
    own = (orders.c[name] for name in Order.__slots__ if name not in ("bot", "user"))
    return (
        select(*own, bots.c.name.label("bot"), users.c.name.label("user"))
        .join_from(orders, bots, bots.c.id == orders.c.bot_id)
        .join(users, users.c.id == orders.c.user_id)
    )


def _order(fields: dict[str, Any]) -> Order:
    fields["mode"] = Mode(fields["mode"])
    fields["leg"] = Leg(fields["leg"])
    fields["side"] = Side(fields["side"])
    fields["status"] = OrderStatus(fields["status"])
    return Order(**fields)
