"""Shards that go and come back while their orders are asked for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from shared.errors import StoreUnavailable
from shared.orders import LiveOrder, OrderStatus
from shared.store.engine import Store, Transaction
from tests.unit.live_fakes import (
    VENUE_ID,
    HeardAlerts,
    Ledger,
    ScriptedOrders,
    a_few_turns,
    live_order,
    until,
)
from trade_worker.asking import NOT_FOUND_SECS
from trade_worker.reconcile import MOST_AT_ONCE, Reconciler


class AwayStore(Store):
    """A database that is away: orders are handed in."""

    def __init__(self) -> None:
        self.away = True

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        if self.away:
            raise StoreUnavailable("the database is away, says the test")
        async with super().read() as tx:
            yield tx


@pytest.fixture
def port() -> ScriptedOrders:
    return ScriptedOrders()


@pytest.fixture
def reconciler(port: ScriptedOrders) -> Reconciler:
    return Reconciler(
        AwayStore(),
        port=port,
        settling=Ledger(),
        holds=lambda _: True,
        on_refused_key=lambda *_: None,
        on_answered_key=lambda _: None,
        alerts=HeardAlerts(),
        not_found_secs=NOT_FOUND_SECS,
    )


async def test_a_shard_that_comes_back_has_each_order_asked_for_once(
    reconciler: Reconciler, port: ScriptedOrders
) -> None:
    order = live_order()
    for _ in range(5):
        reconciler.add(order)
        reconciler.forget({order.shard})
    reconciler.add(order)
    port.open_to_askers.clear()
    running = asyncio.create_task(reconciler.run())
    await until(lambda: bool(port.asked))
    await a_few_turns()
    assert len(port.asked) == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_who_sent_an_order_knows_more_of_it_than_who_loaded_it(
    reconciler: Reconciler, port: ScriptedOrders
) -> None:
    loaded = live_order()
    sent: LiveOrder = replace(loaded, status=OrderStatus.OPEN, venue_order_id=VENUE_ID)
    reconciler.add(loaded)
    reconciler.add(sent)
    running = asyncio.create_task(reconciler.run())
    await until(lambda: bool(port.asked))
    assert port.asked[0].venue_order_id == VENUE_ID
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_venue_that_does_not_answer_keeps_no_other_venues_orders_waiting(
    reconciler: Reconciler, port: ScriptedOrders
) -> None:
    for _ in range(2 * MOST_AT_ONCE):
        reconciler.add(live_order(venue="kraken"))
    port.open_to_askers.clear()
    running = asyncio.create_task(reconciler.run())
    await until(lambda: len(port.asked) == MOST_AT_ONCE)
    reconciler.add(live_order(venue="binance", pair="BTC/USDT"))
    await until(lambda: port.asked[-1].venue == "binance")
    assert len(port.asked) == MOST_AT_ONCE + 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
