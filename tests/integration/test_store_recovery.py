"""What a recovery owes, in the store: written first, paid account by account."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Row, select, text, update

from shared.errors import Refused
from shared.leases import LeaseEnd, LeaseKind
from shared.orders import BotStatus, Mode
from shared.store import bot_import, bots, credential_changes, fleet, leases, recovery
from shared.store.credential_changes import NewCredential
from shared.store.credentials import Credential, required, set_trouble
from shared.store.engine import Store
from shared.store.tables import credentials, lease_grants
from shared.store.tables import leases as leases_table
from shared.store.types import seconds_from_now
from shared.vault import Sealed
from tests.integration.traders import spec

SINCE = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)
NEW = UUID(int=99)


def sealed(_: object) -> Sealed:
    """A key that no test opens."""
    blob = b"\x00" * 12
    return Sealed(
        ciphertext=blob, nonce=blob, wrapped_key=blob, wrap_nonce=blob, master_key_id="test"
    )


async def add(store: Store, user: str, *, status: BotStatus = BotStatus.ACTIVE) -> Credential:
    """A user with a live bot and a key at Kraken."""
    async with store.begin() as tx:
        await bot_import.add(tx, spec(user=user, mode=Mode.LIVE, status=status))
        new = NewCredential(user=user, venue="kraken", live=True, facts={})
        return await credential_changes.add(tx, new, sealed)


async def begin(store: Store, *, namespace: UUID = NEW) -> list[recovery.Debt]:
    async with store.begin() as tx:
        await recovery.begin(
            tx, owner="recover", namespace=namespace, lost_since=SINCE, ttl_secs=60.0
        )
        return await recovery.debts(tx)


async def troubles(store: Store) -> dict[int, str | None]:
    async with store.read() as tx:
        rows = await tx.execute(select(credentials.c.id, credentials.c.trouble))
        return {row.id: row.trouble for row in rows}


async def grants(store: Store, owner: str) -> list[Row[Any]]:
    async with store.read() as tx:
        query = select(lease_grants).where(lease_grants.c.owner == owner)
        return list((await tx.execute(query)).all())


async def test_the_fleet_is_stopped_and_gets_new_ids_before_anything_is_asked(
    store: Store,
) -> None:
    ann, bob = await add(store, "ann"), await add(store, "bob", status=BotStatus.STOPPING)
    async with store.begin() as tx:
        await leases.take(tx, LeaseKind.SHARD, "gone", ttl_secs=60.0)
        await tx.execute(update(leases_table).values(expires_at=seconds_from_now(text("-1"))))
        old = (await fleet.read(tx)).namespace
    debts = await begin(store)
    assert [(debt.namespace, debt.credential_id) for debt in debts] == [
        (old, ann.id),
        (old, bob.id),
    ]
    assert set((await troubles(store)).values()) == {recovery.NOT_ASKED}
    async with store.read() as tx:
        assert (await fleet.read(tx)).namespace == NEW
        every = await bots.page(tx)
        states = await leases.states(tx, LeaseKind.SHARD)
    assert [bot.status for bot in every] == [BotStatus.PAUSED, BotStatus.STOPPING]
    assert {(state.owner, state.epoch) for state in states} == {
        ("recover", 1 + recovery.EPOCHS_LOST + 1)
    }
    assert {grant.ended_why for grant in await grants(store, "gone")} == {LeaseEnd.EXPIRED}


async def test_nothing_is_changed_while_somebody_holds_a_lease(store: Store) -> None:
    await add(store, "ann")
    async with store.begin() as tx:
        await leases.take(tx, LeaseKind.SHARD, "worker 1", ttl_secs=60.0)
    with pytest.raises(Refused, match="held by worker 1: stop every service first"):
        await begin(store)
    assert set((await troubles(store)).values()) == {None}


async def test_an_account_trades_again_only_when_all_of_it_was_asked_for(store: Store) -> None:
    ann, bob = await add(store, "ann"), await add(store, "bob")
    (first, other) = await begin(store)
    async with store.begin() as tx:
        await leases.release_all(tx, LeaseKind.SHARD, "recover")
    again = await begin(store, namespace=UUID(int=100))
    assert {(debt.namespace, debt.credential_id) for debt in again} == {
        (namespace, key.id) for namespace in (first.namespace, NEW) for key in (ann, bob)
    }
    async with store.begin() as tx:
        await recovery.asked(tx, first)
        assert not await set_trouble(tx, ann.id, None), "its key works, and it is still owed"
    assert (await troubles(store))[ann.id] == recovery.NOT_ASKED
    async with store.begin() as tx:
        for debt in again:
            if debt.credential_id == ann.id:
                await recovery.asked(tx, debt)
    found = await troubles(store)
    assert (found[ann.id], found[other.credential_id]) == (None, recovery.NOT_ASKED)


async def test_a_key_in_place_of_another_owes_what_that_did(store: Store) -> None:
    ann = await add(store, "ann")
    await begin(store)
    async with store.begin() as tx:
        new = await credential_changes.replace(tx, ann, sealed, facts={})
    async with store.read() as tx:
        (debt,) = await recovery.debts(tx)
        assert (await required(tx, "ann", "kraken")).trouble == recovery.NOT_ASKED
    assert debt.credential_id == new.id
    async with store.begin() as tx:
        await recovery.asked(tx, debt)
        await leases.release_all(tx, LeaseKind.SHARD, "recover")
    assert (await troubles(store))[new.id] is None
