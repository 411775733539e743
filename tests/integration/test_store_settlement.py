"""Settling live orders: what a venue tells, in any order and again, ends where its fills say."""

from decimal import Decimal

import orjson
import pytest

from shared.orders import OrderStatus, PositionStatus
from shared.store import tables as t
from shared.store.engine import Store
from tests.integration.live_traders import (
    LiveTrader,
    buy,
    commit,
    fill,
    live_traders,
    rows,
    settle_one,
    told,
)

FILLED, OPEN, CANCELLED = OrderStatus.FILLED, OrderStatus.OPEN, OrderStatus.CANCELLED
EXPIRED, REJECTED = OrderStatus.EXPIRED, OrderStatus.REJECTED
UNKNOWN, NOT_PLACED = OrderStatus.UNKNOWN, OrderStatus.NOT_PLACED


@pytest.fixture
async def store(postgres_store: Store) -> Store:
    """Real orders need PostgreSQL."""
    return postgres_store


@pytest.fixture
async def trader(store: Store) -> LiveTrader:
    (trader,) = await live_traders(store, "ann")
    return trader


async def test_a_filled_entry_opens_its_position(store: Store, trader: LiveTrader) -> None:
    entry = trader.entry()
    await commit(store, entry)
    one, two = fill(entry, "t1", "0.4", fee="0.1"), fill(entry, "t2", "0.6", price="99", fee="0.2")
    settled = await settle_one(
        store,
        told(entry, FILLED, one, two, venue_order_id="OABC", sent_at_ms=1_763_000_000_000),
    )
    assert (settled.status, settled.sequence) == (FILLED, 1)
    assert (settled.changed, settled.adopted) == (True, False)
    assert settled.position.status is PositionStatus.OPEN
    assert settled.position.version == 2

    (order,), (position,) = await rows(store, t.orders), await rows(store, t.positions)
    assert (order.status, order.venue_order_id) == ("filled", "OABC")
    assert order.filled_quantity == 1
    assert order.average_price == Decimal("99.4")
    assert (order.fee, order.fee_currency) == (Decimal("0.3"), "USD")
    assert order.settled_at >= order.committed_at
    assert order.sent_at is not None
    assert (position.status, position.version) == ("open", 2)
    assert position.entry_cost == Decimal("99.4")
    assert position.fees == Decimal("0.3")
    assert position.credential_id == trader.credential_id
    stored = await rows(store, t.fills)
    assert {row.credential_id for row in stored} == {trader.credential_id}
    events = [(row.routing_key, orjson.loads(row.body)) for row in await rows(store, t.outbox)]
    assert [key for key, _ in events] == [
        "order.update.committed.kraken",
        "order.update.filled.kraken",
    ]
    assert events[1][1]["filled_quantity"] == "1.0"
    assert events[1][1]["realised_pnl"] is None


async def test_a_filled_exit_closes_its_position_and_books_the_result(
    store: Store, trader: LiveTrader
) -> None:
    await buy(store, trader, fee="1")
    leaving = trader.exit()
    await commit(store, leaving)
    settled = await settle_one(store, told(leaving, FILLED, fill(leaving, "sold", fee="2")))
    assert settled.position.status is PositionStatus.CLOSED
    assert settled.position.totals.realised_pnl == 7
    (position,) = await rows(store, t.positions)
    assert (position.status, position.realised_pnl, position.dust_quantity) == ("closed", 7, 0)
    assert (position.exit_reason, position.closed_at is not None) == ("profit_target", True)
    (bot,) = await rows(store, t.bots)
    assert bot.realised == 7
    event = orjson.loads((await rows(store, t.outbox))[-1].body)
    assert Decimal(event["realised_pnl"]) == 7
