"""Orders that show up after they were given up: nothing that was traded is forgotten."""

from decimal import Decimal

import orjson
import pytest
from sqlalchemy import insert, update

from shared.orders import OrderStatus, PositionStatus
from shared.store import live_orders
from shared.store import tables as t
from shared.store.engine import Store
from tests.integration.live_traders import (
    PAIR,
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
REJECTED, UNKNOWN, NOT_PLACED = OrderStatus.REJECTED, OrderStatus.UNKNOWN, OrderStatus.NOT_PLACED


@pytest.fixture
async def store(postgres_store: Store) -> Store:
    """Real orders need PostgreSQL."""
    return postgres_store


@pytest.fixture
async def trader(store: Store) -> LiveTrader:
    (trader,) = await live_traders(store, "ann")
    return trader


async def give_up(store: Store, trader: LiveTrader, sequence: int = 1) -> None:
    entry = trader.entry(sequence)
    await commit(store, entry)
    await settle(store, said(entry, UNKNOWN), said(entry, NOT_PLACED))


async def test_a_late_entry_opens_the_next_position(store: Store, trader: LiveTrader) -> None:
    await give_up(store, trader)
    late = trader.entry()
    settled = await settle_one(store, told(late, FILLED, fill(late, "t1", fee="1")))
    assert (settled.status, settled.sequence, settled.adopted) == (FILLED, 2, True)
    assert (settled.position.status, settled.position.version) == (PositionStatus.OPEN, 1)
    first, second = await rows(store, t.positions)
    assert (first.status, first.entry_quantity) == ("closed", 0)
    assert (second.status, second.entry_quantity, second.fees) == ("open", 1, 1)
    assert (second.mode, second.regime, second.entry_reason) == ("live", "weak", "entry_signal")
    assert second.credential_id == trader.credential_id
    (stored,) = await rows(store, t.fills)
    assert stored.position_sequence == 2
    event = orjson.loads((await rows(store, t.outbox))[-1].body)
    assert (event["status"], event["filled_quantity"]) == ("filled", "1")
    async with store.read() as tx:
        assert await live_orders.watched(tx, {trader.shard}, for_secs=60) == []

    again = await settle_one(store, told(late, FILLED, fill(late, "t1", fee="1")))
    assert (again.changed, again.adopted, again.sequence) == (False, False, 2)
    leaving = trader.exit(2, version=1)
    await commit(store, leaving)
    settled = await settle_one(store, told(leaving, FILLED, fill(leaving, "t2")))
    assert settled.position.totals.realised_pnl == 9


async def test_a_late_entry_joins_the_open_position(store: Store, trader: LiveTrader) -> None:
    await give_up(store, trader)
    opened = await buy(store, trader, 2)
    late = trader.entry()
    settled = await settle_one(store, told(late, FILLED, fill(late, "late", price="90")))
    assert (settled.sequence, settled.adopted) == (2, True)
    assert settled.position.version == opened.position.version + 1
    assert settled.position.totals.held == 2
    assert settled.position.totals.entry_cost == 190
    assert [row.position_sequence for row in await rows(store, t.fills)] == [2, 2]


async def test_a_late_entry_joins_a_position_that_is_being_sold(
    store: Store, trader: LiveTrader
) -> None:
    await give_up(store, trader)
    await buy(store, trader, 2)
    leaving, late = trader.exit(2), trader.entry()
    await commit(store, leaving)
    settled = await settle_one(store, told(late, FILLED, fill(late, "late")))
    assert settled.position.status is PositionStatus.CLOSING
    settled = await settle_one(store, told(leaving, FILLED, fill(leaving, "sold")))
    assert settled.position.status is PositionStatus.OPEN
    assert settled.position.totals.held == 1


async def test_a_late_order_waits_for_its_end_while_another_is_under_way(
    store: Store, trader: LiveTrader
) -> None:
    """There is room for one unsettled order on a pair."""
    await give_up(store, trader)
    entry, late = trader.entry(2), trader.entry()
    await commit(store, entry)
    settled = await settle_one(store, told(late, OPEN, fill(late, "late", "0.5")))
    assert (settled.status, settled.sequence, settled.adopted) == (NOT_PLACED, 2, True)
    settled = await settle_one(store, told(late, CANCELLED, executed="0.5"))
    assert (settled.status, settled.adopted) == (CANCELLED, True)
    settled = await settle_one(store, said(entry, OrderStatus.EXPIRED))
    assert (settled.position.status, settled.position.totals.held) == (
        PositionStatus.OPEN,
        Decimal("0.5"),
    )


async def test_a_late_order_does_not_take_the_room_of_one_that_ends_in_the_same_batch(
    store: Store, trader: LiveTrader
) -> None:
    await give_up(store, trader)
    entry, late = trader.entry(2), trader.entry()
    await commit(store, entry)
    done = await settle(store, told(entry, FILLED, fill(entry, "t")), told(late, OPEN))
    assert done[entry.client_order_id].status is FILLED
    assert done[late.client_order_id].status is NOT_PLACED
    assert (await settle_one(store, told(late, OPEN))).status is OPEN


async def test_an_exit_closes_its_position_whatever_joined_it_in_the_same_batch(
    store: Store, trader: LiveTrader
) -> None:
    await give_up(store, trader)
    await buy(store, trader, 2)
    leaving, late = trader.exit(2), trader.entry()
    await commit(store, leaving)
    dust = fill(late, "late", "0.0005")
    await settle(store, told(late, CANCELLED, dust), told(leaving, FILLED, fill(leaving, "s")))
    position = (await rows(store, t.positions))[1]
    assert (position.status, position.exit_reason) == ("closed", "profit_target")
    assert position.dust_quantity == Decimal("0.0005")


async def test_a_late_order_that_is_still_open_blocks_its_pair_until_its_end(
    store: Store, trader: LiveTrader
) -> None:
    await give_up(store, trader)
    late = trader.entry()
    settled = await settle_one(store, told(late, OPEN))
    assert (settled.status, settled.adopted) == (OPEN, True)
    assert settled.position.status is PositionStatus.CLOSED
    async with store.read() as tx:
        (unsettled,) = await live_orders.unsettled(tx, {trader.shard})
    assert unsettled.client_order_id == late.client_order_id
    settled = await settle_one(store, told(late, FILLED, fill(late, "late")))
    assert (settled.status, settled.sequence) == (FILLED, 2)
    assert settled.position.status is PositionStatus.OPEN


async def test_a_late_order_that_traded_nothing_is_told_of_all_the_same(
    store: Store, trader: LiveTrader
) -> None:
    await give_up(store, trader)
    settled = await settle_one(store, told(trader.entry(), CANCELLED))
    assert (settled.status, settled.adopted) == (CANCELLED, True)
    assert len(await rows(store, t.positions)) == 1


async def test_fills_of_a_rejected_order_count_and_it_stays_rejected(
    store: Store, trader: LiveTrader
) -> None:
    entry = trader.entry()
    await commit(store, entry)
    await settle(store, said(entry, REJECTED))
    settled = await settle_one(store, told(entry, FILLED, fill(entry, "t")))
    assert (settled.status, settled.sequence, settled.adopted) == (REJECTED, 2, True)
    (order,) = await rows(store, t.orders)
    assert (order.status, order.filled_quantity) == ("rejected", 1)
    assert settled.position.status is PositionStatus.OPEN


async def test_more_fills_of_an_ended_entry_join_what_it_bought(
    store: Store, trader: LiveTrader
) -> None:
    entry = trader.entry()
    await commit(store, entry)
    await settle(store, told(entry, CANCELLED, fill(entry, "t1", "0.5")))
    (ended,) = await rows(store, t.orders)
    settled = await settle_one(store, told(entry, FILLED, fill(entry, "t2", "0.5"), executed="1"))
    assert (settled.status, settled.sequence, settled.adopted) == (CANCELLED, 1, False)
    assert settled.position.totals.held == 1
    (order,) = await rows(store, t.orders)
    assert order.filled_quantity == 1
    assert order.settled_at == ended.settled_at


async def test_a_late_exit_changes_the_result_of_its_closed_position(
    store: Store, trader: LiveTrader
) -> None:
    await buy(store, trader)
    lost = trader.exit(quantity="0.4")
    await commit(store, lost)
    gone = await settle(store, said(lost, UNKNOWN), said(lost, NOT_PLACED))
    version = gone[lost.client_order_id].position.version
    rest = trader.exit(version=version, attempt=1)
    await commit(store, rest)
    closed = await settle_one(store, told(rest, FILLED, fill(rest, "s1")))
    assert closed.position.totals.realised_pnl == 10

    settled = await settle_one(store, told(lost, FILLED, fill(lost, "s2", "0.4", price="50")))
    assert (settled.status, settled.sequence, settled.adopted) == (FILLED, 1, True)
    assert settled.position.status is PositionStatus.CLOSED
    assert settled.position.totals.realised_pnl == 30
    (position,), (bot,) = await rows(store, t.positions), await rows(store, t.bots)
    assert (position.realised_pnl, position.dust_quantity) == (30, 0)
    assert (bot.realised, bot.loss_streak) == (30, 0)
    events = [orjson.loads(row.body)["realised_pnl"] for row in await rows(store, t.outbox)]
    # The sum of what events say is the result.
    assert sum(Decimal(each) for each in events if each is not None) == 30


async def test_a_late_exit_of_an_open_position_sells_from_it(
    store: Store, trader: LiveTrader
) -> None:
    await buy(store, trader)
    lost = trader.exit()
    await commit(store, lost)
    gone = await settle(store, said(lost, UNKNOWN), said(lost, NOT_PLACED))
    assert gone[lost.client_order_id].position.status is PositionStatus.OPEN
    settled = await settle_one(store, told(lost, FILLED, fill(lost, "s")))
    assert (settled.adopted, settled.position.status) == (True, PositionStatus.CLOSED)
    (position,) = await rows(store, t.positions)
    assert (position.exit_reason, position.realised_pnl) == ("profit_target", 10)


async def test_a_late_exit_that_is_still_open_closes_its_position_to_others(
    store: Store, trader: LiveTrader
) -> None:
    await buy(store, trader)
    lost = trader.exit()
    await commit(store, lost)
    await settle(store, said(lost, UNKNOWN), said(lost, NOT_PLACED))
    settled = await settle_one(store, told(lost, OPEN))
    assert settled.position.status is PositionStatus.CLOSING
    settled = await settle_one(store, told(lost, CANCELLED))
    assert settled.position.status is PositionStatus.OPEN


async def test_a_correction_that_loses_is_no_further_loss_in_the_streak(
    store: Store, trader: LiveTrader
) -> None:
    await buy(store, trader)
    leaving = trader.exit(price="99")
    await commit(store, leaving)
    await settle(store, told(leaving, FILLED, fill(leaving, "s", fee="0")))
    late = fill(leaving, "fee only", "0", fee="3")
    settled = await settle_one(store, told(leaving, FILLED, late, executed="1"))
    assert settled.position.totals.realised_pnl == -4
    (bot,) = await rows(store, t.bots)
    assert (bot.realised, bot.loss_streak) == (-4, 1)


async def test_a_late_live_fill_never_joins_a_position_on_paper(
    store: Store, trader: LiveTrader
) -> None:
    await give_up(store, trader)
    async with store.begin() as tx:
        await tx.execute(
            insert(t.positions).values(
                bot_id=trader.bot_id,
                user_id=trader.user_id,
                venue="kraken",
                pair=PAIR,
                sequence=2,
                mode="paper",
                status="open",
                entry_reason="entry_signal",
                entry_quantity=Decimal(1),
                entry_cost=Decimal(100),
            )
        )
    late = trader.entry()
    settled = await settle_one(store, told(late, FILLED, fill(late, "late")))
    assert (settled.sequence, settled.adopted) == (1, True)
    own, paper = await rows(store, t.positions)
    assert (own.status, own.dust_quantity, own.realised_pnl) == ("closed", 1, -100)
    assert (paper.status, paper.entry_quantity) == ("open", 1)


async def test_an_order_whose_position_is_lost_opens_it_again(
    store: Store, trader: LiveTrader
) -> None:
    """As after a restored backup: `recover` writes the order, and settles it."""
    await give_up(store, trader, 3)
    async with store.begin() as tx:
        await tx.execute(t.positions.delete())
    late = trader.entry(3)
    settled = await settle_one(store, told(late, CANCELLED))
    assert (settled.position.status, settled.position.version) == (PositionStatus.CLOSED, 0)
    async with store.begin() as tx:
        await tx.execute(update(t.orders).values(status=NOT_PLACED))
    settled = await settle_one(store, told(late, FILLED, fill(late, "late")))
    assert (settled.sequence, settled.position.status) == (3, PositionStatus.OPEN)


async def test_an_exit_whose_position_is_lost_is_recorded_as_a_result(
    store: Store, trader: LiveTrader
) -> None:
    await buy(store, trader)
    leaving = trader.exit()
    await commit(store, leaving)
    async with store.begin() as tx:
        await tx.execute(t.positions.delete())
        await tx.execute(t.fills.delete())
    settled = await settle_one(store, told(leaving, FILLED, fill(leaving, "s")))
    assert (settled.sequence, settled.position.status) == (1, PositionStatus.CLOSED)
    (bot,) = await rows(store, t.bots)
    assert bot.realised == 110
