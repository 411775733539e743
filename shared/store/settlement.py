"""What became of orders at their venues, and what that makes of their positions."""

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import Float, bindparam, text

from shared.orders import Fill, LiveOrder, Mode, OrderStatus
from shared.store.engine import Transaction
from shared.store.live_orders import live_order, select_orders
from shared.store.tables import UNSETTLED_ORDER, orders
from shared.store.trading import PositionState
from shared.store.types import seconds_from_now


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """News of one order. `executed` None: the venue has told nothing of it (yet).

    `status` is what the order is now, by the venue's word or by ours (`unknown`, `expired` where
    it was never sent, `not_placed`). A final one counts only once the fills that are known sum
    to `executed`; until then the order stays `open`. `detail` is for people.
    """

    client_order_id: str
    status: OrderStatus
    venue_order_id: str | None = None
    executed: Decimal | None = None
    fills: tuple[Fill, ...] = ()
    sent_at_ms: int | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """An order and its position as a settlement left them.

    `sequence` is that of the position which the fills went to: a later one than the order's for
    a late fill. `adopted`: it was thought not to exist, or its fill came late. `changed` false:
    all of it was known before.
    """

    status: OrderStatus
    sequence: int
    position: PositionState
    adopted: bool = False
    changed: bool = True


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
