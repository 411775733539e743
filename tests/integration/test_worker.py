"""The trade worker as a whole: ticks in on the bus, orders and events out."""

import asyncio
from collections import defaultdict
from decimal import Decimal
from typing import Any

import orjson
from sqlalchemy import select

from shared.bus import Bus, Delivery
from shared.bus.memory import MemoryBroker, MemoryBus
from shared.clock import datetime_of
from shared.orders import BotStatus
from shared.store.engine import Store
from shared.store.tables import bots, fills, orders, outbox, positions
from shared.topology import (
    EVENT_ID_HEADER,
    LISTENER_QUEUE,
    ORDERS,
    Binding,
)
from tests.integration.trading_fleet import (
    PATIENCE_SECS,
    RULES,
    Prices,
    add_bots,
    rows,
    serving,
    spec,
    tick_message,
)

EVERY_ORDER = frozenset({Binding(exchange=ORDERS, pattern="#")})
FEE = Decimal("0.0040")
FALL, RISE = 90.0, 106.0
"""Prices after an entry at 100: an emergency stop, and the weak regime's target."""


async def test_a_tick_leads_to_orders_and_a_later_one_to_exact_results(
    store: Store, bus: Bus, prices: Prices
) -> None:
    ids = await add_bots(
        store, spec(0), spec(1, capital=Decimal("5000.5")), spec(2, capital=Decimal(3))
    )
    async with serving(store, bus) as worker:
        entry_tick = await prices.publish(100.0)
        await worker.commits(2)
        assert worker.verdicts == {"entry_signal": 2, "size_too_small": 1}
        exit_tick = await prices.publish(RISE)
        await worker.commits(4)

    placed = await rows(store, orders)
    assert [(order.bot_id, order.leg, order.reason) for order in placed] == [
        (ids[0], "entry", "entry_signal"),
        (ids[1], "entry", "entry_signal"),
        (ids[0], "exit", "profit_target"),
        (ids[1], "exit", "profit_target"),
    ]
    for order, tick in zip(placed, [entry_tick] * 2 + [exit_tick] * 2, strict=True):
        assert order.status == "filled"
        assert order.lease_epoch == 1
        assert order.observed_at == datetime_of(tick.observed_at_ms)
        assert order.observed_at <= order.received_at <= order.decided_at
        assert order.market_time == datetime_of(tick.market_time_ms)
        assert order.settled_at >= order.committed_at
        assert (order.facts["tick"]["stream_epoch"], order.facts["tick"]["sequence"]) == tick.order
        assert order.facts["indicators"]["adx"] == tick.indicators.adx
    # 80 % of free capital, three quarters of it in a weak market, in steps of 0.0001.
    assert [order.quantity for order in placed[:2]] == [Decimal(6), Decimal("30.003")]

    held = {order.bot_id: order.quantity for order in placed[:2]}
    bought, sold = Decimal("100.01"), Decimal("105.9894")
    for position in await rows(store, positions):
        quantity = held[position.bot_id]
        fees = quantity * bought * FEE + quantity * sold * FEE
        assert position.status == "closed"
        assert position.fees == fees
        assert position.realised_pnl == quantity * (sold - bought) - fees
    async with store.read() as tx:
        realised = dict(tuple(row) for row in await tx.execute(select(bots.c.id, bots.c.realised)))
    assert realised == {
        ids[2]: 0,
        **{position.bot_id: position.realised_pnl for position in await rows(store, positions)},
    }
    assert len(await rows(store, fills)) == 4


async def test_events_reach_the_topic_confirmed_and_in_order_per_bot(
    store: Store, bus: Bus, other_bus: Bus, prices: Prices
) -> None:
    await add_bots(store, *(spec(number) for number in range(3)))
    listener = await other_bus.subscribe(LISTENER_QUEUE, EVERY_ORDER)
    async with serving(store, bus) as worker:
        await prices.publish(100.0)
        await worker.commits(3)
        await prices.publish(RISE)
        await worker.commits(6)
        received: list[Delivery] = []
        async with asyncio.timeout(PATIENCE_SECS):
            while len(received) < 6:
                received += await listener.batch()
    assert {event.routing_key for event in received} == {"order.update.filled.kraken"}
    seen: defaultdict[int, list[Any]] = defaultdict(list)
    for event in received:
        body = orjson.loads(event.body)
        seen[body["bot_id"]].append((int(event.headers[EVENT_ID_HEADER]), body))
    for events in seen.values():
        (first_id, entry), (second_id, exit_) = events
        assert first_id < second_id
        assert (entry["leg"], entry["realised_pnl"]) == ("entry", None)
        assert (exit_["leg"], exit_["reason"]) == ("exit", "profit_target")
        assert Decimal(exit_["realised_pnl"]) > 0
    assert all(event.sent_at is not None for event in await rows(store, outbox))


async def test_a_bot_trades_each_of_its_pairs_on_what_its_capital_leaves(
    store: Store, bus: Bus, other_bus: Bus
) -> None:
    await add_bots(store, spec(0, pairs=("BTC/USD", "ETH/USD")))
    async with serving(store, bus) as worker:
        await Prices(other_bus, "BTC/USD").publish(100.0)
        await worker.commits(1)
        await Prices(other_bus, "ETH/USD").publish(100.0)
        await worker.commits(2)
    first, second = await rows(store, orders)
    left = 1000 - first.quantity * Decimal("100.01") * (1 + FEE)
    assert second.quantity == (left * Decimal("0.6") / 100).quantize(RULES.lot_step, "ROUND_FLOOR")


async def test_no_entry_while_cooling_down_and_one_after(
    store: Store, bus: Bus, prices: Prices
) -> None:
    await add_bots(store, spec())
    async with serving(store, bus) as worker:
        await prices.publish(100.0)
        await worker.commits(1)
        await prices.publish(RISE)
        await worker.commits(2)
        await prices.publish(100.0, minutes=4.9)
        await worker.judges(3)
        assert worker.verdicts == {"cooling_down": 1}
        await prices.publish(100.0, minutes=0.1)
        await worker.commits(3)
    *_, position = await rows(store, positions)
    assert (position.sequence, position.status) == (2, "open")


async def test_a_stale_tick_opens_nothing_and_still_closes(
    store: Store, bus: Bus, prices: Prices
) -> None:
    await add_bots(store, spec(0), spec(1, status=BotStatus.PAUSED))
    async with serving(store, bus) as worker:
        await prices.publish(100.0, age_secs=16)
        await worker.judges(1)
        assert worker.verdicts == {"tick_stale": 1, "bot_not_active": 1}
        await prices.publish(100.0, age_secs=-2)
        await worker.judges(2)
        assert worker.verdicts == {"clock_skew": 1, "bot_not_active": 1}
        await prices.publish(100.0)
        await worker.commits(1)
        await prices.publish(FALL, age_secs=3600)
        await worker.commits(2)
    assert [order.reason for order in await rows(store, orders)] == [
        "entry_signal",
        "emergency_stop",
    ]


async def test_a_lagging_worker_looks_at_the_newest_tick_of_each_market(store: Store) -> None:
    await add_bots(store, spec(pairs=("BTC/USD", "ETH/USD")))
    broker = MemoryBroker()
    bus = MemoryBus(broker)
    await bus.start()
    btc, eth = Prices(bus, "BTC/USD"), Prices(bus, "ETH/USD")
    async with serving(store, bus) as worker:
        received = worker.ticks("received")
        # All at once: the worker gets its turn after the last.
        for _ in range(40):
            broker.publish(btc.message(100.0, adx=None))
            broker.publish(eth.message(100.0, adx=None))
        broker.publish(btc.message(100.0))
        broker.publish(tick_message(btc.tick(99.0)))
        await worker.commits(1)
        assert worker.ticks("received") - received == 82
        assert worker.ticks("judged") == 2
        assert worker.ticks("skipped") == 80
    (order,) = await rows(store, orders)
    assert (order.pair, order.facts["tick"]["sequence"]) == ("BTC/USD", btc.sequence)
    await bus.close()


async def test_an_older_tick_and_a_deposed_stream_are_ignored(
    store: Store, bus: Bus, other_bus: Bus
) -> None:
    await add_bots(store, spec(pairs=("BTC/USD", "ETH/USD")))
    old, new = Prices(other_bus), Prices(other_bus, "ETH/USD", epoch=2)
    async with serving(store, bus) as worker:
        await new.publish(100.0, adx=None)
        await worker.judges(1)
        await old.publish(100.0)
        new.sequence -= 1
        await new.publish(100.0)
        await new.publish(100.0, adx=None)
        await worker.judges(2)
        assert worker.ticks("outdated") == 2
        assert worker.committed == 0
