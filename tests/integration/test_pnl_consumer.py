"""The example consumer of events misses nothing while it is away, on both buses."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import orjson
import pytest

from ecosystem.pnl_consumer.consumer import ProfitAndLoss
from ecosystem.pnl_consumer.ledger import Ledger
from shared.bus import Bus, Message
from shared.bus.connect import bus_for
from shared.bus.dead_letters import DeadLetters
from shared.messages import OrderEvent
from shared.money import exact
from shared.orders import PositionStatus
from shared.store.engine import Store
from shared.store.tables import outbox, positions
from shared.topology import EVENT_ID_HEADER, ORDERS
from shared.venues import quote_of
from tests.integration.trading_fleet import Prices, Serving, add_bots, rows, serving, spec, until

ENTRY, RISE, FALL = 100.0, 106.0, 90.0
"""Prices: all bots enter; all reach their target; all meet the emergency stop."""

COOLED_DOWN_MINUTES = 10
USERS, BOTS = 2, 6


@pytest.fixture
def bus_url(request: pytest.FixtureRequest, database_url: str) -> str:
    """RabbitMQ beside PostgreSQL, memory beside SQLite. The queue is nobody else's."""
    if database_url.startswith("sqlite"):
        return f"memory://{uuid4().hex}"
    url: str = request.getfixturevalue("fresh_rabbitmq_url")
    return url


@pytest.fixture
async def bus(bus_url: str) -> AsyncIterator[Bus]:
    opened = bus_for(bus_url, name="test")
    await opened.start()
    yield opened
    await opened.close()


class Witness(Ledger):
    """A ledger that also remembers the events in the order in which they came."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.seen: dict[int, list[int]] = defaultdict(list)

    def record(self, events: Iterable[tuple[int, OrderEvent]]) -> int:
        batch = list(events)
        for event_id, event in batch:
            self.seen[event.bot_id].append(event_id)
        return super().record(batch)

    @property
    def count(self) -> int:
        return sum(map(len, self.seen.values()))


@contextlib.asynccontextmanager
async def consuming(bus_url: str, ledger: Ledger) -> AsyncIterator[None]:
    """The consumer at work, on a connection of its own; stopped gracefully at the end."""
    bus = bus_for(bus_url, name="profit and loss")
    await bus.start()
    service = ProfitAndLoss(bus=bus, ledger=ledger, show=lambda _: None)
    task = asyncio.create_task(service.run())
    try:
        yield
        service.stop()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.close()


async def trade(fleet: Serving, prices: Prices, exit_price: float) -> None:
    """Every bot enters and leaves a position."""
    before = fleet.committed
    await prices.publish(ENTRY, minutes=COOLED_DOWN_MINUTES)
    await fleet.commits(before + BOTS)
    await prices.publish(exit_price)
    await fleet.commits(before + 2 * BOTS)


async def sums_in(store: Store) -> dict[tuple[int, str], Decimal]:
    """What the database says of closed positions, by user and currency."""
    sums: dict[tuple[int, str], Decimal] = defaultdict(Decimal)
    with exact():
        for position in await rows(store, positions):
            if position.status == PositionStatus.CLOSED:
                sums[position.user_id, quote_of(position.pair)] += position.realised_pnl
    return sums


async def test_what_happens_while_the_consumer_is_away_is_not_missed(
    store: Store, bus: Bus, bus_url: str, tmp_path: Path
) -> None:
    profile = {"max_loss_streak": 20.0, "max_daily_loss": 1.0}
    specs = [
        spec(number, user=f"user {number % USERS}", capital=Decimal(1000 + number))
        for number in range(BOTS)
    ]
    await add_bots(store, *(replace(each, risk_profile=profile) for each in specs))
    prices = Prices(bus)
    ledger = Witness(tmp_path / "ledger.db")
    async with serving(store, bus) as fleet:

        async def all_came() -> bool:
            return ledger.count >= fleet.committed

        async with consuming(bus_url, ledger):
            await declared(bus)
            await trade(fleet, prices, RISE)
            await until(all_came)
        while_here = ledger.count
        await trade(fleet, prices, FALL)
        await trade(fleet, prices, RISE)
        assert ledger.count == while_here
        async with consuming(bus_url, ledger):
            await until(all_came)

    written = [row for row in await rows(store, outbox) if row.exchange == ORDERS]
    by_bot = defaultdict(list)
    for row in written:
        by_bot[row.bot_id].append(row.id)
    assert ledger.seen == by_bot
    results = {(each.user_id, each.currency): each.realised for each in ledger.results()}
    assert results == await sums_in(store)
    assert len(results) == USERS
    assert sum(each.closed for each in ledger.results()) == 3 * BOTS
    ledger.close()


async def test_an_event_that_does_not_decode_is_set_aside_with_its_reason(
    bus: Bus, bus_url: str, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    letters = DeadLetters(bus)

    async def set_aside() -> bool:
        return await letters.count() == 3

    async with consuming(bus_url, ledger):
        await declared(bus)
        for headers in ({}, {EVENT_ID_HEADER: "7"}):
            await bus.publish(event({"status": "filled"}, headers))
        await until(set_aside)
    _probe, without_id, without_version = await letters.peek()
    assert without_id.reason == f"the header {EVENT_ID_HEADER} must be a number, was ''"
    assert without_version.reason.startswith("version must be one of")
    assert without_version.event_id == "7"
    ledger.close()


def event(body: object, headers: dict[str, str]) -> Message:
    return Message(
        exchange=ORDERS,
        routing_key="order.update.filled.kraken",
        body=orjson.dumps(body),
        headers=headers,
        persistent=True,
    )


async def declared(bus: Bus) -> None:
    """Wait until the consumer's queue is bound, with a message that dies there."""

    async def bound() -> bool:
        probe = Message(
            exchange=ORDERS, routing_key="order.update.probe.nowhere", body=b"", persistent=True
        )
        return await bus.publish(probe, mandatory=True)

    await until(bound)
