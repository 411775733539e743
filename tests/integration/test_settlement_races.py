"""Settling beside whoever else writes: owners that change, news in any order, the same at once."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from shared.errors import StoreUnavailable
from shared.leases import LeaseKind
from shared.orders import UNSETTLED, Fill, Intent, OrderStatus, PositionStatus, totals_of
from shared.store import leases, settlement, trading
from shared.store import tables as t
from shared.store.engine import Store, connect
from shared.store.settlement import Settlement
from shared.store.trading import Proposal
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
from tests.integration.traders import OWNER

FILLED, OPEN, CANCELLED = OrderStatus.FILLED, OrderStatus.OPEN, OrderStatus.CANCELLED
UNKNOWN, NOT_PLACED = OrderStatus.UNKNOWN, OrderStatus.NOT_PLACED
OTHER = "worker 2"


@pytest.fixture
async def store(postgres_store: Store) -> Store:
    """Real orders need PostgreSQL."""
    return postgres_store


@pytest.fixture
async def trader(store: Store) -> LiveTrader:
    (trader,) = await live_traders(store, "ann")
    return trader


async def take_over(store: Store) -> None:
    async with store.begin() as tx:
        await leases.take_over(tx, LeaseKind.SHARD, OTHER, ttl_secs=60, replacing=OWNER)


@pytest.mark.parametrize("why", ["never held", "expired", "taken over"])
async def test_without_the_lease_nothing_is_settled(
    store: Store, trader: LiveTrader, why: str
) -> None:
    entry = trader.entry()
    await commit(store, entry)
    owner = OTHER if why == "never held" else OWNER
    if why == "expired":
        async with store.begin() as tx:
            await tx.execute(update(t.leases).values(expires_at=t.leases.c.granted_at))
    elif why == "taken over":
        await take_over(store)
    news = told(entry, FILLED, fill(entry, "t1"))
    assert await settle(store, news, owner=owner) == {}
    (order,), (position,) = await rows(store, t.orders), await rows(store, t.positions)
    assert (order.status, position.status) == ("committed", "opening")
    assert await rows(store, t.fills) == []
    assert len(await rows(store, t.outbox)) == 1


async def test_a_lost_shard_leaves_the_orders_of_the_others_to_be_settled(store: Store) -> None:
    names = [f"user {number}" for number in range(8)]
    traders = await live_traders(store, *names)
    one = traders[0]
    two = next(each for each in traders if each.shard != one.shard)
    entries = [one.entry(), two.entry()]
    await commit(store, *entries)
    async with store.begin() as tx:
        await tx.execute(update(t.leases).where(t.leases.c.number == one.shard).values(owner=OTHER))
    done = await settle(store, *(told(e, FILLED, fill(e, f"t{e.bot_id}")) for e in entries))
    assert list(done) == [entries[1].client_order_id]


async def test_the_next_owner_settles_what_the_last_one_committed(
    store: Store, trader: LiveTrader
) -> None:
    entry = trader.entry()
    await commit(store, entry)
    await take_over(store)
    done = await settle(store, told(entry, FILLED, fill(entry, "t1")), owner=OTHER)
    assert done[entry.client_order_id].status is FILLED


async def test_a_lease_cannot_be_taken_while_orders_are_settled_under_it(
    store: Store, trader: LiveTrader
) -> None:
    entry = trader.entry()
    await commit(store, entry)
    async with store.begin() as tx:
        news = told(entry, FILLED, fill(entry, "t1"))
        assert await settlement.settle(tx, [news], owner=OWNER)
        taking = asyncio.create_task(take_over(store))
        done, _ = await asyncio.wait({taking}, timeout=0.3)
        assert not done
    await taking
    (position,) = await rows(store, t.positions)
    assert position.status == "open"
    assert await settle(store, told(entry, CANCELLED), owner=OWNER) == {}


async def test_who_settles_while_the_lease_is_being_taken_waits_and_writes_nothing(
    store: Store, trader: LiveTrader
) -> None:
    entry = trader.entry()
    await commit(store, entry)
    news = told(entry, FILLED, fill(entry, "t1"))
    async with store.begin() as tx:
        await leases.take_over(tx, LeaseKind.SHARD, OTHER, ttl_secs=60, replacing=OWNER)
        settling = asyncio.create_task(settle(store, news))
        done, _ = await asyncio.wait({settling}, timeout=0.3)
        assert not done
    assert await settling == {}
    assert await rows(store, t.fills) == []


async def test_the_same_news_from_two_askers_at_once_counts_once(
    store: Store, trader: LiveTrader
) -> None:
    entry = trader.entry()
    await commit(store, entry)
    news = told(entry, FILLED, fill(entry, "t1", "0.5"), fill(entry, "t2", "0.5"))
    settled = await asyncio.gather(*(settle_one(store, news) for _ in range(4)))
    assert sorted(each.changed for each in settled) == [False, False, False, True]
    assert {each.position.version for each in settled} == {2}
    assert len(await rows(store, t.fills)) == 2
    assert len(await rows(store, t.outbox)) == 2


async def test_two_orders_of_one_position_that_are_settled_at_once_both_count(
    store: Store, trader: LiveTrader
) -> None:
    late = await given_up(store, trader)
    await buy(store, trader, 2)
    leaving = trader.exit(2)
    await commit(store, leaving)
    async with store.begin() as tx:
        news = told(leaving, CANCELLED, fill(leaving, "s", "0.5"))
        await settlement.settle(tx, [news], owner=OWNER)
        joining = asyncio.create_task(settle_one(store, told(late, FILLED, fill(late, "late"))))
        done, _ = await asyncio.wait({joining}, timeout=0.3)
        assert not done
    settled = await joining
    assert settled.position.totals.held == Decimal("1.5")
    assert settled.position.status is PositionStatus.OPEN


async def test_an_entry_that_is_committed_beside_a_late_one_is_left_out(
    store: Store, trader: LiveTrader
) -> None:
    late, entry = await given_up(store, trader), trader.entry(2)
    async with store.begin() as tx:
        await settlement.settle(tx, [told(late, FILLED, fill(late, "late"))], owner=OWNER)
        entering = asyncio.create_task(propose(store, entry))
        done, _ = await asyncio.wait({entering}, timeout=0.3)
        assert not done
    assert await entering == set()
    assert len(await rows(store, t.positions)) == 2


async def test_a_late_fill_beside_an_entry_that_is_committed_is_tried_again_and_joins(
    store: Store, trader: LiveTrader
) -> None:
    late, entry = await given_up(store, trader), trader.entry(2)
    news = told(late, FILLED, fill(late, "late"))
    async with store.begin() as tx:
        await trading.commit(tx, [Proposal(intent=entry)], owner=OWNER)
        settling = asyncio.create_task(settle(store, news))
        done, _ = await asyncio.wait({settling}, timeout=0.3)
        assert not done
    with pytest.raises(StoreUnavailable, match="opened meanwhile"):
        await settling
    assert await rows(store, t.fills) == []
    settled = await settle_one(store, news)
    assert (settled.sequence, settled.adopted) == (2, True)
    assert settled.position.status is PositionStatus.OPENING


async def given_up(store: Store, trader: LiveTrader) -> Intent:
    """An entry that was found not to exist."""
    late = trader.entry(1)
    await commit(store, late)
    await settle(store, said(late, UNKNOWN), said(late, NOT_PLACED))
    return late


async def propose(store: Store, intent: Intent) -> set[str]:
    async with store.begin() as tx:
        done = await trading.commit(tx, [Proposal(intent=intent)], owner=OWNER)
    return set(done.positions)


@dataclass(frozen=True)
class Story:
    """What a venue did with an order, and the news of it as they come in."""

    parts: tuple[Decimal, ...]
    news: tuple[tuple[OrderStatus, frozenset[int], bool], ...]
    """Status, which parts it shows, and whether it says how much was executed."""


_STATUSES = st.sampled_from([OPEN, UNKNOWN, FILLED, CANCELLED, NOT_PLACED, OrderStatus.EXPIRED])


@st.composite
def stories(draw: st.DrawFn) -> Story:
    parts = draw(st.lists(st.integers(1, 400), max_size=3))
    shown = st.frozensets(st.integers(0, len(parts) - 1)) if parts else st.just(frozenset[int]())
    news = draw(st.lists(st.tuples(_STATUSES, shown, st.booleans()), max_size=6))
    return Story(tuple(Decimal(part) / 1000 for part in parts), tuple(news))


def news_of(order: Intent, story: Story) -> tuple[list[Settlement], list[Fill]]:
    """The story's news with, at last, the whole truth; and its fills."""
    fills = [
        fill(order, f"{order.client_order_id[:8]}-{number}", str(part), fee="0.01")
        for number, part in enumerate(story.parts)
    ]
    total = sum(story.parts, Decimal(0))
    settlements = [
        Settlement(
            client_order_id=order.client_order_id,
            status=status,
            executed=total if says else None,
            fills=tuple(fills[number] for number in sorted(shown)),
        )
        for status, shown, says in story.news
    ]
    return [*settlements, told(order, CANCELLED, *fills)], fills


async def check_books(store: Store, bot_id: int, fills: Sequence[Fill]) -> None:
    """Positions, orders and the bot's result are what the distinct fills say."""
    async with store.read() as tx:
        found = {
            table.name: (await tx.execute(select(table).where(table.c.bot_id == bot_id))).all()
            for table in (t.orders, t.positions, t.fills)
        }
        booked = await tx.scalar(select(t.bots.c.realised).where(t.bots.c.id == bot_id))
    assert sorted(row.trade_id for row in found["fills"]) == sorted(f.trade_id for f in fills)
    by_id = {each.trade_id: each for each in fills}
    for position in found["positions"]:
        own = [
            by_id[row.trade_id]
            for row in found["fills"]
            if row.position_sequence == position.sequence
        ]
        assert trading.state_of(position).totals == totals_of(own, pair=PAIR)
    for order in found["orders"]:
        traded = [f.quantity for f in fills if f.client_order_id == order.client_order_id]
        assert order.filled_quantity == sum(traded)
        assert order.status not in UNSETTLED
    unclosed = [row for row in found["positions"] if row.status != PositionStatus.CLOSED]
    assert [row.status for row in unclosed] in ([], ["open"])
    closed = [row for row in found["positions"] if row.status == PositionStatus.CLOSED]
    assert booked == sum((row.realised_pnl for row in closed), Decimal(0))


class Book:
    """A live bot whose books are wiped for every example."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._store = connect(url, application_name="test")
        (self._trader,) = self._runner.run(live_traders(self._store, "ann"))

    def close(self) -> None:
        self._runner.run(self._store.close())
        self._runner.close()

    def play(self, bought: Story, sold: Story, *, early: int, shuffled: Random) -> None:
        self._runner.run(self._play(bought, sold, early, shuffled))

    async def _play(self, bought: Story, sold: Story, early: int, shuffled: Random) -> None:
        store, trader = self._store, self._trader
        await self._wipe()
        entry = trader.entry()
        await commit(store, entry)
        news, fills = news_of(entry, bought)
        for each in news[:early]:
            await settle(store, each)
        later, truths = news[early:], news[-1:]
        leaving = await self._exit()
        if leaving is not None:
            of_exit, sales = news_of(leaving, sold)
            later, truths, fills = later + of_exit, [*truths, of_exit[-1]], fills + sales
        shuffled.shuffle(later)
        while later:
            size = shuffled.randint(1, 4)
            batch, later = later[:size], later[size:]
            await settle(store, *batch)
        await settle(store, *truths)
        again = await settle(store, *truths)
        assert not any(each.changed for each in again.values())
        await check_books(store, trader.bot_id, fills)

    async def _exit(self) -> Intent | None:
        """An exit of the position that is open now, if there is one."""
        held = [row for row in await rows(self._store, t.positions) if row.status == "open"]
        for row in held:
            leaving = self._trader.exit(row.sequence, version=row.version)
            if await propose(self._store, leaving):
                return leaving
        return None

    async def _wipe(self) -> None:
        async with self._store.begin() as tx:
            for table in (t.orders, t.positions, t.fills, t.outbox, t.breakers):
                await tx.execute(table.delete())
            await tx.execute(update(t.bots).values(realised=Decimal(0), loss_streak=0))


@pytest.fixture
def book(migrated_database_url: str) -> Iterator[Book]:
    book = Book(migrated_database_url)
    yield book
    book.close()


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    bought=stories(),
    sold=stories(),
    early=st.integers(0, 7),
    shuffled=st.randoms(use_true_random=False),
)
def test_news_in_any_order_and_again_end_where_the_distinct_fills_say(
    book: Book, bought: Story, sold: Story, early: int, shuffled: Random
) -> None:
    book.play(bought, sold, early=early, shuffled=shuffled)
