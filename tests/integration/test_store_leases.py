"""Leases: taken, renewed, lost and fenced by the database's clock, every grant on record."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from sqlalchemy import select, text, update

from shared.clock import monotonic_secs
from shared.errors import StoreUnavailable
from shared.leases import Lease, LeaseKind
from shared.store import leases, trading_statements
from shared.store.engine import Store, Transaction
from shared.store.tables import lease_grants
from shared.store.tables import leases as lease_table
from shared.store.types import seconds_from_now

A, B = "worker a", "worker b"


async def take(store: Store, owner: str, numbers: Sequence[int]) -> list[Lease]:
    async with store.begin() as tx:
        return await leases.take(tx, LeaseKind.SHARD, owner, ttl_secs=60, numbers=numbers)


async def take_over(store: Store, owner: str, *, replacing: str) -> list[Lease]:
    async with store.begin() as tx:
        return await leases.take_over(tx, LeaseKind.SHARD, owner, ttl_secs=60, replacing=replacing)


async def let_expire(store: Store, *numbers: int) -> None:
    async with store.begin() as tx:
        await tx.execute(
            update(lease_table)
            .where(lease_table.c.kind == LeaseKind.SHARD, lease_table.c.number.in_(numbers))
            .values(expires_at=seconds_from_now(text("0")))
        )


async def grants(store: Store, number: int) -> list[tuple[int, str, str | None]]:
    """Epoch, owner and end of each grant of a shard; no two of them overlap."""
    async with store.read() as tx:
        rows = (
            await tx.execute(
                select(lease_grants)
                .where(lease_grants.c.kind == LeaseKind.SHARD, lease_grants.c.number == number)
                .order_by(lease_grants.c.epoch)
            )
        ).all()
    for earlier, later in pairwise(rows):
        assert earlier.granted_from <= earlier.granted_until <= later.granted_from
    return [(row.epoch, row.owner, row.ended_why) for row in rows]


async def test_a_held_lease_is_not_given_away(store: Store) -> None:
    before = monotonic_secs()
    first = await take(store, A, [3, 1])
    assert [(lease.number, lease.epoch, lease.owner) for lease in first] == [(1, 1, A), (3, 1, A)]
    assert all(before + 60 <= lease.valid_until <= monotonic_secs() + 60 for lease in first)
    assert [lease.number for lease in await take(store, B, [1, 2, 3])] == [2]
    assert await take(store, A, [1]) == []


async def test_every_grant_has_the_next_epoch_and_says_why_it_ended(store: Store) -> None:
    released = await take(store, A, [5])
    async with store.begin() as tx:
        await leases.release(tx, released)
    await take(store, B, [5])
    await let_expire(store, 5)
    await take(store, A, [5])
    await take_over(store, B, replacing=A)
    assert await grants(store, 5) == [
        (1, A, "released"),
        (2, B, "expired"),
        (3, A, "replaced"),
        (4, B, None),
    ]


async def test_a_grant_that_expired_ended_at_its_expiry(store: Store) -> None:
    await take(store, A, [5])
    await let_expire(store, 5)
    async with store.read() as tx:
        expired_at = await tx.scalar(
            select(lease_table.c.expires_at).where(
                lease_table.c.kind == LeaseKind.SHARD, lease_table.c.number == 5
            )
        )
    await take(store, B, [5])
    async with store.read() as tx:
        ended = select(lease_grants.c.granted_until).where(lease_grants.c.epoch == 1)
        assert await tx.scalar(ended) == expired_at


async def test_renewal_extends_what_is_held_and_drops_what_is_lost(store: Store) -> None:
    held = await take(store, A, [1, 2, 3, 4])
    async with store.begin() as tx:
        await leases.release(tx, held[3:])
    await let_expire(store, 2, 3)
    await take(store, B, [3])
    async with store.begin() as tx:
        renewed = await leases.renew(tx, held, ttl_secs=120)
    assert [lease.number for lease in renewed] == [1]
    assert renewed[0].epoch == held[0].epoch
    assert renewed[0].valid_until > held[0].valid_until
    async with store.read() as tx:
        states = {state.number: state for state in await leases.states(tx, LeaseKind.SHARD)}
    assert {number: states[number].held for number in (1, 2, 3, 4)} == {
        1: True,
        2: False,
        3: True,
        4: False,
    }


async def test_release_leaves_a_successor_alone(store: Store) -> None:
    old = await take(store, A, [7])
    await let_expire(store, 7)
    await take(store, B, [7])
    async with store.begin() as tx:
        await leases.release(tx, old)
    assert await grants(store, 7) == [(1, A, "expired"), (2, B, None)]
    assert await take(store, A, [7]) == []


async def test_taking_over_takes_what_the_dead_one_held_and_nothing_else(store: Store) -> None:
    await take(store, A, [1, 2])
    await take(store, B, [3])
    assert [lease.number for lease in await take_over(store, B, replacing=A)] == [1, 2]
    assert await grants(store, 2) == [(1, A, "replaced"), (2, B, None)]
    assert await grants(store, 3) == [(1, B, None)]


async def test_one_price_stream_leads(store: Store) -> None:
    async with store.begin() as tx:
        first = await leases.take_lead(tx, "stream a", ttl_secs=60)
    async with store.begin() as tx:
        assert await leases.take_lead(tx, "stream b", ttl_secs=60) is None
        assert first is not None
        await leases.release(tx, [first])
        second = await leases.take_lead(tx, "stream b", ttl_secs=60)
    assert first.epoch == 1
    assert second is not None
    assert second.epoch == 2


async def test_many_takers_share_without_overlap(store: Store) -> None:
    async def some(owner: str) -> list[Lease]:
        return await take(store, owner, range(64))

    taken = await asyncio.gather(*(some(f"worker {n}") for n in range(4)))
    assert sorted(lease.number for part in taken for lease in part) == list(range(64))
    assert {lease.epoch for part in taken for lease in part} == {1}


@asynccontextmanager
async def impatient(store: Store) -> AsyncIterator[Transaction]:
    """A transaction that waits for no lock."""
    async with store.begin() as tx:
        await tx.execute(text("SET LOCAL lock_timeout = '50ms'"))
        yield tx


async def fenced(tx: Transaction) -> list[int]:
    """Lock the lease of shard 1 as intents of its owner do; its epoch, if the owner holds it."""
    shards = trading_statements.SHARDS.parameters([(1,)])
    rows = await tx.execute(trading_statements.lock_leases("postgresql"), {**shards, "owner": A})
    return [row.epoch for row in rows]


async def test_a_taker_waits_for_intents_under_the_lease(postgres_store: Store) -> None:
    store = postgres_store
    held = await take(store, A, [1])
    async with store.begin() as intents:
        assert await fenced(intents) == [1]
        # Another batch under the same lease does not wait.
        async with impatient(store) as other_intents:
            assert await fenced(other_intents) == [1]
        with pytest.raises(StoreUnavailable, match="busy"):
            async with impatient(store) as tx:
                await leases.take_over(tx, LeaseKind.SHARD, B, ttl_secs=60, replacing=A)
        with pytest.raises(StoreUnavailable, match="busy"):
            async with impatient(store) as tx:
                await leases.release(tx, held)
    assert [lease.epoch for lease in await take_over(store, B, replacing=A)] == [2]


async def test_neither_renewal_nor_intents_wait_for_each_other(postgres_store: Store) -> None:
    store = postgres_store
    held = await take(store, A, [1])
    async with store.begin() as intents:
        assert await fenced(intents) == [1]
        async with impatient(store) as renewal:
            assert len(await leases.renew(renewal, held, ttl_secs=60)) == 1
            async with impatient(store) as other_intents:
                assert await fenced(other_intents) == [1]
        # Renewed meanwhile, the lease is still locked against a taker.
        with pytest.raises(StoreUnavailable, match="busy"):
            async with impatient(store) as tx:
                await leases.take_over(tx, LeaseKind.SHARD, B, ttl_secs=60, replacing=A)
