"""Kill switches against intents that are being committed: once `turn` has returned, none comes.

On PostgreSQL, where transactions run at the same time.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import pytest
from sqlalchemy import select, text

from shared.errors import StoreUnavailable
from shared.limits import KillSwitchLevel, KillSwitchScope
from shared.orders import Leg
from shared.store import switches, trading
from shared.store.engine import Store, connect
from shared.store.tables import orders
from shared.store.types import database_now
from tests.integration.traders import OWNER, Trader, commit, denied, spec, traders

LEVELS: Final = (KillSwitchLevel.ENTRIES, KillSwitchLevel.FLATTEN, KillSwitchLevel.ALL)
ATTEMPTS: Final = 3
PATIENCE_SECS: Final = 30.0
LINGER: Final = text("SELECT pg_sleep(0.02)")
"""Keeps a transaction open after its intents are written, which is when a race would be lost."""


@dataclass
class Committer:
    """A bot that buys and sells as fast as it can."""

    trader: Trader
    attempts: int = 0
    committed: dict[Leg, int] = field(default_factory=lambda: defaultdict(int))
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, store: Store) -> None:
        bought = False
        while True:
            proposal = self.trader.exit("101") if bought else self.trader.entry()
            async with store.begin() as tx:
                done = await trading.commit(tx, [proposal], owner=OWNER)
                await tx.execute(LINGER)
            self.attempts += 1
            if done.positions:
                self.committed[proposal.intent.leg] += 1
                bought = not bought
            elif not bought:
                self.trader.sequence -= 1
            self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECS):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def attempts_more(self, count: int) -> None:
        target = self.attempts + count
        await self.until(lambda: self.attempts >= target)

    async def trades_again(self) -> None:
        target = self.committed[Leg.ENTRY] + 1
        await self.until(lambda: self.committed[Leg.ENTRY] >= target)


@contextlib.asynccontextmanager
async def committing(url: str, found: Sequence[Trader]) -> AsyncIterator[list[Committer]]:
    """The traders at work, each on a connection of its own."""
    store = connect(url, application_name="worker", pool_size=len(found))
    committers = [Committer(trader) for trader in found]
    tasks = [asyncio.create_task(committer.run(store)) for committer in committers]
    try:
        yield committers
        for task in tasks:
            assert not task.done(), task.exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()


async def visible(store: Store, covered: set[int], legs: set[Leg]) -> set[str]:
    """The orders of these bots and legs that are committed now."""
    query = select(orders.c.client_order_id).where(
        orders.c.bot_id.in_(covered), orders.c.leg.in_(legs)
    )
    async with store.read() as tx:
        return set(await tx.scalars(query))


async def database_time(store: Store) -> datetime:
    async with store.read() as tx:
        now: datetime = (await tx.execute(select(database_now()))).scalar_one()
    return now


async def newest(store: Store, covered: set[int], legs: set[Leg]) -> datetime:
    query = select(orders.c.committed_at).where(
        orders.c.bot_id.in_(covered), orders.c.leg.in_(legs)
    )
    async with store.read() as tx:
        moments: list[datetime] = list(await tx.scalars(query))
    return max(moments)


async def each(work: Callable[[Committer], Awaitable[None]], of: Sequence[Committer]) -> None:
    await asyncio.gather(*(work(committer) for committer in of))


async def test_nothing_that_a_switch_forbids_commits_after_it_was_turned(
    postgres_store: Store, migrated_database_url: str
) -> None:
    store = postgres_store
    found = await traders(
        store,
        spec("ann", "a"),
        spec("ann", "b", venue="binance", pairs=("BTC/USDT",)),
        spec("ben", "c"),
        spec("ben", "d", venue="binance", pairs=("BTC/USDT",)),
    )
    first = found[0]
    scopes = {
        KillSwitchScope.FLEET: ("", found),
        KillSwitchScope.VENUE: ("kraken", [t for t in found if t.venue == "kraken"]),
        KillSwitchScope.USER: (
            str(first.user_id),
            [t for t in found if t.user_id == first.user_id],
        ),
        KillSwitchScope.BOT: (str(first.bot_id), [first]),
    }
    async with committing(migrated_database_url, found) as committers:
        for scope, (key, covered_traders) in scopes.items():
            covered = {trader.bot_id for trader in covered_traders}
            inside = [one for one in committers if one.trader.bot_id in covered]
            outside = [one for one in committers if one not in inside]
            for level in LEVELS:
                forbidden = set(Leg) if level is KillSwitchLevel.ALL else {Leg.ENTRY}
                await each(Committer.trades_again, inside)
                await switches.turn(store, scope, key, level, reason="race")
                returned_at = await database_time(store)
                there = await visible(store, covered, forbidden)
                await each(lambda one: one.attempts_more(ATTEMPTS), inside)
                await each(Committer.trades_again, outside)
                assert await visible(store, covered, forbidden) == there, (scope, level)
                assert await newest(store, covered, forbidden) < returned_at, (scope, level)
                await switches.turn(store, scope, key, KillSwitchLevel.OFF, reason="race")


async def test_turning_a_switch_waits_for_what_is_being_committed(
    postgres_store: Store, migrated_database_url: str
) -> None:
    (trader,) = await traders(postgres_store, spec())
    other = connect(migrated_database_url, application_name="console")
    try:
        async with postgres_store.begin() as tx:
            await trading.commit(tx, [trader.entry()], owner=OWNER)
            turning = asyncio.create_task(
                switches.turn(other, KillSwitchScope.FLEET, "", KillSwitchLevel.ENTRIES, reason="")
            )
            await until_somebody_waits(postgres_store)
            assert not turning.done()
            async with postgres_store.read() as reading:
                assert await switches.read_on(reading) == []
        assert (await turning).level is KillSwitchLevel.ENTRIES
        late = trader.entry()
        assert denied(await commit(postgres_store, late), late) != [None]
    finally:
        await other.close()


async def test_turning_a_switch_outlasts_its_own_lock_timeouts(
    postgres_store: Store, migrated_database_url: str
) -> None:
    (trader,) = await traders(postgres_store, spec())
    hasty = connect(migrated_database_url, application_name="console", timeout_secs=0.05)
    try:
        async with postgres_store.begin() as tx:
            await trading.commit(tx, [trader.entry()], owner=OWNER)
            with pytest.raises(StoreUnavailable, match="busy"):
                await switches.turn(
                    hasty,
                    KillSwitchScope.FLEET,
                    "",
                    KillSwitchLevel.ALL,
                    reason="",
                    patience_secs=0.0,
                )
            turning = asyncio.create_task(
                switches.turn(hasty, KillSwitchScope.FLEET, "", KillSwitchLevel.ALL, reason="")
            )
            for _ in range(2):
                await until_somebody_waits(postgres_store)
                await until_nobody_waits(postgres_store)
            assert not turning.done()
        assert (await turning).level is KillSwitchLevel.ALL
    finally:
        await hasty.close()


async def until_somebody_waits(store: Store) -> None:
    await _until_waiting(store, 1)


async def until_nobody_waits(store: Store) -> None:
    await _until_waiting(store, 0)


async def _until_waiting(store: Store, count: int) -> None:
    """Wait until so many transactions of this database wait for an advisory lock."""
    waiting = text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    async with asyncio.timeout(PATIENCE_SECS):
        while True:
            async with store.read() as tx:
                if await tx.scalar(waiting) == count:
                    return
            await asyncio.sleep(0.01)
