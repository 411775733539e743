"""One worker's shards: joined, shared, taken over, handed over, and loaded, on both databases."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from sqlalchemy import select, text, update

from shared.errors import LeaseRefused, StoreUnavailable, WorkerReplaced
from shared.leases import LeaseEnd, LeaseKind
from shared.store import leases, workers
from shared.store.engine import Store
from shared.store.tables import lease_grants
from shared.store.tables import leases as lease_table
from shared.store.tables import workers as worker_table
from shared.store.types import seconds_from_now
from shared.store.workers import Process, ProcessKind
from trade_worker.shards import Shards

TTL_SECS = 10.0
PATIENCE_SECS = 30.0
ALL = frozenset(range(256))


class House:
    """A tenant that remembers where it lives. The first `failures` tries to move in fail."""

    def __init__(self, failures: int = 0) -> None:
        self.lives_on: frozenset[int] = frozenset()
        self.moved_out: list[frozenset[int]] = []
        self.changed = asyncio.Event()
        self._failures = failures

    async def move_in(self, shards: frozenset[int]) -> None:
        if self._failures:
            self._failures -= 1
            raise StoreUnavailable("the database is away")
        self.lives_on |= shards
        self.changed.set()

    async def move_out(self, shards: frozenset[int]) -> None:
        self.moved_out.append(shards)

    def lose(self, shards: frozenset[int]) -> None:
        self.forget(shards)

    def forget(self, shards: frozenset[int]) -> None:
        self.lives_on -= shards
        self.changed.set()

    async def until(self, right: Callable[[frozenset[int]], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECS):
            while not right(self.lives_on):
                self.changed.clear()
                await self.changed.wait()


def process(name: str, instance: str) -> Process:
    return Process(kind=ProcessKind.TRADE_WORKER, name=name, instance=instance, host="here", pid=1)


def shards_of(store: Store, who: Process, others: Sequence[Shards] = ()) -> Shards:
    """The shards of a process whose announcements the others hear."""

    async def announce() -> None:
        for each in others:
            each.look()

    return Shards(store, process=who, ttl_secs=TTL_SECS, announce=announce)


@contextlib.asynccontextmanager
async def living(shards: Shards, house: House) -> AsyncIterator[None]:
    """The worker's loops, after it has joined; at the end it is gone like a killed process."""
    loops = [
        asyncio.create_task(loop)
        for loop in (shards.beat(), shards.renew(house), shards.balance(house))
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


async def fall_silent(store: Store, name: str, secs: float) -> None:
    """Let a worker's last heartbeat be so long ago."""
    async with store.begin() as tx:
        await tx.execute(
            update(worker_table)
            .where(worker_table.c.name == name)
            .values(heartbeat_at=seconds_from_now(text(str(-secs))))
        )


async def ends(store: Store) -> set[str | None]:
    """Why the first grants ended."""
    async with store.read() as tx:
        rows = await tx.scalars(select(lease_grants.c.ended_why).where(lease_grants.c.epoch == 1))
        return set(rows)


async def test_the_first_worker_serves_everything_and_shares_with_the_second(
    store: Store,
) -> None:
    first, second = House(), House()
    a = shards_of(store, process("a", "1"))
    b = shards_of(store, process("b", "2"), others=[a])
    await a.join()
    async with living(a, first):
        await first.until(lambda lives_on: lives_on == ALL)
        await b.join()
        async with living(b, second):
            await first.until(lambda lives_on: len(lives_on) == 128)
            b.look()
            await second.until(lambda lives_on: len(lives_on) == 128)
    assert first.lives_on == a.held
    assert second.lives_on == b.held == ALL - a.held
    assert first.moved_out == [second.lives_on]


async def test_what_a_dead_process_of_our_name_held_is_taken_over_and_served(
    store: Store,
) -> None:
    house = House()
    await dead(store, process("a", "1"))
    shards = shards_of(store, process("a", "2"))
    await shards.join()
    assert shards.held == ALL
    async with living(shards, house):
        await house.until(lambda lives_on: lives_on == ALL)
    assert await ends(store) == {LeaseEnd.REPLACED}


async def dead(store: Store, who: Process) -> None:
    """A process that took everything and was killed a while ago, its leases still running."""
    shards = shards_of(store, who)
    house = House()
    await shards.join()
    async with living(shards, house):
        await house.until(lambda lives_on: lives_on == ALL)
    await fall_silent(store, who.name, 10)


async def test_shards_whose_bots_could_not_be_loaded_are_loaded_later(store: Store) -> None:
    house = House(failures=2)
    shards = shards_of(store, process("a", "1"))
    await shards.join()
    async with living(shards, house):
        async with asyncio.timeout(PATIENCE_SECS):
            while house.lives_on != ALL:
                shards.look()
                await asyncio.sleep(0)
    assert shards.held == ALL


async def test_a_dead_worker_s_shards_are_taken_as_soon_as_their_leases_run_out(
    store: Store,
) -> None:
    await dead(store, process("a", "1"))
    house = House()
    shards = shards_of(store, process("b", "2"))
    await shards.join()
    async with living(shards, house):
        assert house.lives_on == frozenset()
        await expire(store, secs_left=0.5)
        await house.until(lambda lives_on: lives_on == ALL)
    assert await ends(store) == {LeaseEnd.EXPIRED}


async def expire(store: Store, *, secs_left: float) -> None:
    async with store.begin() as tx:
        await tx.execute(
            update(lease_table)
            .where(lease_table.c.kind == LeaseKind.SHARD)
            .values(expires_at=seconds_from_now(text(str(secs_left))))
        )


async def test_a_newcomer_under_the_name_of_a_living_worker_is_refused(store: Store) -> None:
    house = House()
    incumbent = shards_of(store, process("a", "1"))
    await incumbent.join()
    async with living(incumbent, house):
        await house.until(lambda lives_on: lives_on == ALL)
        with pytest.raises(LeaseRefused, match=r"worker a runs already, on here as process 1"):
            await shards_of(store, process("a", "2")).join()
    assert incumbent.held == ALL


async def test_one_that_was_replaced_stops_when_it_wakes(store: Store) -> None:
    house = House()
    paused = shards_of(store, process("a", "1"))
    await paused.join()
    await fall_silent(store, "a", 10)
    await shards_of(store, process("a", "2")).join()
    with pytest.raises(WorkerReplaced, match="another process took over as worker a"):
        await paused.beat()
    assert house.lives_on == frozenset()


async def test_leaving_gives_everything_back_even_what_a_cancelled_commit_granted(
    store: Store,
) -> None:
    house = House()
    who = process("a", "1")
    shards = shards_of(store, who)
    await shards.join()
    async with store.begin() as tx:
        await leases.take(tx, LeaseKind.SHARD, who.owner, ttl_secs=60)
    assert shards.held == frozenset()
    await shards.leave(house)
    assert await ends(store) == {LeaseEnd.RELEASED}
    async with store.read() as tx:
        assert await workers.read(tx) == []
