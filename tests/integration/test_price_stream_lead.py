"""Who leads: the lease as candidates take it, keep it, lose it and give it back."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from sqlalchemy import select

from price_stream.lead import Lead
from shared.clock import monotonic_secs
from shared.leases import LeaseEnd, LeaseKind
from shared.store import leases
from shared.store.engine import Store, connect
from shared.store.schema import migrate
from shared.store.tables import lease_grants
from tests.servers import PrivateServer

LONG_SECS = 600.0
"""A lease that does not run out during a test."""

SHORT_SECS = 0.2
PATIENCE_SECS = 20.0


class Candidate:
    """Hears what it is told: an epoch to lead under, or None to follow."""

    def __init__(self, store: Store, owner: str, *, ttl_secs: float = LONG_SECS) -> None:
        self.lead_ = Lead(store, owner=owner, ttl_secs=ttl_secs)
        self._told: asyncio.Queue[int | None] = asyncio.Queue()

    def lead(self, stream_epoch: int) -> None:
        self._told.put_nowait(stream_epoch)

    def follow(self) -> None:
        self._told.put_nowait(None)

    async def told(self) -> int | None:
        """The next thing it is told."""
        async with asyncio.timeout(PATIENCE_SECS):
            return await self._told.get()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Awake; it stands still afterwards, and does not know that it did."""
        task = asyncio.create_task(self.lead_.run(self), name="lead")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


def at_once(asked: Coroutine[Any, Any, bool]) -> bool:
    """The answer, which must not take a look at the database, nor any other wait."""
    try:
        asked.send(None)
    except StopIteration as answer:
        return bool(answer.value)
    asked.close()
    pytest.fail("it waited")


async def stand_still() -> None:
    """Until a short lease is over, by everybody's clock."""
    await asyncio.sleep(1.5 * SHORT_SECS)


async def grants(store: Store) -> list[tuple[int, str, str | None]]:
    """(epoch, owner, why it ended) of every grant of the lead, oldest first."""
    query = (
        select(lease_grants.c.epoch, lease_grants.c.owner, lease_grants.c.ended_why)
        .where(lease_grants.c.kind == LeaseKind.PRICE_STREAM)
        .order_by(lease_grants.c.epoch)
    )
    async with store.read() as tx:
        return [(row.epoch, row.owner, row.ended_why) for row in await tx.execute(query)]


@contextlib.asynccontextmanager
async def migrated(server: PrivateServer) -> AsyncIterator[Store]:
    """A store on a fresh server, which the test may kill."""
    await asyncio.to_thread(migrate, server.url)
    store = connect(server.url, application_name="test")
    try:
        yield store
    finally:
        await store.close()


async def test_one_leads_and_the_others_follow(store: Store) -> None:
    a, b = Candidate(store, "a"), Candidate(store, "b")
    async with a.running():
        assert await a.told() == 1
        async with b.running():
            assert await b.told() is None
            assert at_once(a.lead_.permits())
            assert not await b.lead_.permits()


async def test_nobody_may_publish_who_was_not_told_anything(store: Store) -> None:
    assert not await Lead(store, owner="a", ttl_secs=LONG_SECS).permits()


async def test_a_lead_that_was_given_back_is_taken_by_who_looks(store: Store) -> None:
    a, b = Candidate(store, "a"), Candidate(store, "b")
    async with a.running(), b.running():
        assert {await a.told(), await b.told()} == {1, None}
        first, second = (a, b) if await a.lead_.permits() else (b, a)
        assert await first.lead_.give_back()
        assert not await first.lead_.permits()
        second.lead_.look()
        assert await second.told() == 2
        first.lead_.look()
    assert [(epoch, why) for epoch, _, why in await grants(store)] == [
        (1, LeaseEnd.RELEASED),
        (2, None),
    ]


async def test_a_follower_has_nothing_to_give_back_and_seeks_no_more(store: Store) -> None:
    a, b = Candidate(store, "a"), Candidate(store, "b")
    async with a.running(), b.running():
        assert await a.told() == 1 or await b.told() == 1
        follower, leader = (b, a) if await a.lead_.permits() else (a, b)
        assert not await follower.lead_.give_back()
        assert await leader.lead_.give_back()
        follower.lead_.look()
    assert len(await grants(store)) == 1


async def test_a_leader_that_stood_still_asks_before_it_publishes(store: Store) -> None:
    a, b = Candidate(store, "a", ttl_secs=SHORT_SECS), Candidate(store, "b")
    async with a.running():
        before = await a.told()
    await stand_still()
    async with b.running():
        after = await b.told()
    assert before is not None
    assert after is not None
    assert after > before
    assert not await a.lead_.permits(), "another has taken it"
    async with a.running():
        assert await a.told() is None


async def test_a_leader_that_stood_still_leads_on_if_nobody_took_it(store: Store) -> None:
    a = Candidate(store, "a", ttl_secs=SHORT_SECS)
    async with a.running():
        before = await a.told()
    await stand_still()
    assert await a.lead_.permits(), "taken again"
    async with a.running():
        after = await a.told()
    assert before is not None
    assert after is not None
    assert after > before


async def test_prices_go_on_while_the_database_is_away(killable_postgres: PrivateServer) -> None:
    async with migrated(killable_postgres) as store:
        a = Candidate(store, "a", ttl_secs=SHORT_SECS)
        async with a.running():
            before = await a.told()
            await asyncio.to_thread(killable_postgres.kill)
            over_secs = monotonic_secs() + SHORT_SECS
            while monotonic_secs() <= over_secs:
                assert await a.lead_.permits()
                await asyncio.sleep(0.01)
            assert at_once(a.lead_.permits()), "beyond the lease"
            await asyncio.to_thread(killable_postgres.start)
            after = await a.told()
            assert before is not None
            assert after is not None
            assert after > before, "it had run out, and was taken again"


async def test_a_lead_whose_grant_was_never_confirmed_is_taken_again(
    killable_postgres: PrivateServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with migrated(killable_postgres) as store:
        # As a COMMIT leaves it whose answer was lost.
        async with store.begin() as tx:
            assert await leases.take_lead(tx, "a", ttl_secs=LONG_SECS) is not None
        a = Candidate(store, "a")
        await asyncio.to_thread(killable_postgres.kill)
        with caplog.at_level(logging.WARNING, logger="price_stream.lead"):
            async with a.running():
                while "cannot ask who leads" not in caplog.text:  # noqa: ASYNC110 - all it says
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(killable_postgres.start)
                a.lead_.look()
                assert await a.told() == 2
        assert await grants(store) == [(1, "a", LeaseEnd.REPLACED), (2, "a", None)]
