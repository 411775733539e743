"""The smaller aggregates: outbox, ticks, processes, markets, and what people read of trades."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, select, text, update

from shared.errors import Refused
from shared.limits import BreakerKind, BreakerScope
from shared.messages import Indicators, Regime, Tick
from shared.money import MarketRules
from shared.orders import Leg, Mode, OrderStatus, PositionStatus
from shared.store import bot_import, breakers, markets, orders, outbox, positions, ticks, workers
from shared.store import tables as t
from shared.store.bot_import import BotSpec
from shared.store.engine import Store
from shared.store.markets import MarketStatus
from shared.store.orders import OrderFilter
from shared.store.outbox import Backlog
from shared.store.positions import PositionFilter
from shared.store.types import seconds_from_now
from shared.store.workers import Process, ProcessKind
from trade_worker.egress import Egress

NOW = datetime(2026, 1, 1, tzinfo=UTC)


# Outbox


async def announce(store: Store, *bodies: str, shard: int = 0) -> None:
    async with store.begin() as tx:
        await tx.execute(
            insert(t.outbox),
            [
                {
                    "shard": shard,
                    "bot_id": 1,
                    "exchange": "orders",
                    "routing_key": "order.update.filled.kraken",
                    "body": body,
                }
                for body in bodies
            ],
        )


async def test_events_wait_in_order_until_they_are_sent(store: Store) -> None:
    async with store.read() as tx:
        assert await outbox.backlog(tx) == Backlog(events=0, oldest_at=None)
    await announce(store, "a", "b")
    await announce(store, "c", shard=5)
    await announce(store, "d")
    async with store.begin() as tx:
        waiting = await outbox.unsent(tx)
        assert [event.body for event in waiting] == ["a", "b", "c", "d"]
        assert [event.body for event in await outbox.unsent(tx, {0})] == ["a", "b", "d"]
        assert [event.body for event in await outbox.unsent(tx, limit=1)] == ["a"]
        await outbox.mark_sent(tx, [event.id for event in waiting[:2]])
        assert [event.body for event in await outbox.unsent(tx)] == ["c", "d"]
        left = await outbox.backlog(tx)
    assert left.events == 2
    assert left.oldest_at is not None


async def test_purging_deletes_only_what_was_sent_long_ago(store: Store) -> None:
    await announce(store, "a", "b", "c", "d")
    async with store.begin() as tx:
        await outbox.mark_sent(tx, [1, 2, 3])
        old = update(t.outbox).where(t.outbox.c.id <= 2)
        await tx.execute(old.values(sent_at=seconds_from_now(text("-100"))))
        assert await outbox.purge(tx, older_than_secs=50, limit=1) == 1
        assert await outbox.purge(tx, older_than_secs=50) == 1
        assert await outbox.purge(tx, older_than_secs=50) == 0
        assert list(await tx.scalars(select(t.outbox.c.id).order_by(t.outbox.c.id))) == [3, 4]


async def test_an_events_id_is_never_used_again(store: Store) -> None:
    await announce(store, "a")
    async with store.begin() as tx:
        await outbox.mark_sent(tx, [1])
        assert await outbox.purge(tx, older_than_secs=-1) == 1
    await announce(store, "b")
    async with store.read() as tx:
        assert [event.id for event in await outbox.unsent(tx)] == [2]


# Ticks


def tick(pair: str = "BTC/USD", *, epoch: int = 1, sequence: int = 1) -> Tick:
    return Tick(
        venue="kraken",
        pair=pair,
        price=43198.0,
        bid=43197.5,
        ask=43198.5,
        market_time_ms=1_767_225_600_000,
        observed_at_ms=1_767_225_600_123,
        published_at_ms=1_767_225_600_124,
        stream_epoch=epoch,
        sequence=sequence,
        indicators=Indicators(adx=22.5),
        regime=Regime.WEAK,
        confidence=74.0,
    )


async def test_the_newest_tick_of_a_market_stays(store: Store) -> None:
    eth = tick("ETH/USD")
    for batch in ([tick(sequence=5), eth], [tick(sequence=4)], [tick(epoch=0, sequence=9)], []):
        async with store.begin() as tx:
            await ticks.save(tx, batch)
    async with store.read() as tx:
        assert await ticks.read(tx) == [tick(sequence=5), eth]
        assert await ticks.read(tx, pair="ETH/USD") == [eth]
        assert await ticks.read(tx, venue="binance") == []
    async with store.begin() as tx:
        await ticks.save(tx, [tick(epoch=2, sequence=1)])
        assert await ticks.read(tx, pair="BTC/USD") == [tick(epoch=2, sequence=1)]


# Processes


async def test_workers_that_share_a_way_out_are_counted_while_they_live(store: Store) -> None:
    def worker(name: str, kind: ProcessKind = ProcessKind.TRADE_WORKER) -> Process:
        return Process(kind=kind, name=name, instance="a", host="here", pid=10)

    async with store.begin() as tx:
        for name, label in (("1", "host here"), ("2", "host here"), ("3", "proxy 4f")):
            await workers.beat(tx, worker(name), {"egress": label})
        await workers.beat(tx, worker("4"), {})
        stream = worker("stream", ProcessKind.PRICE_STREAM)
        await workers.beat(tx, stream, {"egress": "host here"})
    async with store.read() as tx:
        assert await workers.sharers(tx, "host here", alive_secs=60) == 2
        assert await workers.sharers(tx, "proxy 4f", alive_secs=60) == 1
        assert await workers.sharers(tx, "host there", alive_secs=60) == 0
        assert await workers.sharers(tx, "host here", alive_secs=-60) == 0
    egress = Egress(store, host="here", proxy_url=None, alive_secs=60)
    assert egress.sharers == 1
    await egress.look()
    assert egress.sharers == 2
    new = Egress(store, host="there", proxy_url=None, alive_secs=60)
    await new.look()
    assert new.sharers == 1


async def test_a_new_instance_takes_over_its_name_and_start(store: Store) -> None:
    first = Process(kind=ProcessKind.TRADE_WORKER, name="1", instance="a", host="here", pid=10)
    second = replace(first, instance="b", pid=11)
    seen = []
    for process, report in ((first, {"bots": 1}), (first, {"bots": 2}), (second, {"bots": 3})):
        async with store.begin() as tx:
            await workers.beat(tx, process, report)
        async with store.read() as tx:
            seen += await workers.read(tx)
            assert await workers.read(tx, ProcessKind.PRICE_STREAM) == []
    assert [heartbeat.process for heartbeat in seen] == [first, first, second]
    assert [heartbeat.report for heartbeat in seen] == [{"bots": 1}, {"bots": 2}, {"bots": 3}]
    assert seen[0].started_at == seen[1].started_at <= seen[1].heartbeat_at
    assert seen[1].started_at < seen[2].started_at
    assert all(0 <= heartbeat.silent_secs < 60 for heartbeat in seen)
    async with store.begin() as tx:
        await workers.goodbye(tx, first)
        assert len(await workers.read(tx)) == 1
        await workers.goodbye(tx, second)
        assert await workers.read(tx) == []


# Markets


def rules(lot_step: str) -> MarketRules:
    return MarketRules(
        lot_step=Decimal(lot_step),
        price_tick=Decimal("0.1"),
        min_quantity=Decimal("0.0001"),
        min_notional=Decimal(5),
    )


async def test_markets_follow_what_the_venue_lists(store: Store) -> None:
    first = {"BTC/USD": rules("0.00000001"), "ETH/USD": rules("0.01")}
    async with store.begin() as tx:
        await markets.save(tx, "kraken", first)
        await markets.save(tx, "binance", {"BTC/USDT": rules("0.001")})
        stored = await markets.read(tx, "kraken")
    assert {pair: market.rules for (_, pair), market in stored.items()} == first
    async with store.begin() as tx:
        await markets.save(tx, "kraken", {"BTC/USD": rules("0.00000001"), "SOL/USD": rules("1")})
        again = await markets.read(tx)
    status = {key: market.status for key, market in again.items()}
    assert status == {
        ("binance", "BTC/USDT"): MarketStatus.LISTED,
        ("kraken", "BTC/USD"): MarketStatus.LISTED,
        ("kraken", "ETH/USD"): MarketStatus.HALTED,
        ("kraken", "SOL/USD"): MarketStatus.LISTED,
    }
    unchanged = ("kraken", "BTC/USD")
    assert again[unchanged].updated_at == stored[unchanged].updated_at
    async with store.begin() as tx:
        await markets.save(tx, "kraken", first)
        assert (await markets.read(tx))["kraken", "ETH/USD"].status is MarketStatus.LISTED


# What people read of trades


async def trade(
    store: Store,
    sequence: int,
    status: PositionStatus,
    order_status: OrderStatus = OrderStatus.FILLED,
) -> None:
    own: dict[str, Any] = {
        "bot_id": 1,
        "user_id": 1,
        "venue": "kraken",
        "pair": "BTC/USD",
        "mode": Mode.PAPER,
    }
    order = own | {
        "client_order_id": uuid4().hex,
        "shard": 0,
        "position_sequence": sequence,
        "leg": Leg.ENTRY,
        "attempt": 0,
        "side": Leg.ENTRY.side,
        "quantity": Decimal("0.5"),
        "decided_price": Decimal(40_000),
        "status": order_status,
        "reason": "entry",
        "facts": {"adx": 22.5, "tick": [3, 1841]},
        "lease_epoch": 1,
        "market_time": NOW,
        "observed_at": NOW,
        "received_at": NOW,
        "decided_at": NOW,
    }
    position = own | {"sequence": sequence, "status": status, "entry_reason": "entry"}
    async with store.begin() as tx:
        await tx.execute(insert(t.positions).values(position))
        await tx.execute(insert(t.orders).values(order))


@pytest.fixture
async def traded(store: Store) -> Store:
    """A bot with two closed positions and an open one."""
    bot = BotSpec(user="ann", name="b", venue="kraken", pairs=("BTC/USD",), capital=Decimal(1000))
    async with store.begin() as tx:
        await bot_import.add(tx, bot)
    await trade(store, 1, PositionStatus.CLOSED)
    await trade(store, 2, PositionStatus.CLOSED)
    await trade(store, 3, PositionStatus.OPEN, OrderStatus.UNKNOWN)
    return store


async def test_positions_are_read_newest_first(traded: Store) -> None:
    async with traded.read() as tx:
        everything = await positions.page(tx)
        assert [position.sequence for position in everything] == [3, 2, 1]
        assert await positions.page(tx, limit=1, before=3) == [everything[1]]
        assert await positions.page(tx, PositionFilter(unclosed=True)) == [everything[0]]
        closed = PositionFilter(user="ann", status=PositionStatus.CLOSED, bot_id=1)
        assert await positions.page(tx, closed) == everything[1:]
        assert await positions.page(tx, PositionFilter(user="bob")) == []
        assert await positions.get(tx, 3) == everything[0]
        assert await positions.count(tx) == {PositionStatus.OPEN: 1}
        with pytest.raises(Refused, match="no position 9"):
            await positions.get(tx, 9)
    assert (everything[0].bot, everything[0].user) == ("b", "ann")


async def test_orders_are_read_newest_first_with_their_facts(traded: Store) -> None:
    async with traded.read() as tx:
        everything = await orders.page(tx)
        assert [order.position_sequence for order in everything] == [3, 2, 1]
        assert everything[0].facts == {"adx": 22.5, "tick": [3, 1841]}
        assert abs(everything[0].committed_at - datetime.now(UTC)) < timedelta(hours=1)
        assert await orders.page(tx, OrderFilter(unsettled=True)) == [everything[0]]
        second = OrderFilter(bot_id=1, user="ann", pair="BTC/USD", position_sequence=2)
        assert await orders.page(tx, second) == [everything[1]]
        assert await orders.page(tx, OrderFilter(leg=Leg.EXIT)) == []
        assert await orders.get(tx, everything[2].client_order_id) == everything[2]
        assert await orders.count(tx) == {OrderStatus.FILLED: 2, OrderStatus.UNKNOWN: 1}
        assert await orders.count(tx, newest=1) == {OrderStatus.UNKNOWN: 1}
        assert await orders.count_unsettled(tx) == {OrderStatus.UNKNOWN: 1}
        with pytest.raises(Refused, match="no order ff"):
            await orders.get(tx, "ff")


async def test_the_fills_of_a_position_are_read_by_the_venues_clock(traded: Store) -> None:
    fill = {
        "venue": "kraken",
        "pair": "BTC/USD",
        "client_order_id": "c",
        "bot_id": 1,
        "position_sequence": 3,
        "leg": Leg.ENTRY,
        "quantity": Decimal("0.1"),
        "price": Decimal(40_000),
        "fee": Decimal("16.000000000000000001"),
        "fee_currency": "USD",
    }
    async with traded.begin() as tx:
        for trade_id, second in (("late", 9), ("early", 1)):
            at = NOW + timedelta(seconds=second)
            await tx.execute(insert(t.fills).values(fill | {"trade_id": trade_id, "filled_at": at}))
        found = await orders.fills_of(tx, bot_id=1, pair="BTC/USD", sequence=3)
    assert [f.trade_id for f in found] == ["early", "late"]
    assert {f.fee for f in found} == {Decimal("16.000000000000000001")}


async def test_open_breakers_are_read(store: Store) -> None:
    async with store.begin() as tx:
        for scope_id, is_open in ((1, True), (2, False)):
            await tx.execute(
                insert(t.breakers).values(
                    scope=BreakerScope.BOT,
                    scope_id=scope_id,
                    kind=BreakerKind.LOSS_STREAK,
                    open=is_open,
                    open_until=NOW,
                    facts={"losses": 3},
                )
            )
        (breaker,) = await breakers.read_open(tx)
    assert (breaker.scope_id, breaker.open_until, breaker.facts) == (1, NOW, {"losses": 3})
