"""Settling: news of orders is written in order and once, however the database behaves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from shared.leases import LeaseKind
from shared.orders import LiveOrder, OrderStatus, PositionStatus
from shared.store import leases
from shared.store import tables as t
from shared.store.engine import Store
from shared.store.settlement import Settled, Settlement
from tests.integration.live_traders import commit, fill, live_traders, rows, said, told
from tests.integration.traders import OWNER
from tests.integration.trading_fleet import PATIENCE_SECS
from tests.integration.unreliable_store import Trouble, UnreliableStore
from trade_worker.settling import Settling

FILLED, OPEN, UNKNOWN = OrderStatus.FILLED, OrderStatus.OPEN, OrderStatus.UNKNOWN


class Scribe:
    """Settling on an unreliable database; `start` it when the news is there."""

    def __init__(self, store: Store) -> None:
        self.real = store
        self.store = UnreliableStore(store)
        self.lost: set[int] = set()
        self.heard: list[tuple[str, OrderStatus]] = []
        self.written = 0
        self.settling = Settling(
            self.store,
            owner=OWNER,
            holds=lambda shard: shard not in self.lost,
            on_settled=self._hear,
            on_written=self._count,
        )

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.settling.run())
        try:
            yield
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def hand_in(self, order: LiveOrder, news: Settlement) -> "asyncio.Task[Settled | None]":
        return asyncio.create_task(self.settling.settle(order, news))

    async def settle(self, *news: tuple[LiveOrder, Settlement]) -> list[Settled | None]:
        """Hand all of it in before any is written, and wait."""
        waiting = [self.hand_in(*each) for each in news]
        await asyncio.sleep(0)
        async with self.at_work(), asyncio.timeout(PATIENCE_SECS):
            return await asyncio.gather(*waiting)

    async def statuses(self) -> list[str]:
        return [order.status for order in await rows(self.real, t.orders)]

    def _hear(self, order: LiveOrder, settled: Settled) -> None:
        self.heard.append((order.client_order_id, settled.status))

    def _count(self) -> None:
        self.written += 1


@pytest.fixture
def scribe(postgres_store: Store) -> Scribe:
    return Scribe(postgres_store)


async def committed(scribe: Scribe, count: int = 1) -> list[LiveOrder]:
    """Entries of so many bots, as they were committed."""
    traders = await live_traders(scribe.real, *(f"user {number}" for number in range(count)))
    done = await commit(scribe.real, *(trader.entry() for trader in traders))
    return sorted(done.live.values(), key=lambda order: order.bot_id)


def bought(order: LiveOrder) -> Settlement:
    return told(order, FILLED, fill(order, f"bought by {order.bot_id}"))


def statuses_of(settled: list[Settled | None]) -> list[OrderStatus | None]:
    return [None if each is None else each.status for each in settled]


async def test_news_of_one_order_is_written_in_the_order_in_which_it_came(scribe: Scribe) -> None:
    (order,) = await committed(scribe)
    settled = await scribe.settle((order, said(order, UNKNOWN)), (order, bought(order)))
    assert statuses_of(settled) == [UNKNOWN, FILLED]
    assert scribe.heard == [(order.client_order_id, UNKNOWN), (order.client_order_id, FILLED)]
    assert await scribe.statuses() == ["filled"]


async def test_all_that_waits_is_written_in_one_transaction(scribe: Scribe) -> None:
    orders = await committed(scribe, 5)
    settled = await scribe.settle(*((order, bought(order)) for order in orders))
    assert statuses_of(settled) == [FILLED] * 5
    assert scribe.store.written == scribe.written == 1
    positions = await rows(scribe.real, t.positions)
    assert {position.status for position in positions} == {PositionStatus.OPEN}


async def test_what_is_known_already_is_told_to_nobody(scribe: Scribe) -> None:
    (order,) = await committed(scribe)
    first, again = await scribe.settle((order, bought(order)), (order, bought(order)))
    assert first is not None
    assert again is not None
    assert (first.changed, again.changed) == (True, False)
    assert len(scribe.heard) == 1


async def test_news_waits_for_a_database_that_is_away_and_is_written_once(scribe: Scribe) -> None:
    (order,) = await committed(scribe)
    scribe.store.troubles.extend([Trouble.AWAY, Trouble.AWAY])
    settled = await scribe.settle((order, bought(order)))
    assert statuses_of(settled) == [FILLED]
    assert len(scribe.heard) == scribe.written == 1
    assert len(await rows(scribe.real, t.fills)) == 1


@pytest.mark.parametrize("trouble", [Trouble.COMMIT_LOST, Trouble.COMMIT_MADE])
async def test_news_whose_commit_is_in_doubt_is_written_once_and_told(
    scribe: Scribe, trouble: Trouble
) -> None:
    (order,) = await committed(scribe)
    events = len(await rows(scribe.real, t.outbox))
    scribe.store.troubles.append(trouble)
    settled = await scribe.settle((order, bought(order)))
    assert statuses_of(settled) == [FILLED]
    assert scribe.heard == [(order.client_order_id, FILLED)]
    assert len(await rows(scribe.real, t.fills)) == 1
    assert len(await rows(scribe.real, t.outbox)) == events + 1
    (position,) = await rows(scribe.real, t.positions)
    assert (position.status, position.version, position.entry_quantity) == ("open", 2, 1)


async def test_news_of_a_shard_that_is_lost_while_the_database_is_away_is_dropped(
    scribe: Scribe,
) -> None:
    orders = await committed(scribe, 2)
    lost, kept = orders
    assert lost.shard != kept.shard
    scribe.lost.add(lost.shard)
    scribe.store.troubles.append(Trouble.AWAY)
    settled = await scribe.settle(*((order, bought(order)) for order in orders))
    assert statuses_of(settled) == [None, FILLED]
    assert await scribe.statuses() == ["committed", "filled"]


async def test_news_of_an_order_that_another_worker_owns_now_is_not_written(scribe: Scribe) -> None:
    (order,) = await committed(scribe)
    async with scribe.real.begin() as tx:
        await leases.take_over(tx, LeaseKind.SHARD, "worker 2", ttl_secs=60, replacing=OWNER)
    assert await scribe.settle((order, bought(order))) == [None]
    assert scribe.heard == []
    assert await scribe.statuses() == ["committed"]


@pytest.mark.parametrize("bad_one", [0, 2, 4])
async def test_news_that_the_database_refuses_keeps_no_other_from_it(
    scribe: Scribe, bad_one: int
) -> None:
    orders = await committed(scribe, 5)
    news = [(order, bought(order)) for order in orders]
    order, good = news[bad_one]
    news[bad_one] = (order, replace(good, detail="no text has a \x00 in it"))
    settled = await scribe.settle(*news)
    expected: list[OrderStatus | None] = [FILLED] * 5
    expected[bad_one] = None
    assert statuses_of(settled) == expected
    assert (await scribe.statuses()).count("committed") == 1


async def test_who_was_refused_may_settle_later(scribe: Scribe) -> None:
    (order,) = await committed(scribe)
    bad = replace(bought(order), detail="no text has a \x00 in it")
    assert statuses_of(await scribe.settle((order, bad), (order, bought(order)))) == [None, FILLED]


@pytest.mark.parametrize("count", [1, 3])
async def test_what_a_mistake_after_its_commit_kept_quiet_is_told_in_the_end(
    scribe: Scribe, count: int
) -> None:
    orders = await committed(scribe, count)
    scribe.store.troubles.append(Trouble.MISTAKE_AFTER)
    news = [(order, bought(order)) for order in orders]
    settled = await scribe.settle(*news)
    if count == 1:  # whoever gets no answer asks the venue, and hands in the same news
        assert settled == [None]
        settled = await scribe.settle(*news)
    assert statuses_of(settled) == [FILLED] * count
    assert sorted(scribe.heard) == sorted((order.client_order_id, FILLED) for order in orders)
    await scribe.settle(*news)
    assert len(scribe.heard) == count


async def test_draining_waits_until_all_is_written(scribe: Scribe) -> None:
    (order,) = await committed(scribe)
    scribe.store.open_to_writers.clear()
    async with scribe.at_work(), asyncio.timeout(PATIENCE_SECS):
        await scribe.settling.drain()
        waiting = scribe.hand_in(order, bought(order))
        await asyncio.sleep(0.01)
        draining = asyncio.create_task(scribe.settling.drain())
        await asyncio.sleep(0.01)
        assert not draining.done()
        scribe.store.open_to_writers.set()
        await draining
    assert waiting.done()
    assert await scribe.statuses() == ["filled"]


async def test_who_stops_waiting_keeps_nothing_from_being_written(scribe: Scribe) -> None:
    one, two = await committed(scribe, 2)
    scribe.store.open_to_writers.clear()
    async with scribe.at_work(), asyncio.timeout(PATIENCE_SECS):
        given_up, waiting = (scribe.hand_in(order, bought(order)) for order in (one, two))
        await asyncio.sleep(0.01)
        given_up.cancel()
        scribe.store.open_to_writers.set()
        await waiting
    assert await scribe.statuses() == ["filled", "filled"]


async def test_who_waits_when_it_ends_is_told_nothing(scribe: Scribe) -> None:
    (order,) = await committed(scribe)
    scribe.store.open_to_writers.clear()
    async with scribe.at_work():
        in_hand = scribe.hand_in(order, said(order, UNKNOWN))
        await asyncio.sleep(0.01)
        behind_it = scribe.hand_in(order, bought(order))
        await asyncio.sleep(0.01)
    for waiting in (in_hand, behind_it):
        await asyncio.wait({waiting}, timeout=1.0)
        assert waiting.cancelled()
    assert await scribe.statuses() == ["committed"]
