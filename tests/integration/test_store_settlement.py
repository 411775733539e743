"""Settling live orders: what a venue tells, in any order and again, ends where its fills say."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import orjson
import pytest
from sqlalchemy import Row, Table, select

from shared.errors import InvalidRow
from shared.orders import OrderStatus, PositionStatus
from shared.store import live_orders
from shared.store import tables as t
from shared.store.engine import Store
from tests.integration.live_traders import (
    LiveTrader,
    buy,
    commit,
    fill,
    live_traders,
    rows,
    said,
    settle,
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


@pytest.mark.parametrize("status", [EXPIRED, REJECTED, NOT_PLACED])
async def test_an_entry_that_never_traded_closes_its_position_without_a_result(
    store: Store, trader: LiveTrader, status: OrderStatus
) -> None:
    entry = trader.entry()
    await commit(store, entry)
    await settle(store, said(entry, UNKNOWN, detail="timed out"))
    settled = await settle_one(store, said(entry, status, detail="why"))
    assert settled.status is status
    assert settled.position.status is PositionStatus.CLOSED
    (order,), (position,) = await rows(store, t.orders), await rows(store, t.positions)
    assert (order.status, order.detail) == (status, "why")
    assert order.settled_at is not None
    assert (position.status, position.entry_quantity, position.exited_at) == ("closed", 0, None)
    (bot,) = await rows(store, t.bots)
    assert (bot.realised, bot.loss_streak) == (0, 0)
    keys = [row.routing_key for row in await rows(store, t.outbox)]
    assert keys == [f"order.update.{each}.kraken" for each in ("committed", "unknown", status)]
    await commit(store, trader.entry(2))


async def test_an_exit_that_sold_a_part_leaves_the_rest_open(
    store: Store, trader: LiveTrader
) -> None:
    await buy(store, trader)
    leaving = trader.exit()
    await commit(store, leaving)
    settled = await settle_one(store, told(leaving, CANCELLED, fill(leaving, "s1", "0.4")))
    assert settled.position.status is PositionStatus.OPEN
    assert settled.position.version == 4
    assert settled.position.totals.held == Decimal("0.6")
    (position,) = await rows(store, t.positions)
    assert (position.exit_reason, position.exited_at, position.realised_pnl) == (None, None, 0)
    rest = trader.exit(version=4, attempt=1, quantity="0.6")
    await commit(store, rest)
    settled = await settle_one(store, told(rest, FILLED, fill(rest, "s2", "0.6")))
    assert settled.position.status is PositionStatus.CLOSED
    assert settled.position.totals.realised_pnl == 10


@pytest.mark.parametrize("status", [EXPIRED, REJECTED, NOT_PLACED, CANCELLED])
async def test_an_exit_that_sold_nothing_gives_the_position_back(
    store: Store, trader: LiveTrader, status: OrderStatus
) -> None:
    await buy(store, trader)
    leaving = trader.exit()
    await commit(store, leaving)
    settled = await settle_one(store, told(leaving, status))
    assert (settled.status, settled.position.status) == (status, PositionStatus.OPEN)
    await commit(store, trader.exit(version=settled.position.version, attempt=1))


async def test_an_end_counts_only_when_all_that_was_executed_is_known(
    store: Store, trader: LiveTrader
) -> None:
    entry = trader.entry()
    await commit(store, entry)
    early = told(entry, FILLED, fill(entry, "t1", "0.4"), executed="1")
    settled = await settle_one(store, early)
    assert (settled.status, settled.position.status) == (OPEN, PositionStatus.OPENING)
    assert settled.position.totals.held == Decimal("0.4")
    (order,) = await rows(store, t.orders)
    assert (order.filled_quantity, order.settled_at) == (Decimal("0.4"), None)
    settled = await settle_one(store, told(entry, FILLED, fill(entry, "t2", "0.6"), executed="1"))
    assert (settled.status, settled.position.status) == (FILLED, PositionStatus.OPEN)


@pytest.mark.parametrize("told_executed", [None, "0"])
async def test_no_end_is_believed_that_contradicts_the_known_fills(
    store: Store, trader: LiveTrader, told_executed: str | None
) -> None:
    entry = trader.entry()
    await commit(store, entry)
    await settle(store, told(entry, OPEN, fill(entry, "t1", "0.4")))
    executed = None if told_executed is None else Decimal(told_executed)
    for status in (FILLED, CANCELLED, EXPIRED, REJECTED, NOT_PLACED):
        settled = await settle_one(store, said(entry, status, executed=executed))
        assert settled.status is OPEN
        assert not settled.changed


async def test_fills_before_the_acknowledgement_count_at_once(
    store: Store, trader: LiveTrader
) -> None:
    entry = trader.entry()
    await commit(store, entry)
    settled = await settle_one(store, said(entry, UNKNOWN, fills=(fill(entry, "t1", "0.4"),)))
    assert (settled.status, settled.position.status) == (UNKNOWN, PositionStatus.OPENING)
    assert settled.position.totals.held == Decimal("0.4")
    settled = await settle_one(store, told(entry, CANCELLED, executed="0.4"))
    assert (settled.status, settled.position.status) == (CANCELLED, PositionStatus.OPEN)


async def test_news_that_are_known_change_nothing(store: Store, trader: LiveTrader) -> None:
    entry = trader.entry()
    await commit(store, entry)
    news = told(entry, FILLED, fill(entry, "t1"), venue_order_id="O1", sent_at_ms=1, detail="x")
    first = await settle_one(store, news)
    before = [await rows(store, table) for table in (t.orders, t.positions, t.fills, t.outbox)]
    for stale in (
        news,
        told(entry, OPEN),
        said(entry, UNKNOWN, detail="late"),
        told(entry, EXPIRED),
    ):
        again = await settle_one(store, stale)
        assert not again.changed
        assert (again.status, again.position) == (FILLED, first.position)
    after = [await rows(store, table) for table in (t.orders, t.positions, t.fills, t.outbox)]
    assert before == after


async def test_several_pieces_of_news_of_one_order_are_taken_in_their_order(
    store: Store, trader: LiveTrader
) -> None:
    entry = trader.entry()
    await commit(store, entry)
    done = await settle(
        store,
        said(entry, UNKNOWN),
        told(entry, OPEN, fill(entry, "t1", "0.5")),
        told(entry, FILLED, fill(entry, "t1", "0.5"), fill(entry, "t2", "0.5"), executed="1"),
    )
    assert list(done) == [entry.client_order_id]
    assert done[entry.client_order_id].status is FILLED
    assert done[entry.client_order_id].changed
    keys = [row.routing_key.split(".")[2] for row in await rows(store, t.outbox)]
    assert keys == ["committed", "unknown", "open", "filled"]


async def test_a_fee_in_the_coin_is_not_there_to_sell(store: Store, trader: LiveTrader) -> None:
    settled = await buy(store, trader, fee="0.001", fee_currency="BTC")
    assert settled.position.totals.held == Decimal("0.999")
    (order,), (position,) = await rows(store, t.orders), await rows(store, t.positions)
    assert (order.fee, order.fee_currency) == (Decimal("0.001"), "BTC")
    assert (position.fees, position.fee_quantity) == (0, Decimal("0.001"))
    leaving = trader.exit(quantity="0.999")
    await commit(store, leaving)
    sold = fill(leaving, "sold", "0.999", fee="0.01", fee_currency="KFEE")
    settled = await settle_one(store, told(leaving, FILLED, sold))
    assert settled.position.status is PositionStatus.CLOSED
    # 0.999 at 110 for 1 at 100; what is paid in a third currency is in the fills alone.
    assert settled.position.totals.realised_pnl == Decimal("9.89")
    (position,) = await rows(store, t.positions)
    assert position.dust_quantity == 0


@pytest.mark.parametrize(
    ("left", "price"),
    [("0.0009", "110"), ("0.0095", "110"), ("0.04", "110")],
    ids=["below the lot step", "below the least quantity", "below the least notional"],
)
async def test_a_remainder_that_cannot_be_sold_closes_as_dust(
    store: Store, trader: LiveTrader, left: str, price: str
) -> None:
    await buy(store, trader)
    sold = 1 - Decimal(left)
    leaving = trader.exit(quantity=str(sold), price=price)
    await commit(store, leaving)
    settled = await settle_one(store, told(leaving, CANCELLED, fill(leaving, "s", str(sold))))
    assert settled.position.status is PositionStatus.CLOSED
    (position,) = await rows(store, t.positions)
    assert (position.status, position.dust_quantity) == ("closed", Decimal(left))
    assert position.realised_pnl == sold * 110 - 100
    (bot,) = await rows(store, t.bots)
    assert bot.realised == position.realised_pnl


async def test_the_smallest_remainder_that_can_be_sold_stays_open(
    store: Store, trader: LiveTrader
) -> None:
    await buy(store, trader)
    leaving = trader.exit(quantity="0.95", price="100")
    await commit(store, leaving)
    settled = await settle_one(store, told(leaving, CANCELLED, fill(leaving, "s", "0.95")))
    assert settled.position.status is PositionStatus.OPEN


async def test_an_entry_that_bought_only_dust_is_a_loss(store: Store, trader: LiveTrader) -> None:
    entry = trader.entry()
    await commit(store, entry)
    settled = await settle_one(store, told(entry, CANCELLED, fill(entry, "t", "0.002")))
    assert settled.position.status is PositionStatus.CLOSED
    (position,) = await rows(store, t.positions)
    assert (position.dust_quantity, position.realised_pnl) == (Decimal("0.002"), Decimal("-0.2"))
    assert position.exited_at is not None
    (bot,) = await rows(store, t.bots)
    assert (bot.realised, bot.loss_streak) == (Decimal("-0.2"), 1)


async def test_without_known_rules_any_remainder_stays_open(
    store: Store, trader: LiveTrader
) -> None:
    async with store.begin() as tx:
        await tx.execute(t.markets.delete())
    entry = trader.entry()
    await commit(store, entry)
    settled = await settle_one(store, told(entry, CANCELLED, fill(entry, "t", "0.000001")))
    assert settled.position.status is PositionStatus.OPEN


async def test_losses_of_live_positions_open_the_bots_breaker(
    store: Store, trader: LiveTrader
) -> None:
    for sequence in (1, 2, 3):
        opened = await buy(store, trader, sequence)
        leaving = trader.exit(sequence, version=opened.position.version, price="99.9")
        await commit(store, leaving)
        await settle(store, told(leaving, FILLED, fill(leaving, f"sold {sequence}")))
    (breaker,) = [row for row in await all_of(store, t.breakers) if row.scope == "bot"]
    assert (breaker.kind, breaker.open) == ("loss_streak", True)
    assert breaker.facts["client_order_id"] == leaving.client_order_id


async def test_a_trade_that_another_order_has_is_none_of_this_one(
    store: Store, trader: LiveTrader
) -> None:
    await buy(store, trader)
    leaving = trader.exit()
    await commit(store, leaving)
    others, own = fill(leaving, "bought 1", "0.5"), fill(leaving, "s", "0.5")
    settled = await settle_one(store, told(leaving, FILLED, others, own))
    assert (settled.status, settled.position.status) == (OPEN, PositionStatus.CLOSING)
    assert settled.position.totals.exit_quantity == Decimal("0.5")
    assert (await rows(store, t.orders))[1].filled_quantity == Decimal("0.5")
    assert len(await rows(store, t.fills)) == 2


async def test_a_position_that_stays_as_it_is_keeps_its_version(
    store: Store, trader: LiveTrader
) -> None:
    entry = trader.entry()
    await commit(store, entry)
    settled = await settle_one(store, said(entry, UNKNOWN))
    assert settled.changed
    assert settled.position.version == 1


async def test_a_status_never_goes_back(store: Store, trader: LiveTrader) -> None:
    entry = trader.entry()
    await commit(store, entry)
    await settle(store, told(entry, OPEN, venue_order_id="O1"))
    for back in (UNKNOWN, REJECTED, NOT_PLACED):
        settled = await settle_one(store, said(entry, back))
        assert settled.status is OPEN
    (order,) = await rows(store, t.orders)
    assert (order.status, order.venue_order_id) == ("open", "O1")


async def test_unknown_orders_and_bad_amounts(store: Store, trader: LiveTrader) -> None:
    entry, never = trader.entry(), trader.entry(9)
    await commit(store, entry)
    assert await settle(store, told(never, FILLED, fill(never, "t"))) == {}
    with pytest.raises(InvalidRow):
        await settle(store, told(entry, OPEN, fill(entry, "t", price="NaN")))
    assert await rows(store, t.fills) == []


async def test_what_is_unsettled_and_what_is_watched_is_found_by_shard(store: Store) -> None:
    ann, ben = await live_traders(store, "ann", "ben")
    entries = [ann.entry(), ben.entry()]
    await commit(store, *entries)
    async with store.read() as tx:
        both = await live_orders.unsettled(tx, {ann.shard, ben.shard})
        anns = await live_orders.unsettled(tx, {ann.shard} - {ben.shard})
        assert await live_orders.unsettled(tx, set()) == []
    assert [order.client_order_id for order in both] == [e.client_order_id for e in entries]
    assert [order.regime for order in both] == ["weak", "weak"]
    assert {order.shard for order in anns} <= {ann.shard}

    await settle(store, *(said(entry, UNKNOWN) for entry in entries))
    await settle(store, said(entries[0], NOT_PLACED), said(entries[1], EXPIRED))
    async with store.read() as tx:
        assert await live_orders.unsettled(tx, {ann.shard, ben.shard}) == []
        (watched,) = await live_orders.watched(tx, {ann.shard, ben.shard}, for_secs=60)
        assert await live_orders.watched(tx, {ann.shard, ben.shard}, for_secs=0) == []
    assert watched.client_order_id == entries[0].client_order_id
    assert watched.status is NOT_PLACED
    assert watched.settled_at_ms is not None


async def all_of(store: Store, table: Table) -> Sequence[Row[Any]]:
    async with store.read() as tx:
        return (await tx.execute(select(table))).all()
