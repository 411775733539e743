"""The worker's keys: opened when needed, and which of them are in trouble, written down."""

import pytest

from shared.errors import CredentialRefused, StoreUnavailable, VenueUnavailable
from shared.store import credential_changes as changes
from shared.store import credentials
from shared.store.engine import Store
from shared.vault import Vault, new_master_key, parse_master_keys
from tests.integration.test_store_credentials import FIRST, SECOND, VAULT, a_bot, add, read, sealing
from tests.integration.unreliable_store import Trouble, UnreliableStore
from trade_worker.key_ring import KeyRing

SHARDS = range(256)


async def trouble_of(store: Store, credential_id: int) -> str | None:
    return (await read(store, credential_id)).trouble


async def test_a_key_opens_with_its_venue(postgres_store: Store) -> None:
    credential = await add(postgres_store)
    opened = await KeyRing(postgres_store, VAULT).open(credential.id)
    assert (opened.venue, opened.key) == ("kraken", FIRST)


async def test_orders_of_a_replaced_key_go_by_its_successor(postgres_store: Store) -> None:
    old = await add(postgres_store)
    async with postgres_store.begin() as tx:
        await changes.replace(tx, old, sealing(SECOND), facts={})
    assert (await KeyRing(postgres_store, VAULT).open(old.id)).key == SECOND


async def test_a_key_that_cannot_be_opened_says_why(postgres_store: Store) -> None:
    credential = await add(postgres_store)
    other = Vault(parse_master_keys(new_master_key(), "test"))
    with pytest.raises(CredentialRefused, match="BOTFLEET_VAULT_KEY_FILE"):
        await KeyRing(postgres_store, None).open(credential.id)
    with pytest.raises(CredentialRefused, match="which is not among"):
        await KeyRing(postgres_store, other).open(credential.id)
    async with postgres_store.begin() as tx:
        await changes.remove(tx, credential)
    with pytest.raises(CredentialRefused, match="was removed"):
        await KeyRing(postgres_store, VAULT).open(credential.id)


async def test_trouble_is_written_once_and_ends_when_the_key_works(postgres_store: Store) -> None:
    credential = await add(postgres_store)
    ring = KeyRing(postgres_store, VAULT)
    ring.refused(credential.id, "EAPI:Invalid key")
    assert ring.in_trouble == 1
    await ring.write_news()
    assert await trouble_of(postgres_store, credential.id) == "EAPI:Invalid key"
    ring.answered(credential.id)
    await ring.write_news()
    assert await trouble_of(postgres_store, credential.id) is None
    assert ring.in_trouble == 0


async def test_trouble_that_another_worker_wrote_ends_too(postgres_store: Store) -> None:
    credential = await add(postgres_store)
    async with postgres_store.begin() as tx:
        await credentials.set_trouble(tx, credential.id, "revoked")
    ring = KeyRing(postgres_store, VAULT)
    await ring.open(credential.id)
    ring.answered(credential.id)
    await ring.write_news()
    assert await trouble_of(postgres_store, credential.id) is None


async def test_news_waits_for_a_database_that_is_away(postgres_store: Store) -> None:
    credential = await add(postgres_store)
    store = UnreliableStore(postgres_store)
    ring = KeyRing(store, VAULT)
    ring.refused(credential.id, "revoked")
    store.troubles.append(Trouble.AWAY)
    with pytest.raises(StoreUnavailable):
        await ring.write_news()
    await ring.write_news()
    assert await trouble_of(postgres_store, credential.id) == "revoked"


@pytest.mark.parametrize(
    ("outcome", "left"),
    [
        (None, None),
        (CredentialRefused("still revoked"), "still revoked"),
        (VenueUnavailable("is away"), "revoked"),
    ],
)
async def test_a_key_in_trouble_is_tried_until_it_works(
    postgres_store: Store, outcome: Exception | None, left: str | None
) -> None:
    credential, _ = await add(postgres_store), await a_bot(postgres_store)
    async with postgres_store.begin() as tx:
        await credentials.set_trouble(tx, credential.id, "revoked")
    tried = []

    async def attempt(credential_id: int) -> None:
        tried.append(credential_id)
        if outcome is not None:
            raise outcome

    ring = KeyRing(postgres_store, VAULT)
    await ring.try_again(SHARDS, attempt)
    await ring.write_news()
    assert tried == [credential.id]
    assert await trouble_of(postgres_store, credential.id) == left
