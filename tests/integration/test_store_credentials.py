"""Users' keys in the store: one active per user and venue, sealed, followed by the workers."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import insert, update

from shared.errors import CredentialRefused, Refused
from shared.orders import BotStatus, Leg, Mode, OrderStatus, PositionStatus, Side
from shared.store import credential_changes as changes
from shared.store import credentials, users
from shared.store.bot_import import BotSpec
from shared.store.bot_import import add as add_bot
from shared.store.changes import ChangeFeed
from shared.store.credential_changes import NewCredential
from shared.store.credentials import Credential, CredentialFilter, CredentialStatus
from shared.store.engine import Store
from shared.store.tables import credentials as table
from shared.store.tables import orders, positions
from shared.vault import ApiKey, Place, Sealed, Vault, new_master_key, parse_master_keys
from trade_worker.cleaning import Cleaning

FIRST = ApiKey(key="first-key-0001", secret="first-secret-0001")
SECOND = ApiKey(key="second-key-0002", secret="second-secret-0002")
OLD_LINE, NEW_LINE = new_master_key(), new_master_key()
VAULT = Vault(parse_master_keys(OLD_LINE, "test"))
FACTS = {"permissions": ["trade"]}
WHEN = datetime(2026, 11, 21, tzinfo=UTC)


def sealing(api_key: ApiKey, vault: Vault = VAULT) -> changes.Seal:
    def seal(place: Place) -> Sealed:
        return vault.seal(api_key, place)

    return seal


async def add(store: Store, user: str = "ann", venue: str = "kraken") -> Credential:
    new = NewCredential(user=user, venue=venue, label="main", live=True, facts=FACTS)
    async with store.begin() as tx:
        if await users.by_name(tx, user) is None:
            await users.add(tx, user)
        return await changes.add(tx, new, sealing(FIRST))


async def a_bot(store: Store, user: str = "ann") -> int:
    spec = BotSpec(
        user=user,
        name="first",
        venue="kraken",
        pairs=("BTC/USD",),
        capital=Decimal(1000),
        mode=Mode.LIVE,
        status=BotStatus.ACTIVE,
        risk_profile={},
    )
    async with store.begin() as tx:
        return await add_bot(tx, spec)


async def an_order(store: Store, credential: Credential, **values: object) -> None:
    defaults = {
        "client_order_id": "a" * 32,
        "bot_id": 1,
        "user_id": credential.user_id,
        "shard": 1,
        "credential_id": credential.id,
        "mode": Mode.LIVE,
        "venue": credential.venue,
        "pair": "BTC/USD",
        "position_sequence": 1,
        "leg": Leg.ENTRY,
        "attempt": 0,
        "side": Side.BUY,
        "quantity": Decimal(1),
        "decided_price": Decimal(1),
        "status": OrderStatus.UNKNOWN,
        "reason": "test",
        "facts": {},
        "lease_epoch": 1,
        **dict.fromkeys(("market_time", "observed_at", "received_at", "decided_at"), WHEN),
    }
    async with store.begin() as tx:
        await tx.execute(insert(orders).values(**{**defaults, **values}))


async def a_position(store: Store, credential: Credential, mode: Mode) -> None:
    async with store.begin() as tx:
        await tx.execute(
            insert(positions).values(
                bot_id=1,
                user_id=credential.user_id,
                credential_id=credential.id,
                venue=credential.venue,
                pair="BTC/USD",
                sequence=1,
                mode=mode,
                status=PositionStatus.OPEN,
                entry_reason="test",
            )
        )


async def read(store: Store, credential_id: int) -> Credential:
    async with store.read() as tx:
        return (await credentials.by_ids(tx, [credential_id]))[credential_id]


def opened(credential: Credential, vault: Vault = VAULT) -> ApiKey:
    assert credential.sealed is not None
    return vault.open(credential.sealed, credential.place)


async def test_a_key_is_kept_sealed_for_its_place(store: Store) -> None:
    added = await add(store)
    assert opened(await read(store, added.id)) == FIRST
    assert (added.user, added.venue, added.label, added.version) == ("ann", "kraken", "main", 1)
    assert (added.live, added.status, added.facts) == (True, CredentialStatus.ACTIVE, FACTS)
    assert added.checked_at is not None
    assert "first-" not in repr(added)


async def test_there_is_one_active_key_per_user_and_venue(store: Store) -> None:
    await add(store)
    await add(store, venue="binance")
    await add(store, user="bob")
    with pytest.raises(Refused, match="ann has a key for kraken already"):
        await add(store)


async def test_an_unknown_user_has_no_key(store: Store) -> None:
    new = NewCredential(user="nobody", venue="kraken", facts={})
    with pytest.raises(Refused, match="there is no user named 'nobody'"):
        async with store.begin() as tx:
            await changes.add(tx, new, sealing(FIRST))
    with pytest.raises(Refused, match="there is no user named 'nobody'"):
        async with store.read() as tx:
            await credentials.required(tx, "nobody", "kraken")


async def test_two_who_add_at_once_leave_one_key(postgres_store: Store) -> None:
    async with postgres_store.begin() as tx:
        await users.add(tx, "ann")
    done = await asyncio.gather(*(add(postgres_store) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(one, Credential) for one in done) == 1
    assert sum(isinstance(one, Refused) for one in done) == 3


async def test_a_sealed_key_copied_to_another_user_does_not_open(store: Store) -> None:
    mine, theirs = await add(store), await add(store, user="bob")
    assert mine.sealed is not None
    async with store.begin() as tx:
        await changes.rewrapped(tx, theirs.id, mine.sealed)
    with pytest.raises(CredentialRefused, match="does not open"):
        opened(await read(store, theirs.id))


async def test_a_replaced_key_stays_for_its_orders_which_are_asked_for_with_the_new_one(
    store: Store,
) -> None:
    old = await add(store)
    await an_order(store, old)
    async with store.begin() as tx:
        new = await changes.replace(tx, old, sealing(SECOND), facts={})
    assert (new.version, new.label, new.live) == (2, "main", True)
    assert opened(new) == SECOND
    async with store.begin() as tx:
        assert await changes.forget_retired(tx) == 0
        assert await credentials.usable(tx, old.id) == await credentials.usable(tx, new.id) == new
        assert await credentials.active(tx, "ann", "kraken") == new
    retired = await read(store, old.id)
    assert (retired.status, opened(retired)) == (CredentialStatus.RETIRED, FIRST)


async def test_who_replaces_what_was_replaced_meanwhile_is_told(store: Store) -> None:
    old = await add(store)
    async with store.begin() as tx:
        await changes.replace(tx, old, sealing(SECOND), facts={})
    with pytest.raises(Refused, match="changed meanwhile"):
        async with store.begin() as tx:
            await changes.replace(tx, old, sealing(SECOND), facts={})


@pytest.mark.parametrize(
    ("status", "age", "forgotten"),
    [
        (OrderStatus.UNKNOWN, timedelta(days=30), 0),
        (OrderStatus.NOT_PLACED, timedelta(hours=24), 0),
        (OrderStatus.NOT_PLACED, timedelta(hours=26), 1),
        (OrderStatus.FILLED, timedelta(), 1),
    ],
)
async def test_the_secret_of_a_replaced_key_goes_when_no_order_is_looked_for_with_it(
    store: Store, status: OrderStatus, age: timedelta, forgotten: int
) -> None:
    old = await add(store)
    await an_order(store, old, status=status, settled_at=datetime.now(UTC) - age)
    async with store.begin() as tx:
        await changes.replace(tx, old, sealing(SECOND), facts={})
        assert await changes.forget_retired(tx) == forgotten
    assert ((await read(store, old.id)).sealed is None) == bool(forgotten)


@pytest.mark.parametrize(("shard", "kept"), [(0, False), (1, True)])
async def test_the_worker_of_the_first_shard_forgets_what_was_retired(
    store: Store, shard: int, kept: bool
) -> None:
    old = await add(store)
    async with store.begin() as tx:
        await changes.replace(tx, old, sealing(SECOND), facts={})
    await Cleaning(store, shards=lambda: frozenset({shard}), outbox_keep_secs=0).clean()
    assert ((await read(store, old.id)).sealed is not None) == kept


async def test_a_removed_key_leaves_its_row_without_a_secret(store: Store) -> None:
    first = await add(store)
    async with store.begin() as tx:
        second = await changes.replace(tx, first, sealing(SECOND), facts={})
        await changes.remove(tx, second)
        assert await credentials.usable(tx, first.id) is None
        assert await credentials.active(tx, "ann", "kraken") is None
    for credential_id in (first.id, second.id):
        left = await read(store, credential_id)
        assert (left.sealed, left.status, left.live) == (None, CredentialStatus.RETIRED, False)
    again = await add(store)
    assert again.version == 3
    assert opened(again) == FIRST


async def test_a_key_is_not_removed_under_what_is_real_and_open(store: Store) -> None:
    credential = await add(store)
    await a_position(store, credential, Mode.LIVE)
    await an_order(store, credential)
    with pytest.raises(Refused, match="1 unclosed live positions and 1 unsettled live orders"):
        async with store.begin() as tx:
            await changes.remove(tx, credential)
    assert opened(await read(store, credential.id)) == FIRST


async def test_a_key_of_nobody_knows_which_account_waits_for_what_is_open(store: Store) -> None:
    credential = await add(store)
    async with store.begin() as tx:
        await changes.require_nothing_open(tx, credential)
    await a_position(store, credential, Mode.LIVE)
    with pytest.raises(Refused, match="does not tell which account"):
        async with store.begin() as tx:
            await changes.require_nothing_open(tx, credential)


async def test_paper_and_other_venues_do_not_keep_a_key(store: Store) -> None:
    kraken, binance = await add(store), await add(store, venue="binance")
    await a_position(store, kraken, Mode.PAPER)
    await an_order(store, kraken)
    async with store.begin() as tx:
        await changes.remove(tx, binance)
        with pytest.raises(Refused, match="0 unclosed live positions and 1 unsettled"):
            await changes.remove(tx, kraken)


async def test_workers_hear_of_every_change_to_a_key(store: Store) -> None:
    credential, bot_id = await add(store), await a_bot(store)
    feed = ChangeFeed()
    async with store.read() as tx:
        await feed.start(tx)

    async def heard() -> bool:
        async with store.read() as tx:
            return bot_id in (await feed.poll(tx)).bot_ids

    assert not await heard()
    async with store.begin() as tx:
        assert await credentials.set_trouble(tx, credential.id, "revoked")
    assert await heard()
    async with store.begin() as tx:
        assert not await credentials.set_trouble(tx, credential.id, "revoked")
    assert not await heard()
    async with store.begin() as tx:
        await changes.change(tx, credential.id, live=False)
    assert await heard()
    async with store.begin() as tx:
        new = await changes.replace(tx, credential, sealing(SECOND), facts={})
    assert await heard()
    async with store.begin() as tx:
        await changes.remove(tx, new)
    assert await heard()


async def test_trouble_is_listed_for_the_shards_of_the_users_bots(store: Store) -> None:
    credential, _ = await add(store), await a_bot(store)
    await add(store, user="bob")
    everywhere = range(256)
    async with store.begin() as tx:
        await credentials.set_trouble(tx, credential.id, "revoked")
        assert await credentials.in_trouble(tx, everywhere) == {credential.id: "revoked"}
        assert await credentials.in_trouble(tx, []) == {}
        await credentials.set_trouble(tx, credential.id, None)
        assert await credentials.in_trouble(tx, everywhere) == {}


async def test_trouble_ends_with_the_key_that_had_it(store: Store) -> None:
    old, _ = await add(store), await a_bot(store)
    async with store.begin() as tx:
        await credentials.set_trouble(tx, old.id, "revoked")
        new = await changes.replace(tx, old, sealing(SECOND), facts={})
        assert new.trouble is None
        assert not await credentials.set_trouble(tx, old.id, "an answer that was on its way")
    assert (await read(store, new.id)).trouble is None
    assert (await read(store, old.id)).trouble is None


async def test_only_what_is_given_changes(store: Store) -> None:
    credential = await add(store)
    async with store.begin() as tx:
        priced = await changes.change(tx, credential.id, taker_fee=Decimal("0.0026"))
        assert (priced.live, priced.taker_fee) == (True, Decimal("0.0026"))
        silent = await changes.change(tx, credential.id, live=False)
        assert (silent.live, silent.taker_fee) == (False, Decimal("0.0026"))
        assert (await changes.change(tx, credential.id, default_taker_fee=True)).taker_fee is None


async def test_pages_go_by_id_and_filter(store: Store) -> None:
    added = [await add(store, user, venue) for user, venue in _OWNERS]

    async def ids(which: CredentialFilter, **more: int) -> Sequence[int]:
        async with store.read() as tx:
            return [one.id for one in await credentials.page(tx, which, limit=2, **more)]

    everything = credentials.EVERY_CREDENTIAL
    assert await ids(everything) == [added[0].id, added[1].id]
    assert await ids(everything, after=added[1].id) == [added[2].id]
    assert await ids(CredentialFilter(user="bob")) == [added[2].id]
    assert await ids(CredentialFilter(venue="binance")) == [added[1].id]
    assert await ids(CredentialFilter(status=CredentialStatus.RETIRED)) == []


_OWNERS = (("ann", "kraken"), ("ann", "binance"), ("bob", "kraken"))


async def test_all_keys_move_under_the_newest_master_key_in_batches(store: Store) -> None:
    added = [await add(store, user, venue) for user, venue in _OWNERS]
    both = Vault(parse_master_keys(f"{NEW_LINE}\n{OLD_LINE}", "test"))
    moved, after = 0, 0
    while True:
        async with store.begin() as tx:
            batch = await changes.to_rewrap(tx, both.newest, limit=2, after=after)
            for credential in batch:
                assert credential.sealed is not None
                sealed = both.rewrap(credential.sealed, credential.place)
                await changes.rewrapped(tx, credential.id, sealed)
        if not batch:
            break
        moved, after = moved + len(batch), batch[-1].id
    assert moved == 3
    alone = Vault(parse_master_keys(NEW_LINE, "test"))
    for credential in added:
        assert opened(await read(store, credential.id), alone) == FIRST


async def test_a_row_without_facts_is_read(store: Store) -> None:
    credential = await add(store)
    async with store.begin() as tx:
        await tx.execute(update(table).values(facts=None))
    assert (await read(store, credential.id)).facts == {}
