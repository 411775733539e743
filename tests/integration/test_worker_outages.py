"""The trade worker while its database or its broker is killed: nothing lost, nothing twice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from decimal import Decimal
from itertools import cycle
from uuid import uuid4

from sqlalchemy import insert, select

from shared.bus import Bus, Delivery, Subscription
from shared.bus.connect import bus_for
from shared.clock import datetime_of, wall_ms
from shared.errors import BrokerUnavailable
from shared.orders import Fill, Leg, totals_of
from shared.store.engine import Store, connect
from shared.store.schema import migrate
from shared.store.tables import bots, fills, orders, outbox, positions
from shared.topology import EVENT_ID_HEADER, ORDERS, Binding, Queue
from tests.integration.trading_fleet import (
    PATIENCE_SECS,
    Prices,
    Serving,
    add_bots,
    rows,
    serving,
    spec,
    until,
)
from tests.servers import PrivateServer

BOTS = 40
FALL, RISE = 90.0, 106.0
MAX_TICK_AGE_SECS = 0.5
EAGER = {
    "cooldown_secs": 0.0,
    "max_tick_age_secs": MAX_TICK_AGE_SECS,
    "max_daily_loss": 1.0,
    "max_loss_streak": 1000.0,
}


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Bus]:
    bus = bus_for(url, name="test")
    await bus.start()
    try:
        yield bus
    finally:
        await bus.close()


@contextlib.asynccontextmanager
async def migrated(server: PrivateServer) -> AsyncIterator[Store]:
    """A store on a fresh server."""
    await asyncio.to_thread(migrate, server.url)
    store = connect(server.url, application_name="test")
    try:
        yield store
    finally:
        await store.close()


async def test_a_database_that_is_killed_loses_and_doubles_no_order(
    killable_postgres: PrivateServer,
) -> None:
    async with (
        migrated(killable_postgres) as store,
        connected(f"memory://{uuid4().hex}") as bus,
    ):
        await add_bots(store, *(spec(number, risk_profile=EAGER) for number in range(BOTS)))
        prices = Prices(bus)
        async with serving(store, bus, lease_ttl_secs=2.0) as worker:
            market = asyncio.create_task(_swing(bus, prices))
            for _ in range(3):
                await _more(worker, "committed", 100)
                await asyncio.to_thread(killable_postgres.kill)
                await _more(worker, "dropped", 1)
                started_ms = wall_ms()
                await asyncio.to_thread(killable_postgres.start)
                await _more(worker, "committed", 100)
                await _assert_no_entry_on_older_prices(store, started_ms)
            market.cancel()
            await asyncio.gather(market, return_exceptions=True)
            await _sell_everything(worker, prices)
        placed = await rows(store, orders)
        assert len(placed) == worker.committed
        assert {order.status for order in placed} == {"filled"}
        await _assert_the_books_agree(store)


async def _more(worker: Serving, what: str, count: int) -> None:
    """Wait for so many more decisions that were committed, or dropped."""

    def counted() -> int:
        return worker.committed if what == "committed" else sum(worker.dropped.values())

    before = counted()
    await worker.until(lambda: counted() >= before + count)


async def _swing(bus: Bus, prices: Prices) -> None:
    """Let every bot buy at 100 and sell at the next tick, for ever."""
    for price, adx in cycle(((100.0, 27.0), (RISE, None))):
        await bus.publish(prices.message(price, adx=adx))
        await asyncio.sleep(0.02)


async def _sell_everything(worker: Serving, prices: Prices) -> None:
    """Let the price fall until no row has a position any more, as far as the worker knows."""

    async def all_flat() -> bool:
        await prices.publish(FALL, adx=None)
        return worker.verdicts == {"adx_missing": BOTS}

    await until(all_flat)


async def _assert_no_entry_on_older_prices(store: Store, started_ms: int) -> None:
    """Nothing that was seen before an outage was bought after it."""
    since = select(orders).where(
        orders.c.leg == Leg.ENTRY, orders.c.committed_at > datetime_of(started_ms)
    )
    async with store.read() as tx:
        entries = (await tx.execute(since)).all()
    limit_ms = 1000 * MAX_TICK_AGE_SECS
    assert all(entry.observed_at >= datetime_of(round(started_ms - limit_ms)) for entry in entries)


async def _assert_the_books_agree(store: Store) -> None:
    """Positions follow each other without a gap, equal their fills, and add up to the bots."""
    told: dict[tuple[int, int], list[Fill]] = {}
    for row in await rows(store, fills):
        told.setdefault((row.bot_id, row.position_sequence), []).append(
            Fill(
                client_order_id=row.client_order_id,
                trade_id=row.trade_id,
                leg=Leg(row.leg),
                quantity=row.quantity,
                price=row.price,
                fee=row.fee,
                fee_currency=row.fee_currency,
                at_ms=0,
            )
        )
    results: dict[int, Decimal] = {}
    sequences: dict[int, int] = {}
    for position in await rows(store, positions):
        totals = totals_of(told.pop((position.bot_id, position.sequence)), pair=position.pair)
        assert position.sequence == sequences.get(position.bot_id, 0) + 1
        assert totals.held == 0
        assert position.realised_pnl == totals.realised_pnl
        sequences[position.bot_id] = position.sequence
        results[position.bot_id] = results.get(position.bot_id, Decimal(0)) + totals.realised_pnl
    assert told == {}
    async with store.read() as tx:
        booked = {row.id: row.realised for row in await tx.execute(select(bots))}
    assert booked == results


async def test_a_broker_that_is_killed_loses_no_event_and_leads_to_no_stale_entry(
    postgres_store: Store, killable_rabbitmq: PrivateServer
) -> None:
    store, url = postgres_store, killable_rabbitmq.url
    one, two = await add_bots(store, spec(0), spec(1))
    queue = Queue(name="listener", exclusive=False, durable=True, max_length=1_000)
    async with connected(url) as bus, connected(url) as other_bus:
        listener = await other_bus.subscribe(
            queue, frozenset({Binding(exchange=ORDERS, pattern="order.#")})
        )
        prices = Prices(other_bus)
        async with serving(store, bus) as worker:
            await prices.publish(100.0)
            await worker.commits(2)
            heard: dict[str, Delivery] = {}
            await _hear(listener, heard, 2)

            await asyncio.to_thread(killable_rabbitmq.kill)
            await worker.until(lambda: not worker.worker.report()["broker_connected"])
            (late,) = await add_bots(store, spec(2))
            async with store.begin() as tx:
                # As if it had been written just before the broker went.
                last = (await tx.execute(select(outbox).order_by(outbox.c.id))).all()[-1]
                copied = ("shard", "bot_id", "exchange", "routing_key", "body")
                await tx.execute(insert(outbox).values({c: getattr(last, c) for c in copied}))
            await asyncio.to_thread(killable_rabbitmq.start)

            async def routed() -> bool:
                with contextlib.suppress(BrokerUnavailable):
                    stale = prices.message(100.0, age_secs=16)
                    return await other_bus.publish(stale, mandatory=True)
                return False

            await until(routed)
            await worker.until(lambda: worker.verdicts.get("tick_stale") == 1)
            await prices.publish(RISE)
            await worker.commits(5)
            await _hear(listener, heard, 6)

            async def all_sent() -> bool:
                return all(event.sent_at is not None for event in await rows(store, outbox))

            await until(all_sent)
    first, second, *rest = [(order.bot_id, order.leg) for order in await rows(store, orders)]
    assert {first, second} == {(one, "entry"), (two, "entry")}
    assert sorted(rest) == [(one, "exit"), (two, "exit"), (late, "entry")]
    ids = {event.id for event in await rows(store, outbox) if event.routing_key.startswith("order")}
    assert set(map(int, heard)) == ids


async def _hear(listener: Subscription, heard: dict[str, Delivery], count: int) -> None:
    """Wait until so many events were heard, by id: what was not confirmed comes again."""
    async with asyncio.timeout(PATIENCE_SECS):
        while len(heard) < count:
            batch = await listener.batch()
            await listener.acknowledge(batch)
            heard |= {delivery.headers[EVENT_ID_HEADER]: delivery for delivery in batch}
